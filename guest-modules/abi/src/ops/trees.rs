// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Ops on superblocks, and on dentries and inodes in use.

use super::{
    ArgSpec, Field, OpSpec,
    args::{HANDLE, MOUNT, named, number},
    op,
};
use crate::layout::{N_MOUNTS, kind};

const N: ArgSpec = number("n", Field::B, 1, 16);

pub(super) const OPS: &[OpSpec] = &[
    op(kind::FILES, "files", 2, &[number("n", Field::A, 1, 8)], "create and forget {n} files on tmpfs")
        .dear(),
    op(
        kind::MOUNT,
        "mount",
        2,
        &[MOUNT, named("fs", Field::B, &["tmpfs", "ramfs", "ext4"])],
        "mount {fs} on mount point {mount}",
    )
    .dear(),
    op(
        kind::UMOUNT,
        "umount",
        2,
        &[MOUNT, named("how", Field::B, &["plain", "lazy", "force"])],
        "unmount mount point {mount} ({how})",
    )
    .dear(),
    op(
        kind::REMOUNT,
        "remount",
        1,
        &[MOUNT, named("as", Field::B, &["ro", "rw"])],
        "remount mount point {mount} {as}",
    ),
    op(
        kind::TREE_MAKE,
        "tree_make",
        2,
        &[MOUNT, N, named("entry", Field::C, &["file", "data", "folder", "link"])],
        "create {n} entries ({entry}) at mount point {mount}",
    )
    .dear(),
    op(kind::TREE_REMOVE, "tree_remove", 1, &[MOUNT, N], "remove {n} entries at mount point {mount}").dear(),
    op(kind::TREE_LOOK, "tree_look", 1, &[MOUNT, N], "look up {n} missing names at mount point {mount}"),
    op(
        kind::TREE_HOLD,
        "tree_hold",
        1,
        &[HANDLE, number("mount", Field::B, 0, N_MOUNTS as u32 - 1), number("entry", Field::C, 0, 15)],
        "open entry {entry} at mount point {mount} as handle {handle}",
    ),
];
