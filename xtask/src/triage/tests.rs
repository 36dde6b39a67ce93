// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forms of real consoles, as files in `testdata/triage`; `UPDATE_EXPECT=1` rewrites them.

use std::{fs, path::PathBuf};

use expect_test::expect_file;
use harness::oracle;

use super::{Judged, bugs, json, markdown, text};

/// The console of a case of the oracle's.
fn console(name: &str) -> String {
    let cases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../harness/testdata/console");
    let text = fs::read_to_string(cases.join(format!("{name}.txt"))).expect("a case");
    text.split_once("\n=== console ===\n").expect("a separator").1.to_string()
}

fn judged(name: &str, console: &[u8]) -> Judged {
    Judged { path: format!("{name}.log").into(), reports: oracle::judge(console) }
}

#[test]
fn forms_are_what_they_were() {
    for name in
        ["kasan-use-after-free", "lockdep-circular", "kfence", "kcsan", "op-deadline", "cut-short", "clean"]
    {
        let log = [judged(name, console(name).as_bytes())];
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/triage");
        let file = |ending: &str| expect_file![folder.join(format!("{name}.{ending}"))];
        file("txt").assert_eq(&text::render(&log, false, text::Style::Plain));
        file("md").assert_eq(&markdown::render(&log, false));
        let line: serde_json::Value =
            serde_json::from_str(&json::line(&log[0].path, &log[0].reports).unwrap()).unwrap();
        file("json").assert_eq(&(serde_json::to_string_pretty(&line).unwrap() + "\n"));
    }
}

#[test]
fn several_logs_are_sorted_into_bugs() {
    let kasan = console("kasan-use-after-free");
    let logs = [
        judged("a", kasan.as_bytes()),
        judged("b", b"all is well\n"),
        judged("c", console("lockdep-circular").as_bytes()),
        judged("d", kasan.as_bytes()),
    ];
    let told = text::render(&logs, false, text::Style::Plain);
    let hash = format!("{:016x}", logs[0].reports[0].stack_hash);
    let first = format!(
        "KASAN: slab-use-after-free Read in canary::use_after_free\n  a.log:1  stack {hash}\n  d.log:1  stack {hash}\n\n"
    );
    assert!(told.starts_with(&first), "{told}");
    assert!(told.ends_with("4 logs, 2 bugs, 1 without a crash\n"), "{told}");
    assert!(markdown::render(&logs, false).contains("4 logs, 2 bugs, 1 without a crash"));
    assert_eq!(bugs::bugs(&logs)[0].logs, [0, 3]);
    assert!(text::render(&logs, true, text::Style::Plain).contains("\n  Allocated by task 42\n"));
}

/// What a kernel may print to get at whoever reads the report.
const HOSTILE: &[&str] = &[
    "\x1b]0;owned\x07\x1b[2J",
    "<img src=x onerror=alert(1)>",
    "```\n# heading",
    "[click](https://evil.example) @everyone #1 |",
    "\u{202e}txet desrever\u{202c}",
    "\u{9b}31m",
    "{\"title\": \"x\"}\n{\"crash\": false}",
];

#[test]
fn hostile_text_is_harmless_in_every_form() {
    for piece in HOSTILE {
        for console in [
            format!("kernel BUG at {piece}:12!\nCall Trace:\n f+0x1/0x2\n g+0x3/0x4 [{piece}]\n"),
            format!(
                "BUG: KASAN: slab-use-after-free in f{piece}+0x1/0x2\nRead of size 1 at addr ffff888000a03800 by task {piece}/42\nCPU: 0 PID: 42 Comm: {piece} Not tainted 6.12.0{piece} #1\nCall Trace:\n f+0x1/0x2\nAllocated by task 42{piece}:\n g+0x1/0x2\n"
            ),
            format!(
                "WARNING: possible circular locking dependency detected\n{piece}/1 is trying to acquire lock:\nffff8880069b7168 ({piece}){{+.+.}}-{{3:3}}, at: f+0x1/0x2\nstack backtrace:\nCall Trace:\n f+0x1/0x2\n"
            ),
            format!(
                "BUG: unable to handle kernel paging request at {piece}\nRIP: 0010:f+0x1/0x2 {piece}\nCall Trace:\n <TASK>\n g+0x1/0x2 {piece}.c:1\n"
            ),
            format!("Kernel panic - not syncing: {piece}\nCall Trace:\n panic+0x1/0x2\n f+0x1/0x2\n"),
        ] {
            let log = [judged(piece, console.as_bytes())];
            assert!(!log[0].reports.is_empty(), "{console}");
            let (shown, marked) =
                (text::render(&log, true, text::Style::Plain), markdown::render(&log, true));
            for form in [&shown, &marked] {
                let bad = form
                    .chars()
                    .find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
                assert_eq!(bad, None, "{form}");
            }
            let prose: String = marked.split("```").step_by(2).collect();
            // What is escaped does nothing.
            let prose = prose.replace("\\]", "");
            for markup in ["<img", "](http", "@everyone", "https://"] {
                assert!(!prose.contains(markup), "{marked}");
            }
            let line = json::line(&log[0].path, &log[0].reports).unwrap();
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let read: serde_json::Value = serde_json::from_str(&line).expect("one object");
            assert_eq!(read["crash"], true);
        }
    }
}

#[test]
fn a_line_of_ten_megabytes_makes_no_long_report() {
    let long = "A".repeat(10 << 20);
    let console =
        format!("Kernel panic - not syncing: {long}\n{long}\nCall Trace:\n f{long}+0x1/0x2\n g+0x1/0x2\n");
    let log = [judged("long", console.as_bytes())];
    assert_eq!(log[0].reports.len(), 1);
    assert!(text::render(&log, true, text::Style::Plain).lines().all(|line| line.len() < 400));
    assert!(markdown::render(&log, true).len() < 20_000);
    assert!(json::line(&log[0].path, &log[0].reports).unwrap().len() < 20_000);
}
