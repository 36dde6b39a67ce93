// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walks the schedules of promising programs: the same ops, with one preemption point more, at one place after the other.
//!
//! Most races need one or two preemptions in the right place (Musuvathi and Qadeer, "Iterative context bounding for
//! systematic testing of multithreaded programs", PLDI 2007), and under the deterministic engine a timer armed for t ns is
//! a preemption after an exact number of instructions. So the walk goes over pairs of an op and a time after its start,
//! coarse times first. A variant that shows something new joins the corpus, is promising itself, and gets a second
//! preemption point when its turn comes: few preemptions are tried before many.
//!
//! No randomness: a program is always walked the same way.

use std::collections::VecDeque;

use abi::{
    layout::{Op, kind},
    program::OPS_MAX,
};
use harness::program::Program;
use libafl::corpus::CorpusId;

use crate::chooser::Choice;

/// Programs that wait to be walked; a newer one takes the place of the oldest.
const PROGRAMS_MAX: usize = 64;
/// Variants of one program.
const VARIANTS_MAX: usize = 48;
/// Times after the start of an op at which it is preempted, ns. Ops take from some microseconds to milliseconds of a
/// debugging kernel's time.
const TIMES_NS: [u32; 8] = [3_000, 30_000, 10_000, 100_000, 1_000, 60_000, 300_000, 20_000];
/// How long the CPU is kept from its task, ns: others get as far as a slice of theirs takes them.
const HOLDS_NS: [u32; 2] = [100_000, 20_000];
/// Ops that wait or only set something up: nothing of the kernel's is interrupted in them.
const DULL: &[u8] = &[
    kind::BARRIER,
    kind::FAIL_NTH,
    kind::PREEMPT,
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
    n_done: usize,
}

impl Walk {
    /// Takes up a corpus program, if there is anything to walk: two threads that do something.
    pub fn offer(&mut self, id: CorpusId, program: &Program) {
        let n_busy = program.threads.iter().filter(|thread| thread.ops.iter().any(is_worth)).count();
        if n_busy < 2 {
            return;
        }
        if self.programs.len() == PROGRAMS_MAX {
            self.programs.pop_front();
        }
        self.programs.push_back(Walked { id, program: program.clone(), n_done: 0 });
    }

    /// The next variant: one of each program in turn. None when every program was walked.
    pub fn next_variant(&mut self) -> Option<Choice> {
        while let Some(mut walked) = self.programs.pop_front() {
            if let Some(program) = variant(&walked.program, walked.n_done) {
                let parent = Some(walked.id);
                walked.n_done += 1;
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

/// Variant number `nth` of a program; none when there are no more.
fn variant(program: &Program, nth: usize) -> Option<Program> {
    let threads = program.threads.iter().enumerate().filter(|(_, thread)| thread.ops.len() < OPS_MAX);
    let places: Vec<(usize, usize)> = threads
        .flat_map(|(t, thread)| {
            let ops = thread.ops.iter().enumerate();
            ops.filter(|(_, op)| is_worth(op)).map(move |(o, _)| (t, o))
        })
        .collect();
    if places.is_empty() || nth >= VARIANTS_MAX.min(places.len() * TIMES_NS.len() * HOLDS_NS.len()) {
        return None;
    }
    // All places at one time before the next time, so that a walk cut short has been everywhere once.
    let (thread, op) = places[nth % places.len()];
    let round = nth / places.len();
    let (time, hold) = (TIMES_NS[round % TIMES_NS.len()], HOLDS_NS[round / TIMES_NS.len()]);
    let mut variant = program.clone();
    let preempt = Op { kind: kind::PREEMPT, a: time, b: hold, ..Op::default() };
    variant.threads[thread].ops.insert(op, preempt);
    variant.fixup();
    Some(variant)
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

    fn preempts(program: &Program) -> Vec<(usize, usize, u32, u32)> {
        let threads = program.threads.iter().enumerate();
        let all =
            threads.flat_map(|(t, thread)| thread.ops.iter().enumerate().map(move |(o, op)| (t, o, op)));
        all.filter(|(_, _, op)| op.kind == kind::PREEMPT).map(|(t, o, op)| (t, o, op.a, op.b)).collect()
    }

    fn plain(program: &Program) -> Program {
        let mut plain = program.clone();
        plain.threads.iter_mut().for_each(|thread| thread.ops.retain(|op| op.kind != kind::PREEMPT));
        plain
    }

    #[test]
    fn a_walk_goes_everywhere_at_one_time_before_the_next_time_and_ends() {
        let mut walk = Walk::default();
        walk.offer(CorpusId(3), &racy());
        let variants: Vec<Choice> = std::iter::from_fn(|| walk.next_variant()).collect();
        assert_eq!(variants.len(), VARIANTS_MAX);
        let points: Vec<_> = variants.iter().flat_map(|variant| preempts(&variant.program)).collect();
        assert_eq!(points.len(), VARIANTS_MAX, "one preemption point in each");
        assert_eq!(points.iter().collect::<BTreeSet<_>>().len(), VARIANTS_MAX, "none twice");
        let first: Vec<_> = points[..4].iter().map(|&(t, o, ns, _)| (t, o, ns)).collect();
        assert_eq!(first, [(0, 0, 3_000), (0, 1, 3_000), (0, 2, 3_000), (1, 0, 3_000)]);
        assert!(variants.iter().all(|variant| plain(&variant.program) == racy()));
        assert!(variants.iter().all(|variant| variant.parent == Some(CorpusId(3))));
    }

    #[test]
    fn programs_take_turns_and_those_without_a_race_are_not_walked() {
        let mut walk = Walk::default();
        let lone = "thread cpu=0\n drop_caches what=slab\nthread cpu=1\n sleep us=5\n".parse().unwrap();
        walk.offer(CorpusId(0), &lone);
        assert_eq!(walk.next_variant(), None);
        let other: Program = "thread cpu=0\n free slot=1\nthread cpu=0\n free slot=2\n".parse().unwrap();
        walk.offer(CorpusId(1), &racy());
        walk.offer(CorpusId(2), &other);
        let turns: Vec<Program> = (0..4).map(|_| plain(&walk.next_variant().unwrap().program)).collect();
        assert_eq!(turns, [racy(), other.clone(), racy(), other]);
    }

    #[test]
    fn programs_that_come_too_fast_push_out_the_oldest() {
        let mut walk = Walk::default();
        for n in 0..PROGRAMS_MAX + 5 {
            walk.offer(CorpusId(n), &racy());
        }
        assert_eq!(walk.next_variant().unwrap().parent, Some(CorpusId(5)));
    }
}
