// SPDX-License-Identifier: MIT OR Apache-2.0
//! An outcome as KCIDB I/O, schema major version 5: what KernelCI's database takes from CI systems.
//!
//! The schema is `kcidb_io/schema/v05_00.py` of kernelci/kcidb-io. Only what minor version 0 has is written, so that every
//! reader of version 5 takes it. One checkout (the base with the series), its build, and a test a check. Neither the
//! command nor folders are told: reports are public, and both have paths of the machine in them.

use serde_json::{Map, Value, json};

use super::{
    outcome::{Check, Outcome, Status, Step, Verdict},
    view,
};

/// The name of the CI system that reports. A database takes reports only from systems that it knows: whoever sends them
/// replaces it, in `origin` and before the colon of each `id`, by the name that was agreed upon.
const ORIGIN: &str = "shrinktorture";
/// Longest `log_excerpt`, characters.
const EXCERPT_CHARS_MAX: usize = 16_384;
/// Lines of details; by their length alone they may not fit.
const DETAIL_LINES_MAX: usize = 200;
/// Longest part of a test's path, characters. The schema has no limit.
const PATH_PART_CHARS_MAX: usize = 80;

/// The document.
pub fn render(outcome: &Outcome) -> String {
    let run = run_id(outcome);
    let document = json!({
        "version": { "major": 5, "minor": 0 },
        "checkouts": [checkout(outcome, &run)],
        "builds": [build(outcome, &run)],
        "tests": tests(outcome, &run),
    });
    format!("{document:#}\n")
}

/// Names this run: ids must be unique among all that a CI system ever reports, and stay the same when it reports again.
fn run_id(outcome: &Outcome) -> String {
    // By way of `Debug`, which cannot fail; `seconds` makes two runs of one series two.
    let hash = blake3::hash(format!("{outcome:?}").as_bytes()).to_hex();
    hash[..16].to_owned()
}

fn id(run: &str) -> String {
    format!("{ORIGIN}:{run}")
}

fn checkout(outcome: &Outcome, run: &str) -> Value {
    let mut checkout = object(json!({
        "id": id(run),
        "origin": ORIGIN,
        "misc": {
            "base_release": view::line(&outcome.base.release),
            "base_source": view::line(&outcome.base.source),
            "patches": view::patches(outcome),
        },
    }));
    if let Some(patch) = outcome.patches.first() {
        checkout.insert("comment".into(), view::line(&patch.subject).into());
    }
    let is_commit =
        |source: &str| source.len() == 40 && source.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_commit(&outcome.base.source) {
        checkout.insert("git_commit_hash".into(), outcome.base.source.as_str().into());
    }
    // The schema asks for an at sign, as mail addresses have.
    let mail = outcome.patches.iter().find_map(|patch| patch.message_id.as_deref());
    if let Some(mail) = mail.filter(|mail| mail.contains('@')) {
        checkout.insert("message_id".into(), view::line(mail).into());
    }
    // What was built was checked out; of what was not, we cannot say.
    if outcome.patched.is_some() {
        checkout.insert("valid".into(), true.into());
    }
    checkout.into()
}

/// The build of the series. Tests need one to refer to, so there is one where it failed, too.
fn build(outcome: &Outcome, run: &str) -> Value {
    let kernel = outcome.patched.as_ref().unwrap_or(&outcome.base);
    let step = outcome.steps.iter().find(|step| step.name == "build" && !step.checks.is_empty());
    let status = match (&outcome.patched, step.map(Step::status)) {
        (Some(_), _) => "PASS",
        (None, Some(Status::Fail)) => "FAIL",
        (None, Some(_)) => "ERROR",
        (None, None) => "MISS",
    };
    let mut build = object(json!({
        "id": id(run),
        "checkout_id": id(run),
        "origin": ORIGIN,
        // The one that kernels are built for here.
        "architecture": "x86_64",
        "compiler": view::line(&kernel.compiler),
        "config_name": view::line(&kernel.instance),
        "status": status,
    }));
    if let Some(patched) = &outcome.patched {
        build.insert("comment".into(), view::line(&patched.release).into());
    }
    if let Some(step) = step {
        build.insert("duration".into(), seconds(step.seconds));
    }
    build.into()
}

/// A test a check, one a step that was not come to, and one for the verdict.
fn tests(outcome: &Outcome, run: &str) -> Vec<Value> {
    let mut tests = Vec::new();
    for step in &outcome.steps {
        if step.checks.is_empty() {
            let mut test = test(run, tests.len(), &[&step.name], "MISS", view::NOT_COME_TO);
            test.insert("misc".into(), json!({ "result": view::NOT_COME_TO }));
            tests.push(test.into());
        }
        for check in &step.checks {
            let idx = tests.len();
            tests.push(of_check(outcome, run, idx, step, check));
        }
    }
    let status = match outcome.verdict {
        Verdict::Pass => "PASS",
        Verdict::Unsure => "ERROR",
        Verdict::Fail => "FAIL",
    };
    let mut verdict = test(run, tests.len(), &[], status, &outcome.why);
    verdict.insert("duration".into(), seconds(outcome.seconds));
    tests.push(verdict.into());
    tests
}

