// SPDX-License-Identifier: GPL-2.0

//! The rules of the model: the title that a report has when one is broken, and the sentence of the kernel it comes from.

use crate::model_watch as watch;
use core::fmt::Arguments;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::prelude::*;

/// What is broken. The words are the title of the report: they do not change from run to run.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// shrinker_free(), mm/shrinker.c: "no shrinker is running or will run again".
    AfterFree,
    /// The same.
    InFlight,
    /// `nid`, include/linux/shrinker.h: "current node being shrunk"; drop_slab() walks the nodes that are online.
    Node,
    /// shrink_slab(), mm/shrinker.c: "Unaware shrinkers are called only if it is the root cgroup".
    ForeignMemcg,
    /// `memcg`, include/linux/shrinker.h: "current memcg being shrunk (for memcg aware shrinkers)".
    NoMemcg,
    /// `batch`, include/linux/shrinker.h: "reclaim batch size, 0 = default".
    NrToScan,
    /// `nr_scanned`, include/linux/shrinker.h: "This defaults to nr_to_scan before every call".
    NrScanned,
    /// include/linux/shrinker.h: "no further attempts to call the @scan_objects will be made".
    AfterStop,
    /// include/linux/shrinker.h: "@scan_objects will only be called if @count_objects returned a non-zero value".
    NotCounted,
    /// do_shrink_slab(): work is "capped to two times of the freeable items".
    TwiceFreeable,
    /// drop_slab_node() and the debugfs files reclaim with GFP_KERNEL.
    GfpMask,
    /// drop_slab(): another pass only while the last one freed more and more (e83b39d6bbdb).
    Passes,
    /// A shrinker that is registered is called: for each node that is online, once a pass (shrink_slab()).
    NotCalled,
    /// shrink_slab(): "we take the number of objects and >> by priority in order to get the scan target".
    NotScanned,
    /// The debugfs `scan` file hands on memcg, node and number (Documentation/admin-guide/mm/shrinker_debugfs.rst).
    DebugfsScan,
    /// The same: one write, one call.
    DebugfsScanCalls,
    /// The debugfs `count` file shows every node of shrinkers that tell nodes apart (the same).
    DebugfsNodes,
    /// The debugfs `count` file shows what count_objects returned (the same).
    DebugfsCount,
    /// shrinker_alloc(), shrinker_debugfs_rename(): the name.
    Name,
    /// do_shrink_slab(): deferred work "is capped to two times of the freeable items".
    DeferredHigh,
    /// do_shrink_slab(): "deferred work is increased by any new work (delta) that wasn't done".
    DeferredLost,
    /// list_lru_add(): "Set shrinker bit if the first element was added".
    ListNotCalled,
    /// shrink_slab_memcg(): "reset the bit if it reports that it is not empty anymore", and only then.
    CalledEmpty,
    /// shrinker_free() gives the id back (idr_remove(), ida_free()), and the lowest free one is taken.
    Ids,
    /// shrinker_memcg_alloc(), shrinker_debugfs_add(): whatever fails gives the id back (idr_remove(), ida_free()).
    IdsLost,
    /// shrinker_free(): "free it asynchronously via RCU".
    FreeWaits,
}

impl Rule {
    /// Title and bit.
    fn words(self) -> (&'static str, u64) {
        let words = match self {
            Rule::AfterFree => "a callback began after shrinker_free() returned",
            Rule::InFlight => "shrinker_free() returned while a callback was running",
            Rule::Node => "a callback was called for a node that is not online",
            Rule::ForeignMemcg => "a shrinker that is not memcg-aware was called for a memcg",
            Rule::NoMemcg => "a memcg-aware shrinker was called without a memcg",
            Rule::NrToScan => "nr_to_scan is 0 or exceeds the batch",
            Rule::NrScanned => "nr_scanned did not start as nr_to_scan",
            Rule::AfterStop => "scan_objects was called again after SHRINK_STOP",
            Rule::NotCounted => "scan_objects was called for what count_objects did not count",
            Rule::TwiceFreeable => "a pass scanned more than twice what was counted",
            Rule::GfpMask => "drop_caches or debugfs passed a gfp mask other than GFP_KERNEL",
            Rule::Passes => "drop_caches made more passes than what it freed allows",
            Rule::NotCalled => "drop_caches did not call a registered shrinker",
            Rule::NotScanned => "drop_caches did not scan what was counted",
            Rule::DebugfsScan => "debugfs scan called scan_objects with other arguments",
            Rule::DebugfsScanCalls => "debugfs scan did not call scan_objects once",
            Rule::DebugfsNodes => "debugfs count did not ask for each node",
            Rule::DebugfsCount => "debugfs count did not print what count_objects returned",
            Rule::Name => "a shrinker does not have the name it was given",
            Rule::DeferredHigh => "deferred work exceeds twice what was counted",
            Rule::DeferredLost => "work that was not done was not deferred",
            Rule::ListNotCalled => "drop_caches did not call a shrinker for a memcg with objects on its list",
            Rule::CalledEmpty => "a shrinker was called for a memcg after it answered SHRINK_EMPTY twice",
            Rule::Ids => "the id of a freed shrinker is not used again",
            Rule::IdsLost => "ids of shrinkers are in use that no shrinker has",
            Rule::FreeWaits => "shrinker_free() of an idle shrinker waits",
        };
        (words, 1 << self as u32)
    }
}

/// Rules that were reported since the last reset: one line each is enough.
static REPORTED: AtomicU64 = AtomicU64::new(0);

/// Reports that a rule is broken.
pub(crate) fn broken(rule: Rule, slot_idx: usize, detail: Arguments<'_>) {
    let (words, bit) = rule.words();
    if REPORTED.fetch_or(bit, Relaxed) & bit == 0 {
        pr_err!("MODEL: {}: slot {}{}: {}\n", words, slot_idx, watch::current_op(), detail);
    }
}

/// Every rule may be reported again.
pub(crate) fn reset() {
    REPORTED.store(0, Relaxed);
}
