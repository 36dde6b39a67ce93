// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walks the schedules of promising programs: the same ops, with one preemption point more, at one place after the other.
//!
//! Most races need one or two preemptions in the right place (Musuvathi and Qadeer, "Iterative context bounding for
//! systematic testing of multithreaded programs", PLDI 2007). Under the deterministic engine a place is exact: a basic block
//! of the code under test, or, for a timer armed for t ns, an instruction. So the walk goes over pairs of an op and a share of
//! the blocks it entered, or of the time it took: first the middle of every op, then the quarters, and so on. A variant that
//! shows something new joins the corpus, is promising itself, and gets a second preemption point when its turn comes: few
//! preemptions are tried before many.
//!
//! No randomness: a program is always walked the same way.

use std::collections::VecDeque;

use abi::{
    layout::{Op, kind},
    program::OPS_MAX,
};
use harness::{epoch::ProgramOutcome, program::Program};
use libafl::corpus::CorpusId;

use crate::chooser::Choice;

/// Programs that wait to be walked; a newer one takes the place of the oldest.
const PROGRAMS_MAX: usize = 64;
/// Variants of one program.
const VARIANTS_MAX: usize = 96;
/// Shares of an op that are tried at most.
const ROUNDS_MAX: usize = 64;
/// Wake-ups of an op that are tried.
const WAKES_MAX: u32 = 4;
/// How long a task keeps the CPU, µs: others finish what they are at, and grace periods pass.
const LONG_US: u32 = 40_000;
/// How long an interrupt keeps it, ns; RCU waits for it. Others get as far as a slice of theirs takes them.
const SHORT_NS: u32 = 100_000;
/// Ops that wait or only set something up: nothing of the kernel's is interrupted in them.
const DULL: &[u8] = &[
    kind::BARRIER,
    kind::FAIL_NTH,
    kind::PREEMPT,
    kind::PREEMPT_EDGE,
    kind::PREEMPT_TASK,
    kind::PREEMPT_WAKE,
    kind::SET_BATCH,
    kind::SET_COUNT,
    kind::SET_SCAN,
    kind::SET_SEEKS,
    kind::SLEEP,
    kind::SPIN,
    kind::YIELD,
];

/// Programs whose schedules are being walked, in turn.
#[derive(Debug, Default)]
pub struct Walk {
    programs: VecDeque<Walked>,
}

#[derive(Debug)]
struct Walked {
    id: CorpusId,
    program: Program,
    left: VecDeque<Point>,
}

/// A preemption point, and before which op it is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    thread: usize,
    op: usize,
    preempt: Op,
}

/// An op that can be interrupted.
#[derive(Clone, Copy, Debug)]
struct Place {
    thread: usize,
    op: usize,
    /// What passed between the end of the op before and its start, ns: a timer is armed by the op before.
    lead_ns: u32,
    /// How long it took.
    ns: u32,
    /// Basic blocks that it entered.
    n_edges: u32,
    /// How often it woke another thread.
    n_wakes: u32,
}

impl Walk {
    /// Takes up a corpus program that ran like this, if there is anything to walk: two threads that do something.
    pub fn offer(&mut self, id: CorpusId, program: &Program, outcome: &ProgramOutcome) {
        let places = places(program, outcome);
        if places.iter().all(|place| place.thread == places[0].thread) {
            return;
        }
        if self.programs.len() == PROGRAMS_MAX {
            self.programs.pop_front();
        }
        self.programs.push_back(Walked { id, program: program.clone(), left: points(&places) });
    }

    /// The next variant: one of each program in turn. None when every program was walked.
    pub fn next_variant(&mut self) -> Option<Choice> {
        while let Some(mut walked) = self.programs.pop_front() {
            if let Some(point) = walked.left.pop_front() {
                let mut program = walked.program.clone();
                program.threads[point.thread].ops.insert(point.op, point.preempt);
                program.fixup();
                let parent = Some(walked.id);
                self.programs.push_back(walked);
                return Some(Choice { program, parent });
            }
        }
        None
    }
}

/// Whether an op does something of the kernel's that can be interrupted, or fail.
pub(crate) fn is_worth(op: &Op) -> bool {
    !DULL.contains(&op.kind)
}

