// SPDX-License-Identifier: GPL-2.0

//! The kernel's hooks for debuggers and tracers, as far as the bindings lack them: breakpoints, work from any context, a
//! tracepoint, KCOV's buffer.

#[cfg(CONFIG_TRACEPOINTS)]
use core::ffi::CStr;
use core::ptr;
#[cfg(CONFIG_KCOV)]
use crate::layout::KCOV_WAKES;
use kernel::bindings;
#[cfg(CONFIG_TRACEPOINTS)]
use kernel::ffi::c_int;
use kernel::ffi::c_void;
use kernel::prelude::*;

/// KCOV's buffer of the calling task, and how many words it has; the first counts the others. `None` where it is not traced.
pub(crate) fn kcov_area() -> Option<(*mut u64, usize)> {
    #[cfg(CONFIG_KCOV)]
    // SAFETY: the current task lives while it runs, and only it turns its KCOV on and off.
    unsafe {
        let task = bindings::get_current();
        let area = ptr::read_volatile(&raw const (*task).kcov_area).cast::<u64>();
        let len = ptr::read_volatile(&raw const (*task).kcov_size) as usize;
        // kcov_stop() clears the size first, and an interrupt may come in between.
        (!area.is_null() && len > KCOV_WAKES + 1).then_some((area, len))
    }
    #[cfg(not(CONFIG_KCOV))]
    None
}

/// Whether the caller is a task and not what interrupted one: interrupts have a stack of their own.
pub(crate) fn in_task() -> bool {
    // `THREAD_SIZE` (arch/x86/include/asm/page_64_types.h).
    const THREAD_SIZE: usize = (4096 << 2) << cfg!(CONFIG_KASAN) as u32;
    let here = 0_u8;
    // SAFETY: the current task lives while it runs; the field does not change.
    let stack = unsafe { (*bindings::get_current()).stack } as usize;
    (&raw const here as usize).wrapping_sub(stack) < THREAD_SIZE
}

/// `struct perf_event_attr` (include/uapi/linux/perf_event.h) as far as breakpoints need it; the bindings lack it. Longer
/// than the kernel's, which is copied whole.
#[repr(C)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
    bp_len: u64,
    rest: [u64; 24],
}

/// `struct irq_work` (include/linux/irq_work_types.h); the bindings of 6.12 lack it.
#[repr(C)]
pub(crate) struct IrqWork {
    next: *mut c_void,
    flags: u32,
    cpus: [u16; 2],
    function: unsafe extern "C" fn(*mut IrqWork),
    waiter: *mut c_void,
}

impl IrqWork {
    /// `IRQ_WORK_INIT_HARD()`: `function` runs in hard interrupt context.
    pub(crate) const fn new(function: unsafe extern "C" fn(*mut IrqWork)) -> IrqWork {
        const IRQ_WORK_HARD_IRQ: u32 = 0x08;
        IrqWork { next: ptr::null_mut(), flags: IRQ_WORK_HARD_IRQ, cpus: [0; 2], function, waiter: ptr::null_mut() }
    }
}

/// Handler of a breakpoint: event, sample, registers.
pub(crate) type WatchFn = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void);

extern "C" {
    fn register_user_hw_breakpoint(
        attr: *mut PerfEventAttr,
        triggered: WatchFn,
        context: *mut c_void,
        task: *mut c_void,
    ) -> *mut c_void;
    fn unregister_hw_breakpoint(event: *mut c_void);
    /// Safe in any context. The work is its own until it has run.
    pub(crate) fn irq_work_queue(work: *mut IrqWork) -> bool;
    /// Waits until it has run. In process context.
    pub(crate) fn irq_work_sync(work: *mut IrqWork);
}

/// Whether a pointer is one of the kernel's errors: the last page of addresses.
pub(crate) fn is_err<T>(pointer: *const T) -> bool {
    pointer as usize > usize::MAX - 4096
}

