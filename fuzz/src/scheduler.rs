// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which corpus program is mutated next. For every edge the cheapest program (ops times guest time) is remembered;
//! those are the favoured. LibAFL's own minimizer does the same but walks a randomly seeded hash map, so that two
//! campaigns with one seed part ways, and takes everything below a millisecond for free. A campaign that is about
//! something in particular mostly mutates the programs that reach it, and their offspring.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use libafl::{
    Error, HasMetadata,
    corpus::{Corpus, CorpusId},
    feedbacks::MapIndexesMetadata,
    schedulers::Scheduler,
    state::{HasCorpus, HasRand},
};
use libafl_bolts::{HasLen, rands::Rand};

/// Share of picks that go to favoured programs.
const FAVOURED_PROB: f64 = 0.8;
/// Share of picks that go to programs in the focus, where there is one.
const FOCUS_PROB: f64 = 0.75;
/// How many picks a crash among the children costs a program: a known bug must not eat the campaign.
const BLAME_PICKS: u64 = 16;

/// What a program costs, in no particular unit: its ops times its guest time, neither ever free.
pub fn cost(guest_time: Duration, n_ops: usize) -> u64 {
    (guest_time.as_micros() as u64 + 100).saturating_mul(n_ops as u64 + 4)
}

/// Prefers small and fast programs, among them those picked least often.
#[derive(Clone, Debug, Default)]
pub struct SmallFast {
    /// By edge: the cheapest program that hits it, and its cost.
    best: Vec<Option<(u64, CorpusId)>>,
    /// Programs that are the best at something.
    favoured: Vec<CorpusId>,
    /// Every program.
    all: Vec<CorpusId>,
    /// Those that the campaign is about, in ascending order.
    focus: Vec<CorpusId>,
    /// Times a program was picked, blame included.
    n_picks: BTreeMap<CorpusId, u64>,
}

impl SmallFast {
    /// A child of that program crashed the kernel.
    pub fn blame(&mut self, parent: CorpusId) {
        *self.n_picks.entry(parent).or_default() += BLAME_PICKS;
    }

    /// The campaign is about that program, which is the newest in the corpus.
    pub fn focus_on(&mut self, id: CorpusId) {
        self.focus.push(id);
    }

    /// Whether the campaign is about that program.
    pub fn is_focus(&self, id: CorpusId) -> bool {
        self.focus.binary_search(&id).is_ok()
    }

    /// Whether a program of that cost would be the best at an edge by a factor of two: worth keeping although it shows
    /// nothing new, or the corpus would stay as large and slow as its programs were when they were found.
    pub fn improves(&self, cost: u64, mut edges: impl Iterator<Item = usize>) -> bool {
        edges.any(|edge| self.best.get(edge).copied().flatten().is_some_and(|(best, _)| 2 * cost <= best))
    }

    fn offer(&mut self, id: CorpusId, cost: u64, edges: &[usize]) {
        self.all.push(id);
        for &edge in edges {
            if edge >= self.best.len() {
                self.best.resize(edge + 1, None);
            }
            if self.best[edge].is_none_or(|(best, _)| cost < best) {
                self.best[edge] = Some((cost, id));
            }
        }
        let favoured: BTreeSet<CorpusId> = self.best.iter().flatten().map(|&(_, id)| id).collect();
        self.favoured = favoured.into_iter().collect();
    }
}

impl<I, S> Scheduler<I, S> for SmallFast
where
    I: HasLen,
    S: HasCorpus<I> + HasRand,
{
    fn on_add(&mut self, state: &mut S, id: CorpusId) -> Result<(), Error> {
        let mut testcase = state.corpus().get(id)?.borrow_mut();
        let guest_time = testcase.exec_time().unwrap_or_default();
        let n_ops = testcase.input().as_ref().map_or(0, HasLen::len);
        // Read once, then of no use: thousands of indexes a program.
        let edges = testcase.metadata_map_mut().remove::<MapIndexesMetadata>();
        let edges =
            edges.ok_or_else(|| Error::illegal_state("the map observer does not track its indexes"))?;
        self.offer(id, cost(guest_time, n_ops), &edges.list);
        Ok(())
    }

    fn next(&mut self, state: &mut S) -> Result<CorpusId, Error> {
        let from = if !self.focus.is_empty() && state.rand_mut().coinflip(FOCUS_PROB) {
            &self.focus
        } else if state.rand_mut().coinflip(FAVOURED_PROB) {
            &self.favoured
        } else {
            &self.all
        };
        if from.is_empty() {
            return Err(Error::empty("no program in the corpus"));
        }
        let mut draw = || from[state.rand_mut().below_or_zero(from.len())];
        let (a, b) = (draw(), draw());
        let n_picks = |id| self.n_picks.get(&id).copied().unwrap_or(0);
        let id = if n_picks(b) < n_picks(a) { b } else { a };
        *self.n_picks.entry(id).or_default() += 1;
        self.set_current_scheduled(state, Some(id))?;
        Ok(id)
    }

    fn set_current_scheduled(&mut self, state: &mut S, next_id: Option<CorpusId>) -> Result<(), Error> {
        *state.corpus_mut().current_mut() = next_id;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_program_of_an_edge_is_favoured() {
        let mut scheduler = SmallFast::default();
        scheduler.offer(CorpusId(0), 100, &[1, 2, 3]);
        scheduler.offer(CorpusId(1), 10, &[1, 2]);
        assert_eq!(scheduler.favoured, [CorpusId(0), CorpusId(1)]);
        scheduler.offer(CorpusId(2), 10, &[1, 3]);
        assert_eq!(scheduler.favoured, [CorpusId(1), CorpusId(2)], "nothing is left that 0 is best at");
        assert!(scheduler.improves(5, [2].into_iter()) && !scheduler.improves(6, [2].into_iter()));
        assert!(!scheduler.improves(1, [4, 99].into_iter()), "nobody hits these");
    }
}
