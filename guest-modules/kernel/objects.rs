// SPDX-License-Identifier: GPL-2.0

//! Objects that have a shrinker of their own, as a superblock has: what the callbacks look at is part of the object, and
//! is gone as soon as `shrinker_free()` has returned.
//!
//! Each place of [`OBJECTS`] is null, or has an object that belongs to whoever swaps the place to null.

use crate::layout::N_OBJECTS;
use crate::shrinker::{
    CountObjects, Flags, Methods, RegisteredShrinker, ScanObjects, ShrinkControl, Shrinker,
    UnregisteredShrinker,
};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::*};
use kernel::prelude::*;

/// Things to shrink in one object at most.
const THINGS_MAX: usize = 4096;
/// Scans of one object that are served.
const SCANS_MAX: u32 = 1024;
/// What an object is padded to, so that it is no neighbour of smaller ones.
const PADDING_BYTES: usize = 200;

/// An object, from the view of its shrinker.
struct Object {
    n_things: AtomicUsize,
    scans_left: AtomicU32,
    padding: [u8; PADDING_BYTES],
}

static OBJECTS: [AtomicPtr<RegisteredShrinker<Object>>; N_OBJECTS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; N_OBJECTS];

impl Shrinker for Object {
    fn count_objects(&self, _sc: &ShrinkControl<'_>) -> CountObjects {
        // Reads the far end too.
        match self.n_things.load(Relaxed) + usize::from(self.padding[PADDING_BYTES - 1]) {
            0 => CountObjects::EMPTY,
            n => CountObjects::new(n),
        }
    }

    fn scan_objects(&self, sc: &mut ShrinkControl<'_>) -> ScanObjects {
        let wanted = sc.nr_to_scan();
        if self.scans_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
            return ScanObjects::STOP;
        }
        let take = |now: usize| Some(now - wanted.min(now));
        let before = self.n_things.fetch_update(Relaxed, Relaxed, take).unwrap_or_else(|now| now);
        ScanObjects::new(wanted.min(before))
    }
}

/// Makes object `object_idx`.
pub(crate) fn make(object_idx: usize, flags: Flags, n_things: usize) -> Result {
    let place = OBJECTS.get(object_idx).ok_or(EINVAL)?;
    if !place.load(Relaxed).is_null() {
        return Err(EAGAIN);
    }
    let shrinker = UnregisteredShrinker::alloc(flags, c"st-object")?;
    let object = Object {
        n_things: AtomicUsize::new(n_things.min(THINGS_MAX)),
        scans_left: AtomicU32::new(SCANS_MAX),
        padding: [0; PADDING_BYTES],
    };
    let object = KBox::new(object, GFP_KERNEL)?;
    let registered = KBox::new(shrinker.register(object, Methods::CountAndScan), GFP_KERNEL)?;
    let registered = KBox::into_raw(registered);
    if place.compare_exchange(ptr::null_mut(), registered, AcqRel, Relaxed).is_err() {
        // Another thread was faster.
        // SAFETY: from `KBox::into_raw()` just now, and no place has it.
        drop(unsafe { KBox::from_raw(registered) });
        return Err(EAGAIN);
    }
    Ok(())
}

/// Frees object `object_idx`.
pub(crate) fn free(object_idx: usize) -> Result {
    let object = OBJECTS.get(object_idx).ok_or(EINVAL)?.swap(ptr::null_mut(), AcqRel);
    if object.is_null() {
        return Err(EAGAIN);
    }
    // SAFETY: from `KBox::into_raw()`, and ours since the swap.
    drop(unsafe { KBox::from_raw(object) });
    Ok(())
}

/// Frees all objects.
pub(crate) fn reset() {
    for object_idx in 0..N_OBJECTS {
        let _ = free(object_idx);
    }
}
