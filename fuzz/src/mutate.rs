// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small structural changes to a program. Each mutation is one function in [`MUTATIONS`]; it may leave anything behind,
//! because `fixup` follows, and says whether it found something to change.

use abi::{
    layout::{MEMCG_ROOT, N_SLOTS, N_THREADS, Op, kind},
    ops::{self, Domain, Field},
    program::{CPUS_MAX, OPS_MAX},
};
use harness::program::{Audit, Program, Schedule, Thread};
use libafl_bolts::rands::{Rand, StdRand};

use crate::generate::{self, Swarm, argument, pick, weighted};

/// What a mutation draws on.
pub struct Ctx<'a> {
    /// The campaign's randomness.
    pub rand: &'a mut StdRand,
    /// Another program of the corpus, to splice from.
    pub other: &'a Program,
    /// Schedules a program may move to.
    pub schedules: &'a [Schedule],
}

/// One mutation.
pub struct Mutation {
    /// What it does, in a word.
    pub name: &'static str,
    /// How often it is picked, relative to the others.
    pub weight: u32,
    /// Does it; false when there is nothing to do it to.
    pub apply: fn(&mut Ctx<'_>, &mut Program) -> bool,
}

const fn entry(name: &'static str, weight: u32, apply: fn(&mut Ctx<'_>, &mut Program) -> bool) -> Mutation {
    Mutation { name, weight, apply }
}

/// Every mutation.
pub static MUTATIONS: &[Mutation] = &[
    entry("insert", 10, insert),
    entry("insert life", 3, insert_life),
    entry("insert story", 2, insert_story),
    entry("fail next", 3, fail_next),
    entry("delete", 10, delete),
    entry("delete range", 4, delete_range),
    entry("swap", 6, swap),
    entry("splice", 5, splice),
    entry("splice thread", 5, splice_thread),
    entry("move", 6, move_op),
    entry("retarget slot", 5, retarget_slot),
    entry("merge slots", 2, merge_slots),
    entry("retarget memcg", 4, retarget_memcg),
    entry("tweak argument", 10, tweak_argument),
    entry("tweak number", 6, tweak_number),
    entry("duplicate thread", 4, duplicate_thread),
    entry("drop thread", 3, drop_thread),
    entry("repin", 3, repin),
    entry("add preempt", 5, add_preempt),
    entry("shift preempt", 4, shift_preempt),
    entry("remove preempt", 2, remove_preempt),
    entry("change schedule", 1, change_schedule),
    entry("change audit", 1, change_audit),
];

/// Most mutations applied at once.
const STACK_MAX_LOG2: usize = 3;

/// Applies 1 to 8 mutations and makes the outcome a valid program.
pub fn mutate(ctx: &mut Ctx<'_>, program: &mut Program) {
    let weights: Vec<u32> = MUTATIONS.iter().map(|mutation| mutation.weight).collect();
    let n_wanted = 1 << ctx.rand.below_or_zero(STACK_MAX_LOG2 + 1);
    // A mutation without a target is drawn anew, but not for ever: an empty program has few targets.
    let mut n_done = 0;
    for _ in 0..4 * n_wanted {
        n_done += usize::from((MUTATIONS[weighted(ctx.rand, &weights)].apply)(ctx, program));
        if n_done == n_wanted {
            break;
        }
    }
    program.fixup();
}

/// A thread, by index; programs have at least one.
fn any_thread(rand: &mut StdRand, program: &Program) -> usize {
    rand.below_or_zero(program.threads.len())
}

/// (thread, op) of an op that satisfies `wanted`.
fn any_op(rand: &mut StdRand, program: &Program, wanted: impl Fn(&Op) -> bool) -> Option<(usize, usize)> {
    let all = program.threads.iter().enumerate();
    let all = all.flat_map(|(t, thread)| thread.ops.iter().enumerate().map(move |(o, op)| (t, o, op)));
    let found: Vec<(usize, usize)> = all.filter(|(_, _, op)| wanted(op)).map(|(t, o, _)| (t, o)).collect();
    (!found.is_empty()).then(|| pick(rand, &found))
}

fn has_field(op: &Op, field: Field) -> bool {
    ops::spec(op.kind).is_some_and(|spec| spec.args.iter().any(|arg| arg.field == field))
}

