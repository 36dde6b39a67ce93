// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask minimize FOLDER`: makes a finding's program as small as still shows it. Goes on where a killed call was; the
//! finding is replaced at the end, never by something larger. Then its machine: fewer CPUs, fewer boot arguments.

mod machine;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::atomic::Ordering};

use ::fuzz::{
    disk,
    findings::{self, Evidence, Minimized, Stored},
    minimize::Minimizer,
    reduce::Shown,
    report,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use harness::{
    epoch::{Epoch, EpochOutcome},
    oracle::Report,
    program::Program,
};
use serde::Serialize;

use crate::{
    exit::{Exit, Outcome},
    fuzz,
    rerun::{self, Elsewhere, Rerun, Showing},
    usage,
};

/// Name of the search's state in the finding's folder.
const STATE: &str = "minimize.yaml";
/// Runs that measure how often a finding shows, where runs differ.
const RATE_RUNS: u32 = 8;
/// Runs of one program at most, where runs differ.
const TRIES_MAX: u32 = 20;

/// Options of `minimize`.
#[derive(Debug, Args)]
pub struct MinimizeArgs {
    /// A finding's folder
    folder: PathBuf,
    /// Guests side by side [default: one a core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Print one JSON object in place of text
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outline {
    title: String,
    threads_before: usize,
    ops_before: usize,
    threads: usize,
    ops: usize,
    runs: u64,
    /// What its machine is now, where that is less than it was.
    machine: Vec<String>,
}

/// A finding at work.
struct Search {
    rerun: Rerun,
    stored: Stored,
    /// Programs of the batch that run before the one that is made smaller.
    before: Vec<Program>,
    /// Runs of one program, until the finding shows.
    n_tries: u32,
}

/// Runs the subcommand. Exit code 2: minimised; 0: the finding does not show.
///
/// # Errors
/// When the folder is no finding, its machine cannot be made again, or a guest fails.
pub fn run(args: &MinimizeArgs) -> Outcome {
    let rerun = Rerun::open(&args.folder, &Elsewhere::default(), args.jobs)?;
    let Some(stored) = rerun.stored.clone() else {
        return Err(usage!("{} is no folder of a finding", args.folder.display()));
    };
    let Some(at) = stored.record.in_flight.or(stored.batch.len().checked_sub(1)) else {
        return Err(usage!(
            "{}: booting shows it; there is no program to make smaller",
            args.folder.display()
        ));
    };
    let stop = fuzz::stop_on_signal()?;
    let program = stored.batch[at].clone();
    let mut search = Search { rerun, before: stored.batch[..at].to_vec(), stored, n_tries: 1 };
    if !search.measure()? {
        println!("not shown: {}", search.stored.verdict.title);
        return Ok(Exit::Pass);
    }
    search.do_without_what_ran_before(&program)?;
    let state = args.folder.join(STATE);
    let mut minimizer = resume(&state, &program)?;
    loop {
        let candidates = minimizer.candidates(search.rerun.jobs);
        if candidates.is_empty() {
            break;
        }
        let programs: Vec<Program> = candidates.iter().map(|candidate| candidate.program.clone()).collect();
        let mut shown = Vec::new();
        for programs in programs.chunks(search.rerun.jobs) {
            let seen = search.shown(programs)?.into_iter();
            shown.extend(seen.map(|seen| if seen.is_some() { Shown::Same } else { Shown::Other }));
            // The first that shows it is the one to take; those behind it need no run.
            if shown.contains(&Shown::Same) {
                break;
            }
        }
        if minimizer.learn(&candidates, &shown) {
            eprintln!("{}", minimizer.progress());
        }
        disk::write(&state, serde_yaml::to_string(&minimizer)?.as_bytes())?;
        if stop.load(Ordering::Relaxed) {
            bail!("stopped; the same command goes on from here");
        }
    }
    let best = minimizer.best();
    let Some((outcome, report)) = search.shown(std::slice::from_ref(&best))?.remove(0) else {
        bail!("the smallest program does not show the finding again; the finding is left as it was");
    };
    let size = Minimized {
        threads: program.threads.len(),
        ops: program.n_ops(),
        batch: search.stored.batch.len(),
        runs: minimizer.n_runs(),
        finished: true,
    };
    let evidence = search.evidence(best.clone(), outcome, report, size.clone());
    findings::store(&evidence, &args.folder)?;
    let is_exact = search.rerun.is_deterministic();
    drop(search);
    let machine = if is_exact { machine::simplify(&args.folder, args.jobs)? } else { Vec::new() };
    let stored = findings::load(&args.folder)?;
    let best = stored.batch.last().unwrap_or(&best);
    let result = Outline {
        title: evidence.report.title.clone(),
        threads_before: size.threads,
        ops_before: size.ops,
        threads: best.threads.len(),
        ops: best.n_ops(),
        runs: size.runs,
        machine,
    };
    if args.json {
        println!("{}", serde_json::to_string(&result)?);
    } else {
        println!(
            "{}: {} ops in {} thread(s), found with {} in {}; {} runs",
            result.title, result.ops, result.threads, result.ops_before, result.threads_before, result.runs
        );
        result.machine.iter().for_each(|what| println!("shows {what}, too"));
        println!("\n{best}");
        println!("cargo xtask repro {}", args.folder.display());
    }
    Ok(Exit::Finding)
}

/// The search that a killed call has left, or a new one.
fn resume(state: &std::path::Path, program: &Program) -> Result<Minimizer> {
    let Ok(text) = fs::read_to_string(state) else { return Ok(Minimizer::new(program)) };
    let stored: Minimizer = serde_yaml::from_str(&text).with_context(|| state.display().to_string())?;
    stored.check().with_context(|| state.display().to_string())?;
    if stored.best().schedule != program.schedule {
        // It ended, and then the schedule became a simpler one.
        return Ok(Minimizer::new(program));
    }
    eprintln!("going on: {}", stored.progress());
    Ok(stored)
}

type Seen = Option<(EpochOutcome, Report)>;

impl Search {
    /// Whether the finding shows at all, and how often a program has to be run to be sure of it.
    fn measure(&mut self) -> Result<bool> {
        let n_runs = if self.rerun.is_deterministic() { 1 } else { RATE_RUNS };
        let epochs = vec![self.rerun.case.epoch(); n_runs as usize];
        let n_same = self.seen(&epochs)?.iter().flatten().count() as u32;
        self.n_tries = rerun::runs_needed(f64::from(n_same) / f64::from(n_runs), rerun::MISS, TRIES_MAX);
        Ok(n_same > 0)
    }

    /// Forgets the rest of the batch, if the program shows the finding alone.
    fn do_without_what_ran_before(&mut self, program: &Program) -> Result<()> {
        let before = std::mem::take(&mut self.before);
        if !before.is_empty() && self.shown(std::slice::from_ref(program))?[0].is_none() {
            self.before = before;
        }
        Ok(())
    }

    /// For each program, the run that showed the finding, if one did.
    fn shown(&mut self, programs: &[Program]) -> Result<Vec<Seen>> {
        let mut shown: Vec<Seen> = programs.iter().map(|_| None).collect();
        for _ in 0..self.n_tries {
            let left: Vec<usize> = (0..programs.len()).filter(|&idx| shown[idx].is_none()).collect();
            let epochs: Vec<Epoch> = left.iter().map(|&idx| self.epoch(&programs[idx])).collect();
            for (idx, seen) in left.into_iter().zip(self.seen(&epochs)?) {
                shown[idx] = seen;
            }
        }
        Ok(shown)
    }

    fn epoch(&self, program: &Program) -> Epoch {
        let programs = self.before.iter().chain([program]).cloned().collect();
        Epoch { programs, ..self.rerun.case.epoch() }
    }

    fn seen(&mut self, epochs: &[Epoch]) -> Result<Vec<Seen>> {
        let case = self.rerun.case.clone();
        let mut seen = Vec::new();
        self.rerun.run(epochs, &mut |_, outcome| {
            let outcome = outcome.context("a guest did not answer")?;
            seen.push(match case.judge(&outcome) {
                Showing::Same(report) => Some((outcome, *report)),
                Showing::Other(_) | Showing::None => None,
                Showing::Infrastructure(why) => bail!("a guest failed: {why}"),
            });
            Ok(())
        })?;
        Ok(seen)
    }

    fn evidence(
        &self,
        best: Program,
        outcome: EpochOutcome,
        mut report: Report,
        size: Minimized,
    ) -> Evidence {
        let (verdict, record) = (&self.stored.verdict, self.stored.record.clone());
        let annotate = fuzz::annotator(&self.rerun.machine);
        let excerpt = report::excerpt(&report, &outcome.console, &annotate);
        // What it was found by is another name of it.
        report.add_titles(verdict.titles().map(str::to_owned));
        let batch = self.epoch(&best).programs;
        Evidence {
            report,
            end: verdict.end.clone(),
            console: outcome.console,
            excerpt,
            known: verdict.known.clone(),
            record: findings::Record {
                in_flight: record.in_flight.map(|_| batch.len() - 1),
                confirmed: true,
                minimized: Some(size),
                // Those are of another program.
                rates: BTreeMap::new(),
                standalone: None,
                ..record
            },
            batch,
            config: self.stored.config.clone().or_else(|| self.rerun.machine.kernel_config()),
            first_seen: std::time::Duration::try_from_secs_f64(verdict.first_seen_secs).unwrap_or_default(),
            execs: verdict.execs,
        }
    }
}
