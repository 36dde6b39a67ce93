// SPDX-License-Identifier: MIT OR Apache-2.0
//! One measurement: a fresh boot, the workload, its figures. Boots with different seeds do a little something before, which
//! shows how much of a figure is luck.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use abi::layout::kind;
use anyhow::{Context, Result};
use harness::{
    det::{self, Limits},
    epoch::{Epoch, EpochEnd, EpochOutcome, OpOutcome, ProgramOutcome},
    guest::{Execution, GuestConfig, Leaks},
    machine::MachineEnd,
    oracle,
    par::Stream,
    plain,
    program::{OpText, Program, Schedule},
    run_dir::RunDir,
};

use serde::{Deserialize, Serialize};

use super::{
    side::Side,
    stats,
    workload::{Figure, Of, Point, Workload},
};
use crate::{
    proc,
    userland::{self, Boot},
};

/// Programs that a workload's script may call, beside those it names.
const TOOLS: [&str; 16] = [
    "cat", "date", "grep", "head", "ls", "mkdir", "mktemp", "rm", "rmdir", "seq", "sleep", "stat", "taskset",
    "true", "umount", "uname",
];
/// How the command's end begins on the console; its exit code follows.
const ENDED: &str = "regress: ended ";
/// Looks about every 50 ms at tasks that are blocked, and at those that wait for a CPU, which the kernel does not call blocked.
/// At times that do not repeat: a deterministic machine would be looked at in the same place each time.
const SAMPLER: &str = r#"( n=0
read -r self _ < /proc/self/stat
while n=$(( (n + 31) % 50 )); do
  sleep 0.0$(( 25 + n ))
  echo w > /proc/sysrq-trigger
  for process in /proc/[0-9]*; do
    [ $process != /proc/$self ] && read -r stat < $process/stat && case $stat in *') R '*)
      name=${stat#*\(}
      echo "task:${name%%)*} state:R"
      while read -r _ frame; do echo " $frame"; done < $process/stack ;;
    esac
  done
done ) 2> /dev/null &
"#;
/// How often the agent looks while programs run, which is not for long; ms of guest time.
const SAMPLE_PROGRAM_MS: u32 = 3;
/// Longest wall time of a measurement.
const LIMIT: Duration = Duration::from_secs(900);

/// How it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// By instructions and waiting, under the deterministic engine.
    Det,
    /// By the wall clock, under the parallel engine.
    Wall,
}

/// What a boot gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The figures, point after point, each in the order of the workload.
    pub values: Vec<Vec<f64>>,
    /// How long each op took that the first figure looks at, us; empty of a command.
    pub latencies: Vec<f64>,
    /// What the guest printed. Not kept.
    #[serde(skip)]
    pub console: Vec<u8>,
}

/// What is measured, and with what.
pub struct Lab<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// What to run of it.
    pub points: Vec<Point>,
    /// The command, where it is one.
    pub command: Option<String>,
    /// Programs of this machine that it takes, beside those that the workload names.
    pub binaries: Vec<String>,
    /// What the parallel engine runs on.
    pub parallel: Execution,
    dir: RunDir,
}

