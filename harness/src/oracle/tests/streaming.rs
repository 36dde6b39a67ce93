// SPDX-License-Identifier: MIT OR Apache-2.0
//! A console in pieces: the same verdict however it is cut, at every byte some verdict, and never much in memory.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::{any_case, cases, console, is_well_formed};
use crate::oracle::{Judge, judge, limits};

/// A folder of further consoles (`*.log`), to be cut at every byte.
const MORE_CASES: &str = "SHRINKTORTURE_ORACLE_CASES";
/// Of a console cut at every byte, every so many beginnings are judged in one piece, too.
const WHOLE_EVERY: usize = 997;

/// Judges pieces, taking what is finished in between.
pub(super) fn judge_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<super::Report> {
    let mut judge = Judge::default();
    let mut reports = Vec::new();
    for piece in pieces {
        judge.push(piece);
        reports.extend(judge.finished());
    }
    reports.extend(judge.finish());
    reports
}

/// Cuts at places given as parts of the whole.
pub(super) fn pieces<'a>(console: &'a [u8], cuts: &[f64]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| (console.len() as f64 * cut) as usize).collect();
    cuts.extend([0, console.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &console[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_console_in_pieces_is_judged_as_a_whole_one(
        one in any_case(),
        other in any_case(),
        cuts in proptest::collection::vec(0.0..1.0, 0..40),
    ) {
        let console = format!("{one}{other}");
        let pieces = pieces(console.as_bytes(), &cuts);
        prop_assert_eq!(judge_pieces(pieces), judge(console.as_bytes()));
    }
}

/// The golden consoles, and those of a folder if one is named.
fn all_cases() -> Vec<(PathBuf, Vec<u8>)> {
    let golden = cases().into_iter().map(|(path, text)| (path, console(&text).as_bytes().to_vec()));
    let mut all: Vec<_> = golden.collect();
    let Some(folder) = env::var_os(MORE_CASES) else { return all };
    let n_golden = all.len();
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{MORE_CASES}: {error}"));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let logs = paths.filter(|path| path.extension().is_some_and(|end| end == "log"));
    all.extend(logs.map(|path| (path.clone(), fs::read(path).expect("a readable file"))));
    assert!(all.len() > n_golden, "{MORE_CASES}: no *.log in it");
    all
}

#[test]
fn a_console_in_pieces_of_any_size_is_judged_as_a_whole_one() {
    for (path, console) in all_cases() {
        let whole = judge(&console);
        for size in [1, 2, 3, 7, 61, 127, 1021, 4095, 4097] {
            assert_eq!(judge_pieces(console.chunks(size)), whole, "{} in pieces of {size}", path.display());
        }
    }
}

/// What is said of every beginning of a console. Reports that no further byte can change are looked at once.
fn cut_everywhere(name: &Path, console: &[u8]) {
    let (mut judge, mut over) = (Judge::default(), Vec::new());
    for (at, byte) in console.iter().enumerate() {
        judge.push(std::slice::from_ref(byte));
        over.extend(judge.finished());
        let mut reports = over.clone();
        reports.extend(judge.clone().finish());
        let fine = is_well_formed(&reports, at + 1);
        fine.unwrap_or_else(|what| panic!("{} cut after byte {at}: {what}", name.display()));
        if at % WHOLE_EVERY == 0 {
            assert_eq!(reports, super::judge(&console[..=at]), "{} cut after byte {at}", name.display());
        }
    }
}

#[test]
fn a_console_cut_at_every_byte_is_judged() {
    for (path, console) in all_cases() {
        cut_everywhere(&path, &console);
    }
}

/// Pushes a piece again and again; the most that was held meanwhile.
fn held_at_most(piece: &[u8], total: usize) -> (usize, Judge) {
    let mut judge = Judge::default();
    let mut held = 0;
    for _ in 0..total / piece.len() {
        judge.push(piece);
        held = held.max(judge.bytes_held());
    }
    (held, judge)
}

#[test]
fn a_flood_is_not_kept() {
    const FLOOD: usize = 100 << 20;
    let (held, judge) =
        held_at_most(&b"[   12.345678][  T101] loop0: detected capacity change\n".repeat(1000), FLOOD);
    assert!(held <= limits::LINE_BYTES_MAX, "{held} bytes held of noise");
    assert_eq!(judge.finish(), []);

    let (held, judge) = held_at_most(&[b'x'; 65536], FLOOD);
    assert!(held <= limits::LINE_BYTES_MAX, "{held} bytes held of one line");
    assert_eq!(judge.finish(), []);

    // One report that never ends, and reports without end.
    let (held, mut endless) = held_at_most(&b"BUG: KASAN: x in f+0x1/0x2\n f+0x1/0x2\n".repeat(1000), FLOOD);
    assert!(held <= limits::REPORTS_MAX * limits::REPORT_BYTES_MAX, "{held} bytes held of reports");
    assert_eq!(endless.finished().len(), limits::REPORTS_MAX);

    let mut judge = Judge::default();
    judge.push(b"INFO: task a:1 blocked for more than 143 seconds.\n");
    for _ in 0..FLOOD / 64 {
        judge.push(b"[    1.000000]  do_shrink_slab+0x6b0/0xe50 with a long tail....\n");
    }
    assert!(judge.bytes_held() <= 2 * limits::REPORT_BYTES_MAX, "{} bytes held", judge.bytes_held());
    let reports = judge.finished();
    assert_eq!(reports.len(), 1, "a report that got its fill is over");
    assert!(reports[0].end < limits::REPORT_BYTES_MAX);
}

#[test]
fn what_is_finished_is_told_while_the_console_goes_on() {
    let mut judge = Judge::default();
    judge.push(b"[    1.0][  T101] INFO: task a:1 blocked for more than 143 seconds.\n");
    assert_eq!(judge.finished(), [], "its stack is still to come");
    judge.push(b"[    1.0][  T101] Call Trace:\n[    1.0][  T101]  f+0x1/0x2\n");
    judge.push(b"[    1.0][  T101] INFO: task b:2 blocked for more than 143 seconds.\n");
    let first = judge.finished();
    assert_eq!(first.len(), 1, "its caller is at another");
    assert_eq!(first[0].frame.as_deref(), Some("f"));
    judge.push(&b"[    2.0][  T102] noise\n".repeat(limits::SILENCE_LINES_MAX as usize + 1));
    assert_eq!(judge.finished().len(), 1, "its caller is silent");
    assert_eq!(judge.finish(), []);
}

#[test]
fn a_long_line_is_cut_alike_in_one_piece_and_in_many() {
    let long = "x".repeat(100_000);
    let head = "[    9.0][  T101] BUG: KASAN: slab-use-after-free in f+0x1/0x2 ";
    let frame = "[    9.0][  T101]  f+0x1/0x2";
    let other = "[    9.0][  T102] ";
    let silence = format!("{other}\n").repeat(limits::SILENCE_LINES_MAX as usize + 1);
    // The head is long, a line of the report, a line that belongs to none.
    for (report, rest) in [
        (format!("{head}{long}\n{frame}\n"), format!("{other}last")),
        (format!("{head}\n{frame} {long}\n"), format!("{other}last")),
        (format!("{head}\n{frame}\n"), format!("{silence}{other}{long}\n{head}\n{frame}\n")),
    ] {
        let console = report.clone() + &rest;
        let whole = judge(console.as_bytes());
        let n_lines = |text: &str| text.matches('\n').count() as u64;
        assert_eq!(whole.len(), console.matches("BUG: ").count());
        assert_eq!(whole[0].end, report.len());
        assert_eq!(whole.last().unwrap().last_line, n_lines(console.trim_end_matches("last")));
        for size in [1, 7, 2047, 2048, 2049, 65536] {
            assert_eq!(judge_pieces(console.as_bytes().chunks(size)), whole, "pieces of {size}");
        }
    }
}
