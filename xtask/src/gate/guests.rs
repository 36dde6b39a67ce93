// SPDX-License-Identifier: MIT OR Apache-2.0
//! What guests show of the series: a campaign that is the same on every host, on the kernel with the series and on the one
//! without, and for each finding of one what the other does with its program.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use ::fuzz::{
    config::{LeakScan, Reduce},
    status::{CampaignEnd, Event},
};
use anyhow::{Context, Result, bail};
use harness::{plain, program::Program};
use serde::{Deserialize, Serialize};

use super::{
    focus::Focus,
    outcome::{Check, Status},
    same,
};
use crate::{
    fuzz::{self, Plan, WALK_PROB},
    paths,
    prepare::Prepared,
    rerun::{Rerun, Showing},
};

/// Runs on the other kernel, each with another delay before one of the threads, after which it is said not to show a bug.
const RUNS: u32 = 8;
/// Of those, as many as show it where it shows often: then silence means that it is mended, but for a chance of 1 in 256.
const OFTEN: u32 = RUNS / 2;
/// Seed of the campaigns.
const SEED: u64 = 1;
/// Programs of the corpus that are run together once more, with a scan for leaked memory: that takes as long as hundreds of
/// programs.
const LEAK_SCAN: LeakScan = LeakScan::Corpus(128);
/// Longest that the kernel without the series is looked at.
const BASE_MAX: Duration = Duration::from_secs(3600);
/// How often a campaign under way is told of.
const TELL_EVERY: Duration = Duration::from_secs(15);
/// Why a finding is only noted that came up beside one that is new.
const BESIDE: &str = "beside what is new; not compared with the kernel without the series";
/// Why one of the kernel without the series is only noted.
const RARE: &str = "did not show with the series, and without it shows rarely";
/// Longest that a finding is made small: the verdict stands by then.
const REDUCE_MAX: Duration = Duration::from_secs(150);

/// What to run.
#[derive(Clone, Debug)]
pub struct Task {
    /// How results call it.
    pub name: String,
    /// Programs to begin with.
    pub seeds: Vec<Program>,
    /// Those of them that are first where the series is looked at, and why.
    pub focus: Focus,
    /// Programs to execute in all.
    pub execs: u64,
    /// Scan for leaked memory, too.
    pub leaks: bool,
    /// Only one of the schedules.
    pub one_schedule: bool,
}

impl Task {
    fn in_order(&self) -> Vec<Program> {
        let first = &self.focus.on.programs;
        let rest = self.seeds.iter().filter(|program| !first.contains(program));
        first.iter().chain(rest).cloned().collect()
    }

    /// What the focus is on, in words.
    fn why(&self) -> String {
        match &self.focus.functions[..] {
            [] => String::new(),
            all => format!("first {} programs that reach {}", self.focus.on.programs.len(), all.join(", ")),
        }
    }
}

/// A finding, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    title: String,
    dir: PathBuf,
    /// Programs executed until then.
    execs: u64,
}

/// What a campaign gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Explored {
    found: Vec<Found>,
    execs: u64,
    /// Everything was executed.
    whole: bool,
}

