// SPDX-License-Identifier: MIT OR Apache-2.0
//! `report.md` of a finding, the text of a mail: a pure function of the evidence. Prose has 72 columns; what the guest
//! printed is indented, line by line, so that nothing in it is taken for ours: a kernel under test may print anything.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use harness::{
    oracle::Report,
    plain::{self, inline_markdown as inline},
    program::{Program, describe},
};

use crate::{
    findings::{Evidence, Rate},
    standalone::Reproducer,
};

/// Longest piece of console quoted, bytes.
const QUOTE_BYTES_MAX: usize = 16 << 10;
/// Columns of prose.
const WIDTH: usize = 72;

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
pub fn render(evidence: &Evidence, reproducer: &Result<Reproducer, &'static str>, folder: &Path) -> String {
    let mut out = String::new();
    write_head(&mut out, evidence);
    heading(&mut out, "Report");
    quote(&mut out, &evidence.excerpt);
    write_program(&mut out, evidence);
    write_standalone(&mut out, evidence, reproducer);
    write_reproduce(&mut out, evidence, folder);
    write_rest(&mut out, evidence);
    out
}

fn write_head(out: &mut String, evidence: &Evidence) {
    let (report, run) = (&evidence.report, &evidence.record);
    let title = inline(&report.title);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{title}\n{}\n", "=".repeat(title.chars().count().min(WIDTH)));
    let release = evidence.release().map_or(String::new(), |release| format!(" {}", inline(release)));
    let config = if evidence.config.is_some() { " Its configuration is the file config." } else { "" };
    let found = format!(
        "shrinktorture, a fuzzer for the kernel's shrinkers, has this report from Linux{release} ({}).{config}",
        inline(&run.provenance.instance)
    );
    paragraph(out, &found);
    paragraph(out, "It was booted with");
    for line in plain::wrap(&plain::line(&run.provenance.boot_arguments, usize::MAX), WIDTH - 4) {
        let _ = writeln!(out, "    {line}");
    }
    out.push('\n');
    if evidence.batch.is_empty() {
        paragraph(out, "Booting shows it; no program is needed.");
    } else {
        paragraph(out, &rate(evidence));
    }
    if let Some(frame) = &report.frame {
        paragraph(out, &format!("The function to look at is {}.", inline(frame)));
    }
    for title in &report.alt_titles {
        paragraph(out, &format!("It is also known as: {}", inline(title)));
    }
    if let Some(why) = &report.corrupted {
        paragraph(out, &format!("The report is damaged: {}.", inline(why)));
    }
}

/// How often it shows, as far as is known.
fn rate(evidence: &Evidence) -> String {
    let record = &evidence.record;
    let engine = match record.provenance.engine.as_str() {
        "det" => format!(
            "under a deterministic QEMU ({} CPUs, -icount shift={}), in which every run of one program is the same run",
            record.schedule.vcpus, record.schedule.shift
        ),
        _ => format!("in QEMU with {} CPUs that run side by side", record.schedule.vcpus),
    };
    let is_confirmed = record.minimized.is_some() || record.confirmed || record.reduced_from.is_some();
    let again = match (record.rates.is_empty(), is_confirmed) {
        (false, _) => counted(&record.rates),
        (true, true) => "Run again, it showed the same.".to_owned(),
        (true, false) => "It was not run again.".to_owned(),
    };
    format!("It was seen {engine}. {again}")
}

/// Runs that were counted, in words.
fn counted(rates: &BTreeMap<String, Rate>) -> String {
    let one = |(engine, rate): (&String, &Rate)| {
        let how = if engine == "det" { "so" } else { "with CPUs side by side" };
        format!("{} of {} runs {how}", rate.n_same, rate.n_runs)
    };
    format!("It showed in {}.", rates.iter().map(one).collect::<Vec<_>>().join(" and in "))
}

fn write_program(out: &mut String, evidence: &Evidence) {
    if evidence.batch.is_empty() {
        return;
    }
    heading(out, "Program");
    match evidence.program() {
        Some(program) => write_words(out, program),
        None => paragraph(out, "None was in flight: the batch had ended."),
    }
}

