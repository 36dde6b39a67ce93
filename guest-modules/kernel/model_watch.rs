// SPDX-License-Identifier: GPL-2.0

//! What one system call of a program promises: a write to drop_caches, a read or write of a debugfs file.
//!
//! The agent opens a watch right before the call and closes it right after, in the calling task. Callbacks find the watch
//! by their task, note what they were asked and what they answered, and the end of the watch judges it.

use crate::compat;
use crate::layout::model::{watch as kind, Watch as Request, NODES};
use crate::layout::N_SLOTS;
use crate::model::{ledger, Call, Caller};
use crate::model_rules::{broken, Rule};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use kernel::bindings;

/// Tasks that watch at once: a program's threads and the agent.
const N_WATCHES: usize = 8;
/// Objects that other shrinkers of the machine may free in one write to drop_caches; a guest has not the memory for more.
const FOREIGN_MAX: u64 = 1 << 18;

/// The watch of one task. Used by that task alone, once it is claimed.
pub(crate) struct Watch {
    /// The task; 0: nobody.
    task: AtomicUsize,
    /// Its id: tasks die with their watch open, and addresses are used again.
    pid: AtomicI32,
    kind: AtomicU32,
    slot: AtomicUsize,
    nid: AtomicUsize,
    memcg: AtomicU64,
    n: AtomicUsize,
    /// Value of [`N_DROP_PAGES`] at the beginning.
    n_drop_pages: AtomicU32,
    /// Generation of each slot that held a registered shrinker at the beginning.
    generations: [AtomicU32; N_SLOTS],
    /// Nodes for which each slot was counted, in global passes.
    counted: [AtomicU64; N_SLOTS],
    /// Global passes that each slot has seen.
    n_passes: [AtomicU32; N_SLOTS],
    /// What our callbacks said was freed.
    freed: AtomicU64,
    /// Slot whose file it is: that of the first callback.
    file_slot: AtomicUsize,
    /// Whether that tells nodes apart. It may be gone when the watch ends.
    numa_aware: AtomicBool,
    /// Callbacks of more than one shrinker ran: nothing is claimed.
    mixed: AtomicBool,
    n_counts: [AtomicU32; NODES],
    columns: [AtomicU64; NODES],
    by_memcg: AtomicU64,
    n_scans: AtomicU32,
    /// Calls for a count file.
    n_calls: AtomicU32,
    /// Inode of a memcg that a scan was called for in place of the one asked for, or 0.
    other_memcg: AtomicU64,
}

/// No slot.
const NO_SLOT: usize = usize::MAX;

static WATCHES: [Watch; N_WATCHES] = [const {
    Watch {
        task: AtomicUsize::new(0),
        pid: AtomicI32::new(0),
        kind: AtomicU32::new(0),
        slot: AtomicUsize::new(0),
        nid: AtomicUsize::new(0),
        memcg: AtomicU64::new(0),
        n: AtomicUsize::new(0),
        n_drop_pages: AtomicU32::new(0),
        generations: [const { AtomicU32::new(0) }; N_SLOTS],
        counted: [const { AtomicU64::new(0) }; N_SLOTS],
        n_passes: [const { AtomicU32::new(0) }; N_SLOTS],
        freed: AtomicU64::new(0),
        file_slot: AtomicUsize::new(NO_SLOT),
        numa_aware: AtomicBool::new(false),
        mixed: AtomicBool::new(false),
        n_counts: [const { AtomicU32::new(0) }; NODES],
        columns: [const { AtomicU64::new(0) }; NODES],
        by_memcg: AtomicU64::new(0),
        n_scans: AtomicU32::new(0),
        n_calls: AtomicU32::new(0),
        other_memcg: AtomicU64::new(0),
    }
}; N_WATCHES];

/// Calls that it takes at least to fill a page of a count file: a line has an inode and a number a node, twenty digits each.
const CALLS_PER_PAGE_MIN: u32 = 90;

