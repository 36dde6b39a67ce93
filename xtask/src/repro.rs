// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask repro FINDING|PROGRAM`: runs it afresh and says k of n, whether it is the same bug, how long it takes, and,
//! under the deterministic engine, whether the consoles were identical.

mod exact;

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use ::fuzz::findings::{self, Stored};
use anyhow::{Context, Result};
use clap::Args;
use harness::epoch::{Epoch, EpochOutcome};

use crate::{
    exit::{Exit, Outcome},
    fuzz, gdb, portable,
    rerun::{self, Case, Elsewhere, Rerun, Showing},
    trace,
};

/// Options of `repro`.
#[derive(Debug, Args)]
pub struct ReproArgs {
    /// A finding's folder, or a file with a program
    what: PathBuf,
    #[command(flatten)]
    elsewhere: Elsewhere,
    /// How often to run it
    #[arg(long, default_value_t = 3)]
    times: u32,
    /// Guests side by side [default: one a core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Write every console that differs from the others into this folder
    #[arg(long, value_name = "DIR")]
    consoles: Option<PathBuf>,
    /// Say which functions of the kernel ran on which CPU before the report: trace.txt, and the part that matters in
    /// report.md. Deterministic engine
    #[arg(long, conflicts_with_all = ["consoles", "json"])]
    trace: bool,
    /// Replay from power-on, which needs no snapshot: the same on every machine with this QEMU and these artifacts. Made and
    /// stored in the finding the first time. Deterministic engine
    #[arg(long, conflicts_with_all = ["consoles", "json", "trace"])]
    portable: bool,
    /// Run it under gdb, stopped where the report begins. Deterministic engine
    #[arg(long, conflicts_with_all = ["consoles", "json", "trace", "portable"])]
    gdb: bool,
    /// Stop earlier: `free` (the one that the report names), `-N` (so many entries of functions before the report, as
    /// trace.txt counts), or `FUNCTION:K` (when it is entered for the K-th time)
    #[arg(long, value_name = "MOMENT", requires = "gdb", allow_hyphen_values = true)]
    at: Option<gdb::Moment>,
    /// Let gdb do what this file says; commands of ours: `report`, and with --at `there`
    #[arg(long, value_name = "FILE", requires = "gdb")]
    gdb_script: Option<PathBuf>,
    /// Runs under each schedule of the deterministic engine in search of one that shows a finding of the parallel engine; it
    /// takes the place of what is stored. 0: none
    #[arg(long, value_name = "N", default_value_t = 24)]
    search: u32,
    /// Print one JSON object in place of text
    #[arg(long, conflicts_with = "search")]
    json: bool,
}

/// What the runs showed.
#[derive(Debug, Default, serde::Serialize)]
struct Tally {
    /// Runs.
    n_runs: u32,
    /// Runs that showed the finding's title or one of its alternatives; of a program: that showed any report.
    n_same: u32,
    /// What the rate may be, at 95 % confidence.
    rate_low: f64,
    rate_high: f64,
    /// Its title, as the last run had it.
    title: String,
    /// Median wall time in the guest until it showed, seconds.
    seconds: Option<f64>,
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
    if args.portable {
        let rerun = Rerun::cold(&args.what, &args.elsewhere, args.jobs)?;
        return portable::run(&rerun, &args.what, args.times);
    }
    let mut rerun = Rerun::open(&args.what, &args.elsewhere, args.jobs)?;
    if args.trace {
        return trace::run(&rerun, &args.what);
    }
    if args.gdb {
        return gdb::run(&rerun, args.at.as_ref(), args.gdb_script.as_deref());
    }
    let tally = run_all(&mut rerun, args)?;
    // On another kernel or with other arguments it is not the finding's rate.
    if args.elsewhere == (Elsewhere { engine: args.elsewhere.engine, ..Elsewhere::default() }) {
        note_rate(&mut rerun, &args.what, &tally);
    }
    if args.json {
        println!("{}", serde_json::to_string(&tally)?);
    } else {
        print(&tally, &rerun);
        let of_parallel =
            |stored: &&Stored| stored.record.provenance.engine != "det" && !stored.batch.is_empty();
        let is_own = args.elsewhere == Elsewhere::default();
        if let Some(stored) = rerun.stored.as_ref().filter(of_parallel).filter(|_| is_own && args.search > 0)
        {
            exact::search(&args.what, stored, args.jobs, args.search)?;
        }
    }
    Ok(match &tally {
        tally if tally.n_infrastructure == tally.n_runs => Exit::Infra,
        tally if tally.n_same > 0 => Exit::Finding,
        _ => Exit::Pass,
    })
}

