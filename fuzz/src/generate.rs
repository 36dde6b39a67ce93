// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs from nothing. Ops come from the op table by weight, through a swarm: each program draws its own subset of
//! ops, weights, slots and groups, so that programs differ in kind and the threads of one meet on the same few slots.
//! Half of what a thread does follows the life of a shrinker, because ops on an empty slot reach nothing.

use abi::{
    layout::{MEMCG_ROOT, N_BARRIERS, N_MEMCGS, N_SLOTS, N_THREADS, Op, alloc_flag, kind},
    ops::{self, ArgSpec, Domain, Field, OPS},
};
use harness::program::{Audit, Program, Schedule, Thread};
use libafl_bolts::rands::{Rand, StdRand};

use crate::stories::STORIES;

/// Ops a generated thread has at most, barriers and preemption points apart; mutation may grow it to the limit of the
/// format.
pub const GENERATED_OPS_MAX: usize = 14;
/// Share of programs whose threads all meet at a barrier.
const MEET_PROB: f64 = 0.4;
/// Share of programs with a few preemption points strewn in.
const STREW_PROB: f64 = 0.5;
/// Preemption points strewn into a program at most.
const STREWN_MAX: usize = 4;
/// Share of swarms that an op is left out of.
const SWARM_DROP_PROB: f64 = 0.4;
/// Share of swarms that a dear op is left out of; its sizes are kept small.
const DEAR_DROP_PROB: f64 = 0.7;
/// Share of shrinkers that may lack what most have: a scan function, an lru of its own for each group.
const ODD_PROB: f64 = 0.1;
/// Values of a [`Domain::Place`] argument that one swarm uses.
const PLACES_MAX: usize = 2;
/// Share of stories told by [`Swarm::story`] rather than lives of a shrinker.
const STORY_PROB: f64 = 0.3;
/// Share of lives without an end: what is left when a program is over is looked at most closely.
const LEFT_PROB: f64 = 0.4;
/// Share of programs that are audited in depth, which takes as long as a short program.
const DEEP_PROB: f64 = 0.1;

/// What one program is made of.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// Weight of each entry of [`OPS`]; 0: not used.
    weights: Vec<u32>,
    /// Slots in use, a few.
    slots: Vec<u8>,
    /// Groups in use, one or two.
    memcgs: Vec<u8>,
    /// Caches, handles, mount points in use.
    places: Vec<u32>,
}

impl Swarm {
    /// Draws a swarm.
    pub fn draw(rand: &mut StdRand) -> Swarm {
        let weights = OPS.iter().map(|spec| {
            let keep = !rand.coinflip(if spec.is_dear { DEAR_DROP_PROB } else { SWARM_DROP_PROB });
            u32::from(keep) * spec.weight * (1 << rand.below_or_zero(3))
        });
        let weights = weights.collect();
        let slots = (0..rand.between(1, 3)).map(|_| rand.below_or_zero(N_SLOTS) as u8).collect();
        let memcgs = (0..rand.between(1, 2)).map(|_| rand.below_or_zero(N_MEMCGS) as u8).collect();
        let places = (0..rand.between(1, PLACES_MAX)).map(|_| rand.below_or_zero(8) as u32).collect();
        Swarm { weights, slots, memcgs, places }
    }