fn insert_at(rand: &mut StdRand, thread: &mut Thread, ops: impl IntoIterator<Item = Op>) {
    let at = rand.below_or_zero(thread.ops.len() + 1);
    thread.ops.splice(at..at, ops);
}

fn insert(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let swarm = Swarm::draw_for(ctx.rand, program);
    let new: Vec<Op> = (0..ctx.rand.between(1, 3)).map(|_| swarm.op(ctx.rand)).collect();
    let thread = any_thread(ctx.rand, program);
    insert_at(ctx.rand, &mut program.threads[thread], new);
    true
}

fn insert_life(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let life = Swarm::draw_for(ctx.rand, program).life(ctx.rand);
    let thread = any_thread(ctx.rand, program);
    insert_at(ctx.rand, &mut program.threads[thread], life);
    true
}

fn insert_story(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let story = Swarm::draw_for(ctx.rand, program).story(ctx.rand);
    let thread = any_thread(ctx.rand, program);
    insert_at(ctx.rand, &mut program.threads[thread], story);
    true
}

/// The allocation after the one that fails now fails instead; where none does, the first of some op.
fn fail_next(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let found = any_op(ctx.rand, program, |op| op.kind == kind::FAIL_NTH);
    if let Some((thread, op)) = found.filter(|_| ctx.rand.coinflip(0.8)) {
        program.threads[thread].ops[op].a += 1;
        return true;
    }
    let Some((thread, at)) = any_op(ctx.rand, program, |_| true) else { return false };
    program.threads[thread].ops.insert(at, Op { kind: kind::FAIL_NTH, a: 1, ..Op::default() });
    true
}

fn delete(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let Some((thread, op)) = any_op(ctx.rand, program, |_| true) else { return false };
    program.threads[thread].ops.remove(op);
    true
}

fn delete_range(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let Some((thread, from)) = any_op(ctx.rand, program, |_| true) else { return false };
    let ops = &mut program.threads[thread].ops;
    let to = ctx.rand.between(from + 1, ops.len());
    ops.drain(from..to);
    true
}

fn swap(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let Some((thread, a)) = any_op(ctx.rand, program, |_| true) else { return false };
    let ops = &mut program.threads[thread].ops;
    let b = if ctx.rand.coinflip(0.5) { (a + 1) % ops.len() } else { ctx.rand.below_or_zero(ops.len()) };
    ops.swap(a, b);
    a != b
}

/// A run of ops of another program goes into a thread of this one.
fn splice(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let Some((from, start)) = any_op(ctx.rand, ctx.other, |_| true) else { return false };
    let donor = &ctx.other.threads[from].ops;
    let end = ctx.rand.between(start + 1, donor.len());
    let thread = any_thread(ctx.rand, program);
    insert_at(ctx.rand, &mut program.threads[thread], donor[start..end].iter().copied());
    true
}

/// A whole thread of another program joins this one, or takes the place of one when there are enough.
fn splice_thread(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let donor = ctx.other.threads[any_thread(ctx.rand, ctx.other)].clone();
    if donor.ops.is_empty() {
        return false;
    }
    if program.threads.len() < N_THREADS {
        program.threads.push(donor);
    } else {
        let thread = any_thread(ctx.rand, program);
        program.threads[thread] = donor;
    }
    true
}

/// An op moves to another place, in any thread.
fn move_op(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let Some((from, at)) = any_op(ctx.rand, program, |_| true) else { return false };
    let to = any_thread(ctx.rand, program);
    if program.threads[to].ops.len() >= OPS_MAX {
        return false;
    }
    let op = program.threads[from].ops.remove(at);
    insert_at(ctx.rand, &mut program.threads[to], [op]);
    true
}

fn retarget_slot(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let Some((thread, op)) = any_op(ctx.rand, program, |op| has_field(op, Field::Slot)) else { return false };
    // Mostly to a slot that is in use: there something can meet.
    let used = any_op(ctx.rand, program, |op| has_field(op, Field::Slot));
    let slot = match used {
        Some((t, o)) if ctx.rand.coinflip(0.8) => program.threads[t].ops[o].slot,
        _ => ctx.rand.below_or_zero(N_SLOTS) as u8,
    };
    let op = &mut program.threads[thread].ops[op];
    let changed = op.slot != slot;
    op.slot = slot;
    changed
}

