// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask regress WORKLOAD --a KERNEL --b KERNEL`: is the second kernel slower, by how much, and where does its time
//! go? Two ways to measure. Under the deterministic engine the same kernel gives the same figures, so what differs is the
//! kernels; runs differ by what QEMU gives them as entropy, which shows how much is luck of layout and hashing. By the wall
//! clock boots alternate, and the figures are judged by rank test and bootstrap.

mod blame;
mod boots;
mod html;
pub mod measure;
pub mod side;
pub mod stats;
mod text;
pub mod verdict;
pub mod workload;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

pub use self::boots::measure;
use self::{
    blame::Stack,
    measure::{How, Lab},
    side::Difference,
    verdict::{Judged, Verdict},
    workload::{Better, Workload},
};
use crate::{
    accel::AccelChoice,
    bench::load::{self, Load},
    exit::{Exit, Outcome},
    paths::{self, Cache},
    prepare::{self, Engine},
    setup,
    tools::Need,
    usage,
};

/// Boots of each kernel at most, where figures do not tell, as a multiple of those that were asked for.
const SEEDS_MORE: u32 = 4;

/// Which ways to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ways {
    /// By instructions and waiting: no noise, blind to caches and to contention in hardware.
    Det,
    /// By the wall clock.
    Wall,
    /// Both.
    Both,
}

/// Options of `regress`.
#[derive(Debug, Args)]
pub struct RegressArgs {
    /// A workload of harness/workloads, a YAML file of yours, or `all`
    workload: String,
    /// The kernel to compare with: INSTANCE[+PATCH]…, with --linux REVISION[+PATCH]…
    #[arg(long, value_name = "KERNEL")]
    a: String,
    /// The kernel in question [default: the same, to see the noise]
    #[arg(long, value_name = "KERNEL")]
    b: Option<String>,
    /// A git repository, only read: kernels are its revisions
    #[arg(long, value_name = "GIT")]
    linux: Option<PathBuf>,
    /// Whose configuration revisions are built with
    #[arg(long, default_value = "perf-6.12")]
    instance: String,
    /// Which way to measure
    #[arg(long, value_enum, default_value_t = Ways::Det)]
    how: Ways,
    /// Deterministic boots of each kernel, each with other entropy; up to four times as many where they do not tell
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: u32,
    /// Wall time for measuring by the wall clock, building not included
    #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
    budget: std::time::Duration,
    /// Widest bound that still is SAME, percent [default: 2 deterministic, 20 wall clock]
    #[arg(long, value_name = "PERCENT")]
    within: Option<f64>,
    /// What workload `command` runs
    #[arg(long, value_name = "COMMAND")]
    command: Option<String>,
    /// A program of this machine that the command takes; repeatable
    #[arg(long, value_name = "NAME")]
    binary: Vec<String>,
    /// Deterministic guests side by side [default: one a core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Acceleration of the parallel engine
    #[arg(long, value_enum, default_value_t = AccelChoice::Auto)]
    accel: AccelChoice,
    /// Print one JSON object a workload in place of text
    #[arg(long)]
    json: bool,
    /// Print what one would mail
    #[arg(long)]
    mail: bool,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a table of all figures
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write what each boot printed into this folder
    #[arg(long, value_name = "DIR")]
    consoles: Option<PathBuf>,
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Deterministic boots of each kernel.
    pub seeds: u32,
    /// As many more at a time until figures are clear, but no more than this in all.
    pub seeds_max: u32,
    /// Wall time: rounds by the wall clock end with it, and no more seeds than were asked for are begun late in it.
    pub budget: std::time::Duration,
    /// Deterministic guests side by side.
    pub jobs: usize,
    /// Widest bound that still is SAME, as a share.
    pub within: f64,
    /// Where to write what boots printed.
    pub consoles: Option<PathBuf>,
    /// Where deterministic figures of the first kernel are kept, which are the same every time. Where they are not, its first
    /// boot is done twice, to see that they are.
    pub kept: Option<PathBuf>,
}

/// Everything that came of one workload.
#[derive(Debug, Serialize)]
struct Report {
    workload: String,
    what: String,
    /// The kernels, as they were asked for, and their releases.
    kernels: [(String, String); 2],
    /// How their configurations differ.
    config_differences: Vec<Difference>,
    host: Host,
    measured: Vec<Measured>,
    verdict: Verdict,
}

/// What it was measured on.
#[derive(Clone, Debug, Serialize)]
struct Host {
    /// Processor, as it calls itself.
    processor: String,
    /// QEMU's version.
    qemu: String,
    /// What the parallel engine ran on.
    parallel: String,
    /// Version of stress-ng, where the workload takes it.
    stress_ng: Option<String>,
    /// What else the machine did, before.
    load: Load,
}