fn run_all(rerun: &mut Rerun, args: &ReproArgs) -> Result<Tally> {
    let mut tally = Tally { n_runs: args.times, ..Tally::default() };
    let mut consoles = HashSet::new();
    if let Some(dir) = &args.consoles {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let (case, stored) = (rerun.case.clone(), rerun.stored.clone());
    let mut seconds = Vec::new();
    let epochs: Vec<Epoch> = (0..args.times).map(|_| case.epoch()).collect();
    rerun.run(&epochs, &mut |n, outcome| {
        let Some(outcome) = outcome else {
            tally.n_infrastructure += 1;
            return Ok(());
        };
        let n_same = tally.n_same;
        let what = count(&outcome, &case, &mut tally);
        if tally.n_same > n_same {
            seconds.push(outcome.in_guest.as_secs_f64());
        }
        let hash = blake3::hash(&outcome.console);
        let name = &hash.to_hex()[..12];
        consoles.insert(hash);
        tally.n_as_stored +=
            u32::from(stored.as_ref().is_some_and(|stored| stored.console == outcome.console));
        if let Some(dir) = &args.consoles {
            let path = dir.join(format!("{name}.log"));
            fs::write(&path, &outcome.console).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if !args.json {
            let secs = outcome.wall.as_secs_f64();
            println!("run {}: {what} ({secs:.1} s, console {name})", n + 1);
        }
        Ok(())
    })?;
    tally.n_consoles = consoles.len();
    (tally.rate_low, tally.rate_high) = rerun::interval(tally.n_same, tally.n_runs - tally.n_infrastructure);
    seconds.sort_by(f64::total_cmp);
    tally.seconds = seconds.get(seconds.len() / 2).copied();
    if let (true, Some(first)) = (tally.title.is_empty(), case.titles.first()) {
        tally.title.clone_from(first);
    }
    Ok(tally)
}

/// Writes the rate into the finding's folder, whose report has it then.
fn note_rate(rerun: &mut Rerun, folder: &Path, tally: &Tally) {
    let n_runs = tally.n_runs - tally.n_infrastructure;
    let engine = if rerun.is_deterministic() { "det" } else { "par" };
    let Some(stored) = rerun.stored.as_mut().filter(|_| n_runs > 0) else { return };
    let rate = findings::Rate { n_runs, n_same: tally.n_same };
    if stored.record.rates.insert(engine.to_owned(), rate) == Some(rate) {
        return;
    }
    let evidence = stored.evidence(&fuzz::annotator(&rerun.machine));
    if let Err(error) = findings::update(&evidence, folder) {
        eprintln!("warning: the rate is not in {}: {error:#}", folder.display());
    }
}

fn count(outcome: &EpochOutcome, case: &Case, tally: &mut Tally) -> String {
    let (counter, what) = match case.judge(outcome) {
        Showing::Same(report) => {
            tally.title.clone_from(&report.title);
            let same = if case.titles.is_empty() { "shown" } else { "same bug" };
            (&mut tally.n_same, format!("{same}: {}", report.title))
        }
        Showing::Other(report) => (&mut tally.n_other, format!("another bug: {}", report.title)),
        Showing::None => (&mut tally.n_none, format!("no report ({:?})", outcome.end)),
        Showing::Infrastructure(why) => (&mut tally.n_infrastructure, format!("infrastructure: {why}")),
    };
    *counter += 1;
    what
}

fn print(tally: &Tally, rerun: &Rerun) {
    let title = if tally.title.is_empty() { "no report" } else { &tally.title };
    println!("{} of {}: {title}", tally.n_same, tally.n_runs);
    let seconds = tally
        .seconds
        .map_or(String::new(), |seconds| format!(", after {seconds:.1} s in the guest (median)"));
    println!("rate {:.0} to {:.0} % (95 %){seconds}", tally.rate_low * 100.0, tally.rate_high * 100.0);
    if tally.n_other + tally.n_none + tally.n_infrastructure > 0 {
        println!(
            "{} showed another bug, {} none, {} failed for reasons that are not the kernel's",
            tally.n_other, tally.n_none, tally.n_infrastructure
        );
    }
    if rerun.is_deterministic() {
        let identical = if tally.n_consoles == 1 { "identical" } else { "NOT identical" };
        let stored = rerun.stored.as_ref().map_or(String::new(), |stored| as_stored(tally, stored));
        println!("consoles: {identical} among the runs{stored}");
    }
}

/// How the consoles compare with the stored one.
fn as_stored(tally: &Tally, stored: &Stored) -> String {
    if stored.record.confirmed {
        format!("; {} of {} equal the stored one byte for byte", tally.n_as_stored, tally.n_runs)
    } else {
        "; the stored one was not confirmed by a run of its own".to_owned()
    }
}
