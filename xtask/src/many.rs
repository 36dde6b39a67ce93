// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs many programs, each for itself, on as many guests as the machine has cores for, and hands over what became of each.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Result, bail};
use harness::{
    epoch::{Coverage, Epoch, EpochEnd, ProgramOutcome},
    guest::{Execution, Leaks},
    oracle,
    pool::Pool,
    program::{Program, Schedule},
};

use crate::prepare::Prepared;

/// Programs of an epoch.
const BATCH: usize = 32;
/// An epoch that takes longer than this has failed; nobody waits for ever.
const WAIT: std::time::Duration = std::time::Duration::from_secs(3600);

/// Guests that run programs.
pub struct Many<'a> {
    prepared: &'a mut Prepared,
    pool: Pool,
    /// Titles of what the kernel complained of.
    pub complaints: Vec<String>,
}

impl<'a> Many<'a> {
    /// Guests of that machine; they boot with the first programs of a schedule.
    ///
    /// # Errors
    /// When the folder for running machines cannot be made.
    pub fn new(prepared: &'a mut Prepared) -> Result<Many<'a>> {
        let pool = prepared.pool()?;
        Ok(Many { prepared, pool, complaints: Vec::new() })
    }

    /// Runs programs; `each` gets the index of one and what became of it, in no order. A program that crashes the kernel ends
    /// its epoch; the rest runs in the next.
    ///
    /// # Errors
    /// When a guest fails.
    pub fn run(
        &mut self,
        programs: &[Program],
        coverage: Coverage,
        each: &mut dyn FnMut(usize, &ProgramOutcome),
    ) -> Result<()> {
        let mut by_schedule: BTreeMap<Schedule, Vec<usize>> = BTreeMap::new();
        for (idx, program) in programs.iter().enumerate() {
            by_schedule.entry(program.schedule).or_default().push(idx);
        }
        if self.prepared.execution == Execution::Deterministic {
            let schedules: Vec<Schedule> = by_schedule.keys().copied().collect();
            self.prepared.boot(&schedules, Leaks::Ignore)?;
        }
        // Small enough that no guest idles while another has much to do.
        let n_guests = self.prepared.jobs.max(1);
        let batch = |n: usize| n.div_ceil(n_guests).clamp(1, BATCH);
        let chunks = by_schedule.values().flat_map(|of_one| of_one.chunks(batch(of_one.len())));
        let mut to_run: VecDeque<Vec<usize>> = chunks.map(<[usize]>::to_vec).collect();
        let mut under_way: VecDeque<Vec<usize>> = VecDeque::new();
        loop {
            while under_way.len() < 2 * n_guests
                && let Some(batch) = to_run.pop_front()
            {
                let programs = batch.iter().map(|&idx| programs[idx].clone()).collect();
                self.pool.submit(Epoch { programs, coverage, ..Epoch::default() });
                under_way.push_back(batch);
            }
            let Some(batch) = under_way.pop_front() else { return Ok(()) };
            let Some(outcome) = self.pool.next(WAIT) else { bail!("a guest does not answer") };
            batch.iter().zip(&outcome.programs).for_each(|(&idx, outcome)| each(idx, outcome));
            let n_run = match outcome.end {
                EpochEnd::Done => batch.len(),
                EpochEnd::Kernel | EpochEnd::Deadline => {
                    let title = oracle::judge(&outcome.console).into_iter().next();
                    let title = title.map_or("an unknown complaint".to_owned(), |report| report.title);
                    eprintln!("\nthe kernel complained: {title}");
                    self.complaints.push(title);
                    outcome.in_flight.unwrap_or(0) + 1
                }
                end => bail!("an epoch under schedule {:?} failed: {end:?}", programs[batch[0]].schedule),
            };
            if n_run < batch.len() {
                to_run.push_front(batch[n_run..].to_vec());
            }
        }
    }
}
