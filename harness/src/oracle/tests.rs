// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every file in `testdata/console` is a console with its verdict before it; `UPDATE_EXPECT=1` rewrites the verdicts.

mod mangled;
mod streaming;

use std::{fmt::Write as _, fs, path::PathBuf};

use expect_test::expect_file;
use proptest::prelude::*;

use super::{Report, functions, harness_failure, judge};

/// Between a file's verdict and its console.
const SEPARATOR: &str = "\n=== console ===\n";
/// Frames of a stack that a verdict shows.
const FRAMES_SHOWN: usize = 6;

fn cases() -> Vec<(PathBuf, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/console");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("a text file"))).collect()
}

fn console(text: &str) -> &str {
    text.split_once(SEPARATOR).expect("a separator").1
}

#[test]
fn consoles_get_the_verdicts_they_had() {
    let cases = cases();
    assert!(cases.len() >= 40, "the cases are missing");
    for (path, text) in cases {
        let (head, console) =
            text.split_once(SEPARATOR).unwrap_or_else(|| panic!("no separator in {}", path.display()));
        let about = head.lines().next().filter(|line| line.starts_with("about: ")).expect("an about line");
        let verdict = verdict(console, &judge(console.as_bytes()));
        expect_file![path].assert_eq(&format!("{about}\n{verdict}{SEPARATOR}{console}"));
    }
}

fn verdict(console: &str, reports: &[Report]) -> String {
    let mut out = String::new();
    for report in reports {
        let line_of = |offset: usize| console[..offset].matches('\n').count();
        let lines = format!("{}-{}", line_of(report.start) + 1, line_of(report.end));
        let _ = writeln!(out, "\ntitle: {}", report.title);
        for alt in &report.alt_titles {
            let _ = writeln!(out, "alt: {alt}");
        }
        let _ = writeln!(out, "type: {}", report.kind);
        let _ = writeln!(out, "frame: {}", report.frame.as_deref().unwrap_or("-"));
        if let Some(reason) = &report.corrupted {
            let _ = writeln!(out, "corrupted: {reason}");
        }
        let shown: Vec<&str> = (report.frames.iter().filter(|frame| frame.reliable))
            .filter(|frame| {
                !functions::is_in(&frame.function, &[functions::Group::Reporting, functions::Group::Trap])
            })
            .map(|frame| frame.function.as_str())
            .take(FRAMES_SHOWN)
            .collect();
        let _ = writeln!(out, "stack: {} = {:016x}", shown.join(" < "), report.stack_hash);
        let _ = writeln!(out, "lines: {lines}{}", if report.panicked { ", panic" } else { "" });
    }
    if reports.is_empty() {
        out.push_str("\nno report\n");
    }
    out.truncate(out.trim_end().len());
    out
}

#[test]
fn planted_bugs_are_blamed_on_the_functions_that_hold_them() {
    for (file, frame) in [
        ("kasan-use-after-free", "canary::use_after_free"),
        ("kasan-double-free", "canary::double_free"),
        ("lockdep-circular", "canary::lock_inversion"),
        ("atomic-sleep", "canary::atomic_sleep"),
        ("hung-task", "canary::hang"),
        ("op-deadline", "canary::hang"),
        ("leak", "canary::leak"),
    ] {
        let (_, text) =
            cases().into_iter().find(|(path, _)| path.ends_with(format!("{file}.txt"))).expect("a case");
        let reports = judge(console(&text).as_bytes());
        assert_eq!(reports.first().and_then(|report| report.frame.as_deref()), Some(frame), "{file}");
        assert_eq!(reports.first().and_then(|report| report.corrupted.as_deref()), None, "{file}");
    }
}

