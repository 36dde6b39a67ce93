// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask repro FINDING --portable`: the form of a finding that needs no snapshot. A run from power-on with the program
//! in place is the same wherever QEMU's version and the artifacts are. It is not the run from the snapshot, so where that
//! shows a race the delays near it are searched for one that shows it, too.
//!
//! ```text
//! portable.yaml         what ran, on what, and the hash of the console; written last
//! console-portable.log  what the guest printed from power-on
//! ```

use std::{collections::BTreeMap, fs, path::Path, thread};

use ::fuzz::disk;
use anyhow::{Context, Result, bail};
use harness::{
    det::{self, Limits},
    epoch::{EpochEnd, EpochOutcome},
    program::{Program, Schedule},
    run_dir::RunDir,
};
use serde::{Deserialize, Serialize};

use crate::{
    exit::{Exit, Outcome},
    rerun::{Case, Rerun, Showing},
    usage,
};

const MANIFEST: &str = "portable.yaml";
const CONSOLE: &str = "console-portable.log";
/// Programs tried: the finding's own, then it with one delay after the other.
const TRIES_MAX: u32 = 24;

/// `portable.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Portable {
    /// The bug, as the runs had it.
    title: String,
    /// What `qemu --version` says.
    qemu_version: String,
    /// Kind of artifact to its content key.
    artifacts: BTreeMap<String, String>,
    /// vCPUs and icount shift.
    schedule: Schedule,
    /// A canary kind to arm; 0: none.
    canary: u32,
    /// Scan for leaked memory afterwards.
    leak_scan: bool,
    /// The programs, in order.
    batch: Vec<String>,
    /// Which delay the last program has over the finding's; 0: none.
    delay: u32,
    /// BLAKE3 of the console, which is of so many bytes.
    console: String,
    /// Its length.
    console_bytes: usize,
    /// Runs that were made, all with this console.
    runs: u32,
}

/// Replays the portable form of a finding, or makes it.
///
/// # Errors
/// When it is no finding of the deterministic engine, a guest fails, or files cannot be written.
pub fn run(rerun: &Rerun, folder: &Path, times: u32) -> Outcome {
    if rerun.stored.is_none() {
        return Err(usage!("--portable takes a finding's folder; {} is a program", folder.display()));
    }
    if !rerun.is_deterministic() {
        return Err(usage!(
            "--portable takes the deterministic engine: runs of the other differ; add --engine det"
        ));
    }
    match fs::read_to_string(folder.join(MANIFEST)) {
        Ok(text) => {
            let portable: Portable =
                serde_yaml::from_str(&text).with_context(|| format!("parse {MANIFEST}"))?;
            replay(rerun, &portable, times)
        }
        Err(_) => make(rerun, folder, times),
    }
}

fn replay(rerun: &Rerun, portable: &Portable, times: u32) -> Outcome {
    let config = &rerun.machine.config;
    if config.qemu_version != portable.qemu_version {
        println!("warning: this is {}, it was made with {}", config.qemu_version, portable.qemu_version);
    }
    for (kind, key) in &portable.artifacts {
        if rerun.machine.artifacts.get(kind) != Some(key) {
            println!("warning: another {kind} than the one it was made with, {key}");
        }
    }
    let case = portable.case(rerun)?;
    let (mut n_identical, mut n_same) = (0, 0);
    power_on(rerun, &vec![case.clone(); times as usize], &mut |nth, outcome| {
        let is_identical = hash(&outcome.console) == portable.console;
        n_identical += u32::from(is_identical);
        n_same += u32::from(matches!(case.judge(&outcome), Showing::Same(_)));
        let words = if is_identical { "identical to" } else { "NOT" };
        let secs = outcome.wall.as_secs_f64();
        println!("run {}: {} ({secs:.1} s); console {words} the stored one", nth + 1, tell(&case, &outcome)?);
        Ok(true)
    })?;
    println!(
        "from power-on: {n_same} of {times} show it, {n_identical} of {times} consoles are the stored one"
    );
    Ok(if n_same > 0 { Exit::Finding } else { Exit::Pass })
}

