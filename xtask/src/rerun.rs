// SPDX-License-Identifier: MIT OR Apache-2.0
//! A finding run again, on the machine it was made on or another, or a program; each run in a fresh guest. What `repro`,
//! `minimize`, `prove` and `bisect` share.

mod shown;
mod vary;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use ::fuzz::findings::{self, Stored};
use anyhow::{Context, Result};
use clap::Args;
use harness::{
    det::{self, Limits},
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::Execution,
    oracle::{self, Report},
    par::Stream,
    pool::Pool,
    program::{Program, Schedule},
    run_dir::RunDir,
    snapshot::Snapshot,
};

use crate::{
    accel::AccelChoice,
    guest::{self, Machine},
    kernel::Trust,
    paths::Cache,
    prepare::{self, Engine, MachineArgs, Prepared},
    run, usage,
};

/// Longest wall time one run may take, waiting for its turn included.
const RUN_LIMIT: Duration = Duration::from_secs(900);

/// Another machine than the finding's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Elsewhere {
    /// Kernel instance to run on [default: the finding's own machine; for a program kasan-6.12]
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// Kernel tree to build in place of the instance's own source and the finding's patches; never modified
    #[arg(long, value_name = "DIR")]
    pub linux: Option<PathBuf>,
    /// Patch to apply besides, mbox or diff; repeatable
    #[arg(long, value_name = "FILE")]
    pub patch: Vec<PathBuf>,
    /// Extra kernel boot arguments
    #[arg(long, value_name = "ARGS")]
    pub append: Option<String>,
    /// Engine [default: the finding's]
    #[arg(long, value_enum)]
    pub engine: Option<Engine>,
}

/// What is run, and what it is to show.
#[derive(Clone, Debug)]
pub struct Case {
    /// Programs, in order; none where a boot is all it takes.
    pub batch: Vec<Program>,
    /// Their schedule.
    pub schedule: Schedule,
    /// A canary kind to arm; 0: none.
    pub canary: u32,
    /// Scan for leaked memory afterwards.
    pub leak_scan: bool,
    /// Names of the bug; none: whatever is reported is the one.
    pub titles: Vec<String>,
}

impl Case {
    /// That of a finding's folder, or of a program's file.
    ///
    /// # Errors
    /// When it is neither.
    pub fn read(what: &Path) -> Result<(Case, Option<Stored>)> {
        if !what.is_dir() {
            return Ok((Case::of_program(run::read_program(&what.to_owned())?), None));
        }
        let stored = finding(what)?;
        Ok((Case::of_finding(&stored), Some(stored)))
    }

    fn of_finding(stored: &Stored) -> Case {
        let record = &stored.record;
        Case {
            batch: stored.batch.clone(),
            schedule: record.schedule,
            canary: record.canary,
            leak_scan: record.leak_scan,
            titles: stored.verdict.titles().map(str::to_owned).collect(),
        }
    }

    fn of_program(program: Program) -> Case {
        let schedule = program.schedule;
        Case { batch: vec![program], schedule, canary: 0, leak_scan: false, titles: Vec::new() }
    }

    /// The epoch that runs it.
    pub fn epoch(&self) -> Epoch {
        let Case { batch, canary, leak_scan, .. } = self;
        Epoch { programs: batch.clone(), canary: *canary, leak_scan: *leak_scan, ..Epoch::default() }
    }

    /// What a run showed of it.
    pub fn judge(&self, outcome: &EpochOutcome) -> Showing {
        match &outcome.end {
            EpochEnd::Harness(why) | EpochEnd::Machine(why) => return Showing::Infrastructure(why.clone()),
            EpochEnd::Done | EpochEnd::Kernel | EpochEnd::Deadline | EpochEnd::Lost(_) => {}
        }
        judge(&outcome.console, &self.titles)
    }
}

