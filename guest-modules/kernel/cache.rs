// SPDX-License-Identifier: GPL-2.0

//! What a slot's shrinker shrinks: object counters per node and an lru, and how its callbacks behave.
//!
//! Callbacks take no lock but list_lru's and one that is made for them (`lock.rs`), so they may run in any reclaim context. Whatever is asked of them, they are
//! bounded per slot lifetime: [`DELAY_NS_MAX`] of delays, [`CALLS_MAX`] calls that do anything, and never a scan that
//! returns something else than `SHRINK_STOP` without progress. So no program can make a good kernel reclaim for ever.

use crate::layout::{behave, delay, N_NODES, N_SLOTS};
use crate::lru::{FileBy, Lru};
use crate::model::Call;
use crate::model_audit::{self as audit, Force};
use crate::shrinker::{CountObjects, Methods, ScanObjects, ShrinkControl, Shrinker};
use crate::{clock, compat, lock, model, slots};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use kernel::bindings;
use kernel::prelude::*;

/// Plain objects on one node at most.
const OBJECTS_MAX: usize = 4096;
/// What a lying count says.
const LIE: usize = 1024;
/// What a count says that knows of much more.
const MUCH: usize = 1 << 16;
/// What a scan costs of the budget of calls when count says as much as can be said: reclaim would go on for ever.
const ENDLESS_COST: u32 = 64;
/// A fitful scan stops at every so many calls.
const FITFUL: u32 = 4;
/// Delay of all callbacks of one slot lifetime together.
const DELAY_NS_MAX: u64 = 5_000_000;
/// What giving the CPU away costs at least of that budget, however short the delay: on a busy CPU it takes a slice of the
/// scheduler to get it back.
const DELAY_CHARGE_NS: u64 = 50_000;
/// Longest single delay.
const DELAY_ONCE_NS_MAX: u32 = 500_000;
/// Callback calls of one slot lifetime that are served; later ones answer 0 or `SHRINK_STOP` at once. One write to
/// `memory.reclaim` makes up to 900; a call costs thousands of instructions in a debugging kernel.
const CALLS_MAX: u32 = 4096;
/// Bytes that [`delay::ALLOC`] allocates.
const ALLOC_BYTES: usize = 1024;

/// `count_objects` calls since load.
pub(crate) static N_COUNT_CALLS: AtomicU64 = AtomicU64::new(0);
/// `scan_objects` calls since load.
pub(crate) static N_SCAN_CALLS: AtomicU64 = AtomicU64::new(0);

/// How a callback behaves: result, delay kind and delay in one word, so that a change is seen whole.
pub(crate) struct Behaviour(AtomicU64);

impl Behaviour {
    const fn honest() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Sets what the callback does from now on.
    pub(crate) fn set(&self, result: u32, delay: u32, ns: u32) -> Result {
        if result >= behave::N || delay >= delay::N {
            return Err(EINVAL);
        }
        let word = u64::from(result) << 40 | u64::from(delay) << 32 | u64::from(ns.min(DELAY_ONCE_NS_MAX));
        self.0.store(word, Relaxed);
        Ok(())
    }

    /// Result, delay kind, ns.
    fn get(&self) -> (u32, u32, u32) {
        let word = self.0.load(Relaxed);
        ((word >> 40) as u32, (word >> 32) as u32 & 0xff, word as u32)
    }
}

/// The cache of one slot, from `alloc` to `free`.
pub(crate) struct Cache {
    /// Items, on a list_lru.
    pub(crate) lru: Lru,
    /// Which callbacks the shrinker has.
    pub(crate) methods: Methods,
    slot_idx: u8,
    /// What `count_objects` does.
    pub(crate) count: Behaviour,
    /// What `scan_objects` does.
    pub(crate) scan: Behaviour,
    objects: [AtomicUsize; N_NODES],
    delay_left_ns: AtomicU64,
    calls_left: AtomicU32,
}

impl Cache {
    /// An empty cache whose callbacks are honest. The lru is to be initialised by the caller.
    pub(crate) fn new(slot_idx: u8, methods: Methods) -> Result<KBox<Cache>> {
        let cache = Cache {
            lru: Lru::new()?,
            methods,
            slot_idx,
            count: Behaviour::honest(),
            scan: Behaviour::honest(),
            objects: [const { AtomicUsize::new(0) }; N_NODES],
            delay_left_ns: AtomicU64::new(DELAY_NS_MAX),
            calls_left: AtomicU32::new(CALLS_MAX),
        };
        Ok(KBox::new(cache, GFP_KERNEL)?)
    }

