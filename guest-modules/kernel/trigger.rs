// SPDX-License-Identifier: GPL-2.0

//! What has a CPU taken away other than time.
//!
//! A *basic block*: KCOV writes the n-th block that a task enters to the n-th word of the task's buffer, and a hardware
//! breakpoint on that word tells when. Only the code under test is instrumented, so that places between its lines are few
//! and can be tried one by one, while by time most lie in locks, allocators and sanitizers.
//!
//! A *wake-up* of another thread of the program: one that waited for what this one just did. There the two get out of step.

use crate::layout::KCOV_WAKES;
use crate::{hooks, preempt};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering::*};
use kernel::bindings::{get_current, task_struct};
use kernel::ffi::c_void;
use kernel::prelude::*;

/// Threads that may wait for something: more than a program has.
const N_WATCHES: usize = 16;

/// What a task waits for.
///
/// # Invariants
///
/// `task` is null, or the entry belongs to that task until [`cancel`]. `event` is null or a breakpoint of ours.
struct Watch {
    task: AtomicPtr<task_struct>,
    event: AtomicPtr<c_void>,
    /// Wake-ups to come, with the one that counts; 0: it does not wait for one.
    n_wakes: AtomicU32,
    /// For how long the CPU is to be held; 0 once it was.
    hold_ns: AtomicU32,
}

static WATCHES: [Watch; N_WATCHES] = [const {
    Watch {
        task: AtomicPtr::new(ptr::null_mut()),
        event: AtomicPtr::new(ptr::null_mut()),
        n_wakes: AtomicU32::new(0),
        hold_ns: AtomicU32::new(0),
    }
}; N_WATCHES];

/// A breakpoint that is never hit. While there is one, making another does not wait for RCU.
static KEPT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static NEVER_WRITTEN: u64 = 0;
/// Wake-ups are heard of.
static LISTENS: AtomicBool = AtomicBool::new(false);

/// Makes what [`at_block`] takes quick, and begins to listen to wake-ups. Called once, before the first op.
pub(crate) fn setup() {
    // SAFETY: nobody writes there; `teardown` releases it.
    if let Ok(event) = unsafe { hooks::watch_writes(&raw const NEVER_WRITTEN as usize, entered) } {
        KEPT.store(event, Release);
    }
    LISTENS.store(hooks::listen_to_wakings(woken).is_ok(), Release);
}

/// Undoes [`setup`]. No task executes ops.
pub(crate) fn teardown() {
    if LISTENS.swap(false, AcqRel) {
        hooks::unlisten_to_wakings(woken);
    }
    cancel();
    let event = KEPT.swap(ptr::null_mut(), AcqRel);
    if !event.is_null() {
        // SAFETY: from `watch_writes()`, and ours since the swap.
        unsafe { hooks::unwatch(event) };
    }
}

/// Has the CPU of the calling task taken away for `hold_ns` as soon as an op of it has entered `n` blocks. Replaces what the
/// task waited for.
pub(crate) fn at_block(n: u32, hold_ns: u32) -> Result {
    let (area, len) = hooks::kcov_area().ok_or(ENODEV)?;
    if n == 0 || n as usize >= len - 1 {
        return Err(EINVAL);
    }
    let watch = mine()?;
    watch.hold_ns.store(hold_ns, Release);
    // SAFETY: a word of the buffer, which stays while the task has KCOV on.
    let event = unsafe { hooks::watch_writes(area.add(n as usize) as usize, entered) }?;
    watch.event.store(event, Release);
    Ok(())
}

/// The same as soon as it has woken other threads `n` times.
pub(crate) fn at_wake(n: u32, hold_ns: u32) -> Result {
    if !LISTENS.load(Acquire) {
        return Err(ENODEV);
    }
    let watch = mine()?;
    watch.hold_ns.store(hold_ns, Release);
    watch.n_wakes.store(n, Release);
    Ok(())
}

/// Nobody waits any more. To be called when no task executes ops.
pub(crate) fn cancel() {
    for watch in &WATCHES {
        release(watch);
        watch.task.store(ptr::null_mut(), Release);
    }
}

/// The watch of the calling task, which waits for nothing.
fn mine() -> Result<&'static Watch> {
    let task = current();
    let is_mine = |watch: &&Watch| watch.task.load(Relaxed) == task;
    let is_claimed =
        |watch: &&Watch| watch.task.compare_exchange(ptr::null_mut(), task, AcqRel, Relaxed).is_ok();
    let watch = WATCHES.iter().find(is_mine).or_else(|| WATCHES.iter().find(is_claimed)).ok_or(ENOSPC)?;
    release(watch);
    Ok(watch)
}

fn release(watch: &Watch) {
    watch.hold_ns.store(0, Release);
    watch.n_wakes.store(0, Release);
    let event = watch.event.swap(ptr::null_mut(), AcqRel);
    if !event.is_null() {
        // SAFETY: from `watch_writes()`, and ours since the swap.
        unsafe { hooks::unwatch(event) };
    }
}

fn current() -> *mut task_struct {
    // SAFETY: no dereference; the pointer is only compared.
    unsafe { get_current() }
}

fn take_cpu(watch: &Watch) {
    let hold_ns = watch.hold_ns.swap(0, AcqRel);
    if hold_ns != 0 {
        preempt::now(hold_ns);
    }
}

/// The breakpoint's handler, in the context of the task, as restricted as an NMI's.
unsafe extern "C" fn entered(_event: *mut c_void, _data: *mut c_void, _regs: *mut c_void) {
    let task = current();
    if let Some(watch) = WATCHES.iter().find(|watch| watch.task.load(Acquire) == task) {
        take_cpu(watch);
    }
}

/// A task is woken by what runs here, a task or an interrupt; with locks of the scheduler's held and interrupts off.
unsafe extern "C" fn woken(_data: *mut c_void, task: *mut task_struct) {
    let waker = current();
    // SAFETY: both live, the tracepoint's caller sees to it.
    if waker == task || !hooks::in_task() || !unsafe { hooks::are_siblings(waker, task) } {
        return;
    }
    if let Some((area, len)) = hooks::kcov_area() {
        // SAFETY: the last word of the buffer, which stays while the task has KCOV on. Nobody else writes it: KCOV would
        // come there only with a buffer that is full.
        unsafe {
            let count = area.add(len - KCOV_WAKES);
            ptr::write_volatile(count, ptr::read_volatile(count).wrapping_add(1));
        }
    }
    if let Some(watch) = WATCHES.iter().find(|watch| watch.task.load(Acquire) == waker) {
        if watch.n_wakes.load(Relaxed) != 0 && watch.n_wakes.fetch_sub(1, AcqRel) == 1 {
            take_cpu(watch);
        }
    }
}
