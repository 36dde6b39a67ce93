// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory cgroups without this tool.

use abi::layout::{MEMCG_ROOT, Op, kind};

use super::form::{Context, Form, Reason};

/// The form of an op on memory cgroups.
pub(super) fn form(op: &Op, context: Context<'_>) -> Option<Result<Form, Reason>> {
    let (memcg, n) = (op.memcg, op.a);
    let set =
        |file: &str, value: &str| on(op.memcg, context, |group| format!("echo {value} > \"{group}/{file}\""));
    let form = match op.kind {
        kind::MEMCG_CREATE => Form::line(format!("mkdir \"$groups/{memcg}\"")),
        kind::MEMCG_NEST => {
            let outer = memcg.saturating_sub(2);
            Form::line(format!("echo +memory > \"$groups/{outer}/cgroup.subtree_control\""))
                .and_line(format!("mkdir \"$groups/{outer}/{memcg}\""))
        }
        kind::MEMCG_CROWD => Form::line(format!("crowd {n}")).with(&["crowd"]),
        kind::MEMCG_REMOVE => on(memcg, context, |group| format!("rmdir \"{group}\"")),
        kind::MEMCG_ENTER => set("cgroup.procs", "0"),
        kind::MEMCG_RECLAIM => set("memory.reclaim", &format!("{n}K")),
        kind::MEMCG_RECLAIM_SWAP => set("memory.reclaim", &format!("\"{n}K swappiness={}\"", op.b)),
        kind::MEMCG_MAX => set("memory.max", &format!("{n}K")),
        kind::MEMCG_HIGH => set("memory.high", &format!("{n}K")),
        kind::MEMCG_SWAP_MAX => set("memory.swap.max", &format!("{n}K")),
        _ => return None,
    };
    Some(Ok(form.with(&["cgroup", "groups"]).needs(&["CONFIG_MEMCG"])))
}

/// A line that does something with a group's folder, wherever that is.
fn on(memcg: u8, context: Context<'_>, line: impl Fn(&str) -> String) -> Form {
    if memcg >= MEMCG_ROOT {
        return Form::line(line("$cgroup"));
    }
    if is_nested(memcg, context) {
        return Form::line(format!("find_group {memcg}")).and_line(line("$g")).with(&["nest"]);
    }
    Form::line(line(&format!("$groups/{memcg}")))
}

/// Whether a group may lie inside another.
pub(super) fn is_nested(memcg: u8, context: Context<'_>) -> bool {
    context.has(|op| op.kind == kind::MEMCG_NEST && op.memcg == memcg)
}
