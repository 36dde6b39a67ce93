// SPDX-License-Identifier: GPL-2.0

//! What the shrinker contract promises, checked in the callbacks while programs run.
//!
//! | file | checks |
//! |---|---|
//! | `model_rules.rs` | nothing: the rules, their titles and sources; reports |
//! | `model.rs` | each call of a callback, and the calls of one task one after the other |
//! | `model_watch.rs` | what one system call promises: drop_caches, the debugfs files |
//! | `model_audit.rs` | what must hold when no program runs |
//!
//! Rules come from the comments in include/linux/shrinker.h and mm/shrinker.c; each names its source. They judge only
//! what good kernels promise whatever else goes on: where a callback cannot tell who calls it, or a table is full, or the
//! shrinker lied, nothing is claimed.
//!
//! # Who calls
//!
//! Every reclaim of memory sets `current->reclaim_state` (mm/vmscan.c); drop_caches and the debugfs files do not. So a
//! callback knows whether it serves reclaim, also when that is nested in one of the others; the task's watch tells those
//! apart.
//!
//! # Sharing
//!
//! One [`Ledger`] for each slot, static, so that a callback that comes too late finds it. Its fields are written by the
//! slot's owner while nobody calls (see `slots.rs`), or are atomic. A [`Pass`] is used by one task only. Nothing waits.

use crate::compat;
use crate::layout::{model::ENTRY_BYTES, situation::Answer, N_SLOTS};
use crate::model_audit as audit;
use crate::model_rules::{self, broken, Rule};
use crate::model_watch as watch;
use crate::shrinker::ShrinkControl;
use crate::situations;
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::fmt::Arguments;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering::*};
use kernel::bindings;

/// Objects of a scan when the shrinker names no batch (`SHRINK_BATCH`, mm/shrinker.c).
const SHRINK_BATCH: usize = 128;
/// Tasks that are told apart per shrinker; more are not judged.
const N_PASSES: usize = 12;
/// Counts above this may overflow the arithmetic of reclaim, harmlessly.
const JUDGED_MAX: usize = 1 << 32;
/// Room for a name.
pub(crate) const NAME_BYTES: usize = 192;

/// Some memcg-aware shrinker counted more than is judged. Their deferred work is kept by id, and ids are used again.
static HUGE_SEEN: AtomicBool = AtomicBool::new(false);

/// What is known of a slot's shrinker.
pub(crate) struct Ledger {
    /// Which life of the slot; 0: none yet.
    pub(crate) generation: AtomicU32,
    /// Registered, and nobody has begun to free it.
    pub(crate) registered: AtomicBool,
    /// From `shrinker_register()` on reclaim may call, until `shrinker_free()` returned.
    callable: AtomicBool,
    /// `flags` of the shrinker once it was allocated: what was asked for may have been taken back.
    flags: AtomicU32,
    seeks: AtomicU32,
    batch: AtomicUsize,
    /// Callbacks that run now.
    pub(crate) in_flight: AtomicU32,
    /// Largest count that was returned.
    pub(crate) freeable_max: AtomicUsize,
    /// `SHRINK_EMPTY` was returned whatever was there.
    pub(crate) lied_empty: AtomicBool,
    /// Called by a task that is neither a program's nor the agent: kswapd.
    pub(crate) kthread_seen: AtomicBool,
    /// Its debugfs folder must exist: no allocation failed on purpose or for lack of the memcg's memory.
    pub(crate) entry_expected: AtomicBool,
    /// More tasks called than there are passes, or some that nothing is known of.
    pub(crate) overflow: AtomicBool,
    passes: [Pass; N_PASSES],
    name: UnsafeCell<[u8; NAME_BYTES]>,
}

// SAFETY: `name` is touched by the slot's owner only; the rest is atomic.
unsafe impl Sync for Ledger {}

