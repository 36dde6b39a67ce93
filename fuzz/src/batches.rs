// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that wait for an epoch, by schedule, because all programs of an epoch share one; and how many make an epoch.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use harness::program::Schedule;

use crate::{chooser::Choice, config::BatchSize};

/// Fewest programs of an adapted epoch.
pub const BATCH_MIN: usize = 8;
/// Most programs of an adapted epoch.
pub const BATCH_MAX: usize = 512;
/// Programs of the first epochs, when nothing was measured.
const BATCH_FIRST: usize = 32;
/// How often a program is put back in line by epochs that got nowhere, before it is let go.
const STUCK_MAX: u8 = 8;

/// A program in line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What was chosen.
    pub choice: Choice,
    /// Epochs it was part of that ran no program at all.
    pub n_stuck: u8,
}

/// Whether the epoch that programs come back from got anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// It ran programs, or found the one to blame: the line gets shorter however often this happens.
    Advanced,
    /// It did not.
    Stuck,
}

/// Programs in line, first come first served within a schedule.
#[derive(Debug, Default)]
pub struct Batches {
    lines: BTreeMap<Schedule, VecDeque<Waiting>>,
}

impl Batches {
    /// Puts a program in line.
    pub fn push(&mut self, choice: Choice) {
        let line = self.lines.entry(choice.program.schedule).or_default();
        line.push_back(Waiting { choice, n_stuck: 0 });
    }

    /// Puts programs that did not get their turn back at the head of the line, in their order.
    pub fn requeue(&mut self, programs: Vec<Waiting>, why: Requeue) {
        for mut waiting in programs.into_iter().rev() {
            waiting.n_stuck += u8::from(why == Requeue::Stuck);
            if waiting.n_stuck <= STUCK_MAX {
                self.lines.entry(waiting.choice.program.schedule).or_default().push_front(waiting);
            }
        }
    }

    /// A whole batch, when a line has that many.
    pub fn take(&mut self, n_programs: usize) -> Option<Vec<Waiting>> {
        let line = self.lines.values_mut().find(|line| line.len() >= n_programs)?;
        Some(line.drain(..n_programs).collect())
    }
}

/// How many programs make an epoch.
#[derive(Clone, Debug)]
pub struct Pace {
    size: BatchSize,
    n_programs: usize,
    /// Guest wall time per program, seconds, moving average.
    secs_per_program: Option<f64>,
}

impl Pace {
    /// Starts with what a stored campaign had found right, if there is one.
    pub fn new(size: BatchSize, stored: Option<usize>) -> Pace {
        let n_programs = match size {
            BatchSize::Fixed(n) => n.max(1),
            BatchSize::Aim(_) => stored.unwrap_or(BATCH_FIRST).clamp(BATCH_MIN, BATCH_MAX),
        };
        Pace { size, n_programs, secs_per_program: None }
    }

    /// Programs of the next epoch.
    pub fn n_programs(&self) -> usize {
        self.n_programs
    }

    /// Learns from an epoch that died. Programs far behind the place where epochs die only wait in line, chosen before
    /// anything was learned of those ahead of them.
    pub fn died(&mut self, n_finished: usize) {
        if matches!(self.size, BatchSize::Aim(_)) && 4 * n_finished < self.n_programs {
            self.n_programs = (self.n_programs / 2).max(BATCH_MIN);
        }
    }

    /// Learns from an epoch that ran to its end. The size moves by factors of two, and only when it is off by more: measured time is the one
    /// thing that differs between two campaigns of one seed, so it should seldom matter.
    pub fn learn(&mut self, in_guest: Duration, n_finished: usize) {
        let BatchSize::Aim(aim) = self.size else { return };
        if n_finished < BATCH_MIN / 2 {
            return;
        }
        let new = in_guest.as_secs_f64() / n_finished as f64;
        let mean = self.secs_per_program.map_or(new, |old| 0.7 * old + 0.3 * new);
        self.secs_per_program = Some(mean);
        let wanted = aim.as_secs_f64() / mean.max(1e-6);
        if wanted > 2.0 * self.n_programs as f64 {
            self.n_programs = (self.n_programs * 2).min(BATCH_MAX);
        } else if wanted < 0.7 * self.n_programs as f64 {
            self.n_programs = (self.n_programs / 2).max(BATCH_MIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use harness::program::{Audit, Program, Thread};

    use super::*;

    fn choice(cpu: u8, vcpus: u8) -> Choice {
        let schedule = Schedule { vcpus, shift: 3 };
        let threads = vec![Thread { cpu, ops: Vec::new() }];
        Choice { program: Program { schedule, audit: Audit::Light, threads }, parent: None }
    }

    fn cpus(batch: &[Waiting]) -> Vec<u8> {
        batch.iter().map(|waiting| waiting.choice.program.threads[0].cpu).collect()
    }

    #[test]
    fn a_batch_has_one_schedule_and_requeued_programs_go_first() {
        let mut batches = Batches::default();
        for cpu in 0..4 {
            batches.push(choice(cpu, if cpu == 1 { 4 } else { 2 }));
        }
        assert_eq!(batches.take(4), None);
        let batch = batches.take(2).unwrap();
        assert_eq!(cpus(&batch), [0, 2]);
        batches.requeue(batch, Requeue::Advanced);
        assert_eq!(cpus(&batches.take(3).unwrap()), [0, 2, 3]);
        assert_eq!(cpus(&batches.take(1).unwrap()), [1]);
    }

    #[test]
    fn a_program_is_let_go_only_when_its_epochs_get_nowhere() {
        let mut batches = Batches::default();
        batches.push(choice(0, 2));
        for _ in 0..1000 {
            let batch = batches.take(1).unwrap();
            batches.requeue(batch, Requeue::Advanced);
        }
        for _ in 0..=STUCK_MAX {
            let batch = batches.take(1).unwrap();
            batches.requeue(batch, Requeue::Stuck);
        }
        assert_eq!(batches.take(1), None);
    }

    #[test]
    fn the_batch_grows_and_shrinks_towards_the_aim() {
        let mut pace = Pace::new(BatchSize::Aim(Duration::from_secs(3)), None);
        for _ in 0..10 {
            pace.learn(Duration::from_millis(4) * pace.n_programs() as u32, pace.n_programs());
        }
        assert_eq!(pace.n_programs(), 512);
        for _ in 0..20 {
            pace.learn(Duration::from_millis(100) * pace.n_programs() as u32, pace.n_programs());
        }
        assert_eq!(pace.n_programs(), 32);
        pace.died(10);
        pace.died(0);
        pace.died(0);
        pace.died(0);
        assert_eq!(pace.n_programs(), BATCH_MIN);
        let mut fixed = Pace::new(BatchSize::Fixed(5), Some(99));
        fixed.learn(Duration::from_secs(60), 5);
        fixed.died(0);
        assert_eq!(fixed.n_programs(), 5);
    }
}
