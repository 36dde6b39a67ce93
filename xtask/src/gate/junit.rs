// SPDX-License-Identifier: MIT OR Apache-2.0
//! An outcome as JUnit XML: a suite a step, a case a check. Unsure is an error, as JUnit has it: the test could not say.
//!
//! The form is what Jenkins' xunit plugin has a schema for (`junit-10.xsd`), and nothing beyond it. Jenkins keeps a message
//! and a body apart; GitLab (`lib/gitlab/ci/parsers/test/junit.rb`) drops the message where there is a body, and reads one
//! case of those with the same class and name. So the body begins with the message, and the class is the step.

use std::fmt::Write as _;

use super::{
    outcome::{Check, Outcome, Status, Step},
    view,
};

/// Lines of details; Jenkins keeps 100 000 characters of a failure.
const DETAIL_LINES_MAX: usize = 200;

/// The whole document.
pub fn render(outcome: &Outcome) -> String {
    let mut suites = String::new();
    let mut total = Counts::default();
    for (idx, step) in outcome.steps.iter().enumerate() {
        let counts = Counts::of(step);
        total.add(&counts);
        let _ = writeln!(
            suites,
            "  <testsuite name=\"{}\" {} skipped=\"{}\" time=\"{:.3}\">",
            escape(&view::line(&step.name)),
            counts.attributes(),
            counts.skipped,
            step.seconds
        );
        if idx == 0 {
            suites.push_str(&properties(outcome));
        }
        suites.push_str(&cases(outcome, step));
        suites.push_str("  </testsuite>\n");
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"shrinktorture gate\" {} time=\"{:.3}\">\n\
         {suites}</testsuites>\n",
        total.attributes(),
        outcome.seconds
    )
}

/// How many cases of a suite, or of all, came to what.
#[derive(Default)]
struct Counts {
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
}

impl Counts {
    fn of(step: &Step) -> Counts {
        if step.checks.is_empty() {
            return Counts { tests: 1, skipped: 1, ..Counts::default() };
        }
        let n = |status| step.checks.iter().filter(|check| check.status == status).count();
        Counts {
            tests: step.checks.len(),
            failures: n(Status::Fail),
            errors: n(Status::Unsure),
            skipped: n(Status::Skip),
        }
    }

    fn add(&mut self, other: &Counts) {
        self.tests += other.tests;
        self.failures += other.failures;
        self.errors += other.errors;
        self.skipped += other.skipped;
    }

    fn attributes(&self) -> String {
        format!("tests=\"{}\" failures=\"{}\" errors=\"{}\"", self.tests, self.failures, self.errors)
    }
}

/// What holds for all of it. Only suites can have properties, so the first has these.
fn properties(outcome: &Outcome) -> String {
    let mut out = "    <properties>\n".to_owned();
    let verdict = format!("{}: {}", view::verdict(outcome.verdict), view::line(&outcome.why));
    let mut all = vec![("verdict", verdict), ("command", view::line(&outcome.command))];
    all.extend(view::kernels(outcome));
    all.extend(view::patches(outcome).into_iter().map(|patch| ("patch", patch)));
    for (name, value) in all {
        let _ = writeln!(out, "      <property name=\"{name}\" value=\"{}\"/>", escape(&value));
    }
    out + "    </properties>\n"
}

fn cases(outcome: &Outcome, step: &Step) -> String {
    let class = format!("gate.{}", view::line(&step.name));
    if step.checks.is_empty() {
        let skipped = format!("<skipped message=\"{}\"/>", view::NOT_COME_TO);
        return case(&class, &view::line(&step.name), 0.0, &skipped);
    }
    let one = |check: &Check| case(&class, &view::line(&check.name), check.seconds, &result(outcome, check));
    step.checks.iter().map(one).collect()
}

fn case(class: &str, name: &str, seconds: f64, result: &str) -> String {
    let head = format!(
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{seconds:.3}\"",
        escape(class),
        escape(name)
    );
    if result.is_empty() { format!("{head}/>\n") } else { format!("{head}>{result}</testcase>\n") }
}

/// What stands in a case: nothing where there is nothing to say.
fn result(outcome: &Outcome, check: &Check) -> String {
    let message = view::sentence(outcome, check);
    let mut lines = vec![message.clone()];
    lines.extend(view::body(check, DETAIL_LINES_MAX));
    let body = escape(&lines.join("\n"));
    let failed = |tag: &str| {
        format!(
            "<{tag} type=\"{}\" message=\"{}\">{body}\n</{tag}>",
            view::word(check.status),
            escape(&message)
        )
    };
    match check.status {
        Status::Fail => failed("failure"),
        Status::Unsure => failed("error"),
        Status::Skip => format!("<skipped message=\"{}\"/>", escape(&message)),
        Status::Pass if lines == [""] => String::new(),
        status => format!("<system-out>{}: {body}\n</system-out>", view::word(status)),
    }
}

