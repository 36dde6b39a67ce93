// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The op as it travels, and the ioctls of `/dev/shrinktorture` and `/dev/canary`.

/// First word of every structure that crosses the guest boundary ("SHRT").
pub const ABI_MAGIC: u32 = 0x5348_5254;
/// Raised whenever a layout or the meaning of an op changes.
pub const ABI_VERSION: u32 = 1;

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
}

/// Flags of [`kind::ALLOC`]; the bits are ours, the module translates.
pub mod alloc_flag {
    /// `SHRINKER_NUMA_AWARE`.
    pub const NUMA: u32 = 1;
    /// `SHRINKER_MEMCG_AWARE`; the slot gets a memcg-aware `list_lru` tied to the shrinker.
    pub const MEMCG: u32 = 2;
    /// `SHRINKER_NONSLAB`.
    pub const NONSLAB: u32 = 4;
}

/// What a callback returns.
pub mod behave {
    /// What the caches hold: count reports it, scan frees up to `nr_to_scan`.
    pub const HONEST: u32 = 0;
    /// count: 0. scan: 0 freed, `nr_scanned` as asked.
    pub const ZERO: u32 = 1;
    /// count: `SHRINK_EMPTY`. scan: `SHRINK_STOP`.
    pub const STOP: u32 = 2;
    /// count: 1024 whatever is there. scan: claims `nr_to_scan` freed, frees nothing.
    pub const LIE: u32 = 3;
    /// count: honest, `SHRINK_EMPTY` in place of 0. scan: frees half of what was asked.
    pub const HALF: u32 = 4;
    /// Number of values.
    pub const N: u32 = 5;
}

/// What a callback does before it returns.
pub mod delay {
    /// Nothing.
    pub const NONE: u32 = 0;
    /// Sleeps (`usleep_range`).
    pub const SLEEP: u32 = 1;
    /// Spins with the CPU held.
    pub const SPIN: u32 = 2;
    /// `cond_resched()` or yield.
    pub const YIELD: u32 = 3;
    /// Allocates and frees with `GFP_NOFS`.
    pub const ALLOC: u32 = 4;
    /// Number of values.
    pub const N: u32 = 5;
}

/// How [`kind::LRU_ADD`] files an item.
pub mod lru_mode {
    /// `list_lru_add_obj()`: node and memcg are derived from the object.
    pub const OBJ: u32 = 0;
    /// `list_lru_add()` with the caller's memcg passed explicitly, as zswap does.
    pub const MEMCG: u32 = 1;
    /// Number of values.
    pub const N: u32 = 2;
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
    use super::{IoctlInfo, IoctlOp};
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
