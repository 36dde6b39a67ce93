// SPDX-License-Identifier: MIT OR Apache-2.0
//! Preloaded into a deterministic QEMU, which itself stays as it is: its main loop and its vCPU thread run in lockstep.
//!
//! With `-icount sleep=off` the main loop moves virtual time to the next timer when it finds that all vCPUs are halted. The
//! vCPU thread wakes the main loop at each timer and then goes on executing without the big lock. When the host lets the
//! main loop run late, it may look in the very moment in which the last vCPU has executed HLT and the instructions before
//! that are not yet accounted for: time then jumps too far, by as much as they took (seen once in a hundred runs
//! on a busy host; QEMU 7.2, `icount_start_warp_timer()` against `rr_cpu_thread_fn()`). So here the vCPU thread does not
//! go on from the big lock before the main loop sleeps with nothing left to do, which is what [`STATE`] says.
//!
//! The main thread is the one this library is loaded in. The big lock is the mutex that the main thread gives back last
//! before it sleeps in ppoll(). The vCPU thread is the one that waits for a condition under it. A thread has woken the main
//! loop when it has written to a descriptor that the main loop polls. Other threads hold up nobody and wait for nobody: the
//! main loop may be waiting for their end.
#![no_std]

use core::{
    ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void},
    mem,
    panic::PanicInfo,
    ptr,
    sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering::SeqCst},
};

/// `struct pollfd`.
#[repr(C)]
pub struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

/// `struct timespec`.
#[repr(C)]
pub struct TimeSpec {
    tv_sec: c_long,
    tv_nsec: c_long,
}

#[link(name = "c")]
unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn dlvsym(handle: *mut c_void, symbol: *const c_char, version: *const c_char) -> *mut c_void;
    fn pthread_self() -> c_ulong;
    fn pthread_mutex_lock(mutex: *mut c_void) -> c_int;
    fn sched_yield() -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn abort() -> !;
}

type Ppoll = unsafe extern "C" fn(*mut PollFd, c_ulong, *const TimeSpec, *const c_void) -> c_int;
type Write = unsafe extern "C" fn(c_int, *const c_void, usize) -> isize;
type MutexUnlock = unsafe extern "C" fn(*mut c_void) -> c_int;
type CondWait = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;

/// The next definition of a symbol after this library's.
const RTLD_NEXT: *mut c_void = usize::MAX as *mut c_void;
const SYS_FUTEX: c_long = 202;
const FUTEX_WAIT_PRIVATE: c_int = 128;
const FUTEX_WAKE_PRIVATE: c_int = 129;
const STDERR: c_int = 2;
/// Bits of [`STATE`]. The main loop sleeps, and nothing that would wake it has happened.
const QUIET: u32 = 1;
/// The main thread waits for a condition, perhaps for the vCPU thread: what would wake the main loop cannot reach it now.
const WAITS: u32 = 2;
/// The bits from here on count the threads that are about to wake the main loop.
const WAKER: u32 = 4;
/// Seconds that a thread waits for the main loop at most; then runs are no longer reproducible, and QEMU ends.
const PATIENCE_SECS: u32 = 120;
/// Descriptors that the main loop polls at most.
const FDS_MAX: usize = 64;

static STATE: AtomicU32 = AtomicU32::new(0);
static MAIN: AtomicUsize = AtomicUsize::new(0);
static VCPUS: AtomicUsize = AtomicUsize::new(0);
static BIG_LOCK: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static UNLOCKED_LAST: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static FDS: [AtomicI32; FDS_MAX] = [const { AtomicI32::new(-1) }; FDS_MAX];

/// A function of the C library behind the one of the same name here, looked up once.
struct Real {
    place: AtomicPtr<c_void>,
    name: &'static CStr,
    version: Option<&'static CStr>,
}

impl Real {
    const fn new(name: &'static CStr, version: Option<&'static CStr>) -> Real {
        Real { place: AtomicPtr::new(ptr::null_mut()), name, version }
    }

    fn get(&self) -> *mut c_void {
        let known = self.place.load(SeqCst);
        if !known.is_null() {
            return known;
        }
        // SAFETY: names are C strings.
        let found = unsafe {
            match self.version {
                Some(version) => dlvsym(RTLD_NEXT, self.name.as_ptr(), version.as_ptr()),
                None => dlsym(RTLD_NEXT, self.name.as_ptr()),
            }
        };
        if found.is_null() {
            // SAFETY: no arguments.
            unsafe { abort() }
        }
        self.place.store(found, SeqCst);
        found
    }
}

static PPOLL: Real = Real::new(c"ppoll", None);
static WRITE: Real = Real::new(c"write", None);
static UNLOCK: Real = Real::new(c"pthread_mutex_unlock", None);
// The default version is not the first one.
static COND_WAIT: Real = Real::new(c"pthread_cond_wait", Some(c"GLIBC_2.3.2"));

#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;

extern "C" fn on_load() {
    MAIN.store(this_thread(), SeqCst);
}

fn this_thread() -> usize {
    // SAFETY: no arguments.
    unsafe { pthread_self() as usize }
}

fn is_main() -> bool {
    this_thread() == MAIN.load(SeqCst)
}

