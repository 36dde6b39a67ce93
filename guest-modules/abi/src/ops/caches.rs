// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Ops on slab caches.

use super::{
    ArgSpec, Field, OpSpec,
    args::{CACHE, flags, named, number},
    op,
};
use crate::layout::{SLAB_FILES, kind};

const N: ArgSpec = number("n", Field::B, 1, 64);

pub(super) const OPS: &[OpSpec] = &[
    op(
        kind::CACHE_CREATE,
        "cache_create",
        1,
        &[CACHE, flags(Field::B, &["ctor", "account", "reclaim"]), number("size", Field::C, 8, 4096)],
        "kmem_cache_create({flags}) of cache {cache}, {size} bytes an object",
    ),
    op(kind::CACHE_ALLOC, "cache_alloc", 1, &[CACHE, N], "kmem_cache_alloc() {n} objects of cache {cache}"),
    op(kind::CACHE_FREE, "cache_free", 1, &[CACHE, N], "kmem_cache_free() {n} objects of cache {cache}"),
    op(kind::CACHE_SHRINK, "cache_shrink", 1, &[CACHE], "kmem_cache_shrink() cache {cache}"),
    op(kind::CACHE_DESTROY, "cache_destroy", 1, &[CACHE], "kmem_cache_destroy() cache {cache}"),
    op(
        kind::SLAB_FILE,
        "slab_file",
        1,
        &[CACHE, named("file", Field::B, &SLAB_FILES)],
        "use /sys/kernel/slab/.../{file} of cache {cache}",
    ),
];
