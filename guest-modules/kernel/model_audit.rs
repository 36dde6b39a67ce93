// SPDX-License-Identifier: GPL-2.0

//! What must hold when a program has ended and its shrinkers are still there: only the agent runs, and kernel threads.
//!
//! The light audit looks; the deep one has drop_caches run three times while callbacks behave as is needed here, and reads
//! the count files, which shows every memcg to the callbacks. Steps are those of `layout::model::step`, in that order.
//!
//! Deferred work and lists are known per shrinker, memcg and node; memcgs are told apart by inode, in a table filled as
//! callbacks meet them. What kernel threads may have touched is not judged.

use crate::cache::Cache;
use crate::clock;
use crate::compat;
use crate::layout::model::{lost, step, Audit, ENTRY_BYTES, NODES};
use crate::layout::N_SLOTS;
#[cfg(CONFIG_SHRINKER_DEBUG)]
use crate::model::fits_entry;
use crate::model::{ledger, Call, Caller};
use crate::model_rules::{broken, Rule};
use crate::shrinker::{
    CountObjects, Flags, Methods, ScanObjects, ShrinkControl, Shrinker, UnregisteredShrinker,
};
use crate::slots;
use crate::{preempt, trigger};
use core::sync::atomic::fence;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicU8, AtomicUsize, Ordering::*};
use kernel::bindings;
use kernel::prelude::*;

/// Memcgs told apart: 16 of them on 4 nodes make 64 bits.
const N_GROUPS: usize = 16;
const _: () = assert!(N_GROUPS * NODES == 64);
/// A shrinker that frees in less than so many times what allocating and registering takes does not wait.
const FREE_TO_REGISTER: u64 = 4;
/// Shrinkers that are timed.
const N_TIMED: usize = 5;

/// How callbacks behave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    /// As the program said.
    Nothing,
    /// Count honestly, scan nothing.
    Stop,
    /// Count and scan honestly.
    Honest,
}

/// [`step::STOP`] or [`step::HONEST`] while that lasts, 0 otherwise.
static FORCED: AtomicU32 = AtomicU32::new(0);
/// The task that audits.
static TASK: AtomicUsize = AtomicUsize::new(0);
/// Slots, a bit each, whose shrinker somebody else called during the deep audit, or the auditing task in reclaim: nothing
/// is claimed of them.
static DISTURBED: AtomicU32 = AtomicU32::new(0);
const _: () = assert!(N_SLOTS <= 32);
/// Inodes of the memcgs met; 0: free.
static GROUPS: [AtomicU64; N_GROUPS] = [const { AtomicU64::new(0) }; N_GROUPS];

/// What is known of a slot's shrinker, by memcg and node.
struct Known {
    /// Times in a row that the audit's drop_caches got `SHRINK_EMPTY`.
    n_empty: [AtomicU8; 64],
    /// What it got at last that was not nothing; 0: nothing or no longer of interest.
    freeable: [AtomicUsize; 64],
    /// Lists with objects when the count file was read last.
    listed: AtomicU64,
    /// Lists with objects both times.
    listed_twice: AtomicU64,
    /// Called by drop_caches.
    called: AtomicU64,
}

static KNOWN: [Known; N_SLOTS] = [const {
    Known {
        n_empty: [const { AtomicU8::new(0) }; 64],
        freeable: [const { AtomicUsize::new(0) }; 64],
        listed: AtomicU64::new(0),
        listed_twice: AtomicU64::new(0),
        called: AtomicU64::new(0),
    }
}; N_SLOTS];

/// How callbacks behave now.
pub(crate) fn forced() -> Force {
    match FORCED.load(Relaxed) {
        0 => Force::Nothing,
        step::STOP => Force::Stop,
        _ => Force::Honest,
    }
}

/// Executes one step.
pub(crate) fn execute(audit: &mut Audit) -> Result {
    match audit.step {
        step::CHECK => check(audit),
        step::ENTRY => entry(audit)?,
        step::STOP => begin(),
        step::HONEST => honest(),
        step::LISTS => lists(),
        step::END => FORCED.store(0, Relaxed),
        step::PROBE => probe(audit.flag != 0, audit.slot)?,
        _ => return Err(EINVAL),
    }
    Ok(())
}

