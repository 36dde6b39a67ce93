// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The op as it travels, and the ioctls of `/dev/shrinktorture` and `/dev/canary`.

#[path = "choices.rs"]
mod choices;
#[allow(unused_imports, reason = "not every module that shares this file needs them")]
pub use choices::*;
#[path = "model.rs"]
pub mod model;
#[path = "situation.rs"]
pub mod situation;

/// First word of every structure that crosses the guest boundary ("SHRT").
pub const ABI_MAGIC: u32 = 0x5348_5254;
/// Raised whenever a layout or the meaning of an op changes.
pub const ABI_VERSION: u32 = 7;

/// Shrinkers a program can hold at once.
pub const N_SLOTS: usize = 16;
/// Memory cgroups a program can name. `MEMCG_ROOT` means the root group.
pub const N_MEMCGS: usize = 4;
/// Value of [`Op::memcg`] that names the root memory cgroup.
pub const MEMCG_ROOT: u8 = N_MEMCGS as u8;
/// Threads of a program.
pub const N_THREADS: usize = 4;
/// NUMA nodes an op can name.
pub const N_NODES: usize = 2;
/// Barriers a program can name.
pub const N_BARRIERS: usize = 4;
/// Things a thread can hold at once: open files.
pub const N_HANDLES: usize = 4;
/// Mount points a program can name.
pub const N_MOUNTS: usize = 4;
/// Slab caches a program can name.
pub const N_CACHES: usize = 4;
/// Objects with a shrinker of their own that a program can name.
pub const N_OBJECTS: usize = 8;

/// One operation. What the fields mean is the op table's business ([`crate` docs], `ops.rs`); fields that an
/// op does not use are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Op {
    /// A [`kind`] constant.
    pub kind: u8,
    /// Shrinker slot, `0..N_SLOTS`.
    pub slot: u8,
    /// Memory cgroup, `0..=MEMCG_ROOT`.
    pub memcg: u8,
    /// NUMA node, `0..N_NODES`.
    pub nid: u8,
    /// First number.
    pub a: u32,
    /// Second number.
    pub b: u32,
    /// Third number.
    pub c: u32,
}

/// The module counts in a word of a thread's KCOV buffer how often the thread woke another one of the program: so many words
/// from the end. KCOV itself does not come there.
pub const KCOV_WAKES: usize = 1;

