// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the views of an outcome have in common: words, places, and how much of a guest's text is shown.

use harness::plain;

use super::outcome::{Check, Outcome, Status, Step, Verdict};

/// Longest text that stands in one line, characters.
const TEXT_CHARS_MAX: usize = 300;
/// Longest line of details, characters.
const DETAIL_CHARS_MAX: usize = 400;
/// What is said of a step that has no checks.
pub const NOT_COME_TO: &str = "not come to";

/// The word for a verdict.
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS",
        Verdict::Unsure => "UNSURE",
        Verdict::Fail => "FAIL",
    }
}

/// The word for a status, the same as in the JSON form.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Pass => "pass",
        Status::Fixed => "fixed",
        Status::Note => "note",
        Status::Old => "old",
        Status::Skip => "skip",
        Status::Unsure => "unsure",
        Status::Fail => "fail",
    }
}

/// The same where it is to be seen at a glance: what decides the verdict is in capitals.
pub fn loud(status: Status) -> &'static str {
    match status {
        Status::Fail => "FAIL",
        Status::Unsure => "UNSURE",
        status => word(status),
    }
}

/// The word for a step: its worst check's.
pub fn step_word(step: &Step) -> &'static str {
    if step.checks.is_empty() { NOT_COME_TO } else { loud(step.status()) }
}

/// One line of a text that is not to be trusted.
pub fn line(text: &str) -> String {
    plain::line(text.trim(), TEXT_CHARS_MAX)
}

/// The patch at fault, as mails number it: `2/5`.
pub fn patch(outcome: &Outcome, check: &Check) -> Option<String> {
    check.patch.map(|idx| format!("{}/{}", idx + 1, outcome.patches.len()))
}

/// Where the finding is: `mm/shrinker.c:123`.
pub fn place(check: &Check) -> Option<String> {
    check.place.as_ref().map(|(file, line_no)| format!("{}:{line_no}", line(file)))
}

/// Patch, place and text in a line, as far as there are any: `2/5 mm/shrinker.c:123: unused variable`.
pub fn sentence(outcome: &Outcome, check: &Check) -> String {
    let at: Vec<String> = [patch(outcome, check), place(check)].into_iter().flatten().collect();
    let parts = [at.join(" "), line(&check.text)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

/// Where the whole of it is kept, in words.
pub fn kept(check: &Check) -> Option<String> {
    check.folder.as_ref().map(|folder| format!("kept in {}", line(&folder.to_string_lossy())))
}

/// The first lines of the details; the last line says how many more there are.
pub fn details(check: &Check, lines_max: usize) -> Vec<String> {
    let body = plain::block(check.detail.trim_matches('\n'));
    let mut lines: Vec<String> = body.lines().take(lines_max).map(cut).collect();
    match body.lines().count().saturating_sub(lines_max) {
        0 => {}
        1 => lines.push("… 1 more line".to_owned()),
        n_more => lines.push(format!("… {n_more} more lines")),
    }
    lines
}

/// What a view says of a finding below its first line: the details, and where the whole of it is.
pub fn body(check: &Check, lines_max: usize) -> Vec<String> {
    let mut lines = details(check, lines_max);
    lines.extend(kept(check));
    lines
}

/// No two number signs together: anywhere in a line of a job's log they begin a command, `##[stop-commands]` for
/// GitHub's runner, `##vso[` for Azure's.
pub fn without_commands(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '#' && out.ends_with('#') {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(DETAIL_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

/// The patches in order, a line each: `2/5 mm: shrinker: free later`.
pub fn patches(outcome: &Outcome) -> Vec<String> {
    let n = outcome.patches.len();
    let numbered = outcome.patches.iter().enumerate();
    numbered.map(|(idx, patch)| format!("{}/{n} {}", idx + 1, line(&patch.subject))).collect()
}

/// The kernels, for people: what each is, by name.
pub fn kernels(outcome: &Outcome) -> Vec<(&'static str, String)> {
    let describe = |kernel: &super::outcome::KernelInfo| {
        let parts = [&kernel.instance, &kernel.release, &kernel.source, &kernel.compiler];
        parts.map(|part| line(part)).join(", ")
    };
    let patched = outcome.patched.as_ref().map_or_else(|| "not built".to_owned(), describe);
    vec![("base", describe(&outcome.base)), ("with the series", patched)]
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn long_details_are_cut_and_say_by_how_much() {
        let mut check = Check::new("x", Status::Fail, "");
        check.detail = format!("\none\r\n\ttwo\x1b[2J\n{}\nfour\nfive\n", "x".repeat(DETAIL_CHARS_MAX + 1));
        let lines = details(&check, 3);
        assert_eq!(lines[..2], ["one", "\ttwo\\u{1b}[2J"]);
        assert_eq!(lines[2].chars().count(), DETAIL_CHARS_MAX + 1);
        assert_eq!(lines[3..], ["… 2 more lines"]);
        assert_eq!(details(&check, 4)[4..], ["… 1 more line"]);
        assert_eq!(details(&check, 5).len(), 5);
    }

    #[test]
    fn number_signs_are_told_apart_however_many_there_are() {
        assert_eq!(without_commands("###[x ####vso["), "# # #[x # # # #vso[");
    }
}
