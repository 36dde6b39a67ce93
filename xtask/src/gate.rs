// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask gate`: a verdict on a patch series. The kernel with it is compared with the kernel without it, step by step,
//! so that an old bug is never blamed on the series; guests run under the deterministic engine, so that the same series on
//! the same base gets the same verdict on any host.

pub mod b4;
mod compile;
pub mod example;
mod focus;
pub mod github;
mod guests;
pub mod html;
mod hygiene;
pub mod junit;
pub mod kcidb;
pub mod ktap;
pub mod outcome;
#[cfg(test)]
mod recipes;
mod same;
mod scenario;
mod selftests;
mod series;
mod show;
mod speed;
pub mod text;
mod view;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ::fuzz::{corpus, findings};
use anyhow::{Context, Result};
use clap::Args;
use harness::{
    machine::MachineError,
    plain,
    run_dir::RunDir,
    snapshot::{self, SnapshotManifest},
};

use self::{
    focus::Focus,
    guests::Task,
    outcome::{Check, KernelInfo, Outcome, Status, Step, Verdict},
    series::Series,
};
use crate::{
    accel::AccelChoice,
    bisect::git::History,
    exit::{self, Exit, Unfit},
    kernel::{Kernel, Trust, artifact},
    matrix::{self, Instance},
    paths::{self, Cache},
    prepare::{self, Engine, INSTANCE, MachineArgs, Prepared},
    sandbox, setup,
    tools::Need,
    usage,
};

/// What `--only` takes.
const STEPS: [&str; 6] = ["hygiene", "build", "scenarios", "selftests", "campaign", "performance"];
/// Says that a folder of findings is a gate's.
const MARK: &str = ".gate";
/// Share of the time that is kept for measuring speed, which comes last.
const SPEED_SHARE: f64 = 0.3;

