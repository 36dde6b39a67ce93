// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time, place and failure without this tool.

use abi::layout::{Op, kind};

use super::form::{Context, Form, Reason};

/// The form of an op that times, places or fails others. What follows `fail_nth` is the caller's to see to.
pub(super) fn form(op: &Op, context: Context<'_>) -> Option<Result<Form, Reason>> {
    let n = op.a;
    Some(Ok(match op.kind {
        kind::PREEMPT => {
            Form::call(format!("do_preempt({n}, {});", op.b)).with(&["preempt", "preempt_timer"])
        }
        kind::PREEMPT_TASK => Form::call(format!("do_preempt_task({n}, {} * 1000);", op.b)).with(&[
            "preempt",
            "preempt_task",
            "preempt_timer_task",
        ]),
        kind::PREEMPT_WAKE => Form::call(format!("do_preempt_wake({n}, {} * 1000);", op.b))
            .with(&["preempt", "preempt_task", "preempt_wake"])
            .needs(&["CONFIG_TRACEPOINTS"]),
        kind::PREEMPT_EDGE => {
            return Some(Err("a preemption at a basic block needs KCOV and this tool's guest"));
        }
        kind::FAIL_NTH => Form::call(format!("do_fail_nth({n});"))
            .with(&["fail_nth", "debugfs"])
            .needs(&["CONFIG_FAILSLAB", "CONFIG_FAULT_INJECTION_DEBUG_FS"]),
        kind::BARRIER if context.programs.iter().all(|program| program.threads.len() < 2) => {
            return Some(Err("there is no other thread"));
        }
        kind::BARRIER => Form::call(format!("do_barrier({n});")).with(&["barrier"]),
        kind::SLEEP => Form::call(format!("usleep_range({n}, {n} + 10);")).with(&["sleep"]),
        kind::SPIN => Form::call(format!("busy_ns({n} * 1000);")).with(&["spin"]),
        kind::YIELD => Form::call("yield();").with(&["yield"]),
        kind::HOLD_LOCK => Form::call(format!("do_hold_lock({n} * 1000);")).with(&["hold_lock"]),
        kind::MOVE => Form::line(format!("pin {n}")),
        kind::CPU_CYCLE => Form::line("cycle_last_cpu").with(&["cpu_cycle"]).needs(&["CONFIG_HOTPLUG_CPU"]),
        _ => return None,
    }))
}
