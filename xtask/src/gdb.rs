// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask repro FINDING --gdb`: the guest under gdb, stopped where the report begins or at an earlier moment.
//!
//! A run is the same each time, so going back is starting anew and stopping sooner. A moment is named by a function and how often
//! it had been entered since the snapshot, which a trace tells exactly.
//!
//! Under TCG a breakpoint is QEMU's own and the guest's memory stays as it is, so up to its first stop the run is the run
//! without. Going on is not: to QEMU a stopped vCPU is an idle one, and virtual time jumps to the next timer. So one cannot
//! count entries with a breakpoint that stops at each; the first stop is at the last block before the moment that runs for
//! the first time, most often a few instructions away, and from there it is counted.

use std::{
    fmt::Write,
    io::IsTerminal,
    path::Path,
    process::{Command, ExitStatus},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result};
use harness::{
    debug,
    det::Limits,
    run_dir::RunDir,
    symbolize::layout::{self, Layout},
};

use crate::{
    exit::{Exit, Outcome},
    fuzz, proc,
    rerun::{Rerun, Showing},
    trace::{self, record},
    usage,
};

/// How long a machine whose debugger is somebody else's may last.
const SESSION_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a machine may take to end once its debugger has let go of it.
const END_LIMIT: Duration = Duration::from_secs(300);

/// Where to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The free that the report names.
    Free,
    /// So many entries of functions before the report, as `trace.txt` counts them.
    Before(usize),
    /// The k-th time a function is entered since the snapshot.
    Entry(String, u64),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        let wrong =
            || format!("`{text}` is no moment: `free`, `-N` entries before the report, or `FUNCTION:K`");
        if text == "free" {
            return Ok(Moment::Free);
        }
        if let Some(n) = text.strip_prefix('-') {
            return n.parse().ok().filter(|n| *n > 0).map(Moment::Before).ok_or_else(wrong);
        }
        let (function, k) = text.rsplit_once(':').ok_or_else(wrong)?;
        let k = k.parse().ok().filter(|k| *k > 0).ok_or_else(wrong)?;
        Ok(Moment::Entry(function.to_owned(), k))
    }
}

/// Starts the guest and gdb on it. Without a terminal and without a script it says how to start gdb, and waits.
///
/// # Errors
/// When there is no gdb or no snapshot, the moment is not in the run, or the guest fails.
pub fn run(rerun: &Rerun, at: Option<&Moment>, script: Option<&Path>) -> Outcome {
    let gdb = proc::which("gdb").context(
        "gdb is missing; `cargo xtask setup` installs it, as does the Debian package of that name",
    )?;
    let snapshot = rerun.snapshot("--gdb")?;
    let boot = snapshot.boot_console();
    let symbolizer = fuzz::symbols(&rerun.machine).context("there is nothing to show without symbols")?;
    let layout = Layout::new(&symbolizer, &rerun.machine.modules, &boot);
    let way = at.map(|at| way(rerun, at, &layout)).transpose()?;
    let dir = RunDir::new().context("cannot make a folder for running machines")?;
    let (socket, commands) = (dir.path().join("gdb"), dir.path().join("start.gdb"));
    let text = start_script(rerun, &layout, &boot, &socket, way.as_ref())?;
    std::fs::write(&commands, text).with_context(|| commands.display().to_string())?;
    let run_dir = dir.path().join("guest");
    let epoch = rerun.case.epoch();
    let guest = &rerun.machine.config;
    let mut machine = debug::start(guest, &snapshot, &epoch, Limits::default(), &run_dir, &socket)?;
    let mut command = Command::new(gdb);
    command.args(["-q", "-nx"]).arg("-x").arg(&commands);
    let end = if let Some(script) = script {
        told(command.arg("-batch").arg("-x").arg(script).status())?;
        END_LIMIT
    } else if std::io::stdin().is_terminal() {
        let stop = if way.is_some() { "there" } else { "report" };
        told(command.arg("-ex").arg(stop).status())?;
        END_LIMIT
    } else {
        println!("the guest waits: gdb -q -x {}", commands.display());
        SESSION_MAX
    };
    let outcome = debug::end(&mut machine, &epoch, &run_dir, end);
    let showing = rerun.case.judge(&outcome);
    match &showing {
        Showing::Same(report) | Showing::Other(report) => println!("report: {}", report.title),
        Showing::None | Showing::Infrastructure(_) => {
            println!("the guest was left before it reported anything")
        }
    }
    Ok(if matches!(showing, Showing::Same(_)) { Exit::Finding } else { Exit::Pass })
}