/// Op kinds. Kinds below [`kind::USER_FIRST`] are executed by the kernel module, the others by the agent.
pub mod kind {
    /// `shrinker_alloc()`: `a` = flags ([`super::alloc_flag`]), `b` = name seed, `0..8`. The name begins with
    /// `st<slot>-`, and so does the debugfs entry (which a name with a slash has not).
    pub const ALLOC: u8 = 1;
    /// Set `shrinker->seeks` to `a` before registration.
    pub const SET_SEEKS: u8 = 2;
    /// Set `shrinker->batch` to `a` before registration.
    pub const SET_BATCH: u8 = 3;
    /// `shrinker_register()`.
    pub const REGISTER: u8 = 4;
    /// `shrinker_free()`, registered or not.
    pub const FREE: u8 = 5;
    /// Add `a` objects on node `nid` to the slot's plain cache.
    pub const ADD_OBJECTS: u8 = 6;
    /// Take `a` objects of node `nid` away.
    pub const DEL_OBJECTS: u8 = 7;
    /// Callback behaviour: `a` = result ([`super::behave`]), `b` = delay kind ([`super::delay`]), `c` = delay in ns.
    pub const SET_COUNT: u8 = 8;
    /// As [`SET_COUNT`], for `scan_objects`.
    pub const SET_SCAN: u8 = 9;
    /// Allocate an item with `kmem_cache_alloc_lru()` and add it to the slot's `list_lru`; `a` = how
    /// ([`super::lru_mode`]), `b` = number of items. An lru holds 64; by memcg, they go to node `nid`.
    pub const LRU_ADD: u8 = 10;
    /// Free `a` items of the slot: `list_lru_del_obj()` for those added by obj, then walks for those added by memcg.
    pub const LRU_DEL: u8 = 11;
    /// `list_lru_walk_node()` on node `nid`, isolating at most `a` items.
    pub const LRU_WALK: u8 = 12;
    /// Arm a timer on the calling CPU, `a` ns from now; when it fires the CPU is held for `b` ns.
    pub const PREEMPT: u8 = 13;
    /// `shrinker_debugfs_rename()`, registered or not: `a` = name seed, as for [`ALLOC`].
    pub const RENAME: u8 = 14;
    /// Allocates memcg-aware shrinkers until the next id modulo 64 is `a`; `b` = 1 registers them too.
    pub const PAD_IDS: u8 = 15;
    /// Frees `a` of the shrinkers of [`PAD`] and [`PAD_IDS`]; `b` = which ([`super::which`]).
    pub const UNPAD: u8 = 16;
    /// Makes object `a`, in which its shrinker's private data are embedded: `b` = flags, `c` = what it has to shrink.
    pub const OBJECT_NEW: u8 = 17;
    /// Frees object `a`, its shrinker first.
    pub const OBJECT_FREE: u8 = 18;
    /// [`LRU_WALK`] of `b` items whose callback returns verdict `a` ([`super::verdict`]) for each.
    pub const LRU_WALK_AS: u8 = 19;
    /// Allocates `a` items, charged to the caller's memcg, and does not add them yet.
    pub const LRU_MAKE: u8 = 20;
    /// `list_lru_add_obj()` of `a` items of [`LRU_MAKE`].
    pub const LRU_PUT: u8 = 21;
    /// Holds for `a` µs the mutex that callbacks take ([`super::delay::LOCK`]).
    pub const HOLD_LOCK: u8 = 22;
    /// `kmem_cache_create()` of cache `a`: `b` = flags ([`super::cache_flag`]), `c` = size of an object.
    pub const CACHE_CREATE: u8 = 23;
    /// `kmem_cache_alloc()` of `b` objects of cache `a`.
    pub const CACHE_ALLOC: u8 = 24;
    /// `kmem_cache_free()` of `b` objects of cache `a`, every second one first.
    pub const CACHE_FREE: u8 = 25;
    /// `kmem_cache_shrink()` of cache `a`.
    pub const CACHE_SHRINK: u8 = 26;
    /// Frees what is left in cache `a`, then `kmem_cache_destroy()`.
    pub const CACHE_DESTROY: u8 = 27;
    /// Allocates `a` shrinkers that have nothing to shrink, and registers them unless `b` = 0.
    pub const PAD: u8 = 28;
    /// As [`PREEMPT`], but for `b` µs, by a task of high priority: RCU's grace periods go on meanwhile.
    pub const PREEMPT_TASK: u8 = 29;
    /// As [`PREEMPT_TASK`], but as soon as one of the thread's next ops has entered `a` instrumented basic blocks.
    pub const PREEMPT_EDGE: u8 = 30;
    /// As [`PREEMPT_TASK`], but as soon as the thread has woken another one of the program for the `a`-th time.
    pub const PREEMPT_WAKE: u8 = 31;
    /// Most blocks that [`PREEMPT_EDGE`] waits for.
    pub const PREEMPT_EDGE_MAX: u32 = 100_000;
    /// Longest time until [`PREEMPT`] and [`PREEMPT_TASK`] do something, ns.
    pub const PREEMPT_NS_MAX: u32 = 10_000_000;
    /// Ops that have a CPU taken away later on.
    pub const PREEMPTIONS: [u8; 4] = [PREEMPT, PREEMPT_TASK, PREEMPT_EDGE, PREEMPT_WAKE];