impl<'a> Lab<'a> {
    /// For a workload.
    ///
    /// # Errors
    /// When its programs do not parse, or no folder can be made.
    pub fn new(
        workload: &'a Workload,
        command: Option<String>,
        binaries: &[String],
        parallel: Execution,
    ) -> Result<Lab<'a>> {
        Ok(Lab {
            workload,
            points: workload.points()?,
            command: command.or_else(|| workload.command.clone()),
            binaries: workload.binaries.iter().chain(binaries).cloned().collect(),
            parallel,
            dir: RunDir::new().context("cannot make a folder for running machines")?,
        })
    }

    /// Boots a side and runs the workload in it. The inner error says why that gave no figures.
    ///
    /// # Errors
    /// When the guest cannot be put together.
    pub fn run(
        &self,
        side: &Side,
        how: How,
        seed: u32,
        samples: bool,
        job: usize,
    ) -> Result<Result<Run, String>> {
        let folder = self.dir.path().join(format!("job{job}"));
        let guest = GuestConfig { seed, ..side.machine.config.clone() };
        if self.workload.command.is_some() {
            let initramfs = self.dir.path().join(format!("initramfs{job}"));
            fs::write(&initramfs, self.archive(how, seed, samples)?)?;
            Ok(self.run_command(&GuestConfig { initramfs, ..guest }, how, &folder))
        } else {
            Ok(self.run_programs(&guest, how, seed, samples, &folder))
        }
    }

    /// Names what a deterministic run depends on, the harness excepted: the machine, what runs in it, this machine's programs.
    ///
    /// # Errors
    /// When one of those is not there.
    pub fn key(&self, side: &Side, seed: u32) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{} {:?} {seed}", side.machine.config.key, self.workload).as_bytes());
        if self.workload.command.is_some() {
            hasher.update(&self.archive(How::Det, seed, false)?);
        }
        Ok(hasher.finalize().to_hex()[..16].to_owned())
    }

    fn schedule(&self) -> Schedule {
        Schedule { vcpus: self.workload.vcpus, ..Schedule::default() }
    }

    fn archive(&self, how: How, seed: u32, samples: bool) -> Result<Vec<u8>> {
        let mut files = BTreeMap::new();
        userland::add_programs(&mut files, &TOOLS)?;
        let names: Vec<&str> = self.binaries.iter().map(String::as_str).collect();
        userland::add_programs(&mut files, &names)?;
        let seconds = match how {
            How::Det => self.workload.seconds.det,
            How::Wall => self.workload.seconds.wall,
        };
        let command = self.command.as_deref().unwrap_or("true").replace("{seconds}", &seconds.to_string());
        let sampler = if samples { SAMPLER } else { "" };
        let script = format!(
            "mount -t tmpfs tmpfs /tmp\nmount -t debugfs debugfs /sys/kernel/debug 2> /dev/null\ncd /tmp\n\
             {sampler}for n in $(seq {seed}); do mkdir seed$n; date > seed$n/date; sleep 0.00$((n % 9 + 1)); done\n\
             began=$(date +%s%N)\n{command}\ncode=$?\nended=$(date +%s%N)\n\
             echo \"regress: elapsed $(( (ended - began) / 1000 ))\"\necho \"{ENDED}$code\"\n"
        );
        userland::archive(files, &script)
    }

    fn run_command(&self, guest: &GuestConfig, how: How, folder: &Path) -> Result<Run, String> {
        let boot = Boot {
            guest,
            schedule: self.schedule(),
            execution: self.execution(how),
            leaks: Leaks::Ignore,
            limit: LIMIT,
        };
        let (console, end) = boot.run(folder).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&console);
        complaint(&console)?;
        let code = text.lines().rev().find_map(|line| line.trim().strip_prefix(ENDED)).map(str::to_owned);
        match (code.as_deref(), end) {
            (Some("0"), _) => {}
            (Some(code), _) => return Err(format!("the command failed ({code}): {}", last(&text))),
            (None, MachineEnd::Killed(why)) => return Err(why),
            (None, end) => {
                return Err(format!("the guest ended before the command ({end:?}): {}", last(&text)));
            }
        }
        let values: Option<Vec<f64>> =
            self.workload.figures.iter().map(|figure| figure.read(&text)).collect();
        let values = values.ok_or_else(|| format!("a figure is not in what it printed: {}", last(&text)))?;
        Ok(Run { values: vec![values], latencies: Vec::new(), console })
    }

    fn run_programs(
        &self,
        guest: &GuestConfig,
        how: How,
        seed: u32,
        samples: bool,
        folder: &Path,
    ) -> Result<Run, String> {
        let shift = shifted(seed, self.schedule())?;
        let all = self.points.iter().flat_map(|point| &point.programs);
        let programs: Vec<Program> = std::iter::once(&shift).chain(all).cloned().collect();
        let epoch = Epoch { programs, ..Epoch::default() };
        let append = if samples {
            format!("{} shrinktorture.sample_ms={SAMPLE_PROGRAM_MS}", guest.append)
        } else {
            guest.append.clone()
        };
        let guest = GuestConfig { append, ..guest.clone() };
        let limits = Limits { wall: LIMIT, ..Limits::default() };
        let outcome = match how {
            How::Det => det::run_from_power_on(&guest, self.schedule(), &epoch, limits, folder),
            How::Wall => Stream::new(guest, self.schedule(), self.parallel, PathBuf::from(folder))
                .run_epoch(&epoch, limits),
        };
        complaint(&outcome.console)?;
        if outcome.end != EpochEnd::Done {
            return Err(format!("the programs did not run to their end: {:?}", outcome.end));
        }
        // The first is no part of the workload.
        let mut at = 1;
        let mut values = Vec::new();
        for point in &self.points {
            let runs = at..at + point.programs.len();
            at = runs.end;
            runs.clone().try_for_each(|idx| all_worked(&epoch.programs[idx], &outcome.programs[idx]))?;
            let ops =
                |figure: &Figure| ops(&epoch, &outcome, runs.clone(), figure.op.as_deref().unwrap_or(""));
            let figure = |figure: &Figure| value(figure.of, &ops(figure)).ok_or(figure.name.clone());
            let of_point: Result<Vec<f64>, String> = self.workload.figures.iter().map(figure).collect();
            values.push(of_point.map_err(|name| format!("{name}: no such op succeeded, {}", point.label))?);
        }
        let first = self.workload.figures[0].op.as_deref().unwrap_or("");
        let all = ops(&epoch, &outcome, 1..epoch.programs.len(), first);
        let latencies = all.iter().flatten().map(micros).collect();
        Ok(Run { values, latencies, console: outcome.console })
    }

    fn execution(&self, how: How) -> Execution {
        match how {
            How::Det => Execution::Deterministic,
            How::Wall => self.parallel,
        }
    }
}

