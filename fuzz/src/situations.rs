// SPDX-License-Identifier: MIT OR Apache-2.0
//! Situations: what a program brought about that coverage of the kernel's code does not tell. Reclaim's edges say little
//! about what state the API is in and nothing about what happened at the same time; these do, and LibAFL keeps programs
//! that reach new ones.

use abi::{
    layout::{MEMCG_ROOT, N_SLOTS, Op, kind, situation::SITUATIONS},
    ops::{self, Field, OPS},
};
use harness::{
    epoch::{OpOutcome, ProgramOutcome},
    program::Program,
};

/// Situations that can be told apart.
pub const SITUATION_ENTRIES: usize = LIFE_ENTRIES + OVERLAP_ENTRIES + OPS_MAX + SITUATIONS;
/// Ops with a slot that the life map can tell apart.
const SLOTTED_MAX: usize = 24;
/// Entries for pairs of ops that succeeded one after the other on one slot, by the slot's flags and by whether the
/// thread was in a group of its own.
const LIFE_ENTRIES: usize = SLOTTED_MAX * SLOTTED_MAX * 8 * 2;
/// Ops that overlap can tell apart.
const OPS_MAX: usize = 96;
/// Entries for pairs of ops of two threads that were under way at the same time, by whether on the same slot.
const OVERLAP_ENTRIES: usize = OPS_MAX * OPS_MAX * 2;
/// Ops whose company says nothing.
const IDLE: [u8; 10] = [
    kind::PREEMPT,
    kind::PREEMPT_TASK,
    kind::PREEMPT_EDGE,
    kind::PREEMPT_WAKE,
    kind::FAIL_NTH,
    kind::BARRIER,
    kind::SLEEP,
    kind::SPIN,
    kind::YIELD,
    kind::MOVE,
];

/// The situations a program brought about, each once.
pub fn situations(program: &Program, outcome: &ProgramOutcome) -> Vec<usize> {
    let mut all = lives(program, &outcome.ops);
    all.extend(overlaps(program, &outcome.ops).into_iter().map(|entry| LIFE_ENTRIES + entry));
    all.extend(wakes(program, &outcome.ops).map(|entry| LIFE_ENTRIES + OVERLAP_ENTRIES + entry));
    // What the callbacks saw themselves.
    let seen = outcome.situations.iter().map(|&entry| usize::from(entry));
    all.extend(seen.map(|entry| LIFE_ENTRIES + OVERLAP_ENTRIES + OPS_MAX + entry));
    all.sort_unstable();
    all.dedup();
    all
}

/// Ops in which another thread was woken: it had waited for this one.
fn wakes(program: &Program, ops: &[Option<OpOutcome>]) -> impl Iterator<Item = usize> {
    let all = program.threads.iter().flat_map(|thread| &thread.ops).zip(ops);
    let woke = all.filter(|(op, outcome)| {
        outcome.is_some_and(|outcome| outcome.n_wakes > 0) && !IDLE.contains(&op.kind)
    });
    woke.filter_map(|(op, _)| OPS.iter().position(|spec| spec.kind == op.kind))
        .filter(|&entry| entry < OPS_MAX)
}

/// Pairs of ops of two threads that succeeded and were under way at the same time, with repeats.
fn overlaps(program: &Program, ops: &[Option<OpOutcome>]) -> Vec<usize> {
    let mut outcomes = ops.iter().copied();
    let threads = program.threads.iter().map(|thread| {
        let ran = thread.ops.iter().zip(outcomes.by_ref()).filter_map(|(op, outcome)| Some((op, outcome?)));
        ran.filter(|(op, outcome)| outcome.result >= 0 && !IDLE.contains(&op.kind)).collect::<Vec<_>>()
    });
    let threads: Vec<Vec<(&Op, OpOutcome)>> = threads.collect();
    let mut out = Vec::new();
    for (idx, first) in threads.iter().enumerate() {
        for second in &threads[idx + 1..] {
            for (a, of_a) in first {
                let together = |of_b: &OpOutcome| of_a.start_ns < of_b.end_ns && of_b.start_ns < of_a.end_ns;
                out.extend(second.iter().filter(|(_, of_b)| together(of_b)).filter_map(|(b, _)| pair(a, b)));
            }
        }
    }
    out
}

fn pair(a: &Op, b: &Op) -> Option<usize> {
    let idx = |op: &Op| OPS.iter().take(OPS_MAX).position(|spec| spec.kind == op.kind);
    let (a_idx, b_idx) = (idx(a)?, idx(b)?);
    let slotted = slotted_idx(a.kind).is_some() && slotted_idx(b.kind).is_some();
    let one_slot = slotted && a.slot == b.slot;
    Some((a_idx.min(b_idx) * OPS_MAX + a_idx.max(b_idx)) * 2 + usize::from(one_slot))
}

/// Pairs of ops that succeeded one after the other on one slot, with repeats.
fn lives(program: &Program, ops: &[Option<OpOutcome>]) -> Vec<usize> {
    let mut out = Vec::new();
    let mut outcomes = ops.iter().copied();
    for thread in &program.threads {
        let mut last = [None; N_SLOTS];
        let mut flags = [0_u32; N_SLOTS];
        let mut grouped = false;
        for op in &thread.ops {
            let worked = outcomes.next().flatten().is_some_and(|outcome| outcome.result >= 0);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn results(results: &[i32]) -> Vec<Option<OpOutcome>> {
        results.iter().map(|&result| Some(OpOutcome { result, ..OpOutcome::default() })).collect()
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
        let all = lives(&program, &results(&[0, 0, 0, 0]));
        assert_eq!(all.len(), 2, "alloc-register and register-free; slot 2 has no past");
        assert_eq!(lives(&program, &results(&[0, -11, 0, 0])).len(), 1, "alloc-free");
        assert_eq!(lives(&program, &[None; 4]), [0; 0]);
        assert!(all.iter().all(|&entry| entry < LIFE_ENTRIES));
    }

    #[test]
    fn ops_of_two_threads_overlap_when_both_are_under_way() {
        assert!(OPS.len() <= OPS_MAX);
        let text = "thread cpu=0\n alloc slot=1 flags=0 name=0\n register slot=1\n sleep us=9\n\
                    thread cpu=1\n drop_caches what=slab\n free slot=1\n";
        let program: Program = text.parse().unwrap();
        let at = |start_ns, end_ns| Some(OpOutcome { result: 0, start_ns, end_ns, n_edges: 0, n_wakes: 0 });
        let one = overlaps(&program, &[at(0, 10), at(10, 20), at(20, 90), at(10, 30), at(30, 40)]);
        assert_eq!(one, [pair(&program.threads[0].ops[1], &program.threads[1].ops[0]).unwrap()]);
        let two = overlaps(&program, &[at(0, 10), at(10, 20), at(20, 90), None, at(15, 40)]);
        assert_eq!(two, [pair(&program.threads[0].ops[1], &program.threads[1].ops[1]).unwrap()]);
        assert_ne!(one, two);
        assert!(
            !two[0].is_multiple_of(2) && one[0].is_multiple_of(2),
            "only register and free are on one slot"
        );
        let failed = Some(OpOutcome { result: -11, start_ns: 0, end_ns: 99, n_edges: 0, n_wakes: 0 });
        assert_eq!(overlaps(&program, &[failed, failed, failed, at(10, 30), at(30, 40)]), [0; 0]);
    }
}
