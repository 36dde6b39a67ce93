// SPDX-License-Identifier: GPL-2.0

//! Everything that differs between the kernels this source builds for, and what their bindings lack. Kbuild sets one
//! cfg per difference after looking into the tree's headers; no other file reads them.

use core::ptr;
use kernel::bindings;
use kernel::ffi::{c_int, c_void};

/// `SHRINKER_NUMA_AWARE` (include/linux/shrinker.h; bindgen does not evaluate `BIT()`).
pub(crate) const SHRINKER_NUMA_AWARE: u32 = 1 << 2;
/// `SHRINKER_MEMCG_AWARE`.
pub(crate) const SHRINKER_MEMCG_AWARE: u32 = 1 << 3;
/// `SHRINKER_NONSLAB`.
pub(crate) const SHRINKER_NONSLAB: u32 = 1 << 4;

/// `SHRINK_STOP`; bindgen makes `~0UL` a negative `i32`.
pub(crate) const SHRINK_STOP: usize = bindings::SHRINK_STOP as isize as usize;
/// `SHRINK_EMPTY`.
pub(crate) const SHRINK_EMPTY: usize = bindings::SHRINK_EMPTY as isize as usize;
const _: () = assert!(SHRINK_STOP == usize::MAX && SHRINK_EMPTY == usize::MAX - 1);

/// `GFP_KERNEL`.
pub(crate) const GFP_KERNEL: bindings::gfp_t = bindings::GFP_KERNEL;
/// `GFP_NOFS`: `GFP_KERNEL` without `__GFP_FS` (include/linux/gfp_types.h).
pub(crate) const GFP_NOFS: bindings::gfp_t = bindings::GFP_KERNEL & !(1 << bindings::___GFP_FS_BIT);
/// `SLAB_RECLAIM_ACCOUNT`.
pub(crate) const SLAB_RECLAIM_ACCOUNT: bindings::slab_flags_t =
    1 << bindings::_slab_flag_bits__SLAB_RECLAIM_ACCOUNT;
/// `SLAB_ACCOUNT` (include/linux/slab.h); needs CONFIG_MEMCG.
pub(crate) const SLAB_ACCOUNT: bindings::slab_flags_t = 1 << bindings::_slab_flag_bits__SLAB_ACCOUNT;

/// Declares the module; the key for the author's name changed.
macro_rules! declare_module {
    (type: $type:tt, name: $name:tt, description: $description:tt $(,)?) => {
        #[cfg(module_authors)]
        ::kernel::prelude::module! {
            type: $type,
            name: $name,
            authors: ["the shrinktorture authors"],
            description: $description,
            license: "GPL",
        }
        #[cfg(not(module_authors))]
        ::kernel::prelude::module! {
            type: $type,
            name: $name,
            author: "the shrinktorture authors",
            description: $description,
            license: "GPL",
        }
    };
}

/// `list_lru_init_memcg()` if there is a shrinker, `list_lru_init()` else. 6.12 takes a lock class key too.
///
/// # Safety
///
/// `lru` points to zeroed memory that stays in place until `list_lru_destroy()`; `shrinker` is null or a live shrinker.
pub(crate) unsafe fn list_lru_init(lru: *mut bindings::list_lru, shrinker: *mut bindings::shrinker) -> c_int {
    let memcg_aware = !shrinker.is_null();
    #[cfg(list_lru_init_key)]
    // SAFETY: the caller's promise; a null key keeps the lock class of list_lru.c.
    unsafe {
        bindings::__list_lru_init(lru, memcg_aware, ptr::null_mut(), shrinker)
    }
    #[cfg(not(list_lru_init_key))]
    // SAFETY: the caller's promise.
    unsafe {
        bindings::__list_lru_init(lru, memcg_aware, shrinker)
    }
}

/// What a walk callback says of an item (`enum lru_status`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Took it off the list.
    Removed,
    /// Took it off the list, and the lock was dropped: the walk begins anew.
    RemovedRetry,
    /// It is to move to the end of the list.
    Rotate,
    /// Left it.
    Skip,
    /// Left it, and the lock was dropped: the walk begins anew.
    Retry,
    /// Left it; the walk ends.
    Stop,
}

/// Form of the C enum in Rust.
macro_rules! lru_status {
    ($name:ident, $constant:ident) => {{
        #[cfg(lru_status_newtype)]
        let status = bindings::lru_status::$name;
        #[cfg(not(lru_status_newtype))]
        let status = bindings::$constant;
        status
    }};
}

