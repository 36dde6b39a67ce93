// SPDX-License-Identifier: MIT OR Apache-2.0
//! An outcome for `b4 review`: what a command of `b4.review-series-check-cmd` prints, for the row of the cover letter.
//!
//! The format is defined in b4's `docs/maintainer/review.rst`, "CI check integration": an array of objects with `tool`,
//! `status` (`pass`, `warn` or `fail`, and what else is written is a failure), `summary`, `url` and `details`. It is read in
//! `src/b4/review/checks.py`, `_run_external_cmd()`. A tool is a column of the matrix and, with the message id, the primary
//! key of the cache: of two entries with one tool the last is seen. So a step is an entry, and its checks are details.

use serde::Serialize;

use super::{
    outcome::{Check, Outcome, Status, Step},
    view,
};

/// Lines of details a check.
const DETAIL_LINES_MAX: usize = 40;

/// A cell of b4's matrix.
#[derive(Serialize)]
struct Entry {
    tool: String,
    status: &'static str,
    summary: String,
    details: String,
}

/// The array. Steps that were not come to are no entries: b4 shows a dash there.
pub fn render(outcome: &Outcome) -> String {
    let steps = outcome.steps.iter().filter(|step| !step.checks.is_empty());
    let entries: Vec<Entry> = steps.map(|step| entry(outcome, step)).collect();
    serde_json::to_string_pretty(&entries).unwrap_or_default() + "\n"
}

fn entry(outcome: &Outcome, step: &Step) -> Entry {
    let mut details: Vec<String> = step.checks.iter().flat_map(|check| lines(outcome, check)).collect();
    details.push(format!("again: {}", view::line(&outcome.command)));
    Entry {
        tool: format!("gate-{}", view::line(&step.name)),
        status: step.checks.iter().map(|check| grade(check.status)).max().unwrap_or(Grade::Pass).word(),
        summary: summary(outcome, step),
        details: details.join("\n"),
    }
}

/// b4's three statuses, the worst last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Pass,
    Warn,
    Fail,
}

impl Grade {
    fn word(&self) -> &'static str {
        match self {
            Grade::Pass => "pass",
            Grade::Warn => "warn",
            Grade::Fail => "fail",
        }
    }
}

/// b4's own checks pass what was there before the series and what was skipped.
fn grade(status: Status) -> Grade {
    match status {
        Status::Pass | Status::Fixed | Status::Old | Status::Skip => Grade::Pass,
        Status::Note | Status::Unsure => Grade::Warn,
        Status::Fail => Grade::Fail,
    }
}

/// The worst check and how many there are.
fn summary(outcome: &Outcome, step: &Step) -> String {
    let n = step.checks.len();
    let checks = if n == 1 { "1 check".to_owned() } else { format!("{n} checks") };
    // The first of the worst: `max_by_key` would take the last.
    match step.checks.iter().rev().max_by_key(|check| check.status) {
        Some(check) if check.status != Status::Pass => {
            format!("{checks}; {}", headline(outcome, check))
        }
        _ => format!("{checks} passed"),
    }
}

fn headline(outcome: &Outcome, check: &Check) -> String {
    let line = format!(
        "{}: {}: {}",
        view::loud(check.status),
        view::line(&check.name),
        view::sentence(outcome, check)
    );
    line.trim_end_matches([':', ' ']).to_owned()
}

fn lines(outcome: &Outcome, check: &Check) -> Vec<String> {
    let mut lines = vec![headline(outcome, check)];
    if check.status >= Status::Unsure {
        lines.extend(view::body(check, DETAIL_LINES_MAX).into_iter().map(|line| format!("    {line}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::example;
    use super::*;

    #[test]
    fn a_step_is_a_column_and_its_worst_check_the_colour() {
        expect![[r#"
            [
              {
                "tool": "gate-hygiene",
                "status": "warn",
                "summary": "2 checks; note: checkpatch: 1/2 mm/shrinker.c:12: line over 100 columns, no blank",
                "details": "pass: applies\nnote: checkpatch: 1/2 mm/shrinker.c:12: line over 100 columns, no blank\nagain: cargo xtask gate --instance kasan-6.12 series.mbx"
              },
              {
                "tool": "gate-build",
                "status": "fail",
                "summary": "2 checks; FAIL: W=1 mm/vmscan.c: 2/2 mm/vm,scan:1.c:321: unused variable 'x' # SKIP 100%",
                "details": "pass: bzImage\nFAIL: W=1 mm/vmscan.c: 2/2 mm/vm,scan:1.c:321: unused variable 'x' # SKIP 100%\n    mm/vmscan.c:321:6: warning: unused variable 'x' [-Wunused-variable]\n      321 |     int x;\nagain: cargo xtask gate --instance kasan-6.12 series.mbx"
              },
              {
                "tool": "gate-boot",
                "status": "pass",
                "summary": "1 check passed",
                "details": "pass: boot: clean console\nagain: cargo xtask gate --instance kasan-6.12 series.mbx"
              },
              {
                "tool": "gate-scenarios",
                "status": "pass",
                "summary": "2 checks; skip: memcg: - no CONFIG_MEMCG #1",
                "details": "skip: memcg: - no CONFIG_MEMCG #1\nfixed: umount-latency: INFO: task hung in shrinker_free\nagain: cargo xtask gate --instance kasan-6.12 series.mbx"
              },
              {
                "tool": "gate-corpus",
                "status": "fail",
                "summary": "2 checks; FAIL: replay #18\\n<b>\\u{1b}[1m: SKIP KASAN: slab-use-after-free # SKIP <script>alert('1')</script> ]]> ::error::x ##[stop-commands]y \\u{1b}[31m\\u{7}\\u{2028}￿� & \"q\"\\nok 2",
                "details": "old: replay 17: WARNING in do_shrink_slab\nFAIL: replay #18\\n<b>\\u{1b}[1m: SKIP KASAN: slab-use-after-free # SKIP <script>alert('1')</script> ]]> ::error::x ##[stop-commands]y \\u{1b}[31m\\u{7}\\u{2028}￿� & \"q\"\\nok 2\n    ok 1 all is well\n    KTAP version 1\n    1..9\n    # Subtest: boot\n    ::error file=a::b\n    ::stop-commands::x\n    ##[add-mask]a\n    ]]></failure></testcase>\n    </pre><img src=x onerror=alert(1)>\n    ````\n    [[ATTACHMENT|/etc/passwd]] @all https://example.org\n    Kernel panic - not syncing: VFS: Unable to mount root fs\n    reboot: System halted\n    List of all partitions:\n    \\u{1b}]0;title\\u{7}\\u{202e}txt\n    \ttab\n    100% a,b:c\n    kept in findings/0001-<b>\nagain: cargo xtask gate --instance kasan-6.12 series.mbx"
              },
              {
                "tool": "gate-campaign",
                "status": "warn",
                "summary": "1 check; UNSURE: campaign: 2 of 8 minutes: the guest was lost # SKIP",
                "details": "UNSURE: campaign: 2 of 8 minutes: the guest was lost # SKIP\n    the guest went away\n    kept in campaign\nagain: cargo xtask gate --instance kasan-6.12 series.mbx"
              }
            ]
        "#]].assert_eq(&render(&example::outcome()));
    }
}