/// Looks at every registered shrinker: its name, its deferred work.
fn check(audit: &mut Audit) {
    // The program has ended: what it has armed and did not need would only disturb.
    trigger::cancel();
    preempt::cancel();
    for slot_idx in 0..N_SLOTS {
        let ledger = ledger(slot_idx);
        let _ = slots::with_registered(slot_idx, |shrinker| {
            let bit = 1 << slot_idx;
            audit.registered |= bit;
            if ledger.memcg_aware() {
                audit.memcg_aware |= bit;
            } else {
                check_deferred(slot_idx, shrinker);
            }
            // SAFETY: the slot is owned.
            unsafe { check_name(slot_idx, shrinker) };
            if ledger.entry_expected.load(Relaxed) && fits_entry(ledger.name().to_bytes()) {
                audit.with_entry |= bit;
            }
        });
    }
}

/// A shrinker has the name it was given last.
///
/// # Safety
///
/// The shrinker is the slot's, and nobody renames or frees it meanwhile.
pub(crate) unsafe fn check_name(slot_idx: usize, shrinker: *const bindings::shrinker) {
    #[cfg(CONFIG_SHRINKER_DEBUG)]
    {
        let wanted = ledger(slot_idx).name();
        // SAFETY: the caller's promise; the name is a string.
        let name = unsafe { core::ffi::CStr::from_ptr((*shrinker).name.cast()) };
        if !wanted.is_empty() && wanted != name {
            let (name, wanted) = (name.to_str().unwrap_or("?"), wanted.to_str().unwrap_or("?"));
            broken(Rule::Name, slot_idx, format_args!("{name} and not {wanted}"));
        }
    }
    #[cfg(not(CONFIG_SHRINKER_DEBUG))]
    let _ = (slot_idx, shrinker);
}

/// Passes take the deferred work and put back twice what they counted at most; so many tasks can have put something back
/// since the last that took it.
fn check_deferred(slot_idx: usize, shrinker: &bindings::shrinker) {
    let ledger = ledger(slot_idx);
    for nid in 0..if ledger.numa_aware() { NODES } else { 1 } {
        if !compat::node_possible(nid) {
            continue;
        }
        // SAFETY: the slot is owned, the node is possible, and the shrinker is not memcg-aware.
        let deferred = unsafe { compat::nr_deferred(shrinker, nid, core::ptr::null_mut()) };
        let deferred = deferred.unwrap_or(0);
        // After that: who puts something back has counted before, kswapd now and here, too.
        fence(SeqCst);
        let (freeable, n) = (ledger.freeable_max.load(Relaxed), ledger.n_callers());
        if ledger.overflow.load(Relaxed) || ledger.may_overflow() {
            return;
        }
        let max = (2 * freeable * n) as i64;
        if !(0..=max).contains(&deferred) {
            let detail = format_args!("{deferred} on node {nid}, {freeable} counted at most, by {n} tasks");
            broken(Rule::DeferredHigh, slot_idx, detail);
        }
    }
}

/// The name of a slot's debugfs folder. Refused with `ENOENT` when the shrinker has none.
fn entry(audit: &mut Audit) -> Result {
    let slot_idx = audit.slot as usize;
    if slot_idx >= N_SLOTS {
        return Err(EINVAL);
    }
    let has_entry = slots::with_registered(slot_idx, |shrinker| {
        audit.flag = u32::from(shrinker.scan_objects.is_some());
        audit.entry = [0; ENTRY_BYTES];
        #[cfg(CONFIG_SHRINKER_DEBUG)]
        {
            let name = ledger(slot_idx).name().to_bytes();
            let mut digits = [0; 12];
            let mut at = digits.len();
            let mut id = shrinker.debugfs_id.unsigned_abs();
            loop {
                at -= 1;
                digits[at] = b'0' + (id % 10) as u8;
                id /= 10;
                if id == 0 {
                    break;
                }
            }
            let mut n = 0;
            for part in [name, b"-", &digits[at..]] {
                for (to, from) in audit.entry[n..ENTRY_BYTES - 1].iter_mut().zip(part) {
                    *to = *from;
                    n += 1;
                }
            }
            return !shrinker.debugfs_entry.is_null();
        }
        #[cfg(not(CONFIG_SHRINKER_DEBUG))]
        false
    })?;
    if has_entry { Ok(()) } else { Err(ENOENT) }
}

