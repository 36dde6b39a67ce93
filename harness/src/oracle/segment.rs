// SPDX-License-Identifier: MIT OR Apache-2.0
//! Says which lines belong to which report. Each line belongs to at most one.
//!
//! A line can begin a report only if it has one of the rules' words. They are searched for in many lines at once; lines
//! without are read no further than a report that may go on, or the wait for a first late time stamp, asks for.

use std::collections::VecDeque;

use memchr::{memchr, memchr_iter, memrchr};

use super::{
    limits::{LINE_BYTES_MAX, REPORT_BYTES_MAX, REPORT_LINES_MAX, REPORTS_MAX, SILENCE_LINES_MAX},
    lines::{self, Stamped},
    rules,
};

/// Early consoles print the boot's first messages twice, banner included: only later than this is it a reboot.
const SETTLED_SECONDS: u64 = 5;

/// The lines of one report.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// Index in the table of rules.
    pub rule_idx: usize,
    /// Offset of its first byte in the console.
    pub start: usize,
    /// Offset just past its last line.
    pub end: usize,
    /// Its lines as they were printed, without those of others between them; the first is the head.
    pub text: Vec<u8>,
    /// A panic follows from it.
    pub panicked: bool,
    n_lines: usize,
    /// Number on the console of its first line, from 0.
    pub first_line: u64,
    /// Number on the console of its last line.
    pub last_line: u64,
}

impl Span {
    fn is_full(&self) -> bool {
        self.n_lines == REPORT_LINES_MAX || self.text.len() + LINE_BYTES_MAX >= REPORT_BYTES_MAX
    }

    fn add(&mut self, line: &RawLine<'_>, line_idx: u64) {
        if self.is_full() {
            return;
        }
        // Of a line that is too long the break is missing.
        if !self.text.is_empty() && !self.text.ends_with(b"\n") {
            self.text.push(b'\n');
        }
        self.text.extend_from_slice(line.text);
        self.n_lines += 1;
        self.end = line.end;
        self.last_line = line_idx;
    }
}

/// One line as printed, no longer than is read of it.
struct RawLine<'a> {
    text: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> RawLine<'a> {
    fn new(text: &'a [u8], start: usize, end: usize) -> RawLine<'a> {
        RawLine { text: &text[..text.len().min(LINE_BYTES_MAX)], start, end }
    }
}

/// Tells reports apart, line after line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segmenter {
    /// Reports that have begun and are not taken, in order. Reports are numbered from the console's first.
    spans: VecDeque<Span>,
    n_taken: usize,
    /// Number of the report that each caller is in the middle of.
    open: Vec<(Option<Box<[u8]>>, usize)>,
    /// Lines so far.
    n_lines: u64,
    /// Number of the last line that a report may still take.
    live_until: u64,
    /// The kernel has been up for longer than consoles take to replay a boot's messages.
    settled: bool,
    /// There were more reports than are kept; nothing is read any more.
    full: bool,
}

impl Segmenter {
    /// Takes whole lines from offset `start` to `end` of the console. Of a single one the tail may be missing.
    pub fn push(&mut self, block: &[u8], start: usize, end: usize) {
        let mut at = 0;
        while !self.full
            && let Some(word) = rules::find_word(&block[at..])
        {
            let word = at + word;
            let head = memrchr(b'\n', &block[at..word]).map_or(at, |before| at + before + 1);
            let next = memchr(b'\n', &block[word..]).map_or(block.len(), |after| word + after + 1);
            self.follow(&block[at..head], start + at, start + head);
            let line_end = if next == block.len() { end } else { start + next };
            self.line(&RawLine::new(&block[head..next], start + head, line_end));
            at = next;
        }
        self.follow(&block[at..], start + at, end);
    }

    /// The first report, if no further line can change it.
    pub fn next_over(&mut self) -> Option<Span> {
        let over = self.full || (!self.spans.is_empty() && self.is_over(self.n_taken));
        let span = if over { self.spans.pop_front() } else { None };
        self.n_taken += usize::from(span.is_some());
        span
    }

    /// Bytes of the reports not taken.
    #[cfg(test)]
    pub fn bytes_held(&self) -> usize {
        self.spans.iter().map(|span| span.text.len()).sum()
    }

    /// All reports not taken.
    pub fn into_spans(self) -> VecDeque<Span> {
        self.spans
    }