fn of_check(outcome: &Outcome, run: &str, idx: usize, step: &Step, check: &Check) -> Value {
    let path = [step.name.as_str(), check.name.as_str()];
    let mut test = test(run, idx, &path, status(check.status), &view::sentence(outcome, check));
    test.insert("duration".into(), seconds(check.seconds));
    let excerpt = view::details(check, DETAIL_LINES_MAX).join("\n");
    if !excerpt.is_empty() {
        test.insert("log_excerpt".into(), excerpt.chars().take(EXCERPT_CHARS_MAX).collect::<String>().into());
    }
    // Our own word: `old` and `note` are both DONE there. And the name, which a path cannot spell.
    test.insert(
        "misc".into(),
        json!({ "result": view::word(check.status), "check": view::line(&check.name) }),
    );
    test.into()
}

fn test(run: &str, idx: usize, path: &[&str], status: &str, comment: &str) -> Map<String, Value> {
    let parts = [ORIGIN].into_iter().chain(path.iter().copied());
    let mut test = object(json!({
        "id": format!("{}-{idx}", id(run)),
        "build_id": id(run),
        "origin": ORIGIN,
        "path": parts.map(path_part).collect::<Vec<_>>().join("."),
        "status": status,
    }));
    if !comment.is_empty() {
        test.insert("comment".into(), view::line(comment).into());
    }
    test
}

/// DONE is "completed, and says nothing of the tested code": so it is with what the base shows as well, and with notes.
fn status(status: Status) -> &'static str {
    match status {
        Status::Pass | Status::Fixed => "PASS",
        Status::Note | Status::Old => "DONE",
        Status::Skip => "SKIP",
        Status::Unsure => "ERROR",
        Status::Fail => "FAIL",
    }
}

/// A part of a test's path, which has letters, digits, `_` and `-`.
fn path_part(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
    match name.chars().take(PATH_PART_CHARS_MAX).map(plain).collect::<String>() {
        part if part.is_empty() => "_".to_owned(),
        part => part,
    }
}

