// SPDX-License-Identifier: MIT OR Apache-2.0
//! A short campaign, the real command: what share of its time guests spend running programs.
//!
//! An epoch counts when it is answered, so the one in flight at the end never does, and a campaign begins with a boot; of
//! a campaign of hours that is nothing, of one of seconds a third. So the share that is judged is taken from the start of
//! the first epoch to the last answer. The share of the whole stands beside it.

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
        new("campaign time in programs", "%", steady_share(&statuses, jobs) * 100.0)
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

/// Share of the time from the start of the first epoch to the last answer.
fn steady_share(statuses: &[Status], jobs: usize) -> f64 {
    /// Seconds in programs, all jobs together.
    fn in_programs(status: &Status, jobs: usize) -> f64 {
        status.share_in_programs * status.elapsed_secs * jobs as f64
    }
    let Some(first) = statuses.iter().find(|status| status.epochs > 0) else { return 0.0 };
    // The first epochs are alike and run side by side, so each took its part of the time they took together.
    let began = first.elapsed_secs - in_programs(first, jobs) / first.epochs as f64;
    let last_epoch = statuses.last().map_or(0, |status| status.epochs);
    let last = statuses.iter().find(|status| status.epochs == last_epoch).unwrap_or(first);
    in_programs(last, jobs) / (jobs as f64 * (last.elapsed_secs - began))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_share_begins_with_the_first_epoch_and_ends_with_the_last_answer() {
        // Two guests, 10 s of boot; epochs of 4 s and 9 s on each, with 1 s between them, and one that is not answered.
        let line = |elapsed_secs: f64, epochs: u64, in_programs: f64| Status {
            elapsed_secs,
            share_in_programs: in_programs / 2.0 / elapsed_secs,
            epochs,
            ..Status::default()
        };
        let lines = [
            line(9.0, 0, 0.0),
            line(14.0, 2, 8.0),
            line(20.0, 2, 8.0),
            line(24.0, 4, 26.0),
            line(30.0, 4, 26.0),
        ];
        assert!((steady_share(&lines, 2) - 13.0 / 14.0).abs() < 1e-6);
        assert_eq!(steady_share(&lines[..1], 2), 0.0);
    }
}
