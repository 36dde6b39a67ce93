// SPDX-License-Identifier: GPL-2.0

//! Safe abstraction over `shrinker_alloc()`, `shrinker_register()` and `shrinker_free()`.
//!
//! C header: `include/linux/shrinker.h`.
//!
//! Two types carry the state: an [`UnregisteredShrinker`] can be configured, and becomes a [`RegisteredShrinker`] when
//! private data and callbacks are known; dropping either frees it. It follows the Rust shrinker abstraction posted to
//! linux-mm in September 2024 and its review: the callbacks are allowed to sleep, the gfp mask is exposed as it is,
//! "empty" (`SHRINK_EMPTY`) and "cannot tell" (0) are told apart by the callback and not by the wrapper. Unlike it, node
//! and memcg are exposed, so shrinkers may be NUMA- and memcg-aware.
//!
//! Private data lives in a heap allocation of its own that is freed as soon as `shrinker_free()` returns. A callback
//! that begins or goes on later than that reads freed memory, which KASAN reports.

use crate::compat;
use core::ffi::CStr;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::ffi::{c_int, c_long, c_ulong};
use kernel::prelude::*;

/// What a shrinker can handle.
#[derive(Clone, Copy)]
pub(crate) struct Flags(u32);

impl Flags {
    /// Called for all objects of the machine, node by node, told apart by nobody.
    pub(crate) const NONE: Flags = Flags(0);
    /// Deferred work is kept per node.
    pub(crate) const NUMA_AWARE: Flags = Flags(compat::SHRINKER_NUMA_AWARE);
    /// Called for every memory cgroup whose bit is set.
    pub(crate) const MEMCG_AWARE: Flags = Flags(compat::SHRINKER_MEMCG_AWARE);
    /// With `MEMCG_AWARE`: called although kernel memory accounting is off.
    pub(crate) const NONSLAB: Flags = Flags(compat::SHRINKER_NONSLAB);

    /// Both sets.
    pub(crate) const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// Callbacks that a shrinker has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Methods {
    /// Both.
    CountAndScan,
    /// No `scan_objects`; that there is something is never said then, or reclaim would call a null pointer.
    #[allow(dead_code, reason = "not every module has one")]
    CountOnly,
}

/// A shrinker that the kernel does not call yet.
///
/// # Invariants
///
/// `ptr` came from `shrinker_alloc()`, was neither registered nor freed, and nobody else frees it.
pub(crate) struct UnregisteredShrinker {
    ptr: NonNull<bindings::shrinker>,
}

// SAFETY: shrinkers are not bound to the thread that allocated them.
unsafe impl Send for UnregisteredShrinker {}
// SAFETY: a shared reference gives nothing but the address.
unsafe impl Sync for UnregisteredShrinker {}

impl UnregisteredShrinker {
    /// Allocates a shrinker. The name appears in debugfs.
    pub(crate) fn alloc(flags: Flags, name: &CStr) -> Result<Self> {
        // SAFETY: the format takes one string, and a nul-terminated one is given. The flags are public ones, and the
        // callbacks see node and memcg, so every combination can be served.
        let ptr = unsafe { bindings::shrinker_alloc(flags.0, c"%s".as_ptr().cast(), name.as_ptr()) };
        // INVARIANT: fresh from shrinker_alloc().
        Ok(Self { ptr: NonNull::new(ptr).ok_or(ENOMEM)? })
    }

    /// Cost of recreating an object; 0: none. Negative values mean nothing to the kernel and are not representable.
    pub(crate) fn set_seeks(&mut self, seeks: u16) {
        // SAFETY: an unregistered shrinker is read by nobody else (type invariant).
        unsafe { (*self.ptr.as_ptr()).seeks = c_int::from(seeks) };
    }

    /// Objects to scan in one call of `scan_objects`; 0: the default.
    pub(crate) fn set_batch(&mut self, batch: u16) {
        // SAFETY: as in `set_seeks`.
        unsafe { (*self.ptr.as_ptr()).batch = batch as c_long };
    }

    /// Id of a memcg-aware shrinker, 0 of others.
    #[allow(dead_code, reason = "not every module asks")]
    pub(crate) fn id(&self) -> usize {
        // SAFETY: set by shrinker_alloc(), constant since (type invariant).
        unsafe { (*self.ptr.as_ptr()).id as usize }
    }

    /// `shrinker_debugfs_rename()`: the name it will have in debugfs.
    #[allow(dead_code, reason = "not every module asks")]
    pub(crate) fn rename(&mut self, name: &CStr) -> Result {
        // SAFETY: owned by us (type invariant), so not freed meanwhile.
        unsafe { rename(self.ptr.as_ptr(), name) }
    }

    /// The C structure, to tie a `list_lru` to it.
    pub(crate) fn as_ptr(&self) -> *mut bindings::shrinker {
        self.ptr.as_ptr()
    }

