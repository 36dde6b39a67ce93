// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which corpus program is mutated next. For every edge the cheapest program (ops times guest time) is remembered;
//! those are the favoured. LibAFL's own minimizer does the same but walks a randomly seeded hash map, so that two
//! campaigns with one seed part ways, and takes everything below a millisecond for free.

use std::collections::{BTreeMap, BTreeSet};

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
/// How many picks a crash among the children costs a program: a known bug must not eat the campaign.
const BLAME_PICKS: u64 = 16;

/// Prefers small and fast programs, among them those picked least often.
#[derive(Clone, Debug, Default)]
pub struct SmallFast {
    /// Edge to the cheapest program that hits it, and its cost.
    best: BTreeMap<usize, (u64, CorpusId)>,
    /// Programs that are the best at something.
    favoured: Vec<CorpusId>,
    /// Every program.
    all: Vec<CorpusId>,
    /// Times a program was picked, blame included.
    n_picks: BTreeMap<CorpusId, u64>,
}

impl SmallFast {
    /// A child of that program crashed the kernel.
    pub fn blame(&mut self, parent: CorpusId) {
        *self.n_picks.entry(parent).or_default() += BLAME_PICKS;
    }

    fn offer(&mut self, id: CorpusId, cost: u64, edges: &[usize]) {
        self.all.push(id);
        for &edge in edges {
            let best = self.best.entry(edge).or_insert((cost, id));
            if cost < best.0 {
                *best = (cost, id);
            }
        }
        let favoured: BTreeSet<CorpusId> = self.best.values().map(|&(_, id)| id).collect();
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
        let micros = testcase.exec_time().map_or(0, |time| time.as_micros() as u64);
        let n_ops = testcase.input().as_ref().map_or(0, HasLen::len) as u64;
        // Read once, then of no use: thousands of indexes a program.
        let edges = testcase.metadata_map_mut().remove::<MapIndexesMetadata>();
        let edges =
            edges.ok_or_else(|| Error::illegal_state("the map observer does not track its indexes"))?;
        self.offer(id, (micros + 100) * (n_ops + 4), &edges.list);
        Ok(())
    }

    fn next(&mut self, state: &mut S) -> Result<CorpusId, Error> {
        let from = if state.rand_mut().coinflip(FAVOURED_PROB) { &self.favoured } else { &self.all };
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
    }
}
