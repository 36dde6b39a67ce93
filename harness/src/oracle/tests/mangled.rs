// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes the oracle with what happens to consoles: real ones are cut, repeated, interleaved, corrupted, in any order. In
//! the tests a few dozen are made; `PROPTEST_CASES=1000000 cargo test --release -p shrinktorture-harness mangled` goes on
//! for as long as asked.

use proptest::{prelude::*, sample::Index};

use super::{any_case, cpu_seconds, is_well_formed, streaming};
use crate::oracle::{harness_failure, judge, lines, rules};

/// Consoles grow no longer than this.
const CONSOLE_BYTES_MAX: usize = 256 << 10;
/// CPU time a console may take, and a byte of it: many times what is needed, far less than anything quadratic takes.
const SECONDS_MAX: f64 = 0.25;
const SECONDS_PER_BYTE_MAX: f64 = 20e-6;

/// One thing that happens to a console. Places are lines or bytes of what is there by then.
#[derive(Clone, Debug)]
enum Mishap {
    /// Lines are lost, as when a buffer overflows.
    LoseLines(Index, Index),
    /// Only a part is there.
    Cut(Index, Index),
    /// Lines come again, many times.
    Repeat(Index, usize, usize),
    /// Another console follows.
    Append(String),
    /// Another console begins in the midst of a line.
    Splice(Index, String),
    /// Two consoles take turns, some lines each.
    Interleave(String, Vec<u8>),
    /// Bytes are overwritten.
    Overwrite(Index, Vec<u8>),
    /// Every so often a line break is lost.
    Join(usize),
    /// Every so often a line is broken.
    Break(usize),
    /// All lines end in CR LF.
    CarriageReturns,
    /// Time stamps and callers are missing.
    Unstamp,
    /// Every so often lines are of another caller.
    Callers(usize),
    /// One line is very long.
    Stretch(Index, usize),
}

fn mishap() -> impl Strategy<Value = Mishap> {
    let at = any::<Index>;
    prop_oneof![
        (at(), at()).prop_map(|(from, to)| Mishap::LoseLines(from, to)),
        (at(), at()).prop_map(|(from, to)| Mishap::Cut(from, to)),
        (at(), 1usize..40, 2usize..200).prop_map(|(at, n, times)| Mishap::Repeat(at, n, times)),
        any_case().prop_map(Mishap::Append),
        (at(), any_case()).prop_map(|(at, case)| Mishap::Splice(at, case)),
        (any_case(), proptest::collection::vec(0u8..9, 1..20))
            .prop_map(|(case, turns)| Mishap::Interleave(case, turns)),
        (at(), proptest::collection::vec(any::<u8>(), 1..60))
            .prop_map(|(at, bytes)| Mishap::Overwrite(at, bytes)),
        (1usize..30).prop_map(Mishap::Join),
        (1usize..300).prop_map(Mishap::Break),
        Just(Mishap::CarriageReturns),
        Just(Mishap::Unstamp),
        (1usize..9).prop_map(Mishap::Callers),
        (at(), 1usize..100_000).prop_map(|(at, n)| Mishap::Stretch(at, n)),
    ]
}

