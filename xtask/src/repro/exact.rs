// SPDX-License-Identifier: MIT OR Apache-2.0
//! A finding of the parallel engine shows now and then. Here it is looked for under the deterministic engine: its programs
//! under one schedule after another, with one delay after another, until a run shows it. Such a run is the same each time,
//! and takes the place of what is stored.

use std::path::Path;

use ::fuzz::{
    findings::{self, Evidence, Stored},
    report,
};
use anyhow::{Context, Result};
use harness::{
    epoch::{Epoch, EpochOutcome},
    guest::Execution,
    oracle::Report,
};

use crate::{
    fuzz,
    prepare::Engine,
    rerun::{Case, Elsewhere, Rerun, Showing},
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
        let mut case = Case { schedule, ..rerun.case.clone() };
        case.batch.iter_mut().for_each(|program| program.schedule = schedule);
        let cases: Vec<Case> = (0..n_runs).map(|nth| case.delayed(nth)).collect();
        for cases in cases.chunks(rerun.jobs) {
            let shown = first_shown(&mut rerun, cases)?;
            n_made += cases.len();
            let Some((nth, outcome, report)) = shown else { continue };
            rerun.case = cases[nth].clone();
            println!("deterministic engine: run {n_made} shows {}", report.title);
            findings::store(&evidence(&rerun, stored, outcome, report)?, folder)?;
            return Ok(true);
        }
    }
    println!("deterministic engine: none of {n_made} runs shows it");
    Ok(false)
}

/// Runs each case once; the first that shows the finding.
fn first_shown(rerun: &mut Rerun, cases: &[Case]) -> Result<Option<(usize, EpochOutcome, Report)>> {
    let epochs: Vec<Epoch> = cases.iter().map(Case::epoch).collect();
    let mut shown = None;
    rerun.run(&epochs, &mut |nth, outcome| {
        let outcome = outcome.context("a guest did not answer")?;
        if let (Showing::Same(report), None) = (cases[nth].judge(&outcome), &shown) {
            shown = Some((nth, outcome, *report));
        }
        Ok(())
    })?;
    Ok(shown)
}

fn evidence(rerun: &Rerun, stored: &Stored, outcome: EpochOutcome, mut report: Report) -> Result<Evidence> {
    let annotate = fuzz::annotator(&rerun.machine);
    let excerpt = report::excerpt(&report, &outcome.console, &annotate);
    // What it was found by is another name of it.
    report.add_titles(stored.verdict.titles().map(str::to_owned));
    let snapshot = rerun.snapshot("repro")?.manifest.id;
    let (case, old) = (&rerun.case, stored.evidence(&annotate));
    let leaks = case.epoch().leaks();
    let record = findings::Record {
        provenance: fuzz::provenance(&rerun.machine, Execution::Deterministic, Some(snapshot), leaks),
        schedule: case.schedule,
        confirmed: true,
        // Of another program.
        standalone: None,
        ..old.record.clone()
    };
    Ok(Evidence { report, console: outcome.console, excerpt, batch: case.batch.clone(), record, ..old })
}
