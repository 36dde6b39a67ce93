// SPDX-License-Identifier: MIT OR Apache-2.0
//! Says which lines belong to which report. Each line belongs to at most one.

use std::collections::HashMap;

use super::{lines::Line, rules};

/// Lines a report may have; stalls and lockdep dumps are the longest.
const SPAN_LINES_MAX: usize = 2000;
/// How far behind its cause an echo (`Oops:`, `Kernel panic`) may come.
const ECHO_LINES_MAX: usize = 600;
/// Early consoles print the boot's first messages twice, banner included: only later than this is it a reboot.
const SETTLED_SECONDS: u64 = 5;

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
    /// The kernel has been up for longer than consoles take to replay a boot's messages.
    settled: bool,
}

impl<'a> Segmenter<'a> {
    fn line(&mut self, line_idx: usize, line: &'a Line<'_>) {
        self.settled |= line.seconds.is_some_and(|seconds| seconds >= SETTLED_SECONDS);
        let caller = line.caller.as_deref();
        let own = self.home(caller);
        if let Some(rule_idx) = rules::of_line(&line.body).filter(|&idx| self.counts(idx))
            && !self.is_echo(rule_idx, own, line_idx)
        {
            self.open.insert(caller, self.spans.len());
            self.spans.push(Span { rule_idx, lines: vec![line_idx], panicked: is_panic(&line.body) });
            return;
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
        let shared =
            last.filter(|&idx| rules::rule(self.spans[idx].rule_idx).all_callers || caller.is_none());
        match (own, shared) {
            (Some(own), Some(shared)) => Some(own.max(shared)),
            (own, shared) => own.or(shared),
        }
    }

    /// A boot banner tells of a reboot only when the kernel was up before.
    fn counts(&mut self, rule_idx: usize) -> bool {
        rules::rule(rule_idx).name != "reboot" || std::mem::take(&mut self.settled)
    }

    /// Is the line the continuation of a report already begun?
    fn is_echo(&self, rule_idx: usize, own: Option<usize>, line_idx: usize) -> bool {
        let Some(span) = own.or(self.spans.len().checked_sub(1)).map(|idx| &self.spans[idx]) else {
            return false;
        };
        let (cause, rule) = (rules::rule(span.rule_idx).name, rules::rule(rule_idx));
        let near = span.lines.last().is_some_and(|&last| line_idx - last <= ECHO_LINES_MAX);
        let near = near && (rule.echo_lines == 0 || span.lines.len() <= rule.echo_lines);
        near && rule.echo_of.iter().any(|&name| name == "*" || name == cause)
    }
}

fn is_panic(body: &str) -> bool {
    body.contains("Kernel panic - not syncing")
}