/// gdb fails when the guest ends under it, too.
fn told(status: std::io::Result<ExitStatus>) -> Result<()> {
    let status = status.context("cannot run gdb")?;
    if !status.success() {
        eprintln!("gdb: {status}");
    }
    Ok(())
}

/// How to get to a moment.
struct Way {
    /// The first stop: a block that runs there for the first time.
    anchor: u64,
    /// The function that is entered at the moment.
    address: u64,
    /// How often it is entered between the two.
    passes: u64,
}

/// Finds the moment in a trace.
fn way(rerun: &Rerun, at: &Moment, layout: &Layout<'_>) -> Result<Way> {
    let traced = trace::take(rerun, layout)?;
    let recorder = &traced.recorder;
    let idx = match at {
        Moment::Free => traced.free,
        Moment::Before(n) => recorder.entries.len().checked_sub(*n),
        Moment::Entry(symbol, k) => recorder.nth_entry(symbol, *k),
    };
    let none = || usage!("--at: the run has no such moment; `repro --trace` shows those it has");
    let idx = idx.ok_or_else(none)?;
    let entry = &recorder.entries[idx];
    let (address, function) = &recorder.functions[entry.function];
    // Which of those that are one entry of the trace.
    let nth = match at {
        Moment::Free => entry.times - 1,
        Moment::Before(_) => 0,
        Moment::Entry(_, k) => k - entry.kth,
    };
    println!("stops at {}, entry {} of it, on CPU {}", function.name, entry.kth + nth, entry.cpu);
    let passes = recorder.since_anchor(idx) + nth;
    let is_there = entry.anchor == *address && passes == 0;
    if let Some((function, offset)) = layout.function(entry.anchor).filter(|_| !is_there) {
        println!("by way of {}+{offset:#x}, {passes} entries before it", function.name);
    }
    Ok(Way { anchor: entry.anchor, address: *address, passes })
}

/// What gdb is to do first. File names have no place for commands: gdb takes the rest of the line.
fn start_script(
    rerun: &Rerun,
    layout: &Layout<'_>,
    boot: &[u8],
    socket: &Path,
    way: Option<&Way>,
) -> Result<String> {
    let mut out = String::from("set pagination off\nset confirm off\nset architecture i386:x86-64\n");
    writeln!(out, "file {}", rerun.machine.vmlinux.display())?;
    let places = layout::sections(boot);
    for file in &rerun.machine.modules {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Some(sections) = places.get(&name) else { continue };
        write!(out, "add-symbol-file {}", file.display())?;
        for (section, address) in
            sections.iter().filter(|(section, _)| layout::SECTIONS.contains(&section.as_str()))
        {
            write!(out, " -s {section} {address:#x}")?;
        }
        out.push('\n');
    }
    writeln!(out, "target remote {}", socket.display())?;
    out.push_str("define report\n");
    for address in record::REPORTERS.iter().flat_map(|symbol| layout.addresses(symbol)) {
        writeln!(out, "tbreak *{address:#x}")?;
    }
    out.push_str("continue\nend\ndocument report\nGo on to where the report begins.\nend\n");
    if let Some(Way { anchor, address, passes }) = way {
        writeln!(out, "define there\ntbreak *{anchor:#x}\ncontinue")?;
        // Where the function is its own anchor, the first stop is one of its entries.
        let left = if anchor == address { passes.checked_sub(1) } else { Some(*passes) };
        if let Some(left) = left {
            writeln!(out, "tbreak *{address:#x}\nignore $bpnum {left}\ncontinue")?;
        }
        out.push_str("end\ndocument there\nGo on to the moment of --at.\nend\n");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_other_words_are_errors() {
        assert_eq!("free".parse(), Ok(Moment::Free));
        assert_eq!("-15".parse(), Ok(Moment::Before(15)));
        assert_eq!("kfree:8".parse(), Ok(Moment::Entry("kfree".into(), 8)));
        for wrong in ["", "kfree", "kfree:0", "kfree:x", "-0", "-", "-200us"] {
            assert!(wrong.parse::<Moment>().unwrap_err().contains("FUNCTION:K"), "{wrong}");
        }
    }
}
