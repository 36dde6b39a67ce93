// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run that shows a finding, and how it takes the place of what is stored.

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

use super::{Case, Rerun, Showing};
use crate::fuzz;

/// A case that was run, and what the run was like.
pub struct Shown {
    case: Case,
    outcome: EpochOutcome,
    /// What it showed.
    pub report: Report,
}

impl Rerun {
    /// Runs each case once; the first that shows the finding.
    ///
    /// # Errors
    /// When a guest does not answer.
    pub fn first_shown(&mut self, cases: &[Case]) -> Result<Option<Shown>> {
        let epochs: Vec<Epoch> = cases.iter().map(Case::epoch).collect();
        let mut shown = None;
        self.run(&epochs, &mut |nth, outcome| {
            let outcome = outcome.context("a guest did not answer")?;
            if let (Showing::Same(report), None) = (cases[nth].judge(&outcome), &shown) {
                shown = Some(Shown { case: cases[nth].clone(), outcome, report: *report });
            }
            Ok(())
        })?;
        Ok(shown)
    }

    /// Stores such a run of the deterministic engine in a finding's folder, in place of what is there.
    ///
    /// # Errors
    /// When the engine is another, or the folder cannot be written.
    pub fn keep(&mut self, shown: Shown, stored: &Stored, folder: &Path) -> Result<()> {
        self.case = shown.case;
        let (mut report, console) = (shown.report, shown.outcome.console);
        let annotate = fuzz::annotator(&self.machine);
        let excerpt = report::excerpt(&report, &console, &annotate);
        // What it was found by is another name of it.
        report.add_titles(stored.verdict.titles().map(str::to_owned));
        let snapshot = self.snapshot("to store a run")?.manifest.id;
        let (case, old) = (&self.case, stored.evidence(&annotate));
        let leaks = case.epoch().leaks();
        let record = findings::Record {
            provenance: fuzz::provenance(&self.machine, Execution::Deterministic, Some(snapshot), leaks),
            schedule: case.schedule,
            confirmed: true,
            // Of another program.
            standalone: None,
            ..old.record.clone()
        };
        findings::store(
            &Evidence { report, console, excerpt, batch: case.batch.clone(), record, ..old },
            folder,
        )
    }
}
