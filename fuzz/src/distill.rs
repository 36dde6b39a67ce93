// SPDX-License-Identifier: MIT OR Apache-2.0
//! The few programs of a corpus that reach most of what all of it reaches, those that give most for their time first; and
//! each as short as still reaches what it was chosen for. Pure.

use std::{
    collections::{BinaryHeap, HashSet},
    time::Duration,
};

use abi::shm::MAP_ENTRIES;
use harness::program::Program;

use crate::{
    minimize::{Candidate, Minimizer},
    reduce::Shown,
};

/// What is spent on a program however short it is, us.
const OVERHEAD_US: u128 = 10_000;
/// One in so many entries may get lost when a program becomes shorter: some are there by chance.
const LOST: usize = 8;

/// What programs reach: entries of the observed map with their buckets.
pub type Reached = HashSet<(usize, u8)>;

/// A program that ran.
#[derive(Clone, Debug)]
pub struct Sample {
    /// All that it reached: [`crate::observe::observed`].
    pub reached: Vec<(usize, u8)>,
    /// Guest time it took.
    pub time: Duration,
}

/// Indexes of at most `n` samples: each reaches what neither `reached` nor one before it does. Greedy, the usual
/// approximation of a set cover.
pub fn distill(samples: &[Sample], reached: &Reached, n: usize) -> Vec<usize> {
    // New entries for each second; fractions do not matter.
    let worth =
        |sample: &Sample, n_new: usize| n_new as u128 * 1_000_000 / (sample.time.as_micros() + OVERHEAD_US);
    let mut reached = reached.clone();
    let mut chosen = Vec::new();
    // What a sample is worth only ever falls: one that leads with what it is worth now is the best. Ties: the earlier one.
    let n_new = |sample: &Sample, reached: &Reached| {
        sample.reached.iter().filter(|entry| !reached.contains(entry)).count()
    };
    let whole = samples.iter().enumerate().map(|(idx, sample)| (idx, sample, n_new(sample, &reached)));
    let mut heap: BinaryHeap<_> = whole
        .filter(|&(_, _, n_new)| n_new > 0)
        .map(|(idx, sample, n_new)| (worth(sample, n_new), std::cmp::Reverse(idx), 0))
        .collect();
    while let Some((_, idx, as_of)) = heap.pop() {
        if chosen.len() == n {
            break;
        }
        let sample = &samples[idx.0];
        if as_of == chosen.len() {
            reached.extend(&sample.reached);
            chosen.push(idx.0);
            continue;
        }
        let n_new = n_new(sample, &reached);
        if n_new > 0 {
            heap.push((worth(sample, n_new), idx, chosen.len()));
        }
    }
    chosen
}

/// A program on its way to being short.
#[derive(Clone, Debug)]
pub struct Trim {
    search: Minimizer,
    /// The edges that it is kept for. Not the situations: nearly each op takes part in one, and mutants bring them back.
    wanted: HashSet<usize>,
    sample: Sample,
}

impl Trim {
    /// Of a program that was chosen when `reached` was reached already.
    pub fn new(program: &Program, sample: &Sample, reached: &Reached) -> Trim {
        let new = sample.reached.iter().filter(|entry| !reached.contains(entry));
        let wanted = new.map(|&(entry, _)| entry).filter(|&entry| entry < MAP_ENTRIES).collect();
        Trim { search: Minimizer::of_ops(program), wanted, sample: sample.clone() }
    }

    /// What to run next; none: it is as short as it gets.
    pub fn candidate(&self) -> Option<Candidate> {
        self.search.candidates(1).pop()
    }

    /// Learns what the candidate reached; none where it did not run to its end.
    pub fn learn(&mut self, candidate: Candidate, sample: Option<Sample>) {
        let enough = |sample: &Sample| {
            let has = |entry: &&(usize, u8)| self.wanted.contains(&entry.0);
            sample.reached.iter().filter(has).count() >= self.wanted.len() - self.wanted.len() / LOST
        };
        let kept = sample.filter(enough);
        let shown = if kept.is_some() { Shown::Same } else { Shown::Other };
        self.search.learn(&[candidate], &[shown]);
        if let Some(sample) = kept {
            self.sample = sample;
        }
    }

    /// The shortest form so far, and what it reaches.
    pub fn finish(self) -> (Program, Sample) {
        (self.search.best(), self.sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(reached: &[usize], ms: u64) -> Sample {
        Sample { reached: reached.iter().map(|&at| (at, 1)).collect(), time: Duration::from_millis(ms) }
    }

    #[test]
    fn what_gives_most_comes_first_and_what_adds_nothing_is_left_out() {
        let samples = [
            sample(&[1, 2], 1),
            sample(&[1, 2, 3, 4], 1),
            sample(&[5], 1),
            sample(&[4, 5, 6], 1),
            sample(&[], 1),
        ];
        let nothing = Reached::new();
        assert_eq!(distill(&samples, &nothing, 9), [1, 3]);
        assert_eq!(distill(&samples, &nothing, 1), [1]);
        assert_eq!(distill(&samples, &Reached::from([(3, 1), (4, 1)]), 9), [0, 3]);
        assert_eq!(distill(&[], &nothing, 3), [0; 0]);
    }

    #[test]
    fn a_program_becomes_as_short_as_reaches_most_of_what_it_is_kept_for() {
        // Each `spin us=N` reaches entry N; who asks for 100 to 115 may do without two of them.
        let reach = |program: &Program| {
            let ops = program.threads.iter().flat_map(|thread| &thread.ops);
            let reached = ops.map(|op| (op.a as usize, 1)).collect();
            Sample { reached, time: Duration::from_millis(1) }
        };
        let text: String = (90..116).map(|us| format!(" spin us={us}\n")).collect();
        let program: Program = format!("thread cpu=0\n{text}").parse().unwrap();
        let known = (90..100).map(|entry| (entry, 1)).collect();
        let mut trim = Trim::new(&program, &reach(&program), &known);
        while let Some(candidate) = trim.candidate() {
            let sample = reach(&candidate.program);
            trim.learn(candidate, Some(sample));
        }
        let (short, sample) = trim.finish();
        assert_eq!((short.n_ops(), sample.reached.len()), (14, 14));
        assert!(sample.reached.iter().all(|&(entry, _)| entry >= 100));
    }

    #[test]
    fn time_is_what_it_costs() {
        let samples = [sample(&[1, 2, 3], 5000), sample(&[1, 2], 1), sample(&[3], 1)];
        assert_eq!(distill(&samples, &Reached::new(), 9), [1, 2]);
    }
}