#[test]
fn the_stack_hash_knows_no_offsets_and_no_numbers_of_the_run() {
    let (_, text) = cases().into_iter().find(|(path, _)| path.ends_with("rcu-stall.txt")).expect("a case");
    let console = console(&text);
    let moved = (console.replace("+0x6b0/0xe50", "+0x6c1/0xe71").replace("PID: 46 ", "PID: 202 "))
        .replace("[   64.", "[   65.");
    assert_ne!(console, moved);
    assert_eq!(judge(console.as_bytes())[0].stack_hash, judge(moved.as_bytes())[0].stack_hash);
    let other = console.replace("drop_slab", "memory_reclaim");
    assert_ne!(judge(console.as_bytes())[0].stack_hash, judge(other.as_bytes())[0].stack_hash);
}

#[test]
fn our_own_failures_are_no_reports() {
    let console = b"[    1.0][    T1] x\n[    2.000000][    T1] HARNESSFAIL: cannot open /dev/kcov: ENOENT\n";
    assert_eq!(harness_failure(console).as_deref(), Some("cannot open /dev/kcov: ENOENT"));
    assert_eq!(judge(console), []);
    assert_eq!(harness_failure(b"[    2.000000][    T1] fine\n"), None);
}

/// What a verdict must not depend on: line ends, levels, the machine's pids, offsets and uptime, a boot before.
#[test]
fn verdicts_do_not_depend_on_how_the_console_was_taken() {
    let pattern = |pattern: &str| regex::Regex::new(pattern).expect("a constant");
    let offsets = pattern(r"\+0x([0-9a-f]+)/0x([0-9a-f]+)");
    let pids = pattern(r"PID: (\d+)");
    let stamps = pattern(r"(?m)^\[");
    let boot = "[    0.000000] Kernel command line: console=ttyS0 panic_on_warn=1\n[    0.100000] kasan: KernelAddressSanitizer initialized (generic)\n";
    for (path, text) in cases() {
        let console = console(&text);
        let told = |console: &str| -> Vec<_> {
            let brief = |report: Report| (report.title, report.kind, report.frame, report.corrupted);
            judge(console.as_bytes()).into_iter().map(brief).collect()
        };
        let verdict = told(console);
        for (change, changed) in [
            ("crlf", console.replace('\n', "\r\n")),
            ("level", stamps.replace_all(console, "<4>[").into_owned()),
            ("dmesg -x", stamps.replace_all(console, "kern  :warn  : [").into_owned()),
            ("offsets", offsets.replace_all(console, "+0x1$1/0x1$2").into_owned()),
            // An overdue op is looked for by its pid.
            (
                "pids",
                pids.replace_all(console, if console.contains("op deadline") { "$0" } else { "PID: 9$1" })
                    .into_owned(),
            ),
            ("boot", format!("{boot}{console}")),
            ("tail", format!("{console}[ 9999.000000][ T9999] Rebooting in 86400 seconds..\n")),
        ] {
            assert_eq!(told(&changed), verdict, "{change}: {}", path.display());
        }
    }
}

/// CPU time of this thread, seconds: what else a busy host does is not in it.
fn cpu_seconds() -> f64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    std::time::Duration::from(time).as_secs_f64()
}

/// Time for a console made of `n` copies, at its best of three.
fn seconds(part: &str, n: usize) -> f64 {
    let console = part.repeat(n);
    let time = |_| {
        let start = cpu_seconds();
        std::hint::black_box(judge(console.as_bytes()));
        cpu_seconds() - start
    };
    (0..3).map(time).fold(f64::INFINITY, f64::min)
}

#[test]
fn time_is_linear_in_the_length_of_the_console() {
    // Whatever a console is made of: heads only, one endless stack, one endless line, plain text.
    for part in [
        "BUG: KASAN: slab-use-after-free in f+0x1/0x2\n",
        "[    1.000000][   T1]  do_shrink_slab+0x6b0/0xe50\n",
        "WARNING: CPU: 1 PID: 1 at a.c:1 ",
        "[    1.000000][   T1] nothing to see here, at all\n",
        "INFO: rcu_preempt detected stalls on CPUs/tasks:\n[    1.0][ C0] x\n",
    ] {
        judge(part.as_bytes());
        let (short, long) = (seconds(part, 2_000), seconds(part, 16_000));
        assert!(
            long < short * 8.0 * 4.0 + 0.05,
            "8 times the console took {:.1} times as long: {part:?}",
            long / short
        );
    }
}