/// The main loop sleeps here.
///
/// # Safety
///
/// That of ppoll().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ppoll(
    fds: *mut PollFd,
    n: c_ulong,
    timeout: *const TimeSpec,
    mask: *const c_void,
) -> c_int {
    // SAFETY: what this symbol is.
    let real: Ppoll = unsafe { mem::transmute(PPOLL.get()) };
    if !is_main() {
        // SAFETY: the caller's promise.
        return unsafe { real(fds, n, timeout, mask) };
    }
    BIG_LOCK.store(UNLOCKED_LAST.load(SeqCst), SeqCst);
    for (idx, place) in FDS.iter().enumerate() {
        // SAFETY: `fds` are `n` entries, by the caller's promise.
        let fd = if idx < n as usize { unsafe { (*fds.add(idx)).fd } } else { -1 };
        place.store(fd, SeqCst);
    }
    loop {
        let before = STATE.load(SeqCst);
        if before >= WAKER {
            // SAFETY: no arguments.
            unsafe { sched_yield() };
            continue;
        }
        let no_time = TimeSpec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the caller's promise.
        let n_ready = unsafe { real(fds, n, &no_time, mask) };
        // SAFETY: null or valid, by the caller's promise.
        let dozes = unsafe { timeout.as_ref() }.is_none_or(|time| time.tv_sec != 0 || time.tv_nsec != 0);
        if n_ready != 0 || !dozes {
            return n_ready;
        }
        if STATE.compare_exchange(before, before | QUIET, SeqCst, SeqCst).is_ok() {
            break;
        }
    }
    wake_waiters();
    // SAFETY: the caller's promise.
    let n_ready = unsafe { real(fds, n, timeout, mask) };
    STATE.fetch_and(!QUIET, SeqCst);
    n_ready
}

/// Notes who wakes the main loop.
///
/// # Safety
///
/// That of write().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, n: usize) -> isize {
    // SAFETY: what this symbol is.
    let real: Write = unsafe { mem::transmute(WRITE.get()) };
    let wakes = !is_main() && fd >= 0 && FDS.iter().any(|place| place.load(SeqCst) == fd);
    if wakes {
        let _ = STATE.fetch_update(SeqCst, SeqCst, |state| Some((state & !QUIET) + WAKER));
    }
    // SAFETY: the caller's promise.
    let result = unsafe { real(fd, bytes, n) };
    if wakes {
        STATE.fetch_sub(WAKER, SeqCst);
    }
    result
}

/// When the vCPU thread gives the big lock back, it waits until the main loop has done what it was woken for.
///
/// # Safety
///
/// That of pthread_mutex_unlock().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_unlock(mutex: *mut c_void) -> c_int {
    // SAFETY: what this symbol is; the caller's promise.
    let result = unsafe { mem::transmute::<*mut c_void, MutexUnlock>(UNLOCK.get())(mutex) };
    if is_main() {
        UNLOCKED_LAST.store(mutex, SeqCst);
    } else if mutex == BIG_LOCK.load(SeqCst) && this_thread() == VCPUS.load(SeqCst) {
        wait_until_quiet();
    }
    result
}

/// A halted vCPU that is woken goes on when the main loop is through; the main loop that waits for a vCPU holds up nobody.
///
/// # Safety
///
/// That of pthread_cond_wait().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_wait(condition: *mut c_void, mutex: *mut c_void) -> c_int {
    // SAFETY: what this symbol is.
    let real: CondWait = unsafe { mem::transmute(COND_WAIT.get()) };
    if is_main() {
        STATE.fetch_or(WAITS, SeqCst);
        wake_waiters();
        // SAFETY: the caller's promise.
        let result = unsafe { real(condition, mutex) };
        STATE.fetch_and(!WAITS, SeqCst);
        return result;
    }
    // SAFETY: the caller's promise.
    let result = unsafe { real(condition, mutex) };
    if mutex != BIG_LOCK.load(SeqCst) {
        return result;
    }
    let _ = VCPUS.compare_exchange(0, this_thread(), SeqCst, SeqCst);
    if STATE.load(SeqCst) & (QUIET | WAITS) == 0 {
        // Whoever waits for a condition looks again after waking, so the lock may change hands.
        // SAFETY: the wait has given this thread the lock.
        unsafe {
            pthread_mutex_unlock(mutex);
            pthread_mutex_lock(mutex);
        }
    }
    result
}

fn wait_until_quiet() {
    let mut secs = 0;
    while secs < PATIENCE_SECS {
        let state = STATE.load(SeqCst);
        if state & (QUIET | WAITS) != 0 {
            return;
        }
        let second = TimeSpec { tv_sec: 1, tv_nsec: 0 };
        // SAFETY: the word and the time outlive the call.
        unsafe { syscall(SYS_FUTEX, STATE.as_ptr(), FUTEX_WAIT_PRIVATE, state, &raw const second) };
        secs += u32::from(STATE.load(SeqCst) == state);
    }
    let words = b"lockstep: the main loop does not come to rest\n";
    // SAFETY: what these symbols are; the bytes outlive the call.
    unsafe {
        mem::transmute::<*mut c_void, Write>(WRITE.get())(STDERR, words.as_ptr().cast(), words.len());
        abort()
    }
}

fn wake_waiters() {
    // SAFETY: the word outlives the call.
    unsafe { syscall(SYS_FUTEX, STATE.as_ptr(), FUTEX_WAKE_PRIVATE, c_int::MAX) };
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: no arguments.
    unsafe { abort() }
}