/// Has `function` called whenever the calling task writes the eight bytes at `address`, by a breakpoint of the CPU.
///
/// # Safety
///
/// To be released by [`unwatch`]. `function` does what an NMI's handler may.
pub(crate) unsafe fn watch_writes(address: usize, function: WatchFn) -> Result<*mut c_void> {
    const PERF_TYPE_BREAKPOINT: u32 = 5;
    const PINNED: u64 = 1 << 2;
    const HW_BREAKPOINT_W: u32 = 2;
    let mut attr = PerfEventAttr {
        kind: PERF_TYPE_BREAKPOINT,
        // What every kernel knows (PERF_ATTR_SIZE_VER1).
        size: 72,
        config: 0,
        sample_period: 1,
        sample_type: 0,
        read_format: 0,
        flags: PINNED,
        wakeup_events: 0,
        bp_type: HW_BREAKPOINT_W,
        bp_addr: address as u64,
        bp_len: 8,
        rest: [0; 24],
    };
    // SAFETY: in process context; the current task lives while it runs, the rest is the caller's promise.
    let event = unsafe {
        let task = bindings::get_current().cast();
        register_user_hw_breakpoint(&raw mut attr, function, ptr::null_mut(), task)
    };
    if is_err(event) || event.is_null() { Err(EBUSY) } else { Ok(event) }
}

/// Ends a watch.
///
/// # Safety
///
/// `event` comes from [`watch_writes`], and this is the only call with it.
pub(crate) unsafe fn unwatch(event: *mut c_void) {
    // SAFETY: the caller's promise; in process context.
    unsafe { unregister_hw_breakpoint(event) };
}

/// Probe of a tracepoint with one argument, a task.
pub(crate) type TaskProbe = unsafe extern "C" fn(*mut c_void, *mut bindings::task_struct);

#[cfg(CONFIG_TRACEPOINTS)]
extern "C" {
    fn for_each_kernel_tracepoint(
        function: unsafe extern "C" fn(*mut c_void, *mut c_void),
        data: *mut c_void,
    );
    fn tracepoint_probe_register(tracepoint: *mut c_void, probe: *mut c_void, data: *mut c_void) -> c_int;
    fn tracepoint_probe_unregister(tracepoint: *mut c_void, probe: *mut c_void, data: *mut c_void) -> c_int;
}

/// The tracepoint `sched_waking`, which is not exported by name.
#[cfg(CONFIG_TRACEPOINTS)]
fn sched_waking() -> Option<*mut c_void> {
    unsafe extern "C" fn look(tracepoint: *mut c_void, found: *mut c_void) {
        // SAFETY: the first field of a tracepoint is its name, and `found` is the caller's variable.
        unsafe {
            let name = CStr::from_ptr(tracepoint.cast::<*const core::ffi::c_char>().read());
            if name.to_bytes() == b"sched_waking" {
                found.cast::<*mut c_void>().write(tracepoint);
            }
        }
    }
    let mut found: *mut c_void = ptr::null_mut();
    // SAFETY: in process context; `look` writes to `found` only meanwhile.
    unsafe { for_each_kernel_tracepoint(look, (&raw mut found).cast()) };
    (!found.is_null()).then_some(found)
}

/// Has `probe` called by whoever wakes a task.
///
/// # Errors
/// When the kernel has no such tracepoint, or no memory.
#[cfg(CONFIG_TRACEPOINTS)]
pub(crate) fn listen_to_wakings(probe: TaskProbe) -> Result {
    let tracepoint = sched_waking().ok_or(ENODEV)?;
    // SAFETY: the tracepoint passes data and a task.
    let error = unsafe { tracepoint_probe_register(tracepoint, probe as *mut c_void, ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(ENOMEM) }
}

/// Ends that, and waits for probes that run. To be called before the module's text goes away.
#[cfg(CONFIG_TRACEPOINTS)]
pub(crate) fn unlisten_to_wakings(probe: TaskProbe) {
    if let Some(tracepoint) = sched_waking() {
        // SAFETY: as above; an error says that it was not registered.
        unsafe {
            tracepoint_probe_unregister(tracepoint, probe as *mut c_void, ptr::null_mut());
            bindings::synchronize_rcu();
        };
    }
}

/// As above, in a kernel without tracepoints.
#[cfg(not(CONFIG_TRACEPOINTS))]
pub(crate) fn listen_to_wakings(_probe: TaskProbe) -> Result {
    Err(ENODEV)
}

/// Likewise.
#[cfg(not(CONFIG_TRACEPOINTS))]
pub(crate) fn unlisten_to_wakings(_probe: TaskProbe) {}

/// Whether two tasks have the same parent: the agent, if one is a program's thread.
///
/// # Safety
///
/// Both live.
pub(crate) unsafe fn are_siblings(a: *mut bindings::task_struct, b: *mut bindings::task_struct) -> bool {
    // SAFETY: the caller's promise; the pointers are only compared.
    unsafe {
        ptr::read_volatile(&raw const (*a).real_parent) == ptr::read_volatile(&raw const (*b).real_parent)
    }
}
