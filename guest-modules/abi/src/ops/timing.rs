// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Ops that time, place or fail other ops.

use super::{Field, OpSpec, args::number, op};
use crate::{
    layout::{N_BARRIERS, kind},
    program::CPUS_MAX,
};

pub(super) const OPS: &[OpSpec] = &[
    op(
        kind::PREEMPT,
        "preempt",
        2,
        &[number("ns", Field::A, 100, kind::PREEMPT_NS_MAX), number("hold", Field::B, 0, 200_000)],
        "a timer interrupts this CPU in {ns} ns and holds it for {hold} ns",
    ),
    op(
        kind::PREEMPT_TASK,
        "preempt_task",
        2,
        &[number("ns", Field::A, 100, kind::PREEMPT_NS_MAX), number("us", Field::B, 0, 50_000)],
        "a task of high priority takes this CPU in {ns} ns, for {us} us",
    ),
    op(
        kind::PREEMPT_EDGE,
        "preempt_edge",
        4,
        &[number("n", Field::A, 1, kind::PREEMPT_EDGE_MAX), number("us", Field::B, 0, 50_000)],
        "when this thread's next op has entered {n} basic blocks, a task of high priority takes its CPU for {us} us",
    ),
    op(
        kind::PREEMPT_WAKE,
        "preempt_wake",
        3,
        &[number("n", Field::A, 1, 16), number("us", Field::B, 0, 50_000)],
        "when this thread has woken another {n} time(s), a task of high priority takes its CPU for {us} us",
    ),
    op(
        kind::FAIL_NTH,
        "fail_nth",
        3,
        &[number("n", Field::A, 1, 200)],
        "allocation {n} of this thread's next op fails; returns 1 if there was one",
    ),
    op(
        kind::BARRIER,
        "barrier",
        3,
        &[number("id", Field::A, 0, N_BARRIERS as u32 - 1)],
        "wait for the other threads at barrier {id}",
    ),
    op(kind::SLEEP, "sleep", 2, &[number("us", Field::A, 1, 5000)], "sleep {us} us"),
    op(kind::SPIN, "spin", 2, &[number("us", Field::A, 1, 200)], "spin {us} us"),
    op(kind::YIELD, "yield", 1, &[], "sched_yield()"),
    op(
        kind::HOLD_LOCK,
        "hold_lock",
        1,
        &[number("us", Field::A, 1, 200)],
        "hold the mutex that callbacks take for {us} us",
    ),
    op(
        kind::MOVE,
        "move",
        1,
        &[number("cpu", Field::A, 0, CPUS_MAX as u32 - 1)],
        "this thread moves to CPU {cpu}",
    ),
    op(kind::CPU_CYCLE, "cpu_cycle", 1, &[], "take the last CPU offline and back").dear(),
];