/// Where a program can be interrupted.
fn places(program: &Program, outcome: &ProgramOutcome) -> Vec<Place> {
    let mut outcomes = outcome.ops.iter().copied();
    let mut places = Vec::new();
    for (thread, ops) in program.threads.iter().map(|thread| &thread.ops).enumerate() {
        let mut before_ns = None;
        for (op_idx, (op, ran)) in ops.iter().zip(outcomes.by_ref()).enumerate() {
            let Some(ran) = ran else { continue };
            let lead_ns = before_ns.map_or(0, |before| ran.start_ns.saturating_sub(before));
            before_ns = Some(ran.end_ns);
            if is_worth(op) && ops.len() < OPS_MAX {
                let ns = ran.end_ns.saturating_sub(ran.start_ns);
                let (n_edges, n_wakes) = (ran.n_edges, ran.n_wakes);
                places.push(Place { thread, op: op_idx, lead_ns, ns, n_edges, n_wakes });
            }
        }
    }
    places
}

/// What is tried, in order: where one thread woke another; then all places at one share before the next, so that a walk cut
/// short has been everywhere.
fn points(places: &[Place]) -> VecDeque<Point> {
    let mut points: VecDeque<Point> = places.iter().flat_map(Place::wakes).collect();
    for (round, place) in (0..ROUNDS_MAX).flat_map(|round| places.iter().map(move |place| (round, place))) {
        if points.len() >= VARIANTS_MAX {
            break;
        }
        let point = Point { thread: place.thread, op: place.op, preempt: place.preempt(round) };
        // A short op has few blocks.
        if !points.contains(&point) {
            points.push_back(point);
        }
    }
    points
}

impl Place {
    /// The points at which it woke another thread.
    fn wakes(&self) -> impl Iterator<Item = Point> + use<> {
        let (thread, op) = (self.thread, self.op);
        (1..=self.n_wakes.min(WAKES_MAX)).map(move |n| {
            let preempt = Op { kind: kind::PREEMPT_WAKE, a: n, b: LONG_US, ..Op::default() };
            Point { thread, op, preempt }
        })
    }

    /// The preemption point of a round: two of three are long, at a basic block where there are any.
    fn preempt(&self, round: usize) -> Op {
        let at_ns = |nth| {
            let within_ns = share_of(self.ns.min(kind::PREEMPT_NS_MAX), nth);
            self.lead_ns.saturating_add(within_ns).min(kind::PREEMPT_NS_MAX)
        };
        let nth_long = round / 3 * 2 + round % 3;
        let (kind, a, b) = match round % 3 {
            2 => (kind::PREEMPT, at_ns(round / 3), SHORT_NS),
            _ if self.n_edges > 0 => (kind::PREEMPT_EDGE, share_of(self.n_edges, nth_long) + 1, LONG_US),
            _ => (kind::PREEMPT_TASK, at_ns(nth_long), LONG_US),
        };
        Op { kind, a, b, ..Op::default() }
    }
}