/// What one way of measuring gave.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// How.
    pub how: How,
    /// Runs of each kernel that gave figures.
    pub runs: [usize; 2],
    /// Why others gave none.
    pub failures: Vec<String>,
    /// Figures, point after point.
    pub lines: Vec<Line>,
    /// How long each op of the first figure took, us, of the first run of each kernel.
    pub latencies: [Vec<f64>; 2],
    /// Where tasks of the second kernel were blocked, and how often the first kernel's were there.
    pub stacks: Vec<Blamed>,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// A figure at a point.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What it is called.
    pub figure: String,
    /// Its unit.
    pub unit: String,
    /// Which direction is better.
    pub better: Better,
    /// What tells the point from others.
    pub point: String,
    /// Its value on an axis.
    pub at: u32,
    /// Runs of the first kernel.
    pub a: Vec<f64>,
    /// Runs of the second.
    pub b: Vec<f64>,
    /// What they say.
    #[serde(flatten)]
    pub judged: Judged,
}

/// A stack of the second kernel.
#[derive(Debug, Serialize)]
pub struct Blamed {
    /// The stack.
    #[serde(flatten)]
    pub stack: Stack,
    /// Times it was seen with the first kernel.
    pub before: u64,
}

/// Runs the subcommand. Exit code 2: a regression; 4: unsure.
///
/// # Errors
/// When a kernel does not build, or the deterministic engine is not.
pub fn run(args: &RegressArgs) -> Outcome {
    let workloads = match args.workload.as_str() {
        "all" => workload::all()?.into_iter().filter(|workload| workload.name != "command").collect(),
        name => vec![workload::find(name)?],
    };
    if args.command.is_none()
        && workloads.iter().any(|workload| workload.command.as_deref() == Some("{command}"))
    {
        return Err(usage!("workload `{}` runs what --command says", args.workload));
    }
    let cache = Cache::open()?;
    let takes_more = workloads.iter().any(|workload| !workload.binaries.is_empty());
    let needs = [Need::Kernel, Need::Vm, Need::Workload];
    setup::ensure(&cache, if takes_more { &needs } else { &needs[..2] })?;
    let (mut worst, mut reports) = (Verdict::Same, Vec::new());
    for workload in &workloads {
        let report = one(args, &cache, workload)?;
        worst = worst.max(report.verdict);
        if args.json {
            println!("{}", serde_json::to_string(&report)?);
        } else if args.mail {
            print!("{}", text::mail(&report));
        } else {
            print!("{}", text::table(&report));
        }
        reports.push(report);
        // After each: what is measured is not lost when a later one is killed.
        if let Some(path) = &args.html {
            paths::write_whole(path, html::page(&reports)?.as_bytes())?;
        }
        if let Some(path) = &args.markdown {
            paths::write_whole(path, text::markdown(&reports).as_bytes())?;
        }
    }
    Ok(match worst {
        Verdict::Regression => Exit::Finding,
        Verdict::Unsure => Exit::Skipped,
        Verdict::Same | Verdict::Improvement => Exit::Pass,
    })
}

fn one(args: &RegressArgs, cache: &Cache, workload: &Workload) -> Result<Report> {
    let build = |name: &str| side::build(cache, name, args.linux.as_deref(), &args.instance, workload);
    let a = build(&args.a)?;
    let b = build(args.b.as_deref().unwrap_or(&args.a))?;
    let parallel = prepare::execution(cache, Engine::Par, args.accel)?;
    let lab = Lab::new(workload, args.command.clone(), &args.binary, parallel)?;
    let host = Host {
        processor: text::processor(),
        qemu: a.machine.config.qemu_version.clone(),
        parallel: format!("{parallel:?}"),
        stress_ng: lab.binaries.iter().any(|name| name == "stress-ng").then(text::stress_ng_version),
        load: load::sample()?,
    };
    let sides = [a, b];
    let ways = match args.how {
        Ways::Det => vec![How::Det],
        Ways::Wall => vec![How::Wall],
        Ways::Both => vec![How::Det, How::Wall],
    };
    let mut measured = Vec::new();
    for how in ways {
        let within = args.within.map_or(if how == How::Det { 0.02 } else { 0.2 }, |percent| percent / 100.0);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let effort = Effort {
            seeds: args.seeds,
            seeds_max: args.seeds.saturating_mul(SEEDS_MORE),
            budget: args.budget,
            jobs: args.jobs.unwrap_or(cores).max(1),
            within,
            consoles: args.consoles.clone(),
            kept: None,
        };
        measured.push(measure(&effort, &lab, &sides, how)?);
    }
    // The first figure is the workload's; the others explain it.
    let first = |line: &&Line| line.figure == workload.figures[0].name;
    let lines = measured.iter().flat_map(|measured| measured.lines.iter().filter(first));
    let verdict = lines.map(|line| line.judged.verdict).max().unwrap_or(Verdict::Unsure);
    Ok(Report {
        workload: workload.name.clone(),
        what: args.command.clone().unwrap_or_else(|| workload.what.clone()),
        config_differences: side::differences(&sides[0], &sides[1]),
        kernels: sides.map(|side| (side.name, side.release)),
        host,
        measured,
        verdict,
    })
}