    /// First kind that the agent executes.
    pub const USER_FIRST: u8 = 64;
    /// `mkdir` of group `memcg`.
    pub const MEMCG_CREATE: u8 = 64;
    /// `rmdir` of group `memcg`.
    pub const MEMCG_REMOVE: u8 = 65;
    /// The thread moves into group `memcg`.
    pub const MEMCG_ENTER: u8 = 66;
    /// Write `a` KiB to `memory.reclaim` of group `memcg`.
    pub const MEMCG_RECLAIM: u8 = 67;
    /// Write `a` (1..=3) to `drop_caches`.
    pub const DROP_CACHES: u8 = 68;
    /// Map, touch and unmap `a` KiB of anonymous memory.
    pub const PRESSURE: u8 = 69;
    /// Read the slot's debugfs `count` file.
    pub const DEBUGFS_COUNT: u8 = 70;
    /// Write `<memcg inode> <nid> <a>` to the slot's debugfs `scan` file; `b` = 1 writes 0 for the memcg.
    pub const DEBUGFS_SCAN: u8 = 71;
    /// List `/sys/kernel/debug/shrinker` and open what is there.
    pub const DEBUGFS_WALK: u8 = 72;
    /// Wait at barrier `a` until all threads that are still running have come, or 2 ms have passed.
    pub const BARRIER: u8 = 73;
    /// Sleep `a` µs.
    pub const SLEEP: u8 = 74;
    /// Spin `a` µs.
    pub const SPIN: u8 = 75;
    /// `sched_yield()`.
    pub const YIELD: u8 = 76;
    /// Write `a` KiB to `memory.max` of group `memcg`; 0 writes `max`.
    pub const MEMCG_MAX: u8 = 77;
    /// Create `a` files on tmpfs and drop them: dentries and inodes in the caches.
    pub const FILES: u8 = 78;
    /// The `a`-th allocation of this thread's next op fails.
    pub const FAIL_NTH: u8 = 79;
    /// Write `a` KiB to `memory.high` of group `memcg`.
    pub const MEMCG_HIGH: u8 = 80;
    /// Write `a` KiB to `memory.swap.max` of group `memcg`.
    pub const MEMCG_SWAP_MAX: u8 = 81;
    /// `mkdir` of group `memcg` (2 or 3) inside group `memcg - 2`, the controller handed down if that can be.
    pub const MEMCG_NEST: u8 = 82;
    /// Write `a` KiB to `memory.reclaim` of group `memcg` with `swappiness=b`.
    pub const MEMCG_RECLAIM_SWAP: u8 = 83;
    /// Write `a` KiB to the `reclaim` file of node `nid`, where there is one.
    pub const NODE_RECLAIM: u8 = 84;
    /// Raise the watermarks above what the calling CPU's node has free, touch `b` KiB, give kswapd `c` µs, restore;
    /// `a` = 1 has the touching thread reclaim from its node too.
    pub const WATERMARK: u8 = 85;
    /// Open file `b` (count, scan) of the slot's debugfs folder as handle `a`.
    pub const DEBUGFS_HOLD: u8 = 86;
    /// Read handle `a` from its beginning.
    pub const HELD_READ: u8 = 87;
    /// Write `<memcg inode> <nid> <b>` to handle `a`.
    pub const HELD_SCAN: u8 = 88;
    /// Close handle `a`.
    pub const RELEASE: u8 = 89;
    /// Write text `a` ([`super::SCAN_TEXTS`]) to the slot's debugfs `scan` file.
    pub const DEBUGFS_WRITE: u8 = 90;
    /// Mount a file system ([`super::fs`], `b`) on mount point `a`.
    pub const MOUNT: u8 = 91;
    /// Unmount mount point `a`; `b` = how ([`super::umount`]).
    pub const UMOUNT: u8 = 92;
    /// Remount mount point `a`, read-only if `b` = 0.
    pub const REMOUNT: u8 = 93;
    /// Create `b` entries of kind `c` ([`super::entry`]) at mount point `a`.
    pub const TREE_MAKE: u8 = 94;
    /// Remove the first `b` entries at mount point `a`.
    pub const TREE_REMOVE: u8 = 95;
    /// Look up `b` names at mount point `a` that are not there.
    pub const TREE_LOOK: u8 = 96;
    /// Open entry `c` at mount point `b` as handle `a`.
    pub const TREE_HOLD: u8 = 97;
    /// Use file `b` ([`super::SLAB_FILES`]) of cache `a` in `/sys/kernel/slab`.
    pub const SLAB_FILE: u8 = 98;
    /// Touch `a` KiB of anonymous memory, have it swapped out, touch it again.
    pub const SWAP_OUT: u8 = 99;
    /// Switch zswap: `a` of [`super::zswap`].
    pub const ZSWAP: u8 = 100;
    /// Touch a huge page, unmap its first `a` small pages and keep the rest mapped.
    pub const THP_SPLIT: u8 = 101;
    /// Unmap what [`THP_SPLIT`] of this thread keeps.
    pub const THP_DROP: u8 = 102;
    /// Take the last CPU offline and bring it back.
    pub const CPU_CYCLE: u8 = 103;
    /// The thread moves to CPU `a`, modulo the CPUs that are there.
    pub const MOVE: u8 = 104;
    /// Load the module whose init registers shrinkers and whose exit frees them.
    pub const MODULE_LOAD: u8 = 105;
    /// Unload it.
    pub const MODULE_UNLOAD: u8 = 106;
    /// Have a pipe hold the first page of what [`THP_SPLIT`] of this thread keeps: the huge page cannot be split.
    pub const THP_PIN: u8 = 107;
    /// `mkdir` of `a` groups more, beside the others, which stay empty.
    pub const MEMCG_CROWD: u8 = 108;
}

