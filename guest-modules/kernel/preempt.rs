// SPDX-License-Identifier: GPL-2.0

//! A timer per CPU that takes the CPU away from whatever runs there, at a chosen time: for a short while itself, with
//! interrupts off, or for long, by a task of high priority that it wakes.
//!
//! Under the deterministic engine a timer is a preemption after an exact number of instructions: virtual CPUs switch
//! at timer deadlines and on `pause`, so while a handler spins the others run.
//!
//! The two are different schedules. What an interrupt interrupts is not preempted: RCU waits for it wherever it is. What a
//! task preempts is passed by RCU's grace periods unless it reads; and it is not interrupted where it must not be
//! preempted, but right after.

use crate::hooks::{self, IrqWork};
use crate::{clock, compat, layout::kind};
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering::*, fence};
use kernel::bindings;
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

/// CPUs that have a timer; another one uses that of its number modulo this.
const N_TIMERS: usize = 64;
/// Longest time an interrupt holds its CPU.
const INTERRUPT_NS_MAX: u32 = 200_000;
/// Longest time a task holds its CPU: a few grace periods.
const TASK_NS_MAX: u32 = 50_000_000;
/// How often [`cancel`] looks whether CPUs are still held.
const HELD_POLL_NS: u64 = 1_000_000;

/// Who takes the CPU.
#[derive(Clone, Copy)]
pub(crate) enum By {
    /// The timer's interrupt.
    Interrupt,
    /// A task.
    Task,
}

/// A CPU's timers and task.
///
/// # Invariants
///
/// The timers are initialised by [`setup`] before the first op and never move. `task` is null, or lives until [`teardown`].
struct Cpu {
    fires: UnsafeCell<bindings::hrtimer>,
    /// Ends a hold of the task's.
    ends: UnsafeCell<bindings::hrtimer>,
    task: AtomicPtr<bindings::task_struct>,
    by_task: AtomicU32,
    hold_ns: AtomicU32,
    /// For how long the task is to hold the CPU; 0 once it did.
    task_ns: AtomicU32,
    /// The hold of the task is over.
    is_over: AtomicBool,
    /// Wakes the task, from where that cannot be done.
    wakes: UnsafeCell<IrqWork>,
}

// SAFETY: hrtimers and works are locked by the kernel, the rest is atomic.
unsafe impl Sync for Cpu {}

static CPUS: [Cpu; N_TIMERS] = [const {
    Cpu {
        // SAFETY: plain data that is initialised before use.
        fires: UnsafeCell::new(unsafe { compat::zeroed() }),
        // SAFETY: likewise.
        ends: UnsafeCell::new(unsafe { compat::zeroed() }),
        task: AtomicPtr::new(ptr::null_mut()),
        by_task: AtomicU32::new(0),
        hold_ns: AtomicU32::new(0),
        task_ns: AtomicU32::new(0),
        is_over: AtomicBool::new(false),
        wakes: UnsafeCell::new(IrqWork::new(wake)),
    }
}; N_TIMERS];

/// Initialises the timers and starts the tasks. Called once, before the first op.
pub(crate) fn setup() -> Result {
    for cpu in &CPUS {
        // SAFETY: statics, cancelled on exit, and not in use yet.
        unsafe {
            compat::hrtimer_setup(cpu.fires.get(), fire);
            compat::hrtimer_setup(cpu.ends.get(), end);
        }
    }
    // SAFETY: written once, at boot.
    let n_cpus = unsafe { bindings::nr_cpu_ids } as usize;
    for (idx, cpu) in CPUS.iter().enumerate().take(n_cpus) {
        let task = start(idx, cpu).inspect_err(|_| teardown())?;
        cpu.task.store(task, Release);
    }
    Ok(())
}

fn start(idx: usize, cpu: &'static Cpu) -> Result<*mut bindings::task_struct> {
    let data = ptr::from_ref(cpu).cast_mut().cast::<c_void>();
    let name = c"st_hold/%u".as_ptr().cast();
    // SAFETY: `hold_when_told` takes a `Cpu`, which is static; the format takes one number.
    let task = unsafe { bindings::kthread_create_on_node(Some(hold_when_told), data, -1, name, idx as u32) };
    if task.is_null() || hooks::is_err(task) {
        return Err(ENOMEM);
    }
    // SAFETY: a new task that did not run yet, and that only `teardown` ends.
    unsafe {
        bindings::kthread_bind(task, idx as u32);
        bindings::sched_set_fifo(task);
        bindings::wake_up_process(task);
    }
    Ok(task)
}

/// Ends the tasks. Nothing is armed.
pub(crate) fn teardown() {
    for cpu in &CPUS {
        let task = cpu.task.swap(ptr::null_mut(), AcqRel);
        if !task.is_null() {
            // SAFETY: it lives until here; its function returns when told to stop.
            unsafe { bindings::kthread_stop(task) };
        }
    }
}

/// Cancels every timer, waits for running handlers, and until no CPU is held.
pub(crate) fn cancel() {
    for cpu in &CPUS {
        // SAFETY: initialised; called from process context with no lock held.
        unsafe {
            bindings::hrtimer_cancel(cpu.fires.get());
            hooks::irq_work_sync(cpu.wakes.get());
        }
    }
    while CPUS.iter().any(|cpu| cpu.task_ns.load(Acquire) != 0) {
        clock::sleep_ns(HELD_POLL_NS);
    }
}

