// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Ops on the `list_lru` of a slot.

use super::{
    ArgSpec, Field, OpSpec,
    args::{NID, SLOT, named, number},
    op,
};
use crate::layout::{kind, lru_mode, verdict};

const N: ArgSpec = number("n", Field::A, 1, 16);
const VERDICTS: &[&str] = &["removed", "removed_retry", "rotate", "skip", "retry", "stop"];
const _: () = assert!(lru_mode::N == 2 && verdict::STOP as usize == VERDICTS.len() - 1);

pub(super) const OPS: &[OpSpec] = &[
    op(
        kind::LRU_ADD,
        "lru_add",
        8,
        &[SLOT, NID, named("by", Field::A, &["obj", "memcg"]), number("n", Field::B, 1, 16)],
        "list_lru_add() {n} items to the lru of slot {slot}, filed by {by} (node {nid})",
    ),
    op(kind::LRU_DEL, "lru_del", 4, &[SLOT, N], "list_lru_del_obj() {n} items of slot {slot}"),
    op(
        kind::LRU_WALK,
        "lru_walk",
        2,
        &[SLOT, NID, number("n", Field::A, 1, 64)],
        "list_lru_walk_node() over node {nid} of slot {slot}, isolating {n} items",
    ),
    op(
        kind::LRU_WALK_AS,
        "lru_walk_as",
        2,
        &[SLOT, NID, named("verdict", Field::A, VERDICTS), number("n", Field::B, 1, 64)],
        "list_lru_walk_node() over {n} items on node {nid} of slot {slot}, each {verdict}",
    ),
    op(
        kind::LRU_MAKE,
        "lru_make",
        2,
        &[SLOT, N],
        "allocate {n} items for the lru of slot {slot}, charged to this thread's cgroup",
    ),
    op(kind::LRU_PUT, "lru_put", 2, &[SLOT, N], "list_lru_add_obj() {n} items of lru_make to slot {slot}"),
];