/// Argument of [`ioc::OP`]: the op in, its result out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct IoctlOp {
    /// What to do.
    pub op: Op,
    /// 0 or a count on success, a negative errno else. `-EAGAIN`: the slot was in a state where the op does not apply.
    pub result: i64,
}

/// Argument of [`ioc::INFO`], filled by the module.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct IoctlInfo {
    /// [`ABI_MAGIC`].
    pub magic: u32,
    /// [`ABI_VERSION`].
    pub version: u32,
    /// Shrinkers the module holds now.
    pub n_shrinkers: u32,
    /// List items the module holds now.
    pub n_items: u32,
    /// `count_objects` calls since load.
    pub n_count_calls: u64,
    /// `scan_objects` calls since load.
    pub n_scan_calls: u64,
}

/// ioctl numbers (`_IOWR('S', nr, type)` and `_IO('S', nr)`).
pub mod ioc {
    use super::{
        IoctlInfo, IoctlOp,
        model::{Audit, Watch},
        situation::Seen,
    };
    const fn iowr(nr: u32, size: usize) -> u32 {
        (3 << 30) | ((size as u32) << 16) | ((b'S' as u32) << 8) | nr
    }
    /// Execute one op for the calling thread.
    pub const OP: u32 = iowr(1, size_of::<IoctlOp>());
    /// Who are you.
    pub const INFO: u32 = iowr(2, size_of::<IoctlInfo>());
    /// Free every slot, disarm every timer. Called after each program, when its threads have ended.
    pub const RESET: u32 = ((b'S' as u32) << 8) | 3;
    /// `/dev/canary`: argument is a [`super::canary`] kind; arms the misbehaviour.
    pub const CANARY: u32 = ((b'S' as u32) << 8) | 4;
    /// 0: lockdep looks away from the calling thread; else: it looks again.
    pub const LOCKDEP: u32 = ((b'S' as u32) << 8) | 5;
    /// What the calling thread is about to do, so that callbacks know who calls them.
    pub const WATCH_BEGIN: u32 = iowr(6, size_of::<Watch>());
    /// It is done; what it promised is checked.
    pub const WATCH_END: u32 = iowr(7, size_of::<Watch>());
    /// One step of the audit after a program.
    pub const AUDIT: u32 = iowr(8, size_of::<Audit>());
    /// The situations that callbacks saw since this was asked last.
    pub const SITUATIONS: u32 = iowr(9, size_of::<Seen>());
}

/// Ways the canary module misbehaves, each in a callback of a shrinker of its own.
pub mod canary {
    /// Reads an object it has freed.
    pub const USE_AFTER_FREE: u32 = 1;
    /// Frees an object twice.
    pub const DOUBLE_FREE: u32 = 2;
    /// Takes two mutexes in both orders.
    pub const LOCK_INVERSION: u32 = 3;
    /// Sleeps under a spinlock.
    pub const ATOMIC_SLEEP: u32 = 4;
    /// Never returns.
    pub const HANG: u32 = 5;
    /// Loses an allocation.
    pub const LEAK: u32 = 6;
    /// The names, for command lines, in the order of the constants (first is 1).
    pub const NAMES: [&str; 6] =
        ["use-after-free", "double-free", "lock-inversion", "atomic-sleep", "hang", "leak"];
}

const _: () = assert!(size_of::<Op>() == 16 && align_of::<Op>() == 4);
const _: () = assert!(size_of::<IoctlOp>() == 24 && core::mem::offset_of!(IoctlOp, result) == 16);
const _: () = assert!(size_of::<IoctlInfo>() == 32);
