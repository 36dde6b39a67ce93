// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the arguments of ops can say: flags, behaviours, verdicts, files, texts. Part of `layout.rs`.

/// Flags of [`super::kind::ALLOC`]; the bits are ours, the module translates.
pub mod alloc_flag {
    /// `SHRINKER_NUMA_AWARE`.
    pub const NUMA: u32 = 1;
    /// `SHRINKER_MEMCG_AWARE`; the slot gets a memcg-aware `list_lru` tied to the shrinker.
    pub const MEMCG: u32 = 2;
    /// `SHRINKER_NONSLAB`.
    pub const NONSLAB: u32 = 4;
    /// No `scan_objects`: count never says there is anything, so reclaim never scans; debugfs has no `scan` file.
    pub const COUNT_ONLY: u32 = 8;
    /// With [`MEMCG`]: the slot's `list_lru` is one for all memcgs.
    pub const PLAIN_LRU: u32 = 16;
}

/// Flags of [`super::kind::CACHE_CREATE`].
pub mod cache_flag {
    /// With a constructor.
    pub const CTOR: u32 = 1;
    /// `SLAB_ACCOUNT`.
    pub const ACCOUNT: u32 = 2;
    /// `SLAB_RECLAIM_ACCOUNT`.
    pub const RECLAIM: u32 = 4;
}

/// Which of many.
pub mod which {
    /// The oldest.
    pub const FIRST: u32 = 0;
    /// The newest.
    pub const LAST: u32 = 1;
    /// Every second one.
    pub const SECOND: u32 = 2;
}

/// What a list_lru walk callback says of an item; the meaning of each is `enum lru_status`'s.
pub mod verdict {
    /// Removed.
    pub const REMOVED: u32 = 0;
    /// Removed, and the lock was dropped.
    pub const REMOVED_RETRY: u32 = 1;
    /// To the end of the list.
    pub const ROTATE: u32 = 2;
    /// Left alone.
    pub const SKIP: u32 = 3;
    /// Left alone, and the lock was dropped.
    pub const RETRY: u32 = 4;
    /// No more.
    pub const STOP: u32 = 5;
}

/// File systems of [`super::kind::MOUNT`].
pub mod fs {
    /// tmpfs.
    pub const TMPFS: u32 = 0;
    /// ramfs.
    pub const RAMFS: u32 = 1;
    /// ext4 on a ram disk.
    pub const EXT4: u32 = 2;
}

/// How [`super::kind::UMOUNT`] unmounts.
pub mod umount {
    /// Fails when busy.
    pub const PLAIN: u32 = 0;
    /// `MNT_DETACH`: now from the tree, the rest when nobody uses it.
    pub const LAZY: u32 = 1;
    /// `MNT_FORCE`.
    pub const FORCE: u32 = 2;
}

/// What [`super::kind::TREE_MAKE`] makes.
pub mod entry {
    /// An empty file.
    pub const FILE: u32 = 0;
    /// A file of 4 KiB.
    pub const DATA: u32 = 1;
    /// A folder.
    pub const FOLDER: u32 = 2;
    /// A symbolic link.
    pub const LINK: u32 = 3;
}

/// What [`super::kind::ZSWAP`] sets.
pub mod zswap {
    /// Off, the state of a fresh guest.
    pub const OFF: u32 = 0;
    /// On.
    pub const ON: u32 = 1;
    /// On, and its shrinker too.
    pub const SHRINKER: u32 = 2;
}

/// What a user may write to a debugfs `scan` file, `<memcg inode> <nid> <number>` or not.
pub const SCAN_TEXTS: [&str; 16] = [
    "",
    "x",
    "0",
    "0 0",
    "0 0 0",
    "0 0 18446744073709551615",
    "0 0 9223372036854775808",
    "0 1 1",
    "0 2 1",
    "0 -1 1",
    "0 2147483647 1",
    "0 4294967296 1",
    "1 0 128",
    "18446744073709551615 0 1",
    "4294967297 0 1",
    "0 0 1 and more, up to and beyond what the kernel copies of a line like this one",
];

/// Files of a cache in `/sys/kernel/slab`.
pub const SLAB_FILES: [&str; 6] = ["shrink", "validate", "objects", "slabs", "ctor", "min_partial"];

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
    /// count: 65536. scan: frees half of what was asked and says that it scanned no more (`nr_scanned`).
    pub const PART: u32 = 5;
    /// count: the largest number. scan: honest, but every fourth call ends the pass (`SHRINK_STOP`).
    pub const FITFUL: u32 = 6;
    /// Number of values.
    pub const N: u32 = 7;
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
    /// Takes a mutex that all callbacks share, spins under it.
    pub const LOCK: u32 = 5;
    /// As [`LOCK`], unless somebody else has it.
    pub const TRYLOCK: u32 = 6;
    /// Adds an item to the list of the next slot.
    pub const OTHER: u32 = 7;
    /// Number of values.
    pub const N: u32 = 8;
}

/// How [`super::kind::LRU_ADD`] files an item.
pub mod lru_mode {
    /// `list_lru_add_obj()`: node and memcg are derived from the object.
    pub const OBJ: u32 = 0;
    /// `list_lru_add()` with the caller's memcg passed explicitly, as zswap does.
    pub const MEMCG: u32 = 1;
    /// Number of values.
    pub const N: u32 = 2;
}
