// SPDX-License-Identifier: GPL-2.0

//! Waiting: sleeping, spinning, and a timer per CPU that takes the CPU away from whatever runs there.
//!
//! Under the deterministic engine a timer is a preemption after an exact number of instructions: virtual CPUs switch
//! at timer deadlines and on `pause`, so while the handler spins the others run.

use crate::compat;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering::*};
use kernel::bindings;

/// Timers; a CPU uses the one of its number modulo this.
const N_TIMERS: usize = 64;
/// Longest time until a timer fires.
const FIRE_NS_MAX: u32 = 10_000_000;
/// Longest time a timer holds its CPU.
const HOLD_NS_MAX: u32 = 200_000;

/// A timer and for how long it holds the CPU.
///
/// # Invariants
///
/// `timer` is initialised by [`setup_timers`] before the first op and never moves.
struct Timer {
    timer: UnsafeCell<bindings::hrtimer>,
    hold_ns: AtomicU32,
}

// SAFETY: hrtimers are locked by the kernel.
unsafe impl Sync for Timer {}

static TIMERS: [Timer; N_TIMERS] = [const {
    // SAFETY: plain data that is initialised before use.
    Timer { timer: UnsafeCell::new(unsafe { compat::zeroed() }), hold_ns: AtomicU32::new(0) }
}; N_TIMERS];

/// Initialises the timers. Called once, before the first op.
pub(crate) fn setup_timers() {
    for timer in &TIMERS {
        // SAFETY: a static, cancelled on exit, and not in use yet.
        unsafe { compat::hrtimer_setup(timer.timer.get(), fire) };
    }
}

/// Cancels every timer and waits for running handlers.
pub(crate) fn cancel_timers() {
    for timer in &TIMERS {
        // SAFETY: initialised; called from process context with no lock held.
        unsafe { bindings::hrtimer_cancel(timer.timer.get()) };
    }
}

/// Has the calling CPU interrupted in `fire_ns` and held for `hold_ns`. Replaces what was armed on it.
pub(crate) fn arm_timer(fire_ns: u32, hold_ns: u32) {
    // The task may move to another CPU in between; then that one is interrupted, by this one's timer.
    let timer = &TIMERS[compat::raw_smp_processor_id() % N_TIMERS];
    timer.hold_ns.store(hold_ns.min(HOLD_NS_MAX), Relaxed);
    let fire_ns = i64::from(fire_ns.min(FIRE_NS_MAX));
    // SAFETY: initialised; hrtimers may be started from several CPUs at once and while their handler runs.
    unsafe { bindings::hrtimer_start_range_ns(timer.timer.get(), fire_ns, 0, compat::HRTIMER_MODE) };
}

unsafe extern "C" fn fire(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
    // SAFETY: `timer` is the `timer` field of a `Timer` in `TIMERS`: `fire` is set for no other.
    let timer =
        unsafe { &*kernel::container_of!(timer.cast::<UnsafeCell<bindings::hrtimer>>(), Timer, timer) };
    spin_ns(timer.hold_ns.load(Relaxed).into());
    bindings::hrtimer_restart_HRTIMER_NORESTART
}

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
