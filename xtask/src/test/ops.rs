// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every op of the table on a real kernel: alone, after what it needs, and all of them side by side. A good kernel stays
//! clean, and each op works somewhere.

use ::fuzz::standalone;
use abi::{
    layout::{N_THREADS, Op, kind},
    ops::{OPS, OpSpec, TOPICS},
    program::OPS_MAX,
};
use anyhow::{Context, Result, ensure};
use harness::{
    epoch::{Epoch, EpochOutcome},
    program::{Audit, OpText, Program, Schedule, Thread},
};

use super::{checks::Checks, det::ensure_clean};
use crate::{bundle, kernel::artifact, prepare::Prepared};

/// Names of the checks.
pub const NAMES: &[&str] = &[
    "every op alone and in a smoke program: clean, and each works",
    "every op's stand-alone form builds without a warning",
];

/// What a Linux guest returns for an op that nothing executes.
const ENOSYS: i32 = -38;

/// Ops that need what not every kernel has.
const MAY_NEVER_WORK: &[u8] = &[
    // The file came with 7.x.
    kind::NODE_RECLAIM,
];

/// What each op finds: a group with memory to reclaim, a shrinker with something to shrink.
const SCENE: &str = "thread cpu=0
    memcg_create memcg=0
    memcg_enter memcg=0
    alloc slot=0 flags=numa|memcg name=1
    register slot=0
    add_objects slot=0 nid=0 n=64
    lru_add slot=0 nid=0 by=obj n=8
";

/// What ops of a topic find besides.
const SCENES: &[(&str, &str)] = &[
    ("Shrinkers", "object_new object=0 flags=memcg n=64\n pad_ids to=8 do=alloc\n module_load"),
    ("list_lru", "lru_make slot=0 n=4"),
    ("Memory cgroups", "mount mount=0 fs=tmpfs\n tree_make mount=0 n=16 entry=data"),
    ("debugfs", "debugfs_hold handle=0 slot=0 file=scan\n debugfs_hold handle=1 slot=0 file=count"),
    ("Superblocks", "mount mount=0 fs=tmpfs\n tree_make mount=0 n=1 entry=file"),
    ("Slab caches", "cache_create cache=0 flags=ctor size=64\n cache_alloc cache=0 n=16"),
    ("Reclaim", "thp_split pages=1\n thp_pin"),
];

/// Uses of ops whose smallest and largest arguments mean nothing on that scene.
const USES: &[&str] = &[
    "rename slot=0 name=2",
    "memcg_reclaim memcg=0 kib=16",
    "memcg_reclaim_swap memcg=0 kib=16 swappiness=200",
    "held_read handle=1",
    "debugfs_write slot=0 text=4",
];

/// Runs them.
pub fn run(checks: &mut Checks, prepared: &Prepared) {
    checks.check(NAMES[0], || {
        for audit in [Audit::Light, Audit::Deep] {
            let programs = programs()?.into_iter().map(|program| Program { audit, ..program });
            let programs: Vec<Program> = programs.collect();
            let outcome = prepared.pool()?.run(Epoch { programs: programs.clone(), ..Epoch::default() });
            ensure_clean(&outcome)?;
            ensure_each_works(&programs, &outcome)?;
        }
        Ok(())
    });
    checks.check(NAMES[1], || build_standalone(prepared));
}

