// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walks over the allocations that ops make: an op that worked is run again with its first allocation failing, then its
//! second, until there are no more. Error paths are short and lie behind one failure in one place; chance is slow to find
//! them, and this is not. An op that fails when an allocation does has done nothing, so several of its allocations are failed
//! in one program, one after the other; so are those of an op that can be taken back in between. They are spread evenly over
//! those that are left, because what fails side by side is mostly undone by the same lines.
//!
//! No randomness: the same programs are always walked in the same way.

use std::collections::{BTreeSet, VecDeque};

use abi::{
    layout::{Op, kind},
    ops::{self, Domain},
    program::OPS_MAX,
};
use harness::{epoch::ProgramOutcome, program::Program};
use libafl::corpus::CorpusId;

use crate::{chooser::Choice, walk::is_worth};

/// Allocations of one op that are failed: all that `fail_nth` can name. A group makes one for each of its files before any of
/// its own.
const ALLOCATIONS_MAX: u32 = 200;
/// Allocations failed in one program, of an op that fails with them or is taken back between them.
const GROUP: usize = 16;
/// Variants whose answer is waited for; of older ones none came, because the kernel died.
const UNDER_WAY_MAX: usize = 256;

/// What tells ops apart here: the kind, and the arguments that are choices and not numbers.
type Form = (u8, Vec<u32>);

/// Ops whose allocations are being failed, in turn.
#[derive(Debug, Default)]
pub struct Faults {
    /// Kinds that go before all others, each to its end.
    first: Vec<u8>,
    kinds: BTreeSet<u8>,
    forms: BTreeSet<Form>,
    walks: VecDeque<Walk>,
    under_way: VecDeque<(Program, Place, Vec<u32>)>,
}

/// Where an op is in its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    id: CorpusId,
    thread: usize,
    op: usize,
}

#[derive(Debug)]
struct Walk {
    place: Place,
    program: Program,
    /// Allocations that are to be failed, counted from 1, in order.
    left: Vec<u32>,
    /// How many in one program.
    n_group: usize,
}

impl Walk {
    fn op(&self) -> Op {
        self.program.threads[self.place.thread].ops[self.place.op]
    }

    /// What comes between two times that the op is run.
    fn undo(&self) -> Option<Op> {
        undo(&self.op())
    }

    /// Ops from one time to the next.
    fn stride(&self) -> usize {
        2 + usize::from(self.undo().is_some())
    }

    /// Some that are left, in order, and are not any more.
    fn next(&mut self) -> Vec<u32> {
        let n_ops = self.program.threads[self.place.thread].ops.len();
        let room = OPS_MAX.saturating_sub(n_ops + 1) / self.stride() + 1;
        let (n, n_left) = (self.n_group.min(room).min(self.left.len()), self.left.len());
        let nths: Vec<u32> = (0..n).map(|nth| self.left[nth * n_left / n]).collect();
        self.left.retain(|left| !nths.contains(left));
        nths
    }
}

impl Faults {
    /// Walks that begin with ops of these kinds.
    pub fn about(first: Vec<u8>) -> Faults {
        Faults { first, ..Faults::default() }
    }

    /// Takes up the ops of a corpus program that worked and are not walked yet in that form. Kinds of op that are new go
    /// before new forms of known ones.
    pub fn offer(&mut self, id: CorpusId, program: &Program, outcome: &ProgramOutcome) {
        let mut results = outcome.ops.iter().copied();
        for (thread, ops) in program.threads.iter().map(|thread| &thread.ops).enumerate() {
            let mut is_failed = false;
            for (at, op) in ops.iter().enumerate() {
                let worked = results.next().flatten().is_some_and(|op| op.result >= 0);
                let was_failed = std::mem::replace(&mut is_failed, op.kind == kind::FAIL_NTH);
                if !worked || was_failed || !is_worth(op) || ops.len() >= OPS_MAX {
                    continue;
                }
                if !self.forms.insert(form(op)) {
                    continue;
                }
                let place = Place { id, thread, op: at };
                let left = (1..=ALLOCATIONS_MAX).collect();
                let n_group = if undo(op).is_some() { GROUP } else { 1 };
                let walk = Walk { place, program: program.clone(), left, n_group };
                if self.kinds.insert(op.kind) {
                    self.walks.push_front(walk);
                } else {
                    self.walks.push_back(walk);
                }
            }
        }
    }