fn happen(console: Vec<u8>, mishap: &Mishap) -> Vec<u8> {
    let lines = || console.split_inclusive(|byte| *byte == b'\n').collect::<Vec<_>>();
    let place = |at: &Index| at.index(console.len() + 1);
    let span = |one: usize, other: usize| one.min(other)..one.max(other);
    match mishap {
        Mishap::LoseLines(from, to) => {
            let mut lines = lines();
            lines.drain(span(from.index(lines.len() + 1), to.index(lines.len() + 1)));
            lines.concat()
        }
        Mishap::Cut(from, to) => console[span(place(from), place(to))].to_vec(),
        Mishap::Repeat(at, n, times) => {
            let lines = lines();
            let from = at.index(lines.len() + 1);
            let to = (from + n).min(lines.len());
            [lines[..to].concat(), lines[from..to].concat().repeat(*times), lines[to..].concat()].concat()
        }
        Mishap::Append(other) => [&console, other.as_bytes()].concat(),
        Mishap::Splice(at, other) => {
            let (before, after) = console.split_at(place(at));
            [before, other.as_bytes(), after].concat()
        }
        Mishap::Interleave(other, turns) => interleave(&lines(), other, turns),
        Mishap::Overwrite(at, bytes) => {
            let (mut console, at) = (console.clone(), place(at));
            let end = (at + bytes.len()).min(console.len());
            console[at..end].copy_from_slice(&bytes[..end - at]);
            console
        }
        Mishap::Join(every) => {
            let lines = lines();
            let joined = lines
                .iter()
                .enumerate()
                .map(|(idx, line)| if idx % every == 0 { line.trim_ascii_end() } else { line });
            joined.collect::<Vec<_>>().concat()
        }
        Mishap::Break(every) => console.chunks(*every).collect::<Vec<_>>().join(&b'\n'),
        Mishap::CarriageReturns => lines()
            .iter()
            .map(|line| [line.trim_ascii_end(), b"\r\r\n"].concat())
            .collect::<Vec<_>>()
            .concat(),
        Mishap::Unstamp => lines()
            .iter()
            .map(|line| [lines::stamped(line).body, b"\n"].concat())
            .collect::<Vec<_>>()
            .concat(),
        Mishap::Callers(every) => {
            let lines = lines();
            let renamed = lines.iter().enumerate().map(|(idx, line)| {
                let caller = format!("[   61.000000][  T{}] ", 100 + idx / every % 5);
                [caller.as_bytes(), lines::stamped(line).body, b"\n"].concat()
            });
            renamed.collect::<Vec<_>>().concat()
        }
        Mishap::Stretch(at, n) => {
            let (before, after) = console.split_at(place(at));
            [before, &b"BUG: x".repeat(n / 6), after].concat()
        }
    }
}

fn interleave(lines: &[&[u8]], other: &str, turns: &[u8]) -> Vec<u8> {
    let (mut ours, mut others) =
        (lines.iter().copied(), other.as_bytes().split_inclusive(|byte| *byte == b'\n'));
    let mut out = Vec::new();
    for (turn, n) in turns.iter().cycle().take(lines.len() + turns.len()).enumerate() {
        let n = usize::from(*n);
        if turn % 2 == 0 {
            ours.by_ref().take(n).for_each(|line| out.extend_from_slice(line));
        } else {
            others.by_ref().take(n).for_each(|line| out.extend_from_slice(line));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]
    #[test]
    fn mangled_consoles_are_judged(
        case in any_case(),
        mishaps in proptest::collection::vec(mishap(), 1..8),
        cuts in proptest::collection::vec(0.0..1.0, 0..20),
    ) {
        let mut console = case.into_bytes();
        for mishap in &mishaps {
            console = happen(console, mishap);
            console.truncate(CONSOLE_BYTES_MAX);
        }
        let start = cpu_seconds();
        let reports = judge(&console);
        let seconds = cpu_seconds() - start;
        prop_assert!(
            seconds < SECONDS_MAX + SECONDS_PER_BYTE_MAX * console.len() as f64,
            "{seconds} s for {} bytes", console.len()
        );
        is_well_formed(&reports, console.len()).map_err(TestCaseError::fail)?;
        prop_assert_eq!(streaming::judge_pieces(streaming::pieces(&console, &cuts)), reports);
        harness_failure(&console);
        // No line that begins a report is passed over.
        for line in console.split(|byte| *byte == b'\n') {
            let body = String::from_utf8_lossy(lines::stamped(line).body);
            prop_assert!(rules::of_line(&body).is_none() || rules::find_word(line).is_some(), "{body}");
        }
    }
}