fn make(rerun: &Rerun, folder: &Path, times: u32) -> Outcome {
    // Nothing can be delayed where booting shows it.
    let n_tries = if rerun.case.batch.is_empty() { 1 } else { TRIES_MAX };
    let cases: Vec<Case> = (0..n_tries).map(|nth| rerun.case.delayed(nth)).collect();
    let mut found = None;
    power_on(rerun, &cases, &mut |nth, outcome| {
        let what = tell(&rerun.case, &outcome)?;
        println!("from power-on, delay {nth}: {what} ({:.1} s)", outcome.wall.as_secs_f64());
        if let Showing::Same(report) = rerun.case.judge(&outcome) {
            found = Some((nth, report.title, outcome.console));
        }
        Ok(found.is_none())
    })?;
    let Some((nth, title, console)) = found else {
        println!(
            "from power-on it could not be made to show, with {n_tries} delays: there is no portable form"
        );
        return Ok(Exit::Skipped);
    };
    let mut n_identical = 1;
    power_on(rerun, &vec![cases[nth].clone(); times.saturating_sub(1) as usize], &mut |again, outcome| {
        let is_identical = outcome.console == console;
        n_identical += u32::from(is_identical);
        let words = if is_identical { "identical" } else { "NOT identical" };
        println!("run {}: console {words} ({:.1} s)", again + 2, outcome.wall.as_secs_f64());
        Ok(true)
    })?;
    if n_identical < times {
        bail!(
            "{n_identical} of {times} consoles are the same: runs from power-on differ, so nothing is stored"
        );
    }
    let portable = Portable {
        title,
        qemu_version: rerun.machine.config.qemu_version.clone(),
        artifacts: rerun.machine.artifacts.clone(),
        schedule: cases[nth].schedule,
        canary: cases[nth].canary,
        leak_scan: cases[nth].leak_scan,
        batch: cases[nth].batch.iter().map(Program::to_string).collect(),
        delay: nth as u32,
        console: hash(&console),
        console_bytes: console.len(),
        runs: n_identical,
    };
    disk::write(&folder.join(CONSOLE), &console)?;
    disk::write(&folder.join(MANIFEST), serde_yaml::to_string(&portable)?.as_bytes())?;
    println!(
        "portable: {n_identical} of {times} consoles identical ({} KiB, {}); stored in {}",
        console.len() >> 10,
        &portable.console[..12],
        folder.join(MANIFEST).display()
    );
    Ok(Exit::Finding)
}

impl Portable {
    /// What it runs.
    fn case(&self, rerun: &Rerun) -> Result<Case> {
        let programs = self.batch.iter().map(|text| text.parse::<Program>());
        let batch =
            programs.collect::<Result<Vec<Program>, _>>().with_context(|| format!("parse {MANIFEST}"))?;
        let Portable { schedule, canary, leak_scan, .. } = *self;
        Ok(Case { batch, schedule, canary, leak_scan, titles: rerun.case.titles.clone() })
    }
}

/// Runs cases from power-on, as many side by side as was asked for, and hands over the outcomes in order until `each` says
/// that it is enough.
fn power_on(
    rerun: &Rerun,
    cases: &[Case],
    each: &mut dyn FnMut(usize, EpochOutcome) -> Result<bool>,
) -> Result<()> {
    let dir = RunDir::new().context("cannot make a folder for running machines")?;
    for (round, cases) in cases.chunks(rerun.jobs).enumerate() {
        let outcomes: Vec<EpochOutcome> = thread::scope(|scope| {
            let start = |(job, case): (usize, &Case)| {
                let (epoch, schedule) = (case.epoch(), case.schedule);
                let run_dir = dir.path().join(format!("job{job}"));
                let guest = &rerun.machine.config;
                scope.spawn(move || {
                    det::run_from_power_on(guest, schedule, &epoch, Limits::default(), &run_dir)
                })
            };
            let running: Vec<_> = cases.iter().enumerate().map(start).collect();
            let n_programs = rerun.case.batch.len();
            let lost = || EpochOutcome::failed(EpochEnd::Machine("a run panicked".into()), n_programs);
            running.into_iter().map(|run| run.join().unwrap_or_else(|_| lost())).collect()
        });
        for (job, outcome) in outcomes.into_iter().enumerate() {
            if !each(round * rerun.jobs + job, outcome)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn tell(case: &Case, outcome: &EpochOutcome) -> Result<String> {
    Ok(match case.judge(outcome) {
        Showing::Same(report) => report.title,
        Showing::Other(report) => format!("another bug: {}", report.title),
        Showing::None => "no report".to_owned(),
        Showing::Infrastructure(why) => bail!("a guest failed: {why}"),
    })
}

fn hash(console: &[u8]) -> String {
    blake3::hash(console).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_read_as_it_was_written_and_unknown_keys_are_errors() {
        let portable = Portable {
            title: "BUG: `x`".into(),
            qemu_version: "QEMU emulator version 7.2.22".into(),
            artifacts: BTreeMap::from([("kernel".to_owned(), "ab".to_owned())]),
            schedule: Schedule::default(),
            canary: 1,
            leak_scan: false,
            batch: vec!["schedule vcpus=4 shift=1\nthread cpu=0\n  yield\n".into()],
            delay: 3,
            console: hash(b"x"),
            console_bytes: 1,
            runs: 3,
        };
        let text = serde_yaml::to_string(&portable).unwrap();
        assert_eq!(serde_yaml::from_str::<Portable>(&text).unwrap(), portable);
        assert!(serde_yaml::from_str::<Portable>(&format!("{text}more: 1\n")).is_err());
    }
}
