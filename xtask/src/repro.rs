// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask repro FOLDER`: runs a finding afresh and says k of n, whether it is the same bug, and, under the
//! deterministic engine, whether the consoles were identical.

use std::{collections::HashSet, fs, path::PathBuf};

use ::fuzz::findings::Stored;
use anyhow::{Context, Result};
use clap::Args;
use harness::epoch::{Epoch, EpochOutcome};

use crate::{
    exit::{Exit, Outcome},
    rerun::{self, Rerun, Showing},
};

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
    let mut rerun = Rerun::open(&args.folder, args.jobs)?;
    let tally = run_all(&mut rerun, args)?;
    if args.json {
        println!("{}", serde_json::to_string(&tally)?);
    } else {
        print(&tally, &rerun);
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
    let stored = rerun.stored.clone();
    let epochs: Vec<Epoch> = (0..args.times).map(|_| stored.epoch()).collect();
    rerun.run(&epochs, &mut |n, outcome| {
        let Some(outcome) = outcome else {
            tally.n_infrastructure += 1;
            return Ok(());
        };
        let what = count(&outcome, &stored, &mut tally);
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
            println!("run {}: {what} ({secs:.1} s, console {name})", n + 1);
        }
        Ok(())
    })?;
    tally.n_consoles = consoles.len();
    Ok(tally)
}

fn count(outcome: &EpochOutcome, stored: &Stored, tally: &mut Tally) -> String {
    let (counter, what) = match rerun::judge(outcome, &stored.verdict) {
        Showing::Same(report) => (&mut tally.n_same, format!("same bug: {}", report.title)),
        Showing::Other(report) => (&mut tally.n_other, format!("another bug: {}", report.title)),
        Showing::None => (&mut tally.n_none, format!("no report ({:?})", outcome.end)),
        Showing::Infrastructure(why) => (&mut tally.n_infrastructure, format!("infrastructure: {why}")),
    };
    *counter += 1;
    what
}

fn print(tally: &Tally, rerun: &Rerun) {
    println!("{} of {}: {}", tally.n_same, tally.n_runs, rerun.stored.verdict.title);
    if tally.n_other + tally.n_none + tally.n_infrastructure > 0 {
        println!(
            "{} showed another bug, {} none, {} failed for reasons that are not the kernel's",
            tally.n_other, tally.n_none, tally.n_infrastructure
        );
    }
    if rerun.is_deterministic() {
        let identical = if tally.n_consoles == 1 { "identical" } else { "NOT identical" };
        println!("consoles: {identical} among the runs; {}", as_stored(tally, &rerun.stored));
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