    /// Draws a swarm that stays on the slots and groups a program already uses.
    pub fn draw_for(rand: &mut StdRand, program: &Program) -> Swarm {
        let mut swarm = Swarm::draw(rand);
        let used = |wanted: fn(&ArgSpec) -> bool| {
            let ops = program.threads.iter().flat_map(|thread| &thread.ops);
            let values = ops.flat_map(|op| {
                let args = ops::spec(op.kind).map_or(&[][..], |spec| spec.args);
                args.iter().filter(|arg| wanted(arg)).map(|arg| op.get(arg.field))
            });
            let mut values: Vec<u32> = values.collect();
            values.sort_unstable();
            values.dedup();
            values
        };
        let bytes = |values: Vec<u32>| values.into_iter().map(|value| value as u8).collect::<Vec<u8>>();
        let slots = bytes(used(|arg| arg.field == Field::Slot));
        let memcgs = bytes(used(|arg| arg.field == Field::Memcg));
        let places = used(|arg| matches!(arg.domain, Domain::Place(_)));
        if !slots.is_empty() && !rand.coinflip(0.1) {
            swarm.slots = slots;
        }
        if !memcgs.is_empty() && !rand.coinflip(0.1) {
            swarm.memcgs = memcgs;
        }
        if !places.is_empty() && !rand.coinflip(0.1) {
            swarm.places = places;
        }
        swarm
    }

    /// One op of the swarm.
    pub fn op(&self, rand: &mut StdRand) -> Op {
        let spec = &OPS[weighted(rand, &self.weights)];
        self.op_of(rand, spec.kind)
    }

    /// An op of that kind, its arguments drawn from the swarm.
    pub fn op_of(&self, rand: &mut StdRand, kind: u8) -> Op {
        let mut op = Op { kind, ..Op::default() };
        let Some(spec) = ops::spec(kind) else { return op };
        for arg in spec.args {
            let value = match arg.field {
                _ if matches!(arg.domain, Domain::Place(_)) => pick(rand, &self.places),
                Field::Slot => pick(rand, &self.slots).into(),
                Field::Memcg if matches!(arg.domain, Domain::Name(_)) && rand.coinflip(0.1) => {
                    arg.domain.range().1
                }
                Field::Memcg => pick(rand, &self.memcgs).into(),
                _ if spec.is_dear => argument(rand, arg).min(argument(rand, arg)),
                _ => argument(rand, arg),
            };
            op.set(arg.field, value);
        }
        if kind == kind::ALLOC && !rand.coinflip(ODD_PROB) {
            op.a &= !(alloc_flag::COUNT_ONLY | alloc_flag::PLAIN_LRU);
        }
        op.fixup()
    }

    /// The life of one shrinker, from alloc on, to free or to the end of the program, with something in it for reclaim to find. Other ops of the swarm
    /// come in between.
    pub fn life(&self, rand: &mut StdRand) -> Vec<Op> {
        const FILL: &[u8] = &[kind::ADD_OBJECTS, kind::LRU_ADD];
        const BEHAVE: &[u8] = &[kind::SET_COUNT, kind::SET_SCAN];
        const SHAPE: &[u8] = &[kind::SET_SEEKS, kind::SET_BATCH];
        const GROUP: &[u8] = &[kind::MEMCG_CREATE, kind::MEMCG_ENTER];
        const SHRINK: &[u8] = &[
            kind::DROP_CACHES,
            kind::DROP_CACHES,
            kind::DROP_CACHES,
            kind::DEBUGFS_SCAN,
            kind::DEBUGFS_COUNT,
            kind::LRU_WALK,
        ];
        const SHRINK_GROUP: &[u8] = &[kind::MEMCG_RECLAIM, kind::DROP_CACHES];
        let mut kinds: Vec<u8> = Vec::new();
        let shrink = if rand.coinflip(0.35) { SHRINK_GROUP } else { SHRINK };
        if shrink == SHRINK_GROUP {
            kinds.extend(GROUP);
        }
        kinds.push(kind::ALLOC);
        some_of(rand, SHAPE, 1, &mut kinds);
        kinds.push(kind::REGISTER);
        match rand.below_or_zero(4) {
            0 => kinds.extend(BEHAVE),
            1 => kinds.push(pick(rand, BEHAVE)),
            _ => {}
        }
        kinds.push(pick(rand, FILL));
        some_of(rand, FILL, 2, &mut kinds);
        kinds.push(pick(rand, shrink));
        some_of(rand, shrink, 2, &mut kinds);
        if !rand.coinflip(LEFT_PROB) {
            kinds.push(kind::FREE);
        }

        self.interspersed(rand, &kinds)
    }

