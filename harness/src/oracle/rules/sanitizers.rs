// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the sanitizers print.

use super::{ACCESS, Blame, Group, RULE, Rule, func};

/// Where KMSAN's bytes came from.
const ORIGIN: &str = r"^(?:Local variable .* created at:|Uninit was created at:)";

/// The other side of a race. Functions of modules are followed by the module.
macro_rules! other {
    () => {
        r"(?: \[[^\]]+\])?(?: / (?P<other>[A-Za-z_][\w.]*))?"
    };
}

/// In order: the first rule that matches a line names the report.
pub(super) const RULES: &[Rule] = &[
    // Sanitizers.
    Rule {
        name: "kasan-free",
        head: concat!(r"BUG: KASAN: (?:double-free or invalid-free|invalid-free|double-free) in ", func!()),
        title: "KASAN: invalid-free in {frame}",
        alts: &["KASAN: double-free in {frame}", "invalid-free in {frame}"],
        skip: &[Group::Free],
        blame: Blame::Named,
        ..RULE
    },
    Rule {
        name: "kasan",
        head: concat!(r"BUG: KASAN: (?P<tail>(?P<what>[a-z\- ]+?) in ", func!(), r"(?: at addr [0-9a-f]+)?)"),
        title: "KASAN: {what} {access} in {frame}",
        fallback: "KASAN: {tail}",
        alts: &["bad-access in {frame}"],
        also: &[ACCESS],
        blame: Blame::Named,
        ..RULE
    },
    Rule {
        name: "kasan-address",
        head: r"BUG: KASAN: (?P<what>[a-z\- ]+?) on address",
        title: "KASAN: {what} {access}",
        blame: Blame::Untold,
        also: &[ACCESS],
        ..RULE
    },
    Rule {
        name: "kasan-other",
        head: r"BUG: KASAN: (?P<what>.*)",
        title: "KASAN: {what}",
        blame: Blame::Orphan,
        ..RULE
    },
    Rule {
        name: "kfence-free",
        head: concat!(r"BUG: KFENCE: invalid free in ", func!()),
        title: "KFENCE: invalid free in {frame}",
        alts: &["invalid-free in {frame}"],
        blame: Blame::Named,
        ..RULE
    },
    Rule {
        name: "kfence",
        head: concat!(r"BUG: KFENCE: (?P<what>memory corruption) in ", func!()),
        title: "KFENCE: {what} in {frame}",
        blame: Blame::Named,
        ..RULE
    },
    Rule {
        name: "kfence-access",
        head: concat!(r"BUG: KFENCE: (?P<what>[a-z\- ]+?) in ", func!()),
        title: "KFENCE: {what} in {frame}",
        alts: &["bad-access in {frame}"],
        blame: Blame::Named,
        ..RULE
    },
    Rule {
        name: "kmsan-leak",
        head: concat!(r"BUG: KMSAN: (?P<what>kernel-[a-z\-]*infoleak[a-z\-]*) in ", func!()),
        title: "KMSAN: {what} in {frame}",
        alts: &["bad-access in {frame}"],
        skip: &[Group::Crypto, Group::Urb],
        blame: Blame::Named,
        needs: &[ORIGIN],
        ..RULE
    },
    Rule {
        name: "kmsan",
        head: concat!(r"BUG: KMSAN: (?P<what>[a-z\- ]+?) in ", func!()),
        title: "KMSAN: {what} in {frame}",
        alts: &["bad-access in {frame}"],
        skip: &[Group::Crypto],
        blame: Blame::Named,
        needs: &[ORIGIN],
        ..RULE
    },
    Rule {
        name: "kcsan-assert",
        head: concat!(r"BUG: KCSAN: assert: race in ", func!(), other!()),
        title: "KCSAN: assert: race in {frame} / {other}",
        blame: Blame::Head,
        ..RULE
    },
    Rule {
        name: "kcsan",
        head: concat!(r"BUG: KCSAN: data-race in ", func!(), other!()),
        title: "KCSAN: data-race in {frame} / {other}",
        blame: Blame::Head,
        ..RULE
    },
    Rule {
        name: "ubsan-old",
        head: r"UBSAN: Undefined behaviour in",
        title: "UBSAN: undefined-behaviour in {frame}",
        skip: &[Group::Overflow],
        ..RULE
    },
    Rule {
        name: "ubsan-index",
        head: r"UBSAN: array-index-out-of-bounds in",
        title: "UBSAN: array-index-out-of-bounds in {frame}",
        alts: &["bad-access in {frame}"],
        skip: &[Group::Overflow],
        ..RULE
    },
    Rule {
        name: "ubsan",
        head: r"UBSAN: (?P<what>[a-z\-]+) in",
        title: "UBSAN: {what} in {frame}",
        skip: &[Group::Overflow],
        ..RULE
    },
];
