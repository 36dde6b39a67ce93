// SPDX-License-Identifier: GPL-2.0

//! A mutex that callbacks take, as filesystems' do: inside reclaim, so nothing is allocated under it, and nothing else
//! is locked.

use crate::{clock, compat};
use core::cell::UnsafeCell;
use kernel::bindings;

/// Longest time the mutex is held.
const HOLD_NS_MAX: u64 = 200_000;

struct CallbackLock {
    mutex: UnsafeCell<bindings::mutex>,
    key: UnsafeCell<bindings::lock_class_key>,
}

// SAFETY: a mutex is for several threads.
unsafe impl Sync for CallbackLock {}

// SAFETY: initialised by `setup()` before the first use; a zeroed lock class key is a fresh one.
static LOCK: CallbackLock = unsafe {
    CallbackLock { mutex: UnsafeCell::new(compat::zeroed()), key: UnsafeCell::new(compat::zeroed()) }
};

/// Initialises the mutex. Called once, before the first op.
pub(crate) fn setup() {
    // SAFETY: a static that nobody uses yet, and the key is a static too.
    unsafe { bindings::__mutex_init(LOCK.mutex.get(), c"st_callback_lock".as_ptr().cast(), LOCK.key.get()) };
}

/// Takes the mutex, spins, releases it. In process context with no spinlock held.
pub(crate) fn hold_ns(ns: u64) {
    // SAFETY: initialised; the caller may sleep and holds it not.
    unsafe { bindings::mutex_lock(LOCK.mutex.get()) };
    clock::spin_ns(ns.min(HOLD_NS_MAX));
    // SAFETY: taken above.
    unsafe { bindings::mutex_unlock(LOCK.mutex.get()) };
}

/// As [`hold_ns`] unless somebody has the mutex; whether it was free.
pub(crate) fn try_hold_ns(ns: u64) -> bool {
    // SAFETY: initialised; process context.
    let is_ours = unsafe { bindings::mutex_trylock(LOCK.mutex.get()) } != 0;
    if is_ours {
        clock::spin_ns(ns.min(HOLD_NS_MAX));
        // SAFETY: taken above.
        unsafe { bindings::mutex_unlock(LOCK.mutex.get()) };
    }
    is_ours
}