/// What a console shows of a bug that has these names; none: whatever is reported is the one.
pub fn judge(console: &[u8], titles: &[String]) -> Showing {
    let reports = oracle::judge(console);
    let is_same = |report: &Report| {
        titles.is_empty() || oracle::share_title(report.titles(), titles.iter().map(String::as_str))
    };
    match oracle::telling(&reports, is_same).cloned().map(Box::new) {
        Some(report) if is_same(&report) => Showing::Same(report),
        Some(report) => Showing::Other(report),
        None => Showing::None,
    }
}

/// A case and what runs it.
pub struct Rerun {
    /// The case.
    pub case: Case,
    /// The finding it was taken from.
    pub stored: Option<Stored>,
    /// What it runs on.
    pub machine: Machine,
    /// Guests side by side.
    pub jobs: usize,
    execution: Execution,
    snapshots: PathBuf,
    /// Guests of the deterministic engine; those of the other do not last.
    pool: Option<Pool>,
}

/// What a run showed.
#[derive(Clone, Debug)]
pub enum Showing {
    /// The finding, by its title or another of its names.
    Same(Box<Report>),
    /// Another bug.
    Other(Box<Report>),
    /// No report.
    None,
    /// Nothing, for a reason that is not the kernel's.
    Infrastructure(String),
}

impl Rerun {
    /// Reads a finding's folder or a program's file, and makes a machine ready. `jobs`: guests side by side, by default one
    /// a core; the parallel engine runs one at a time.
    ///
    /// # Errors
    /// When it is neither, or the machine cannot be made.
    pub fn open(what: &Path, elsewhere: &Elsewhere, jobs: Option<usize>) -> Result<Rerun> {
        let mut rerun = Rerun::cold(what, elsewhere, jobs)?;
        let snapshot = rerun.start()?;
        let own = rerun.stored.as_ref().filter(|_| *elsewhere == Elsewhere::default());
        if let (Some(snapshot), Some(stored)) = (snapshot, own) {
            warn_of_sibling(&snapshot, stored);
        }
        Ok(rerun)
    }

    /// Makes guests ready, and what they start from, where that is a snapshot.
    ///
    /// # Errors
    /// When the machine does not boot.
    pub fn start(&mut self) -> Result<Option<Snapshot>> {
        if !self.is_deterministic() || self.case.batch.is_empty() {
            return Ok(None);
        }
        let pool = self.fresh()?;
        let snapshot = pool.snapshot(self.case.schedule, self.case.epoch().leaks())?;
        self.pool = Some(pool);
        Ok(Some(snapshot))
    }

    /// The same without a snapshot, for what starts from power-on.
    ///
    /// # Errors
    /// As [`Rerun::open`].
    pub fn cold(what: &Path, elsewhere: &Elsewhere, jobs: Option<usize>) -> Result<Rerun> {
        let (case, stored) = Case::read(what)?;
        let cache = Cache::open()?;
        let recipe = recipe(stored.as_ref(), elsewhere);
        let is_own = *elsewhere == Elsewhere::default();
        let (machine, execution) = match &stored {
            Some(stored) if is_own => (
                machine_of(&cache, stored, &recipe)?,
                prepare::execution(&cache, recipe.engine, recipe.accel)?,
            ),
            _ => {
                let prepared = prepare::prepare(&recipe)?;
                (prepared.machine, prepared.execution)
            }
        };
        let snapshots = cache.dir("snapshots")?;
        let is_deterministic = execution == Execution::Deterministic;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = if is_deterministic { jobs.unwrap_or(cores).max(1) } else { 1 };
        Ok(Rerun { case, stored, machine, jobs, execution, snapshots, pool: None })
    }

    /// A finding on the machine that it was just made on.
    ///
    /// # Errors
    /// When the folder is no finding, or no guest can be had.
    pub fn of(prepared: &Prepared, folder: &Path) -> Result<Rerun> {
        let stored = finding(folder)?;
        let (execution, machine) = (prepared.execution, prepared.machine.clone());
        let case = Case::of_finding(&stored);
        let (jobs, snapshots) = (prepared.jobs, prepared.snapshots.clone());
        let mut rerun = Rerun { case, stored: Some(stored), machine, jobs, execution, snapshots, pool: None };
        if rerun.is_deterministic() && !rerun.case.batch.is_empty() {
            rerun.pool = Some(rerun.fresh()?);
        }
        Ok(rerun)
    }