/// Every op on one slot goes to another slot in use.
fn merge_slots(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let is_slotted = |op: &Op| has_field(op, Field::Slot);
    let (Some((t, o)), Some((u, p))) =
        (any_op(ctx.rand, program, is_slotted), any_op(ctx.rand, program, is_slotted))
    else {
        return false;
    };
    let (from, to) = (program.threads[t].ops[o].slot, program.threads[u].ops[p].slot);
    let ops = program.threads.iter_mut().flat_map(|thread| &mut thread.ops);
    ops.filter(|op| is_slotted(op) && op.slot == from).for_each(|op| op.slot = to);
    from != to
}

fn retarget_memcg(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let Some((thread, op)) = any_op(ctx.rand, program, |op| has_field(op, Field::Memcg)) else {
        return false;
    };
    let used = any_op(ctx.rand, program, |op| has_field(op, Field::Memcg));
    let memcg = match used {
        Some((t, o)) if ctx.rand.coinflip(0.7) => program.threads[t].ops[o].memcg,
        _ => ctx.rand.below_or_zero(usize::from(MEMCG_ROOT) + 1) as u8,
    };
    let op = &mut program.threads[thread].ops[op];
    let changed = op.memcg != memcg;
    op.memcg = memcg;
    changed
}

/// One argument of one op is drawn anew.
fn tweak_argument(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let has_args = |op: &Op| ops::spec(op.kind).is_some_and(|spec| !spec.args.is_empty());
    let Some((thread, op)) = any_op(ctx.rand, program, has_args) else { return false };
    let op = &mut program.threads[thread].ops[op];
    let args = ops::spec(op.kind).map_or(&[][..], |spec| spec.args);
    let arg = &args[ctx.rand.below_or_zero(args.len())];
    let old = op.get(arg.field);
    op.set(arg.field, argument(ctx.rand, arg));
    op.get(arg.field) != old
}

/// One number moves a little, doubles or halves.
fn tweak_number(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let is_number = |arg: &&ops::ArgSpec| {
        matches!(arg.domain, Domain::Number { .. }) && matches!(arg.field, Field::A | Field::B | Field::C)
    };
    let numbers = |op: &Op| ops::spec(op.kind).into_iter().flat_map(|spec| spec.args).filter(is_number);
    let Some((thread, op)) = any_op(ctx.rand, program, |op| numbers(op).next().is_some()) else {
        return false;
    };
    let op = &mut program.threads[thread].ops[op];
    let args: Vec<&ops::ArgSpec> = numbers(op).collect();
    let arg = pick(ctx.rand, &args);
    let (min, max) = arg.domain.range();
    let (old, step) = (op.get(arg.field), ctx.rand.between(1, 16) as u32);
    let new = match ctx.rand.below_or_zero(4) {
        0 => old.saturating_add(step),
        1 => old.saturating_sub(step),
        2 => old.saturating_mul(2),
        _ => old / 2,
    };
    op.set(arg.field, new.clamp(min, max));
    op.get(arg.field) != old
}

fn duplicate_thread(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    if program.threads.len() >= N_THREADS {
        return false;
    }
    let mut copy = program.threads[any_thread(ctx.rand, program)].clone();
    copy.cpu = ctx.rand.below_or_zero(program.schedule.vcpus.into()) as u8;
    program.threads.push(copy);
    true
}

fn drop_thread(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    if program.threads.len() < 2 {
        return false;
    }
    let thread = any_thread(ctx.rand, program);
    program.threads.remove(thread);
    true
}

fn repin(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let thread = any_thread(ctx.rand, program);
    let cpu = ctx.rand.below_or_zero(program.schedule.vcpus.min(CPUS_MAX).into()) as u8;
    let old = std::mem::replace(&mut program.threads[thread].cpu, cpu);
    old != cpu
}

fn add_preempt(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let Some((thread, at)) = any_op(ctx.rand, program, |_| true) else { return false };
    let kind = pick(ctx.rand, &kind::PREEMPTIONS);
    let preempt = Swarm::draw_for(ctx.rand, program).op_of(ctx.rand, kind);
    program.threads[thread].ops.insert(at, preempt);
    true
}

fn is_preemption(op: &Op) -> bool {
    kind::PREEMPTIONS.contains(&op.kind)
}

