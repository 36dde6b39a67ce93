// SPDX-License-Identifier: MIT OR Apache-2.0
//! A short campaign, the real command: what share of its time guests spend running programs.

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
    let status = last_status(&dir)?;
    let jobs = bench.args.machine.jobs.unwrap_or(bench.prepared.jobs);
    let new = |name, unit, value| Figure::new(name, engine, jobs, unit, Spread::exact(value));
    Ok(vec![
        new("campaign time in programs", "%", status.share_in_programs * 100.0)
            .against("all of it", Spread::exact(100.0))
            .aiming(Aim::AtLeast(0.8)),
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

/// The last line of a campaign's statistics.
fn last_status(dir: &Path) -> Result<Status> {
    let path = dir.join(STATS);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let line = text.lines().last().with_context(|| format!("{} is empty", path.display()))?;
    serde_json::from_str(line).with_context(|| path.display().to_string())
}