    /// Makes the shrinker known to the kernel, which may call it before this returns.
    pub(crate) fn register<T: Shrinker>(self, data: KBox<T>, methods: Methods) -> RegisteredShrinker<T> {
        let ptr = self.ptr;
        // Its destructor would free the shrinker.
        core::mem::forget(self);
        let shrinker = ptr.as_ptr();
        // SAFETY: the shrinker is unregistered and owned by us (type invariant), so its fields may be set and it may
        // be registered once. The callbacks match the type behind `private_data`.
        unsafe {
            (*shrinker).private_data = KBox::into_raw(data).cast();
            match methods {
                Methods::CountAndScan => {
                    (*shrinker).count_objects = Some(count_objects::<T>);
                    (*shrinker).scan_objects = Some(scan_objects::<T>);
                }
                Methods::CountOnly => (*shrinker).count_objects = Some(count_nothing::<T>),
            }
            bindings::shrinker_register(shrinker);
        }
        // INVARIANT: registered just now, with a `KBox<T>` as private data.
        RegisteredShrinker { ptr, data: PhantomData }
    }
}

impl Drop for UnregisteredShrinker {
    fn drop(&mut self) {
        // SAFETY: owned by us, not freed before (type invariant), not used afterwards.
        unsafe { bindings::shrinker_free(self.ptr.as_ptr()) };
    }
}

/// A shrinker that the kernel calls.
///
/// # Invariants
///
/// `ptr` is a registered shrinker that nobody else frees; its `private_data` came from `KBox::<T>::into_raw()`.
pub(crate) struct RegisteredShrinker<T: Shrinker> {
    ptr: NonNull<bindings::shrinker>,
    data: PhantomData<KBox<T>>,
}

// SAFETY: the private data may be dropped by whichever thread drops this; `Shrinker` demands `Send`.
unsafe impl<T: Shrinker> Send for RegisteredShrinker<T> {}
// SAFETY: a shared reference gives nothing.
unsafe impl<T: Shrinker> Sync for RegisteredShrinker<T> {}

impl<T: Shrinker> RegisteredShrinker<T> {
    /// The C structure, to look at.
    #[allow(dead_code, reason = "not every module asks")]
    pub(crate) fn as_ptr(&self) -> *const bindings::shrinker {
        self.ptr.as_ptr()
    }

    /// `shrinker_debugfs_rename()`.
    #[allow(dead_code, reason = "not every module asks")]
    pub(crate) fn rename(&mut self, name: &CStr) -> Result {
        // SAFETY: ours until dropped (type invariant).
        unsafe { rename(self.ptr.as_ptr(), name) }
    }
}

/// # Safety
///
/// `shrinker` is not freed before this returns.
unsafe fn rename(shrinker: *mut bindings::shrinker, name: &CStr) -> Result {
    // SAFETY: the caller's promise; the format takes one string, and a nul-terminated one is given.
    let error =
        unsafe { bindings::shrinker_debugfs_rename(shrinker, c"%s".as_ptr().cast(), name.as_ptr()) };
    if error < 0 {
        return Err(Error::from_errno(error));
    }
    Ok(())
}

impl<T: Shrinker> Drop for RegisteredShrinker<T> {
    fn drop(&mut self) {
        // SAFETY: the shrinker is ours until shrinker_free() (type invariant), so the field may be read.
        let data: *mut T = unsafe { (*self.ptr.as_ptr()).private_data.cast() };
        // SAFETY: owned by us, not freed before (type invariant), not used afterwards.
        unsafe { bindings::shrinker_free(self.ptr.as_ptr()) };
        // SAFETY: from `KBox::into_raw()` (type invariant); shrinker_free() returns when no callback runs or will run.
        let data = unsafe { KBox::from_raw(data) };
        data.freed();
    }
}

