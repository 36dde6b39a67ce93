// SPDX-License-Identifier: MIT OR Apache-2.0
//! An outcome for a terminal: a line a step, a line a check that did not simply pass, the verdict last.
//!
//! CI systems look for commands in what their jobs print, so no line of a guest's begins with `::` here, and see
//! [`view::without_commands`].

use std::fmt::Write as _;

use super::{
    outcome::{Check, Outcome, Status, Step},
    view,
};

/// Lines of details that a failure shows.
const DETAIL_LINES_MAX: usize = 6;

/// The whole; its last line is `PASS: why`, `FAIL: why` or `UNSURE: why`.
pub fn render(outcome: &Outcome) -> String {
    let mut out = String::new();
    let width = outcome.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
    for step in &outcome.steps {
        write_step(&mut out, outcome, step, width);
    }
    let _ = writeln!(out, "again: {}", view::line(&outcome.command));
    let _ = writeln!(out, "{}: {}", view::verdict(outcome.verdict), view::line(&outcome.why));
    view::without_commands(&out)
}

fn write_step(out: &mut String, outcome: &Outcome, step: &Step, width: usize) {
    let (name, word) = (view::line(&step.name), view::step_word(step));
    if step.checks.is_empty() {
        let _ = writeln!(out, "{name:width$}  {word}");
        return;
    }
    let _ = writeln!(out, "{name:width$}  {word:6} {:8.1} s", step.seconds);
    for check in step.checks.iter().filter(|check| check.status != Status::Pass) {
        write_check(out, outcome, check);
    }
}

fn write_check(out: &mut String, outcome: &Outcome, check: &Check) {
    let name = view::line(&check.name);
    let line = format!("  {:6} {name}: {}", view::loud(check.status), view::sentence(outcome, check));
    let _ = writeln!(out, "{}", line.trim_end_matches([':', ' ']));
    if check.status == Status::Fail {
        for line in view::details(check, DETAIL_LINES_MAX) {
            let _ = writeln!(out, "         | {line}");
        }
    }
    if let Some(kept) = view::kept(check).filter(|_| check.status >= Status::Unsure) {
        let _ = writeln!(out, "         {kept}");
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::example;
    use super::*;

    #[test]
    fn a_person_sees_what_is_wrong_and_no_terminal_or_log_reader_obeys_it() {
        let text = render(&example::outcome());
        assert!(!text.lines().any(|line| line.trim_start().starts_with("::")) && !text.contains("##"));
        expect![[r#"
            hygiene      note        1.2 s
              note   checkpatch: 1/2 mm/shrinker.c:12: line over 100 columns, no blank
            build        FAIL       61.0 s
              FAIL   W=1 mm/vmscan.c: 2/2 mm/vm,scan:1.c:321: unused variable 'x' # SKIP 100%
                     | mm/vmscan.c:321:6: warning: unused variable 'x' [-Wunused-variable]
                     |   321 |     int x;
            boot         pass        4.0 s
            scenarios    skip       33.3 s
              skip   memcg: - no CONFIG_MEMCG #1
              fixed  umount-latency: INFO: task hung in shrinker_free
            corpus       FAIL      120.0 s
              old    replay 17: WARNING in do_shrink_slab
              FAIL   replay #18\n<b>\u{1b}[1m: SKIP KASAN: slab-use-after-free # SKIP <script>alert('1')</script> ]]> ::error::x # #[stop-commands]y \u{1b}[31m\u{7}\u{2028}￿� & "q"\nok 2
                     | ok 1 all is well
                     | KTAP version 1
                     | 1..9
                     | # Subtest: boot
                     | ::error file=a::b
                     | ::stop-commands::x
                     | … 11 more lines
                     kept in findings/0001-<b>
            campaign     UNSURE    120.0 s
              UNSURE campaign: 2 of 8 minutes: the guest was lost # SKIP
                     kept in campaign
            performance  not come to
            again: cargo xtask gate --instance kasan-6.12 series.mbx
            FAIL: build: W=1 mm/vmscan.c: unused variable 'x' # SKIP 100% (and 1 more)
        "#]].assert_eq(&text);
    }
}
