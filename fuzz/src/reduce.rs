// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which programs of a batch a finding takes: a search over index sets, one epoch a step. Pure: the campaign runs the
//! epochs and says what they showed.

/// A search. Indexes are those of the batch as found, up to and including the program in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduction {
    /// The smallest set known to show the finding.
    best: Vec<usize>,
    /// Sets to try, most promising last.
    to_try: Vec<Vec<usize>>,
    n_runs: usize,
}

/// Epochs one reduction may take.
const RUNS_MAX: usize = 24;

impl Reduction {
    /// Of a batch of so many programs, the last of which was in flight.
    ///
    /// Mostly that one alone does it. A finding that shows only when the batch is over (a leak) has no such program,
    /// and one that needs what came before has more: then halves, quarters, … of what is known to suffice are tried.
    /// When nothing smaller does, all of it is run once more: as found, other programs came behind.
    pub fn new(n_programs: usize) -> Reduction {
        let best: Vec<usize> = (0..n_programs).collect();
        let mut to_try = vec![best.clone()];
        if n_programs > 1 {
            to_try.extend(halves(&best));
            to_try.push(vec![n_programs - 1]);
        }
        Reduction { best, to_try, n_runs: 0 }
    }

    /// The set to run next; `None` when the search is over.
    pub fn candidate(&self) -> Option<&[usize]> {
        if self.n_runs >= RUNS_MAX { None } else { self.to_try.last().map(Vec::as_slice) }
    }

    /// What the candidate's epoch showed; true when that is the best evidence so far.
    pub fn learn(&mut self, shown: Shown) -> bool {
        let Some(candidate) = self.to_try.pop() else { return false };
        self.n_runs += 1;
        if shown == Shown::Other {
            return false;
        }
        let is_smaller = candidate.len() < self.best.len();
        self.to_try = if is_smaller && candidate.len() > 1 { halves(&candidate) } else { Vec::new() };
        self.best = candidate;
        true
    }

    /// The smallest set known to show the finding.
    pub fn best(&self) -> &[usize] {
        &self.best
    }
}

/// What the epoch of a candidate showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The finding.
    Same,
    /// Nothing, or something else.
    Other,
}

/// Both halves of a set, the later one (nearer to the finding) last, so that it is tried first.
fn halves(set: &[usize]) -> Vec<Vec<usize>> {
    let (early, late) = set.split_at(set.len() / 2);
    vec![early.to_vec(), late.to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduce(n_programs: usize, shows: impl Fn(&[usize]) -> bool) -> (Vec<usize>, usize) {
        let mut reduction = Reduction::new(n_programs);
        let mut n_runs = 0;
        while let Some(candidate) = reduction.candidate() {
            let shown = if shows(candidate) { Shown::Same } else { Shown::Other };
            reduction.learn(shown);
            n_runs += 1;
        }
        (reduction.best().to_vec(), n_runs)
    }

    #[test]
    fn the_program_in_flight_alone_takes_one_epoch() {
        assert_eq!(reduce(500, |set| set.contains(&499)), (vec![499], 1));
    }

    #[test]
    fn a_culprit_in_the_middle_is_found_by_halving() {
        let (best, n_runs) = reduce(512, |set| set.contains(&77));
        assert_eq!(best, [77]);
        assert!(n_runs <= 19, "{n_runs}");
        assert_eq!(reduce(512, |_| false), ((0..512).collect(), 4), "not one of them shows it again");
    }

    #[test]
    fn what_needs_two_distant_programs_keeps_its_batch() {
        assert_eq!(reduce(8, |set| set.contains(&0) && set.contains(&7)).0, (0..8).collect::<Vec<_>>());
        assert_eq!(reduce(8, |set| set.contains(&6) && set.contains(&7)).0, [6, 7]);
    }

    #[test]
    fn one_program_is_run_by_itself() {
        assert_eq!(reduce(1, |_| true), (vec![0], 1));
    }
}
