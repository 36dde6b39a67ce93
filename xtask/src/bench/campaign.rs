// SPDX-License-Identifier: MIT OR Apache-2.0
//! A short campaign, the real command: what share of its time guests spend running programs.
//!
//! An epoch counts when it is answered, so the one in flight at the end never does, and the campaign begins with small
//! epochs; of a campaign of hours that is nothing, of one of seconds a third. So the share that is judged is taken from the
//! first answer to the last. The share of the whole stands beside it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use ::fuzz::status::Status;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::{
    Bench, engine_name,
    figure::{Aim, Figure, Spread},
};
use crate::{exit::Exit, prepare::MachineArgs};

/// Where a campaign keeps its status lines.
const STATS: &str = "stats.jsonl";

/// Share of wall time in programs, programs and ops a second.
pub fn figures(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let dir = bench.run_dir.path().join("campaign");
    let engine = engine_name(bench.execution);
    let status = Command::new(std::env::current_exe().context("path of this program")?)
        .arg("fuzz")
        .args(["--fresh", "--time", &format!("{}s", bench.args.campaign.as_secs()), "--engine", engine])
        .arg("--dir")
        .arg(&dir)
        .args(machine_args(&bench.args.machine))
        .stdout(Stdio::null())
        .status()
        .context("start a campaign")?;
    if ![Exit::Pass as i32, Exit::Finding as i32].map(Some).contains(&status.code()) {
        bail!("the campaign failed: {status}");
    }
    let statuses = statuses(&dir)?;
    let status = statuses.last().context("the campaign said nothing")?;
    let jobs = bench.args.machine.jobs.unwrap_or(bench.prepared.jobs);
    let new = |name, unit, value| Figure::new(name, engine, jobs, unit, Spread::exact(value));
    Ok(vec![
        new("campaign time in programs", "%", steady_share(&statuses) * 100.0)
            .against("all of it", Spread::exact(100.0))
            .aiming(Aim::AtLeast(0.8)),
        new("  with its start and end", "%", status.share_in_programs * 100.0),
        new("campaign programs a second", "/s", status.execs_per_sec),
        new("campaign ops a second", "/s", status.ops_per_sec),
    ])
}

/// The options that make the campaign's machine the one measured here.
fn machine_args(args: &MachineArgs) -> Vec<String> {
    let mut out = vec![format!("--instance={}", args.instance), format!("--append={}", args.append)];
    out.extend(args.linux.iter().map(|dir| format!("--linux={}", dir.display())));
    out.extend(args.patch.iter().map(|patch| format!("--patch={}", patch.display())));
    out.extend(args.accel.to_possible_value().map(|accel| format!("--accel={}", accel.get_name())));
    out.extend(args.jobs.map(|jobs| format!("--jobs={jobs}")));
    out
}

/// A campaign's status lines.
fn statuses(dir: &Path) -> Result<Vec<Status>> {
    let path = dir.join(STATS);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let parse = |line| serde_json::from_str(line).with_context(|| path.display().to_string());
    text.lines().map(parse).collect()
}

/// Share of the time between the first answer and the last.
fn steady_share(statuses: &[Status]) -> f64 {
    // (seconds, seconds in programs a job) of each line that brought an answer.
    let mut answers: Vec<(f64, f64)> = Vec::new();
    for status in statuses.iter().filter(|status| status.epochs > 0) {
        let point = (status.elapsed_secs, status.share_in_programs * status.elapsed_secs);
        // The share is a quotient: equal sums differ in the last digits.
        if answers.last().is_none_or(|last| point.1 - last.1 > 1e-6 * point.1) {
            answers.push(point);
        }
    }
    match (answers.first(), answers.last()) {
        (Some(first), Some(last)) if last.0 > first.0 => (last.1 - first.1) / (last.0 - first.0),
        _ => statuses.last().map_or(0.0, |status| status.share_in_programs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_share_leaves_out_what_no_answer_came_from() {
        // Answers after 5, 15 and 25 s, 9 s of programs in each of the last two.
        let line = |elapsed_secs: f64, in_programs: f64| Status {
            elapsed_secs,
            share_in_programs: in_programs / elapsed_secs,
            epochs: u64::from(in_programs > 0.0),
            ..Status::default()
        };
        let lines = [
            line(2.0, 0.0),
            line(5.0, 1.0),
            line(9.0, 1.0),
            line(15.0, 10.0),
            line(25.0, 19.0),
            line(31.0, 19.0),
        ];
        assert!((steady_share(&lines) - 0.9).abs() < 1e-6);
        assert_eq!(steady_share(&lines[..1]), 0.0);
    }
}
