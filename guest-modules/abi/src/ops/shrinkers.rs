// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Ops on shrinkers: alloc, register, free, and what they shrink.

use super::{
    ArgSpec, Field, OpSpec,
    args::{NID, OBJECT, SLOT, flags, named, number},
    op,
};
use crate::layout::{behave, delay, kind};

const BEHAVE: ArgSpec =
    named("returns", Field::A, &["honest", "zero", "stop", "lie", "half", "part", "fitful"]);
const DELAY: ArgSpec =
    named("delay", Field::B, &["none", "sleep", "spin", "yield", "alloc", "lock", "trylock", "other"]);
const DELAY_NS: ArgSpec = number("ns", Field::C, 0, 500_000);
const ALLOC_FLAGS: &[&str] = &["numa", "memcg", "nonslab", "count_only", "plain_lru"];
const _: () = assert!(behave::N == 7 && delay::N == 8);

pub(super) const OPS: &[OpSpec] = &[
    op(
        kind::ALLOC,
        "alloc",
        10,
        &[SLOT, flags(Field::A, ALLOC_FLAGS), number("name", Field::B, 0, 7)],
        "shrinker_alloc({flags}) into slot {slot}",
    ),
    op(
        kind::SET_SEEKS,
        "set_seeks",
        2,
        &[SLOT, number("seeks", Field::A, 0, 16)],
        "set seeks of the unregistered shrinker in slot {slot} to {seeks}",
    ),
    op(
        kind::SET_BATCH,
        "set_batch",
        2,
        &[SLOT, number("batch", Field::A, 0, 4096)],
        "set batch of the unregistered shrinker in slot {slot} to {batch}",
    ),
    op(kind::REGISTER, "register", 10, &[SLOT], "shrinker_register() the shrinker in slot {slot}"),
    op(
        kind::RENAME,
        "rename",
        2,
        &[SLOT, number("name", Field::A, 0, 7)],
        "shrinker_debugfs_rename() the shrinker in slot {slot} to name {name}",
    ),
    op(kind::FREE, "free", 10, &[SLOT], "shrinker_free() the shrinker in slot {slot}"),
    op(
        kind::ADD_OBJECTS,
        "add_objects",
        6,
        &[SLOT, NID, number("n", Field::A, 1, 4096)],
        "the cache of slot {slot} gains {n} objects on node {nid}",
    ),
    op(
        kind::DEL_OBJECTS,
        "del_objects",
        2,
        &[SLOT, NID, number("n", Field::A, 1, 4096)],
        "the cache of slot {slot} loses {n} objects on node {nid}",
    ),
    op(
        kind::SET_COUNT,
        "set_count",
        4,
        &[SLOT, BEHAVE, DELAY, DELAY_NS],
        "count_objects() of slot {slot} returns {returns} after delay {delay} of {ns} ns",
    ),
    op(
        kind::SET_SCAN,
        "set_scan",
        4,
        &[SLOT, BEHAVE, DELAY, DELAY_NS],
        "scan_objects() of slot {slot} returns {returns} after delay {delay} of {ns} ns",
    ),
    op(
        kind::PAD_IDS,
        "pad_ids",
        1,
        &[number("to", Field::A, 0, 63), named("do", Field::B, &["alloc", "register"])],
        "{do} memcg-aware shrinkers until the next id modulo 64 is {to}",
    )
    .dear(),
    op(
        kind::PAD,
        "pad",
        1,
        &[number("n", Field::A, 1, 256), named("do", Field::B, &["alloc", "register"])],
        "{do} {n} memcg-aware shrinkers",
    )
    .dear(),
    op(
        kind::UNPAD,
        "unpad",
        1,
        &[number("n", Field::A, 1, 4096), named("which", Field::B, &["first", "last", "second"])],
        "free {n} shrinkers of pad and pad_ids: {which}",
    )
    .dear(),
    op(
        kind::OBJECT_NEW,
        "object_new",
        2,
        &[OBJECT, flags(Field::B, &["numa", "memcg", "nonslab"]), number("n", Field::C, 0, 4096)],
        "make object {object} with a shrinker ({flags}) of its own and {n} things to shrink",
    ),
    op(kind::OBJECT_FREE, "object_free", 2, &[OBJECT], "free object {object} and its shrinker"),
    op(
        kind::MODULE_LOAD,
        "module_load",
        1,
        &[],
        "load the module whose init registers shrinkers and whose exit frees them",
    )
    .dear(),
    op(kind::MODULE_UNLOAD, "module_unload", 1, &[], "unload the module that has shrinkers").dear(),
];
