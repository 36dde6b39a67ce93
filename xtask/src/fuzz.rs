// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz`: the main job. Does all its own set-up, fuzzes, prints a line a second and a summary.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ::fuzz::{
    config::{BatchSize, CampaignConfig, Focus, LeakScan, Reduce},
    corpus,
    guests::{Guests, Provenance},
    report,
    status::{CampaignEnd, Event, Summary},
};
use abi::layout::canary;
use anyhow::{Context, Result};
use clap::Args;
use harness::{
    epoch::{Epoch, EpochOutcome},
    guest::{Execution, Leaks},
    machine::MachineError,
    oracle::{self, Report},
    pool::Pool,
    program::{Program, Schedule},
    symbolize::{self, Symbolizer},
};

use crate::{
    exit::{Exit, Outcome},
    guest::Machine,
    known::{self, Known},
    paths,
    prepare::{self, MachineArgs, Prepared},
    usage,
};

/// Wall time an epoch aims at: long against the half second it takes to start one.
const EPOCH_AIM: Duration = Duration::from_secs(6);
/// Programs of the corpus that are run together once more, with a scan for leaked memory.
pub const LEAK_SCAN: LeakScan = LeakScan::Corpus(96);
/// Share of a deterministic campaign's programs that walk the schedules of promising ones.
pub const WALK_PROB: f64 = 0.2;
/// Schedules a deterministic campaign mixes.
pub const SCHEDULES: [Schedule; 2] = [Schedule { vcpus: 4, shift: 1 }, Schedule { vcpus: 2, shift: 2 }];

/// Options of `fuzz`.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// How long to fuzz, e.g. 90s, 5m, 8h; 0 for no end
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    time: Duration,
    /// End after so many programs, those before a resume included
    #[arg(long, value_name = "N")]
    execs: Option<u64>,
    /// Seed of every choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Arm a canary: use-after-free, double-free, lock-inversion, atomic-sleep, hang, leak
    #[arg(long, value_name = "KIND")]
    canary: Option<String>,
    /// Campaign folder; resumed when it exists [default: campaign/INSTANCE, or a folder of its own for patched,
    /// canary and special-boot campaigns]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Begin anew: the old campaign folder is moved aside
    #[arg(long)]
    fresh: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// When the machine cannot be made ready or the campaign folder cannot be used.
pub fn run(args: &FuzzArgs) -> Outcome {
    let canary = args.canary.as_deref().map(canary_kind).transpose()?.unwrap_or(0);
    let mut prepared = prepare::prepare(&args.machine)?;
    let dir = args.dir.clone().unwrap_or_else(|| default_dir(args));
    if args.fresh {
        move_aside(&dir)?;
    }
    let stop = stop_on_signal()?;
    let plan = Plan {
        dir: dir.clone(),
        seed: args.seed,
        time_max: (!args.time.is_zero()).then_some(args.time),
        execs_max: args.execs,
        canary,
        leak_scan: if canary == canary::LEAK { LeakScan::Every } else { LEAK_SCAN },
        walk_prob: WALK_PROB,
        reduce: Reduce::Program,
        seeds: None,
        focus: Focus::default(),
        steady: false,
        one_schedule: false,
    };
    boot(&mut prepared, &plan)?;
    announce(&prepared, &dir, args);
    let summary = campaign(&prepared, plan, &stop, &mut print_event)?;
    Ok(finish(&prepared, &summary))
}

/// Everything that a campaign's course depends on, its machine excepted.
///
/// # Errors
/// When a folder cannot be read.
pub fn sources() -> Result<Vec<PathBuf>> {
    let root = paths::repo_root();
    let mut files =
        ["Cargo.lock", "xtask/src/fuzz.rs", "kconfigs/known.yaml"].map(|file| root.join(file)).to_vec();
    for dir in ["fuzz", "harness"] {
        files.extend(paths::files_below(&root.join(dir), |_| true)?);
    }
    Ok(files)
}

