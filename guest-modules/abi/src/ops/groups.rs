// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Ops on memory cgroups.

use super::{
    Field, OpSpec,
    args::{GROUP, MEMCG, number},
    op,
};
use crate::layout::kind;

pub(super) const OPS: &[OpSpec] = &[
    op(kind::MEMCG_CREATE, "memcg_create", 4, &[GROUP], "mkdir of cgroup {memcg}").dear(),
    op(
        kind::MEMCG_NEST,
        "memcg_nest",
        1,
        &[number("memcg", Field::Memcg, 2, 3)],
        "mkdir of cgroup {memcg} inside the one two below",
    )
    .dear(),
    op(
        kind::MEMCG_CROWD,
        "memcg_crowd",
        1,
        &[number("n", Field::A, 1, 64)],
        "mkdir of {n} cgroups more, which stay empty",
    )
    .dear(),
    op(kind::MEMCG_REMOVE, "memcg_remove", 3, &[GROUP], "rmdir of cgroup {memcg}"),
    op(kind::MEMCG_ENTER, "memcg_enter", 4, &[MEMCG], "this thread moves into cgroup {memcg}"),
    op(
        kind::MEMCG_RECLAIM,
        "memcg_reclaim",
        4,
        // Of the root group it takes a hundred times as long; drop_caches reaches the same shrinkers.
        &[GROUP, number("kib", Field::A, 4, 4096)],
        "write {kib} KiB to memory.reclaim of cgroup {memcg}",
    )
    .dear(),
    op(
        kind::MEMCG_RECLAIM_SWAP,
        "memcg_reclaim_swap",
        1,
        &[GROUP, number("kib", Field::A, 4, 4096), number("swappiness", Field::B, 0, 200)],
        "write {kib} KiB swappiness={swappiness} to memory.reclaim of cgroup {memcg}",
    )
    .dear(),
    op(
        kind::MEMCG_MAX,
        "memcg_max",
        1,
        &[GROUP, number("kib", Field::A, 512, 4096)],
        "set memory.max of cgroup {memcg} to {kib} KiB",
    )
    .dear(),
    op(
        kind::MEMCG_HIGH,
        "memcg_high",
        1,
        // Far above the limit a task is put to sleep for up to two seconds.
        &[GROUP, number("kib", Field::A, 256, 4096)],
        "set memory.high of cgroup {memcg} to {kib} KiB",
    )
    .dear(),
    op(
        kind::MEMCG_SWAP_MAX,
        "memcg_swap_max",
        1,
        &[GROUP, number("kib", Field::A, 0, 4096)],
        "set memory.swap.max of cgroup {memcg} to {kib} KiB",
    ),
];