/// Writes to drop_caches that drop pages only, begun or ended. They store to the variable that another writer still reads,
/// which may keep that one from dropping slab (drop_caches_sysctl_handler(), fs/drop_caches.c).
static N_DROP_PAGES: AtomicU32 = AtomicU32::new(0);
/// Those that run now.
static DROP_PAGES_NOW: AtomicU32 = AtomicU32::new(0);

fn this_task() -> usize {
    // SAFETY: always there; only the address is used.
    unsafe { bindings::get_current() as usize }
}

fn this_pid() -> i32 {
    // SAFETY: always there; the field does not change.
    unsafe { (*bindings::get_current()).pid }
}

/// The calling task's watch.
pub(crate) fn current() -> Option<&'static Watch> {
    let task = this_task();
    let watch = WATCHES.iter().find(|watch| watch.task.load(Relaxed) == task)?;
    (watch.pid.load(Relaxed) == this_pid()).then_some(watch)
}

/// Forgets every watch; tasks may have died.
pub(crate) fn reset() {
    for watch in &WATCHES {
        watch.task.store(0, Relaxed);
    }
    DROP_PAGES_NOW.store(0, Relaxed);
}

/// Opens the calling task's watch.
pub(crate) fn begin(request: &Request) {
    let task = this_task();
    let claim = |watch: &&Watch| {
        let owner = watch.task.load(Relaxed);
        owner == task || watch.task.compare_exchange(0, task, Relaxed, Relaxed).is_ok()
    };
    if request.kind == kind::DROP_PAGES {
        DROP_PAGES_NOW.fetch_add(1, SeqCst);
        N_DROP_PAGES.fetch_add(1, SeqCst);
    }
    if let Some(watch) = WATCHES.iter().find(claim) {
        watch.start(request);
    }
}

/// Closes the calling task's watch and judges what it saw.
pub(crate) fn end(request: &Request) {
    if request.kind == kind::DROP_PAGES {
        N_DROP_PAGES.fetch_add(1, SeqCst);
        let _ = DROP_PAGES_NOW.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
    }
    let Some(watch) = current() else { return };
    if request.ok != 0 && request.kind == watch.kind.load(Relaxed) {
        match request.kind {
            kind::DROP_SLAB => watch.judge_drop_slab(),
            kind::DEBUGFS_COUNT => watch.judge_count(request),
            kind::DEBUGFS_SCAN => watch.judge_scan(request),
            _ => {}
        }
    }
    watch.task.store(0, Relaxed);
}

impl Watch {
    fn start(&self, request: &Request) {
        self.pid.store(this_pid(), Relaxed);
        self.kind.store(request.kind, Relaxed);
        self.slot.store(request.slot as usize, Relaxed);
        self.nid.store(request.nid as usize, Relaxed);
        self.memcg.store(request.memcg, Relaxed);
        self.n.store(request.n as usize, Relaxed);
        let overlaps = DROP_PAGES_NOW.load(SeqCst) != 0;
        // No later value equals this one.
        let n_drop_pages = N_DROP_PAGES.load(SeqCst).wrapping_sub(u32::from(overlaps));
        self.n_drop_pages.store(n_drop_pages, Relaxed);
        for slot_idx in 0..N_SLOTS {
            let ledger = ledger(slot_idx);
            let before = ledger.generation.load(Acquire);
            let is_registered = ledger.registered.load(Acquire);
            // The slot may have got another shrinker meanwhile, that is not registered yet.
            let is_this = is_registered && ledger.generation.load(Acquire) == before;
            self.generations[slot_idx].store(if is_this { before } else { 0 }, Relaxed);
            self.counted[slot_idx].store(0, Relaxed);
            self.n_passes[slot_idx].store(0, Relaxed);
        }
        self.freed.store(0, Relaxed);
        self.file_slot.store(NO_SLOT, Relaxed);
        self.mixed.store(false, Relaxed);
        for nid in 0..NODES {
            self.n_counts[nid].store(0, Relaxed);
            self.columns[nid].store(0, Relaxed);
        }
        self.by_memcg.store(0, Relaxed);
        self.n_scans.store(0, Relaxed);
        self.n_calls.store(0, Relaxed);
        self.other_memcg.store(0, Relaxed);
    }

