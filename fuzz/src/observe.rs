// SPDX-License-Identifier: MIT OR Apache-2.0
//! What LibAFL observes of a program that ran: which edges it took, how its shrinkers lived, how long it was at it.

use std::{borrow::Cow, time::Duration};

use abi::{
    layout::{MEMCG_ROOT, N_SLOTS, kind},
    ops::{self, Field, OPS},
    shm::MAP_ENTRIES,
};
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

/// Entries of the map LibAFL sees: the guest's edge map, then [`LIFE_ENTRIES`].
pub const OBSERVED_ENTRIES: usize = MAP_ENTRIES + LIFE_ENTRIES;
/// Ops with a slot that the life map can tell apart.
const SLOTTED_MAX: usize = 24;
/// Entries for pairs of ops that succeeded one after the other on one slot, by the slot's flags and by whether the
/// thread was in a group of its own. Reclaim's edges say little about what state the API is in; these do.
const LIFE_ENTRIES: usize = SLOTTED_MAX * SLOTTED_MAX * 8 * 2;

/// The map, remembering which entries each corpus program hits.
pub type EdgeMap = ExplicitTracking<OwnedMapObserver<u8>, true, false>;

/// (entry of the observed map, bucket) of everything a program hit; each entry once.
pub fn observed(program: &Program, outcome: &ProgramOutcome) -> Vec<(usize, u8)> {
    let edges = outcome.cover.iter().map(|&(idx, count)| (usize::from(idx), bucket(count)));
    let mut all: Vec<(usize, u8)> = edges.filter(|&(_, bucket)| bucket > 0).collect();
    let mut lives = lives(program, &outcome.op_results);
    lives.sort_unstable();
    lives.dedup();
    all.extend(lives.into_iter().map(|entry| (MAP_ENTRIES + entry, 1)));
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

/// Entries of the life map, with repeats.
fn lives(program: &Program, op_results: &[Option<i32>]) -> Vec<usize> {
    let mut out = Vec::new();
    let mut results = op_results.iter().copied();
    for thread in &program.threads {
        let mut last = [None; N_SLOTS];
        let mut flags = [0_u32; N_SLOTS];
        let mut grouped = false;
        for op in &thread.ops {
            let worked = results.next().flatten().is_some_and(|result| result >= 0);
            if !worked {
                continue;
            }
            if op.kind == kind::MEMCG_ENTER {
                grouped = op.memcg != MEMCG_ROOT;
            }
            let (Some(idx), Some(slot)) = (slotted_idx(op.kind), last.get_mut(usize::from(op.slot))) else {
                continue;
            };
            let flags = &mut flags[usize::from(op.slot)];
            if op.kind == kind::ALLOC {
                *flags = op.a & 7;
            }
            if let Some(before) = slot.replace(idx) {
                let pair = before * SLOTTED_MAX + idx;
                out.push((pair * 8 + *flags as usize) * 2 + usize::from(grouped));
            }
        }
    }
    out
}

/// Index of an op kind among those that name a slot.
fn slotted_idx(kind: u8) -> Option<usize> {
    let slotted = OPS.iter().filter(|spec| spec.args.iter().any(|arg| arg.field == Field::Slot));
    ops::spec(kind)?;
    slotted.take(SLOTTED_MAX).position(|spec| spec.kind == kind)
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

    #[test]
    fn every_op_with_a_slot_has_a_life_index() {
        for spec in OPS.iter().filter(|spec| spec.args.iter().any(|arg| arg.field == Field::Slot)) {
            assert!(slotted_idx(spec.kind).is_some(), "{}: raise SLOTTED_MAX", spec.name);
        }
        assert_eq!(slotted_idx(kind::YIELD), None);
    }

    #[test]
    fn a_life_is_seen_only_where_ops_worked() {
        let text =
            "thread cpu=0\n alloc slot=1 flags=memcg name=0\n register slot=1\n free slot=2\n free slot=1\n";
        let program: Program = text.parse().unwrap();
        let all = lives(&program, &[Some(0), Some(0), Some(0), Some(0)]);
        assert_eq!(all.len(), 2, "alloc-register and register-free; slot 2 has no past");
        assert_eq!(lives(&program, &[Some(0), Some(-11), Some(0), Some(0)]).len(), 1, "alloc-free");
        assert_eq!(lives(&program, &[None; 4]), [0; 0]);
        assert!(all.iter().all(|&entry| entry < LIFE_ENTRIES));
    }
}
