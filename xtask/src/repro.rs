// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask repro FOLDER`: runs a finding afresh and says k of n, whether it is the same bug, and, under the
//! deterministic engine, whether the consoles were identical.

use std::{collections::HashSet, fs, path::PathBuf, time::Duration};

use ::fuzz::findings::{self, Stored};
use anyhow::{Context, Result};
use clap::Args;
use harness::{
    det::{self, Limits, Snapshot},
    epoch::{EpochEnd, EpochOutcome},
    guest::Execution,
    oracle,
    par::Stream,
    pool::Pool,
    run_dir::RunDir,
};

use crate::{
    accel::AccelChoice,
    exit::{Exit, Outcome},
    guest::{self, Machine},
    paths::Cache,
    prepare::{self, Engine, MachineArgs},
    usage,
};

/// Longest wall time one run may take, waiting for its turn included.
const RUN_LIMIT: Duration = Duration::from_secs(900);

/// Options of `repro`.
#[derive(Debug, Args)]
pub struct ReproArgs {
    /// A finding's folder
    folder: PathBuf,
    /// How often to run it
    #[arg(long, default_value_t = 3)]
    times: u32,
    /// Guests side by side [default: one a core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Write every console that differs from the others into this folder
    #[arg(long, value_name = "DIR")]
    consoles: Option<PathBuf>,
    /// Print one JSON object in place of text
    #[arg(long)]
    json: bool,
}

/// What the runs showed.
#[derive(Debug, Default, serde::Serialize)]
struct Tally {
    /// Runs.
    n_runs: u32,
    /// Runs that showed the finding's title or one of its alternatives.
    n_same: u32,
    /// Runs that showed another bug.
    n_other: u32,
    /// Runs that showed nothing.
    n_none: u32,
    /// Runs that failed for a reason that is not the kernel's.
    n_infrastructure: u32,
    /// Different consoles among the runs.
    n_consoles: usize,
    /// Runs whose console is the stored one, byte for byte.
    n_as_stored: u32,
}

/// Runs the subcommand.
///
/// # Errors
/// When the folder is no finding or its machine cannot be made again.
pub fn run(args: &ReproArgs) -> Outcome {
    let verdict = args.folder.join("verdict.yaml");
    if !verdict.exists() {
        return Err(usage!("{} is no finding: it has no verdict.yaml", args.folder.display()));
    }
    let stored = findings::load(&args.folder)?;
    let cache = Cache::open()?;
    let machine = machine_of(&cache, &stored)?;
    let deterministic = stored.record.provenance.engine == "det";
    let execution = match deterministic {
        true => Execution::Deterministic,
        false => prepare::execution(&cache, Engine::Par, AccelChoice::Auto)?,
    };
    let snapshots = cache.dir("snapshots")?;
    let tally = if stored.batch.is_empty() {
        run_all(&stored, args, || Ok(Some(boot(&machine, execution, &stored)?)))?
    } else if deterministic {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut pool = prepare::pool(&machine, execution, args.jobs.unwrap_or(cores), &snapshots)?;
        check_snapshot(&pool, &stored)?;
        for _ in 0..args.times {
            pool.submit(stored.epoch());
        }
        run_all(&stored, args, || Ok(pool.next(RUN_LIMIT)))?
    } else {
        // A fresh guest for each run: what an earlier one left behind is not part of the finding.
        let fresh = || prepare::pool(&machine, execution, 1, &snapshots);
        run_all(&stored, args, || Ok(Some(fresh()?.run(stored.epoch()))))?
    };
    if args.json {
        println!("{}", serde_json::to_string(&tally)?);
    } else {
        print(&tally, &stored, deterministic);
    }
    Ok(match &tally {
        tally if tally.n_infrastructure == tally.n_runs => Exit::Infra,
        tally if tally.n_same > 0 => Exit::Finding,
        _ => Exit::Pass,
    })
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

/// Shows what needs no program: a boot, to its end.
fn boot(machine: &Machine, execution: Execution, stored: &Stored) -> Result<EpochOutcome> {
    let dir = RunDir::new().context("cannot make a folder for running machines")?;
    let (guest, epoch, limits) = (&machine.config, stored.epoch(), Limits::default());
    let schedule = stored.record.schedule;
    if execution == Execution::Deterministic {
        return Ok(det::run_from_power_on(guest, schedule, &epoch, limits, dir.path()));
    }
    let mut stream = Stream::new(guest.clone(), schedule, execution, dir.path().to_owned());
    let outcome = stream.run_epoch(&epoch, limits);
    let console = [outcome.boot.as_slice(), &outcome.console].concat();
    Ok(EpochOutcome { console, ..outcome })
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

fn run_all(
    stored: &Stored,
    args: &ReproArgs,
    mut next: impl FnMut() -> Result<Option<EpochOutcome>>,
) -> Result<Tally> {
    let mut tally = Tally { n_runs: args.times, ..Tally::default() };
    let mut consoles = HashSet::new();
    if let Some(dir) = &args.consoles {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    for n in 1..=args.times {
        let Some(outcome) = next()? else {
            tally.n_infrastructure += 1;
            continue;
        };
        let what = judge(&outcome, stored, &mut tally);
        let hash = blake3::hash(&outcome.console);
        let name = &hash.to_hex()[..12];
        consoles.insert(hash);
        tally.n_as_stored += u32::from(outcome.console == stored.console);
        if let Some(dir) = &args.consoles {
            let path = dir.join(format!("{name}.log"));
            fs::write(&path, &outcome.console).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if !args.json {
            let secs = outcome.wall.as_secs_f64();
            println!("run {n}: {what} ({secs:.1} s, console {name})");
        }
    }
    tally.n_consoles = consoles.len();
    Ok(tally)
}

fn judge(outcome: &EpochOutcome, stored: &Stored, tally: &mut Tally) -> String {
    match &outcome.end {
        EpochEnd::Harness(why) | EpochEnd::Machine(why) => {
            tally.n_infrastructure += 1;
            return format!("infrastructure: {why}");
        }
        EpochEnd::Done | EpochEnd::Kernel | EpochEnd::Deadline | EpochEnd::Lost(_) => {}
    }
    let Some(report) = oracle::judge(&outcome.console).into_iter().next() else {
        tally.n_none += 1;
        return format!("no report ({:?})", outcome.end);
    };
    if oracle::share_title(report.titles(), stored.verdict.titles()) {
        tally.n_same += 1;
        format!("same bug: {}", report.title)
    } else {
        tally.n_other += 1;
        format!("another bug: {}", report.title)
    }
}

fn print(tally: &Tally, stored: &Stored, deterministic: bool) {
    println!("{} of {}: {}", tally.n_same, tally.n_runs, stored.verdict.title);
    if tally.n_other + tally.n_none + tally.n_infrastructure > 0 {
        println!(
            "{} showed another bug, {} none, {} failed for reasons that are not the kernel's",
            tally.n_other, tally.n_none, tally.n_infrastructure
        );
    }
    if deterministic {
        let identical = if tally.n_consoles == 1 { "identical" } else { "NOT identical" };
        println!("consoles: {identical} among the runs; {}", as_stored(tally, stored));
    }
}

/// How the consoles compare with the stored one.
fn as_stored(tally: &Tally, stored: &Stored) -> String {
    if stored.record.confirmed {
        format!("{} of {} equal the stored one byte for byte", tally.n_as_stored, tally.n_runs)
    } else {
        "the stored one was not confirmed by a run of its own".to_owned()
    }
}
