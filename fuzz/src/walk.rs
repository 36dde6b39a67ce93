// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walks the schedules of promising programs: the same ops, with one preemption point more, at one place after the other.
//!
//! Most races need one or two preemptions in the right place (Musuvathi and Qadeer, "Iterative context bounding for
//! systematic testing of multithreaded programs", PLDI 2007). Under the deterministic engine a place is exact: a basic block
//! of the code under test, or, for a timer armed for t ns, an instruction. So the walk goes over pairs of an op and a share of
//! the blocks it entered, or of the time it took: first the middle of every op, then the quarters, and so on. Where an op woke
//! another thread is a place, too: one that waited goes on there. A variant that shows something new joins the corpus, is
//! promising itself, and gets a second preemption point when its turn comes: few preemptions are tried before many.
//!
//! There are more places than time to try them. Those come first whose like was tried least: an op of that kind, interrupted
//! in that way while an op of that other kind was under way.
//!
//! No randomness: a program is always walked the same way.

use std::collections::VecDeque;

use abi::{
    layout::{Op, kind},
    program::OPS_MAX,
};
use harness::{
    epoch::{OpOutcome, ProgramOutcome},
    program::Program,
};
use libafl::corpus::CorpusId;

use crate::chooser::Choice;

/// Programs that wait to be walked; a newer one takes the place of the oldest.
const PROGRAMS_MAX: usize = 128;
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
/// Op kinds there can be.
const KINDS: usize = 256;
/// No op's kind.
const NOBODY: u8 = 0;
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

/// Programs whose schedules are being walked.
#[derive(Debug, Default)]
pub struct Walk {
    programs: VecDeque<Walked>,
    tried: Tried,
}

/// How often an op of that kind was interrupted in that way, an op of that other kind being under way; [`NOBODY`]: none was.
/// A table, since there are many questions about each variant.
#[derive(Debug)]
struct Tried(Vec<u32>);

impl Default for Tried {
    fn default() -> Tried {
        Tried(vec![0; KINDS * kind::PREEMPTIONS.len() * KINDS])
    }
}

impl Tried {
    fn entry(&mut self, place: &Place, preempt: Op, other: u8) -> &mut u32 {
        &mut self.0[Tried::index(place, preempt, other)]
    }

    fn least(&self, place: &Place, preempt: Op) -> u32 {
        let all = place.company.iter().map(|&other| self.0[Tried::index(place, preempt, other)]);
        all.min().unwrap_or(0)
    }

    fn index(place: &Place, preempt: Op, other: u8) -> usize {
        let way = kind::PREEMPTIONS.iter().position(|&way| way == preempt.kind).unwrap_or(0);
        (usize::from(place.kind) * kind::PREEMPTIONS.len() + way) * KINDS + usize::from(other)
    }
}

#[derive(Debug)]
struct Walked {
    id: CorpusId,
    program: Program,
    places: Vec<Place>,
    left: VecDeque<Point>,
}

/// A preemption point, and in which of the places it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    place: usize,
    preempt: Op,
}

/// An op that can be interrupted.
#[derive(Clone, Debug, Default)]
struct Place {
    thread: usize,
    op: usize,
    kind: u8,
    /// Kinds of other threads' ops that were under way meanwhile; [`NOBODY`] where there were none.
    company: Vec<u8>,
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
        let left = points(&places);
        self.programs.push_back(Walked { id, program: program.clone(), places, left });
    }

    /// The next variant: that whose like was tried least, of those the oldest program's. None when every program was walked.
    pub fn next_variant(&mut self) -> Option<Choice> {
        let ranked = self.programs.iter().enumerate().filter_map(|(at, walked)| {
            let ranks = walked.left.iter().map(|point| self.rank(walked, *point)).enumerate();
            let (nth, rank) = ranks.min_by_key(|&(nth, rank)| (rank, nth))?;
            Some((rank, at, nth))
        });
        let (_, at, nth) = ranked.min()?;
        let walked = &mut self.programs[at];
        let point = walked.left.remove(nth)?;
        let place = &walked.places[point.place];
        for &other in &place.company {
            *self.tried.entry(place, point.preempt, other) += 1;
        }
        let mut program = walked.program.clone();
        program.threads[place.thread].ops.insert(place.op, point.preempt);
        program.fixup();
        let parent = Some(walked.id);
        self.programs.retain(|walked| !walked.left.is_empty());
        Some(Choice { program, parent })
    }

    /// How often the like of a point was tried; wake-ups are few and count less.
    fn rank(&self, walked: &Walked, point: Point) -> u32 {
        let tried = self.tried.least(&walked.places[point.place], point.preempt);
        tried + u32::from(point.preempt.kind != kind::PREEMPT_WAKE)
    }
}

