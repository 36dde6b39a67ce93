// SPDX-License-Identifier: GPL-2.0

//! A `list_lru` and the items on it, safe against every interleaving of add, delete, walk and reclaim.
//!
//! # Who owns an item
//!
//! Each item has an entry in a fixed array, and the entry says who may take the item off the list and free it:
//!
//! | entry | item | owner |
//! |---|---|---|
//! | 0 | none | nobody: free to reserve |
//! | `RESERVED` | being allocated, or on the list but not published | the adder |
//! | address, tagged `UNLISTED` | on no list | whoever swaps the entry to something else |
//! | address, else | on the list | whoever swaps the entry to 0 |
//!
//! The adder reserves the entry, allocates, files the item and publishes its address last; so a deleter that claims an
//! address knows that the item is on the list. The walk callback sees items under the list's lock; it claims by
//! compare-and-exchange of exactly this item's address and skips the item when that fails: it was not published yet, or
//! a deleter has claimed it and waits for the lock. An item is freed after it left its list and by its claimer only, so
//! an item seen on a list is allocated. The entry cannot come back to the same address in between, because the
//! allocation is not free yet.
//!
//! # Which list an item is on
//!
//! Filed "by obj", node and memcg come from the object both times, and list_lru guarantees that adding and deleting
//! agree, also after the memcg was removed. Filed "by memcg" the caller's memcg is passed although nothing ties the
//! object to it (its accounting may have failed, or the controller may be off), so such items are only taken off by walks, which
//! need not know the list. The memcg's lists must exist on a memcg-aware lru: `kmem_cache_alloc_lru()` makes them for the
//! memcg of the caller. The task may have been moved since, so their existence is checked in the same RCU section as the
//! insertion. From then on they either exist or were merged into the parent's, which exist before a child's: reparenting
//! changes the memcg's index (6.12) or marks its lists dead (7.x) before it erases them, and waits for the list's lock.
//!
//! # Locks
//!
//! `rcu` -> lock of the list_lru. Nothing is allocated under either; callbacks take the second only. `rcu` protects no
//! data: a held spinlock is a RCU read-side critical section, and 6.12 gives Rust no other.

use crate::compat::{self, Verdict};
use crate::item::{self, Item};
use crate::layout::verdict;
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use kernel::ffi::{c_ulong, c_void};
use kernel::prelude::*;
use kernel::sync::SpinLock;
use kernel::{bindings, new_spinlock};

/// Items one lru can hold.
pub(crate) const ITEMS_MAX: usize = 64;
/// Nodes an item may be on; see [`compat::node_online`].
const NODES_MAX: usize = 64;
/// An item that walks could not find is given up after so many tries, 1 ms apart.
const DRAIN_TRIES_MAX: u32 = 2000;

/// Entry whose item is being made. No address: items are aligned to 8 bytes.
const RESERVED: usize = 2;
/// Tag of items filed by memcg.
const BY_MEMCG: usize = 1;
/// Tag of items that are yet to be filed, by obj.
const UNLISTED: usize = 4;

/// How an item is filed; see the head of this file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileBy {
    /// `list_lru_add_obj()`.
    Obj,
    /// `list_lru_add()` with the caller's memcg and this node.
    Memcg { nid: usize },
}

/// A `list_lru` with its items.
///
/// # Invariants
///
/// `raw` is zeroed (before `init`) or initialised, and does not move once it is. `items` obeys the table above.
pub(crate) struct Lru {
    raw: UnsafeCell<bindings::list_lru>,
    rcu: Pin<KBox<SpinLock<()>>>,
    items: [AtomicUsize; ITEMS_MAX],
    /// The shrinker it belongs to is registered.
    is_registered: AtomicBool,
    /// See [`Lru::has_early_items`].
    has_early_items: AtomicBool,
}

// SAFETY: list_lru has its own locks, items are passed from thread to thread by atomics.
unsafe impl Send for Lru {}
// SAFETY: as above.
unsafe impl Sync for Lru {}