    /// The next variant: one of each op in turn. None when every allocation known of was failed.
    pub fn next_variant(&mut self) -> Option<Choice> {
        let rank = |walk: &Walk| self.first.iter().position(|kind| *kind == walk.op().kind);
        let open = self.walks.iter().enumerate().filter(|(_, walk)| !walk.left.is_empty());
        let (at, _) = open.min_by_key(|(_, walk)| rank(walk).unwrap_or(self.first.len()))?;
        let mut walk = self.walks.remove(at)?;
        let place = walk.place;
        let mut program = walk.program.clone();
        let nths = walk.next();
        let ops = &mut program.threads[place.thread].ops;
        let op = ops.remove(place.op);
        let failing = nths.iter().enumerate().flat_map(|(at, &nth)| {
            let fail = Op { kind: kind::FAIL_NTH, a: nth, ..Op::default() };
            walk.undo().filter(|_| at > 0).into_iter().chain([fail, op])
        });
        ops.splice(place.op..place.op, failing);
        if self.under_way.len() == UNDER_WAY_MAX {
            self.under_way.pop_front();
        }
        self.under_way.push_back((program.clone(), place, nths));
        // Also when nothing is left: an answer may bring something back.
        self.walks.push_back(walk);
        Some(Choice { program, parent: Some(place.id) })
    }

    /// Learns from a program that ran: the walk over an op ends with the allocation that it did not make.
    pub fn learn(&mut self, program: &Program, outcome: &ProgramOutcome) {
        let Some(at) = self.under_way.iter().position(|(variant, ..)| variant == program) else { return };
        let Some((_, place, nths)) = self.under_way.remove(at) else { return };
        let Some(walk) = self.walks.iter_mut().find(|walk| walk.place == place) else { return };
        let before: usize = program.threads[..place.thread].iter().map(|thread| thread.ops.len()).sum();
        let result =
            |at: usize| outcome.ops.get(before + place.op + at).copied().flatten().map(|op| op.result);
        for (at, &nth) in nths.iter().enumerate() {
            let at_op = at * walk.stride();
            let (fault, op) = (result(at_op), result(at_op + 1));
            if fault.is_none_or(|met| met <= 0) {
                walk.left.retain(|&left| left < nth);
                break;
            }
            if op.is_some_and(|result| result < 0) {
                walk.n_group = GROUP;
            } else if walk.undo().is_none() {
                walk.left.extend(&nths[at + 1..]);
                walk.left.sort_unstable();
                break;
            }
        }
        let under_way = &self.under_way;
        self.walks.retain(|walk| {
            !walk.left.is_empty() || under_way.iter().any(|(_, place, _)| *place == walk.place)
        });
    }
}

/// What takes an op back, so that it can be run again.
fn undo(op: &Op) -> Option<Op> {
    let kind = match op.kind {
        kind::MEMCG_CREATE | kind::MEMCG_NEST => kind::MEMCG_REMOVE,
        kind::ALLOC => kind::FREE,
        kind::OBJECT_NEW => kind::OBJECT_FREE,
        kind::CACHE_CREATE => kind::CACHE_DESTROY,
        kind::MOUNT => kind::UMOUNT,
        kind::MODULE_LOAD => kind::MODULE_UNLOAD,
        _ => return None,
    };
    Some(Op { kind, slot: op.slot, memcg: op.memcg, a: op.a, ..Op::default() }.fixup())
}