/// Text of an element or a quoted attribute. What XML 1.0 does not allow at all is replaced; what is left of control
/// characters by [`view::line`] is not markup.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Jenkins and GitLab attach the file that such a mark names.
    for c in text.replace("[[ATTACHMENT", "[ [ATTACHMENT").chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' => out.push(c),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::example;
    use super::*;

    #[test]
    fn each_status_has_its_element_and_no_text_leaves_its_own() {
        expect![[r#"
            <?xml version="1.0" encoding="UTF-8"?>
            <testsuites name="shrinktorture gate" tests="11" failures="2" errors="1" time="1234.500">
              <testsuite name="hygiene" tests="2" failures="0" errors="0" skipped="0" time="1.250">
                <properties>
                  <property name="verdict" value="FAIL: build: W=1 mm/vmscan.c: unused variable &apos;x&apos; # SKIP 100% (and 1 more)"/>
                  <property name="command" value="cargo xtask gate --instance kasan-6.12 series.mbx"/>
                  <property name="base" value="kasan-6.12, 6.12.0-base, 0123456789abcdef0123456789abcdef01234567, clang version 19.1.7"/>
                  <property name="with the series" value="kasan-6.12, 6.12.0-series, 0123456789abcdef0123456789abcdef01234567, clang version 19.1.7"/>
                  <property name="patch" value="1/2 mm: shrinker: count later"/>
                  <property name="patch" value="2/2 &lt;script&gt;alert(&apos;1&apos;)&lt;/script&gt; ]]&gt; ::error::x ##[stop-commands]y \u{1b}[31m\u{7}\u{2028}�� &amp; &quot;q&quot;"/>
                </properties>
                <testcase classname="gate.hygiene" name="applies" time="0.500"/>
                <testcase classname="gate.hygiene" name="checkpatch" time="0.500"><system-out>note: 1/2 mm/shrinker.c:12: line over 100 columns, no blank
            </system-out></testcase>
              </testsuite>
              <testsuite name="build" tests="2" failures="1" errors="0" skipped="0" time="61.000">
                <testcase classname="gate.build" name="bzImage" time="0.500"/>
                <testcase classname="gate.build" name="W=1 mm/vmscan.c" time="0.500"><failure type="fail" message="2/2 mm/vm,scan:1.c:321: unused variable &apos;x&apos; # SKIP 100%">2/2 mm/vm,scan:1.c:321: unused variable &apos;x&apos; # SKIP 100%
            mm/vmscan.c:321:6: warning: unused variable &apos;x&apos; [-Wunused-variable]
              321 |     int x;
            </failure></testcase>
              </testsuite>
              <testsuite name="boot" tests="1" failures="0" errors="0" skipped="0" time="4.000">
                <testcase classname="gate.boot" name="boot" time="0.500"><system-out>pass: clean console
            </system-out></testcase>
              </testsuite>
              <testsuite name="scenarios" tests="2" failures="0" errors="0" skipped="1" time="33.300">
                <testcase classname="gate.scenarios" name="memcg" time="0.500"><skipped message="- no CONFIG_MEMCG #1"/></testcase>
                <testcase classname="gate.scenarios" name="umount-latency" time="0.500"><system-out>fixed: INFO: task hung in shrinker_free
            </system-out></testcase>
              </testsuite>
              <testsuite name="corpus" tests="2" failures="1" errors="0" skipped="0" time="120.000">
                <testcase classname="gate.corpus" name="replay 17" time="0.500"><system-out>old: WARNING in do_shrink_slab
            </system-out></testcase>
                <testcase classname="gate.corpus" name="replay #18\n&lt;b&gt;\u{1b}[1m" time="0.500"><failure type="fail" message="SKIP KASAN: slab-use-after-free # SKIP &lt;script&gt;alert(&apos;1&apos;)&lt;/script&gt; ]]&gt; ::error::x ##[stop-commands]y \u{1b}[31m\u{7}\u{2028}�� &amp; &quot;q&quot;\nok 2">SKIP KASAN: slab-use-after-free # SKIP &lt;script&gt;alert(&apos;1&apos;)&lt;/script&gt; ]]&gt; ::error::x ##[stop-commands]y \u{1b}[31m\u{7}\u{2028}�� &amp; &quot;q&quot;\nok 2
            ok 1 all is well
            KTAP version 1
            1..9
            # Subtest: boot
            ::error file=a::b
            ::stop-commands::x
            ##[add-mask]a
            ]]&gt;&lt;/failure&gt;&lt;/testcase&gt;
            &lt;/pre&gt;&lt;img src=x onerror=alert(1)&gt;
            ````
            [ [ATTACHMENT|/etc/passwd]] @all https://example.org
            Kernel panic - not syncing: VFS: Unable to mount root fs
            reboot: System halted
            List of all partitions:
            \u{1b}]0;title\u{7}\u{202e}txt
            	tab
            100% a,b:c
            kept in findings/0001-&lt;b&gt;
            </failure></testcase>
              </testsuite>
              <testsuite name="campaign" tests="1" failures="0" errors="1" skipped="0" time="120.000">
                <testcase classname="gate.campaign" name="campaign" time="0.500"><error type="unsure" message="2 of 8 minutes: the guest was lost # SKIP">2 of 8 minutes: the guest was lost # SKIP
            the guest went away
            kept in campaign
            </error></testcase>
              </testsuite>
              <testsuite name="performance" tests="1" failures="0" errors="0" skipped="1" time="0.000">
                <testcase classname="gate.performance" name="performance" time="0.000"><skipped message="not come to"/></testcase>
              </testsuite>
            </testsuites>
        "#]].assert_eq(&render(&example::outcome()));
    }

    #[test]
    fn what_xml_does_not_allow_is_replaced() {
        assert_eq!(
            escape("\0\x1b\u{fffe}\u{ffff}\t\n\u{10ffff}"),
            "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\t\n\u{10ffff}"
        );
        assert_eq!(escape("]]>&'\""), "]]&gt;&amp;&apos;&quot;");
    }
}
