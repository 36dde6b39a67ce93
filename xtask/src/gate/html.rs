// SPDX-License-Identifier: MIT OR Apache-2.0
//! An outcome as one page for a browser: verdict, steps, findings that fold out. Self-contained, and its own policy
//! forbids it to run or load anything, should a text ever slip through the escaping.

use std::fmt::Write as _;

use harness::plain;

use super::{
    outcome::{Check, Outcome, Status},
    view,
};

/// Lines of details that a finding folds out to.
const DETAIL_LINES_MAX: usize = 1000;

/// Nothing but the style within the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Colours come as pairs for light and dark; the words say the same to whoever does not see them.
const STYLE: &str = "\
:root { color-scheme: light dark; --back: #fff; --text: #1a1a1a; --faint: #666; --line: #ccc; --box: #f4f4f4;
  --fail: #b3261e; --unsure: #8a5a00; --fixed: #1f6f43 }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --text: #e4e4e4; --faint: #a0a0a0; --line: #444;
  --box: #202328; --fail: #ff8a80; --unsure: #ffcf70; --fixed: #7fd6a4 } }
body { font: 15px sans-serif; margin: 2em; max-width: 90em; background: var(--back); color: var(--text) }
pre { overflow-x: auto; background: var(--box); padding: .6em } details { margin: .4em 0 }
table { border-collapse: collapse } th, td { text-align: left; padding: .2em 1em .2em 0;
  border-bottom: 1px solid var(--line) } td.number { text-align: right }
.fail { color: var(--fail) } .unsure { color: var(--unsure) } .fixed { color: var(--fixed) }
.skip, .old, .at { color: var(--faint) }
";

/// The page.
pub fn render(outcome: &Outcome) -> String {
    let verdict = view::verdict(outcome.verdict);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{verdict}: {}</title>\n\
         <style>\n{STYLE}</style></head>\n<body>\n<h1 class=\"{}\">{verdict}</h1>\n<p>{}</p>\n",
        text(&title(outcome)),
        verdict.to_ascii_lowercase(),
        text(&outcome.why),
    );
    write_about(&mut out, outcome);
    write_steps(&mut out, outcome);
    for step in &outcome.steps {
        let told: Vec<&Check> = step.checks.iter().filter(|check| check.status != Status::Pass).collect();
        if !told.is_empty() {
            let _ = writeln!(out, "<h2>{}</h2>", text(&step.name));
        }
        for check in told {
            write_check(&mut out, outcome, check);
        }
    }
    let _ = write!(out, "<h2>Again</h2>\n<pre>{}</pre>\n</body></html>\n", text(&outcome.command));
    out
}

/// What the series is called: its first patch, and how many more.
fn title(outcome: &Outcome) -> String {
    match &outcome.patches[..] {
        [] => "no patches".to_owned(),
        [one] => view::line(&one.subject),
        [first, rest @ ..] => format!("{} (and {} more)", view::line(&first.subject), rest.len()),
    }
}

fn write_about(out: &mut String, outcome: &Outcome) {
    let patches = view::patches(outcome).into_iter().map(|patch| ("patch", patch));
    out.push_str("<table>\n");
    for (name, value) in patches.chain(view::kernels(outcome)) {
        let _ = writeln!(out, "<tr><th>{name}</th><td>{}</td></tr>", text(&value));
    }
    out.push_str("</table>\n<h2>Steps</h2>\n");
}

fn write_steps(out: &mut String, outcome: &Outcome) {
    out.push_str("<table>\n<tr><th>step</th><th>result</th><th>checks</th><th>seconds</th></tr>\n");
    for step in &outcome.steps {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"{}\">{}</td><td class=\"number\">{}</td><td class=\"number\">{:.1}</td></tr>",
            text(&step.name),
            view::word(step.status()),
            view::step_word(step),
            step.checks.len(),
            step.seconds
        );
    }
    out.push_str("</table>\n");
}

fn write_check(out: &mut String, outcome: &Outcome, check: &Check) {
    let word = view::word(check.status);
    let at: Vec<String> = [view::patch(outcome, check), view::place(check)].into_iter().flatten().collect();
    let headline = format!(
        "<b class=\"{word}\">{}</b> <b>{}</b> <span class=\"at\">{}</span> {}",
        view::loud(check.status),
        text(&check.name),
        text(&at.join(" ")),
        text(&check.text),
    );
    let body = view::body(check, DETAIL_LINES_MAX);
    let _ = if body.is_empty() {
        writeln!(out, "<p>{headline}</p>")
    } else {
        // What fails is open: a person came to see that.
        let open = if check.status == Status::Fail { " open" } else { "" };
        let body = plain::html(&body.join("\n"));
        writeln!(out, "<details{open}><summary>{headline}</summary>\n<pre>{body}</pre></details>")
    };
}