/// Runs a task on the kernel with the series and compares with the kernel without.
///
/// # Errors
/// When a guest fails for a reason that is not the kernel's.
pub fn checks(
    task: &Task,
    base: &mut Prepared,
    patched: &mut Prepared,
    dir: &Path,
    until: Instant,
) -> Result<Vec<Check>> {
    let began = Instant::now();
    let old = of_base(task, base)?;
    let mut judged: Vec<(Found, Status)> = Vec::new();
    let explored = loop {
        let known: Vec<String> = judged.iter().map(|(found, _)| found.title.clone()).collect();
        let explored = explore(task, patched, dir, until, &known)?;
        for found in explored.found.iter().filter(|found| !known.contains(&found.title)) {
            let is_decided = judged.iter().any(|(_, status)| *status == Status::Fail);
            let status = if has(&old, &found.title) {
                Status::Old
            } else if is_decided {
                // To compare a leak takes minutes, and the verdict stands.
                Status::Note
            } else if n_shows(base, found, 1)? > 0 {
                Status::Old
            } else {
                Status::Fail
            };
            judged.push((found.clone(), status));
        }
        let is_over = explored.whole || Instant::now() >= until;
        // One that is new is enough for a verdict; the time is better spent on making it small, which was done.
        if is_over || judged.len() == known.len() || judged.iter().any(|(_, status)| *status == Status::Fail)
        {
            break explored;
        }
    };
    let mut checks: Vec<Check> =
        judged.into_iter().map(|(found, status)| told(task, found, status, BESIDE)).collect();
    for found in old.found.iter().filter(|found| !has(&explored, &found.title)) {
        let status = match n_shows(patched, found, 1)? {
            0 if n_shows(base, found, OFTEN)? >= OFTEN => Status::Fixed,
            // What shows rarely may have been missed.
            0 => Status::Note,
            _ => Status::Old,
        };
        checks.push(told(task, found.clone(), status, RARE));
    }
    let is_decided = checks.iter().any(|check| check.status == Status::Fail);
    let text = format!("{} of {} programs", explored.execs.min(task.execs), task.execs);
    let (status, text) = match (explored.whole && old.whole, is_decided) {
        (true, _) => (Status::Pass, text),
        (false, true) => (Status::Note, format!("{text}: ended with what it found")),
        (false, false) => (Status::Unsure, format!("{text}, then the time was over")),
    };
    let (seconds, detail) = (began.elapsed().as_secs_f64(), plain::line(&task.why(), 2000));
    checks.push(Check { seconds, detail, ..Check::new(&task.name, status, &text) });
    Ok(checks)
}

/// What the same kernel with and without a series shows: what is known.
///
/// # Errors
/// When a guest fails for a reason that is not the kernel's.
pub fn same(task: &Task, base: &mut Prepared, why: same::Why) -> Result<Vec<Check>> {
    let old = of_base(task, base)?.found.into_iter();
    Ok(old.map(|found| told(task, found, Status::Old, "")).chain([same::check(&task.name, why)]).collect())
}

/// A finding, and why it is only noted, where it is.
fn told(task: &Task, found: Found, status: Status, why_noted: &str) -> Check {
    let name = format!("{} after {} programs", task.name, found.execs);
    let text = match status {
        Status::Note => format!("{}: {why_noted}", found.title),
        _ => found.title,
    };
    let detail = fs::read_to_string(found.dir.join("report.md")).unwrap_or_default();
    Check { detail, folder: Some(found.dir), ..Check::new(&name, status, &text) }
}

/// Finds out what the kernel without the series shows, if that is not known.
///
/// # Errors
/// When a guest fails for a reason that is not the kernel's.
pub fn learn(task: &Task, base: &mut Prepared) -> Result<()> {
    of_base(task, base).map(|_| ())
}

/// What the kernel without the series shows: kept, for it does not change.
fn of_base(task: &Task, base: &mut Prepared) -> Result<Explored> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(base.machine.config.key.as_bytes());
    paths::hash_files(&mut hasher, fuzz::sources()?)?;
    hasher.update(format!("{} {} {} {:?}", task.name, task.execs, task.leaks, task.seeds).as_bytes());
    // What one series touches is nothing to the next.
    let task = &Task { focus: Focus::default(), ..task.clone() };
    let dir = base.cache.dir("gate")?.join(&hasher.finalize().to_hex()[..16]);
    let done = dir.join("done.json");
    if let Some(kept) = fs::read(&done).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(kept);
    }
    paths::make_dir(&dir)?;
    eprintln!("gate: {} on the kernel without the series, kept for the next time", task.name);
    let (mut known, folder) = (Vec::new(), dir.join("campaign"));
    let until = Instant::now() + BASE_MAX;
    loop {
        let explored = explore(task, base, &folder, until, &known)?;
        let n_known = known.len();
        known = explored.found.iter().map(|found| found.title.clone()).collect();
        if explored.whole {
            paths::write_whole(&done, &serde_json::to_vec(&explored)?)?;
        }
        if explored.whole || known.len() == n_known || Instant::now() >= until {
            return Ok(explored);
        }
    }
}

