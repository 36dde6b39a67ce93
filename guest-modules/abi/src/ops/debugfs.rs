// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Ops on the shrinkers' debugfs files.

use super::{
    Field, OpSpec,
    args::{HANDLE, MEMCG, NID, SLOT, named, number},
    op,
};
use crate::layout::{SCAN_TEXTS, kind};

pub(super) const OPS: &[OpSpec] = &[
    op(kind::DEBUGFS_COUNT, "debugfs_count", 3, &[SLOT], "read the debugfs count file of slot {slot}"),
    op(
        kind::DEBUGFS_SCAN,
        "debugfs_scan",
        3,
        &[SLOT, MEMCG, NID, number("n", Field::A, 1, 4096)],
        "debugfs scan of slot {slot}: cgroup {memcg}, node {nid}, {n} objects",
    ),
    op(
        kind::DEBUGFS_WRITE,
        "debugfs_write",
        1,
        &[SLOT, number("text", Field::A, 0, SCAN_TEXTS.len() as u32 - 1)],
        "write text {text} of a table to the debugfs scan file of slot {slot}",
    ),
    op(kind::DEBUGFS_WALK, "debugfs_walk", 1, &[], "walk the debugfs tree").dear(),
    op(
        kind::DEBUGFS_HOLD,
        "debugfs_hold",
        2,
        &[HANDLE, SLOT, named("file", Field::B, &["count", "scan"])],
        "open the debugfs {file} file of slot {slot} as handle {handle}",
    ),
    op(kind::HELD_READ, "held_read", 2, &[HANDLE], "read handle {handle} from its beginning"),
    op(
        kind::HELD_SCAN,
        "held_scan",
        2,
        &[HANDLE, MEMCG, NID, number("n", Field::B, 0, u32::MAX)],
        "write to handle {handle}: cgroup {memcg}, node {nid}, {n} objects",
    ),
    op(kind::RELEASE, "release", 1, &[HANDLE], "close handle {handle}"),
];