    /// One of [`STORIES`], parts of it left out now and then.
    pub fn story(&self, rand: &mut StdRand) -> Vec<Op> {
        let mut kinds = pick(rand, STORIES).to_vec();
        if rand.coinflip(0.3) {
            kinds.remove(rand.below_or_zero(kinds.len()));
        }
        self.interspersed(rand, &kinds)
    }

    /// Ops of these kinds on one slot, one group, one place: with other ops of the swarm in between.
    fn interspersed(&self, rand: &mut StdRand, kinds: &[u8]) -> Vec<Op> {
        let one = Swarm {
            weights: self.weights.clone(),
            slots: vec![pick(rand, &self.slots)],
            memcgs: vec![pick(rand, &self.memcgs)],
            places: vec![pick(rand, &self.places)],
        };
        let mut out = Vec::with_capacity(2 * kinds.len());
        for kind in kinds {
            if rand.coinflip(0.15) {
                out.push(self.op(rand));
            }
            let mut op = one.op_of(rand, *kind);
            if *kind == kind::MEMCG_ENTER && out.iter().any(|before| before.kind == *kind) {
                op.memcg = MEMCG_ROOT;
            }
            // Who lies, mostly lies in both.
            let counted = out.iter().rev().find(|before: &&Op| before.kind == kind::SET_COUNT);
            if let (kind::SET_SCAN, Some(counted), true) = (*kind, counted, rand.coinflip(0.5)) {
                op.a = counted.a;
            }
            out.push(op);
        }
        out
    }

    fn thread(&self, rand: &mut StdRand, n_cpus: u8) -> Thread {
        // Short threads are more.
        let n_ops = rand.between(2, GENERATED_OPS_MAX).min(rand.between(2, GENERATED_OPS_MAX));
        let mut ops = Vec::new();
        while ops.len() < n_ops {
            if rand.coinflip(0.2) {
                let tells = rand.coinflip(STORY_PROB);
                ops.extend(if tells { self.story(rand) } else { self.life(rand) });
            } else {
                ops.push(self.op(rand));
            }
        }
        ops.truncate(GENERATED_OPS_MAX);
        Thread { cpu: rand.below_or_zero(n_cpus.into()) as u8, ops }
    }
}

/// A program from nothing, valid, under one of the schedules.
pub fn program(rand: &mut StdRand, schedules: &[Schedule]) -> Program {
    let swarm = Swarm::draw(rand);
    let schedule = schedules[rand.below_or_zero(schedules.len())];
    // On one CPU a wake-up preempts the waker; on several, threads truly run side by side. Different races.
    let n_cpus = if rand.coinflip(0.3) { 1 } else { schedule.vcpus };
    let threads = (0..rand.between(1, N_THREADS)).map(|_| swarm.thread(rand, n_cpus)).collect();
    let mut program = Program { schedule, audit: audit(rand), threads };
    if program.threads.len() > 1 && rand.coinflip(MEET_PROB) {
        let barrier = Op { kind: kind::BARRIER, a: rand.below_or_zero(N_BARRIERS) as u32, ..Op::default() };
        for thread in &mut program.threads {
            thread.ops.insert(rand.below_or_zero(thread.ops.len() + 1), barrier);
        }
    }
    if rand.coinflip(STREW_PROB) {
        for _ in 0..rand.between(1, STREWN_MAX) {
            let kind = kind::PREEMPTIONS[rand.below_or_zero(kind::PREEMPTIONS.len())];
            let preempt = swarm.op_of(rand, kind);
            let n_threads = program.threads.len();
            let ops = &mut program.threads[rand.below_or_zero(n_threads)].ops;
            ops.insert(rand.below_or_zero(ops.len() + 1), preempt);
        }
    }
    program.fixup();
    program
}