/// Whether an op does something of the kernel's that can be interrupted, or fail.
pub(crate) fn is_worth(op: &Op) -> bool {
    !DULL.contains(&op.kind)
}

/// Where a program can be interrupted.
fn places(program: &Program, outcome: &ProgramOutcome) -> Vec<Place> {
    let mut outcomes = outcome.ops.iter().copied();
    let mut all: Vec<(usize, usize, Op, OpOutcome)> = Vec::new();
    for (thread, ops) in program.threads.iter().map(|thread| &thread.ops).enumerate() {
        let ran = ops.iter().enumerate().zip(outcomes.by_ref());
        all.extend(ran.filter_map(|((idx, op), ran)| Some((thread, idx, *op, ran?))));
    }
    let mut places = Vec::new();
    let mut before: Option<(usize, u32)> = None;
    for &(thread, op_idx, op, ran) in &all {
        let same_thread = before.filter(|(of, _)| *of == thread);
        let lead_ns = same_thread.map_or(0, |(_, end_ns)| ran.start_ns.saturating_sub(end_ns));
        before = Some((thread, ran.end_ns));
        let ops = &program.threads[thread].ops;
        // What a fault is for comes right after it, and one preemption takes the place of another.
        let after_fault = op_idx > 0 && ops[op_idx - 1].kind == kind::FAIL_NTH;
        let before = op_idx.checked_sub(1 + usize::from(after_fault)).map(|idx| ops[idx].kind);
        let is_taken = before.is_some_and(|before| kind::PREEMPTIONS.contains(&before));
        if !is_worth(&op) || is_taken || ops.len() >= OPS_MAX {
            continue;
        }
        let meets = |other: &OpOutcome| ran.start_ns < other.end_ns && other.start_ns < ran.end_ns;
        let others = all.iter().filter(|(of, _, op, other)| *of != thread && is_worth(op) && meets(other));
        let mut company: Vec<u8> = others.map(|(_, _, op, _)| op.kind).collect();
        company.sort_unstable();
        company.dedup();
        if company.is_empty() {
            company.push(NOBODY);
        }
        let ns = ran.end_ns.saturating_sub(ran.start_ns);
        let (n_edges, n_wakes) = (ran.n_edges, ran.n_wakes);
        let op_idx = op_idx - usize::from(after_fault);
        places.push(Place { thread, op: op_idx, kind: op.kind, company, lead_ns, ns, n_edges, n_wakes });
    }
    places
}

/// What is tried, in order: where one thread woke another; then all places at one share before the next, so that a walk cut
/// short has been everywhere.
fn points(places: &[Place]) -> VecDeque<Point> {
    let all = || places.iter().enumerate();
    let wakes =
        all().flat_map(|(idx, place)| place.wakes().map(move |preempt| Point { place: idx, preempt }));
    let mut points: VecDeque<Point> = wakes.take(VARIANTS_MAX / 2).collect();
    for (round, (idx, place)) in (0..ROUNDS_MAX).flat_map(|round| all().map(move |place| (round, place))) {
        if points.len() >= VARIANTS_MAX {
            break;
        }
        let point = Point { place: idx, preempt: place.preempt(round) };
        // A short op has few blocks.
        if !points.contains(&point) {
            points.push_back(point);
        }
    }
    points
}

