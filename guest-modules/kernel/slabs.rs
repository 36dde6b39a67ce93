// SPDX-License-Identifier: GPL-2.0

//! Slab caches that programs create, use, shrink and destroy.
//!
//! State and number of users of a cache live in one word: `Empty -> Opening -> Open -> Closing -> Empty`. Users are
//! admitted while it is open; who closes it waits until they have gone, frees what they left and destroys the cache,
//! which must be empty then. An entry of `objects` is null, [`RESERVED`], or an object that belongs to whoever swaps
//! the entry to null.

use crate::layout::{cache_flag, N_CACHES};
use crate::{clock, compat};
use core::ffi::CStr;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::*};
use kernel::bindings;
use kernel::ffi::c_void;
use kernel::prelude::*;

const EMPTY: u32 = 0;
const OPENING: u32 = 1;
const OPEN: u32 = 2;
const CLOSING: u32 = 3;
const STATE_MASK: u32 = 0xff;
const ONE_USER: u32 = 0x100;

/// Objects of one cache.
const OBJECTS_MAX: usize = 256;
/// Sizes of objects.
const SIZE_MIN: u32 = 8;
const SIZE_MAX: u32 = 4096;
/// Between two looks at the number of users.
const USERS_POLL_NS: u64 = 50_000;
/// What the constructor writes, and is still there whenever an object is free.
const CONSTRUCTED: u64 = 0x7368_7269_6e6b_6564;
/// No address: entry whose object is being allocated.
const RESERVED: *mut u64 = ptr::without_provenance_mut(1);

const NAMES: [&CStr; N_CACHES] = [c"st-cache-0", c"st-cache-1", c"st-cache-2", c"st-cache-3"];

static SLABS: [Slab; N_CACHES] = [const { Slab::new() }; N_CACHES];

/// One cache.
///
/// # Invariants
///
/// As in the head of the file; `raw` is valid while the cache is open or being closed.
pub(crate) struct Slab {
    word: AtomicU32,
    raw: AtomicPtr<bindings::kmem_cache>,
    has_ctor: AtomicU32,
    /// Where the next look for an object to free begins.
    turn: AtomicUsize,
    objects: [AtomicPtr<u64>; OBJECTS_MAX],
}

/// The cache of that number.
pub(crate) fn get(cache_idx: u32) -> Result<&'static Slab> {
    SLABS.get(cache_idx as usize).ok_or(EINVAL)
}

/// Destroys all caches. Meant for when no other thread executes ops.
pub(crate) fn reset() {
    for slab in &SLABS {
        let _ = slab.destroy();
    }
}

unsafe extern "C" fn construct(object: *mut c_void) {
    // SAFETY: the allocator passes memory of at least 8 bytes, aligned to 8.
    unsafe { object.cast::<u64>().write(CONSTRUCTED) };
}

impl Slab {
    const fn new() -> Self {
        Slab {
            word: AtomicU32::new(EMPTY),
            raw: AtomicPtr::new(ptr::null_mut()),
            has_ctor: AtomicU32::new(0),
            turn: AtomicUsize::new(0),
            objects: [const { AtomicPtr::new(ptr::null_mut()) }; OBJECTS_MAX],
        }
    }

    fn go(&self, from: u32, to: u32) -> Result {
        let step = |word: u32| (word & STATE_MASK == from).then_some(word & !STATE_MASK | to);
        self.word.fetch_update(AcqRel, Acquire, step).map(|_| ()).map_err(|_| EAGAIN)
    }

    /// `kmem_cache_create()` with flags of [`cache_flag`].
    pub(crate) fn create(&self, cache_idx: u32, bits: u32, size: u32) -> Result {
        let name = NAMES.get(cache_idx as usize).ok_or(EINVAL)?;
        self.go(EMPTY, OPENING)?;
        // SAFETY: all zeroes are the defaults (include/linux/slab.h).
        let mut args: bindings::kmem_cache_args = unsafe { compat::zeroed() };
        args.align = 8;
        if bits & cache_flag::CTOR != 0 {
            args.ctor = Some(construct);
        }
        let mut flags = 0;
        for (bit, flag) in
            [(cache_flag::ACCOUNT, compat::SLAB_ACCOUNT), (cache_flag::RECLAIM, compat::SLAB_RECLAIM_ACCOUNT)]
        {
            if bits & bit != 0 {
                flags |= flag;
            }
        }
        let size = size.clamp(SIZE_MIN, SIZE_MAX);
        // SAFETY: name and arguments live for the call. No cache of that name is there: it was destroyed before the
        // state became empty.
        let raw =
            unsafe { bindings::__kmem_cache_create_args(name.as_ptr().cast(), size, &mut args, flags) };
        self.raw.store(raw, Release);
        self.has_ctor.store(bits & cache_flag::CTOR, Relaxed);
        let result = if raw.is_null() { Err(ENOMEM) } else { Ok(()) };
        self.go(OPENING, if raw.is_null() { EMPTY } else { OPEN })?;
        result
    }