impl Verdict {
    fn status(self) -> bindings::lru_status {
        match self {
            Verdict::Removed => lru_status!(LRU_REMOVED, lru_status_LRU_REMOVED),
            Verdict::RemovedRetry => lru_status!(LRU_REMOVED_RETRY, lru_status_LRU_REMOVED_RETRY),
            Verdict::Rotate => lru_status!(LRU_ROTATE, lru_status_LRU_ROTATE),
            Verdict::Skip => lru_status!(LRU_SKIP, lru_status_LRU_SKIP),
            Verdict::Retry => lru_status!(LRU_RETRY, lru_status_LRU_RETRY),
            Verdict::Stop => lru_status!(LRU_STOP, lru_status_LRU_STOP),
        }
    }
}

/// Body of a list_lru walk callback.
pub(crate) trait Isolate {
    /// Judges one item. Runs with the list's lock held and must return with it held; [`walk_callback`] drops it where
    /// the verdict asks for that.
    ///
    /// # Safety
    ///
    /// Called by a list_lru walk with an item that is on `list`, and the `arg` given to the walk.
    unsafe fn isolate(
        item: *mut bindings::list_head,
        list: *mut bindings::list_lru_one,
        arg: *mut c_void,
    ) -> Verdict;
}

/// The walk callback that runs `T::isolate`.
///
/// Before 7.x walks pass the lock, and a verdict that says it was dropped is returned with it taken again; since, the
/// lock is the list's own, such a verdict is returned without it, and so is `LRU_STOP`.
pub(crate) fn walk_callback<T: Isolate>() -> bindings::list_lru_walk_cb {
    #[cfg(list_lru_walk_lock)]
    unsafe extern "C" fn callback<T: Isolate>(
        item: *mut bindings::list_head,
        list: *mut bindings::list_lru_one,
        lock: *mut bindings::spinlock_t,
        arg: *mut c_void,
    ) -> bindings::lru_status {
        // SAFETY: the walk's own arguments are passed on.
        let verdict = unsafe { T::isolate(item, list, arg) };
        if matches!(verdict, Verdict::Retry | Verdict::RemovedRetry) {
            // SAFETY: the walk holds the lock, and begins anew after these verdicts.
            unsafe {
                bindings::spin_unlock(lock);
                bindings::spin_lock(lock);
            }
        }
        verdict.status()
    }
    #[cfg(not(list_lru_walk_lock))]
    unsafe extern "C" fn callback<T: Isolate>(
        item: *mut bindings::list_head,
        list: *mut bindings::list_lru_one,
        arg: *mut c_void,
    ) -> bindings::lru_status {
        // SAFETY: the walk's own arguments are passed on.
        let verdict = unsafe { T::isolate(item, list, arg) };
        if matches!(verdict, Verdict::Retry | Verdict::RemovedRetry | Verdict::Stop) {
            // SAFETY: the walk holds the lock of the list, and takes it for released after these verdicts.
            unsafe { bindings::spin_unlock(&raw mut (*list).lock) };
        }
        verdict.status()
    }
    Some(callback::<T>)
}

/// Function of an hrtimer.
pub(crate) type HrTimerFn = unsafe extern "C" fn(*mut bindings::hrtimer) -> bindings::hrtimer_restart;

/// Initialises a timer that fires in hard interrupt context on the CPU that armed it.
///
/// # Safety
///
/// `timer` points to memory that stays in place until the timer was cancelled for the last time, and the timer is not
/// in use.
pub(crate) unsafe fn hrtimer_setup(timer: *mut bindings::hrtimer, function: HrTimerFn) {
    let clock = bindings::CLOCK_MONOTONIC as bindings::clockid_t;
    let mode = HRTIMER_MODE;
    #[cfg(hrtimer_setup)]
    // SAFETY: the caller's promise.
    unsafe {
        bindings::hrtimer_setup(timer, Some(function), clock, mode)
    };
    #[cfg(not(hrtimer_setup))]
    // SAFETY: the caller's promise; before hrtimer_setup() the function was a field that the owner set.
    unsafe {
        bindings::hrtimer_init(timer, clock, mode);
        (*timer).function = Some(function);
    }
}

