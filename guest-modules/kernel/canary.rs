// SPDX-License-Identifier: GPL-2.0

//! `/dev/canary`: misbehaves on request, so that the whole path from a fault in a guest to a finding can be tested.
//!
//! A shrinker of its own, registered at load, has one object for global reclaim (`drop_caches`) while a kind is armed;
//! scanning it does what the kind says, in a function of that name, never inlined, so that reports blame it. The faults are
//! real: nothing here prints a report.
//!
//! Scans are let in one at a time (`BUSY`), so that inverting two locks is reported and does not deadlock.

#[macro_use]
#[allow(dead_code, reason = "shared with shrinktorture.rs")]
mod compat;
#[allow(dead_code, reason = "shared with shrinktorture.rs")]
mod chrdev;
#[allow(dead_code, unreachable_pub, reason = "shared with the agent and the host")]
#[path = "../abi/src/layout.rs"]
mod layout;
#[allow(dead_code, reason = "shared with shrinktorture.rs")]
mod shrinker;

use chrdev::{Chrdev, Ioctl};
use core::ffi::CStr;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use kernel::ffi::{c_long, c_void};
use kernel::prelude::*;
use kernel::sync::{Mutex, SpinLock};
use kernel::{bindings, new_mutex, new_spinlock};
use layout::{canary as kind, ioc};
use shrinker::{
    CountObjects, Flags, Methods, RegisteredShrinker, ScanObjects, ShrinkControl, Shrinker, UnregisteredShrinker,
};

declare_module! {
    type: CanaryModule,
    name: "canary",
    description: "Misbehaves on request, for testing shrinktorture",
}

/// The kind that is armed; 0: none.
static ARMED: AtomicU32 = AtomicU32::new(0);
/// Objects lost.
static N_LEAKS: AtomicU32 = AtomicU32::new(0);
/// Set while a scan misbehaves.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Bytes of the objects that are misused.
const OBJECT_BYTES: usize = 200;
/// Objects that one scan loses. Many, because kmemleak takes a stale copy of an address for a reference: on a stack, and on
/// 7.x in the slab allocator's per-CPU sheaves, which keep the last few dozen addresses they gave out.
const LEAKS_PER_SCAN: u32 = 128;
/// Objects lost at most; there are more programs than memory.
const LEAKS_MAX: u32 = 1024;

struct CanaryModule {
    _device: Chrdev<Device>,
    /// Dropped after the device.
    _shrinker: RegisteredShrinker<Canary>,
}

impl kernel::Module for CanaryModule {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let canary = Canary {
            first: KBox::pin_init(new_mutex!(0, "canary_first"), GFP_KERNEL)?,
            second: KBox::pin_init(new_mutex!(0, "canary_second"), GFP_KERNEL)?,
            spin: KBox::pin_init(new_spinlock!(0, "canary_spin"), GFP_KERNEL)?,
        };
        let canary = KBox::new(canary, GFP_KERNEL)?;
        let shrinker = UnregisteredShrinker::alloc(Flags::NONE, c"canary")?.register(canary, Methods::CountAndScan);
        Ok(Self { _device: Chrdev::register(module)?, _shrinker: shrinker })
    }
}

struct Device;

impl Ioctl for Device {
    const NAME: &'static CStr = c"canary";

    fn ioctl(command: u32, arg: usize) -> Result<c_long> {
        if command != ioc::CANARY {
            return Err(ENOTTY);
        }
        if arg > kind::NAMES.len() {
            return Err(EINVAL);
        }
        ARMED.store(arg as u32, Release);
        Ok(0)
    }
}

/// What the faults need.
struct Canary {
    first: Pin<KBox<Mutex<u32>>>,
    second: Pin<KBox<Mutex<u32>>>,
    spin: Pin<KBox<SpinLock<u32>>>,
}

impl Shrinker for Canary {
    fn count_objects(&self, _sc: &ShrinkControl<'_>) -> CountObjects {
        CountObjects::new(usize::from(ARMED.load(Acquire) != 0))
    }

    fn scan_objects(&self, _sc: &mut ShrinkControl<'_>) -> ScanObjects {
        if BUSY.swap(true, Acquire) {
            return ScanObjects::STOP;
        }
        match ARMED.load(Acquire) {
            kind::USE_AFTER_FREE => use_after_free(),
            kind::DOUBLE_FREE => double_free(),
            kind::LOCK_INVERSION => lock_inversion(self),
            kind::ATOMIC_SLEEP => atomic_sleep(self),
            kind::HANG => hang(),
            kind::LEAK => leak(),
            _ => {}
        }
        BUSY.store(false, Release);
        ScanObjects::STOP
    }
}

fn object() -> *mut u8 {
    // SAFETY: shrinker callbacks may allocate with GFP_NOFS.
    unsafe { bindings::__kmalloc_noprof(OBJECT_BYTES, compat::GFP_NOFS) }.cast()
}

/// Reads an object after freeing it.
#[inline(never)]
fn use_after_free() {
    let object = object();
    if object.is_null() {
        return;
    }
    // SAFETY: none, that is the point: the last access is to freed memory. It reads, so nothing is corrupted.
    unsafe {
        object.write_volatile(1);
        bindings::kfree(object.cast::<c_void>());
        black_box(object.read_volatile());
    }
}

/// Frees an object twice.
#[inline(never)]
fn double_free() {
    let object = object().cast::<c_void>();
    // SAFETY: none, that is the point. KASAN refuses the second one.
    unsafe {
        bindings::kfree(object);
        bindings::kfree(black_box(object));
    }
}

/// Takes two mutexes in one order, then in the other.
#[inline(never)]
fn lock_inversion(canary: &Canary) {
    {
        let _first = canary.first.lock();
        *canary.second.lock() += 1;
    }
    let _second = canary.second.lock();
    *canary.first.lock() += 1;
}

/// Takes a mutex, which may sleep, under a spinlock.
#[inline(never)]
fn atomic_sleep(canary: &Canary) {
    let _spin = canary.spin.lock();
    *canary.first.lock() += 1;
}

/// Never returns.
#[inline(never)]
fn hang() {
    loop {
        // SAFETY: only puts the current task to sleep.
        unsafe { bindings::schedule_timeout_uninterruptible(c_long::MAX) };
    }
}

/// Loses objects.
#[inline(never)]
fn leak() {
    if N_LEAKS.load(Relaxed) >= LEAKS_MAX {
        return;
    }
    N_LEAKS.fetch_add(LEAKS_PER_SCAN, Relaxed);
    for _ in 0..LEAKS_PER_SCAN {
        black_box(object());
    }
}
