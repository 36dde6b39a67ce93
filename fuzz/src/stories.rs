// SPDX-License-Identifier: MIT OR Apache-2.0
//! Courses of events beside a shrinker's life, each the use of something from its beginning to its end.

use abi::layout::kind;

/// Every story, as kinds of ops in their order; other ops come in between.
pub const STORIES: &[&[u8]] = &[
    // Files held open across free.
    &[
        kind::ALLOC,
        kind::REGISTER,
        kind::ADD_OBJECTS,
        kind::DEBUGFS_HOLD,
        kind::HELD_READ,
        kind::HELD_SCAN,
        kind::FREE,
        kind::HELD_SCAN,
        kind::RELEASE,
    ],
    // A name that changes while others look.
    &[kind::ALLOC, kind::RENAME, kind::REGISTER, kind::RENAME, kind::DEBUGFS_COUNT, kind::FREE],
    // Items whose group goes, and those they find themselves with.
    &[
        kind::MEMCG_CREATE,
        kind::MEMCG_ENTER,
        kind::ALLOC,
        kind::REGISTER,
        kind::LRU_ADD,
        kind::LRU_MAKE,
        kind::MEMCG_ENTER,
        kind::MEMCG_REMOVE,
        kind::LRU_PUT,
        kind::LRU_WALK_AS,
        kind::DROP_CACHES,
        kind::FREE,
    ],
    // A group inside a group.
    &[
        kind::MEMCG_CREATE,
        kind::MEMCG_NEST,
        kind::MEMCG_ENTER,
        kind::ALLOC,
        kind::REGISTER,
        kind::LRU_ADD,
        kind::MEMCG_RECLAIM,
        kind::MEMCG_REMOVE,
        kind::FREE,
    ],
    // Limits.
    &[
        kind::MEMCG_CREATE,
        kind::MEMCG_ENTER,
        kind::MEMCG_SWAP_MAX,
        kind::MEMCG_HIGH,
        kind::MEMCG_MAX,
        kind::PRESSURE,
        kind::MEMCG_RECLAIM_SWAP,
    ],
    // Ids.
    &[kind::PAD_IDS, kind::ALLOC, kind::MEMCG_CREATE, kind::REGISTER, kind::UNPAD, kind::ALLOC, kind::FREE],
    // Ids past the edge of a unit while many groups are there.
    &[kind::MEMCG_CROWD, kind::PAD, kind::ALLOC, kind::REGISTER, kind::DROP_CACHES, kind::UNPAD, kind::FREE],
    // One in use, wherever it lies: by a group that is younger, and by one that is older.
    &[
        kind::PAD_IDS,
        kind::ALLOC,
        kind::REGISTER,
        kind::MEMCG_CREATE,
        kind::MEMCG_ENTER,
        kind::LRU_ADD,
        kind::DROP_CACHES,
        kind::FREE,
        kind::UNPAD,
    ],
    &[
        kind::MEMCG_CREATE,
        kind::MEMCG_ENTER,
        kind::PAD_IDS,
        kind::ALLOC,
        kind::REGISTER,
        kind::LRU_ADD,
        kind::MEMCG_RECLAIM,
        kind::DROP_CACHES,
        kind::FREE,
        kind::UNPAD,
    ],
    // A superblock.
    &[
        kind::MOUNT,
        kind::TREE_MAKE,
        kind::TREE_LOOK,
        kind::TREE_HOLD,
        kind::DROP_CACHES,
        kind::TREE_REMOVE,
        kind::UMOUNT,
        kind::RELEASE,
    ],
    // A slab cache.
    &[
        kind::CACHE_CREATE,
        kind::CACHE_ALLOC,
        kind::CACHE_FREE,
        kind::CACHE_SHRINK,
        kind::SLAB_FILE,
        kind::CACHE_DESTROY,
    ],
    // A shrinker whose code, or whose data, goes with it.
    &[kind::MODULE_LOAD, kind::DROP_CACHES, kind::MODULE_UNLOAD],
    &[kind::OBJECT_NEW, kind::DROP_CACHES, kind::OBJECT_FREE],
    // Allocations that fail.
    &[kind::FAIL_NTH, kind::ALLOC, kind::FAIL_NTH, kind::REGISTER, kind::FAIL_NTH, kind::RENAME, kind::FREE],
    &[kind::FAIL_NTH, kind::MEMCG_CREATE, kind::FAIL_NTH, kind::LRU_ADD, kind::FAIL_NTH, kind::MOUNT],
    // Memory.
    &[kind::ALLOC, kind::REGISTER, kind::ADD_OBJECTS, kind::WATERMARK, kind::FREE],
    &[kind::ZSWAP, kind::SWAP_OUT, kind::DROP_CACHES, kind::ZSWAP],
    &[kind::THP_SPLIT, kind::THP_PIN, kind::DROP_CACHES, kind::THP_DROP, kind::DROP_CACHES],
];
