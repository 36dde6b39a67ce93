// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slab caches without this tool.

use abi::layout::{Op, cache_flag, kind};

use super::form::{Context, Form, Reason, name_of};

/// The form of an op on slab caches.
pub(super) fn form(op: &Op, context: Context<'_>) -> Option<Result<Form, Reason>> {
    let (at, n) = (op.a, op.b);
    let form = match op.kind {
        kind::CACHE_CREATE => create(op),
        kind::CACHE_ALLOC => Form::call(format!("do_cache_alloc({at}, {n});")).with(&["cache_alloc"]),
        kind::CACHE_FREE => Form::call(format!("do_cache_free({at}, {n});")).with(&["cache_free"]),
        kind::CACHE_SHRINK => Form::call(format!("do_cache_shrink({at});")).with(&["cache_shrink"]),
        kind::CACHE_DESTROY => Form::call(format!("do_cache_destroy({at});")),
        kind::SLAB_FILE => {
            let file = name_of(op, "file");
            let path = format!("/sys/kernel/slab/st-cache-{at}/{file}");
            Form::line(match file {
                "shrink" | "validate" => format!("echo 1 > {path}"),
                _ => format!("cat {path} > /dev/null"),
            })
        }
        _ => return None,
    };
    Some(if context.has(|other| other.kind == kind::CACHE_CREATE && other.a == at) {
        Ok(form.with(&["caches"]))
    } else {
        Err("that cache is never created")
    })
}

fn create(op: &Op) -> Form {
    let names = [(cache_flag::ACCOUNT, "SLAB_ACCOUNT"), (cache_flag::RECLAIM, "SLAB_RECLAIM_ACCOUNT")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| op.b & bit != 0).map(|(_, name)| *name).collect();
    let flags = if set.is_empty() { "0".to_owned() } else { set.join(" | ") };
    let has_ctor = op.b & cache_flag::CTOR != 0;
    let ctor = if has_ctor { "construct" } else { "NULL" };
    let call = format!("do_cache_create({0}, \"st-cache-{0}\", {1}, {flags}, {ctor});", op.a, op.c);
    let form = Form::call(call);
    if has_ctor { form.with(&["cache_ctor"]) } else { form }
}
