// SPDX-License-Identifier: MIT OR Apache-2.0
//! `triage LOG...`: the oracle alone, on any console or dmesg file.
//!
//! `bugs` tells which logs show the same bug, `symbols` finds source lines, `text`, `json` and `markdown` are the forms.
//! Forms are pure functions of what was read.

mod bugs;
mod json;
mod markdown;
mod symbols;
#[cfg(test)]
mod tests;
mod text;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, IsTerminal as _, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use harness::oracle::{Judge, Report};

use self::symbols::Symbols;
use crate::exit::{Exit, Outcome};

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Says what the kernel complained about in console logs.
///
/// One log: its first report in full, later ones by title. Several logs: which bugs they show, and which logs show each;
/// `--all` adds the reports. Exits with 0 when no log holds a crash, with 2 when one does, with 69 when one cannot be read.
#[derive(clap::Args, Debug)]
pub struct TriageArgs {
    /// Console or dmesg files; `-` reads standard input.
    #[arg(required_unless_present = "schema")]
    pub logs: Vec<PathBuf>,
    /// One JSON object a line, one line a log; `--schema` says what is in it.
    #[arg(long)]
    pub json: bool,
    /// For mail and issue trackers; what the log says cannot act as markup.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Every report in full.
    #[arg(long)]
    pub all: bool,
    /// Print the JSON schema of a line of `--json`, and nothing else.
    #[arg(long)]
    pub schema: bool,
    /// Kernel image with debug information, for source lines; found by itself beside the console of a finding.
    #[arg(long)]
    pub vmlinux: Option<PathBuf>,
    /// Kernel module with debug information, or a folder that has some; those that the reports name are read.
    #[arg(long, value_name = "FILE|DIR", requires = "vmlinux")]
    pub module: Vec<PathBuf>,
}

/// A log and what was read in it.
struct Judged {
    path: PathBuf,
    reports: Vec<Report>,
}

/// Judges every log; the exit code tells whether any holds a crash.
///
/// # Errors
///
/// When the image given cannot be read, or standard output cannot be written. A log that cannot be read is told on
/// standard error, and the others are judged.
pub fn run(args: &TriageArgs) -> Outcome {
    let stdout = io::stdout().lock();
    let is_terminal = stdout.is_terminal();
    let mut out = io::BufWriter::new(stdout);
    let outcome = judge_all(args, is_terminal, &mut out);
    match out.flush() {
        // Nobody reads on: `triage | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => outcome,
        flushed => {
            flushed?;
            outcome
        }
    }
}

fn judge_all(args: &TriageArgs, is_terminal: bool, out: &mut impl Write) -> Outcome {
    if args.schema {
        writeln!(out, "{}", json::schema()?)?;
        return Ok(Exit::Pass);
    }
    let symbols = Symbols::new(args.vmlinux.as_deref(), &args.module);
    let style = text::Style::of(is_terminal, std::env::var_os("NO_COLOR"));
    let (mut judged, mut is_whole) = (Vec::new(), true);
    for path in &args.logs {
        let mut reports = match judge(path) {
            Ok(reports) => reports,
            Err(error) => {
                eprintln!("error: {error:#}");
                is_whole = false;
                continue;
            }
        };
        symbols.fill(path, &mut reports)?;
        // There may be thousands of logs, and no form shows the lines.
        reports.iter_mut().for_each(|report| report.text = String::new());
        if args.json {
            writeln!(out, "{}", json::line(path, &reports)?)?;
        }
        judged.push(Judged { path: path.clone(), reports });
    }
    if args.markdown {
        out.write_all(markdown::render(&judged, args.all).as_bytes())?;
    } else if !args.json {
        out.write_all(text::render(&judged, args.all, style).as_bytes())?;
    }
    Ok(match is_whole {
        false => Exit::Infra,
        true if judged.iter().any(|log| !log.reports.is_empty()) => Exit::Finding,
        true => Exit::Pass,
    })
}

/// Judges a log while it is read: it may be longer than memory.
fn judge(path: &Path) -> anyhow::Result<Vec<Report>> {
    if path == Path::new("-") {
        return judge_stream(io::stdin().lock()).context("reading standard input");
    }
    File::open(path).and_then(judge_stream).with_context(|| format!("reading {}", path.display()))
}

fn judge_stream(mut log: impl Read) -> io::Result<Vec<Report>> {
    let (mut judge, mut piece) = (Judge::default(), vec![0; PIECE_BYTES]);
    loop {
        match log.read(&mut piece) {
            Ok(0) => return Ok(judge.finish()),
            Ok(n) => judge.push(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Names of the modules that reports speak of.
fn modules(reports: &mut [Report]) -> BTreeSet<String> {
    reports.iter_mut().flat_map(Report::frames_mut).filter_map(|frame| frame.module.clone()).collect()
}
