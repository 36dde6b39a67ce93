// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes a finding's machine small: fewer CPUs, fewer boot arguments. Each takes a boot to try, so programs are made small
//! first. What shows the finding takes the place of what is stored at once.

use std::path::Path;

use ::fuzz::findings::{self, Stored};
use anyhow::Result;
use harness::program::Schedule;

use crate::{
    matrix,
    rerun::{Elsewhere, Rerun},
};

/// Runs of a simpler machine, each with another delay.
const N_RUNS: u32 = 4;

/// Tries simpler machines; what the finding's is now, in words.
///
/// # Errors
/// When the folder is no finding, or cannot be written.
pub fn simplify(folder: &Path, jobs: Option<usize>) -> Result<Vec<String>> {
    let mut simpler = Vec::new();
    let schedule = findings::load(folder)?.record.schedule;
    for vcpus in 1..schedule.vcpus {
        if shows(folder, &Elsewhere::default(), Schedule { vcpus, ..schedule }, jobs)? {
            simpler.push(format!("with {vcpus} CPU(s)"));
            break;
        }
    }
    let mut kept = 0;
    loop {
        let stored = findings::load(folder)?;
        let asked = stored.record.provenance.extra.get("append").cloned().unwrap_or_default();
        let words: Vec<&str> = asked.split_whitespace().collect();
        let Some(word) = words.get(kept) else { break };
        let others: Vec<&str> = [&words[..kept], &words[kept + 1..]].concat();
        let elsewhere = Elsewhere { append: Some(others.join(" ")), ..Elsewhere::default() };
        if shows(folder, &elsewhere, stored.record.schedule, jobs)? {
            simpler.push(format!("without {word}"));
        } else {
            kept += 1;
        }
    }
    let stored = findings::load(folder)?;
    if let Some(plain) = plain_instance(&stored) {
        let elsewhere = Elsewhere { instance: Some(plain.clone()), ..Elsewhere::default() };
        if shows(folder, &elsewhere, stored.record.schedule, jobs)? {
            simpler.push(format!("on {plain}"));
        }
    }
    Ok(simpler)
}

/// The instance whose kernel the finding's runs under other arguments.
fn plain_instance(stored: &Stored) -> Option<String> {
    matrix::instance(&stored.record.provenance.instance).ok()?.kernel
}

/// Whether the finding shows there; then that is stored.
fn shows(folder: &Path, elsewhere: &Elsewhere, schedule: Schedule, jobs: Option<usize>) -> Result<bool> {
    let stored = findings::load(folder)?;
    let mut rerun = Rerun::cold(folder, elsewhere, jobs)?;
    let cases = rerun.case.under(schedule, N_RUNS);
    rerun.case = cases[0].clone();
    if let Err(error) = rerun.start() {
        // Not every kernel boots everywhere.
        eprintln!("not tried, with {} CPU(s) and {elsewhere:?}: {error:#}", schedule.vcpus);
        return Ok(false);
    }
    for cases in cases.chunks(rerun.jobs) {
        if let Some(shown) = rerun.first_shown(cases)? {
            rerun.keep(shown, &stored, folder)?;
            return Ok(true);
        }
    }
    Ok(false)
}
