// SPDX-License-Identifier: MIT OR Apache-2.0
//! A finding of the parallel engine shows now and then. Here it is looked for under the deterministic engine: its programs
//! under one schedule after another, with one delay after another, until a run shows it. Such a run is the same each time,
//! and takes the place of what is stored.

use std::path::Path;

use ::fuzz::findings::Stored;
use anyhow::Result;

use crate::{
    fuzz,
    prepare::Engine,
    rerun::{Elsewhere, Rerun},
};

/// Looks for an exact run, with at most so many runs under each schedule, and stores it in the finding's folder; whether
/// there is one.
///
/// # Errors
/// When the machine cannot be made, a guest fails, or the folder cannot be written.
pub fn search(folder: &Path, stored: &Stored, jobs: Option<usize>, n_runs: u32) -> Result<bool> {
    let elsewhere = Elsewhere { engine: Some(Engine::Det), ..Elsewhere::default() };
    println!("looking for a run of the deterministic engine that shows it");
    let mut rerun = Rerun::open(folder, &elsewhere, jobs)?;
    let mut n_made = 0;
    for schedule in fuzz::SCHEDULES {
        for cases in rerun.case.under(schedule, n_runs).chunks(rerun.jobs) {
            n_made += cases.len();
            if let Some(shown) = rerun.first_shown(cases)? {
                println!("deterministic engine: run {n_made} shows {}", shown.report.title);
                rerun.keep(shown, stored, folder)?;
                return Ok(true);
            }
        }
    }
    println!("deterministic engine: none of {n_made} runs shows it");
    Ok(false)
}
