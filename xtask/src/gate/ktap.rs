// SPDX-License-Identifier: MIT OR Apache-2.0
//! An outcome as KTAP, version 1 (`Documentation/dev-tools/ktap.rst`): a subtest a step, in it a line a check.
//!
//! Written for the kernel's own reader, `tools/testing/kunit/kunit_parser.py`, which is stricter than the document in some
//! places and laxer in others:
//!
//! - ` # SKIP` anywhere in a result line makes it a skipped one, so no number sign of a text may stay in such a line, and
//!   what is said of a failure stands in lines of its own before it.
//! - `# Subtest: name` is a header and not a comment; and with such a header a check called like its step would end the
//!   step. So there are none (the document has none either), and comments are indented by more than one space.
//! - Some phrases end everything wherever they stand: a kernel says them when it goes down. See [`END_PHRASES`].

use std::fmt::Write as _;

use super::{
    outcome::{Check, Outcome, Status, Step},
    view,
};

/// Lines of details before a failure's result line.
const DETAIL_LINES_MAX: usize = 60;

/// What `KTAP_END` of the kernel's reader finds, and what stands here instead.
const END_PHRASES: [(&str, &str); 3] = [
    ("List of all partitions:", "List of all partitions :"),
    ("Kernel panic - not syncing: VFS:", "Kernel panic - not syncing: VFS :"),
    ("reboot: System halted", "reboot : System halted"),
];

/// The whole.
pub fn render(outcome: &Outcome) -> String {
    let mut out = format!("KTAP version 1\n1..{}\n", outcome.steps.len());
    for (idx, step) in outcome.steps.iter().enumerate() {
        write_step(&mut out, outcome, step, idx + 1);
    }
    let why = format!("{}: {}", view::verdict(outcome.verdict), view::line(&outcome.why));
    let _ = write!(out, "#   {why}\n#   again: {}\n", view::line(&outcome.command));
    let out = END_PHRASES.iter().fold(out, |out, (phrase, instead)| out.replace(phrase, instead));
    view::without_commands(&out)
}

fn write_step(out: &mut String, outcome: &Outcome, step: &Step, number: usize) {
    let name = description(&step.name);
    if step.checks.is_empty() {
        let _ = writeln!(out, "ok {number} {name} # SKIP {}", view::NOT_COME_TO);
        return;
    }
    let _ = write!(out, "  KTAP version 1\n  1..{}\n", step.checks.len());
    for (idx, check) in step.checks.iter().enumerate() {
        write_check(out, outcome, check, idx + 1);
    }
    let is = |status: Status| move |check: &Check| check.status == status;
    let any = |status| step.checks.iter().any(is(status));
    let _ = match step.checks.iter().all(is(Status::Skip)) {
        true => writeln!(out, "ok {number} {name} # SKIP"),
        false if any(Status::Fail) || any(Status::Unsure) => writeln!(out, "not ok {number} {name}"),
        false => writeln!(out, "ok {number} {name}"),
    };
}

fn write_check(out: &mut String, outcome: &Outcome, check: &Check, number: usize) {
    let (name, said) = (description(&check.name), view::sentence(outcome, check));
    let is_in_result = matches!(check.status, Status::Skip | Status::Unsure);
    if !is_in_result && !said.is_empty() {
        let _ = writeln!(out, "  #   {}: {said}", view::word(check.status));
    }
    if check.status >= Status::Unsure {
        for line in view::body(check, DETAIL_LINES_MAX) {
            let _ = writeln!(out, "  #   {line}");
        }
    }
    let data = description(&said);
    let _ = match check.status {
        Status::Fail => writeln!(out, "  not ok {number} {name}"),
        Status::Unsure => writeln!(out, "  not ok {number} {name} # ERROR {data}"),
        Status::Skip => writeln!(out, "  ok {number} {name} # SKIP {data}"),
        Status::Pass | Status::Fixed | Status::Note | Status::Old => writeln!(out, "  ok {number} {name}"),
    };
}

/// What may stand in a result line: one line, no number sign.
fn description(text: &str) -> String {
    view::line(text).replace('#', "\\u{23}")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::example;
    use super::*;

    #[test]
    fn steps_are_nested_and_no_text_passes_for_a_result() {
        expect![[r#"
            KTAP version 1
            1..7
              KTAP version 1
              1..2
              ok 1 applies
              #   note: 1/2 mm/shrinker.c:12: line over 100 columns, no blank
              ok 2 checkpatch
            ok 1 hygiene
              KTAP version 1
              1..2
              ok 1 bzImage
              #   fail: 2/2 mm/vm,scan:1.c:321: unused variable 'x' # SKIP 100%
              #   mm/vmscan.c:321:6: warning: unused variable 'x' [-Wunused-variable]
              #     321 |     int x;
              not ok 2 W=1 mm/vmscan.c
            not ok 2 build
              KTAP version 1
              1..1
              #   pass: clean console
              ok 1 boot
            ok 3 boot
              KTAP version 1
              1..2
              ok 1 memcg # SKIP - no CONFIG_MEMCG \u{23}1
              #   fixed: INFO: task hung in shrinker_free
              ok 2 umount-latency
            ok 4 scenarios
              KTAP version 1
              1..2
              #   old: WARNING in do_shrink_slab
              ok 1 replay 17
              #   fail: SKIP KASAN: slab-use-after-free # SKIP <script>alert('1')</script> ]]> ::error::x # #[stop-commands]y \u{1b}[31m\u{7}\u{2028}￿� & "q"\nok 2
              #   ok 1 all is well
              #   KTAP version 1
              #   1..9
              #   # Subtest: boot
              #   ::error file=a::b
              #   ::stop-commands::x
              #   # #[add-mask]a
              #   ]]></failure></testcase>
              #   </pre><img src=x onerror=alert(1)>
              #   ````
              #   [[ATTACHMENT|/etc/passwd]] @all https://example.org
              #   Kernel panic - not syncing: VFS : Unable to mount root fs
              #   reboot : System halted
              #   List of all partitions :
              #   \u{1b}]0;title\u{7}\u{202e}txt
              #   	tab
              #   100% a,b:c
              #   kept in findings/0001-<b>
              not ok 2 replay \u{23}18\n<b>\u{1b}[1m
            not ok 5 corpus
              KTAP version 1
              1..1
              #   the guest went away
              #   kept in campaign
              not ok 1 campaign # ERROR 2 of 8 minutes: the guest was lost \u{23} SKIP
            not ok 6 campaign
            ok 7 performance # SKIP not come to
            #   FAIL: build: W=1 mm/vmscan.c: unused variable 'x' # SKIP 100% (and 1 more)
            #   again: cargo xtask gate --instance kasan-6.12 series.mbx
        "#]].assert_eq(&render(&example::outcome()));
    }
}