/// The deep audit begins.
fn begin() {
    for group in &GROUPS {
        group.store(0, Relaxed);
    }
    for known in &KNOWN {
        known.n_empty.iter().for_each(|n| n.store(0, Relaxed));
        known.freeable.iter().for_each(|n| n.store(0, Relaxed));
        known.listed.store(0, Relaxed);
        known.listed_twice.store(0, Relaxed);
        known.called.store(0, Relaxed);
    }
    TASK.store(this_task(), Relaxed);
    DISTURBED.store(0, Relaxed);
    FORCED.store(step::STOP, SeqCst);
    for slot_idx in (0..N_SLOTS).filter(|slot_idx| ledger(*slot_idx).in_flight.load(SeqCst) != 0) {
        DISTURBED.fetch_or(1 << slot_idx, Relaxed);
    }
}

fn this_task() -> usize {
    // SAFETY: always there; only the address is used.
    unsafe { bindings::get_current() as usize }
}

/// Whether others may have a hand in what the slot's shrinker has deferred and answered: kernel threads reclaim at any
/// time.
fn is_disturbed(slot_idx: usize) -> bool {
    DISTURBED.load(Relaxed) >> slot_idx & 1 != 0 || ledger(slot_idx).kthread_seen.load(Relaxed)
}

/// drop_caches ran while nothing could be scanned.
fn honest() {
    for (slot_idx, known) in KNOWN.iter().enumerate() {
        let _ = slots::with_registered(slot_idx, |shrinker| {
            // Memcg-aware ones are looked at when they are called for the memcg.
            if !ledger(slot_idx).memcg_aware() {
                for nid in (0..NODES).filter(|nid| compat::node_possible(*nid)) {
                    judge_deferred(slot_idx, shrinker, known, 0, nid, core::ptr::null_mut());
                }
            }
        });
        known.called.store(0, Relaxed);
    }
    FORCED.store(step::HONEST, Relaxed);
}

/// What a pass that scanned nothing leaves: what it meant to scan, within twice what it counted. It had taken what was
/// deferred before, and nobody else shrinks.
fn judge_deferred(
    slot_idx: usize,
    shrinker: *const bindings::shrinker,
    known: &Known,
    group_idx: usize,
    nid: usize,
    memcg: *mut bindings::mem_cgroup,
) {
    let freeable = known.freeable[group_idx * NODES + nid].swap(0, Relaxed);
    let ledger = ledger(slot_idx);
    if freeable == 0 {
        return;
    }
    // SAFETY: the shrinker is that of an owned slot or of a running callback, the node is possible, the memcg is null or
    // that of the callback; programs have ended, so nobody allocates shrinkers.
    let Some(deferred) = (unsafe { compat::nr_deferred(shrinker, nid, memcg) }) else { return };
    // After that: whoever takes or adds has been seen before.
    fence(SeqCst);
    if ledger.may_overflow() || is_disturbed(slot_idx) {
        return;
    }
    // Work of removed groups moves to their parent some time after.
    // SAFETY: as above.
    let may_grow = !memcg.is_null() && unsafe { compat::memcg_has_children(memcg) };
    if deferred < ledger.target(freeable) as i64 {
        let detail = format_args!("{deferred} on node {nid} after {freeable} were counted");
        broken(Rule::DeferredLost, slot_idx, detail);
    } else if deferred > 2 * freeable as i64 && !may_grow {
        let detail = format_args!("{deferred} on node {nid} after {freeable} were counted");
        broken(Rule::DeferredHigh, slot_idx, detail);
    }
}

fn group_idx(ino: u64) -> Option<usize> {
    let is_it = |group: &AtomicU64| {
        let have = group.load(Relaxed);
        have == ino || have == 0 && group.compare_exchange(0, ino, Relaxed, Relaxed).is_ok()
    };
    GROUPS.iter().position(is_it)
}