/// Callbacks of a shrinker. They run in any task that reclaims, several at a time, and may sleep; they must not take a
/// lock that is held elsewhere over an allocation that may reclaim.
pub(crate) trait Shrinker: Send + Sync + Sized {
    /// How many objects could be freed.
    fn count_objects(&self, sc: &ShrinkControl<'_>) -> CountObjects;

    /// Frees up to `nr_to_scan` objects.
    fn scan_objects(&self, sc: &mut ShrinkControl<'_>) -> ScanObjects;

    /// `shrinker_free()` has returned: no callback runs or will run.
    fn freed(&self) {}
}

/// Result of [`Shrinker::count_objects`].
#[derive(Clone, Copy)]
pub(crate) struct CountObjects(c_ulong);

impl CountObjects {
    /// There are none: a memcg-aware shrinker is not called for this memcg again until its bit is set.
    pub(crate) const EMPTY: Self = Self(compat::SHRINK_EMPTY);
    /// The kernel multiplies the count by four when `seeks` is 1 and by two elsewhere.
    const MAX: c_ulong = c_ulong::MAX / 8;

    /// So many; 0 means "cannot tell, or not now". Never a sentinel: the value is capped.
    pub(crate) fn new(n: usize) -> Self {
        Self(n.min(Self::MAX))
    }

    /// The number; 0 for [`CountObjects::EMPTY`].
    #[allow(dead_code, reason = "not every module asks")]
    pub(crate) fn n(self) -> usize {
        if self.is_empty() {
            0
        } else {
            self.0
        }
    }

    /// Whether it is [`CountObjects::EMPTY`].
    #[allow(dead_code, reason = "not every module asks")]
    pub(crate) fn is_empty(self) -> bool {
        self.0 == compat::SHRINK_EMPTY
    }
}

/// Result of [`Shrinker::scan_objects`].
#[derive(Clone, Copy)]
pub(crate) struct ScanObjects(c_ulong);

impl ScanObjects {
    /// No progress is possible; ends the pass.
    pub(crate) const STOP: Self = Self(compat::SHRINK_STOP);

    /// So many were freed. Never a sentinel: the value is capped.
    pub(crate) fn new(n: usize) -> Self {
        Self(n.min(CountObjects::MAX))
    }

    /// The number; `None` for [`ScanObjects::STOP`].
    #[allow(dead_code, reason = "not every module asks")]
    pub(crate) fn n(self) -> Option<usize> {
        (self.0 != compat::SHRINK_STOP).then_some(self.0)
    }
}

/// What reclaim wants of a callback.
///
/// # Invariants
///
/// `ptr` is valid for `'a` and used by this thread alone.
pub(crate) struct ShrinkControl<'a> {
    ptr: NonNull<bindings::shrink_control>,
    life: PhantomData<&'a mut bindings::shrink_control>,
}

impl ShrinkControl<'_> {
    fn get(&self) -> &bindings::shrink_control {
        // SAFETY: valid and not shared with other threads (type invariant).
        unsafe { self.ptr.as_ref() }
    }

    /// What the allocation that reclaims allows.
    #[allow(dead_code, reason = "not every module asks")]
    pub(crate) fn gfp_mask(&self) -> bindings::gfp_t {
        self.get().gfp_mask
    }

    /// The node being reclaimed; set for shrinkers that are not NUMA-aware too.
    pub(crate) fn nid(&self) -> usize {
        self.get().nid as usize
    }

    /// The memcg being reclaimed: a handle to pass on during the callback; null or the root group in global reclaim.
    pub(crate) fn memcg(&self) -> *mut bindings::mem_cgroup {
        self.get().memcg
    }

    /// How many objects to scan.
    pub(crate) fn nr_to_scan(&self) -> usize {
        self.get().nr_to_scan
    }

    /// How many objects were scanned as far as reclaim knows; `nr_to_scan` unless set.
    #[allow(dead_code, reason = "not every module asks")]
    pub(crate) fn nr_scanned(&self) -> usize {
        self.get().nr_scanned
    }

    /// Reports progress. At least 1 and at most `nr_to_scan`: reclaim repeats a scan that went nowhere for ever.
    #[allow(dead_code, reason = "part of the abstraction; the modules here report nr_to_scan")]
    pub(crate) fn set_nr_scanned(&mut self, n: usize) {
        let max = self.nr_to_scan().max(1);
        // SAFETY: valid, and exclusive through `&mut` (type invariant).
        unsafe { self.ptr.as_mut() }.nr_scanned = n.clamp(1, max);
    }
}

unsafe extern "C" fn count_objects<T: Shrinker>(
    shrinker: *mut bindings::shrinker,
    sc: *mut bindings::shrink_control,
) -> c_ulong {
    // SAFETY: the kernel passes the shrinker that `register::<T>()` set up, so `private_data` is a `T`, which lives
    // until shrinker_free() has waited for this callback; `sc` is the caller's own.
    let (data, sc) = unsafe { (&*(*shrinker).private_data.cast::<T>(), NonNull::new_unchecked(sc)) };
    // INVARIANT: `sc` is valid during the callback and belongs to its thread.
    data.count_objects(&ShrinkControl { ptr: sc, life: PhantomData }).0
}

/// `count_objects` of a shrinker without `scan_objects`.
unsafe extern "C" fn count_nothing<T: Shrinker>(
    shrinker: *mut bindings::shrinker,
    sc: *mut bindings::shrink_control,
) -> c_ulong {
    // SAFETY: the kernel's own arguments are passed on.
    let n = unsafe { count_objects::<T>(shrinker, sc) };
    if n == compat::SHRINK_EMPTY {
        n
    } else {
        0
    }
}

unsafe extern "C" fn scan_objects<T: Shrinker>(
    shrinker: *mut bindings::shrinker,
    sc: *mut bindings::shrink_control,
) -> c_ulong {
    // SAFETY: as in `count_objects`.
    let (data, sc) = unsafe { (&*(*shrinker).private_data.cast::<T>(), NonNull::new_unchecked(sc)) };
    // INVARIANT: as in `count_objects`.
    data.scan_objects(&mut ShrinkControl { ptr: sc, life: PhantomData }).0
}