/// What a walk takes.
struct Claim<'a> {
    lru: &'a Lru,
    /// Only items filed by memcg.
    only_by_memcg: bool,
    /// What becomes of an item that is wanted.
    verdict: Verdict,
    n_left: usize,
    n_taken: usize,
    /// Items taken, no longer on the lru.
    dispose: bindings::list_head,
}

impl Lru {
    /// Memory for an lru; to be moved to its place and initialised there.
    pub(crate) fn new() -> Result<Lru> {
        Ok(Lru {
            // SAFETY: all zeroes are valid, and what list_lru_destroy() takes for "not initialised".
            raw: UnsafeCell::new(unsafe { compat::zeroed() }),
            rcu: KBox::pin_init(new_spinlock!((), "shrinktorture_rcu"), GFP_KERNEL)?,
            items: [const { AtomicUsize::new(0) }; ITEMS_MAX],
            is_registered: AtomicBool::new(false),
            has_early_items: AtomicBool::new(false),
        })
    }

    /// Initialises the list, memcg-aware and tied to `shrinker` if that is not null.
    ///
    /// # Safety
    ///
    /// Called once, before anything else, when `self` has reached its final place; `shrinker` is null or live.
    pub(crate) unsafe fn init(&self, shrinker: *mut bindings::shrinker) -> Result {
        // SAFETY: zeroed, in place and not in use by the caller's promise.
        to_result(unsafe { compat::list_lru_init(self.raw.get(), shrinker) })
    }

    /// The shrinker is registered from now on.
    pub(crate) fn registered(&self) {
        self.is_registered.store(true, Release);
    }

    /// Whether something was filed before the shrinker was registered. Reclaim clears the bits of shrinkers that it cannot
    /// get, so it need not be called for such a list until that was empty once.
    pub(crate) fn has_early_items(&self) -> bool {
        self.has_early_items.load(Acquire)
    }

    /// Whether it keeps a list for each memcg.
    pub(crate) fn is_memcg_aware(&self) -> bool {
        // SAFETY: the flag is constant after initialisation.
        unsafe { (*self.raw.get()).memcg_aware }
    }

    /// Whether small allocations of the calling task succeed; see [`compat::allocations_succeed`].
    pub(crate) fn allocations_succeed(&self) -> bool {
        let _rcu = self.rcu.lock();
        compat::allocations_succeed()
    }

    fn note_filing(&self) {
        if !self.is_registered.load(Acquire) {
            self.has_early_items.store(true, Release);
        }
    }

    /// Allocates and files up to `n` items; how many it were, or why there was none.
    pub(crate) fn add(&self, n: usize, by: FileBy, gfp: bindings::gfp_t) -> Result<usize> {
        up_to(n, || self.add_one(by, gfp))
    }

    /// Allocates up to `n` items, charged to the caller's memcg, to be filed later; how many it were.
    pub(crate) fn make(&self, n: usize) -> Result<usize> {
        up_to(n, || {
            let (entry_idx, entry) = self.reserve()?;
            let made = item::alloc(self.raw.get(), entry_idx, 0, compat::GFP_KERNEL);
            entry.store(made.as_ref().map_or(0, |item| *item as usize | UNLISTED), Release);
            made.map(|_| ())
        })
    }

    /// Files up to `n` items of [`Lru::make`], by obj, wherever the caller is now; how many there were.
    pub(crate) fn put(&self, n: usize) -> Result<usize> {
        let mut n_put = 0;
        for entry in &self.items {
            let value = entry.load(Acquire);
            if n_put == n {
                break;
            }
            if value & UNLISTED == 0 || entry.compare_exchange(value, RESERVED, AcqRel, Relaxed).is_err() {
                continue;
            }
            let item = (value & !UNLISTED) as *mut Item;
            if self.add_obj(item).is_err() {
                // The kernel found it on a list: it is not ours to touch any more.
                pr_err!("MODEL: list_lru_add_obj() refused an item that is on no list\n");
            }
            entry.store(item as usize, Release);
            n_put += 1;
        }
        Ok(n_put)
    }