/// A program that leaves the machine a little different for each seed: other slab pages in use, other ids, another time. What
/// QEMU gives as entropy is not enough for that: a kernel without debugging hardly uses it.
fn shifted(seed: u32, schedule: Schedule) -> Result<Program, String> {
    let life = |n: u32| {
        let us = 7 + 13 * n;
        format!(" spin us={us}\n object_new object={} flags=0 n={us}\n", n % 4)
    };
    let ops: String = (0..seed.min(16)).map(life).collect();
    let program = format!("thread cpu=0\n{ops}").parse::<Program>().map_err(|error| error.to_string())?;
    Ok(Program { schedule, ..program })
}

/// A workload is what all of its ops do together: 256 shrinkers where there should be 4096 give a figure of something else.
fn all_worked(program: &Program, outcome: &ProgramOutcome) -> Result<(), String> {
    let asked = program.threads.iter().flat_map(|thread| &thread.ops);
    for (op, done) in asked.zip(&outcome.ops) {
        let result = done.ok_or_else(|| format!("{} was not run", OpText(op)))?.result;
        if result < 0 && op.kind != kind::MEMCG_RECLAIM {
            return Err(format!("{}: {}", OpText(op), std::io::Error::from_raw_os_error(-result)));
        }
    }
    Ok(())
}

/// Ops of one kind that succeeded, program by program.
fn ops(
    epoch: &Epoch,
    outcome: &EpochOutcome,
    programs: std::ops::Range<usize>,
    name: &str,
) -> Vec<Vec<OpOutcome>> {
    let kind = abi::ops::by_name(name).map(|spec| spec.kind);
    let one = |idx: usize| {
        let asked = epoch.programs[idx].threads.iter().flat_map(|thread| &thread.ops);
        let done = asked.zip(&outcome.programs[idx].ops).filter(|(op, _)| Some(op.kind) == kind);
        done.filter_map(|(_, op)| *op).filter(|op| op.result >= 0 || name == "memcg_reclaim").collect()
    };
    programs.map(one).collect()
}

fn micros(op: &OpOutcome) -> f64 {
    f64::from(op.end_ns.saturating_sub(op.start_ns)) / 1e3
}

/// What a figure looks at; none where there was no such op.
fn value(of: Of, programs: &[Vec<OpOutcome>]) -> Option<f64> {
    let micros: Vec<f64> = programs.iter().flatten().map(micros).collect();
    if micros.is_empty() {
        return None;
    }
    Some(match of {
        Of::Mean => stats::mean(&micros),
        Of::Median => stats::median(&micros),
        Of::P99 => stats::quantile(&micros, 0.99),
        Of::Rate => {
            let span =
                |ops: &Vec<OpOutcome>| f64::from(ops.iter().map(|op| op.end_ns).max().unwrap_or(0)) / 1e9;
            let seconds: f64 = programs.iter().map(span).sum();
            micros.len() as f64 / seconds
        }
    })
}

/// A kernel that complains is not measured.
fn complaint(console: &[u8]) -> Result<(), String> {
    match oracle::judge(console).into_iter().next() {
        Some(report) => Err(format!("the kernel complained: {}", plain::line(&report.title, 200))),
        None => Ok(()),
    }
}

fn last(text: &str) -> String {
    plain::block(&proc::tail(text))
}

/// Runs jobs side by side and returns what came of each, in their order.
pub fn side_by_side<T: Send>(n_jobs: usize, n: usize, run: impl Fn(usize, usize) -> T + Sync) -> Vec<T> {
    let mut results = Vec::new();
    for first in (0..n).step_by(n_jobs.max(1)) {
        let batch = first..n.min(first + n_jobs.max(1));
        let run = &run;
        results.extend(std::thread::scope(|scope| {
            let running: Vec<_> =
                batch.enumerate().map(|(job, nth)| scope.spawn(move || run(nth, job))).collect();
            running
                .into_iter()
                .map(|one| one.join().expect("a measurement does not panic"))
                .collect::<Vec<_>>()
        }));
    }
    results
}
