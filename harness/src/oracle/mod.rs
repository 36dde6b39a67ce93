// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oracle: console bytes in, reports out. A pure function that never fails: a damaged report is still a report, with
//! the damage named in [`Report::corrupted`].
//!
//! In data-flow order: `judge` takes the console piece by piece, `lines` strips what printk puts before each line, `rules`
//! is the table of what the first line of a report looks like, `segment` says which lines belong to which report, `stacks`
//! reads the stacks in it (`frames` a line of them, `names` a symbol), `blame` picks the function (`functions` lists
//! what is never to blame), `verdict` puts a report together (`kind` knows its type).
//!
//! Titles and types follow public kernel fuzzing dashboards, so that a finding can be looked up there.
//!
//! Absences: no IO, no panic, nothing worse than linear time in the length of the console. Regular expressions run on
//! single lines of bounded length only, and a line belongs to at most one report.

mod blame;
mod frames;
mod functions;
mod judge;
mod kind;
pub mod limits;
mod lines;
mod names;
mod rules;
mod segment;
mod stacks;
#[cfg(test)]
mod tests;
mod verdict;

pub(crate) use frames::place_in_line;
pub use judge::Judge;
pub(crate) use names::readable;

use memchr::memmem;
use serde::{Deserialize, Serialize};

/// One complaint of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// One line that names the bug, free of numbers that differ from run to run.
    pub title: String,
    /// Other titles the same bug is known by.
    pub alt_titles: Vec<String>,
    /// Type as public dashboards have it: `KASAN-USE-AFTER-FREE-READ`, `LOCKDEP`, `HANG`, ...; empty when it has none.
    pub kind: String,
    /// The blamed function.
    pub frame: Option<String>,
    /// Why the report is not whole, if it is not.
    pub corrupted: Option<String>,
    /// The main stack, innermost function first.
    pub frames: Vec<Frame>,
    /// Hash of the functions on the main stack that matter; no offsets, so stable across builds.
    pub stack_hash: u64,
    /// Offset of the report's first byte in the console.
    pub start: usize,
    /// Offset just past the report's last byte.
    pub end: usize,
    /// The kernel panicked over it.
    pub panicked: bool,
    /// Its lines as they were printed, without those of others between them; bounded by [`limits`].
    #[serde(skip)]
    pub text: String,
}

/// One entry of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Function as people write it: demangled, without compiler suffixes.
    pub function: String,
    /// Function as the symbol table has it.
    pub symbol: String,
    /// Offset of the return address in the function.
    pub offset: u64,
    /// Size of the function.
    pub size: u64,
    /// Module it is in, if not the kernel itself.
    pub module: Option<String>,
    /// Read from a register: the offset is that of the instruction itself, not of a return address.
    pub register: bool,
    /// False for what the unwinder only found lying on the stack (`? func`).
    pub reliable: bool,
}

/// All reports on a console, in order of position. The first is the cause, later ones may be aftermath.
pub fn judge(console: &[u8]) -> Vec<Report> {
    let mut judge = Judge::default();
    judge.push(console);
    judge.finish()
}

/// Words of which every line that begins a report has at least one.
pub fn head_words() -> &'static [String] {
    rules::words()
}

/// What the guest agent says of a failure of its own: the text after `HARNESSFAIL:`.
pub fn harness_failure(console: &[u8]) -> Option<String> {
    memmem::find_iter(console, "HARNESSFAIL:").find_map(|at| {
        let line = lines::line_at(console, at);
        let (_, text) = line.body.split_once("HARNESSFAIL:")?;
        Some(text.trim().to_string())
    })
}
