// SPDX-License-Identifier: MIT OR Apache-2.0
//! `triage LOG...`: the oracle alone, on any console or dmesg file.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use harness::{
    oracle::{Judge, Report},
    symbolize::{self, Symbolizer},
};
use serde::Serialize;

use crate::exit::{Exit, Outcome};

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Says what the kernel complained about in console logs.
#[derive(clap::Args, Debug)]
pub struct TriageArgs {
    /// Console or dmesg files; `-` reads standard input.
    #[arg(required = true)]
    pub logs: Vec<PathBuf>,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// Kernel image with debug information, to print source lines with the reports.
    #[arg(long)]
    pub vmlinux: Option<PathBuf>,
    /// Kernel modules with debug information, beside the image.
    #[arg(long, value_name = "FILE", requires = "vmlinux")]
    pub module: Vec<PathBuf>,
}

/// What `--json` prints for one log.
#[derive(Serialize)]
struct Verdict<'a> {
    file: &'a Path,
    crash: bool,
    title: Option<&'a str>,
    alt_titles: &'a [String],
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    frame: Option<&'a str>,
    corrupted: bool,
    reports: &'a [Report],
    /// The first report's text with source lines, when there is an image to take them from.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
}

/// Judges every log; the exit code tells whether any holds a crash.
///
/// # Errors
///
/// When a log or the image cannot be read, or standard output cannot be written.
pub fn run(args: &TriageArgs) -> Outcome {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut exit = Exit::Pass;
    let symbolizer =
        args.vmlinux.as_ref().map(|vmlinux| Symbolizer::new(vmlinux, &args.module)).transpose()?;
    for path in &args.logs {
        let reports = judge(path)?;
        if !reports.is_empty() {
            exit = Exit::Finding;
        }
        let source = symbolizer
            .as_ref()
            .zip(reports.first())
            .map(|(symbolizer, cause)| symbolize::annotate(&cause.text, symbolizer));
        if args.json {
            serde_json::to_writer(&mut out, &verdict(path, &reports, source.as_deref()))?;
            writeln!(out)?;
        } else {
            print(&mut out, path, &reports)?;
            out.write_all(source.unwrap_or_default().as_bytes())?;
        }
    }
    out.flush()?;
    Ok(exit)
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

fn verdict<'a>(path: &'a Path, reports: &'a [Report], source: Option<&'a str>) -> Verdict<'a> {
    let cause = reports.first();
    Verdict {
        file: path,
        crash: cause.is_some(),
        title: cause.map(|report| report.title.as_str()),
        alt_titles: cause.map_or(&[], |report| &report.alt_titles),
        kind: cause.map(|report| report.kind.as_str()),
        frame: cause.and_then(|report| report.frame.as_deref()),
        corrupted: cause.is_some_and(|report| report.corrupted.is_some()),
        reports,
        source,
    }
}

fn print(out: &mut impl Write, path: &Path, reports: &[Report]) -> io::Result<()> {
    let Some((cause, aftermath)) = reports.split_first() else {
        return writeln!(out, "{}: no crash", path.display());
    };
    writeln!(out, "{}: {}", path.display(), cause.title)?;
    if !cause.kind.is_empty() {
        writeln!(out, "  type: {}", cause.kind)?;
    }
    if let Some(reason) = &cause.corrupted {
        writeln!(out, "  corrupted: {reason}")?;
    }
    for report in aftermath {
        writeln!(out, "  then: {}", report.title)?;
    }
    Ok(())
}