/// A campaign as commands order it.
pub struct Plan {
    /// Its folder.
    pub dir: PathBuf,
    /// Seed of every choice.
    pub seed: u64,
    /// Wall time it may take.
    pub time_max: Option<Duration>,
    /// Programs it may execute.
    pub execs_max: Option<u64>,
    /// A canary kind to arm; 0: none.
    pub canary: u32,
    /// Which epochs end with a scan for leaked memory.
    pub leak_scan: LeakScan,
    /// Share of programs that walk schedules, where the engine replays.
    pub walk_prob: f64,
    /// How far findings are made smaller, where the engine replays.
    pub reduce: Reduce,
    /// Programs to begin with; none: those that every campaign begins with.
    pub seeds: Option<Vec<Program>>,
    /// What it is about.
    pub focus: Focus,
    /// Where the campaign is to be the same on every host.
    pub steady: bool,
    /// Only the first of [`SCHEDULES`]: another is another guest to boot.
    pub one_schedule: bool,
}

/// Programs of an epoch, and guests that it is as if there were, of a campaign that is the same on every host.
const STEADY: (BatchSize, usize) = (BatchSize::Fixed(16), 2);

/// Schedules that programs may have on a machine.
fn schedules(prepared: &Prepared, plan: &Plan) -> &'static [Schedule] {
    let is_one = plan.one_schedule || prepared.execution != Execution::Deterministic;
    if is_one { &SCHEDULES[..1] } else { &SCHEDULES }
}

/// Boots what the first epochs start from, of as many schedules as guests can be booted side by side; the others boot when
/// they are needed.
///
/// # Errors
/// When a guest does not get ready.
pub fn boot(prepared: &mut Prepared, plan: &Plan) -> Result<()> {
    if prepared.execution != Execution::Deterministic {
        return Ok(());
    }
    let leaks = if plan.canary == canary::LEAK { Leaks::Track } else { Leaks::Ignore };
    let schedules = schedules(prepared, plan);
    let n_first = prepared.jobs.min(schedules.len());
    prepared.boot(&schedules[..n_first], leaks).or_else(|error| match error.downcast_ref() {
        // The kernel's own words for why it does not boot are a finding: the campaign meets and stores it.
        Some(MachineError::NotReady { console, .. }) if !oracle::judge(console).is_empty() => {
            eprintln!("warning: {error:#}");
            Ok(())
        }
        _ => Err(error),
    })
}

/// Runs a campaign on a machine until it ends or `stop` is set.
///
/// # Errors
/// When the campaign folder cannot be used.
pub fn campaign(
    prepared: &Prepared,
    plan: Plan,
    stop: &AtomicBool,
    events: &mut dyn FnMut(Event),
) -> Result<Summary> {
    let mut guests = PoolGuests { pool: prepared.pool()?, machine: prepared.machine.clone() };
    let judge = |console: &[u8]| oracle::judge(console);
    let annotate = annotator(&prepared.machine);
    let known = known::load(&prepared.machine.recipe.instance)?;
    let why_known = |report: &Report, console: &[u8]| {
        let of_title = known.iter().filter(|known| known.title == report.title);
        let mut text = None;
        let mut holds = |known: &&Known| {
            known.contains.iter().all(|part| {
                text.get_or_insert_with(|| report::excerpt(report, console, &annotate)).contains(part)
            })
        };
        of_title.filter(|known| holds(known)).map(|known| known.why.clone()).next()
    };
    let replays = prepared.execution == Execution::Deterministic;
    let (batch, jobs) = if plan.steady { STEADY } else { (BatchSize::Aim(EPOCH_AIM), prepared.jobs) };
    let schedules = schedules(prepared, &plan).to_vec();
    let seeds = plan.seeds.map_or_else(corpus::seeds, Ok)?;
    let config = CampaignConfig {
        dir: plan.dir,
        instance: prepared.machine.recipe.instance.clone(),
        seed: plan.seed,
        time_max: plan.time_max,
        execs_max: plan.execs_max,
        stop,
        schedules,
        jobs,
        batch,
        seeds,
        focus: plan.focus,
        canary: plan.canary,
        leak_scan: plan.leak_scan,
        // Where a preemption point is an instruction, walking over them is worth it.
        walk_prob: if replays { plan.walk_prob } else { 0.0 },
        reduce: if replays { plan.reduce } else { Reduce::Never },
        judge: &judge,
        known: &why_known,
        annotate: &annotate,
    };
    ::fuzz::run(config, &mut guests, events)
}

