// SPDX-License-Identifier: GPL-2.0

//! Shrinkers in bulk, that take ids: so the next one lies where a program wants it, at the edge of a unit of 64 ids or
//! thousands of them up. They have nothing to shrink.
//!
//! Each place of [`PADS`] is null, or has a pad that belongs to whoever swaps the place to null.

use crate::layout::which;
use crate::shrinker::{
    CountObjects, Flags, Methods, RegisteredShrinker, ScanObjects, ShrinkControl, Shrinker,
    UnregisteredShrinker,
};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};
use kernel::prelude::*;

/// Ids that `mm/shrinker.c` keeps in one unit.
const UNIT_IDS: usize = 64;
/// Pads there can be.
const PADS_MAX: usize = 4096;
/// Registered pads there can be: each is called by every reclaim and has three debugfs entries, which a kernel with
/// sanitizers pays dearly for.
const REGISTERED_MAX: usize = if cfg!(any(CONFIG_KASAN, CONFIG_KCSAN)) { 256 } else { PADS_MAX };

/// A pad.
enum Pad {
    Unregistered(#[allow(dead_code, reason = "held to be dropped")] UnregisteredShrinker),
    Registered(#[allow(dead_code, reason = "held to be dropped")] RegisteredShrinker<Nothing>),
}

static PADS: [AtomicPtr<Pad>; PADS_MAX] = [const { AtomicPtr::new(ptr::null_mut()) }; PADS_MAX];
static N_REGISTERED: AtomicUsize = AtomicUsize::new(0);
/// One past the last place in use, or more.
static END: AtomicUsize = AtomicUsize::new(0);

/// Has nothing.
struct Nothing;

impl Shrinker for Nothing {
    fn count_objects(&self, _sc: &ShrinkControl<'_>) -> CountObjects {
        CountObjects::EMPTY
    }

    fn scan_objects(&self, _sc: &mut ShrinkControl<'_>) -> ScanObjects {
        ScanObjects::STOP
    }
}

impl Drop for Pad {
    fn drop(&mut self) {
        if let Pad::Registered(_) = self {
            N_REGISTERED.fetch_sub(1, Relaxed);
        }
    }
}

/// When there are enough pads.
pub(crate) enum Until {
    /// So many were added.
    Count(usize),
    /// The next id is this one, modulo 64.
    Id(usize),
}

/// Adds pads; how many it took.
pub(crate) fn add(until: Until, register: bool) -> Result<usize> {
    let (n_max, id_wanted) = match until {
        Until::Count(n) => (n, None),
        // Other threads take ids too: the wanted one may be passed by.
        Until::Id(id) => (UNIT_IDS, Some(id % UNIT_IDS)),
    };
    for n in 1..=n_max {
        let shrinker = UnregisteredShrinker::alloc(Flags::MEMCG_AWARE.with(Flags::NONSLAB), c"st-pad")?;
        let id = shrinker.id();
        let pad = if register { Pad::registered(shrinker)? } else { Pad::Unregistered(shrinker) };
        store(KBox::new(pad, GFP_KERNEL)?)?;
        if id_wanted == Some((id + 1) % UNIT_IDS) {
            return Ok(n);
        }
    }
    Ok(n_max)
}

impl Pad {
    fn registered(shrinker: UnregisteredShrinker) -> Result<Pad> {
        if N_REGISTERED.fetch_add(1, Relaxed) >= REGISTERED_MAX {
            N_REGISTERED.fetch_sub(1, Relaxed);
            return Err(ENOSPC);
        }
        let data = KBox::new(Nothing, GFP_KERNEL).inspect_err(|_| {
            N_REGISTERED.fetch_sub(1, Relaxed);
        })?;
        Ok(Pad::Registered(shrinker.register(data, Methods::CountAndScan)))
    }
}

fn store(pad: KBox<Pad>) -> Result {
    let pad = KBox::into_raw(pad);
    for (place_idx, place) in PADS.iter().enumerate() {
        if place.load(Relaxed).is_null()
            && place.compare_exchange(ptr::null_mut(), pad, AcqRel, Relaxed).is_ok()
        {
            END.fetch_max(place_idx + 1, AcqRel);
            return Ok(());
        }
    }
    // SAFETY: from `KBox::into_raw()` above, and no place has it.
    drop(unsafe { KBox::from_raw(pad) });
    Err(ENOSPC)
}

/// Frees up to `n` pads; how many there were.
pub(crate) fn free(n: usize, which: u32) -> usize {
    let places = &PADS[..END.load(Acquire)];
    match which {
        which::LAST => free_of(places.iter().rev(), n),
        which::SECOND => free_of(places.iter().step_by(2), n),
        _ => free_of(places.iter(), n),
    }
}

/// Frees all pads.
pub(crate) fn reset() {
    free(PADS_MAX, which::FIRST);
    END.store(0, Release);
}

fn free_of(places: impl Iterator<Item = &'static AtomicPtr<Pad>>, n: usize) -> usize {
    let mut n_freed = 0;
    for place in places {
        if n_freed == n {
            break;
        }
        let pad = place.swap(ptr::null_mut(), AcqRel);
        if !pad.is_null() {
            // SAFETY: from `KBox::into_raw()`, and ours since the swap.
            drop(unsafe { KBox::from_raw(pad) });
            n_freed += 1;
        }
    }
    n_freed
}