fn form(op: &Op) -> Form {
    let args = ops::spec(op.kind).map_or(&[][..], |spec| spec.args);
    let choices = args.iter().filter(|arg| matches!(arg.domain, Domain::Name(_) | Domain::Flags(_)));
    (op.kind, choices.map(|arg| op.get(arg.field)).collect())
}

#[cfg(test)]
mod tests {
    use harness::epoch::OpOutcome;

    use super::*;

    /// A program's outcome when every op works and `free` makes so many allocations.
    fn outcome(program: &Program, n_allocations: u32) -> ProgramOutcome {
        let mut results = Vec::new();
        for thread in &program.threads {
            for (at, op) in thread.ops.iter().enumerate() {
                let fails_free = thread.ops.get(at + 1).is_some_and(|next| next.kind == kind::FREE);
                let met = op.kind == kind::FAIL_NTH && fails_free && op.a <= n_allocations;
                results.push(Some(OpOutcome { result: met.into(), ..OpOutcome::default() }));
            }
        }
        ProgramOutcome { ops: results, ..ProgramOutcome::default() }
    }

    fn faults(program: &Program) -> Vec<(usize, usize, u32)> {
        let threads = program.threads.iter().enumerate();
        let all =
            threads.flat_map(|(t, thread)| thread.ops.iter().enumerate().map(move |(o, op)| (t, o, op)));
        all.filter(|(_, _, op)| op.kind == kind::FAIL_NTH).map(|(t, o, op)| (t, o, op.a)).collect()
    }

    #[test]
    fn an_op_is_walked_until_it_makes_no_more_allocations() {
        let program: Program =
            "thread cpu=0\n sleep us=5\nthread cpu=1\n rename slot=0 name=0\n free slot=0\n free slot=1\n"
                .parse()
                .unwrap();
        let mut walk = Faults::default();
        walk.offer(CorpusId(3), &program, &outcome(&program, 0));
        let mut points = Vec::new();
        while let Some(choice) = walk.next_variant() {
            assert_eq!(choice.parent, Some(CorpusId(3)));
            points.extend(faults(&choice.program));
            walk.learn(&choice.program, &outcome(&choice.program, 2));
        }
        // The second `free` has the form of the first.
        points.sort_unstable();
        assert_eq!(points, [(1, 0, 1), (1, 1, 1), (1, 1, 2), (1, 1, 3)]);
        walk.offer(CorpusId(4), &program, &outcome(&program, 0));
        assert_eq!(walk.next_variant(), None);
    }

    #[test]
    fn an_op_that_fails_is_failed_several_times_in_one_program_and_none_is_missed() {
        let program: Program = "thread cpu=0\n rename slot=0 name=0\n".parse().unwrap();
        // Of 20 allocations two are such that the op works without them.
        let outcome = |program: &Program| {
            let mut is_done = false;
            let results = program.threads[0].ops.chunks(2).flat_map(|pair| {
                let met = !is_done && pair[0].kind == kind::FAIL_NTH && pair[0].a <= 20;
                let works = !is_done && (!met || [5, 11].contains(&pair[0].a));
                is_done |= works;
                [i32::from(met), if works { 0 } else { -12 }]
                    .map(|result| Some(OpOutcome { result, ..OpOutcome::default() }))
            });
            ProgramOutcome { ops: results.collect(), ..ProgramOutcome::default() }
        };
        let mut walk = Faults::default();
        walk.offer(
            CorpusId(3),
            &program,
            &ProgramOutcome { ops: vec![Some(OpOutcome::default())], ..ProgramOutcome::default() },
        );
        let (mut points, mut n_programs) = (BTreeSet::new(), 0);
        while let Some(choice) = walk.next_variant() {
            let ran = outcome(&choice.program);
            let ops = &choice.program.threads[0].ops;
            points.extend(
                (0..ops.len()).step_by(2).filter(|&at| ran.ops[at].unwrap().result > 0).map(|at| ops[at].a),
            );
            walk.learn(&choice.program, &ran);
            n_programs += 1;
            if n_programs == 2 {
                let nths: Vec<u32> = faults(&choice.program).into_iter().map(|(.., nth)| nth).collect();
                assert_eq!((nths.len(), &nths[..4]), (GROUP, &[2, 14, 26, 39][..]));
            }
        }
        assert_eq!(points, (1..=20).collect());
        assert!(n_programs < 12, "{n_programs}");
    }

