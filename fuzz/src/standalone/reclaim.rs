// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reclaim without this tool.

use abi::layout::{Op, kind, zswap};

use super::form::{Context, Form, Reason, name_of};

/// The form of an op that reclaims.
pub(super) fn form(op: &Op, _: Context<'_>) -> Option<Result<Form, Reason>> {
    let n = op.a;
    Some(match op.kind {
        kind::DROP_CACHES => {
            let what = match name_of(op, "what") {
                "pages" => 1,
                "slab" => 2,
                _ => 3,
            };
            Ok(Form::line(format!("echo {what} > /proc/sys/vm/drop_caches")))
        }
        kind::PRESSURE => Ok(Form::call(format!("do_touch({n} << 10);")).with(&["touch"])),
        kind::NODE_RECLAIM => {
            Ok(Form::line(format!("echo {n}K > /sys/devices/system/node/node{}/reclaim", op.nid)))
        }
        kind::WATERMARK => Ok(Form::line(format!("make_scarce {}", name_of(op, "by")))
            .and_call(format!("do_touch({} << 10);", op.b))
            .and_call(format!("usleep_range({0}, {0} + 10);", op.c))
            .and_line("make_plenty")
            .with(&["watermark", "touch", "sleep"])),
        kind::ZSWAP => Ok(zswap(op.a)),
        kind::SWAP_OUT => Err("it takes madvise(MADV_PAGEOUT)"),
        kind::THP_SPLIT | kind::THP_PIN | kind::THP_DROP => Err("it takes madvise(MADV_HUGEPAGE)"),
        _ => return None,
    })
}

fn zswap(set: u32) -> Form {
    let yes_or_no = |yes: bool| if yes { "Y" } else { "N" };
    let (shrinker, enabled) = (yes_or_no(set == zswap::SHRINKER), yes_or_no(set != zswap::OFF));
    Form::line(format!("echo {shrinker} > /sys/module/zswap/parameters/shrinker_enabled"))
        .and_line(format!("echo {enabled} > /sys/module/zswap/parameters/enabled"))
        .with(&["zswap"])
        .needs(&["CONFIG_ZSWAP"])
}
