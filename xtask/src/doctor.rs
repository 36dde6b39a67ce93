// SPDX-License-Identifier: MIT OR Apache-2.0
//! `doctor`: what is here, what is missing, what is slow; what needs it, and the mend. Changes nothing.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    accel::{self, Accel, AccelChoice},
    exit::{Exit, Outcome},
    paths::Cache,
    proc,
    tools::{self, DEBIAN_TOOLS, KernelRust, Need, Probe, Qemu},
};

/// Arguments of `doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

/// Room that a first `fuzz` takes: two unpacked sources, two build folders, their compiler cache, kernels.
const DISK_FREE_MIN_GIB: u64 = 15;
/// Linking a kernel with DWARF next to a running guest.
const MEMORY_MIN_GIB: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Found,
    Missing,
    Slow,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    status: Status,
    /// Version, path, figures.
    detail: String,
    needed_by: &'static str,
    /// `fuzz` cannot do without it.
    required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// `doctor`.
pub fn run(args: Args) -> Outcome {
    let cache = Cache::open()?;
    let lines = examine(&cache);
    if args.json {
        let text = serde_json::to_string_pretty(&lines).context("cannot print the report")?;
        println!("{text}");
    } else {
        lines.iter().for_each(|line| print!("{}", render(line)));
    }
    Ok(verdict(&lines))
}

fn verdict(lines: &[Line]) -> Exit {
    let is_missing = |line: &&Line| line.required && line.status == Status::Missing;
    if lines.iter().any(|line| is_missing(&line)) { Exit::Infra } else { Exit::Pass }
}

fn examine(cache: &Cache) -> Vec<Line> {
    let mut lines = vec![qemu(cache), acceleration(cache)];
    lines.push(line("kernel-side rustc", Need::Kernel, kernel_rust(cache)));
    lines.push(line("bindgen", Need::Kernel, tools::find_bindgen(cache).map(|path| program_detail(&path))));
    for tool in DEBIAN_TOOLS {
        let found = tool.probe.find().map(|path| match tool.probe {
            Probe::Program(_) => program_detail(&path),
            Probe::File(_) => path.display().to_string(),
        });
        lines.push(line(tool.package, tool.need, found));
    }
    lines.push(line(
        "virtme-ng",
        Need::Interactive,
        tools::find_virtme(cache).map(|path| program_detail(&path)),
    ));
    lines.push(room(
        "free disk",
        disk_free_gib(cache.root()),
        DISK_FREE_MIN_GIB,
        "free some, or set SHRINKTORTURE_CACHE",
    ));
    lines.push(room(
        "free memory",
        memory_available_gib(),
        MEMORY_MIN_GIB,
        "end what takes it; lower --jobs",
    ));
    lines
}

fn line(name: &str, need: Need, found: Option<String>) -> Line {
    let required = matches!(need, Need::Kernel | Need::Vm);
    let (status, detail, mend) = match found {
        Some(detail) => (Status::Found, detail, None),
        None => (Status::Missing, String::new(), Some("cargo xtask setup".to_string())),
    };
    Line { name: name.to_string(), status, detail, needed_by: need.commands(), required, mend }
}

fn qemu(cache: &Cache) -> Line {
    let describe =
        |qemu: Qemu| format!("{} ({}; {})", qemu.version, qemu.system.display(), qemu.img.display());
    line("QEMU", Need::Vm, Qemu::find(cache).ok().map(describe))
}

fn acceleration(cache: &Cache) -> Line {
    let answer = accel::choose(cache, AccelChoice::Auto);
    let (status, detail, mend) = match answer {
        Ok(answer) if answer.accel == Accel::Kvm => (Status::Found, answer.explanation, None),
        Ok(answer) => (
            Status::Slow,
            answer.explanation,
            Some(
                "none needed: TCG does everything; for speed use a machine with working /dev/kvm".to_string(),
            ),
        ),
        Err(error) => (Status::Missing, format!("{error:#}"), Some("cargo xtask setup".to_string())),
    };
    let needed_by = Need::Vm.commands();
    Line { name: "acceleration".to_string(), status, detail, needed_by, required: false, mend }
}

fn kernel_rust(cache: &Cache) -> Option<String> {
    let rust = KernelRust::find(cache)?;
    Some(format!("{}, source {}", program_detail(&rust.rustc), rust.library.display()))
}

fn program_detail(path: &Path) -> String {
    match proc::version(path) {
        Some(version) => format!("{version} ({})", path.display()),
        None => path.display().to_string(),
    }
}

fn room(name: &str, have_gib: Result<u64>, want_gib: u64, mend: &str) -> Line {
    let (status, detail) = match have_gib {
        Ok(have) if have >= want_gib => (Status::Found, format!("{have} GiB")),
        Ok(have) => (Status::Slow, format!("{have} GiB, {want_gib} GiB are advised")),
        Err(error) => (Status::Missing, format!("{error:#}")),
    };
    let mend = (status != Status::Found).then(|| mend.to_string());
    let needed_by = Need::Kernel.commands();
    Line { name: name.to_string(), status, detail, needed_by, required: false, mend }
}

fn disk_free_gib(folder: &Path) -> Result<u64> {
    let stat =
        nix::sys::statvfs::statvfs(folder).with_context(|| format!("cannot ask {}", folder.display()))?;
    Ok((stat.blocks_available() * stat.fragment_size()) >> 30)
}

fn memory_available_gib() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib >> 20).context("no MemAvailable in /proc/meminfo")
}

fn render(line: &Line) -> String {
    let status = match line.status {
        Status::Found => "found  ",
        Status::Missing => "MISSING",
        Status::Slow => "slow   ",
    };
    let detail = if line.detail.is_empty() { String::new() } else { format!(" {}", line.detail) };
    let mut text = format!("{status}  {:<18}{detail} [for {}]\n", line.name, line.needed_by);
    if let Some(mend) = &line.mend {
        text += &format!("{:9}mend: {mend}\n", "");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_missing_tool_says_what_needs_it_and_the_mend() {
        let missing = line("bindgen", Need::Kernel, None);
        expect![[r#"
            MISSING  bindgen            [for kernel build, fuzz, run, test]
                     mend: cargo xtask setup
        "#]]
        .assert_eq(&render(&missing));
        assert_eq!(verdict(&[missing]), Exit::Infra);
    }

    #[test]
    fn what_fuzz_can_do_without_does_not_fail() {
        let lines = [line("stress-ng", Need::Workload, None), room("free memory", Ok(1), 4, "x")];
        assert_eq!(verdict(&lines), Exit::Pass);
        expect![[r#"
            MISSING  stress-ng          [for regress, gate, bench]
                     mend: cargo xtask setup
            slow     free memory        1 GiB, 4 GiB are advised [for kernel build, fuzz, run, test]
                     mend: x
        "#]]
        .assert_eq(&lines.iter().map(render).collect::<String>());
    }
}