/// The calls of one task for one shrinker, from a count to the next. Used by that task alone.
pub(crate) struct Pass {
    /// The task; the lowest bit set for what it does in reclaim.
    key: AtomicUsize,
    nid: AtomicUsize,
    memcg: AtomicPtr<bindings::mem_cgroup>,
    /// What was counted; 0: nothing, or "cannot tell".
    freeable: AtomicUsize,
    scanned: AtomicUsize,
    stopped: AtomicBool,
    /// Counted by drop_caches with enough to scan, and not scanned yet.
    owes_scan: AtomicBool,
}

static LEDGERS: [Ledger; N_SLOTS] = [const { Ledger::new() }; N_SLOTS];

/// The ledger of a slot.
pub(crate) fn ledger(slot_idx: usize) -> &'static Ledger {
    &LEDGERS[slot_idx % N_SLOTS]
}

impl Ledger {
    const fn new() -> Self {
        const PASS: Pass = Pass {
            key: AtomicUsize::new(0),
            nid: AtomicUsize::new(0),
            memcg: AtomicPtr::new(ptr::null_mut()),
            freeable: AtomicUsize::new(0),
            scanned: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            owes_scan: AtomicBool::new(false),
        };
        Ledger {
            generation: AtomicU32::new(0),
            registered: AtomicBool::new(false),
            callable: AtomicBool::new(false),
            flags: AtomicU32::new(0),
            seeks: AtomicU32::new(0),
            batch: AtomicUsize::new(0),
            in_flight: AtomicU32::new(0),
            freeable_max: AtomicUsize::new(0),
            lied_empty: AtomicBool::new(false),
            kthread_seen: AtomicBool::new(false),
            entry_expected: AtomicBool::new(false),
            overflow: AtomicBool::new(false),
            passes: [PASS; N_PASSES],
            name: UnsafeCell::new([0; NAME_BYTES]),
        }
    }

    /// The slot got a new shrinker. Called by the slot's owner before it is registered.
    pub(crate) fn begin(&self, name: &CStr) {
        self.generation.fetch_add(1, Relaxed);
        for flag in [&self.lied_empty, &self.kthread_seen, &self.overflow] {
            flag.store(false, Relaxed);
        }
        self.freeable_max.store(0, Relaxed);
        for pass in &self.passes {
            pass.owes_scan.store(false, Relaxed);
            pass.freeable.store(0, Relaxed);
            pass.key.store(0, Relaxed);
        }
        self.named(name);
    }

    /// The shrinker has a new name. Called by the slot's owner.
    pub(crate) fn named(&self, name: &CStr) {
        // SAFETY: the owner is alone with it.
        let to = unsafe { &mut *self.name.get() };
        let bytes = name.to_bytes();
        let n = bytes.len().min(NAME_BYTES - 1);
        to[..n].copy_from_slice(&bytes[..n]);
        to[n..].fill(0);
    }

    /// The shrinker has a new name; none: renaming failed. Called by the slot's owner.
    pub(crate) fn renamed(&self, name: Option<&CStr>, allocations_succeed: bool) {
        if name.is_none() && compat::FAILED_RENAME_KEEPS_NAME {
            return;
        }
        self.named(name.unwrap_or(c""));
        self.entry_expected.fetch_and(name.is_some() && allocations_succeed, Relaxed);
    }