/// Mode of every timer here: relative, pinned, hard.
pub(crate) const HRTIMER_MODE: bindings::hrtimer_mode = bindings::hrtimer_mode_HRTIMER_MODE_REL_PINNED_HARD;

/// An all-zero value of a C structure.
///
/// # Safety
///
/// All zeroes must be a valid value of `T`.
pub(crate) const unsafe fn zeroed<T>() -> T {
    // SAFETY: the caller's promise.
    unsafe { core::mem::MaybeUninit::zeroed().assume_init() }
}

/// The memory cgroup of the calling task, null when the controller is off.
///
/// The pointer is valid as long as the caller stays in the RCU read-side critical section it called from (a held
/// spinlock is one): css_free() of a cgroup runs a grace period after its last reference went.
pub(crate) fn current_memcg() -> *mut bindings::mem_cgroup {
    // SAFETY: the current task lives while it runs; mem_cgroup_from_task() only needs RCU.
    unsafe { bindings::mem_cgroup_from_task(bindings::get_current()) }
}

/// Index of a memcg's lists in a memcg-aware `list_lru`; negative: none of its own.
///
/// # Safety
///
/// `memcg` is null or valid.
pub(crate) unsafe fn memcg_kmem_id(memcg: *mut bindings::mem_cgroup) -> c_int {
    if memcg.is_null() {
        return -1;
    }
    // SAFETY: valid by the caller's promise; reparenting writes the field with WRITE_ONCE().
    unsafe { ptr::read_volatile(&raw const (*memcg).kmemcg_id) }
}

/// The nodes that are online, a bit each.
pub(crate) fn online_nodes() -> u64 {
    const N_ONLINE: usize = bindings::node_states_N_ONLINE as usize;
    // SAFETY: the array is only written on node hotplug; a torn read is impossible for a word.
    unsafe { ptr::read_volatile(&raw const bindings::node_states[N_ONLINE].bits[0]) as u64 }
}

/// Whether `nid` is an online node.
pub(crate) fn node_online(nid: usize) -> bool {
    nid < 64 && online_nodes() >> nid & 1 != 0
}

/// Whether `nid` is a node that may come online; debugfs asks for those too.
pub(crate) fn node_possible(nid: usize) -> bool {
    const N_POSSIBLE: usize = bindings::node_states_N_POSSIBLE as usize;
    // SAFETY: as in `online_nodes`.
    let word = unsafe { ptr::read_volatile(&raw const bindings::node_states[N_POSSIBLE].bits[0]) };
    nid < 64 && word >> nid & 1 != 0
}

/// `lockdep_on()` and `lockdep_off()` (include/linux/lockdep.h), for the calling task.
pub(crate) fn lockdep_watch(on: bool) {
    #[cfg(CONFIG_LOCKDEP)]
    {
        const LOCKDEP_OFF: u32 = 1 << 16;
        // SAFETY: the current task lives while it runs.
        let recursion = unsafe { &raw mut (*bindings::get_current()).lockdep_recursion };
        // SAFETY: only the task itself, and interrupts in a balanced way, write the field.
        unsafe {
            let value = ptr::read_volatile(recursion);
            if on == (value >= LOCKDEP_OFF) {
                ptr::write_volatile(recursion, value ^ LOCKDEP_OFF);
            }
        }
    }
    #[cfg(not(CONFIG_LOCKDEP))]
    let _ = on;
}

/// Whether the calling task reclaims memory: kswapd, direct reclaim, reclaim of a memcg.
pub(crate) fn in_reclaim() -> bool {
    // SAFETY: the current task lives while it runs; the field is its own.
    unsafe { !(*bindings::get_current()).reclaim_state.is_null() }
}

/// A shrinker that could not be renamed has the name it had. Before debugfs_change_name() it had the new one, and its
/// folder the old.
pub(crate) const FAILED_RENAME_KEEPS_NAME: bool = cfg!(debugfs_change_name);

/// Whether the calling task is a kernel thread.
pub(crate) fn is_kthread() -> bool {
    // SAFETY: as in `in_reclaim`.
    unsafe { (*bindings::get_current()).flags & bindings::PF_KTHREAD != 0 }
}