/// Adds source lines to reports of a machine. Its symbols are opened at the first: a campaign without one needs none.
pub fn annotator(machine: &Machine) -> impl Fn(&str) -> String {
    let symbolizer = std::cell::OnceCell::new();
    move |text| match symbolizer.get_or_init(|| symbols(machine)) {
        Some(symbolizer) => symbolize::annotate(text, symbolizer),
        None => text.to_owned(),
    }
}

/// Symbols of a machine, if its kernel has any.
pub fn symbols(machine: &Machine) -> Option<Symbolizer> {
    Symbolizer::new(&machine.vmlinux, &machine.modules, paths::symbols().as_deref())
        .inspect_err(|error| eprintln!("warning: reports have no source lines: {error}"))
        .ok()
}

/// A flag that Ctrl-C, SIGTERM or SIGHUP sets. A second signal ends the process at once, unless it comes so soon that it
/// is the same one, sent to us and to a parent that hands it on.
pub fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let mut first: Option<Instant> = None;
    ctrlc::set_handler(move || {
        flag.store(true, Ordering::SeqCst);
        let at = *first.get_or_insert_with(Instant::now);
        if at.elapsed() > Duration::from_secs(1) {
            std::process::exit(130);
        }
    })
    .context("cannot handle Ctrl-C")?;
    Ok(stop)
}

/// The number of a canary by its name.
///
/// # Errors
/// When there is none of that name; says which there are.
pub fn canary_kind(name: &str) -> Result<u32> {
    canary::NAMES
        .iter()
        .position(|known| *known == name)
        .map(|idx| idx as u32 + 1)
        .ok_or_else(|| usage!("no canary is called `{name}`; there are {}", canary::NAMES.join(", ")))
}

/// One folder for each kind of campaign, so that none resumes another's corpus and findings.
fn default_dir(args: &FuzzArgs) -> PathBuf {
    let machine = &args.machine;
    let mut name = machine.instance.clone();
    let special = (&machine.linux, &machine.patch, &machine.append, &args.canary);
    if special != (&None, &Vec::new(), &String::new(), &None) {
        let hash = blake3::hash(format!("{special:?}").as_bytes()).to_hex();
        name = format!(
            "{name}-{}{}",
            args.canary.as_deref().map_or(String::new(), |c| format!("{c}-")),
            &hash[..8]
        );
    }
    if machine.engine == prepare::Engine::Par {
        name.push_str("-par");
    }
    PathBuf::from("campaign").join(name)
}

fn move_aside(dir: &PathBuf) -> Result<()> {
    let aside = (1..).map(|n| dir.with_extension(format!("old{n}"))).find(|aside| !aside.exists());
    match (dir.exists(), aside) {
        (true, Some(aside)) => {
            std::fs::rename(dir, &aside).with_context(|| format!("cannot move {} aside", dir.display()))
        }
        _ => Ok(()),
    }
}

fn announce(prepared: &Prepared, dir: &std::path::Path, args: &FuzzArgs) {
    let engine = match prepared.execution {
        Execution::Deterministic => "deterministic (TCG, icount)",
        Execution::Threads => "parallel (multi-threaded TCG)",
        Execution::Kvm => "parallel (KVM)",
    };
    println!(
        "fuzzing {}: seed {}, {} guest(s), {engine}, {}",
        args.machine.instance,
        args.seed,
        prepared.jobs,
        dir.display()
    );
    println!("ready after: {}", prepare::phases_text(&prepared.phases));
}