    /// An entry of the caller's own, `RESERVED`.
    fn reserve(&self) -> Result<(usize, &AtomicUsize)> {
        let reserve =
            |entry: &(usize, &AtomicUsize)| entry.1.compare_exchange(0, RESERVED, Acquire, Relaxed).is_ok();
        self.items.iter().enumerate().find(reserve).ok_or(ENOSPC)
    }

    fn add_one(&self, by: FileBy, gfp: bindings::gfp_t) -> Result {
        let (entry_idx, entry) = self.reserve()?;
        let tag = if by == FileBy::Obj { 0 } else { BY_MEMCG };
        let filed = item::alloc(self.raw.get(), entry_idx, tag, gfp).and_then(|item| {
            let filed = match by {
                FileBy::Obj => self.add_obj(item),
                FileBy::Memcg { nid } => self.add_by_memcg(item, nid),
            };
            if let Err(error) = filed {
                // SAFETY: ours and on no list.
                unsafe { item::free(item) };
                return Err(error);
            }
            Ok(item as usize | tag)
        });
        // The entry is ours. Either way it gets its last word from us: the address is published, or 0 given back.
        entry.store(*filed.as_ref().unwrap_or(&0), Release);
        filed.map(|_| ())
    }

    fn add_obj(&self, item: *mut Item) -> Result {
        self.note_filing();
        // SAFETY: the lru is initialised, the item is a slab object, ours and on no list; if its memcg was charged for
        // it, kmem_cache_alloc_lru() has made the memcg's lists.
        let added = unsafe { bindings::list_lru_add_obj(self.raw.get(), item.cast()) };
        if added {
            Ok(())
        } else {
            Err(EEXIST)
        }
    }

    fn add_by_memcg(&self, item: *mut Item, nid: usize) -> Result {
        if !compat::node_online(nid) {
            return Err(EINVAL);
        }
        self.note_filing();
        let _rcu = self.rcu.lock();
        let memcg = compat::current_memcg();
        // SAFETY: null or valid while the lock is held (see `current_memcg`).
        if !unsafe { self.has_lists(memcg) } {
            return Err(EAGAIN);
        }
        // SAFETY: the item is ours and on no list, the node exists, the memcg is valid while the lock is held, and its
        // lists exist (head of this file).
        let added = unsafe { bindings::list_lru_add(self.raw.get(), item.cast(), nid as i32, memcg) };
        if added {
            Ok(())
        } else {
            Err(EEXIST)
        }
    }

    /// Whether a memcg can be passed to this lru.
    ///
    /// # Safety
    ///
    /// `memcg` is null or valid.
    unsafe fn has_lists(&self, memcg: *mut bindings::mem_cgroup) -> bool {
        let lru = self.raw.get();
        if !self.is_memcg_aware() {
            return true;
        }
        // SAFETY: the caller's promise.
        let idx = unsafe { compat::memcg_kmem_id(memcg) };
        // SAFETY: the xarray is initialised on memcg-aware lrus; xa_load() takes care of its own locking.
        idx < 0 || !unsafe { bindings::xa_load(&raw mut (*lru).xa, idx as c_ulong) }.is_null()
    }

