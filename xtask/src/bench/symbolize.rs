// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long source lines take for a report whose kernel was seen before. Beside it addr2line, asked once for the same
//! addresses.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use harness::{oracle, symbolize::Symbolizer};
use xshell::cmd;

use super::{
    cpu,
    figure::{Aim, Figure, Spread},
};
use crate::{paths::Cache, proc};

/// Frames of the report.
const N_FRAMES: usize = 60;
/// What is asked, ms.
const TIME_MAX_MS: f64 = 50.0;
/// Shorter functions are no good to be in the midst of.
const FUNCTION_BYTES_MIN: u64 = 64;

/// A function of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    address: u64,
    size: u64,
    name: String,
}

/// The time from an image to a report with source lines, `times` times.
///
/// # Errors
/// When the image cannot be read, or nm or addr2line not run.
pub fn figures(times: u32, vmlinux: &Path, cache: &Cache) -> Result<Vec<Figure>> {
    let functions = functions(vmlinux)?;
    let console = console(&functions);
    let report = oracle::judge(console.as_bytes()).pop().context("no report")?;
    ensure!(report.frames.len() == N_FRAMES, "{} frames", report.frames.len());
    let indexes = cache.dir("symbols")?;
    Symbolizer::new(vmlinux, &[], Some(&indexes))?;

    let millis = |work: &dyn Fn() -> Result<f64>| -> Result<Spread> {
        Ok(Spread::of((0..times).map(|_| Ok(work()? * 1e3)).collect::<Result<_>>()?))
    };
    let ours = millis(&|| {
        let (filled, seconds) = cpu::of(|| {
            let mut report = report.clone();
            Symbolizer::new(vmlinux, &[], Some(&indexes))?.fill(&mut report);
            Ok(report)
        })?;
        let n_known = filled.frames.iter().filter(|frame| !frame.source.is_empty()).count();
        ensure!(n_known == N_FRAMES, "source lines of {n_known} frames in {N_FRAMES}");
        Ok(seconds)
    })?;
    let addresses: Vec<String> =
        functions.iter().map(|function| format!("{:#x}", function.address + function.size / 2 - 1)).collect();
    let theirs = millis(&|| {
        let mut command = Command::new("addr2line");
        let (status, seconds) = cpu::of_command(command.args(["-ifC", "-e"]).arg(vmlinux).args(&addresses))?;
        ensure!(status.success(), "addr2line failed ({status})");
        Ok(seconds)
    })?;
    let figure = |name| Figure::new(name, "-", 0, "ms", ours);
    Ok(vec![
        figure("source lines of 60 frames").against("addr2line -ifC", theirs).aiming(Aim::AtMost(1.0)),
        figure("  the same").against("asked for", Spread::exact(TIME_MAX_MS)).aiming(Aim::AtMost(1.0)),
    ])
}

/// Functions from all over the kernel, as many as the report has frames.
fn functions(vmlinux: &Path) -> Result<Vec<Function>> {
    let shell = proc::shell()?;
    let mut functions: Vec<Function> =
        proc::read(cmd!(shell, "nm -S {vmlinux}"))?.lines().filter_map(function).collect();
    functions.sort_by(|one, other| one.name.cmp(&other.name));
    // Of two with one name a stack does not tell which it is.
    let alone: Vec<Function> = (functions.chunk_by(|one, other| one.name == other.name))
        .filter_map(|same| if let [one] = same { Some(one.clone()) } else { None })
        .collect();
    ensure!(alone.len() >= N_FRAMES, "{}: {} functions", vmlinux.display(), alone.len());
    Ok((0..N_FRAMES).map(|idx| alone[idx * alone.len() / N_FRAMES].clone()).collect())
}

/// A line of `nm -S`: address, size, kind, name.
fn function(line: &str) -> Option<Function> {
    let words: Vec<&str> = line.split(' ').collect();
    let &[address, size, "t" | "T", name] = &words[..] else { return None };
    let hex = |word| u64::from_str_radix(word, 16).ok();
    let function = Function { address: hex(address)?, size: hex(size)?, name: name.to_owned() };
    (function.size >= FUNCTION_BYTES_MIN).then_some(function)
}

/// A report with all of them on the stack.
fn console(functions: &[Function]) -> String {
    let frame = |function: &Function| {
        format!("[    9.000000][   T42]  {}+{:#x}/{:#x}\n", function.name, function.size / 2, function.size)
    };
    let stack: String = functions.iter().map(frame).collect();
    format!(
        "[    9.000000][   T42] BUG: KASAN: slab-use-after-free in {0}+0x1/0x2\n\
         [    9.000000][   T42] Read of size 1 at addr ffff888000a03800 by task init/42\n\
         [    9.000000][   T42] Call Trace:\n[    9.000000][   T42]  <TASK>\n{stack}[    9.000000][   T42]  </TASK>\n",
        functions[0].name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_nm_is_read() {
        let line = "ffffffff81000000 0000000000000200 T startup_64";
        let function = function(line).unwrap();
        assert_eq!(
            (function.address, function.size, function.name.as_str()),
            (0xffff_ffff_8100_0000, 0x200, "startup_64")
        );
        assert_eq!(super::function("ffffffff81000000 T _stext"), None);
        assert_eq!(super::function("ffffffff81000000 0000000000000008 T tiny"), None);
        let report = oracle::judge(console(&vec![function; N_FRAMES]).as_bytes()).pop().unwrap();
        assert_eq!(report.frames.len(), N_FRAMES);
    }
}
