// SPDX-License-Identifier: MIT OR Apache-2.0
//! The few programs of a corpus that reach most of what all of it reaches, those that give most for their time first. Pure.

use std::{
    collections::{BinaryHeap, HashSet},
    time::Duration,
};

/// What is spent on a program however short it is, ms.
const OVERHEAD_MS: u128 = 50;

/// A program that ran.
#[derive(Clone, Debug)]
pub struct Sample {
    /// All that it reached: [`crate::observe::observed`].
    pub reached: Vec<(usize, u8)>,
    /// Guest time it took.
    pub time: Duration,
}

/// Indexes of at most `n` samples: each reaches what none before it does. Greedy, the usual approximation of a set cover.
pub fn distill(samples: &[Sample], n: usize) -> Vec<usize> {
    // New entries for each second; fractions do not matter.
    let worth =
        |sample: &Sample, n_new: usize| n_new as u128 * 1000 / (sample.time.as_millis() + OVERHEAD_MS);
    let mut reached: HashSet<(usize, u8)> = HashSet::new();
    let mut chosen = Vec::new();
    // What a sample is worth only ever falls: one that leads with what it is worth now is the best. Ties: the earlier one.
    let whole = samples.iter().enumerate();
    let mut heap: BinaryHeap<_> =
        whole.map(|(idx, sample)| (worth(sample, sample.reached.len()), std::cmp::Reverse(idx), 0)).collect();
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
        let n_new = sample.reached.iter().filter(|entry| !reached.contains(entry)).count();
        if n_new > 0 {
            heap.push((worth(sample, n_new), idx, chosen.len()));
        }
    }
    chosen
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
        assert_eq!(distill(&samples, 9), [1, 3]);
        assert_eq!(distill(&samples, 1), [1]);
        assert_eq!(distill(&[], 3), [0; 0]);
    }

    #[test]
    fn time_is_what_it_costs() {
        let samples = [sample(&[1, 2, 3], 5000), sample(&[1, 2], 1), sample(&[3], 1)];
        assert_eq!(distill(&samples, 9), [1, 2]);
    }
}