/// A campaign, or its continuation, to its end, or until a finding that is not known was made small.
fn explore(
    task: &Task,
    prepared: &mut Prepared,
    dir: &Path,
    until: Instant,
    known: &[String],
) -> Result<Explored> {
    let plan = Plan {
        dir: dir.to_owned(),
        seed: SEED,
        time_max: Some(until.saturating_duration_since(Instant::now())),
        execs_max: Some(task.execs),
        canary: 0,
        leak_scan: if task.leaks { LEAK_SCAN } else { LeakScan::Never },
        walk_prob: WALK_PROB,
        reduce: Reduce::Program,
        seeds: Some(task.in_order()),
        focus: task.focus.on.clone(),
        steady: true,
        one_schedule: task.one_schedule,
    };
    fuzz::boot(prepared, &plan)?;
    let stop = AtomicBool::new(false);
    let halt = || stop.store(true, Ordering::Relaxed);
    let mut found_at: Option<Instant> = None;
    let mut told = Instant::now();
    let summary = fuzz::campaign(prepared, plan, &stop, &mut |event| match event {
        Event::NewFinding(note) if !known.contains(&note.title) => {
            eprintln!("gate: {}: {}", task.name, note.title);
            found_at.get_or_insert_with(Instant::now);
            // A boot that shows it needs no program to be made small.
            if note.n_programs == 0 {
                halt();
            }
        }
        Event::Minimized(note) | Event::NotAgain(note) if !known.contains(&note.title) => halt(),
        Event::Status(status) => {
            if found_at.is_some_and(|at| at.elapsed() > REDUCE_MAX) {
                halt();
            }
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                eprintln!("gate: {}: {status}", task.name);
            }
        }
        Event::Warning(text) => eprintln!("gate: {}: warning: {text}", task.name),
        Event::Infrastructure { end, in_a_row } => {
            eprintln!("gate: {}: infrastructure ({in_a_row} in a row): {end:?}", task.name);
        }
        _ => {}
    })?;
    if summary.end == CampaignEnd::Infrastructure {
        bail!("{}: too many failures of the machine in a row", task.name);
    }
    let found = summary
        .findings
        .iter()
        .map(|note| Found { title: note.title.clone(), dir: note.dir.clone(), execs: note.execs })
        .collect();
    let whole = matches!(summary.end, CampaignEnd::Execs | CampaignEnd::NoBoot);
    Ok(Explored { found, execs: summary.status.execs, whole })
}

fn has(explored: &Explored, title: &str) -> bool {
    explored.found.iter().any(|found| found.title == title)
}

/// In how many of [`RUNS`] a kernel shows a finding, another's perhaps; counted until it is `enough`.
fn n_shows(on: &mut Prepared, found: &Found, enough: u32) -> Result<u32> {
    let mut rerun = Rerun::of(on, &found.dir)?;
    let case = rerun.case.clone();
    // A boot is a boot.
    let (n_runs, enough) = if case.batch.is_empty() { (1, 1) } else { (RUNS, enough) };
    let epochs = rerun.epochs(&case, 0..n_runs);
    let mut same = 0;
    // Two at a time on every host: how many are counted is the same.
    for some in epochs.chunks(2) {
        rerun.run(some, &mut |_, outcome| {
            match case.judge(&outcome.context("a guest did not answer")?) {
                Showing::Same(_) => same += 1,
                Showing::Other(_) | Showing::None => {}
                Showing::Infrastructure(why) => bail!("a guest failed: {why}"),
            }
            Ok(())
        })?;
        if same >= enough {
            break;
        }
    }
    Ok(if case.batch.is_empty() { same * RUNS } else { same })
}
