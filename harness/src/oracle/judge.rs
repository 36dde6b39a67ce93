// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes a console in pieces: keeps the line that is not whole yet, hands whole lines on.

use memchr::{memchr, memrchr};

use super::{Report, limits::LINE_BYTES_MAX, lines, segment::Segmenter, segment::Span, verdict};

/// Judges a console while it is printed. However it is cut into pieces, the reports are those of [`super::judge`].
///
/// Holds the reports that are not taken yet, in total no more than [`super::limits`] allow, and one line.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    segmenter: Segmenter,
    /// The first bytes of the line at hand.
    line: Vec<u8>,
    /// Offset of that line in the console.
    line_start: usize,
    /// Bytes of console so far.
    offset: usize,
}

impl Judge {
    /// The next piece of the console.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if self.offset > self.line_start {
            let end = memchr(b'\n', bytes).map(|at| at + 1);
            let (head, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            self.hold(head);
            if end.is_none() {
                return;
            }
            self.end_line();
            bytes = rest;
        }
        let (lines, rest) = bytes.split_at(memrchr(b'\n', bytes).map_or(0, |at| at + 1));
        let start = self.offset;
        self.offset += lines.len();
        self.segmenter.push(lines, start, self.offset);
        self.line_start = self.offset;
        self.hold(rest);
    }

    /// Takes the reports that no further line can change, in order of position.
    pub fn finished(&mut self) -> Vec<Report> {
        std::iter::from_fn(|| self.segmenter.next_over()).map(|span| report(&span)).collect()
    }

    /// The console is over: the reports not taken yet.
    pub fn finish(mut self) -> Vec<Report> {
        if self.offset > self.line_start {
            self.end_line();
        }
        self.segmenter.into_spans().iter().map(report).collect()
    }

    /// Bytes of console that are kept.
    #[cfg(test)]
    pub fn bytes_held(&self) -> usize {
        self.line.len() + self.segmenter.bytes_held()
    }

    fn hold(&mut self, part: &[u8]) {
        self.offset += part.len();
        self.line.extend_from_slice(&part[..part.len().min(LINE_BYTES_MAX - self.line.len())]);
    }

    fn end_line(&mut self) {
        self.segmenter.push(&self.line, self.line_start, self.offset);
        self.line.clear();
        self.line_start = self.offset;
    }
}

fn report(span: &Span) -> Report {
    verdict::report(&lines::split(&span.text), span)
}