/// The ops of each topic, those that take CPUs away each alone, and all together, as modules for a kernel that has nothing of
/// ours.
fn build_standalone(prepared: &Prepared) -> Result<()> {
    let kernel = prepared
        .machine
        .vmlinux
        .parent()
        .and_then(artifact::load)
        .context("the kernel is not in the cache")?;
    let of_kinds = |wanted: &dyn Fn(u8) -> bool| -> Program {
        let ops: Vec<Op> = OPS.iter().filter(|spec| wanted(spec.kind)).map(smallest).collect();
        let threads = ops.chunks(OPS_MAX).map(|ops| Thread { cpu: 0, ops: ops.to_vec() }).collect();
        Program { schedule: Schedule::default(), audit: Audit::Light, threads }
    };
    let of_topic = |ops: &[OpSpec]| of_kinds(&|kind| ops.iter().any(|spec| spec.kind == kind));
    let mut programs: Vec<Program> = TOPICS.iter().map(|(_, ops)| of_topic(ops)).collect();
    programs.extend(kind::PREEMPTIONS.map(|preemption| of_kinds(&|kind| kind == preemption)));
    programs.push(of_kinds(&|_| true));
    for program in programs {
        let source = standalone::Source {
            title: "a title",
            release: "6.12.0",
            programs: std::slice::from_ref(&program),
            append: "",
            leak_scan: false,
        };
        bundle::build(&prepared.cache, &kernel, &standalone::generate(&source))
            .with_context(|| program.to_string())?;
    }
    Ok(())
}

/// A program for each op, its arguments at their smallest, then at their largest, then as in [`USES`]; two with all ops.
fn programs() -> Result<Vec<Program>> {
    let alone = |(topic, spec): (&str, &OpSpec)| -> Result<Program> {
        let besides = SCENES.iter().find(|(name, _)| *name == topic).map_or("", |(_, text)| text);
        let uses = USES.iter().filter(|text| text.split(' ').next() == Some(spec.name));
        let uses: String = uses.map(|text| format!("{text}\n")).collect();
        let mut program: Program = format!("{SCENE}{besides}\n{uses}").parse()?;
        // What `fail_nth` fails comes after it.
        let next = Op { kind: kind::DROP_CACHES, ..Op::default() }.fixup();
        program.threads[0].ops.extend([smallest(spec), next, largest(spec), next]);
        Ok(program)
    };
    let smoke = |arguments: fn(&OpSpec) -> Op| {
        let ops: Vec<Op> = OPS.iter().map(arguments).collect();
        let share = ops.len().div_ceil(N_THREADS);
        let threads = ops.chunks(share).enumerate();
        let threads = threads.map(|(cpu, ops)| Thread { cpu: cpu as u8, ops: ops.to_vec() }).collect();
        Program { schedule: Schedule::default(), audit: Audit::Light, threads }
    };
    let ops = TOPICS.iter().flat_map(|(topic, ops)| ops.iter().map(|spec| (*topic, spec)));
    let mut programs = ops.map(alone).collect::<Result<Vec<Program>>>()?;
    programs.extend([smoke(smallest), smoke(largest)]);
    Ok(programs)
}

fn smallest(spec: &OpSpec) -> Op {
    Op { kind: spec.kind, ..Op::default() }.fixup()
}

fn largest(spec: &OpSpec) -> Op {
    let mut op = Op { kind: spec.kind, ..Op::default() };
    for arg in spec.args {
        op.set(arg.field, arg.domain.range().1);
    }
    op
}

fn ensure_each_works(programs: &[Program], outcome: &EpochOutcome) -> Result<()> {
    let mut works = [false; u8::MAX as usize + 1];
    for (program, outcome) in programs.iter().zip(&outcome.programs) {
        let ops = program.threads.iter().flat_map(|thread| &thread.ops);
        for (op, result) in ops.zip(&outcome.ops) {
            let result = result.map(|op| op.result);
            ensure!(result.is_some_and(|result| result != ENOSYS), "`{}` returned {result:?}", OpText(op));
            works[usize::from(op.kind)] |= result.is_some_and(|result| result >= 0);
        }
    }
    let idle = OPS.iter().filter(|spec| !works[usize::from(spec.kind)]);
    let idle: Vec<&str> =
        idle.filter(|spec| !MAY_NEVER_WORK.contains(&spec.kind)).map(|spec| spec.name).collect();
    ensure!(idle.is_empty(), "never worked: {}", idle.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_program_for_each_op_and_each_is_valid() {
        let programs = programs().unwrap();
        assert_eq!(programs.len(), OPS.len() + 2);
        for (program, spec) in programs.iter().zip(OPS) {
            assert!(program.is_valid());
            assert!(program.threads[0].ops.iter().any(|op| op.kind == spec.kind));
        }
    }
}