    /// Takes off and frees up to `n` items: with `list_lru_del_obj()` those filed by obj, by walking the others.
    pub(crate) fn del(&self, n: usize) -> usize {
        let mut n_taken = 0;
        for entry in &self.items {
            let value = entry.load(Acquire);
            if n_taken == n {
                return n;
            }
            if value <= RESERVED
                || value & (BY_MEMCG | UNLISTED) != 0
                || entry.compare_exchange(value, 0, AcqRel, Relaxed).is_err()
            {
                continue;
            }
            let item = value as *mut Item;
            // SAFETY: claimed, so nobody else deletes or frees it, and filed by obj on this lru.
            if !unsafe { bindings::list_lru_del_obj(self.raw.get(), item.cast()) } {
                pr_err!("MODEL: list_lru_del_obj() found an item on no list\n");
            }
            // SAFETY: claimed and on no list any more.
            unsafe { item::free(item) };
            n_taken += 1;
        }
        for nid in 0..NODES_MAX {
            if n_taken < n {
                n_taken += self.walk_node(nid, usize::MAX, n - n_taken, true, Verdict::Removed);
            }
        }
        n_taken
    }

    /// `list_lru_walk_node()`: looks at up to `n` items of a node and frees those it gets hold of.
    pub(crate) fn walk(&self, nid: usize, n: usize) -> usize {
        self.walk_node(nid, n, n, false, Verdict::Removed)
    }

    /// As [`Lru::walk`], with this verdict for each item.
    pub(crate) fn walk_as(&self, nid: usize, n: usize, verdict: u32) -> Result<usize> {
        let verdict = match verdict {
            verdict::REMOVED => Verdict::Removed,
            verdict::REMOVED_RETRY => Verdict::RemovedRetry,
            verdict::ROTATE => Verdict::Rotate,
            verdict::SKIP => Verdict::Skip,
            verdict::RETRY => Verdict::Retry,
            verdict::STOP => Verdict::Stop,
            _ => return Err(EINVAL),
        };
        Ok(self.walk_node(nid, n, n, false, verdict))
    }

    fn walk_node(
        &self,
        nid: usize,
        nr_to_walk: usize,
        n_max: usize,
        only_by_memcg: bool,
        verdict: Verdict,
    ) -> usize {
        if !compat::node_online(nid) {
            return 0;
        }
        self.claim(n_max, only_by_memcg, verdict, |callback, arg| {
            let mut nr_to_walk = nr_to_walk;
            // SAFETY: the lru is initialised, the node exists, the callback fits its argument.
            unsafe {
                bindings::list_lru_walk_node(self.raw.get(), nid as i32, callback, arg, &mut nr_to_walk)
            };
        })
    }

    /// `list_lru_shrink_walk()`: frees up to `n` items of a node and memcg.
    ///
    /// # Safety
    ///
    /// `nid` and `memcg` are those of a running shrinker callback.
    pub(crate) unsafe fn shrink_walk(&self, nid: usize, memcg: *mut bindings::mem_cgroup, n: usize) -> usize {
        self.claim(n, false, Verdict::Removed, |callback, arg| {
            let mut nr_to_walk = n;
            // SAFETY: the lru is initialised; node and memcg are valid by the caller's promise.
            unsafe {
                bindings::list_lru_walk_one(self.raw.get(), nid as i32, memcg, callback, arg, &mut nr_to_walk)
            };
        })
    }

    /// `list_lru_shrink_count()`.
    ///
    /// # Safety
    ///
    /// As [`Lru::shrink_walk`].
    pub(crate) unsafe fn shrink_count(&self, nid: usize, memcg: *mut bindings::mem_cgroup) -> usize {
        // SAFETY: the lru is initialised; node and memcg are valid by the caller's promise.
        unsafe { bindings::list_lru_count_one(self.raw.get(), nid as i32, memcg) }
    }

