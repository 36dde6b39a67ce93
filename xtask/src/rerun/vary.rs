// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes runs of one case differ where they would all be the same: the `nth` run has another delay before one of the
//! threads, so that races fall differently.

use abi::{
    layout::{Op, kind},
    program::OPS_MAX,
};

use harness::program::Schedule;

use super::Case;

/// The delays of runs, us: none, then ever longer ones before one thread after the other.
const DELAY_STEP_US: u32 = 7;
const DELAY_MAX_US: u32 = 200;

impl Case {
    /// The case under another schedule, with the first `n` delays.
    pub fn under(&self, schedule: Schedule, n: u32) -> Vec<Case> {
        let mut case = Case { schedule, ..self.clone() };
        case.batch.iter_mut().for_each(|program| program.schedule = schedule);
        (0..n).map(|nth| case.delayed(nth)).collect()
    }

    /// The case with the `nth` delay before the threads of its last program.
    pub fn delayed(&self, nth: u32) -> Case {
        let mut case = self.clone();
        let Some(program) = case.batch.last_mut() else { return case };
        let n_threads = program.threads.len() as u32;
        let (Some(nth), true) = (nth.checked_sub(1), n_threads > 0) else { return case };
        let thread = &mut program.threads[(nth % n_threads) as usize];
        let us = 1 + nth / n_threads * DELAY_STEP_US % DELAY_MAX_US;
        thread.ops.truncate(OPS_MAX - 1);
        thread.ops.insert(0, Op { kind: kind::SPIN, a: us, ..Op::default() });
        case
    }
}

#[cfg(test)]
mod tests {
    use harness::program::Program;

    use super::*;

    #[test]
    fn delays_differ_and_programs_stay_valid() {
        let text = "thread cpu=0\n yield\nthread cpu=1\n yield\n";
        let program: Program = text.parse().unwrap();
        let schedule = program.schedule;
        let case = Case { batch: vec![program], schedule, canary: 0, leak_scan: false, titles: Vec::new() };
        let mut seen = std::collections::HashSet::new();
        for nth in 0..40 {
            let program = case.delayed(nth).batch.remove(0);
            assert!(program.is_valid());
            assert!(seen.insert(program), "run {nth} is one of the earlier ones");
        }
        assert_eq!(case.delayed(0).batch, case.batch);
    }
}