    /// The name the shrinker was given; empty when that is not known. Called by the slot's owner.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: the owner is alone with it.
        CStr::from_bytes_until_nul(unsafe { &*self.name.get() }).unwrap_or(c"")
    }

    /// `shrinker_register()` is about to be called; small allocations succeed, or may fail.
    pub(crate) fn registering(&self, shrinker: &bindings::shrinker, allocations_succeed: bool) {
        self.flags.store(shrinker.flags, Relaxed);
        self.seeks.store(shrinker.seeks as u32, Relaxed);
        self.batch.store(shrinker.batch as usize, Relaxed);
        let has_entry = fits_entry(self.name().to_bytes());
        self.entry_expected.store(allocations_succeed && has_entry, Relaxed);
        self.callable.store(true, Release);
    }

    /// `shrinker_register()` has returned; small allocations still succeed, or may have failed meanwhile.
    pub(crate) fn registered(&self, allocations_succeed: bool) {
        self.entry_expected.fetch_and(allocations_succeed, Relaxed);
        self.registered.store(true, Release);
    }

    /// `shrinker_free()` has returned.
    pub(crate) fn freed(&self, slot_idx: usize) {
        self.callable.store(false, Release);
        let n = self.in_flight.load(Acquire);
        if n != 0 {
            broken(Rule::InFlight, slot_idx, format_args!("{n} still run"));
        }
    }

    /// Whether the shrinker tells memcgs apart.
    pub(crate) fn memcg_aware(&self) -> bool {
        self.flags.load(Relaxed) & compat::SHRINKER_MEMCG_AWARE != 0
    }

    /// Kind of shrinker, as `situation::Call::kind` has it.
    pub(crate) fn kind(&self) -> u32 {
        let flags = self.flags.load(Relaxed);
        let bit = |flag, bit: u32| u32::from(flags & flag != 0) << bit;
        bit(compat::SHRINKER_NUMA_AWARE, 0)
            | bit(compat::SHRINKER_MEMCG_AWARE, 1)
            | bit(compat::SHRINKER_NONSLAB, 2)
    }

    /// Whether the shrinker tells nodes apart.
    pub(crate) fn numa_aware(&self) -> bool {
        self.flags.load(Relaxed) & compat::SHRINKER_NUMA_AWARE != 0
    }

    /// What one pass at priority 0 means to scan of so many objects, deferred work apart (do_shrink_slab()).
    pub(crate) fn target(&self, freeable: usize) -> usize {
        match self.seeks.load(Relaxed) as usize {
            0 => freeable / 2,
            seeks => (freeable * 4 / seeks).min(2 * freeable),
        }
    }

    /// Whether deferred work may have overflown: counts were enormous.
    pub(crate) fn may_overflow(&self) -> bool {
        let by_id = self.memcg_aware() && HUGE_SEEN.load(Relaxed);
        by_id || self.freeable_max.load(Relaxed) >= JUDGED_MAX
    }

    /// Tasks that called.
    pub(crate) fn n_callers(&self) -> usize {
        self.passes.iter().filter(|pass| pass.key.load(Relaxed) != 0).count()
    }

    fn pass(&self, key: usize) -> Option<&Pass> {
        if let Some(pass) = self.passes.iter().find(|pass| pass.key.load(Relaxed) == key) {
            return Some(pass);
        }
        let claim = |pass: &&Pass| pass.key.compare_exchange(0, key, Relaxed, Relaxed).is_ok();
        let pass = self.passes.iter().find(claim);
        if pass.is_none() {
            self.overflow.store(true, Relaxed);
        }
        pass
    }

    /// The calls of one drop_caches are over: was everything scanned?
    pub(crate) fn end_pass(&self, slot_idx: usize) {
        let key = task_key();
        if let Some(pass) = self.passes.iter().find(|pass| pass.key.load(Relaxed) == key) {
            self.settle(pass, slot_idx);
        }
    }

    fn settle(&self, pass: &Pass, slot_idx: usize) {
        if pass.owes_scan.swap(false, Relaxed) {
            let (n, nid) = (pass.freeable.load(Relaxed), pass.nid.load(Relaxed));
            broken(Rule::NotScanned, slot_idx, format_args!("{n} objects on node {nid}"));
        }
    }
}

/// Whether debugfs has a folder of that name: it refuses slashes, and what is too long is cut.
pub(crate) fn fits_entry(name: &[u8]) -> bool {
    const ID_BYTES: usize = 12;
    !name.is_empty() && name.len() + ID_BYTES < ENTRY_BYTES && !name.contains(&b'/')
}

