// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask regress WORKLOAD --a KERNEL --b KERNEL`: is the second kernel slower, by how much, and where does its time
//! go? Two ways to measure. Under the deterministic engine the same kernel gives the same figures, so what differs is the
//! kernels; runs differ by what QEMU gives them as entropy, which shows how much is luck of layout and hashing. By the wall
//! clock boots alternate, and the figures are judged by rank test and bootstrap.

mod blame;
mod html;
pub mod measure;
pub mod side;
pub mod stats;
mod text;
pub mod verdict;
pub mod workload;

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::{
    blame::Stack,
    measure::{How, Lab, Run},
    side::{Difference, Side},
    verdict::{Judged, Verdict},
    workload::{Better, Workload},
};
use crate::{
    accel::AccelChoice,
    bench::load::{self, Load},
    exit::{Bug, Exit, Outcome},
    paths::{self, Cache},
    prepare::{self, Engine},
    setup,
    tools::Need,
    usage,
};

/// Stacks shown of where the time went.
const STACKS_MAX: usize = 3;
/// Failed measurements after which there is no point in going on with a kernel that gave no figures.
const FAILURES_MAX: usize = 3;

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
    /// Deterministic boots of each kernel, each with other entropy
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
    /// Wall time by the wall clock.
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

/// Measures two kernels, one way.
///
/// # Errors
/// When a guest cannot be put together, or the deterministic engine is not.
pub fn measure(effort: &Effort, lab: &Lab<'_>, sides: &[Side; 2], how: How) -> Result<Measured> {
    let (began, within) = (Instant::now(), effort.within);
    let mut boots = Boots { lab, sides, how, effort, runs: [Vec::new(), Vec::new()], failures: Vec::new() };
    match how {
        How::Det => boots.by_seeds()?,
        How::Wall => boots.in_turns(within)?,
    }
    let lines = boots.lines(within);
    let is_worse = lines.iter().any(|line| line.judged.verdict == Verdict::Regression);
    let stacks = if is_worse { boots.blame()? } else { Vec::new() };
    let latencies =
        [0, 1].map(|side| boots.runs[side].first().map(|run| run.latencies.clone()).unwrap_or_default());
    Ok(Measured {
        how,
        runs: [boots.runs[0].len(), boots.runs[1].len()],
        failures: boots.failures,
        lines,
        latencies,
        stacks,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Boots of both kernels, and what they gave.
struct Boots<'a> {
    lab: &'a Lab<'a>,
    sides: &'a [Side; 2],
    how: How,
    effort: &'a Effort,
    runs: [Vec<Run>; 2],
    failures: Vec<String>,
}

impl Boots<'_> {
    /// Each seed with both kernels; the first seed of the first kernel twice, which must be the same to the last digit.
    fn by_seeds(&mut self) -> Result<()> {
        let mut plan: Vec<(usize, u32)> = if self.effort.kept.is_none() { vec![(0, 1)] } else { Vec::new() };
        plan.extend((1..=self.effort.seeds).flat_map(|seed| [(0, seed), (1, seed)]));
        let results = measure::side_by_side(self.effort.jobs, plan.len(), |nth, job| {
            let (side, seed) = plan[nth];
            let result = self.by_seed(side, seed, job);
            eprintln!("{} seed {seed}: {}", self.sides[side].name, tell(&result));
            result
        });
        let mut results = results.into_iter().collect::<Result<Vec<_>>>()?;
        let again = self.effort.kept.is_none().then(|| results.remove(0));
        let differ = again.is_some_and(|again| results.first() != Some(&again));
        // Judged in pairs: a seed that gave one side no figures tells nothing of the other.
        for pair in results.chunks(2) {
            let whole = pair.iter().all(Result::is_ok);
            for (side, result) in pair.iter().enumerate().filter(|(_, result)| whole || result.is_err()) {
                self.take(side, result.clone())?;
            }
        }
        if differ {
            return Err(Bug(format!(
                "two runs of {} with the same seed differ: the deterministic engine is not",
                self.sides[0].name
            ))
            .into());
        }
        Ok(())
    }

    fn by_seed(&self, side: usize, seed: u32, job: usize) -> Result<Result<Run, String>> {
        let run = || self.lab.run(&self.sides[side], How::Det, seed, false, job);
        match &self.effort.kept {
            Some(dir) if side == 0 => {
                let place = dir.join(format!("{}.json", self.lab.key(&self.sides[side], seed)?));
                let kept = std::fs::read(&place).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
                if let Some(kept) = kept {
                    return Ok(Ok(kept));
                }
                let run = run()?;
                if let Ok(run) = &run {
                    paths::write_whole(&place, &serde_json::to_vec(run)?)?;
                }
                Ok(run)
            }
            _ => run(),
        }
    }

    /// A B B A …, until the figures tell or the time is over. The first boot of each is not counted.
    fn in_turns(&mut self, within: f64) -> Result<()> {
        let began = Instant::now();
        for side in [0, 1] {
            let warm = self.lab.run(&self.sides[side], How::Wall, 1, false, 0);
            eprintln!("{} warm-up: {}", self.sides[side].name, tell(&warm));
            warm?.ok();
        }
        for round in 1_u32.. {
            let order = if round % 2 == 1 { [0, 1] } else { [1, 0] };
            for side in order {
                let result = self.lab.run(&self.sides[side], How::Wall, round, false, 0);
                eprintln!("{} round {round}: {}", self.sides[side].name, tell(&result));
                self.take(side, result?)?;
            }
            let lines = self.lines(within);
            let first = self.lab.workload.figures[0].name.as_str();
            let mut first = lines.iter().filter(|line| line.figure == first);
            let told = first.all(|line| line.judged.verdict != Verdict::Unsure);
            let hopeless = self.failures.len() >= FAILURES_MAX && self.runs.iter().any(Vec::is_empty);
            let a_round = began.elapsed() / (round + 1);
            if told || hopeless || began.elapsed() + a_round > self.effort.budget {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, side: usize, result: Result<Run, String>) -> Result<()> {
        match result {
            Ok(run) => {
                if let Some(folder) = &self.effort.consoles {
                    paths::make_dir(folder)?;
                    let letter = ["a", "b"][side];
                    let name = format!("{letter}-{:?}-{}.log", self.how, self.runs[side].len() + 1);
                    paths::write_whole(&folder.join(name.to_lowercase()), &run.console)?;
                }
                self.runs[side].push(run);
            }
            Err(why) => self.failures.push(format!("{}: {why}", self.sides[side].name)),
        }
        Ok(())
    }

    fn lines(&self, within: f64) -> Vec<Line> {
        let mut lines = Vec::new();
        for (nth, point) in self.lab.points.iter().enumerate() {
            for (of, figure) in self.lab.workload.figures.iter().enumerate() {
                let values = |side: usize| -> Vec<f64> {
                    self.runs[side].iter().map(|run| run.values[nth][of]).collect()
                };
                let (a, b) = (values(0), values(1));
                let judged = verdict::judge(&a, &b, figure.better, self.how, within, self.lab.points.len());
                lines.push(Line {
                    figure: figure.name.clone(),
                    unit: figure.unit.clone(),
                    better: figure.better,
                    point: point.label.clone(),
                    at: point.at,
                    a,
                    b,
                    judged,
                });
            }
        }
        lines
    }

    /// Runs both kernels once more, looking at blocked tasks meanwhile.
    fn blame(&self) -> Result<Vec<Blamed>> {
        let stacks = |side: usize| -> Result<Vec<Stack>> {
            let run = self.lab.run(&self.sides[side], self.how, 1, true, 0)?;
            Ok(run.map(|run| blame::blocked(&String::from_utf8_lossy(&run.console))).unwrap_or_default())
        };
        let (before, after) = (stacks(0)?, stacks(1)?);
        let times = |frames: &[String]| {
            before.iter().find(|stack| stack.frames == frames).map_or(0, |stack| stack.count)
        };
        let blamed = after.into_iter().map(|stack| Blamed { before: times(&stack.frames), stack });
        let mut blamed: Vec<Blamed> = blamed.filter(|one| one.stack.count > one.before).collect();
        blamed.sort_by_key(|one| std::cmp::Reverse(one.stack.count - one.before));
        blamed.truncate(STACKS_MAX);
        Ok(blamed)
    }
}

fn tell(result: &Result<Result<Run, String>>) -> String {
    match result {
        Ok(Ok(run)) => {
            let all: Vec<String> = run.values.iter().map(|values| format!("{:.1}", values[0])).collect();
            all.join(" ")
        }
        Ok(Err(why)) => format!("no figures: {why}"),
        Err(error) => format!("{error:#}"),
    }
}
