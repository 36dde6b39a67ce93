// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shrinkers' debugfs files without this tool. A handle is a file descriptor of the thread's shell.

use abi::layout::{MEMCG_ROOT, Op, SCAN_TEXTS, kind};

use super::{
    form::{Context, Form, Reason, name_of},
    groups,
};

/// The first file descriptor that is a handle.
pub(super) const FIRST_FD: u32 = 5;

/// The form of an op on debugfs.
pub(super) fn form(op: &Op, context: Context<'_>) -> Option<Result<Form, Reason>> {
    let fd = FIRST_FD + op.a;
    let is_slotted =
        !matches!(op.kind, kind::DEBUGFS_WALK | kind::HELD_READ | kind::HELD_SCAN | kind::RELEASE);
    let folder = Form::line(format!("find_shrinker {}", op.slot)).with(&["shrinker_dir"]);
    let form = match op.kind {
        kind::DEBUGFS_COUNT => folder.and_line("cat \"$dir/count\" > /dev/null"),
        kind::DEBUGFS_SCAN => with_ino(folder, op.memcg, context, |ino| {
            format!("echo \"{ino} {} {}\" > \"$dir/scan\"", op.nid, op.a)
        }),
        kind::DEBUGFS_WRITE => match SCAN_TEXTS[op.a as usize % SCAN_TEXTS.len()] {
            "" => return Some(Err("the shell does not write an empty text")),
            text => folder.and_line(format!("printf '%s' '{text}' > \"$dir/scan\"")),
        },
        kind::DEBUGFS_WALK => Form::line("walk_debugfs").with(&["debugfs_walk"]),
        // `command` keeps the shell alive when there is no such file.
        kind::DEBUGFS_HOLD => {
            let (file, to) = if name_of(op, "file") == "count" { ("count", "<") } else { ("scan", ">") };
            folder.and_line(format!("command exec {fd}{to} \"$dir/{file}\""))
        }
        kind::HELD_READ => Form::call(format!("do_rewind({fd});"))
            .and_line(format!("cat <&{fd} > /dev/null"))
            .with(&["held_read"]),
        kind::HELD_SCAN => with_ino(Form::default(), op.memcg, context, |ino| {
            format!("echo \"{ino} {} {}\" >&{fd}", op.nid, op.b)
        }),
        kind::RELEASE => Form::line(format!("exec {fd}<&-")),
        _ => return None,
    };
    if is_slotted && !context.has_slot(op.slot) {
        return Some(Err("that slot never gets a shrinker"));
    }
    Some(Ok(form.with(&["debugfs", "shrinker_debug"]).needs(&["CONFIG_SHRINKER_DEBUG"])))
}

/// A line with the inode of a group in it; 0 stands for "no memcg".
fn with_ino(form: Form, memcg: u8, context: Context<'_>, line: impl Fn(&str) -> String) -> Form {
    if memcg >= MEMCG_ROOT {
        return form.and_line(line("0"));
    }
    let nest = if groups::is_nested(memcg, context) { "nest" } else { "ino" };
    form.and_line(format!("find_ino {memcg}"))
        .and_line(line("$ino"))
        .with(&["ino", nest, "cgroup", "groups"])
        .needs(&["CONFIG_MEMCG"])
}
