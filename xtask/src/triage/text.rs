// SPDX-License-Identifier: MIT OR Apache-2.0
//! `triage` for people: title first, then the stack with source lines, then accesses and locks; one screen for a typical
//! report. Whatever the log says is shown without its control characters.

use std::{ffi::OsString, fmt::Write as _, path::Path};

use harness::{
    oracle::{Frame, Lock, Locks, Report, Role, SideStack},
    plain,
};

use super::{
    Judged,
    bugs::{self, bugs},
};

/// Characters of one line.
const CHARS_MAX: usize = 300;
/// Frames shown of the main stack, and of another.
const FRAMES_SHOWN: usize = 16;
const SIDE_FRAMES_SHOWN: usize = 5;
/// Other stacks, locks and the like shown.
const STACKS_SHOWN: usize = 6;
const LOCKS_SHOWN: usize = 8;
/// Later reports of a log that are named.
pub(super) const AFTERMATH_SHOWN: usize = 8;
/// Logs named for each bug.
const LOGS_SHOWN: usize = 20;
/// Column at which source lines begin.
const SOURCE_COLUMN: usize = 46;

/// Colours or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Escape sequences of our own.
    Colour,
    /// Text only.
    Plain,
}

impl Style {
    /// Colour is for terminals, and for nobody who set NO_COLOR.
    pub(super) fn of(is_terminal: bool, no_color: Option<OsString>) -> Style {
        let is_refused = no_color.is_some_and(|value| !value.is_empty());
        if is_terminal && !is_refused { Style::Colour } else { Style::Plain }
    }