    /// Runs a walk that claims items, then frees what it claimed.
    fn claim(
        &self,
        n: usize,
        only_by_memcg: bool,
        verdict: Verdict,
        walk: impl FnOnce(bindings::list_lru_walk_cb, *mut c_void),
    ) -> usize {
        let head = bindings::list_head { next: ptr::null_mut(), prev: ptr::null_mut() };
        let mut claim = Claim { lru: self, only_by_memcg, verdict, n_left: n, n_taken: 0, dispose: head };
        let claim = &raw mut claim;
        // SAFETY: `claim` is valid; from here on it is only used through this pointer. A list head points to itself.
        let head = unsafe {
            let head = &raw mut (*claim).dispose;
            (*head).next = head;
            (*head).prev = head;
            head
        };
        walk(compat::walk_callback::<Claim<'_>>(), claim.cast());
        // SAFETY: the list is ours, and so are the items on it (claimed and off the lru).
        unsafe {
            let mut node = (*head).next;
            while node != head {
                let next = (*node).next;
                item::free(node.cast());
                node = next;
            }
            (*claim).n_taken
        }
    }

    /// Frees all items. Nobody else uses the lru any more; a memcg that is being removed may hide items for a moment,
    /// so the walks are repeated.
    fn drain(&self) {
        for entry in &self.items {
            let value = entry.load(Acquire);
            if value & UNLISTED != 0 {
                // SAFETY: on no list, and nobody else uses the lru any more.
                unsafe { item::free((value & !UNLISTED) as *mut Item) };
                entry.store(0, Release);
            }
        }
        for _ in 0..DRAIN_TRIES_MAX {
            for nid in 0..NODES_MAX {
                self.walk_node(nid, usize::MAX, usize::MAX, false, Verdict::Removed);
            }
            if self.items.iter().all(|entry| entry.load(Acquire) == 0) {
                return;
            }
            // SAFETY: process context, no lock held.
            unsafe { bindings::usleep_range_state(1000, 2000, bindings::TASK_UNINTERRUPTIBLE) };
        }
        let n_lost = self.items.iter().filter(|entry| entry.load(Acquire) != 0).count();
        pr_err!("MODEL: items are on no list of their list_lru: {}\n", n_lost);
    }
}

impl Drop for Lru {
    fn drop(&mut self) {
        // SAFETY: a null `node` means that the lru was not initialised, and then there are no items.
        if !unsafe { (*self.raw.get()).node }.is_null() {
            self.drain();
        }
        // SAFETY: initialised or zeroed, empty, and nobody else uses it (`&mut`).
        unsafe { bindings::list_lru_destroy(self.raw.get()) };
    }
}

impl compat::Isolate for Claim<'_> {
    unsafe fn isolate(
        node: *mut bindings::list_head,
        list: *mut bindings::list_lru_one,
        arg: *mut c_void,
    ) -> Verdict {
        // SAFETY: `arg` is the `Claim` of a walk that is running on this thread.
        let claim = unsafe { &mut *arg.cast::<Claim<'_>>() };
        let item = node.cast::<Item>();
        // SAFETY: an item on a list is allocated (head of this file), and these fields never change.
        let (entry_idx, tag) = unsafe { ((*item).entry_idx, (*item).tag) };
        let wanted = claim.n_left > 0 && (!claim.only_by_memcg || tag == BY_MEMCG);
        if !wanted || !matches!(claim.verdict, Verdict::Removed | Verdict::RemovedRetry) {
            return if wanted { claim.verdict } else { Verdict::Skip };
        }
        let entry = &claim.lru.items[entry_idx];
        if entry.compare_exchange(item as usize | tag, 0, AcqRel, Relaxed).is_err() {
            return Verdict::Skip;
        }
        claim.n_left -= 1;
        claim.n_taken += 1;
        // SAFETY: the list's lock is held, the item is on it, and `dispose` is a list head of this thread.
        unsafe { bindings::list_lru_isolate_move(list, node, &raw mut claim.dispose) };
        claim.verdict
    }
}

/// Does something up to `n` times; how often it worked, or why it did not at all.
fn up_to(n: usize, mut once: impl FnMut() -> Result) -> Result<usize> {
    for n_done in 0..n {
        if let Err(error) = once() {
            return if n_done == 0 { Err(error) } else { Ok(n_done) };
        }
    }
    Ok(n)
}

fn to_result(error: i32) -> Result {
    if error < 0 {
        Err(Error::from_errno(error))
    } else {
        Ok(())
    }
}
