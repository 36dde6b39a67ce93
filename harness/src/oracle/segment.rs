// SPDX-License-Identifier: MIT OR Apache-2.0
//! Says which lines belong to which report. Each line belongs to at most one.

use std::collections::HashMap;

use super::{
    lines::Line,
    rules::{self, RULES},
};

/// Lines a report may have; stalls and lockdep dumps are the longest.
const SPAN_LINES_MAX: usize = 2000;
/// How far behind its cause an echo (`Oops:`, `Kernel panic`) may come.
const ECHO_LINES_MAX: usize = 600;

/// The lines of one report.
#[derive(Debug)]
pub(crate) struct Span {
    /// Index in the table of rules.
    pub rule_idx: usize,
    /// Line indexes in order; the first is the head.
    pub lines: Vec<usize>,
    /// A panic follows from it.
    pub panicked: bool,
}

/// All reports, in order of their first lines.
pub(crate) fn segment(lines: &[Line<'_>]) -> Vec<Span> {
    let mut segmenter = Segmenter::default();
    for (line_idx, line) in lines.iter().enumerate() {
        segmenter.line(line_idx, line);
    }
    segmenter.spans
}

#[derive(Default)]
struct Segmenter<'a> {
    spans: Vec<Span>,
    /// The report each caller is in the middle of.
    open: HashMap<Option<&'a str>, usize>,
    /// Boot banners seen.
    boots: usize,
}

impl<'a> Segmenter<'a> {
    fn line(&mut self, line_idx: usize, line: &'a Line<'_>) {
        let caller = line.caller.as_deref();
        let own = self.home(caller);
        if let Some(rule_idx) = rules::of_line(&line.body).filter(|&idx| self.counts(idx, &line.body, line_idx)) {
            if !self.is_echo(rule_idx, own, line_idx) {
                self.open.insert(caller, self.spans.len());
                self.spans.push(Span { rule_idx, lines: vec![line_idx], panicked: is_panic(&line.body) });
                return;
            }
        }
        if let Some(span) = own.and_then(|idx| self.spans.get_mut(idx)) {
            span.panicked |= is_panic(&line.body);
            if span.lines.len() < SPAN_LINES_MAX {
                span.lines.push(line_idx);
            }
        }
    }

    /// The report a caller's line goes to: its own, or one that takes every caller's lines.
    fn home(&self, caller: Option<&str>) -> Option<usize> {
        let own = self.open.get(&caller).copied();
        let last = self.spans.len().checked_sub(1);
        let shared = last.filter(|&idx| RULES[self.spans[idx].rule_idx].all_callers || caller.is_none());
        match (own, shared) {
            (Some(own), Some(shared)) => Some(own.max(shared)),
            (own, shared) => own.or(shared),
        }
    }

    /// A boot banner tells of a reboot only when the console has shown one before.
    fn counts(&mut self, rule_idx: usize, body: &str, _line_idx: usize) -> bool {
        if RULES[rule_idx].name != "reboot" {
            return true;
        }
        self.boots += usize::from(body.starts_with("Linux version"));
        self.boots > 1 && body.starts_with("Linux version")
    }

    /// Is the line the continuation of a report already begun?
    fn is_echo(&self, rule_idx: usize, own: Option<usize>, line_idx: usize) -> bool {
        let Some(span) = own.or(self.spans.len().checked_sub(1)).map(|idx| &self.spans[idx]) else { return false };
        let cause = RULES[span.rule_idx].name;
        let near = span.lines.last().is_some_and(|&last| line_idx - last <= ECHO_LINES_MAX);
        near && RULES[rule_idx].echo_of.iter().any(|&name| name == "*" || name == cause)
    }
}

fn is_panic(body: &str) -> bool {
    body.contains("Kernel panic - not syncing")
}