fn task_key() -> usize {
    // SAFETY: always there; only the address is used.
    unsafe { bindings::get_current() as usize }
}

/// Who calls a callback.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Reclaim of memory.
    Reclaim,
    /// drop_caches, of the task whose watch it is.
    DropSlab,
    /// A debugfs file, of the task whose watch it is.
    Debugfs,
    /// A task without a watch.
    Unknown,
}

/// A callback that runs.
pub(crate) struct Call {
    /// The slot's ledger.
    pub(crate) ledger: &'static Ledger,
    /// The slot.
    pub(crate) slot_idx: usize,
    /// Who calls.
    pub(crate) caller: Caller,
    /// The task's watch.
    pub(crate) watch: Option<&'static watch::Watch>,
    /// Node.
    pub(crate) nid: usize,
    /// Memcg.
    pub(crate) memcg: *mut bindings::mem_cgroup,
    nr_to_scan: usize,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.ledger.in_flight.fetch_sub(1, Release);
    }
}

impl Call {
    /// A callback begins.
    pub(crate) fn begin(slot_idx: usize, sc: &ShrinkControl<'_>) -> Call {
        let ledger = ledger(slot_idx);
        ledger.in_flight.fetch_add(1, AcqRel);
        let watch = watch::current();
        let caller = match (compat::in_reclaim(), watch) {
            (true, _) => Caller::Reclaim,
            (false, None) => Caller::Unknown,
            (false, Some(watch)) => watch.caller(),
        };
        if compat::is_kthread() {
            ledger.kthread_seen.store(true, Relaxed);
        }
        let (nid, memcg) = (sc.nid(), sc.memcg());
        let call = Call { ledger, slot_idx, caller, watch, nid, memcg, nr_to_scan: sc.nr_to_scan() };
        call.check_begin(sc);
        call
    }

    fn broken(&self, rule: Rule, detail: Arguments<'_>) {
        broken(rule, self.slot_idx, detail);
    }

    fn check_begin(&self, sc: &ShrinkControl<'_>) {
        if !self.ledger.callable.load(Acquire) {
            self.broken(Rule::AfterFree, format_args!("node {}", self.nid));
        }
        if !compat::node_online(self.nid) && !compat::node_possible(self.nid) {
            self.broken(Rule::Node, format_args!("node {}", self.nid));
        }
        let is_root = self.memcg_is_root();
        if self.ledger.memcg_aware() {
            if self.memcg.is_null() {
                self.broken(Rule::NoMemcg, format_args!("node {}", self.nid));
            }
        } else if !self.memcg.is_null() && !is_root {
            self.broken(Rule::ForeignMemcg, format_args!("node {}", self.nid));
        }
        let asks_kernel = matches!(self.caller, Caller::DropSlab | Caller::Debugfs);
        if asks_kernel && sc.gfp_mask() != compat::GFP_KERNEL {
            self.broken(Rule::GfpMask, format_args!("{:#x}", sc.gfp_mask()));
        }
    }

    /// Whether this is for the root group, which stands for the whole machine.
    pub(crate) fn memcg_is_root(&self) -> bool {
        // SAFETY: the memcg of a running callback is null or valid.
        unsafe { compat::memcg_is_root(self.memcg) }
    }

    fn key(&self) -> usize {
        task_key() | usize::from(self.caller == Caller::Reclaim)
    }

    /// Whether reclaim or drop_caches calls: count, then scans.
    fn shrinks(&self) -> bool {
        matches!(self.caller, Caller::Reclaim | Caller::DropSlab)
    }