    #[test]
    fn what_works_without_an_allocation_is_taken_back_before_the_next() {
        let program: Program = "thread cpu=0\n memcg_create memcg=2\n yield\n".parse().unwrap();
        // 30 allocations, and it works without any of them.
        let outcome = |program: &Program| {
            let met = |op: &Op| i32::from(op.kind == kind::FAIL_NTH && op.a <= 30);
            let ops = program.threads[0].ops.iter().map(met);
            let ops = ops.map(|result| Some(OpOutcome { result, ..OpOutcome::default() })).collect();
            ProgramOutcome { ops, ..ProgramOutcome::default() }
        };
        let mut walk = Faults::default();
        walk.offer(CorpusId(0), &program, &outcome(&program));
        let (mut points, mut n_programs) = (BTreeSet::new(), 0);
        while let Some(choice) = walk.next_variant() {
            assert!(choice.program.is_valid());
            let kinds: Vec<u8> = choice.program.threads[0].ops.iter().map(|op| op.kind).collect();
            let (last, times) = kinds.split_last().unwrap();
            let cycle = [kind::FAIL_NTH, kind::MEMCG_CREATE, kind::MEMCG_REMOVE];
            assert!(times.iter().zip(cycle.iter().cycle()).all(|(a, b)| a == b) && *last == kind::YIELD);
            points.extend(faults(&choice.program).into_iter().map(|(.., nth)| nth).filter(|nth| *nth <= 30));
            walk.learn(&choice.program, &outcome(&choice.program));
            n_programs += 1;
        }
        assert_eq!(points, (1..=30).collect());
        assert!(n_programs < 8, "{n_programs}");
    }

    #[test]
    fn ops_that_the_campaign_is_about_are_walked_to_their_end_first() {
        let program: Program =
            "thread cpu=0\n rename slot=0 name=0\n register slot=0\n free slot=0\n".parse().unwrap();
        let mut walk = Faults::about(vec![kind::FREE]);
        walk.offer(CorpusId(0), &program, &outcome(&program, 0));
        let mut places = Vec::new();
        while let Some(choice) = walk.next_variant() {
            places.extend(faults(&choice.program).iter().map(|(_, op, nth)| (*op, *nth)));
            walk.learn(&choice.program, &outcome(&choice.program, 3));
        }
        assert_eq!(places[..4], [(2, 1), (2, 2), (2, 3), (2, 4)]);
        assert_eq!(places[4..].len(), 2, "{places:?}");
    }

    #[test]
    fn a_new_form_of_a_known_op_is_walked_after_new_ops_and_ops_that_failed_are_not() {
        let text = "thread cpu=0\n debugfs_hold handle=0 slot=0 file=count\n debugfs_hold handle=0 slot=1 file=scan\n free slot=0\n";
        let program: Program = text.parse().unwrap();
        let mut walk = Faults::default();
        let mut ran = outcome(&program, 0);
        walk.offer(CorpusId(0), &program, &ran);
        let first: Vec<_> = (0..3).flat_map(|_| faults(&walk.next_variant().unwrap().program)).collect();
        assert_eq!(first, [(0, 2, 1), (0, 0, 1), (0, 1, 1)]);
        ran.ops.iter_mut().flatten().for_each(|op| op.result = -12);
        let mut walk = Faults::default();
        walk.offer(CorpusId(0), &program, &ran);
        assert_eq!(walk.next_variant(), None);
    }
}
