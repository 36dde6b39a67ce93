// SPDX-License-Identifier: MIT OR Apache-2.0
//! What LibAFL observes of a program that ran: which edges it took, which situations it brought about, how long it was at it.

use std::{borrow::Cow, time::Duration};

use abi::shm::MAP_ENTRIES;
use harness::{epoch::ProgramOutcome, program::Program};
use libafl::{
    Error,
    corpus::Testcase,
    feedbacks::{Feedback, StateInitializer},
    observers::{ExplicitTracking, Observer, OwnedMapObserver},
};
use libafl_bolts::{
    Named,
    tuples::{Handle, Handled, MatchName, MatchNameRef},
};
use serde::{Deserialize, Serialize};

use crate::situations::{SITUATION_ENTRIES, situations};

/// Entries of the map LibAFL sees: the guest's edge map, then [`situations`].
pub const OBSERVED_ENTRIES: usize = MAP_ENTRIES + SITUATION_ENTRIES;

/// The map, remembering which entries each corpus program hits.
pub type EdgeMap = ExplicitTracking<OwnedMapObserver<u8>, true, false>;

/// (entry of the observed map, bucket) of everything a program hit; each entry once.
pub fn observed(program: &Program, outcome: &ProgramOutcome) -> Vec<(usize, u8)> {
    let edges = outcome.cover.iter().map(|&(idx, count)| (usize::from(idx), bucket(count)));
    let mut all: Vec<(usize, u8)> = edges.filter(|&(_, bucket)| bucket > 0).collect();
    all.extend(situations(program, outcome).into_iter().map(|entry| (MAP_ENTRIES + entry, 1)));
    all
}

/// Classes of hit counts: once, a few times, often, very often. Coarser than AFL's eight, because how often reclaim goes
/// round its loops depends on the state earlier programs left, and a corpus of such chances is of no use.
fn bucket(count: u16) -> u8 {
    match count {
        0..=1 => count as u8,
        2..=7 => 2,
        8..=63 => 3,
        64.. => 4,
    }
}

/// How long a program took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CostObserver {
    /// Guest time of the program that ran last: the same in every run of the deterministic engine, unlike wall time.
    pub guest_time: Duration,
}

static COST_NAME: Cow<'static, str> = Cow::Borrowed("cost");

impl Named for CostObserver {
    fn name(&self) -> &Cow<'static, str> {
        &COST_NAME
    }
}

impl<I, S> Observer<I, S> for CostObserver {}

/// Never interesting by itself; notes the cost of what others find interesting, for the scheduler.
#[derive(Clone, Debug)]
pub struct CostFeedback(Handle<CostObserver>);

impl CostFeedback {
    /// Reads from that observer.
    pub fn new(observer: &CostObserver) -> Self {
        CostFeedback(observer.handle())
    }
}

impl Named for CostFeedback {
    fn name(&self) -> &Cow<'static, str> {
        &COST_NAME
    }
}

impl<S> StateInitializer<S> for CostFeedback {}

impl<EM, I, OT: MatchName, S> Feedback<EM, I, OT, S> for CostFeedback {
    fn append_metadata(
        &mut self,
        _state: &mut S,
        _manager: &mut EM,
        observers: &OT,
        testcase: &mut Testcase<I>,
    ) -> Result<(), Error> {
        if let Some(cost) = observers.get(&self.0) {
            testcase.set_exec_time(cost.guest_time);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_grow_with_the_count() {
        let buckets: Vec<u8> = (0..=u16::MAX).map(bucket).collect();
        assert!(buckets.is_sorted());
        assert_eq!((buckets[0], buckets[1], buckets[5], buckets[65535]), (0, 1, 2, 4));
    }
}
