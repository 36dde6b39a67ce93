// SPDX-License-Identifier: MIT OR Apache-2.0
//! How small a finding of the scoreboard became, and whether what is left shows it again.

use std::{collections::HashSet, fmt, path::Path};

use ::fuzz::{disk, findings};
use abi::layout::kind;
use anyhow::{Context, Result};
use harness::program::Program;
use serde::{Deserialize, Serialize};

use crate::{
    fuzz,
    prepare::Prepared,
    rerun::{Rerun, Showing},
};

/// Runs of a finding that was made small.
const AGAIN: u32 = 20;

/// A finding, made small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Small {
    /// Programs, threads and ops it was found with.
    programs_before: usize,
    threads_before: usize,
    ops_before: usize,
    /// What is left of them.
    programs: usize,
    threads: usize,
    ops: usize,
    /// Preemption points among the ops left.
    preemptions: usize,
    /// Runs it took, and wall time since it was found, seconds.
    runs: u64,
    seconds: f64,
    /// Runs of what is left, each in a fresh guest, and how many showed the same bug.
    again: u32,
    same: u32,
    /// Different consoles among those.
    consoles: usize,
}

impl fmt::Display for Small {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} -> {} ops, {} thread(s), {} preemption(s) left, {} runs in {:.0} s; {} of {} again",
            self.ops_before,
            self.ops,
            self.threads,
            self.preemptions,
            self.runs,
            self.seconds,
            self.same,
            self.again
        )
    }
}

/// Runs a minimised finding again, in fresh guests, and keeps its folder in another place; it took `seconds` to make it small.
///
/// # Errors
/// When a guest fails or the folder cannot be written.
pub fn keep(prepared: &Prepared, folder: &Path, kept: &Path, seconds: f64) -> Result<Small> {
    let mut rerun = Rerun::of(prepared, folder)?;
    let case = rerun.case.clone();
    let (mut consoles, mut same) = (HashSet::new(), 0);
    rerun.run(&vec![case.epoch(); AGAIN as usize], &mut |_, outcome| {
        let outcome = outcome.context("a guest did not answer")?;
        same += u32::from(matches!(case.judge(&outcome), Showing::Same(_)));
        consoles.insert(blake3::hash(&outcome.console));
        Ok(())
    })?;
    let stored = rerun.stored.as_ref().context("a finding was opened")?;
    let mut evidence = stored.evidence(&fuzz::annotator(&rerun.machine));
    let engine = evidence.record.provenance.engine.clone();
    evidence.record.rates.insert(engine, findings::Rate { n_runs: AGAIN, n_same: same });
    findings::update(&evidence, folder)?;
    disk::copy_dir(folder, kept)?;
    let record = evidence.record;
    let before = record.minimized.context("it is minimised")?;
    let ops = || case.batch.iter().flat_map(|program| &program.threads).flat_map(|thread| &thread.ops);
    Ok(Small {
        programs_before: before.batch,
        threads_before: before.threads,
        ops_before: before.ops,
        programs: case.batch.len(),
        threads: case.batch.last().map_or(0, |program| program.threads.len()),
        ops: case.batch.last().map_or(0, Program::n_ops),
        preemptions: ops().filter(|op| kind::PREEMPTIONS.contains(&op.kind)).count(),
        runs: before.runs,
        seconds,
        again: AGAIN,
        same,
        consoles: consoles.len(),
    })
}