    /// Adds plain objects to a node; how many there was room for.
    pub(crate) fn add_objects(&self, nid: usize, n: usize) -> Result<usize> {
        let objects = self.objects.get(nid).ok_or(EINVAL)?;
        let add = |now: usize| Some(now + n.min(OBJECTS_MAX - now));
        let before = objects.fetch_update(Relaxed, Relaxed, add).unwrap_or_else(|now| now);
        Ok(n.min(OBJECTS_MAX - before))
    }

    /// Takes plain objects from a node; how many there were.
    pub(crate) fn del_objects(&self, nid: usize, n: usize) -> Result<usize> {
        let objects = self.objects.get(nid).ok_or(EINVAL)?;
        let before =
            objects.fetch_update(Relaxed, Relaxed, |now| Some(now - n.min(now))).unwrap_or_else(|now| now);
        Ok(n.min(before))
    }

    fn n_freeable(&self, sc: &ShrinkControl<'_>) -> usize {
        let n_objects = self.objects.get(sc.nid()).map_or(0, |objects| objects.load(Relaxed));
        // SAFETY: node and memcg are those of the running callback.
        n_objects + unsafe { self.lru.shrink_count(sc.nid(), sc.memcg()) }
    }

    fn free_up_to(&self, sc: &ShrinkControl<'_>, n: usize) -> usize {
        // SAFETY: node and memcg are those of the running callback.
        let n_items = unsafe { self.lru.shrink_walk(sc.nid(), sc.memcg(), n) };
        n_items + self.del_objects(sc.nid(), n - n_items.min(n)).unwrap_or(0)
    }

    /// What the budget of calls was before this one, which costs `n` of it; `None` when it is used up.
    fn spend_calls(&self, n: u32) -> Option<u32> {
        self.calls_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(n)).ok()
    }

    /// An item onto the list of the next slot, if that has one; as a callback may, so from the reserves or not at all.
    fn add_to_other(&self) {
        let other = (self.slot_idx + 1) % N_SLOTS as u8;
        let add = |cache: &Cache| cache.lru.add(1, FileBy::Obj, compat::GFP_NOFS);
        let _ = slots::get(other).and_then(|slot| slot.with_cache(add));
    }

    fn delay(&self, kind: u32, ns: u32) {
        if kind == delay::NONE {
            return;
        }
        let least_ns = if kind == delay::SPIN { 0 } else { DELAY_CHARGE_NS };
        let wanted_ns = u64::from(ns).max(least_ns);
        let spend = |left: u64| Some(left - wanted_ns.min(left));
        let left_ns = self.delay_left_ns.fetch_update(Relaxed, Relaxed, spend).unwrap_or(0);
        if left_ns == 0 {
            return;
        }
        match kind {
            delay::SLEEP => clock::sleep_ns(u64::from(ns).min(left_ns)),
            delay::SPIN => clock::spin_ns(u64::from(ns).min(left_ns)),
            // SAFETY: callbacks may sleep.
            delay::YIELD => unsafe { bindings::yield_() },
            delay::ALLOC => {
                // SAFETY: callbacks may sleep, and GFP_NOFS is what they may allocate with. kfree() takes null.
                unsafe { bindings::kfree(bindings::__kmalloc_noprof(ALLOC_BYTES, compat::GFP_NOFS)) }
            }
            delay::LOCK => lock::hold_ns(u64::from(ns).min(left_ns)),
            delay::TRYLOCK => drop(lock::try_hold_ns(u64::from(ns).min(left_ns))),
            delay::OTHER => self.add_to_other(),
            _ => {}
        }
    }
}

/// Private data of a registered shrinker: where its cache is. An allocation of its own that is freed right after
/// `shrinker_free()`.
///
/// # Invariants
///
/// The cache lives until `shrinker_free()` has returned.
pub(crate) struct Callbacks {
    cache: NonNull<Cache>,
    slot_idx: usize,
    /// Whose callbacks they are; to look at while they run.
    shrinker: *const bindings::shrinker,
}

// SAFETY: a `Cache` is shared between threads.
unsafe impl Send for Callbacks {}
// SAFETY: as above.
unsafe impl Sync for Callbacks {}