/// The `nth` of the shares 1/2, 1/4, 3/4, 1/8, 5/8 … of `ns` (van der Corput's sequence).
fn share_of(ns: u32, nth: usize) -> u32 {
    let share = (nth as u32 + 1).reverse_bits();
    ((u64::from(ns) * u64::from(share)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use harness::epoch::OpOutcome;

    use super::*;

    fn racy() -> Program {
        "thread cpu=0\n alloc slot=0 flags=0 name=0\n register slot=0\n free slot=0\nthread cpu=1\n drop_caches what=slab\n sleep us=5\n"
            .parse()
            .unwrap()
    }

    /// Every op took 8000 ns, began 500 after the end of the one before, and entered 16 blocks.
    fn outcome(program: &Program) -> ProgramOutcome {
        let ops = program.threads.iter().flat_map(|thread| 0..thread.ops.len() as u32);
        let ops = ops.map(|n| OpOutcome {
            result: 0,
            start_ns: n * 8500,
            end_ns: n * 8500 + 8000,
            n_edges: 16,
            n_wakes: 0,
        });
        ProgramOutcome { ops: ops.map(Some).collect(), ..ProgramOutcome::default() }
    }

    fn offer(walk: &mut Walk, id: usize, program: &Program) {
        walk.offer(CorpusId(id), program, &outcome(program));
    }

    fn preempts(program: &Program) -> Vec<(usize, usize, u8, u32)> {
        let threads = program.threads.iter().enumerate();
        let all =
            threads.flat_map(|(t, thread)| thread.ops.iter().enumerate().map(move |(o, op)| (t, o, op)));
        all.filter(|(_, _, op)| kind::PREEMPTIONS.contains(&op.kind))
            .map(|(t, o, op)| (t, o, op.kind, op.a))
            .collect()
    }

    fn plain(program: &Program) -> Program {
        let mut plain = program.clone();
        let threads = plain.threads.iter_mut();
        threads.for_each(|thread| thread.ops.retain(|op| !kind::PREEMPTIONS.contains(&op.kind)));
        plain
    }

    #[test]
    fn a_walk_goes_everywhere_at_one_share_before_the_next_and_ends() {
        let mut walk = Walk::default();
        offer(&mut walk, 3, &racy());
        let variants: Vec<Choice> = std::iter::from_fn(|| walk.next_variant()).collect();
        assert_eq!(variants.len(), VARIANTS_MAX);
        let points: Vec<_> = variants.iter().flat_map(|variant| preempts(&variant.program)).collect();
        assert_eq!(points.len(), VARIANTS_MAX, "one preemption point in each");
        assert_eq!(points.iter().collect::<BTreeSet<_>>().len(), VARIANTS_MAX, "none twice");
        let (edge, timer) = (kind::PREEMPT_EDGE, kind::PREEMPT);
        assert_eq!(
            points[..5],
            [(0, 0, edge, 9), (0, 1, edge, 9), (0, 2, edge, 9), (1, 0, edge, 9), (0, 0, edge, 5)]
        );
        assert_eq!(points[8..10], [(0, 0, timer, 4000), (0, 1, timer, 4500)]);
        assert_eq!(points[12..13], [(0, 0, edge, 13)]);
        assert_eq!(points[20..22], [(0, 0, timer, 2000), (0, 1, timer, 2500)]);
        assert!(variants.iter().all(|variant| plain(&variant.program) == racy()));
        assert!(variants.iter().all(|variant| variant.parent == Some(CorpusId(3))));
    }

    #[test]
    fn programs_take_turns_and_those_without_a_race_are_not_walked() {
        let mut walk = Walk::default();
        let lone = "thread cpu=0\n drop_caches what=slab\nthread cpu=1\n sleep us=5\n".parse().unwrap();
        offer(&mut walk, 0, &lone);
        assert_eq!(walk.next_variant(), None);
        let other: Program = "thread cpu=0\n free slot=1\nthread cpu=0\n free slot=2\n".parse().unwrap();
        offer(&mut walk, 1, &racy());
        offer(&mut walk, 2, &other);
        let turns: Vec<Program> = (0..4).map(|_| plain(&walk.next_variant().unwrap().program)).collect();
        assert_eq!(turns, [racy(), other.clone(), racy(), other]);
    }

    #[test]
    fn every_block_of_a_short_op_is_tried_once_and_where_none_are_counted_time_is() {
        let place = Place { thread: 0, op: 0, lead_ns: 10, ns: 800, n_edges: 3, n_wakes: 2 };
        let points = points(&[place]);
        let edges = points.iter().filter(|point| point.preempt.kind == kind::PREEMPT_EDGE);
        assert_eq!(edges.map(|point| point.preempt.a).collect::<Vec<_>>(), [2, 1, 3]);
        let wakes = points.iter().take(3).map(|point| (point.preempt.kind, point.preempt.a));
        let (wake, edge) = (kind::PREEMPT_WAKE, kind::PREEMPT_EDGE);
        assert_eq!(wakes.collect::<Vec<_>>(), [(wake, 1), (wake, 2), (edge, 2)]);
        let preempt = Place { n_edges: 0, ..place }.preempt(0);
        assert_eq!((preempt.kind, preempt.a, preempt.b), (kind::PREEMPT_TASK, 410, LONG_US));
    }

    #[test]
    fn what_did_not_run_is_not_walked() {
        let mut walk = Walk::default();
        let mut ran = outcome(&racy());
        ran.ops[1] = None;
        walk.offer(CorpusId(0), &racy(), &ran);
        let points: Vec<_> = (0..3).flat_map(|_| preempts(&walk.next_variant().unwrap().program)).collect();
        assert_eq!(points.iter().map(|&(t, o, ..)| (t, o)).collect::<Vec<_>>(), [(0, 0), (0, 2), (1, 0)]);
        walk.offer(CorpusId(1), &racy(), &ProgramOutcome::default());
        assert_eq!(walk.programs.len(), 1);
    }

    #[test]
    fn programs_that_come_too_fast_push_out_the_oldest() {
        let mut walk = Walk::default();
        for n in 0..PROGRAMS_MAX + 5 {
            offer(&mut walk, n, &racy());
        }
        assert_eq!(walk.next_variant().unwrap().parent, Some(CorpusId(5)));
    }
}
