// SPDX-License-Identifier: MIT OR Apache-2.0
//! Derives from patterns the words without which none of them can match, so that lines can be passed over by the million.

use std::cmp::Reverse;

use regex_syntax::{
    Parser,
    hir::{
        Hir, HirKind,
        literal::{Extractor, Seq},
    },
};

/// Of a longer word this much is searched for.
const WORD_BYTES_MAX: usize = 16;
/// Longer words than this are not rarer.
const WORD_BYTES_GOOD: usize = 5;
/// Shorter words are on too many lines.
const WORD_BYTES_MIN: usize = 2;

/// Words of which every text that a pattern matches has at least one.
///
/// # Panics
/// If a pattern is none, or matches texts that have nothing in common: rules are constants under test.
pub(super) fn of_patterns<'a>(patterns: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut words: Vec<String> = patterns.flat_map(of_pattern).collect();
    words.sort();
    words.dedup();
    // A text with the longer word has the shorter one, too.
    let all = words.clone();
    words.retain(|word| !all.iter().any(|part| part != word && word.contains(part)));
    words
}

fn of_pattern(pattern: &str) -> Vec<String> {
    let hir = Parser::new().parse(pattern).unwrap_or_else(|error| panic!("{error}"));
    let words = of_hir(&hir).unwrap_or_else(|| panic!("no line can be ruled out for {pattern}"));
    let text = |literal| String::from_utf8(literal).expect("patterns are text cut at ASCII");
    words.into_iter().map(text).collect()
}

/// What matches has one of these; `None`: nothing can be said.
fn of_hir(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    match hir.kind() {
        HirKind::Capture(capture) => of_hir(&capture.sub),
        HirKind::Alternation(branches) => {
            branches.iter().map(of_hir).collect::<Option<Vec<_>>>().map(|words| words.concat())
        }
        // What matches all parts in a row ends in what matches the last of them in a row, and has a match of each in it.
        HirKind::Concat(parts) => {
            let tails = (0..parts.len()).filter_map(|at| beginnings(&Hir::concat(parts[at..].to_vec())));
            let words = tails.chain(parts.iter().filter_map(of_hir));
            // Of the good ones the first: many patterns begin alike, and so share a word. Of others as few as can be.
            words.min_by_key(|words| match shortest(words) {
                WORD_BYTES_GOOD.. => (Reverse(WORD_BYTES_GOOD), 0),
                bytes => (Reverse(bytes), words.len()),
            })
        }
        _ => beginnings(hir),
    }
}

/// What matches begins with one of these.
fn beginnings(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let mut seq: Seq = Extractor::new().extract(hir);
    seq.keep_first_bytes(WORD_BYTES_MAX);
    seq.sort();
    seq.dedup();
    let words: Vec<Vec<u8>> = seq.literals()?.iter().map(|word| word.as_bytes().to_vec()).collect();
    (shortest(&words) >= WORD_BYTES_MIN).then_some(words)
}

fn shortest(words: &[Vec<u8>]) -> usize {
    words.iter().map(Vec::len).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(patterns: &[&'static str]) -> Vec<String> {
        of_patterns(patterns.iter().copied())
    }

    #[test]
    fn words_are_in_whatever_the_pattern_matches() {
        assert_eq!(words(&[r"^Internal error: |^Oops: "]), ["Internal error: ", "Oops: "]);
        assert_eq!(words(&[r"^(?:\w+: )?MODEL: (?P<what>.*)"]), ["MODEL: "]);
        assert_eq!(words(&[r"[A-Z_\-]+-safe -> [A-Z]+"]), ["-safe -> "]);
        assert_eq!(words(&[r"[kK]ernel BUG at (?P<site>\S+)"]), ["Kernel BUG at ", "kernel BUG at "]);
        assert_eq!(words(&[r"x.*(?:first|second) y"]), ["first y", "second y"]);
        assert_eq!(words(&[r"^[A-Z]\w*(?:: \d+)? ?\[#\d+\]"]), ["[#"]);
    }

    #[test]
    fn a_word_within_a_word_stands_for_it() {
        assert_eq!(words(&["BUG: KASAN: ", "(?:^|: )BUG: (?P<what>.*)"]), ["BUG: "]);
    }

    #[test]
    #[should_panic = "no line can be ruled out"]
    fn a_pattern_that_matches_almost_anything_is_no_rule() {
        words(&[r"^\w+:.*"]);
    }
}
