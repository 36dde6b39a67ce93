// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask repro FINDING --trace`: which functions of the kernel were entered on which CPU before the report, in order.
//!
//! Nothing in the guest traces: QEMU logs the code that it executes. Virtual time is the number of instructions, which the
//! log does not change, so the run is the very run without it; the consoles of both are compared, which proves it.

pub mod record;
mod text;

use std::{io::BufReader, ops::Range, path::Path, time::Instant};

use ::fuzz::disk;
use anyhow::{Context, Result, bail};
use harness::{
    det::{self, Limits},
    epoch::{EpochEnd, EpochOutcome},
    exec_log,
    oracle::{Report, Role},
    run_dir::RunDir,
    symbolize::layout::Layout,
};

use self::record::Recorder;
use crate::{
    exit::{Exit, Outcome},
    fuzz,
    rerun::{Rerun, Showing},
};

/// Name of the trace in a finding's folder, and, of a program, in the current one.
const FILE: &str = "trace.txt";
/// Name of the report in a finding's folder.
const REPORT: &str = "report.md";
/// How much of the log is read at a time, bytes.
const LOG_BUFFER: usize = 1 << 20;
/// Where modules are, whatever the kernel's version.
const MODULES: Range<u64> = 0xffff_ffff_a000_0000..0xffff_ffff_ff00_0000;

/// A run and what was recorded of it.
pub struct Traced {
    /// What ran.
    pub recorder: Recorder,
    /// Index of the entry that is the free the report names.
    pub free: Option<usize>,
    /// What the run showed.
    pub showing: Showing,
    /// What the guest printed.
    pub console: Vec<u8>,
}

/// Runs it twice, with the log and without.
///
/// # Errors
/// When there is no snapshot to run from, a guest fails, or files cannot be written.
pub fn run(rerun: &Rerun, what: &Path) -> Outcome {
    let snapshot = rerun.snapshot("--trace")?;
    let symbolizer = fuzz::symbols(&rerun.machine).context("a trace is made of symbols")?;
    let layout = Layout::new(&symbolizer, &rerun.machine.modules, &snapshot.boot_console());
    if layout.modules().next().is_none() {
        eprintln!(
            "warning: the guest did not say where its modules are; their functions are not in the trace"
        );
    }
    let traced = take(rerun, &layout)?;
    if let Some(stored) = &rerun.stored {
        let is_as_stored = if stored.console == traced.console { "equals" } else { "differs from" };
        println!("console: {is_as_stored} the stored one");
    }
    let title = match &traced.showing {
        Showing::Same(report) | Showing::Other(report) => &report.title,
        Showing::None | Showing::Infrastructure(_) => "none",
    };
    println!("report: {title}");
    store(&traced, what)?;
    Ok(if matches!(traced.showing, Showing::Same(_)) { Exit::Finding } else { Exit::Pass })
}

/// Runs it without the log and with it, and says how they compare.
///
/// # Errors
/// When there is no snapshot to run from, a guest fails, or the runs differ.
pub fn take(rerun: &Rerun, layout: &Layout<'_>) -> Result<Traced> {
    let snapshot = rerun.snapshot("a trace")?;
    let lookup = |pc| layout.function(pc);
    let (config, epoch, limits) = (&rerun.machine.config, rerun.case.epoch(), Limits::default());
    let dir = RunDir::new().context("cannot make a folder for running machines")?;
    let started = Instant::now();
    let bare = det::run_epoch(config, &snapshot, &epoch, limits, &dir.path().join("bare"));
    let bare_secs = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let ranges = [text_range(layout)?, MODULES];
    let run_dir = dir.path().join("traced");
    let (outcome, recorder) = det::run_traced(config, &snapshot, &epoch, limits, &run_dir, &ranges, |log| {
        let mut recorder = Recorder::default();
        let log = BufReader::with_capacity(LOG_BUFFER, log);
        exec_log::read(log, |block| recorder.block(block, &lookup)).map(|()| recorder)
    });
    let secs = started.elapsed().as_secs_f64();
    well(&bare)?;
    well(&outcome)?;
    let recorder = recorder.context("no log came")?.context("the log cannot be read")?;
    println!(
        "traced: {} blocks of code, {} entries of functions kept ({secs:.1} s; {bare_secs:.1} s without)",
        recorder.n_blocks,
        recorder.entries.len()
    );
    if outcome.console != bare.console {
        bail!("the traced run is not the run without: the consoles differ, and nothing is kept of it");
    }
    println!("console: identical with and without the trace ({} bytes)", outcome.console.len());
    let showing = rerun.case.judge(&outcome);
    let free = match &showing {
        Showing::Same(report) | Showing::Other(report) => free(&recorder, report),
        Showing::None | Showing::Infrastructure(_) => None,
    };
    Ok(Traced { recorder, free, showing, console: outcome.console })
}

/// Writes the trace, and puts what matters of it into a finding's report.
fn store(traced: &Traced, what: &Path) -> Result<()> {
    let (recorder, free) = (&traced.recorder, traced.free);
    let folder = if what.is_dir() { what } else { Path::new("") };
    let (path, text) = (folder.join(FILE), text::file(recorder, free));
    disk::write(&path, text.as_bytes())?;
    println!("{}: {} lines, {} KiB", path.display(), text.lines().count(), text.len() >> 10);
    let excerpt = text::excerpt(recorder, free);
    let path = folder.join(REPORT);
    if what.is_dir()
        && let Ok(report) = std::fs::read_to_string(&path)
    {
        let words = match free {
            Some(_) => {
                "Functions entered from the free that the report names to the report, on all CPUs in order."
            }
            None => "Functions entered last before the report, on all CPUs in order.",
        };
        disk::write(&path, text::in_report(&report, &excerpt, words).as_bytes())?;
    }
    print!("{excerpt}");
    Ok(())
}

/// Where in the trace the free is that the report tells of.
fn free(recorder: &Recorder, report: &Report) -> Option<usize> {
    let roles = [Role::Freed, Role::PageFreed];
    let stack = report.stacks.iter().find(|stack| roles.contains(&stack.role))?;
    let mut frames =
        stack.frames.iter().filter(|frame| frame.reliable).skip_while(|frame| frame.is_machinery(false));
    let innermost = frames.next()?;
    recorder.last_call(&innermost.symbol, frames.next().map_or("", |frame| &frame.symbol))
}

/// The kernel's code, from its first function to its last.
fn text_range(layout: &Layout<'_>) -> Result<Range<u64>> {
    let address = |symbol: &str| layout.addresses(symbol).first().copied();
    let (start, end) = (address("_stext"), address("_etext"));
    Ok(start.context("vmlinux has no _stext")?..end.context("vmlinux has no _etext")?)
}

fn well(outcome: &EpochOutcome) -> Result<()> {
    match &outcome.end {
        EpochEnd::Harness(why) | EpochEnd::Machine(why) => bail!("a guest failed: {why}"),
        EpochEnd::Done | EpochEnd::Kernel | EpochEnd::Deadline | EpochEnd::Lost(_) => Ok(()),
    }
}
