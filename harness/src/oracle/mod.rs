// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oracle: console bytes in, reports out. A pure function that never fails: a damaged report is still a report, with
//! the damage named in [`Report::corrupted`].
//!
//! In data-flow order: `judge` takes the console piece by piece, `lines` strips what printk puts before each line, `rules`
//! is the table of what the first line of a report looks like, `segment` says which lines belong to which report, `stacks`
//! reads the stacks in it (`frames` a line of them, `names` a symbol, `source` a position that is there already), `blame`
//! picks the function (`functions` lists what is never to blame), `details` and `locks` read what else is told, `verdict`
//! puts a `report` together (`kind` knows its type).
//!
//! Titles and types follow public kernel fuzzing dashboards, so that a finding can be looked up there.
//!
//! Absences: no IO, no panic, nothing worse than linear time in the length of the console. Regular expressions run on
//! single lines of bounded length only, and a line belongs to at most one report.

mod blame;
mod details;
mod frames;
mod functions;
mod judge;
mod kind;
pub mod limits;
mod lines;
mod locks;
mod names;
mod report;
mod rules;
mod segment;
mod source;
mod stacks;
#[cfg(test)]
mod tests;
mod verdict;

pub(crate) use frames::place_in_line;
pub use judge::Judge;
pub use locks::{Holder, Link, Lock, Locks, Step};
pub(crate) use names::readable;
pub use report::{
    Access, Frame, Object, Report, Role, SideStack, SourceFrame, Task, same_bug, share_title, telling,
};

use memchr::memmem;

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