    /// Whether every run of one epoch is the same.
    pub fn is_deterministic(&self) -> bool {
        self.execution == Execution::Deterministic
    }

    /// The snapshot that runs start from.
    ///
    /// # Errors
    /// When there is none: the engine is the parallel one, or booting shows it. `option` is what was asked for.
    pub fn snapshot(&self, option: &str) -> Result<Snapshot> {
        let Some(pool) = &self.pool else {
            return Err(if self.is_deterministic() {
                usage!("{option}: booting shows it, which needs no program and has no snapshot")
            } else {
                usage!("{option} takes the deterministic engine: runs of the other differ; add --engine det")
            });
        };
        Ok(pool.snapshot(self.case.schedule, self.case.epoch().leaks())?)
    }

    /// The epochs of the runs `nth` of a case. Where every run of one epoch is the same, they are made to differ.
    pub fn epochs(&self, case: &Case, nth: Range<u32>) -> Vec<Epoch> {
        let varied = self.is_deterministic();
        nth.map(|nth| if varied { case.delayed(nth).epoch() } else { case.epoch() }).collect()
    }

    /// Runs epochs, each in a fresh guest; hands over the answers in order, none for one that did not come.
    ///
    /// # Errors
    /// Those of `each`, and when no guest can be had.
    pub fn run(
        &mut self,
        epochs: &[Epoch],
        each: &mut dyn FnMut(usize, Option<EpochOutcome>) -> Result<()>,
    ) -> Result<()> {
        if let Some(pool) = &mut self.pool {
            for epoch in epochs {
                pool.submit(epoch.clone());
            }
            return (0..epochs.len()).try_for_each(|n| each(n, pool.next(RUN_LIMIT)));
        }
        for (n, epoch) in epochs.iter().enumerate() {
            // What an earlier run left behind is not part of the finding.
            let outcome =
                if epoch.programs.is_empty() { self.boot(epoch)? } else { self.fresh()?.run(epoch.clone()) };
            each(n, Some(outcome))?;
        }
        Ok(())
    }

    fn fresh(&self) -> Result<Pool> {
        prepare::pool(&self.machine, self.execution, self.jobs, &self.snapshots)
    }

    /// Shows what needs no program: a boot, to its end.
    fn boot(&self, epoch: &Epoch) -> Result<EpochOutcome> {
        let dir = RunDir::new().context("cannot make a folder for running machines")?;
        let (guest, limits, schedule) = (&self.machine.config, Limits::default(), self.case.schedule);
        if self.is_deterministic() {
            return Ok(det::run_from_power_on(guest, schedule, epoch, limits, dir.path()));
        }
        let mut stream = Stream::new(guest.clone(), schedule, self.execution, dir.path().to_owned());
        let outcome = stream.run_epoch(epoch, limits);
        let console = [outcome.boot.as_slice(), &outcome.console].concat();
        Ok(EpochOutcome { console, ..outcome })
    }
}

fn finding(folder: &Path) -> Result<Stored> {
    if !folder.join("verdict.yaml").exists() {
        return Err(usage!("{} is no finding: it has no verdict.yaml", folder.display()));
    }
    findings::load(folder)
}