/// The slot's shrinker counted, for the audit or anybody else.
pub(crate) fn counted(call: &Call, n: usize, is_empty: bool) {
    if FORCED.load(Relaxed) == 0 || call.nid >= NODES || call.caller != Caller::DropSlab {
        return;
    }
    if TASK.load(Relaxed) != this_task() {
        return;
    }
    // SAFETY: the memcg of a running callback is null or valid.
    let ino = unsafe { compat::memcg_ino(call.memcg) };
    let known = &KNOWN[call.slot_idx];
    let group_idx = match group_idx(ino) {
        _ if !call.ledger.memcg_aware() => 0,
        Some(group_idx) => group_idx,
        None => return,
    };
    // Deferred work is kept for node 0 unless nodes are told apart (xchg_nr_deferred()).
    let kept_nid = if call.ledger.numa_aware() { call.nid } else { 0 };
    if forced() == Force::Stop && n != 0 {
        known.freeable[group_idx * NODES + kept_nid].store(n, Relaxed);
    }
    if !call.ledger.memcg_aware() {
        return;
    }
    let at = group_idx * NODES + call.nid;
    known.called.fetch_or(1 << at, Relaxed);
    // The root group is shrunk whatever its bits say; a parent's bit is set when a removed child's lists move to it.
    // SAFETY: memcg-aware shrinkers are called with one; if not, that was reported, and there is nothing to look at.
    if call.memcg.is_null()
        || unsafe { compat::memcg_is_root(call.memcg) || compat::memcg_has_children(call.memcg) }
    {
        return;
    }
    let n_empty = known.n_empty[at].load(Relaxed);
    if n_empty >= 2 && !is_disturbed(call.slot_idx) {
        broken(Rule::CalledEmpty, call.slot_idx, format_args!("node {}, memcg {ino}", call.nid));
    }
    known.n_empty[at].store(if is_empty { n_empty.saturating_add(1) } else { 0 }, Relaxed);
}

/// A callback begins to count: deferred work of memcg-aware shrinkers is looked at before reclaim takes it.
pub(crate) fn counting(call: &Call, shrinker: *const bindings::shrinker, cache: &Cache) {
    if FORCED.load(Relaxed) == 0 {
        return;
    }
    let is_ours = TASK.load(Relaxed) == this_task();
    if !is_ours || !matches!(call.caller, Caller::DropSlab | Caller::Debugfs) {
        DISTURBED.fetch_or(1 << call.slot_idx, Relaxed);
        return;
    }
    if call.nid >= NODES || call.memcg.is_null() {
        return;
    }
    if !call.ledger.memcg_aware() {
        return;
    }
    // SAFETY: the memcg of a running callback is valid.
    let Some(group_idx) = group_idx(unsafe { compat::memcg_ino(call.memcg) }) else { return };
    let known = &KNOWN[call.slot_idx];
    match call.caller {
        Caller::DropSlab if forced() == Force::Honest => {
            let nid = if call.ledger.numa_aware() { call.nid } else { 0 };
            judge_deferred(call.slot_idx, shrinker, known, group_idx, nid, call.memcg);
        }
        // SAFETY: as above.
        Caller::Debugfs if call.nid == 0 && !unsafe { compat::memcg_is_root(call.memcg) } => {
            note_lists(call, known, group_idx, cache);
        }
        _ => {}
    }
}

/// The count file shows a memcg: which lists hold something?
fn note_lists(call: &Call, known: &Known, group_idx: usize, cache: &Cache) {
    // Without kernel memory accounting groups have no lists of their own.
    // SAFETY: the memcg of a running callback.
    if unsafe { compat::memcg_has_children(call.memcg) || compat::memcg_kmem_id(call.memcg) < 0 }
        || !cache.lru.is_memcg_aware()
        || cache.lru.has_early_items()
    {
        return;
    }
    for nid in (0..NODES).filter(|nid| compat::node_online(*nid)) {
        // SAFETY: the memcg is that of a running callback, the node exists.
        if unsafe { cache.lru.shrink_count(nid, call.memcg) } == 0 {
            continue;
        }
        let bit = 1 << (group_idx * NODES + nid);
        if known.listed.fetch_or(bit, Relaxed) & bit != 0 {
            known.listed_twice.fetch_or(bit, Relaxed);
        }
    }
}

/// drop_caches ran, and the count files were read before and after.
fn lists() {
    for (slot_idx, known) in KNOWN.iter().enumerate() {
        let ledger = ledger(slot_idx);
        let missed = known.listed_twice.load(Relaxed) & !known.called.load(Relaxed);
        let excused = ledger.lied_empty.load(Relaxed) || is_disturbed(slot_idx);
        if missed == 0 || excused || !ledger.registered.load(Relaxed) {
            continue;
        }
        let at = missed.trailing_zeros() as usize;
        let ino = GROUPS[at / NODES].load(Relaxed);
        broken(Rule::ListNotCalled, slot_idx, format_args!("node {}, memcg {ino}", at % NODES));
    }
}