    /// Who calls a callback outside of reclaim.
    pub(crate) fn caller(&self) -> Caller {
        match self.kind.load(Relaxed) {
            // Another writer may have made it drop slab, too.
            kind::DROP_SLAB | kind::DROP_PAGES => Caller::DropSlab,
            kind::DEBUGFS_COUNT | kind::DEBUGFS_SCAN | kind::DEBUGFS_OTHER => Caller::Debugfs,
            _ => Caller::Unknown,
        }
    }

    /// The slot's shrinker counted.
    pub(crate) fn counted(&self, call: &Call, n: usize) {
        match call.caller {
            Caller::DropSlab if call.memcg.is_null() || call.memcg_is_root() => self.counted_globally(call),
            Caller::Debugfs if self.kind.load(Relaxed) == kind::DEBUGFS_COUNT => {
                self.is_of_file(call);
                let Some(n_counts) = self.n_counts.get(call.nid) else {
                    self.mixed.store(true, Relaxed);
                    return;
                };
                let is_first = call.nid == 0 && (call.memcg.is_null() || call.memcg_is_root());
                // What did not fit is thrown away and asked for anew (seq_read_iter()).
                if self.n_calls.fetch_add(1, Relaxed) >= CALLS_PER_PAGE_MIN && is_first {
                    self.mixed.store(true, Relaxed);
                }
                n_counts.fetch_add(1, Relaxed);
                self.columns[call.nid].fetch_add(n as u64, Relaxed);
                // SAFETY: the memcg of a running callback is null or valid.
                let memcg = unsafe { compat::memcg_ino(call.memcg) };
                self.by_memcg.fetch_add(memcg.wrapping_mul(n as u64), Relaxed);
            }
            _ => {}
        }
    }

    fn counted_globally(&self, call: &Call) {
        let slot_idx = call.slot_idx;
        let now = call.ledger.generation.load(Relaxed);
        // A shrinker that came meanwhile may be met late in a pass that has met the slot's last one.
        if self.generations[slot_idx].load(Relaxed) != now {
            return;
        }
        if call.nid < 64 {
            self.counted[slot_idx].fetch_or(1 << call.nid, Relaxed);
        }
        if call.nid != compat::online_nodes().trailing_zeros() as usize {
            return;
        }
        let n_passes = self.n_passes[slot_idx].fetch_add(1, Relaxed) + 1;
        // Pass k (the first is 0) is followed by another while `freed >> k` exceeds 1: k passes before the current one
        // freed 2 + 4 + ... + 2^k.
        let needed = (1_u64 << n_passes.min(62)) - 2;
        let freed = self.freed.load(Relaxed);
        if needed > freed.saturating_add(FOREIGN_MAX) {
            broken(Rule::Passes, slot_idx, format_args!("pass {n_passes} after {freed} objects"));
        }
    }

    /// The slot's shrinker is asked to scan.
    pub(crate) fn scanning(&self, call: &Call, nr_to_scan: usize) {
        if call.caller != Caller::Debugfs || self.kind.load(Relaxed) != kind::DEBUGFS_SCAN {
            return;
        }
        self.is_of_file(call);
        self.n_scans.fetch_add(1, Relaxed);
        let (nid, n) = (self.nid.load(Relaxed), self.n.load(Relaxed));
        // SAFETY: the memcg of a running callback is null or valid.
        let memcg = if call.memcg.is_null() { 0 } else { unsafe { compat::memcg_ino(call.memcg) } };
        // 0 is meant for shrinkers that do not tell memcgs apart; what it means for others is not said.
        let wanted = match self.memcg.load(Relaxed) {
            0 if call.ledger.memcg_aware() => memcg,
            wanted => wanted,
        };
        if (call.nid, nr_to_scan) != (nid, n) || (memcg == 0) != (wanted == 0) {
            let detail = format_args!(
                "asked for memcg {wanted} node {nid} n {n}, called for memcg {memcg} node {} n {nr_to_scan}",
                call.nid
            );
            broken(Rule::DebugfsScan, call.slot_idx, detail);
        } else if memcg != wanted {
            self.other_memcg.store(memcg, Relaxed);
        }
    }

