// SPDX-License-Identifier: MIT OR Apache-2.0
//! An outcome for GitHub: workflow commands, which become annotations at lines of the series, and the summary of a job.
//!
//! The runner's reader of commands is `src/Runner.Common/ActionCommand.cs` of actions/runner: a line that begins with `::`,
//! properties split at commas, and of what stands for other characters `%25` is decoded last. It shows at most ten
//! annotations of a level a step, so what fails comes first. A summary may have 1 MiB.

use std::fmt::Write as _;

use harness::plain::{inline_markdown, quote_markdown};

use super::{
    outcome::{Check, Outcome, Status, Step},
    view,
};

/// Lines of details in an annotation.
const ANNOTATION_LINES_MAX: usize = 12;
/// Lines of details in the summary.
const SUMMARY_LINES_MAX: usize = 60;
/// Room for findings in the summary; GitHub refuses one of more than 1 MiB, and all of it.
const SUMMARY_BYTES_MAX: usize = 900 * 1024;

/// A workflow command a line: errors, then warnings (what is unsure), then notices (notes).
pub fn commands(outcome: &Outcome) -> String {
    let mut out = String::new();
    for (status, level) in [(Status::Fail, "error"), (Status::Unsure, "warning"), (Status::Note, "notice")] {
        for (step, check) in checks(outcome).filter(|(_, check)| check.status == status) {
            let _ = writeln!(out, "::{level} {}::{}", properties(outcome, step, check), message(check));
        }
    }
    out
}

fn checks(outcome: &Outcome) -> impl Iterator<Item = (&Step, &Check)> {
    outcome.steps.iter().flat_map(|step| step.checks.iter().map(move |check| (step, check)))
}

fn properties(outcome: &Outcome, step: &Step, check: &Check) -> String {
    let mut all = Vec::new();
    if let Some((file, line_no)) = &check.place {
        all.push(format!("file={},line={line_no}", property(&view::line(file))));
    }
    let patch = view::patch(outcome, check).map_or_else(String::new, |patch| format!(" (patch {patch})"));
    let title = format!("{}: {}{patch}", view::line(&step.name), view::line(&check.name));
    all.push(format!("title={}", property(&title)));
    all.join(",")
}

fn message(check: &Check) -> String {
    let mut lines = vec![view::line(&check.text)];
    lines.extend(view::details(check, ANNOTATION_LINES_MAX));
    data(&lines.join("\n"))
}

/// A command's message.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property's value.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// The summary of the job, in Markdown: verdict, steps, what did not simply pass.
pub fn summary(outcome: &Outcome) -> String {
    let mut out = format!(
        "## {}: {}\n\n| step | result | seconds |\n|---|---|---:|\n",
        view::verdict(outcome.verdict),
        markdown(&outcome.why)
    );
    for step in &outcome.steps {
        let _ =
            writeln!(out, "| {} | {} | {:.1} |", markdown(&step.name), view::step_word(step), step.seconds);
    }
    out.push('\n');
    let told: Vec<_> = checks(outcome).filter(|(_, check)| check.status != Status::Pass).collect();
    for (idx, (step, check)) in told.iter().enumerate() {
        let section = section(outcome, step, check);
        if out.len() + section.len() > SUMMARY_BYTES_MAX {
            let _ = writeln!(out, "{} more that have no room here\n", told.len() - idx);
            break;
        }
        out.push_str(&section);
    }
    for (name, kernel) in view::kernels(outcome) {
        let _ = writeln!(out, "- {name}: {}", markdown(&kernel));
    }
    for patch in view::patches(outcome) {
        let _ = writeln!(out, "- patch {}", markdown(&patch));
    }
    let _ = write!(out, "\n{}", quote_markdown(&view::line(&outcome.command)));
    out
}

fn section(outcome: &Outcome, step: &Step, check: &Check) -> String {
    let mut out =
        format!("### {}: {}: {}\n\n", view::loud(check.status), markdown(&step.name), markdown(&check.name));
    let said = view::sentence(outcome, check);
    if !said.is_empty() {
        let _ = write!(out, "{}\n\n", markdown(&said));
    }
    let lines = view::body(check, SUMMARY_LINES_MAX);
    if !lines.is_empty() {
        out.push_str(&quote_markdown(&lines.join("\n")));
    }
    out
}