/// Lowest free ids of a fresh guest: of memcg-aware shrinkers, and in debugfs.
static FRESH_IDS: [AtomicI32; 2] = [const { AtomicI32::new(i32::MAX) }; 2];

/// A shrinker with nothing to shrink.
struct Probe;

impl Shrinker for Probe {
    fn count_objects(&self, _sc: &ShrinkControl<'_>) -> CountObjects {
        CountObjects::EMPTY
    }

    fn scan_objects(&self, _sc: &mut ShrinkControl<'_>) -> ScanObjects {
        ScanObjects::STOP
    }
}

/// Two lives of a shrinker, one after the other: the second takes the ids of the first unless a lower one came free. And
/// freeing it takes no longer than registering, if it waits for nothing. `about_lost` is one of [`lost`].
fn probe(counts_instructions: bool, about_lost: u32) -> Result {
    let mut last: Option<(i32, i32)> = None;
    let (mut registering_ns, mut freeing_ns) = (u64::MAX, u64::MAX);
    for _ in 0..N_TIMED {
        let begin_ns = clock::now_ns();
        let shrinker = UnregisteredShrinker::alloc(Flags::MEMCG_AWARE, c"shrinktorture-probe")?;
        let raw = shrinker.as_ptr();
        let registered = shrinker.register(KBox::new(Probe, GFP_KERNEL)?, Methods::CountAndScan);
        // SAFETY: alive until `registered` is dropped; the fields do not change meanwhile.
        let Some(ids) = (unsafe { ids(&*raw) }) else { return Ok(()) };
        let registered_ns = clock::now_ns();
        drop(registered);
        freeing_ns = freeing_ns.min(clock::now_ns() - registered_ns);
        registering_ns = registering_ns.min(registered_ns - begin_ns);
        if let Some(last) = last.replace(ids) {
            if ids.0 > last.0 || ids.1 > last.1 {
                let detail =
                    format_args!("{} after {}, in debugfs {} after {}", ids.0, last.0, ids.1, last.1);
                broken(Rule::Ids, 0, detail);
                return Ok(());
            }
        }
    }
    if let Some(ids) = last {
        compare_ids(ids, about_lost);
    }
    // On another clock than the guest's own the host may take the CPU away.
    let max_ns = FREE_TO_REGISTER * registering_ns + compat::jiffy_ns();
    if counts_instructions && freeing_ns > max_ns {
        broken(Rule::FreeWaits, 0, format_args!("{freeing_ns} ns, registering {registering_ns} ns"));
    }
    Ok(())
}

/// No program has a shrinker, so the lowest free ids are those of a fresh guest, unless the kernel took ids for itself.
fn compare_ids(ids: (i32, i32), about_lost: u32) {
    let [memcg_aware, debugfs] = &FRESH_IDS;
    match about_lost {
        lost::FRESH => {
            memcg_aware.store(ids.0, Relaxed);
            debugfs.store(ids.1, Relaxed);
        }
        lost::JUDGE => {
            let fresh = (memcg_aware.load(Relaxed), debugfs.load(Relaxed));
            if ids.0 > fresh.0 || ids.1 > fresh.1 {
                let detail =
                    format_args!("{} after {}, in debugfs {} after {}", ids.0, fresh.0, ids.1, fresh.1);
                broken(Rule::IdsLost, 0, detail);
            }
        }
        _ => {}
    }
}

/// Id of a memcg-aware shrinker, and its number in debugfs; `None` if it did not get both.
fn ids(shrinker: &bindings::shrinker) -> Option<(i32, i32)> {
    if shrinker.flags & compat::SHRINKER_MEMCG_AWARE == 0 {
        return None;
    }
    #[cfg(CONFIG_SHRINKER_DEBUG)]
    return (!shrinker.debugfs_entry.is_null()).then_some((shrinker.id, shrinker.debugfs_id));
    #[cfg(not(CONFIG_SHRINKER_DEBUG))]
    Some((shrinker.id, 0))
}