impl Callbacks {
    /// Private data for a cache.
    ///
    /// # Safety
    ///
    /// The cache must live until the shrinker registered with the result was freed.
    pub(crate) unsafe fn new(
        cache: NonNull<Cache>,
        slot_idx: usize,
        shrinker: *const bindings::shrinker,
    ) -> Result<KBox<Callbacks>> {
        // INVARIANT: the caller's promise.
        Ok(KBox::new(Callbacks { cache, slot_idx, shrinker }, GFP_KERNEL)?)
    }

    fn cache(&self) -> &Cache {
        // SAFETY: alive (type invariant): callbacks run before shrinker_free() returns.
        unsafe { self.cache.as_ref() }
    }
}

impl Callbacks {
    fn count(&self, sc: &ShrinkControl<'_>, ledger: &model::Ledger) -> CountObjects {
        let cache = self.cache();
        let result = if audit::forced() == Force::Nothing {
            if cache.spend_calls(1).is_none() {
                return CountObjects::new(0);
            }
            let (result, delay, ns) = cache.count.get();
            cache.delay(delay, ns);
            result
        } else {
            behave::HONEST
        };
        let n = cache.n_freeable(sc);
        let counted = match (result, n) {
            (behave::STOP, _) | (behave::HALF, 0) => CountObjects::EMPTY,
            // As superblocks do.
            (behave::HONEST, 0) if ledger.memcg_aware() => CountObjects::EMPTY,
            (behave::HONEST | behave::HALF, n) => CountObjects::new(n),
            (behave::LIE, _) => CountObjects::new(LIE),
            (behave::PART, _) => CountObjects::new(MUCH),
            (behave::FITFUL, _) => CountObjects::new(usize::MAX),
            _ => CountObjects::new(0),
        };
        if counted.is_empty() && n != 0 {
            ledger.lied_empty.store(true, Relaxed);
        }
        counted
    }

    fn scan(&self, sc: &mut ShrinkControl<'_>) -> ScanObjects {
        let cache = self.cache();
        let n = sc.nr_to_scan();
        match audit::forced() {
            Force::Nothing => {}
            Force::Stop => return ScanObjects::STOP,
            Force::Honest => return ScanObjects::new(cache.free_up_to(sc, n)),
        }
        let cost = if cache.count.get().0 == behave::FITFUL { ENDLESS_COST } else { 1 };
        let Some(left) = cache.spend_calls(cost) else { return ScanObjects::STOP };
        let (result, delay, ns) = cache.scan.get();
        cache.delay(delay, ns);
        match result {
            behave::HONEST => ScanObjects::new(cache.free_up_to(sc, n)),
            behave::HALF => ScanObjects::new(cache.free_up_to(sc, n / 2)),
            behave::STOP => ScanObjects::STOP,
            behave::LIE => ScanObjects::new(n),
            behave::PART => {
                sc.set_nr_scanned(n / 2);
                ScanObjects::new(cache.free_up_to(sc, n / 2))
            }
            behave::FITFUL if (left / cost) % FITFUL == 0 => ScanObjects::STOP,
            behave::FITFUL => ScanObjects::new(cache.free_up_to(sc, n)),
            _ => ScanObjects::new(0),
        }
    }
}

impl Shrinker for Callbacks {
    fn count_objects(&self, sc: &ShrinkControl<'_>) -> CountObjects {
        N_COUNT_CALLS.fetch_add(1, Relaxed);
        let call = Call::begin(self.slot_idx, sc);
        audit::counting(&call, self.shrinker, self.cache());
        let counted = self.count(sc, call.ledger);
        let scans = self.cache().methods == Methods::CountAndScan;
        // Without a scan function the wrapper says 0 instead of a number (`shrinker.rs`).
        let seen = if scans { counted.n() } else { 0 };
        call.counted(seen, counted.is_empty(), scans);
        counted
    }

    fn scan_objects(&self, sc: &mut ShrinkControl<'_>) -> ScanObjects {
        N_SCAN_CALLS.fetch_add(1, Relaxed);
        let call = Call::begin(self.slot_idx, sc);
        call.scanning(sc);
        let scanned = self.scan(sc);
        call.scanned(sc, scanned.n());
        scanned
    }

    fn freed(&self) {
        model::ledger(self.slot_idx).freed(self.slot_idx);
    }
}
