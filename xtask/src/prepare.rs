// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `fuzz`, `run`, `repro`, `bench` and `test` have in common: from options to a machine that can be started, and
//! how long each step took.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use harness::{
    det::Limits,
    guest::{Execution, Leaks},
    pool::{Pool, PoolConfig},
    program::Schedule,
    snapshot,
};

use crate::{
    accel::{self, Accel, AccelChoice},
    exit::Bug,
    guest::{self, Machine, Recipe, Shape},
    kernel::{self, BuildRequest, Trust},
    matrix,
    paths::{self, Cache},
    setup,
    tools::Need,
};

/// The instance to use when none is named.
pub const INSTANCE: &str = "kasan-6.12";

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Deterministic, unless KVM really works.
    Auto,
    /// Deterministic: one host thread a guest, findings replay exactly.
    Det,
    /// Parallel: KVM where it works, else multi-threaded TCG.
    Par,
}

/// Which machine, in the words of the command line.
#[derive(Clone, Debug, Args)]
pub struct MachineArgs {
    /// Kernel instance of kconfigs/matrix.yaml
    #[arg(long, default_value = INSTANCE)]
    pub instance: String,
    /// Kernel tree to build in place of the instance's own source; never modified
    #[arg(long, value_name = "DIR")]
    pub linux: Option<PathBuf>,
    /// Patch to apply, mbox or diff; repeatable
    #[arg(long, value_name = "FILE")]
    pub patch: Vec<PathBuf>,
    /// Extra kernel boot arguments
    #[arg(long, value_name = "ARGS", default_value = "")]
    pub append: String,
    /// Engine
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    pub engine: Engine,
    /// Acceleration of the parallel engine
    #[arg(long, value_enum, default_value_t = AccelChoice::Auto)]
    pub accel: AccelChoice,
    /// Guests side by side [default: one a core; the parallel engine: half of that]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Whose patches they are.
    #[arg(skip)]
    pub trust: Trust,
}

/// A machine, the engine to run it on, and what it cost to get here.
pub struct Prepared {
    /// The cache.
    pub cache: Cache,
    /// The machine.
    pub machine: Machine,
    /// Engine.
    pub execution: Execution,
    /// Guests side by side.
    pub jobs: usize,
    /// Folder of snapshots.
    pub snapshots: PathBuf,
    /// Wall time by step.
    pub phases: Vec<(&'static str, Duration)>,
}

/// Installs what is missing, builds kernel and guest, picks the engine.
///
/// # Errors
/// As the steps.
pub fn prepare(args: &MachineArgs) -> Result<Prepared> {
    let cache = Cache::open()?;
    let mut phases = Vec::new();
    let mut clock = Instant::now();
    let mut lap = |name, clock: &mut Instant| {
        phases.push((name, clock.elapsed()));
        *clock = Instant::now();
    };
    let instance = matrix::instance(&args.instance)?;
    setup::ensure(&cache, &[Need::Kernel, Need::Vm])?;
    lap("set-up", &mut clock);
    let request = BuildRequest {
        instance: &instance,
        linux: args.linux.as_deref(),
        patches: &args.patch,
        trust: args.trust,
    };
    let kernel = kernel::build(&cache, &request)?;
    lap("kernel", &mut clock);
    let append = [instance.append.join(" "), args.append.clone()].join(" ").trim().to_owned();
    let shape = Shape { append, memory_mib: instance.memory_mib, numa_nodes: instance.numa_nodes.into() };
    let recipe = Recipe {
        instance: instance.name.clone(),
        append: args.append.clone(),
        linux: args.linux.as_deref().map(std::path::absolute).transpose()?,
        patches: args.patch.iter().map(|patch| keep_patch(&cache, patch)).collect::<Result<_>>()?,
    };
    let machine = guest::machine(&cache, &kernel, &shape, recipe)?;
    lap("guest modules", &mut clock);
    let execution = execution(&cache, args.engine, args.accel)?;
    lap("acceleration probe", &mut clock);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // A deterministic guest is one host thread; a parallel one wants at least two.
    let default_jobs = if execution == Execution::Deterministic { cores } else { (cores / 2).max(1) };
    let jobs = args.jobs.unwrap_or(default_jobs).max(1);
    let snapshots = cache.dir("snapshots")?;
    Ok(Prepared { cache, machine, execution, jobs, snapshots, phases })
}

impl Prepared {
    /// Boots the machine once for each schedule and keeps the snapshots; those that are kept already cost nothing.
    ///
    /// # Errors
    /// When a guest does not get ready.
    pub fn boot(&mut self, schedules: &[Schedule], leaks: Leaks) -> Result<()> {
        let clock = Instant::now();
        let (guest, snapshots) = (&self.machine.config, &self.snapshots);
        let results: Vec<_> = std::thread::scope(|scope| {
            let boots: Vec<_> = schedules
                .iter()
                .map(|schedule| scope.spawn(|| snapshot::open(guest, *schedule, leaks, snapshots)))
                .collect();
            boots.into_iter().map(|boot| boot.join()).collect()
        });
        for result in results {
            result.map_err(|_| Bug("a boot panicked".into()))?.context("the guest does not boot")?;
        }
        self.phases.push(("boot", clock.elapsed()));
        Ok(())
    }

    /// A pool of guests of this machine.
    ///
    /// # Errors
    /// When the folder for running machines cannot be made.
    pub fn pool(&self) -> Result<Pool> {
        pool(&self.machine, self.execution, self.jobs, &self.snapshots)
    }
}

/// A pool of guests.
///
/// # Errors
/// When the folder for running machines cannot be made.
pub fn pool(machine: &Machine, execution: Execution, jobs: usize, snapshots: &Path) -> Result<Pool> {
    let config = PoolConfig {
        guest: machine.config.clone(),
        execution,
        jobs,
        limits: Limits::default(),
        snapshots: snapshots.to_owned(),
    };
    Pool::new(config).context("cannot make a folder for running machines")
}

/// What an engine choice means on this machine.
///
/// # Errors
/// When KVM was asked for and does not work.
pub fn execution(cache: &Cache, engine: Engine, accel: AccelChoice) -> Result<Execution> {
    let parallel = |accel| if accel == Accel::Kvm { Execution::Kvm } else { Execution::Threads };
    if engine == Engine::Det {
        return Ok(Execution::Deterministic);
    }
    let answer = accel::choose(cache, accel)?;
    eprintln!("acceleration: {}", answer.explanation);
    let accel = answer.accel;
    Ok(match engine {
        Engine::Par => parallel(accel),
        _ if accel == Accel::Kvm => Execution::Kvm,
        _ => Execution::Deterministic,
    })
}

/// Copies a patch into the cache, named by content, so that a finding can name it for good.
pub fn keep_patch(cache: &Cache, patch: &Path) -> Result<PathBuf> {
    let content = std::fs::read(patch).with_context(|| format!("cannot read {}", patch.display()))?;
    let name = format!("{}.patch", &blake3::hash(&content).to_hex()[..16]);
    let kept = cache.dir("patches")?.join(name);
    if !kept.exists() {
        paths::write_whole(&kept, &content)?;
    }
    Ok(kept)
}

/// The phases as one line for a summary.
pub fn phases_text(phases: &[(&'static str, Duration)]) -> String {
    let texts: Vec<String> =
        phases.iter().map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64())).collect();
    texts.join(", ")
}