    /// The slot's shrinker scanned.
    pub(crate) fn scanned(&self, call: &Call, freed: usize) {
        if call.caller == Caller::DropSlab {
            self.freed.fetch_add(freed as u64, Relaxed);
        }
    }

    fn is_of_file(&self, call: &Call) {
        let (first, slot_idx) = (self.file_slot.load(Relaxed), call.slot_idx);
        if first == NO_SLOT {
            self.file_slot.store(slot_idx, Relaxed);
            self.numa_aware.store(call.ledger.numa_aware(), Relaxed);
        } else if first != slot_idx {
            self.mixed.store(true, Relaxed);
        }
    }

    fn judge_drop_slab(&self) {
        for slot_idx in 0..N_SLOTS {
            ledger(slot_idx).end_pass(slot_idx);
        }
        if self.n_drop_pages.load(Relaxed) != N_DROP_PAGES.load(SeqCst) {
            return;
        }
        let online = compat::online_nodes();
        for slot_idx in 0..N_SLOTS {
            let (ledger, then) = (ledger(slot_idx), self.generations[slot_idx].load(Relaxed));
            let still = ledger.registered.load(Acquire) && ledger.generation.load(Acquire) == then;
            let missed = online & !self.counted[slot_idx].load(Relaxed);
            if then != 0 && still && missed != 0 {
                broken(Rule::NotCalled, slot_idx, format_args!("nodes missed {missed:#x}"));
            }
        }
    }

    fn judge_count(&self, printed: &Request) {
        let slot_idx = self.file_slot.load(Relaxed);
        if slot_idx == NO_SLOT || self.mixed.load(Relaxed) {
            return;
        }
        let numa_aware = self.numa_aware.load(Relaxed);
        let n_counts = |nid: usize| self.n_counts[nid].load(Relaxed);
        for nid in (1..NODES).filter(|nid| compat::node_possible(*nid)) {
            let wanted = if numa_aware { n_counts(0) } else { 0 };
            if n_counts(nid) != wanted {
                let detail = format_args!("node {nid} {} times, node 0 {} times", n_counts(nid), n_counts(0));
                broken(Rule::DebugfsNodes, slot_idx, detail);
            }
        }
        for nid in 0..NODES {
            let (returned, column) = (self.columns[nid].load(Relaxed), printed.columns[nid]);
            if returned != column {
                let detail = format_args!("node {nid}: {returned} returned, {column} printed");
                broken(Rule::DebugfsCount, slot_idx, detail);
            }
        }
        let by_memcg = self.by_memcg.load(Relaxed);
        if by_memcg != printed.by_memcg {
            let detail = format_args!("memcgs: {by_memcg:#x} returned, {:#x} printed", printed.by_memcg);
            broken(Rule::DebugfsCount, slot_idx, detail);
        }
    }

    fn judge_scan(&self, request: &Request) {
        // For one that is going the kernel takes the memcg around it (cgroup_get_e_css()).
        let other = self.other_memcg.load(Relaxed);
        if other != 0 && request.memcg_stays != 0 {
            let detail = format_args!("asked for memcg {}, called for memcg {other}", request.memcg);
            broken(Rule::DebugfsScan, self.file_slot.load(Relaxed), detail);
        }
        let n_scans = self.n_scans.load(Relaxed);
        if n_scans != u32::from(self.n.load(Relaxed) != 0) {
            broken(Rule::DebugfsScanCalls, self.slot.load(Relaxed), format_args!("{n_scans} calls"));
        }
    }
}

/// What the calling task is at, for a report.
pub(crate) fn current_op() -> &'static str {
    match current().map(|watch| watch.kind.load(Relaxed)) {
        Some(kind::DROP_SLAB | kind::DROP_PAGES) => " in drop_caches",
        Some(kind::DEBUGFS_COUNT) => " in debugfs_count",
        Some(kind::DEBUGFS_SCAN) => " in debugfs_scan",
        Some(kind::DEBUGFS_OTHER) => " in debugfs",
        _ => "",
    }
}
