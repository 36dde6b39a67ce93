// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Ops that reclaim, or make the kernel want to.

use super::{
    Field, OpSpec,
    args::{NID, named, number},
    op,
};
use crate::layout::kind;

pub(super) const OPS: &[OpSpec] = &[
    op(
        kind::DROP_CACHES,
        "drop_caches",
        8,
        &[named("what", Field::A, &["slab", "pages", "all"])],
        "write to drop_caches ({what})",
    ),
    op(
        kind::PRESSURE,
        "pressure",
        2,
        &[number("kib", Field::A, 64, 4096)],
        "touch {kib} KiB of anonymous memory",
    )
    .dear(),
    op(
        kind::NODE_RECLAIM,
        "node_reclaim",
        1,
        &[NID, number("kib", Field::A, 4, 256)],
        "write {kib} KiB to reclaim of node {nid}",
    )
    .dear(),
    op(
        kind::WATERMARK,
        "watermark",
        1,
        &[
            named("by", Field::A, &["kswapd", "direct"]),
            number("kib", Field::B, 4, 64),
            number("us", Field::C, 10, 1000),
        ],
        "raise the watermarks above what is free, touch {kib} KiB, give kswapd {us} us ({by})",
    )
    .dear(),
    op(
        kind::SWAP_OUT,
        "swap_out",
        1,
        &[number("kib", Field::A, 4, 128)],
        "swap {kib} KiB of anonymous memory out and in",
    )
    .dear(),
    op(kind::ZSWAP, "zswap", 1, &[named("set", Field::A, &["off", "on", "shrinker"])], "zswap: {set}"),
    op(
        kind::THP_SPLIT,
        "thp_split",
        1,
        &[number("pages", Field::A, 1, 511)],
        "touch a huge page, unmap its first {pages} small pages and keep the rest",
    )
    .dear(),
    op(
        kind::THP_PIN,
        "thp_pin",
        1,
        &[],
        "have a pipe hold the first page of what thp_split keeps, so that reclaim cannot split the huge page",
    ),
    op(kind::THP_DROP, "thp_drop", 1, &[], "unmap what thp_split keeps, and let go of it"),
];