/// Options of `gate`.
#[derive(Debug, Args)]
pub struct GateArgs {
    /// The series: mail, mailbox or diff; `-` for standard input; repeatable
    #[arg(long, value_name = "FILE", required_unless_present = "range")]
    patch: Vec<PathBuf>,
    /// The series: commits of --linux
    #[arg(long, value_name = "A..B", conflicts_with_all = ["patch", "base"], requires = "linux")]
    range: Option<String>,
    /// What it is for: a kernel tree, only read [default: the instance's own source]
    #[arg(long, value_name = "TREE")]
    linux: Option<PathBuf>,
    /// Revision of the tree, which then is a git repository [default: the tree as it is]
    #[arg(long, value_name = "REV", requires = "linux")]
    base: Option<String>,
    /// Whose configuration is built
    #[arg(long, default_value = INSTANCE)]
    instance: String,
    /// Wall time, the kernel without the series not included; what is not done by then is said
    #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
    budget: Duration,
    /// Programs of the campaign
    #[arg(long, default_value_t = 400)]
    execs: u64,
    /// Only these steps; the kernel is built in any case
    #[arg(long, value_name = "STEP", value_delimiter = ',', value_parser = STEPS)]
    only: Vec<String>,
    /// Build without a sandbox: the series' makefiles then do what they like
    #[arg(long)]
    no_sandbox: bool,
    /// Guests side by side [default: one a core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Where findings are kept [default: gate/NAME-OF-THE-SERIES]; emptied first
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print everything as one JSON object in place of text
    #[arg(long)]
    json: bool,
    /// Print annotations for GitHub; the summary goes where GITHUB_STEP_SUMMARY says
    #[arg(long)]
    github: bool,
    /// Print what `b4 review` reads
    #[arg(long, conflicts_with_all = ["json", "github"])]
    b4: bool,
    /// Write JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write KTAP
    #[arg(long, value_name = "FILE")]
    ktap: Option<PathBuf>,
    /// Write KCIDB's JSON
    #[arg(long, value_name = "FILE")]
    kcidb: Option<PathBuf>,
    /// Write a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the subcommand. Exit codes: 0 PASS, 2 FAIL, 4 UNSURE.
///
/// # Errors
/// When the series cannot be read, the kernel without it does not build, or the machine fails.
pub fn run(args: &GateArgs) -> exit::Outcome {
    let cache = Cache::open()?;
    let instance = matrix::instance(&args.instance)?;
    setup::ensure(&cache, &[Need::Kernel, Need::Vm, Need::Hygiene, Need::Workload])?;
    let trust = if args.no_sandbox { Trust::Own } else { Trust::Foreign };
    if trust == Trust::Foreign {
        sandbox::probe()?;
    }
    let Inputs { linux, source, series, history } = inputs(args, &cache, &instance)?;
    // There are gigabytes of them, and of a series that is well nobody looks at them again.
    let snapshots = RunDir::below(&cache.dir("gate")?).context("folder for snapshots")?;
    let dir = make_dir(args, &series)?;
    let (steps, began) = (Vec::new(), Instant::now());
    let mut gate = Gate {
        args,
        cache,
        instance,
        linux,
        source,
        series,
        history,
        trust,
        snapshots,
        dir,
        began,
        same: None,
        steps,
    };
    let mut base = gate.prepare(&gate.instance.name, Trust::Own, &[])?;
    gate.learn(&mut base)?;
    // What it takes to have something to compare with is not the series' time.
    gate.began = Instant::now();
    let patched = gate.all(&mut base)?;
    if gate.steps.iter().any(|step| step.status() == Status::Fail) {
        gate.keep_snapshots()?;
    }
    let outcome = gate.outcome(&base, patched);
    show::show(args, &outcome)?;
    Ok(match outcome.verdict {
        Verdict::Pass => Exit::Pass,
        Verdict::Unsure => Exit::Skipped,
        Verdict::Fail => Exit::Finding,
    })
}

/// What was asked for, found.
struct Inputs {
    /// The tree that the series is for, where it is not the instance's own.
    linux: Option<PathBuf>,
    /// What it is called.
    source: String,
    series: Series,
    /// Where the tree comes from, and the commit, where that is a git repository.
    history: Option<(History, String)>,
}

fn inputs(args: &GateArgs, cache: &Cache, instance: &Instance) -> Result<Inputs> {
    let (linux, source) = match &args.linux {
        Some(linux) => (Some(linux.clone()), linux.display().to_string()),
        None => (None, instance.source.package.clone()),
    };
    let range = args
        .range
        .as_deref()
        .map(|range| range.split_once("..").ok_or_else(|| usage!("--range {range}: wants A..B")))
        .transpose()?;
    let revision = range.map(|(from, _)| from).or(args.base.as_deref());
    let Some((users, revision)) = linux.as_deref().zip(revision) else {
        return Ok(Inputs { linux, source, series: Series::read(cache, &args.patch)?, history: None });
    };
    let history = History::open(cache, users)?;
    let commit = history.resolve(users, revision)?;
    let series = match range {
        Some((_, to)) => Series::of_range(cache, &history, &commit, &history.resolve(users, to)?)?,
        None => Series::read(cache, &args.patch)?,
    };
    let linux = Some(history.unpack(&commit)?);
    Ok(Inputs { linux, source: commit.clone(), series, history: Some((history, commit)) })
}

/// A gate at work.
struct Gate<'a> {
    args: &'a GateArgs,
    cache: Cache,
    instance: Instance,
    linux: Option<PathBuf>,
    /// What that is called.
    source: String,
    series: Series,
    history: Option<(History, String)>,
    trust: Trust,
    /// Of kernels with the series.
    snapshots: RunDir,
    /// Where findings are kept.
    dir: PathBuf,
    began: Instant,
    /// Why the kernel with the series is the one without, if it is.
    same: Option<same::Why>,
    steps: Vec<Step>,
}

