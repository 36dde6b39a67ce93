// SPDX-License-Identifier: MIT OR Apache-2.0
//! `report.md` of a finding: a pure function of the evidence. What the guest printed is escaped: a kernel under test may
//! print anything.

use std::{fmt::Write, path::Path};

use harness::{
    oracle::Report,
    plain::{inline_markdown as inline, quote_markdown as quote},
    program::{Program, describe},
};

use crate::findings::Evidence;

/// Longest piece of console quoted, bytes.
const QUOTE_BYTES_MAX: usize = 16 << 10;

/// The piece of a console that a report quotes: the oracle's report, else the end; `annotate` adds source lines.
pub fn excerpt(report: &Report, console: &[u8], annotate: &dyn Fn(&str) -> String) -> String {
    let end = report.end.min(console.len());
    let raw = &console[report.start.min(end)..end];
    if raw.is_empty() {
        return String::from_utf8_lossy(&console[console.len().saturating_sub(QUOTE_BYTES_MAX / 4)..])
            .into_owned();
    }
    let shown = &raw[..raw.len().min(QUOTE_BYTES_MAX)];
    let cut = if shown.len() < raw.len() { "\n[cut here; all of it is in console.log]\n" } else { "" };
    annotate(&String::from_utf8_lossy(shown)) + cut
}

/// The report. `folder` is where it will lie.
pub fn render(evidence: &Evidence, folder: &Path) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_head(&mut out, evidence);
    let _ = write_reproduce(&mut out, evidence, folder);
    let _ = write!(out, "## Kernel log\n\n{}", quote(&evidence.excerpt));
    write_programs(&mut out, evidence);
    out
}

fn write_head(out: &mut String, evidence: &Evidence) -> std::fmt::Result {
    let (report, run) = (&evidence.report, &evidence.record);
    let kind = if report.kind.is_empty() { "unknown".to_owned() } else { inline(&report.kind) };
    writeln!(out, "# {}\n", inline(&report.title))?;
    writeln!(out, "| | |\n|---|---|")?;
    writeln!(out, "| type | {kind} |")?;
    if let Some(frame) = &report.frame {
        writeln!(out, "| blamed | {} |", inline(frame))?;
    }
    for title in &report.alt_titles {
        writeln!(out, "| also known as | {} |", inline(title))?;
    }
    if let Some(why) = &report.corrupted {
        writeln!(out, "| report damaged | {} |", inline(why))?;
    }
    writeln!(out, "| instance | {} |", inline(&run.provenance.instance))?;
    writeln!(out, "| engine | {} |", inline(&run.provenance.engine))?;
    writeln!(out, "| schedule | {} vCPUs, icount shift {} |", run.schedule.vcpus, run.schedule.shift)?;
    writeln!(out, "| boot arguments | {} |", inline(&run.provenance.boot_arguments))?;
    writeln!(out, "| the epoch ended | {} |", inline(&evidence.end))?;
    let (secs, execs) = (evidence.first_seen.as_secs(), evidence.execs);
    writeln!(out, "| first seen | after {secs} s and {execs} programs |\n")
}

fn write_reproduce(out: &mut String, evidence: &Evidence, folder: &Path) -> std::fmt::Result {
    writeln!(out, "## Reproduce\n\n    cargo xtask repro {}\n", folder.display())?;
    let n_programs = evidence.batch.len();
    if n_programs == 0 {
        return writeln!(out, "Booting shows it; no program is needed.\n");
    }
    if let Some(before) = &evidence.record.minimized {
        return writeln!(
            out,
            "Made smaller in {} runs: found with {} ops in {} thread(s), {} program(s) in the batch.\n",
            before.runs, before.ops, before.threads, before.batch
        );
    }
    match (evidence.record.reduced_from, evidence.record.confirmed) {
        (Some(n_found), _) => writeln!(
            out,
            "Found in a batch of {n_found}. Kept of it: {n_programs}, enough to show the same title when run alone.\n"
        ),
        (None, true) => {
            writeln!(out, "The whole batch, {n_programs} long, showed the same title when run again.\n")
        }
        (None, false) => writeln!(out, "The batch as it ran, {n_programs} long; it was not run again.\n"),
    }
}

fn write_programs(out: &mut String, evidence: &Evidence) {
    if evidence.batch.is_empty() {
        return;
    }
    let last = evidence.batch.len().saturating_sub(1);
    match evidence.program() {
        Some(program) => {
            let _ = write!(out, "## Program\n\n{}", quote(&program.to_string()));
            write_words(out, program);
        }
        None => out.push_str("## Program\n\nNone was in flight: the batch had ended.\n\n"),
    }
    if last > 0 {
        let _ = writeln!(out, "## Rest of the batch\n\nRun before it, in order:\n");
        for (idx, program) in evidence.batch[..last].iter().enumerate() {
            let (n_threads, n_ops) = (program.threads.len(), program.n_ops());
            let _ = writeln!(out, "- `batch/{idx:04}.txt`: {n_threads} threads, {n_ops} ops");
        }
    }
}

fn write_words(out: &mut String, program: &Program) {
    out.push_str("In words:\n\n");
    for (idx, thread) in program.threads.iter().enumerate() {
        let _ = writeln!(out, "- thread {idx}, pinned to CPU {}", thread.cpu);
        for op in &thread.ops {
            let _ = writeln!(out, "  - {}", inline(&describe(op)));
        }
    }
    out.push('\n');
}
