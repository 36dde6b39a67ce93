// SPDX-License-Identifier: GPL-2.0

//! Preemption at a basic block. KCOV writes the n-th block that a task enters to the n-th word of the task's buffer; a
//! hardware breakpoint on that word tells when. Only the code under test is instrumented, so that places between its
//! lines are few and can be tried one by one, while by time most lie in locks, allocators and sanitizers.

use crate::{compat, preempt};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::*};
use kernel::bindings::{get_current, task_struct};
use kernel::ffi::c_void;
use kernel::prelude::*;

/// Threads that may wait for a block: more than a program has.
const N_WATCHES: usize = 16;

/// What a task waits for.
///
/// # Invariants
///
/// `task` is null, or the entry belongs to that task until [`cancel`]. `event` is null or a breakpoint of ours.
struct Watch {
    task: AtomicPtr<task_struct>,
    event: AtomicPtr<c_void>,
    /// For how long the CPU is to be held; 0 once it was.
    hold_ns: AtomicU32,
}

static WATCHES: [Watch; N_WATCHES] = [const {
    Watch {
        task: AtomicPtr::new(ptr::null_mut()),
        event: AtomicPtr::new(ptr::null_mut()),
        hold_ns: AtomicU32::new(0),
    }
}; N_WATCHES];

/// A breakpoint that is never hit. While there is one, making another does not wait for RCU.
static KEPT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Makes what [`arm`] takes quick. Called once, before the first op.
pub(crate) fn setup() {
    // SAFETY: nobody writes there; `teardown` releases it.
    if let Ok(event) = unsafe { compat::watch_writes(&raw const NEVER_WRITTEN as usize, entered) } {
        KEPT.store(event, Release);
    }
}

static NEVER_WRITTEN: u64 = 0;

/// Undoes [`setup`]. No task executes ops.
pub(crate) fn teardown() {
    cancel();
    let event = KEPT.swap(ptr::null_mut(), AcqRel);
    if !event.is_null() {
        // SAFETY: from `watch_writes()`, and ours since the swap.
        unsafe { compat::unwatch(event) };
    }
}

/// Has the CPU of the calling task taken away for `hold_ns` as soon as an op of it has entered `n` blocks. Replaces what the
/// task waited for.
pub(crate) fn arm(n: u32, hold_ns: u32) -> Result {
    let (area, len) = compat::kcov_area().ok_or(ENODEV)?;
    if n == 0 || n as usize >= len {
        return Err(EINVAL);
    }
    // SAFETY: no dereference; the kernel only keeps the pointer while the current task lives, which is this one.
    let task = unsafe { get_current() };
    let is_mine = |watch: &&Watch| watch.task.load(Relaxed) == task;
    let is_claimed =
        |watch: &&Watch| watch.task.compare_exchange(ptr::null_mut(), task, AcqRel, Relaxed).is_ok();
    let watch = WATCHES.iter().find(is_mine).or_else(|| WATCHES.iter().find(is_claimed)).ok_or(ENOSPC)?;
    release(watch);
    watch.hold_ns.store(hold_ns, Release);
    // SAFETY: a word of the buffer, which stays while the task has KCOV on.
    let event = unsafe { compat::watch_writes(area.add(n as usize) as usize, entered) }?;
    watch.event.store(event, Release);
    Ok(())
}

/// Nobody waits any more. To be called when no task executes ops.
pub(crate) fn cancel() {
    for watch in &WATCHES {
        release(watch);
        watch.task.store(ptr::null_mut(), Release);
    }
}

fn release(watch: &Watch) {
    watch.hold_ns.store(0, Release);
    let event = watch.event.swap(ptr::null_mut(), AcqRel);
    if !event.is_null() {
        // SAFETY: from `watch_writes()`, and ours since the swap.
        unsafe { compat::unwatch(event) };
    }
}

/// The breakpoint's handler, in the context of the task, as restricted as an NMI's.
unsafe extern "C" fn entered(_event: *mut c_void, _data: *mut c_void, _regs: *mut c_void) {
    // SAFETY: as in `arm`.
    let task = unsafe { get_current() };
    let Some(watch) = WATCHES.iter().find(|watch| watch.task.load(Acquire) == task) else { return };
    let hold_ns = watch.hold_ns.swap(0, AcqRel);
    if hold_ns != 0 {
        preempt::now(hold_ns);
    }
}
