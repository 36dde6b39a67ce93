// SPDX-License-Identifier: GPL-2.0

//! Time, and waiting for it.

use kernel::bindings;

/// Spins; in any context.
pub(crate) fn spin_ns(ns: u64) {
    let start_ns = now_ns();
    while now_ns().wrapping_sub(start_ns) < ns {
        core::hint::spin_loop();
    }
}

/// Time since boot, ns.
pub(crate) fn now_ns() -> u64 {
    // SAFETY: allowed in any context but NMI while timekeeping is not suspended.
    unsafe { bindings::ktime_get() as u64 }
}

/// Sleeps; in process context with no spinlock held.
pub(crate) fn sleep_ns(ns: u64) {
    let us = (ns / 1000).max(1) as usize;
    // SAFETY: only changes the state of the current task.
    unsafe { bindings::usleep_range_state(us, us + us / 8, bindings::TASK_UNINTERRUPTIBLE) };
}