/// How a program is audited.
pub fn audit(rand: &mut StdRand) -> Audit {
    if rand.coinflip(DEEP_PROB) { Audit::Deep } else { Audit::Light }
}

/// A value for an argument: names and flags evenly, numbers mostly small or at an edge.
pub fn argument(rand: &mut StdRand, arg: &ArgSpec) -> u32 {
    let (min, max) = arg.domain.range();
    match arg.domain {
        Domain::Number { .. } | Domain::Place(_) => number(rand, min, max),
        Domain::Name(_) | Domain::Flags(_) => rand.between(min as usize, max as usize) as u32,
    }
}

/// A number in `min..=max`: every magnitude is as likely as any other; edges and powers of two get their share.
pub fn number(rand: &mut StdRand, min: u32, max: u32) -> u32 {
    let (low, high) = (u64::from(min), u64::from(max));
    let bits = rand.below_or_zero(65 - (high - low).leading_zeros() as usize) as u32;
    let value = match rand.below_or_zero(8) {
        0 => low,
        1 => high,
        2 => 1 << bits,
        3 => (1 << bits) - 1,
        _ => low + (rand.next() & ((1 << bits) - 1)),
    };
    value.clamp(low, high) as u32
}

/// Index drawn by weight; the first when all weights are 0.
pub fn weighted(rand: &mut StdRand, weights: &[u32]) -> usize {
    let total: u32 = weights.iter().sum();
    let mut left = rand.below_or_zero(total as usize) as u32;
    for (idx, &weight) in weights.iter().enumerate() {
        if left < weight {
            return idx;
        }
        left -= weight;
    }
    0
}

/// One of a slice that is not empty.
pub fn pick<T: Copy>(rand: &mut StdRand, from: &[T]) -> T {
    from[rand.below_or_zero(from.len())]
}

/// Up to `n_max` of a slice, at random, appended.
fn some_of(rand: &mut StdRand, from: &[u8], n_max: usize, out: &mut Vec<u8>) {
    for _ in 0..rand.between(0, n_max) {
        out.push(pick(rand, from));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEDULES: &[Schedule] = &[Schedule { vcpus: 2, shift: 3 }, Schedule { vcpus: 4, shift: 3 }];

    proptest! {
        #[test]
        fn generated_programs_are_valid_and_bounded(seed: u64) {
            let made = program(&mut StdRand::with_seed(seed), SCHEDULES);
            prop_assert!(made.is_valid());
            prop_assert!(SCHEDULES.contains(&made.schedule));
            prop_assert!(made.threads.iter().all(|thread| thread.ops.len() <= GENERATED_OPS_MAX + 1 + STREWN_MAX));
            prop_assert_eq!(&program(&mut StdRand::with_seed(seed), SCHEDULES), &made);
        }

        #[test]
        fn numbers_stay_in_their_range(seed: u64, a: u32, b: u32) {
            let (min, max) = (a.min(b), a.max(b));
            let value = number(&mut StdRand::with_seed(seed), min, max);
            prop_assert!((min..=max).contains(&value));
        }
    }

    #[test]
    fn every_op_is_generated_and_shrinkers_live_their_lives() {
        let mut rand = StdRand::with_seed(1);
        let mut seen = vec![0_u32; OPS.len()];
        let mut lives = 0;
        for _ in 0..1000 {
            for thread in program(&mut rand, SCHEDULES).threads {
                for op in &thread.ops {
                    seen[OPS.iter().position(|spec| spec.kind == op.kind).unwrap()] += 1;
                }
                let at = |kind| thread.ops.iter().position(|op| op.kind == kind);
                let (alloc, register) = (at(kind::ALLOC), at(kind::REGISTER));
                lives += u32::from(alloc.is_some() && alloc < register && register < at(kind::FREE));
            }
        }
        assert!(seen.iter().all(|&n| n >= 15), "{seen:?}");
        assert!(lives >= 500, "{lives} threads of some 2500 hold a whole life");
    }
}