/// The machine of a finding, or that of programs, changed as asked for.
fn recipe(stored: Option<&Stored>, elsewhere: &Elsewhere) -> MachineArgs {
    let extra = |name: &str| stored.and_then(|stored| stored.record.provenance.extra.get(name));
    let own = stored.map(|stored| stored.record.provenance.instance.clone());
    let instance = elsewhere.instance.clone().or(own).unwrap_or_else(|| prepare::INSTANCE.to_owned());
    let engine = match stored.map(|stored| stored.record.provenance.engine.as_str()) {
        Some("det") => Engine::Det,
        Some(_) => Engine::Par,
        None => Engine::Auto,
    };
    // They are of the source that the finding was made on.
    let patches = extra("patches").filter(|_| elsewhere.linux.is_none());
    let patches = patches.map(String::as_str).unwrap_or_default();
    MachineArgs {
        instance,
        linux: elsewhere.linux.clone().or(extra("linux").map(PathBuf::from)),
        patch: patches.lines().map(PathBuf::from).chain(elsewhere.patch.iter().cloned()).collect(),
        append: elsewhere.append.clone().or(extra("append").cloned()).unwrap_or_default(),
        engine: elsewhere.engine.unwrap_or(engine),
        accel: AccelChoice::Auto,
        jobs: None,
        trust: Trust::Own,
    }
}

/// The machine of a finding, as it was made.
///
/// # Errors
/// When it is gone and cannot be made again.
pub fn machine_of_finding(cache: &Cache, stored: &Stored) -> Result<Machine> {
    machine_of(cache, stored, &recipe(Some(stored), &Elsewhere::default()))
}

/// The very machine the finding was made on, else one made by the same recipe.
fn machine_of(cache: &Cache, stored: &Stored, recipe: &MachineArgs) -> Result<Machine> {
    let provenance = &stored.record.provenance;
    let key = provenance.artifacts.get("machine").context("provenance.yaml names no machine")?;
    match guest::recorded(cache, key) {
        Ok(machine) => Ok(machine),
        Err(why) => {
            eprintln!("machine {key} is not in the cache ({why:#}); building {} anew", provenance.instance);
            let machine = prepare::prepare(recipe)?.machine;
            if machine.config.key != *key {
                eprintln!(
                    "warning: the machine differs from the finding's ({} against {key})",
                    machine.config.key
                );
            }
            Ok(machine)
        }
    }
}

fn warn_of_sibling(snapshot: &Snapshot, stored: &Stored) {
    let found = stored.record.provenance.snapshot.as_deref().unwrap_or("none");
    if snapshot.manifest.id != found {
        eprintln!(
            "warning: the finding's snapshot {found} is gone; this run starts from its sibling {}, where races may fall \
             differently",
            snapshot.manifest.id
        );
    }
}

/// The chance of missing a bug that is put up with.
pub const MISS: f64 = 0.05;

/// Runs of which all miss a bug of that rate with a chance of `miss`, at most `max`.
pub fn runs_needed(rate: f64, miss: f64, max: u32) -> u32 {
    let n = miss.ln() / (1.0 - rate.clamp(1e-3, 0.999)).ln();
    (n.ceil() as u32).clamp(1, max)
}

/// What the rate behind `n_same` of `n_runs` may be, at 95 % confidence: Wilson's score interval.
pub fn interval(n_same: u32, n_runs: u32) -> (f64, f64) {
    const Z: f64 = 1.959_963_985;
    if n_runs == 0 {
        return (0.0, 1.0);
    }
    let n = f64::from(n_runs);
    let rate = f64::from(n_same) / n;
    let middle = rate + Z * Z / (2.0 * n);
    let half = Z * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_literature() {
        // Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I,
        // method 3.
        for (n_same, n_runs, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let found = interval(n_same, n_runs);
            assert!(
                (found.0 - low).abs() < 1e-4 && (found.1 - high).abs() < 1e-4,
                "{n_same}/{n_runs}: {found:?}"
            );
        }
        assert_eq!(interval(0, 0), (0.0, 1.0));
    }

    #[test]
    fn the_rarer_the_bug_the_more_runs_it_takes() {
        let runs = [1.0, 0.84, 0.5, 0.1, 0.0].map(|rate| runs_needed(rate, MISS, 400));
        assert_eq!(runs, [1, 2, 5, 29, 400]);
    }
}
