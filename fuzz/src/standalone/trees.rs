// SPDX-License-Identifier: MIT OR Apache-2.0
//! Superblocks, dentries and inodes without this tool.

use abi::layout::{Op, kind};

use super::{
    debugfs::FIRST_FD,
    form::{Context, Form, Reason, name_of},
};

/// The form of an op on superblocks.
pub(super) fn form(op: &Op, _: Context<'_>) -> Option<Result<Form, Reason>> {
    let (at, n) = (op.a, op.b);
    let point = format!("\"$tmp/mnt{at}\"");
    let form = match op.kind {
        kind::FILES => Form::line(format!("make_and_forget_files {at}")).with(&["files"]),
        kind::MOUNT => match name_of(op, "fs") {
            "tmpfs" => Form::line(format!("mount -t tmpfs -o size=1m,nr_inodes=256 st {point}")),
            "ramfs" => Form::line(format!("mount -t ramfs st {point}")),
            _ => Form::line(format!("mount_ext4 {at}"))
                .with(&["ext4"])
                .needs(&["CONFIG_EXT4_FS", "CONFIG_BLK_DEV_RAM"]),
        },
        kind::UMOUNT => {
            let how = match name_of(op, "how") {
                "lazy" => "-l ",
                "force" => "-f ",
                _ => "",
            };
            Form::line(format!("umount {how}{point}"))
        }
        kind::REMOUNT => Form::line(format!("mount -o remount,{} {point}", name_of(op, "as"))),
        kind::TREE_MAKE => {
            Form::line(format!("make_entries {at} {n} {}", name_of(op, "entry"))).with(&["tree_make"])
        }
        kind::TREE_REMOVE => Form::line(format!("remove_entries {at} {n}")).with(&["tree_remove"]),
        kind::TREE_LOOK => Form::line(format!("look_up_missing {at} {n}")).with(&["tree_look"]),
        kind::TREE_HOLD => {
            Form::line(format!("command exec {}< \"$tmp/mnt{}/{}\"", FIRST_FD + op.a, op.b, op.c))
        }
        _ => return None,
    };
    Some(Ok(if op.kind == kind::FILES { form.with(&["tmp"]) } else { form.with(&["tmp", "mounts"]) }))
}
