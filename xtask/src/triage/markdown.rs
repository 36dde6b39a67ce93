// SPDX-License-Identifier: MIT OR Apache-2.0
//! `triage --markdown`: for mail and issue trackers. What the log says is escaped or quoted throughout.

use std::fmt::Write as _;

use harness::{
    oracle::Report,
    plain::{inline_markdown, quote_markdown},
};

use super::{
    Judged,
    bugs::{self, bugs},
    text,
};

/// All logs.
pub(super) fn render(judged: &[Judged], all: bool) -> String {
    let mut out = String::new();
    if let [log] = judged {
        let n_shown = if all { log.reports.len() } else { 1 };
        for report in log.reports.iter().take(n_shown) {
            write_report(&mut out, report, log);
        }
        let _ = match &log.reports[..] {
            [] => writeln!(out, "{}: no crash", inline_markdown(&log.path.to_string_lossy())),
            [_, rest @ ..] if !all && !rest.is_empty() => {
                write_aftermath(&mut out, rest);
                Ok(())
            }
            _ => Ok(()),
        };
        return out;
    }
    let bugs = bugs(judged);
    let _ = writeln!(out, "{}\n", text::tally(judged, bugs.len()));
    for bug in &bugs {
        let log = &judged[bug.shown];
        let Some(report) = bugs::cause(log) else { continue };
        if all {
            write_report(&mut out, report, log);
        } else {
            let _ = writeln!(out, "### {}\n", inline_markdown(&report.title));
        }
        for &log_idx in &bug.logs {
            let log = &judged[log_idx];
            let hash = bugs::cause(log).map_or(0, |report| report.stack_hash);
            let _ = writeln!(out, "- {} (stack {hash:016x})", inline_markdown(&log.path.to_string_lossy()));
        }
        out.push('\n');
    }
    out
}

fn write_report(out: &mut String, report: &Report, log: &Judged) {
    let _ = writeln!(out, "### {}\n\n| | |\n|---|---|", inline_markdown(&report.title));
    for (name, value) in text::facts(report, &log.path) {
        let _ = writeln!(out, "| {name} | {} |", inline_markdown(&value));
    }
    let body = text::body(report);
    if !body.is_empty() {
        let lines: Vec<String> = body.into_iter().map(|line| line.text).collect();
        let _ = write!(out, "\n{}", quote_markdown(&lines.join("\n")));
    }
}

fn write_aftermath(out: &mut String, rest: &[Report]) {
    let _ = writeln!(out, "Then, later in the same log:\n");
    for report in rest.iter().take(text::AFTERMATH_SHOWN) {
        let _ = writeln!(out, "- line {}: {}", report.first_line, inline_markdown(&report.title));
    }
    if rest.len() > text::AFTERMATH_SHOWN {
        let _ = writeln!(out, "- {} more", rest.len() - text::AFTERMATH_SHOWN);
    }
}