/// Seconds, to the millisecond.
fn seconds(seconds: f64) -> Value {
    json!((seconds * 1000.0).round() / 1000.0)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::example;
    use super::*;

    #[test]
    fn a_run_is_a_checkout_a_build_and_a_test_a_check() {
        expect![[r#"
            {
              "builds": [
                {
                  "architecture": "x86_64",
                  "checkout_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "6.12.0-series",
                  "compiler": "clang version 19.1.7",
                  "config_name": "kasan-6.12",
                  "duration": 61.0,
                  "id": "shrinktorture:754d1aa4aac0e383",
                  "origin": "shrinktorture",
                  "status": "PASS"
                }
              ],
              "checkouts": [
                {
                  "comment": "mm: shrinker: count later",
                  "git_commit_hash": "0123456789abcdef0123456789abcdef01234567",
                  "id": "shrinktorture:754d1aa4aac0e383",
                  "message_id": "20260102-shrinker-1@example.org",
                  "misc": {
                    "base_release": "6.12.0-base",
                    "base_source": "0123456789abcdef0123456789abcdef01234567",
                    "patches": [
                      "1/2 mm: shrinker: count later",
                      "2/2 <script>alert('1')</script> ]]> ::error::x ##[stop-commands]y \\u{1b}[31m\\u{7}\\u{2028}￿� & \"q\""
                    ]
                  },
                  "origin": "shrinktorture",
                  "valid": true
                }
              ],
              "tests": [
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "duration": 0.5,
                  "id": "shrinktorture:754d1aa4aac0e383-0",
                  "misc": {
                    "check": "applies",
                    "result": "pass"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.hygiene.applies",
                  "status": "PASS"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "1/2 mm/shrinker.c:12: line over 100 columns, no blank",
                  "duration": 0.5,
                  "id": "shrinktorture:754d1aa4aac0e383-1",
                  "misc": {
                    "check": "checkpatch",
                    "result": "note"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.hygiene.checkpatch",
                  "status": "DONE"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "duration": 0.5,
                  "id": "shrinktorture:754d1aa4aac0e383-2",
                  "misc": {
                    "check": "bzImage",
                    "result": "pass"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.build.bzImage",
                  "status": "PASS"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "2/2 mm/vm,scan:1.c:321: unused variable 'x' # SKIP 100%",
                  "duration": 0.5,
                  "id": "shrinktorture:754d1aa4aac0e383-3",
                  "log_excerpt": "mm/vmscan.c:321:6: warning: unused variable 'x' [-Wunused-variable]\n  321 |     int x;",
                  "misc": {
                    "check": "W=1 mm/vmscan.c",
                    "result": "fail"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.build.W_1_mm_vmscan_c",
                  "status": "FAIL"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "clean console",
                  "duration": 0.5,
                  "id": "shrinktorture:754d1aa4aac0e383-4",
                  "misc": {
                    "check": "boot",
                    "result": "pass"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.boot.boot",
                  "status": "PASS"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "- no CONFIG_MEMCG #1",
                  "duration": 0.5,
                  "id": "shrinktorture:754d1aa4aac0e383-5",
                  "misc": {
                    "check": "memcg",
                    "result": "skip"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.scenarios.memcg",
                  "status": "SKIP"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "INFO: task hung in shrinker_free",
                  "duration": 0.5,
                  "id": "shrinktorture:754d1aa4aac0e383-6",
                  "misc": {
                    "check": "umount-latency",
                    "result": "fixed"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.scenarios.umount-latency",
                  "status": "PASS"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "WARNING in do_shrink_slab",
                  "duration": 0.5,
                  "id": "shrinktorture:754d1aa4aac0e383-7",
                  "misc": {
                    "check": "replay 17",
                    "result": "old"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.corpus.replay_17",
                  "status": "DONE"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "SKIP KASAN: slab-use-after-free # SKIP <script>alert('1')</script> ]]> ::error::x ##[stop-commands]y \\u{1b}[31m\\u{7}\\u{2028}￿� & \"q\"\\nok 2",
                  "duration": 0.5,
                  "id": "shrinktorture:754d1aa4aac0e383-8",
                  "log_excerpt": "ok 1 all is well\nKTAP version 1\n1..9\n# Subtest: boot\n::error file=a::b\n::stop-commands::x\n##[add-mask]a\n]]></failure></testcase>\n</pre><img src=x onerror=alert(1)>\n````\n[[ATTACHMENT|/etc/passwd]] @all https://example.org\nKernel panic - not syncing: VFS: Unable to mount root fs\nreboot: System halted\nList of all partitions:\n\\u{1b}]0;title\\u{7}\\u{202e}txt\n\ttab\n100% a,b:c",
                  "misc": {
                    "check": "replay #18\\n<b>\\u{1b}[1m",
                    "result": "fail"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.corpus.replay__18__b___1m",
                  "status": "FAIL"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "2 of 8 minutes: the guest was lost # SKIP",
                  "duration": 0.5,
                  "id": "shrinktorture:754d1aa4aac0e383-9",
                  "log_excerpt": "the guest went away",
                  "misc": {
                    "check": "campaign",
                    "result": "unsure"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.campaign.campaign",
                  "status": "ERROR"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "not come to",
                  "id": "shrinktorture:754d1aa4aac0e383-10",
                  "misc": {
                    "result": "not come to"
                  },
                  "origin": "shrinktorture",
                  "path": "shrinktorture.performance",
                  "status": "MISS"
                },
                {
                  "build_id": "shrinktorture:754d1aa4aac0e383",
                  "comment": "build: W=1 mm/vmscan.c: unused variable 'x' # SKIP 100% (and 1 more)",
                  "duration": 1234.5,
                  "id": "shrinktorture:754d1aa4aac0e383-11",
                  "origin": "shrinktorture",
                  "path": "shrinktorture",
                  "status": "FAIL"
                }
              ],
              "version": {
                "major": 5,
                "minor": 0
              }
            }
        "#]].assert_eq(&render(&example::outcome()));
    }

    #[test]
    fn a_series_that_does_not_build_has_a_build_that_failed() {
        let mut outcome = Outcome { patched: None, ..example::outcome() };
        let status = |outcome: &Outcome| build(outcome, "x")["status"].as_str().unwrap().to_owned();
        assert_eq!(status(&outcome), "FAIL");
        outcome.steps[1].checks.pop();
        assert_eq!(status(&outcome), "ERROR");
        outcome.steps[1].checks.clear();
        assert_eq!(status(&outcome), "MISS");
        assert!(checkout(&outcome, "x").get("valid").is_none());
    }

    #[test]
    fn two_runs_of_one_series_have_ids_of_their_own() {
        let (first, second) = (example::outcome(), Outcome { seconds: 1.0, ..example::outcome() });
        assert_eq!(run_id(&first), run_id(&example::outcome()));
        assert_ne!(run_id(&first), run_id(&second));
    }

    #[test]
    fn a_package_is_not_a_commit_and_an_excerpt_has_an_end() {
        let mut outcome = example::outcome();
        outcome.base.source = "linux-source-6.12".to_owned();
        assert!(checkout(&outcome, "x").get("git_commit_hash").is_none());
        outcome.steps[4].checks[1].detail = format!("{}\n", "ü".repeat(300)).repeat(300);
        let test = of_check(&outcome, "x", 0, &outcome.steps[4], &outcome.steps[4].checks[1]);
        assert_eq!(test["log_excerpt"].as_str().unwrap().chars().count(), EXCERPT_CHARS_MAX);
    }
}
