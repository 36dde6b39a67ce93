// SPDX-License-Identifier: MIT OR Apache-2.0
//! `regress` through the command line, on real kernels: against itself a kernel is the same to the last digit; with a
//! grace period in `shrinker_free()` it is slower, and blamed is who waits for it; what gives no figures gives no verdict.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{campaign::text_of, checks::Checks, xtask};
use crate::{exit::Exit, matrix::kconfigs};

/// Names of the checks.
pub const NAMES: &[&str] = &[
    "regress: a kernel against itself gives the same figures",
    "regress: a grace period in shrinker_free is a regression, and is blamed",
    "regress: a command that fails gives no verdict",
];

/// Runs them.
pub fn run(checks: &mut Checks) {
    checks.check(NAMES[0], same);
    checks.check(NAMES[1], grace_period);
    checks.check(NAMES[2], failing_command);
}

fn regress(args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = Command::new(xtask()?)
        .arg("regress")
        .args(args)
        .args(["--how", "det"])
        .output()
        .context("start xtask")?;
    Ok((output.status.code(), text_of(&output)))
}

fn json(text: &str) -> Result<Value> {
    let line = text.lines().find(|line| line.starts_with('{')).with_context(|| text.to_owned())?;
    Ok(serde_json::from_str(line)?)
}

fn same() -> Result<()> {
    let (code, text) = regress(&["shrinker-churn", "--a", "perf-6.12", "--seeds", "3", "--json"])?;
    ensure!(code == Some(Exit::Pass as i32), "{code:?}:\n{text}");
    let report = json(&text)?;
    ensure!(report["verdict"] == "SAME", "{text}");
    for line in report["measured"][0]["lines"].as_array().context("no lines")? {
        ensure!(line["a"] == line["b"] && line["a"][0].as_f64() > Some(0.0), "{line}");
    }
    Ok(())
}

fn grace_period() -> Result<()> {
    let patch = kconfigs().join("mutants/6.12/64-srcu-sync-on-free.patch");
    let b = format!("perf-6.12+{}", patch.display());
    let (code, text) = regress(&["umount-latency", "--a", "perf-6.12", "--b", &b, "--seeds", "3", "--json"])?;
    ensure!(code == Some(Exit::Finding as i32), "{code:?}:\n{text}");
    let report = json(&text)?;
    let umount = &report["measured"][0]["lines"][0];
    ensure!(umount["verdict"] == "REGRESSION" && umount["ratio"].as_f64() > Some(5.0), "{umount}");
    let stacks = report["measured"][0]["stacks"].to_string();
    ensure!(stacks.contains("__synchronize_srcu") && stacks.contains("shrinker_free"), "{stacks}");
    Ok(())
}

fn failing_command() -> Result<()> {
    let (code, text) =
        regress(&["command", "--a", "perf-6.12", "--seeds", "1", "--command", "cat /no-such-file"])?;
    ensure!(code == Some(Exit::Skipped as i32), "{code:?}:\n{text}");
    ensure!(
        text.contains("UNSURE") && text.contains("the command failed (1)") && text.contains("no-such-file"),
        "{text}"
    );
    Ok(())
}