fn any_case() -> impl Strategy<Value = String> {
    proptest::sample::select(
        cases().into_iter().map(|(_, text)| console(&text).to_string()).collect::<Vec<_>>(),
    )
}

/// What holds of the reports of any console of that length.
fn is_well_formed(reports: &[Report], length: usize) -> Result<(), String> {
    if !reports.windows(2).all(|pair| pair[0].start < pair[1].start) {
        return Err("reports out of order".to_string());
    }
    for report in reports {
        if report.start >= report.end || report.end > length {
            return Err(format!("{}-{} of {length} bytes: {}", report.start, report.end, report.title));
        }
        let unfilled = ["{frame}", "{what}", "{access}"].iter().any(|name| report.title.contains(name));
        if report.title.is_empty() || unfilled {
            return Err(format!("no title: {:?}", report.title));
        }
    }
    Ok(())
}

fn well_formed(console: &[u8]) -> Result<(), TestCaseError> {
    is_well_formed(&judge(console), console.len()).map_err(TestCaseError::fail)?;
    harness_failure(console);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_bytes_are_judged(console in proptest::collection::vec(any::<u8>(), 0..2000)) {
        well_formed(&console)?;
    }

    #[test]
    fn a_console_cut_anywhere_is_judged(console in any_case(), from in 0.0..1.0, to in 0.0..1.0) {
        let at = |part: f64| (console.len() as f64 * part) as usize;
        let (from, to): (usize, usize) = (at(f64::min(from, to)), at(f64::max(from, to)));
        well_formed(&console.as_bytes()[from..to])?;
    }

    #[test]
    fn spliced_consoles_are_judged(one in any_case(), other in any_case(), seed in any::<u64>()) {
        let (mut one, mut other) = (one.lines(), other.lines());
        let mut console = String::new();
        for turn in 0..400u32 {
            let line = if seed.rotate_left(turn) & 1 == 0 { one.next() } else { other.next() };
            // Lines run into one another, too.
            console.push_str(line.unwrap_or_default());
            if seed.rotate_left(turn * 7) & 7 != 0 {
                console.push('\n');
            }
        }
        well_formed(console.as_bytes())?;
    }

    #[test]
    fn the_first_report_survives_noise_of_other_callers(console in any_case(), every in 1usize..5) {
        let noisy: String = (console.lines().enumerate())
            .map(|(at, line)| if at % every == 0 { format!("{line}\n[    1.000000][ T9999] loop0: some noise\n") } else { format!("{line}\n") })
            .collect();
        let title = |console: &str| judge(console.as_bytes()).first().map(|report| (report.title.clone(), report.frame.clone()));
        // Lines without a caller cannot be told from noise.
        if console.lines().all(|line| line.contains("][ ")) {
            prop_assert_eq!(title(&console), title(&noisy));
        }
    }
}

#[test]
fn a_leak_that_is_looked_for_tells_and_of_other_reports_the_first() {
    let leak = |frame: &str| {
        format!(
            "[    1.0][    T1] unreferenced object 0xffff888100000000 (size 8):\n[    1.0][    T1]   backtrace (crc 1234):\n[    1.0][    T1]     {frame}+0x1/0x2\n"
        )
    };
    let leaks = judge([leak("one"), leak("two")].concat().as_bytes());
    let title = |wanted: &str| {
        super::telling(&leaks, |report| report.title == wanted).map(|report| report.title.as_str())
    };
    assert_eq!(title("memory leak in two"), Some("memory leak in two"));
    assert_eq!(title("memory leak in three"), Some("memory leak in one"));
    let bugs = [Report { title: "BUG".into(), ..Report::default() }, leaks[0].clone()];
    assert_eq!(super::telling(&bugs, Report::is_leak), Some(&bugs[0]));
}
