// SPDX-License-Identifier: MIT OR Apache-2.0
//! A finding run again: on the machine it was made on, each run in a fresh guest. What `repro` and `minimize` share.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ::fuzz::findings::{self, Stored, Verdict};
use anyhow::{Context, Result};
use harness::{
    det::{self, Limits, Snapshot},
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::Execution,
    oracle::{self, Report},
    par::Stream,
    pool::Pool,
    run_dir::RunDir,
};

use crate::{
    accel::AccelChoice,
    guest::{self, Machine},
    paths::Cache,
    prepare::{self, Engine, MachineArgs},
    usage,
};

/// Longest wall time one run may take, waiting for its turn included.
const RUN_LIMIT: Duration = Duration::from_secs(900);

/// A finding and what runs it.
pub struct Rerun {
    /// What is known of it.
    pub stored: Stored,
    /// The machine it was made on, or one made by the same recipe.
    pub machine: Machine,
    /// Guests side by side.
    pub jobs: usize,
    execution: Execution,
    snapshots: PathBuf,
    /// Guests of the deterministic engine; those of the other do not last.
    pool: Option<Pool>,
}

/// What a run showed.
#[derive(Clone, Debug)]
pub enum Showing {
    /// The finding, by its title or another of its names.
    Same(Box<Report>),
    /// Another bug.
    Other(Box<Report>),
    /// No report.
    None,
    /// Nothing, for a reason that is not the kernel's.
    Infrastructure(String),
}

impl Rerun {
    /// Reads a finding and makes its machine ready. `jobs`: guests side by side, by default one a core; the parallel engine
    /// runs one at a time.
    ///
    /// # Errors
    /// When the folder is no finding or its machine cannot be made again.
    pub fn open(folder: &Path, jobs: Option<usize>) -> Result<Rerun> {
        if !folder.join("verdict.yaml").exists() {
            return Err(usage!("{} is no finding: it has no verdict.yaml", folder.display()));
        }
        let stored = findings::load(folder)?;
        let cache = Cache::open()?;
        let machine = machine_of(&cache, &stored)?;
        let execution = match stored.record.provenance.engine == "det" {
            true => Execution::Deterministic,
            false => prepare::execution(&cache, Engine::Par, AccelChoice::Auto)?,
        };
        let snapshots = cache.dir("snapshots")?;
        let is_deterministic = execution == Execution::Deterministic;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = if is_deterministic { jobs.unwrap_or(cores).max(1) } else { 1 };
        let mut rerun = Rerun { stored, machine, jobs, execution, snapshots, pool: None };
        if is_deterministic && !rerun.stored.batch.is_empty() {
            let pool = rerun.fresh()?;
            check_snapshot(&pool, &rerun.stored)?;
            rerun.pool = Some(pool);
        }
        Ok(rerun)
    }

    /// Whether every run of one epoch is the same.
    pub fn is_deterministic(&self) -> bool {
        self.execution == Execution::Deterministic
    }

    /// Runs epochs, each in a fresh guest; hands over the answers in order, none for one that did not come.
    ///
    /// # Errors
    /// Those of `each`, and when no guest can be had.
    pub fn run(
        &mut self,
        epochs: &[Epoch],
        each: &mut dyn FnMut(usize, Option<EpochOutcome>) -> Result<()>,
    ) -> Result<()> {
        if let Some(pool) = &mut self.pool {
            epochs.iter().for_each(|epoch| pool.submit(epoch.clone()));
            return (0..epochs.len()).try_for_each(|n| each(n, pool.next(RUN_LIMIT)));
        }
        for (n, epoch) in epochs.iter().enumerate() {
            // What an earlier run left behind is not part of the finding.
            let outcome =
                if epoch.programs.is_empty() { self.boot(epoch)? } else { self.fresh()?.run(epoch.clone()) };
            each(n, Some(outcome))?;
        }
        Ok(())
    }

    fn fresh(&self) -> Result<Pool> {
        prepare::pool(&self.machine, self.execution, self.jobs, &self.snapshots)
    }

    /// Shows what needs no program: a boot, to its end.
    fn boot(&self, epoch: &Epoch) -> Result<EpochOutcome> {
        let dir = RunDir::new().context("cannot make a folder for running machines")?;
        let (guest, limits, schedule) =
            (&self.machine.config, Limits::default(), self.stored.record.schedule);
        if self.is_deterministic() {
            return Ok(det::run_from_power_on(guest, schedule, epoch, limits, dir.path()));
        }
        let mut stream = Stream::new(guest.clone(), schedule, self.execution, dir.path().to_owned());
        let outcome = stream.run_epoch(epoch, limits);
        let console = [outcome.boot.as_slice(), &outcome.console].concat();
        Ok(EpochOutcome { console, ..outcome })
    }
}

/// What a run showed of a finding.
pub fn judge(outcome: &EpochOutcome, verdict: &Verdict) -> Showing {
    match &outcome.end {
        EpochEnd::Harness(why) | EpochEnd::Machine(why) => return Showing::Infrastructure(why.clone()),
        EpochEnd::Done | EpochEnd::Kernel | EpochEnd::Deadline | EpochEnd::Lost(_) => {}
    }
    match oracle::judge(&outcome.console).into_iter().next() {
        Some(report) if oracle::share_title(report.titles(), verdict.titles()) => {
            Showing::Same(Box::new(report))
        }
        Some(report) => Showing::Other(Box::new(report)),
        None => Showing::None,
    }
}

/// The very machine the finding was made on, else one made by the same recipe.
fn machine_of(cache: &Cache, stored: &Stored) -> Result<Machine> {
    let provenance = &stored.record.provenance;
    let key = provenance.artifacts.get("machine").context("provenance.yaml names no machine")?;
    match guest::recorded(cache, key) {
        Ok(machine) => Ok(machine),
        Err(why) => {
            eprintln!("machine {key} is not in the cache ({why:#}); building {} anew", provenance.instance);
            let args = MachineArgs {
                instance: provenance.instance.clone(),
                linux: provenance.extra.get("linux").map(PathBuf::from),
                patch: provenance
                    .extra
                    .get("patches")
                    .map(|text| text.lines().map(PathBuf::from).collect())
                    .unwrap_or_default(),
                append: provenance.extra.get("append").cloned().unwrap_or_default(),
                engine: Engine::Auto,
                accel: AccelChoice::Auto,
                jobs: None,
            };
            let machine = prepare::prepare(&args)?.machine;
            if machine.config.key != *key {
                eprintln!(
                    "warning: the machine differs from the finding's ({} against {key})",
                    machine.config.key
                );
            }
            Ok(machine)
        }
    }
}

fn check_snapshot(pool: &Pool, stored: &Stored) -> Result<()> {
    let snapshot: Snapshot = pool.snapshot(stored.record.schedule, stored.epoch().leaks())?;
    let found = stored.record.provenance.snapshot.as_deref().unwrap_or("none");
    if snapshot.manifest.id != found {
        eprintln!(
            "warning: the finding's snapshot {found} is gone; this run starts from its sibling {}, where races may fall \
             differently",
            snapshot.manifest.id
        );
    }
    Ok(())
}