/// One line of text.
fn text(text: &str) -> String {
    plain::html(&view::line(text))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::example;
    use super::*;

    #[test]
    fn the_page_says_everything_and_runs_and_loads_nothing() {
        let page = render(&example::outcome());
        for tag in ["<script", "<img", "<link", "<iframe", "<a ", " src=\"", " href=", "url("] {
            assert!(!page.contains(tag), "{tag}");
        }
        expect![[r#"
            </head>
            <body>
            <h1 class="fail">FAIL</h1>
            <p>build: W=1 mm/vmscan.c: unused variable &#39;x&#39; # SKIP 100% (and 1 more)</p>
            <table>
            <tr><th>patch</th><td>1/2 mm: shrinker: count later</td></tr>
            <tr><th>patch</th><td>2/2 &lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; ]]&gt; ::error::x ##[stop-commands]y \u{1b}[31m\u{7}\u{2028}￿� &amp; &quot;q&quot;</td></tr>
            <tr><th>base</th><td>kasan-6.12, 6.12.0-base, 0123456789abcdef0123456789abcdef01234567, clang version 19.1.7</td></tr>
            <tr><th>with the series</th><td>kasan-6.12, 6.12.0-series, 0123456789abcdef0123456789abcdef01234567, clang version 19.1.7</td></tr>
            </table>
            <h2>Steps</h2>
            <table>
            <tr><th>step</th><th>result</th><th>checks</th><th>seconds</th></tr>
            <tr><td>hygiene</td><td class="note">note</td><td class="number">2</td><td class="number">1.2</td></tr>
            <tr><td>build</td><td class="fail">FAIL</td><td class="number">2</td><td class="number">61.0</td></tr>
            <tr><td>boot</td><td class="pass">pass</td><td class="number">1</td><td class="number">4.0</td></tr>
            <tr><td>scenarios</td><td class="skip">skip</td><td class="number">2</td><td class="number">33.3</td></tr>
            <tr><td>corpus</td><td class="fail">FAIL</td><td class="number">2</td><td class="number">120.0</td></tr>
            <tr><td>campaign</td><td class="unsure">UNSURE</td><td class="number">1</td><td class="number">120.0</td></tr>
            <tr><td>performance</td><td class="skip">not come to</td><td class="number">0</td><td class="number">0.0</td></tr>
            </table>
            <h2>hygiene</h2>
            <p><b class="note">note</b> <b>checkpatch</b> <span class="at">1/2 mm/shrinker.c:12</span> line over 100 columns, no blank</p>
            <h2>build</h2>
            <details open><summary><b class="fail">FAIL</b> <b>W=1 mm/vmscan.c</b> <span class="at">2/2 mm/vm,scan:1.c:321</span> unused variable &#39;x&#39; # SKIP 100%</summary>
            <pre>mm/vmscan.c:321:6: warning: unused variable &#39;x&#39; [-Wunused-variable]
              321 |     int x;</pre></details>
            <h2>scenarios</h2>
            <p><b class="skip">skip</b> <b>memcg</b> <span class="at"></span> - no CONFIG_MEMCG #1</p>
            <p><b class="fixed">fixed</b> <b>umount-latency</b> <span class="at"></span> INFO: task hung in shrinker_free</p>
            <h2>corpus</h2>
            <p><b class="old">old</b> <b>replay 17</b> <span class="at"></span> WARNING in do_shrink_slab</p>
            <details open><summary><b class="fail">FAIL</b> <b>replay #18\n&lt;b&gt;\u{1b}[1m</b> <span class="at"></span> SKIP KASAN: slab-use-after-free # SKIP &lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; ]]&gt; ::error::x ##[stop-commands]y \u{1b}[31m\u{7}\u{2028}￿� &amp; &quot;q&quot;\nok 2</summary>
            <pre>ok 1 all is well
            KTAP version 1
            1..9
            # Subtest: boot
            ::error file=a::b
            ::stop-commands::x
            ##[add-mask]a
            ]]&gt;&lt;/failure&gt;&lt;/testcase&gt;
            &lt;/pre&gt;&lt;img src=x onerror=alert(1)&gt;
            ````
            [[ATTACHMENT|/etc/passwd]] @all https://example.org
            Kernel panic - not syncing: VFS: Unable to mount root fs
            reboot: System halted
            List of all partitions:
            \u{1b}]0;title\u{7}\u{202e}txt
            	tab
            100% a,b:c
            kept in findings/0001-&lt;b&gt;</pre></details>
            <h2>campaign</h2>
            <details><summary><b class="unsure">UNSURE</b> <b>campaign</b> <span class="at"></span> 2 of 8 minutes: the guest was lost # SKIP</summary>
            <pre>the guest went away
            kept in campaign</pre></details>
            <h2>Again</h2>
            <pre>cargo xtask gate --instance kasan-6.12 series.mbx</pre>
            </body></html>
        "#]].assert_eq(page.split_once("</style>").unwrap().1);
    }

    #[test]
    fn every_colour_has_its_pair() {
        let (light, dark) = STYLE.split_once("@media").unwrap();
        for name in light.split("--").skip(1).filter_map(|part| part.split(':').next()) {
            assert!(dark.contains(&format!("--{name}: ")), "{name}");
        }
    }
}