fn write_words(out: &mut String, program: &Program) {
    for (idx, thread) in program.threads.iter().enumerate() {
        let _ = writeln!(out, "Thread {idx}, on CPU {}:\n", thread.cpu);
        for (n, op) in (1..).zip(&thread.ops) {
            let number = format!("{n:2}. ");
            for (nr, line) in plain::wrap(&describe(op), WIDTH - number.len()).iter().enumerate() {
                let before = if nr == 0 { number.clone() } else { " ".repeat(number.len()) };
                let _ = writeln!(out, "{before}{line}");
            }
        }
        out.push('\n');
    }
}

fn write_standalone(out: &mut String, evidence: &Evidence, reproducer: &Result<Reproducer, &'static str>) {
    heading(out, "Stand-alone reproducer");
    let reproducer = match reproducer {
        Ok(reproducer) => reproducer,
        Err(why) => return paragraph(out, &format!("There is none: {why}.")),
    };
    paragraph(
        out,
        "A kernel module in C and a shell script, in the folder reproducer; neither needs shrinktorture. As root, on a \
         machine that may crash:",
    );
    out.push_str("    cd reproducer\n    make KDIR=/path/to/the/kernel/build\n    sh repro.sh\n\n");
    let tried = match &evidence.record.standalone {
        None => "It was not tried.".to_owned(),
        Some(tried) => {
            let rounds =
                if tried.rounds == 1 { "one round" } else { &format!("up to {} rounds", tried.rounds) };
            format!(
                "Built and run so, with {rounds} in each boot, it shows the same in {} of {} boots.",
                tried.n_same, tried.n_boots
            )
        }
    };
    paragraph(out, &tried);
    if !reproducer.left_out.is_empty() {
        paragraph(out, "It does without some ops of the program:");
        for text in &reproducer.left_out {
            bullet(out, text);
        }
        out.push('\n');
    }
}

fn write_reproduce(out: &mut String, evidence: &Evidence, folder: &Path) {
    heading(out, "With shrinktorture");
    let _ = writeln!(out, "    cargo xtask repro {}\n", folder.display());
    let n_programs = evidence.batch.len();
    let made = match (&evidence.record.minimized, evidence.record.reduced_from) {
        _ if n_programs == 0 => return,
        (Some(before), _) => format!(
            "Made smaller in {} runs: it was found with {} ops in {} thread(s), and {} program(s) in the batch.",
            before.runs, before.ops, before.threads, before.batch
        ),
        (None, Some(n_found)) => format!(
            "Found in a batch of {n_found}. Kept of it: {n_programs}, enough to show the same title when run alone."
        ),
        (None, None) => format!("The batch is as it ran, {n_programs} long."),
    };
    paragraph(out, &made);
    let (secs, execs) = (evidence.first_seen.as_secs(), evidence.execs);
    paragraph(
        out,
        &format!(
            "First seen after {secs} s and {execs} programs; the epoch ended: {}.",
            inline(&evidence.end)
        ),
    );
    if let Some(program) = evidence.program() {
        quote(out, &program.to_string());
    }
}

fn write_rest(out: &mut String, evidence: &Evidence) {
    let last = evidence.batch.len().saturating_sub(1);
    if last == 0 {
        return;
    }
    paragraph(out, "Run before it, in order:");
    for (idx, program) in evidence.batch[..last].iter().enumerate() {
        let (n_threads, n_ops) = (program.threads.len(), program.n_ops());
        bullet(out, &format!("batch/{idx:04}.txt: {n_threads} threads, {n_ops} ops"));
    }
}

fn heading(out: &mut String, text: &str) {
    let _ = writeln!(out, "{text}\n{}\n", "-".repeat(text.len()));
}

fn paragraph(out: &mut String, text: &str) {
    let _ = writeln!(out, "{}\n", plain::wrap(text, WIDTH).join("\n"));
}

fn bullet(out: &mut String, text: &str) {
    let _ = writeln!(out, "- {}", plain::wrap(text, WIDTH - 2).join("\n  "));
}

/// Lines of others, none of which begins at the first column.
fn quote(out: &mut String, text: &str) {
    for line in plain::block(text).lines() {
        let _ = writeln!(out, "{}", format!("    {line}").trim_end());
    }
    out.push('\n');
}