impl Gate<'_> {
    /// Finds out what the kernel without the series shows, where that is not known from an earlier gate.
    fn learn(&self, base: &mut Prepared) -> Result<()> {
        if self.wants("scenarios") {
            guests::learn(&scenario::task(&self.instance.name)?, base)?;
            for sibling in self.siblings()? {
                let mut base = self.prepare(&sibling, Trust::Own, &[])?;
                guests::learn(&scenario::task(&sibling)?, &mut base)?;
            }
        }
        if self.wants("selftests") {
            self.selftests_of_base(base)?;
        }
        if self.wants("campaign") {
            let task = self.campaign()?;
            guests::learn(&task, base)?;
            focus::reach(base, &task.seeds)?;
        }
        Ok(())
    }

    fn campaign(&self) -> Result<Task> {
        Ok(Task {
            name: "campaign".to_owned(),
            seeds: corpus::seeds()?,
            focus: Focus::default(),
            execs: self.args.execs,
            leaks: true,
            one_schedule: false,
        })
    }

    /// Every step that can be done; the kernel with the series, where it builds.
    fn all(&mut self, base: &mut Prepared) -> Result<Option<KernelInfo>> {
        let builds = self.build()?;
        if !builds {
            if self.wants("hygiene") && self.steps.iter().any(|step| step.name == "build") {
                self.hygiene()?;
            }
            return Ok(None);
        }
        let began = Instant::now();
        let mut patched = match self.prepare(&self.instance.name, self.trust, &self.series.files()) {
            Ok(patched) => patched,
            Err(error) if error.chain().any(|cause| cause.is::<Unfit>()) => {
                let text = format!(
                    "the guest modules do not build against it: {}",
                    plain::line(&format!("{error:#}"), 400)
                );
                self.step("boot", began, vec![Check::new("interface", Status::Unsure, &text)]);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let info = self.info(&patched);
        self.same = self.is_same(base, &patched)?;
        if self.wants("hygiene") {
            self.hygiene()?;
        }
        if self.wants("scenarios") {
            self.scenarios(base, &mut patched)?;
        }
        if self.comes_to("selftests") {
            self.selftests(base, &patched)?;
        }
        if self.comes_to("campaign") {
            let began = Instant::now();
            let mut task = self.campaign()?;
            if self.same.is_none() {
                task.focus = focus::focus(base, &task.seeds, &self.series)?;
            }
            let checks = self.guests(&task, base, &mut patched, &self.dir.join("campaign"))?;
            self.step("campaign", began, checks);
        }
        if self.comes_to("performance") {
            self.performance(base.jobs)?;
        }
        Ok(Some(info))
    }

    /// What guests show of the series.
    fn guests(
        &self,
        task: &Task,
        base: &mut Prepared,
        patched: &mut Prepared,
        dir: &Path,
    ) -> Result<Vec<Check>> {
        if let Some(why) = self.same {
            return guests::same(task, base, why);
        }
        unless_it_does_not_boot(guests::checks(task, base, patched, dir, self.until(1.0 - SPEED_SHARE)))
    }

    fn wants(&self, step: &str) -> bool {
        self.args.only.is_empty() || self.args.only.iter().any(|only| only == step)
    }

    /// Whether a step is to be done. Where something was found that is reason enough, guests that cost minutes add nothing to the
    /// verdict.
    fn comes_to(&mut self, step: &str) -> bool {
        let is_refused = |step: &Step| step.name != "hygiene" && step.status() == Status::Fail;
        let is_left_out = self.wants(step) && self.steps.iter().any(is_refused);
        if is_left_out {
            self.steps.push(Step { name: step.to_owned(), checks: Vec::new(), seconds: 0.0 });
        }
        self.wants(step) && !is_left_out
    }

    /// When a step must be done that may use the time up to that share.
    fn until(&self, share: f64) -> Instant {
        self.began + self.args.budget.mul_f64(share)
    }

    fn step(&mut self, name: &str, began: Instant, checks: Vec<Check>) {
        for check in checks.iter().filter(|check| check.status >= Status::Unsure) {
            eprintln!("gate: {name}: {}: {}", check.name, plain::line(&check.text, 200));
        }
        self.steps.push(Step { name: name.to_owned(), checks, seconds: began.elapsed().as_secs_f64() });
    }

    fn performance(&mut self, jobs: usize) -> Result<()> {
        let began = Instant::now();
        let Some(instance) = speed::instance(&self.instance)? else {
            let text = "the matrix has no instance without debugging on this source";
            self.step("performance", began, vec![Check::new("speed", Status::Skip, text)]);
            return Ok(());
        };
        let checks = match self.is_same_instance(&instance.name)? {
            Some(why) => vec![same::check("speed", why)],
            None => speed::checks(
                &self.cache,
                &instance,
                self.linux.clone(),
                &self.series,
                self.trust,
                jobs,
                self.until(1.0),
            )?,
        };
        self.step("performance", began, checks);
        Ok(())
    }

    /// Keeps those that findings begin at.
    fn keep_snapshots(&self) -> Result<()> {
        let files = paths::files_below(&self.dir, |_| true)?;
        let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
        let findings = folders.into_iter().filter_map(|folder| findings::load(folder).ok());
        let begun_at: BTreeSet<String> =
            findings.filter_map(|stored| stored.record.provenance.snapshot).collect();
        let all = self.cache.dir("snapshots")?;
        for entry in std::fs::read_dir(self.snapshots.path())?.flatten() {
            let is_wanted = |kept: SnapshotManifest| begun_at.contains(&kept.id);
            let place = all.join(entry.file_name());
            if snapshot::manifest(&entry.path()).is_some_and(is_wanted) && !place.exists() {
                std::fs::rename(entry.path(), &place).with_context(|| place.display().to_string())?;
            }
        }
        Ok(())
    }

    fn prepare(&self, instance: &str, trust: Trust, patches: &[PathBuf]) -> Result<Prepared> {
        let mut prepared = prepare::prepare(&MachineArgs {
            instance: instance.to_owned(),
            linux: self.linux.clone(),
            patch: patches.to_vec(),
            append: String::new(),
            engine: Engine::Det,
            accel: AccelChoice::Auto,
            jobs: self.args.jobs,
            trust,
        })?;
        if !patches.is_empty() {
            prepared.snapshots = self.snapshots.path().to_owned();
        }
        Ok(prepared)
    }

    fn info(&self, prepared: &Prepared) -> KernelInfo {
        let kernel = prepared.machine.vmlinux.parent().and_then(artifact::load);
        let of = |text: &dyn Fn(&Kernel) -> String| kernel.as_ref().map(text).unwrap_or_default();
        let clang = |kernel: &Kernel| kernel.manifest.recipe.toolchain.get("clang").cloned();
        KernelInfo {
            instance: self.instance.name.clone(),
            release: of(&|kernel| kernel.release.clone()),
            key: of(&|kernel| kernel.key.clone()),
            source: self.source.clone(),
            compiler: of(&|kernel| clang(kernel).unwrap_or_default()),
        }
    }

    fn outcome(self, base: &Prepared, patched: Option<KernelInfo>) -> Outcome {
        let (verdict, why) = outcome::verdict(&self.steps);
        Outcome {
            patches: self.series.pieces.iter().map(|piece| piece.info.clone()).collect(),
            base: self.info(base),
            patched,
            steps: self.steps,
            verdict,
            why,
            command: show::command(),
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }
}

/// Where findings are kept, made anew: what an earlier run found would be found at once, whatever the series is now.
fn make_dir(args: &GateArgs, series: &Series) -> Result<PathBuf> {
    let dir = args.dir.clone().unwrap_or_else(|| Path::new("gate").join(name_of(series)));
    let is_ours = dir.join(MARK).is_file();
    if !is_ours && dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(usage!("{}: is not empty, and no gate's", dir.display()));
    }
    if is_ours {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    paths::make_dir(&dir)?;
    paths::write_whole(&dir.join(MARK), b"")?;
    Ok(dir)
}

/// A kernel that does not get ready and says nothing is as bad as one that says why.
fn unless_it_does_not_boot(checks: Result<Vec<Check>>) -> Result<Vec<Check>> {
    checks.or_else(|error| match error.downcast_ref::<MachineError>() {
        Some(MachineError::NotReady { .. }) => Ok(vec![Check {
            detail: plain::block(&format!("{error:#}")),
            ..Check::new("boot", Status::Fail, "the kernel with the series does not boot")
        }]),
        _ => Err(error),
    })
}

/// A name for a folder: the same series, the same name.
fn name_of(series: &Series) -> String {
    let mut hasher = blake3::Hasher::new();
    series.pieces.iter().for_each(|piece| {
        hasher.update(piece.patch.diff.as_bytes());
    });
    hasher.finalize().to_hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[test]
    fn a_step_that_there_is_not_is_refused_and_not_passed_over() {
        let parse = |only: &str| {
            crate::Cli::try_parse_from(["xtask", "gate", "--patch", "x", "--only", only]).map(|_| ())
        };
        assert!(parse("hygiene,campaign").is_ok());
        assert!(parse("campain").unwrap_err().to_string().contains("scenarios"));
    }
}