impl Place {
    /// The points at which it woke another thread.
    fn wakes(&self) -> impl Iterator<Item = Op> + use<> {
        let n_wakes = self.n_wakes.min(WAKES_MAX);
        (1..=n_wakes).map(|n| Op { kind: kind::PREEMPT_WAKE, a: n, b: LONG_US, ..Op::default() })
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
            _ if self.n_edges > 0 => {
                let n_edges = self.n_edges.min(kind::PREEMPT_EDGE_MAX);
                (kind::PREEMPT_EDGE, share_of(n_edges, nth_long) + 1, LONG_US)
            }
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
        let points: Vec<_> = variants.iter().flat_map(|variant| preempts(&variant.program)).collect();
        assert_eq!(points.len(), variants.len(), "one preemption point in each");
        assert_eq!(points.iter().collect::<BTreeSet<_>>().len(), points.len(), "none twice");
        assert_eq!(points.len(), VARIANTS_MAX);
        let edges = |place| {
            let of_place =
                points.iter().filter(move |&&(t, o, of, _)| (t, o) == place && of == kind::PREEMPT_EDGE);
            of_place.map(|&(.., n)| n).take(4).collect::<Vec<_>>()
        };
        assert_eq!(edges((0, 0)), [9, 5, 13, 3]);
        assert_eq!(edges((1, 0)), [9, 5, 13, 3]);
        let timers = points.iter().filter(|&&(t, o, of, _)| (t, o) == (0, 1) && of == kind::PREEMPT);
        assert_eq!(timers.map(|&(.., ns)| ns).take(3).collect::<Vec<_>>(), [4500, 2500, 6500]);
        assert!(variants.iter().all(|variant| plain(&variant.program) == racy()));
        assert!(variants.iter().all(|variant| variant.parent == Some(CorpusId(3))));
    }

    #[test]
    fn what_was_tried_least_comes_first_and_wake_ups_before_the_rest() {
        let mut walk = Walk::default();
        let other: Program = "thread cpu=0\n free slot=1\nthread cpu=0\n free slot=2\n".parse().unwrap();
        let mut ran = outcome(&other);
        ran.ops[1].as_mut().unwrap().n_wakes = 1;
        offer(&mut walk, 1, &racy());
        walk.offer(CorpusId(2), &other, &ran);
        let next: Vec<_> = (0..10).map(|_| walk.next_variant().unwrap()).collect();
        assert_eq!(preempts(&next[0].program), [(1, 0, kind::PREEMPT_WAKE, 1)]);
        let first: Vec<_> =
            next[1..].iter().map(|choice| (choice.parent, preempts(&choice.program)[0].2)).collect();
        let (a, b) = (Some(CorpusId(1)), Some(CorpusId(2)));
        let (edge, timer) = (kind::PREEMPT_EDGE, kind::PREEMPT);
        // Each kind of op that is new, by blocks and by time; the two frees of the second program are of one kind.
        assert_eq!(first, [vec![(a, edge); 4], vec![(a, timer); 4], vec![(b, edge)]].concat());
    }

    #[test]
    fn programs_without_a_race_are_not_walked() {
        let mut walk = Walk::default();
        let lone = "thread cpu=0\n drop_caches what=slab\nthread cpu=1\n sleep us=5\n".parse().unwrap();
        offer(&mut walk, 0, &lone);
        assert_eq!(walk.next_variant(), None);
    }

    #[test]
    fn every_block_of_a_short_op_is_tried_once_and_where_none_are_counted_time_is() {
        let place = Place { lead_ns: 10, ns: 800, n_edges: 3, n_wakes: 2, ..Place::default() };
        let points = points(std::slice::from_ref(&place));
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