    fn paint(self, part: Part, text: &str) -> String {
        let code = match (self, part) {
            (Style::Plain, _) | (_, Part::Text) => return text.to_string(),
            (_, Part::Title) => "1;31",
            (_, Part::Heading) => "1",
            (_, Part::Blamed) => "33",
            (_, Part::Faint) => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Title,
    Heading,
    Blamed,
    Faint,
    Text,
}

/// A line of a report's body.
#[derive(Debug)]
pub(super) struct Line {
    pub part: Part,
    pub text: String,
}

/// All logs.
pub(super) fn render(judged: &[Judged], all: bool, style: Style) -> String {
    let mut out = String::new();
    if let [log] = judged {
        write_log(&mut out, log, all, style);
        return out;
    }
    let bugs = bugs(judged);
    for bug in &bugs {
        let log = &judged[bug.shown];
        let Some(report) = bugs::cause(log) else { continue };
        if all {
            write_report(&mut out, report, &log.path, style);
        } else {
            let _ = writeln!(out, "{}", style.paint(Part::Title, &line(&report.title)));
        }
        for &log_idx in bug.logs.iter().take(LOGS_SHOWN) {
            let log = &judged[log_idx];
            let Some(report) = bugs::cause(log) else { continue };
            let damage = if report.corrupted.is_some() { ", corrupted" } else { "" };
            let place = format!("{}:{}", log.path.display(), report.first_line);
            let _ = writeln!(out, "  {}  stack {:016x}{damage}", line(&place), report.stack_hash);
        }
        if bug.logs.len() > LOGS_SHOWN {
            let _ = writeln!(out, "  and {} more logs", bug.logs.len() - LOGS_SHOWN);
        }
        out.push('\n');
    }
    let _ = writeln!(out, "{}", style.paint(Part::Heading, &tally(judged, bugs.len())));
    out
}

/// `3 logs, 2 bugs, 1 without a crash`.
pub(super) fn tally(judged: &[Judged], n_bugs: usize) -> String {
    let n_clean = judged.iter().filter(|log| log.reports.is_empty()).count();
    let clean = if n_clean == 0 { String::new() } else { format!(", {n_clean} without a crash") };
    format!("{}, {}{clean}", counted(judged.len(), "log"), counted(n_bugs, "bug"))
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn write_log(out: &mut String, log: &Judged, all: bool, style: Style) {
    let Some((cause, rest)) = log.reports.split_first() else {
        let _ = writeln!(out, "{}: no crash", line(&log.path.to_string_lossy()));
        return;
    };
    write_report(out, cause, &log.path, style);
    if all {
        for report in rest {
            out.push('\n');
            write_report(out, report, &log.path, style);
        }
        return;
    }
    for report in rest.iter().take(AFTERMATH_SHOWN) {
        let _ = writeln!(out, "then, line {}: {}", report.first_line, line(&report.title));
    }
    if rest.len() > AFTERMATH_SHOWN {
        let _ =
            writeln!(out, "and {} more; --all shows them", counted(rest.len() - AFTERMATH_SHOWN, "report"));
    }
}

fn write_report(out: &mut String, report: &Report, path: &Path, style: Style) {
    let _ = writeln!(out, "{}", style.paint(Part::Title, &line(&report.title)));
    for (name, value) in facts(report, path) {
        let _ = writeln!(out, "  {} {}", style.paint(Part::Faint, &format!("{name:<9}")), line(&value));
    }
    for Line { part, text } in body(report) {
        let _ = writeln!(out, "{}", style.paint(part, &text));
    }
}

/// What is told of a report in a few words each. Not yet made harmless.
pub(super) fn facts(report: &Report, path: &Path) -> Vec<(&'static str, String)> {
    let mut facts: Vec<(&'static str, String)> = Vec::new();
    let mut fact = |name, value: String| facts.push((name, value));
    for title in &report.alt_titles {
        fact("also", title.clone());
    }
    if !report.kind.is_empty() {
        fact("type", report.kind.clone());
    }
    if let Some(frame) = &report.frame {
        fact("blamed", frame.clone());
    }
    if let Some(why) = &report.corrupted {
        fact("corrupted", why.clone());
    }
    let panicked = if report.panicked { ", then panic" } else { "" };
    let Report { first_line, last_line, start, end, .. } = report;
    fact("log", format!("{}, lines {first_line}-{last_line}, bytes {start}-{end}{panicked}", path.display()));
    if let Some(task) = &report.task {
        let number = |n: Option<u32>| n.map_or_else(|| "?".to_string(), |n| n.to_string());
        let mut text = format!("{}/{}, cpu {}", task.comm, number(task.pid), number(task.cpu));
        let _ = task.release.iter().try_for_each(|release| write!(text, ", kernel {release}"));
        if !task.taint.is_empty() {
            let _ = write!(text, ", tainted {}", task.taint);
        }
        fact("task", text);
    }
    for access in &report.accesses {
        let mut text = access.what.clone();
        let _ = access.size.iter().try_for_each(|size| write!(text, " of {}", bytes(*size)));
        let _ = access.address.iter().try_for_each(|address| write!(text, " at {address}"));
        let _ = access.by.iter().try_for_each(|by| write!(text, " by {by}"));
        let _ = access.cpu.iter().try_for_each(|cpu| write!(text, " on cpu {cpu}"));
        fact("access", text);
    }
    if let Some(object) = &report.object {
        let cache = object.cache.iter().map(|cache| format!("of {cache}"));
        let size = object.size.iter().map(|size| bytes(*size));
        let parts: Vec<String> = cache.chain(size).chain(object.place.clone()).collect();
        fact("object", parts.join(", "));
    }
    if report.stack_hash != 0 {
        fact("stack id", format!("{:016x}", report.stack_hash));
    }
    facts
}

fn bytes(n: u64) -> String {
    format!("{n} byte{}", if n == 1 { "" } else { "s" })
}

/// Stacks and locks, harmless.
pub(super) fn body(report: &Report) -> Vec<Line> {
    let mut lines = Vec::new();
    let blamed = report.frame.as_deref();
    if !report.frames.is_empty() {
        heading(&mut lines, "stack");
        write_stack(&mut lines, &report.frames, blamed, FRAMES_SHOWN, false);
    }
    if let Some(locks) = &report.locks {
        write_locks(&mut lines, locks);
    }
    let told: Vec<&SideStack> = report.stacks.iter().filter(|stack| stack.role != Role::Lock).collect();
    for stack in told.iter().take(STACKS_SHOWN) {
        heading(&mut lines, &about(stack));
        write_stack(&mut lines, &stack.frames, None, SIDE_FRAMES_SHOWN, true);
    }
    if told.len() > STACKS_SHOWN {
        heading(
            &mut lines,
            &format!("and {} more; --json has them", counted(told.len() - STACKS_SHOWN, "stack")),
        );
    }
    lines
}

/// The line that a stack came under, where it says more than that a stack comes.
fn about(stack: &SideStack) -> String {
    match (stack.heading.as_str(), stack.pid) {
        ("" | "Call Trace", Some(pid)) => format!("pid {pid}"),
        ("" | "Call Trace", None) => "another stack".to_string(),
        (heading, _) => heading.to_string(),
    }
}

fn heading(lines: &mut Vec<Line>, text: &str) {
    lines.push(Line { part: Part::Heading, text: format!("  {}", line(text)) });
}

fn write_stack(lines: &mut Vec<Line>, frames: &[Frame], blamed: Option<&str>, n_max: usize, past: bool) {
    let all = || frames.iter().filter(|frame| frame.reliable);
    // What found the fault is not what led to it.
    let own: Vec<&Frame> = all().skip_while(|frame| frame.is_machinery(past)).collect();
    let shown: Vec<&Frame> = if own.is_empty() { frames.iter().collect() } else { own };
    let mut is_told = false;
    for frame in shown.iter().take(n_max) {
        let (outermost, inlined) = match frame.source.split_last() {
            Some((outermost, inlined)) => (Some(outermost), inlined),
            None => (None, &[][..]),
        };
        for source in inlined {
            let name = format!("    {} (inlined)", source.function);
            let text = columns(&name, &format!("{}:{}", source.file, source.line));
            lines.push(Line { part: Part::Faint, text: line(&text) });
        }
        let module = frame.module.iter().map(|module| format!(" [{module}]")).collect::<String>();
        let guess = if frame.reliable { "" } else { "? " };
        let is_blamed = !is_told && blamed.is_some_and(|blamed| blamed == frame.function);
        is_told |= is_blamed;
        let (mark, part) = if is_blamed { ("  >", Part::Blamed) } else { ("   ", Part::Text) };
        let offset = if frame.size == 0 && frame.offset == 0 {
            String::new()
        } else {
            format!("+{:#x}", frame.offset)
        };
        let name = format!("{mark} {guess}{}{offset}{module}", frame.function);
        let place = outermost.map(|source| format!("{}:{}", source.file, source.line)).unwrap_or_default();
        lines.push(Line { part, text: line(&columns(&name, &place)) });
    }
    if shown.len() > n_max {
        lines.push(Line { part: Part::Faint, text: format!("    {} more", shown.len() - n_max) });
    }
}

/// Two columns, the second wherever the first lets it.
fn columns(name: &str, place: &str) -> String {
    let text = format!("{name:<SOURCE_COLUMN$} {place}");
    text.trim_end().to_string()
}

fn write_locks(lines: &mut Vec<Line>, locks: &Locks) {
    heading(lines, "locks");
    let mut tell = |text: String| lines.push(Line { part: Part::Text, text: line(&format!("    {text}")) });
    if let Some(wanted) = &locks.wanted {
        tell(format!("{} wants {}", wanted.task, lock(wanted)));
    }
    if let Some(held) = &locks.held {
        tell(format!("{} holds {}", held.task, lock(held)));
    }
    if locks.cycle.len() > 1 {
        let around = locks.cycle.iter().chain(locks.cycle.first());
        let classes: Vec<&str> = around.map(|link| link.class.as_str()).collect();
        tell(format!("cycle: {}", classes.join(" -> ")));
    }
    for step in &locks.scenario {
        tell(format!("CPU{}: {}", step.cpu, step.what));
    }
    for holder in locks.holders.iter().take(LOCKS_SHOWN) {
        // What stands above need not be told twice.
        let is_new = |held: &&Lock| Some(&held.class) != locks.held.as_ref().map(|held| &held.class);
        let held: Vec<String> = holder.locks.iter().filter(is_new).map(lock).collect();
        if !held.is_empty() {
            let also = if locks.held.is_some() { "also holds" } else { "holds" };
            tell(format!("{} {also} {}", holder.task, held.join("; ")));
        }
    }
    if locks.holders.len() > LOCKS_SHOWN {
        tell(format!("and {} more", counted(locks.holders.len() - LOCKS_SHOWN, "task")));
    }
}

/// `class {usage} at function`.
fn lock(lock: &Lock) -> String {
    let at = if lock.function.is_empty() { String::new() } else { format!(" at {}", lock.function) };
    format!("{} {{{}}}{at}", lock.class, lock.usage)
}

fn line(text: &str) -> String {
    plain::line(text, CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_whose_user_does_not_refuse_it() {
        for (is_terminal, no_color, style) in [
            (true, None, Style::Colour),
            (true, Some(""), Style::Colour),
            (true, Some("1"), Style::Plain),
            (false, None, Style::Plain),
        ] {
            assert_eq!(Style::of(is_terminal, no_color.map(OsString::from)), style);
        }
    }
}
