// SPDX-License-Identifier: MIT OR Apache-2.0
//! `list_lru` without this tool.

use abi::layout::{Op, kind, lru_mode, verdict};

use super::form::{Context, Form, Reason};

const VERDICTS: [&str; verdict::STOP as usize + 1] =
    ["LRU_REMOVED", "LRU_REMOVED_RETRY", "LRU_ROTATE", "LRU_SKIP", "LRU_RETRY", "LRU_STOP"];

/// The form of an op on a `list_lru`.
pub(super) fn form(op: &Op, context: Context<'_>) -> Option<Result<Form, Reason>> {
    let (slot, nid, n) = (format!("&slots[{}]", op.slot), op.nid, op.a);
    let form = match op.kind {
        kind::LRU_ADD if op.a == lru_mode::MEMCG => {
            Form::call(format!("do_lru_add_by_memcg({slot}, {nid}, {});", op.b)).with(&["lru_add_memcg"])
        }
        kind::LRU_ADD => {
            Form::call(format!("do_lru_add({slot}, {});", op.b)).with(&["lru_add_obj", "add_one"])
        }
        kind::LRU_MAKE => Form::call(format!("do_lru_make({slot}, {n});")).with(&["lru_make"]),
        kind::LRU_PUT => Form::call(format!("do_lru_put({slot}, {n});")).with(&["lru_put"]),
        kind::LRU_DEL => Form::call(format!("do_lru_del({slot}, {n});")).with(&["lru_del"]),
        kind::LRU_WALK => Form::call(format!("do_lru_walk({slot}, {nid}, {n});")).with(&["lru_walk"]),
        kind::LRU_WALK_AS => {
            let verdict = VERDICTS[op.a as usize % VERDICTS.len()];
            Form::call(format!("do_lru_walk_as({slot}, {nid}, {}, {verdict});", op.b))
                .with(&["lru_walk_as", "walk_unlocks"])
        }
        _ => return None,
    };
    let adds = |op: &Op| op.kind == kind::LRU_ADD || op.kind == kind::LRU_MAKE;
    Some(if !context.has_slot(op.slot) {
        Err("that slot never gets a shrinker")
    } else if !context.has(|other| adds(other) && context.has_slot(other.slot)) {
        Err("no list ever has an item")
    } else {
        Ok(form.with(&["items", "lru"]))
    })
}