fn print_event(event: Event) {
    match event {
        Event::Status(status) => println!("{status}"),
        Event::NewFinding(note) => println!("FINDING {} -> {}", note.title, note.dir.display()),
        Event::Known(note) => println!(
            "known: {} ({}) -> {}",
            note.title,
            note.known.as_deref().unwrap_or_default(),
            note.dir.display()
        ),
        Event::Reduced(note) => {
            println!("reduced to {} program(s): {} -> {}", note.n_programs, note.title, note.dir.display());
        }
        Event::NotAgain(note) => {
            println!("did not show again: {} -> {}", note.title, note.dir.display());
        }
        Event::Minimized(note) => {
            println!("minimised to {} op(s): {} -> {}", note.n_ops, note.title, note.dir.display());
        }
        Event::Infrastructure { end, in_a_row } => eprintln!("infrastructure ({in_a_row} in a row): {end:?}"),
        Event::Warning(text) => eprintln!("warning: {text}"),
    }
}

fn finish(prepared: &Prepared, summary: &Summary) -> Exit {
    println!("\n{}", summary.status);
    println!("before fuzzing: {}", prepare::phases_text(&prepared.phases));
    println!("fuzzing: {}", prepare::phases_text(&summary.phases));
    for note in &summary.findings {
        println!(
            "{:>5}x {} (first after {} s, {} programs)\n       cargo xtask repro {}",
            note.count,
            note.title,
            note.first_seen.as_secs(),
            note.execs,
            note.dir.display()
        );
    }
    for note in &summary.known {
        println!("{:>5}x {} (known: kconfigs/known.yaml)", note.count, note.title);
    }
    if summary.findings.is_empty() {
        println!("no findings");
    }
    match summary.end {
        CampaignEnd::Infrastructure => Exit::Infra,
        _ if !summary.findings.is_empty() => Exit::Finding,
        _ => Exit::Pass,
    }
}

/// The pool as the campaign wants it.
pub struct PoolGuests {
    /// The guests.
    pub pool: Pool,
    /// What they are.
    pub machine: Machine,
}

impl Guests for PoolGuests {
    fn submit(&mut self, epoch: Epoch) -> Result<u64> {
        Ok(self.pool.submit(epoch))
    }

    fn answer(&mut self, number: u64, wait: Duration) -> Result<Option<EpochOutcome>> {
        Ok(self.pool.take(number, wait))
    }

    fn cancel(&mut self) {
        self.pool.cancel();
    }

    fn provenance(&self, schedule: Schedule, leaks: Leaks) -> Provenance {
        let execution = self.pool.config().execution;
        // A failure shows when the epoch is run; here it only means that there is nothing to name.
        let snapshot = (execution == Execution::Deterministic)
            .then(|| self.pool.snapshot(schedule, leaks).ok())
            .flatten()
            .map(|snapshot| snapshot.manifest.id);
        provenance(&self.machine, execution, snapshot, leaks)
    }

    fn kernel_config(&self) -> Option<String> {
        self.machine.kernel_config()
    }
}

/// What guests of a machine are.
pub fn provenance(
    machine: &Machine,
    execution: Execution,
    snapshot: Option<String>,
    leaks: Leaks,
) -> Provenance {
    Provenance {
        instance: machine.recipe.instance.clone(),
        engine: if execution == Execution::Deterministic { "det" } else { "par" }.to_owned(),
        qemu_version: machine.config.qemu_version.clone(),
        artifacts: machine.artifacts.clone(),
        boot_arguments: harness::guest::append(&machine.config, execution, leaks),
        snapshot,
        extra: recipe(machine),
    }
}

/// How the machine was made, for a machine that does not have it in its cache.
fn recipe(machine: &Machine) -> BTreeMap<String, String> {
    let recipe = &machine.recipe;
    let patches: Vec<String> = recipe.patches.iter().map(|patch| patch.display().to_string()).collect();
    let linux = recipe.linux.as_ref().map(|dir| dir.display().to_string());
    [("append", recipe.append.clone()), ("linux", linux.unwrap_or_default()), ("patches", patches.join("\n"))]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