/// Whether small allocations of the calling task succeed: none is made to fail, its memcg has no limit. To be called in an
/// RCU read-side critical section.
pub(crate) fn allocations_succeed() -> bool {
    #[cfg(CONFIG_FAULT_INJECTION)]
    // SAFETY: the current task lives while it runs.
    unsafe {
        let task = bindings::get_current();
        if (*task).make_it_fail != 0 || ptr::read_volatile(&raw const (*task).fail_nth) != 0 {
            return false;
        }
    }
    const PAGE_COUNTER_MAX: usize = isize::MAX as usize / bindings::PAGE_SIZE;
    let mut counter = match current_memcg() {
        memcg if memcg.is_null() => return true,
        // SAFETY: valid in the caller's critical section (see `current_memcg`). A pointer is computed.
        memcg => unsafe { &raw const (*memcg).memory },
    };
    while !counter.is_null() {
        // SAFETY: a memcg keeps its parents.
        unsafe {
            if ptr::read_volatile(&raw const (*counter).max) < PAGE_COUNTER_MAX {
                return false;
            }
            counter = (*counter).parent;
        }
    }
    true
}

/// Whether a memcg is the root group.
///
/// # Safety
///
/// `memcg` is null or valid.
pub(crate) unsafe fn memcg_is_root(memcg: *mut bindings::mem_cgroup) -> bool {
    // SAFETY: the caller's promise; the field does not change.
    !memcg.is_null() && unsafe { (*memcg).css.parent.is_null() }
}

/// Inode of a memcg's folder, by which debugfs knows it. Null stands for the root group.
///
/// # Safety
///
/// `memcg` is null or valid.
pub(crate) unsafe fn memcg_ino(memcg: *mut bindings::mem_cgroup) -> u64 {
    if memcg.is_null() {
        return 1;
    }
    // SAFETY: the caller's promise: a css keeps its cgroup, a cgroup its node.
    unsafe { (*(*(*memcg).css.cgroup).kn).id }
}

/// Whether a memcg has children, or had some that are not gone for good: what they held moves to it some time after they
/// were removed.
///
/// # Safety
///
/// `memcg` is valid.
pub(crate) unsafe fn memcg_has_children(memcg: *mut bindings::mem_cgroup) -> bool {
    // SAFETY: the caller's promise; a css keeps its cgroup.
    unsafe {
        let cgroup = (*memcg).css.cgroup;
        let n = ptr::read_volatile(&raw const (*cgroup).nr_descendants);
        n + ptr::read_volatile(&raw const (*cgroup).nr_dying_descendants) != 0
    }
}

/// Work deferred by a shrinker on a node, `None` where that is not known.
///
/// # Safety
///
/// `shrinker` was allocated and is not freed before this returns, `nid` is a possible node, `memcg` is null or that of a
/// running callback of the shrinker, and nobody allocates shrinkers: the map of ids does not grow.
pub(crate) unsafe fn nr_deferred(
    shrinker: *const bindings::shrinker,
    nid: usize,
    memcg: *mut bindings::mem_cgroup,
) -> Option<i64> {
    // SAFETY: the caller's promises.
    unsafe {
        if (*shrinker).flags & SHRINKER_MEMCG_AWARE == 0 {
            let counters = (*shrinker).nr_deferred;
            return Some(ptr::read_volatile(&raw const (*counters.add(nid)).counter));
        }
        if memcg.is_null() || (*shrinker).id < 0 {
            return None;
        }
        let (idx, bit) = ((*shrinker).id as usize / 64, (*shrinker).id as usize % 64);
        let node = *(&raw const (*memcg).nodeinfo).cast::<*const bindings::mem_cgroup_per_node>().add(nid);
        let info = ptr::read_volatile(&raw const (*node).shrinker_info);
        if info.is_null() || (*shrinker).id >= (*info).map_nr_max {
            return None;
        }
        let unit = *(&raw const (*info).unit).cast::<*const bindings::shrinker_info_unit>().add(idx);
        Some(ptr::read_volatile(&raw const (*unit).nr_deferred[bit].counter))
    }
}

/// A jiffy, ns.
pub(crate) fn jiffy_ns() -> u64 {
    // SAFETY: computes.
    let per_second = unsafe { bindings::__msecs_to_jiffies(1000) } as u64;
    1_000_000_000 / per_second.max(1)
}

/// The CPU the caller runs on; a hint unless preemption is off.
pub(crate) fn raw_smp_processor_id() -> usize {
    // SAFETY: the current task lives while it runs, and thread_info is its first field (THREAD_INFO_IN_TASK).
    unsafe { ptr::read_volatile(&raw const (*bindings::get_current()).thread_info.cpu) as usize }
}