/// A preemption point moves in time: by a little, so that it walks over the instructions near by, or far.
fn shift_preempt(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let Some((thread, op)) = any_op(ctx.rand, program, is_preemption) else { return false };
    let op = &mut program.threads[thread].ops[op];
    let reach = if ctx.rand.coinflip(0.7) { (op.a / 8).max(64) } else { op.a.max(64) };
    let by = ctx.rand.between(1, reach as usize) as u32;
    op.a = if ctx.rand.coinflip(0.5) { op.a.saturating_add(by) } else { op.a.saturating_sub(by) };
    true
}

fn remove_preempt(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let Some((thread, op)) = any_op(ctx.rand, program, is_preemption) else { return false };
    program.threads[thread].ops.remove(op);
    true
}

fn change_schedule(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let schedule = pick(ctx.rand, ctx.schedules);
    std::mem::replace(&mut program.schedule, schedule) != schedule
}

/// The audit becomes a deep one or is one no more; most programs do without.
fn change_audit(ctx: &mut Ctx<'_>, program: &mut Program) -> bool {
    let audit =
        if program.audit == Audit::Light && ctx.rand.coinflip(0.3) { Audit::Deep } else { Audit::Light };
    std::mem::replace(&mut program.audit, audit) != audit
}

/// A new program: mostly a mutant of `parent`, drawn from the context.
pub fn mutant(ctx: &mut Ctx<'_>, parent: &Program) -> Program {
    let mut program = parent.clone();
    mutate(ctx, &mut program);
    if !ctx.schedules.contains(&program.schedule) {
        program.schedule = ctx.schedules[0];
    }
    if program.n_ops() == 0 {
        return generate::program(ctx.rand, ctx.schedules);
    }
    program
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEDULES: &[Schedule] = &[Schedule { vcpus: 2, shift: 3 }, Schedule { vcpus: 4, shift: 3 }];

    proptest! {
        #[test]
        fn mutants_are_valid_bounded_and_survive_both_forms(seed: u64, n_rounds in 1..40_usize) {
            let mut rand = StdRand::with_seed(seed);
            let other = generate::program(&mut rand, SCHEDULES);
            let mut program = generate::program(&mut rand, SCHEDULES);
            for _ in 0..n_rounds {
                program = mutant(&mut Ctx { rand: &mut rand, other: &other, schedules: SCHEDULES }, &program);
                prop_assert!(program.is_valid());
                prop_assert!(SCHEDULES.contains(&program.schedule));
                prop_assert!((1..=N_THREADS * OPS_MAX).contains(&program.n_ops()));
            }
            prop_assert_eq!(&program.to_string().parse::<Program>().unwrap(), &program);
            prop_assert_eq!(&Program::from_wire(&program.to_wire(), program.schedule).unwrap(), &program);
        }

        #[test]
        fn each_mutation_alone_is_total_and_tells_whether_it_changed_anything(seed: u64, n_rounds in 0..20_usize) {
            let mut rand = StdRand::with_seed(seed);
            let other = generate::program(&mut rand, SCHEDULES);
            let empty = Program { schedule: SCHEDULES[0], audit: Audit::Light, threads: vec![Thread::default()] };
            let mut ctx = Ctx { rand: &mut rand, other: &other, schedules: SCHEDULES };
            for mutation in MUTATIONS {
                let mut program = empty.clone();
                for _ in 0..n_rounds {
                    let before = program.clone();
                    let changed = (mutation.apply)(&mut ctx, &mut program);
                    prop_assert!(changed || before == program, "{} says it did nothing", mutation.name);
                    program.fixup();
                    insert(&mut ctx, &mut program);
                    program.fixup();
                }
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_mutants() {
        let run = || {
            let mut rand = StdRand::with_seed(7);
            let other = generate::program(&mut rand, SCHEDULES);
            let mut program = generate::program(&mut rand, SCHEDULES);
            for _ in 0..100 {
                program = mutant(&mut Ctx { rand: &mut rand, other: &other, schedules: SCHEDULES }, &program);
            }
            program
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn every_mutation_finds_work_in_ordinary_programs() {
        let mut rand = StdRand::with_seed(3);
        for mutation in MUTATIONS {
            let worked = (0..200).filter(|_| {
                let other = generate::program(&mut rand, SCHEDULES);
                let mut program = generate::program(&mut rand, SCHEDULES);
                (mutation.apply)(
                    &mut Ctx { rand: &mut rand, other: &other, schedules: SCHEDULES },
                    &mut program,
                )
            });
            let worked = worked.count();
            assert!(worked >= 40, "{} worked on {worked} of 200 programs", mutation.name);
        }
    }
}