    fn with<R>(&self, f: impl FnOnce(*mut bindings::kmem_cache) -> Result<R>) -> Result<R> {
        let enter = |word: u32| (word & STATE_MASK == OPEN).then_some(word + ONE_USER);
        self.word.fetch_update(Acquire, Relaxed, enter).map_err(|_| EAGAIN)?;
        let result = f(self.raw.load(Acquire));
        self.word.fetch_sub(ONE_USER, Release);
        result
    }

    /// `kmem_cache_alloc()` of up to `n` objects; how many.
    pub(crate) fn alloc(&self, n: usize) -> Result<usize> {
        self.with(|raw| {
            let mut n_made = 0;
            for entry in &self.objects {
                if n_made == n {
                    break;
                }
                if entry.compare_exchange(ptr::null_mut(), RESERVED, Acquire, Relaxed).is_err() {
                    continue;
                }
                // SAFETY: the cache is open while we are its user; process context, no lock held.
                let object: *mut u64 =
                    unsafe { bindings::kmem_cache_alloc_noprof(raw, compat::GFP_KERNEL) }.cast();
                if object.is_null() {
                    entry.store(ptr::null_mut(), Release);
                    return if n_made == 0 { Err(ENOMEM) } else { Ok(n_made) };
                }
                // SAFETY: ours, at least 8 bytes; a constructed object was written when its slab was made.
                if self.has_ctor.load(Relaxed) != 0 && unsafe { object.read() } != CONSTRUCTED {
                    pr_err!("MODEL: an object of a slab cache lost what its constructor wrote\n");
                }
                // SAFETY: as above.
                unsafe { object.write(n_made as u64) };
                entry.store(object, Release);
                n_made += 1;
            }
            Ok(n_made)
        })
    }

    /// `kmem_cache_free()` of up to `n` objects, every second one; how many.
    pub(crate) fn free(&self, n: usize) -> Result<usize> {
        self.with(|raw| {
            // The other half comes the next time.
            let entries = self.objects.iter().skip(self.turn.fetch_xor(1, Relaxed)).step_by(2);
            Ok(Self::free_of(raw, entries, n))
        })
    }

    fn free_of<'a>(
        raw: *mut bindings::kmem_cache,
        entries: impl Iterator<Item = &'a AtomicPtr<u64>>,
        n: usize,
    ) -> usize {
        let mut n_freed = 0;
        for entry in entries {
            let object = entry.load(Acquire);
            if n_freed == n {
                break;
            }
            if object.is_null()
                || object == RESERVED
                || entry.compare_exchange(object, ptr::null_mut(), AcqRel, Relaxed).is_err()
            {
                continue;
            }
            // SAFETY: ours since the exchange, and of this cache; it is as constructed when it goes back.
            unsafe {
                object.write(CONSTRUCTED);
                bindings::kmem_cache_free(raw, object.cast());
            }
            n_freed += 1;
        }
        n_freed
    }

    /// `kmem_cache_shrink()`.
    pub(crate) fn shrink(&self) -> Result {
        // SAFETY: the cache is open while we are its user.
        self.with(|raw| Ok(unsafe { bindings::kmem_cache_shrink(raw) })).map(|_| ())
    }

    /// Frees all objects, then `kmem_cache_destroy()`.
    pub(crate) fn destroy(&self) -> Result {
        self.go(OPEN, CLOSING)?;
        while self.word.load(Acquire) != CLOSING {
            clock::sleep_ns(USERS_POLL_NS);
        }
        let raw = self.raw.swap(ptr::null_mut(), AcqRel);
        Self::free_of(raw, self.objects.iter(), OBJECTS_MAX);
        // SAFETY: from `create()`; there are no users and no objects.
        unsafe { bindings::kmem_cache_destroy(raw) };
        self.go(CLOSING, EMPTY)
    }
}