    /// `count_objects` ends: what it returns, as reclaim reads it (`SHRINK_EMPTY` is 0 here); whether that was
    /// `SHRINK_EMPTY`; whether there is a `scan_objects`.
    pub(crate) fn counted(&self, n: usize, is_empty: bool, scans: bool) {
        self.ledger.freeable_max.fetch_max(n, Relaxed);
        if n >= JUDGED_MAX && self.ledger.memcg_aware() {
            HUGE_SEEN.store(true, Relaxed);
        }
        if let Some(watch) = self.watch {
            watch.counted(self, n);
        }
        audit::counted(self, n, is_empty);
        let answer = match n {
            _ if is_empty => Answer::Empty,
            0 => Answer::Zero,
            _ => Answer::Some,
        };
        situations::answered(self, answer, false);
        if self.caller == Caller::Unknown {
            // Might be reclaim that is not known of.
            self.ledger.overflow.store(true, Relaxed);
        }
        if !self.shrinks() {
            return;
        }
        if let Some(pass) = self.ledger.pass(self.key()) {
            self.ledger.settle(pass, self.slot_idx);
            pass.nid.store(self.nid, Relaxed);
            pass.memcg.store(self.memcg, Relaxed);
            pass.freeable.store(n, Relaxed);
            pass.scanned.store(0, Relaxed);
            pass.stopped.store(false, Relaxed);
            let owes = self.caller == Caller::DropSlab && scans && n != 0 && !self.ledger.may_overflow();
            pass.owes_scan.store(owes && self.ledger.target(n) >= n, Relaxed);
        }
    }

    /// `scan_objects` begins.
    pub(crate) fn scanning(&self, sc: &ShrinkControl<'_>) {
        if let Some(watch) = self.watch {
            watch.scanning(self, self.nr_to_scan);
        }
        if sc.nr_scanned() != self.nr_to_scan {
            let detail = format_args!("{} for {}", sc.nr_scanned(), self.nr_to_scan);
            self.broken(Rule::NrScanned, detail);
        }
        if !self.shrinks() {
            return;
        }
        let batch = match self.ledger.batch.load(Relaxed) {
            0 => SHRINK_BATCH,
            batch => batch,
        };
        if !(1..=batch).contains(&self.nr_to_scan) {
            self.broken(Rule::NrToScan, format_args!("{} of {}", self.nr_to_scan, batch));
        }
        let Some(pass) = self.ledger.pass(self.key()) else { return };
        pass.owes_scan.store(false, Relaxed);
        if pass.stopped.load(Relaxed) {
            self.broken(Rule::AfterStop, format_args!("{} objects on node {}", self.nr_to_scan, self.nid));
        }
        let same = pass.nid.load(Relaxed) == self.nid && pass.memcg.load(Relaxed) == self.memcg;
        if !same || pass.freeable.load(Relaxed) == 0 {
            let detail =
                format_args!("node {}, {} counted for this", self.nid, if same { "0" } else { "nothing" });
            self.broken(Rule::NotCounted, detail);
        }
    }

    /// `scan_objects` ends: what it returns, `None` for `SHRINK_STOP`.
    pub(crate) fn scanned(&self, sc: &ShrinkControl<'_>, freed: Option<usize>) {
        if let Some(watch) = self.watch {
            watch.scanned(self, freed.unwrap_or(0));
        }
        let answer = match freed {
            None => Answer::Stop,
            Some(0) => Answer::Kept,
            Some(_) => Answer::Freed,
        };
        let pass = if self.shrinks() { self.ledger.pass(self.key()) } else { None };
        let again = pass.is_some_and(|pass| pass.scanned.load(Relaxed) != 0);
        situations::answered(self, answer, again);
        let Some(pass) = pass else { return };
        if freed.is_none() {
            pass.stopped.store(true, Relaxed);
            return;
        }
        let scanned = pass.scanned.load(Relaxed).saturating_add(sc.nr_scanned());
        pass.scanned.store(scanned, Relaxed);
        let freeable = pass.freeable.load(Relaxed);
        if scanned > freeable.saturating_mul(2) {
            self.broken(Rule::TwiceFreeable, format_args!("{scanned} of {freeable}"));
        }
    }
}

/// Slots are reset; reports may be repeated.
pub(crate) fn reset() {
    model_rules::reset();
    watch::reset();
}