/// One line that is nothing but text, also where it begins a paragraph: there a dash or a number would begin a list.
fn markdown(text: &str) -> String {
    let text = inline_markdown(&view::line(text));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    match text[digits..].chars().next() {
        Some('-' | '+' | '=' | '_') if digits == 0 => format!("\\{text}"),
        Some('.' | ')') if digits > 0 => format!("{}\\{}", &text[..digits], &text[digits..]),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::example;
    use super::*;

    /// As the runner decodes.
    fn decoded(text: &str, codes: &[(&str, &str)]) -> String {
        codes.iter().fold(text.to_owned(), |text, (code, c)| text.replace(code, c))
    }

    #[test]
    fn each_finding_is_one_command_and_no_text_is_another() {
        let commands = commands(&example::outcome());
        assert!(commands.lines().all(|line| line.starts_with("::")));
        expect![[r#"
            ::error file=mm/vm%2Cscan%3A1.c,line=321,title=build%3A W=1 mm/vmscan.c (patch 2/2)::unused variable 'x' # SKIP 100%25%0Amm/vmscan.c:321:6: warning: unused variable 'x' [-Wunused-variable]%0A  321 |     int x;
            ::error title=corpus%3A replay #18\n<b>\u{1b}[1m::SKIP KASAN: slab-use-after-free # SKIP <script>alert('1')</script> ]]> ::error::x ##[stop-commands]y \u{1b}[31m\u{7}\u{2028}￿� & "q"\nok 2%0Aok 1 all is well%0AKTAP version 1%0A1..9%0A# Subtest: boot%0A::error file=a::b%0A::stop-commands::x%0A##[add-mask]a%0A]]></failure></testcase>%0A</pre><img src=x onerror=alert(1)>%0A````%0A[[ATTACHMENT|/etc/passwd]] @all https://example.org%0AKernel panic - not syncing: VFS: Unable to mount root fs%0A… 5 more lines
            ::warning title=campaign%3A campaign::2 of 8 minutes: the guest was lost # SKIP%0Athe guest went away
            ::notice file=mm/shrinker.c,line=12,title=hygiene%3A checkpatch (patch 1/2)::line over 100 columns, no blank
        "#]].assert_eq(&commands);
    }

    #[test]
    fn the_runner_decodes_what_was_meant() {
        let text = "100%, 0%250A: \r\n";
        let of_data = [("%0D", "\r"), ("%0A", "\n"), ("%25", "%")];
        let of_properties = [("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")];
        assert_eq!(decoded(&data(text), &of_data), text);
        assert_eq!(decoded(&property(text), &of_properties), text);
    }

    #[test]
    fn the_summary_has_no_markup_but_its_own() {
        expect![[r###"
            ## FAIL: build: W=1 mm/vmscan.c: unused variable 'x' \# SKIP 100% (and 1 more)

            | step | result | seconds |
            |---|---|---:|
            | hygiene | note | 1.2 |
            | build | FAIL | 61.0 |
            | boot | pass | 4.0 |
            | scenarios | skip | 33.3 |
            | corpus | FAIL | 120.0 |
            | campaign | UNSURE | 120.0 |
            | performance | not come to | 0.0 |

            ### note: hygiene: checkpatch

            1/2 mm/shrinker.c:12: line over 100 columns, no blank

            ### FAIL: build: W=1 mm/vmscan.c

            2/2 mm/vm,scan:1.c:321: unused variable 'x' \# SKIP 100%

            ```text
            mm/vmscan.c:321:6: warning: unused variable 'x' [-Wunused-variable]
              321 |     int x;
            ```

            ### skip: scenarios: memcg

            \- no CONFIG_MEMCG \#1

            ### fixed: scenarios: umount-latency

            INFO: task hung in shrinker_free

            ### old: corpus: replay 17

            WARNING in do_shrink_slab

            ### FAIL: corpus: replay \#18\\n&lt;b&gt;\\u{1b}\[1m

            SKIP KASAN: slab-use-after-free \# SKIP &lt;script&gt;alert('1')&lt;/script&gt; \]\]&gt; ::error::x \#\#\[stop-commands\]y \\u{1b}\[31m\\u{7}\\u{2028}￿� &amp; "q"\\nok 2

            `````text
            ok 1 all is well
            KTAP version 1
            1..9
            # Subtest: boot
            ::error file=a::b
            ::stop-commands::x
            ##[add-mask]a
            ]]></failure></testcase>
            </pre><img src=x onerror=alert(1)>
            ````
            [[ATTACHMENT|/etc/passwd]] @all https://example.org
            Kernel panic - not syncing: VFS: Unable to mount root fs
            reboot: System halted
            List of all partitions:
            \u{1b}]0;title\u{7}\u{202e}txt
            	tab
            100% a,b:c
            kept in findings/0001-<b>
            `````

            ### UNSURE: campaign: campaign

            2 of 8 minutes: the guest was lost \# SKIP

            ```text
            the guest went away
            kept in campaign
            ```

            - base: kasan-6.12, 6.12.0-base, 0123456789abcdef0123456789abcdef01234567, clang version 19.1.7
            - with the series: kasan-6.12, 6.12.0-series, 0123456789abcdef0123456789abcdef01234567, clang version 19.1.7
            - patch 1/2 mm: shrinker: count later
            - patch 2/2 &lt;script&gt;alert('1')&lt;/script&gt; \]\]&gt; ::error::x \#\#\[stop-commands\]y \\u{1b}\[31m\\u{7}\\u{2028}￿� &amp; "q"

            ```text
            cargo xtask gate --instance kasan-6.12 series.mbx
            ```

        "###]].assert_eq(&summary(&example::outcome()));
    }

    #[test]
    fn no_text_begins_a_list_or_underlines_a_heading() {
        for (text, wanted) in
            [("- x", "\\- x"), ("===", "\\==="), ("12. x", "12\\. x"), ("1) x", "1\\) x"), ("12", "12")]
        {
            assert_eq!(markdown(text), wanted);
        }
    }

    #[test]
    fn a_summary_that_would_be_refused_is_cut() {
        let mut outcome = example::outcome();
        let failed = outcome.steps[4].checks[1].clone();
        outcome.steps[4].checks = vec![Check { detail: "x\n".repeat(99), ..failed }; 4000];
        let summary = summary(&outcome);
        assert!(summary.len() < 1024 * 1024 && summary.contains(" more that have no room here\n"));
    }
}