    /// Lines that begin no report, from offset `start` to `end`. Of a single one the tail may be missing.
    fn follow(&mut self, block: &[u8], start: usize, end: usize) {
        let mut at = 0;
        while at < block.len() {
            if self.full || (self.settled && self.n_lines > self.live_until) {
                // The last line counts without its break, too.
                self.n_lines += memchr_iter(b'\n', &block[at..block.len() - 1]).count() as u64 + 1;
                return;
            }
            let next = memchr(b'\n', &block[at..]).map_or(block.len(), |after| at + after + 1);
            let line_end = if next == block.len() { end } else { start + next };
            let line = RawLine::new(&block[at..next], start + at, line_end);
            let stamped = lines::stamped(line.text);
            self.settle(&stamped);
            if let Some(span) = self.home(stamped.caller).and_then(|number| self.live(number)) {
                self.add(span, &line);
            }
            self.n_lines += 1;
            at = next;
        }
    }

    /// A line that may begin a report.
    fn line(&mut self, raw: &RawLine<'_>) {
        let stamped = lines::stamped(raw.text);
        self.settle(&stamped);
        let body = String::from_utf8_lossy(stamped.body);
        let own = self.home(stamped.caller);
        if let Some(rule_idx) = rules::of_line(&body).filter(|&idx| self.counts(idx))
            && !self.is_echo(rule_idx, own)
        {
            self.begin(rule_idx, raw, stamped.caller, is_panic(&body));
        } else if let Some(span) = own.and_then(|number| self.live(number)) {
            self.spans[span].panicked |= is_panic(&body);
            self.add(span, raw);
        }
        self.n_lines += 1;
    }

    fn begin(&mut self, rule_idx: usize, head: &RawLine<'_>, caller: Option<&[u8]>, panicked: bool) {
        let number = self.n_taken + self.spans.len();
        self.full = number == REPORTS_MAX;
        if self.full {
            return;
        }
        self.open.retain(|(of, _)| of.as_deref() != caller);
        self.open.push((caller.map(Box::from), number));
        self.spans.push_back(Span {
            rule_idx,
            start: head.start,
            end: head.end,
            text: Vec::new(),
            panicked,
            n_lines: 0,
            first_line: self.n_lines,
            last_line: self.n_lines,
        });
        self.add(self.spans.len() - 1, head);
    }

    fn add(&mut self, span: usize, line: &RawLine<'_>) {
        self.spans[span].add(line, self.n_lines);
        self.live_until = self.live_until.max(self.spans[span].last_line + SILENCE_LINES_MAX);
    }

    fn settle(&mut self, line: &Stamped<'_>) {
        self.settled |= line.seconds.is_some_and(|seconds| seconds >= SETTLED_SECONDS);
    }

    /// Number of the report begun last.
    fn last(&self) -> Option<usize> {
        (self.n_taken + self.spans.len()).checked_sub(1)
    }

    /// Index of a report that lines may still go to.
    fn live(&self, number: usize) -> Option<usize> {
        let idx = number.checked_sub(self.n_taken)?;
        let silent = self.n_lines - self.spans.get(idx)?.last_line;
        (silent <= SILENCE_LINES_MAX).then_some(idx)
    }

    /// Can no further line go to it?
    fn is_over(&self, number: usize) -> bool {
        let superseded = self.last() != Some(number) && self.open.iter().all(|(_, open)| *open != number);
        superseded || self.live(number).is_none()
    }

    /// The report a caller's line goes to: its own, or one that takes every caller's lines.
    fn home(&self, caller: Option<&[u8]>) -> Option<usize> {
        let alive = |number: &usize| self.live(*number).is_some();
        let own = self.open.iter().find(|(of, _)| of.as_deref() == caller).map(|(_, number)| *number);
        let takes_all = |number: &usize| {
            self.live(*number).is_some_and(|idx| rules::rule(self.spans[idx].rule_idx).all_callers)
        };
        let shared = self.last().filter(|last| caller.is_none() || takes_all(last));
        own.filter(alive).max(shared.filter(alive))
    }

    /// A boot banner tells of a reboot only when the kernel was up before.
    fn counts(&mut self, rule_idx: usize) -> bool {
        rules::rule(rule_idx).name != "reboot" || std::mem::take(&mut self.settled)
    }

    /// Is the line the continuation of a report already begun?
    fn is_echo(&self, rule_idx: usize, own: Option<usize>) -> bool {
        let Some(idx) = own.or(self.last()).and_then(|number| self.live(number)) else { return false };
        let span = &self.spans[idx];
        let (cause, rule) = (rules::rule(span.rule_idx).name, rules::rule(rule_idx));
        let near = rule.echo_lines == 0 || span.n_lines <= rule.echo_lines;
        near && rule.echo_of.iter().any(|&name| name == "*" || name == cause)
    }
}

fn is_panic(body: &str) -> bool {
    body.contains("Kernel panic - not syncing: ")
}