/// Has the calling CPU taken away in `fire_ns` and for `hold_ns`. Replaces what was armed on it.
pub(crate) fn arm(fire_ns: u32, hold_ns: u32, by: By) {
    // The task may move to another CPU in between; then that one is interrupted, by this one's timer.
    let cpu = &CPUS[compat::raw_smp_processor_id() % N_TIMERS];
    cpu.by_task.store(matches!(by, By::Task).into(), Relaxed);
    cpu.hold_ns.store(hold_ns, Relaxed);
    let fire_ns = i64::from(fire_ns.min(kind::PREEMPT_NS_MAX));
    // SAFETY: initialised; hrtimers may be started from several CPUs at once and while their handler runs.
    unsafe { bindings::hrtimer_start_range_ns(cpu.fires.get(), fire_ns, 0, compat::HRTIMER_MODE) };
}

unsafe extern "C" fn fire(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
    // SAFETY: `timer` is the `fires` field of a `Cpu` in `CPUS`: `fire` is set for no other.
    let cpu = unsafe { &*kernel::container_of!(timer.cast::<UnsafeCell<bindings::hrtimer>>(), Cpu, fires) };
    let hold_ns = cpu.hold_ns.load(Relaxed);
    if cpu.by_task.load(Relaxed) == 0 {
        clock::spin_ns(hold_ns.min(INTERRUPT_NS_MAX).into());
    } else {
        cpu.task_ns.store(hold_ns.min(TASK_NS_MAX), Release);
        wake_task(cpu);
    }
    bindings::hrtimer_restart_HRTIMER_NORESTART
}

fn wake_task(cpu: &Cpu) {
    let task = cpu.task.load(Acquire);
    if task.is_null() {
        cpu.task_ns.store(0, Release);
    } else {
        // SAFETY: it lives while timers may fire and works may run.
        unsafe { bindings::wake_up_process(task) };
    }
}

/// Has the calling CPU taken away by its task, for `hold_ns`, as soon as what runs may be preempted. In any context.
pub(crate) fn now(hold_ns: u32) {
    let cpu = &CPUS[compat::raw_smp_processor_id() % N_TIMERS];
    cpu.task_ns.store(hold_ns.min(TASK_NS_MAX), Release);
    // SAFETY: a static.
    unsafe { hooks::irq_work_queue(cpu.wakes.get()) };
}

unsafe extern "C" fn wake(work: *mut IrqWork) {
    // SAFETY: `work` is the `wakes` field of a `Cpu` in `CPUS`: `wake` is set for no other.
    wake_task(unsafe { &*kernel::container_of!(work.cast::<UnsafeCell<IrqWork>>(), Cpu, wakes) });
}

unsafe extern "C" fn end(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
    // SAFETY: `timer` is the `ends` field of a `Cpu` in `CPUS`: `end` is set for no other.
    let cpu = unsafe { &*kernel::container_of!(timer.cast::<UnsafeCell<bindings::hrtimer>>(), Cpu, ends) };
    cpu.is_over.store(true, Release);
    bindings::hrtimer_restart_HRTIMER_NORESTART
}

/// What a task does: sleeps until told to hold its CPU.
unsafe extern "C" fn hold_when_told(data: *mut c_void) -> c_int {
    // SAFETY: `start` passes a static.
    let cpu = unsafe { &*data.cast::<Cpu>() };
    loop {
        // Before looking, so that a wake-up in between is not lost.
        set_current_state(bindings::TASK_IDLE);
        // SAFETY: in a kernel thread.
        if unsafe { bindings::kthread_should_stop() } {
            set_current_state(bindings::TASK_RUNNING);
            return 0;
        }
        let ns = cpu.task_ns.load(Acquire);
        if ns == 0 {
            // SAFETY: in process context with no lock held.
            unsafe { bindings::schedule() };
            continue;
        }
        set_current_state(bindings::TASK_RUNNING);
        // A task loses its CPU when that goes offline.
        if ptr::eq(cpu, &CPUS[compat::raw_smp_processor_id() % N_TIMERS]) {
            hold(cpu, ns);
        }
        cpu.task_ns.store(0, Release);
    }
}

/// `set_current_state()` (include/linux/sched.h).
fn set_current_state(state: u32) {
    // SAFETY: the current task lives while it runs; others only write the field in `wake_up_process()`.
    unsafe { ptr::write_volatile(&raw mut (*bindings::get_current()).__state, state) };
    fence(SeqCst);
}

/// Keeps the CPU for `ns`, halted: instructions that only wait are dear under an emulator.
fn hold(cpu: &Cpu, ns: u32) {
    cpu.is_over.store(false, Release);
    // SAFETY: initialised; used by this task only.
    unsafe { bindings::hrtimer_start_range_ns(cpu.ends.get(), i64::from(ns), 0, compat::HRTIMER_MODE) };
    while !halted_until(&cpu.is_over) {}
}

/// Whether it is over; if not, waits for an interrupt.
fn halted_until(is_over: &AtomicBool) -> bool {
    // SAFETY: in a task with interrupts on. They are off for the question only: one that comes after it is taken as soon as
    // the CPU halts, since `sti` lets one more instruction run. Nothing of the kernel's is called meanwhile.
    unsafe {
        core::arch::asm!("cli", options(nostack));
        if is_over.load(Acquire) {
            core::arch::asm!("sti", options(nostack));
            return true;
        }
        core::arch::asm!("sti", "hlt", options(nostack));
    }
    false
}
