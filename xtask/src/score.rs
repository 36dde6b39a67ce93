// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask score`: the scoreboard. Plants bugs in a kernel, one at a time, lets the generic campaign look for each,
//! and says which it found, by what, after how many programs and seconds. The kernel without a bug is on the board too
//! and must stay clean.
//!
//! Each entry is a campaign of its own from an empty corpus, so the score of one says nothing about another's; it ends at
//! the first finding, with one guest; so many run side by side as there are cores. Results are kept, one file an entry,
//! and are good as long as nothing they depend on changed.

mod index;
mod small;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ::fuzz::{
    config::{Focus, Reduce},
    status::{CampaignEnd, Event},
};
use anyhow::{Context, Result, bail};
use clap::Args;
use harness::{oracle, run_dir::RunDir};
use serde::{Deserialize, Serialize};

use self::{
    index::{Class, Mutant, Seer},
    small::Small,
};
use crate::{
    exit::{Bug, Exit, Outcome},
    fuzz::{self, LEAK_SCAN, Plan, WALK_PROB},
    matrix, paths,
    prepare::{self, MachineArgs},
    usage,
};

/// Name of the entry without a bug.
const CLEAN: &str = "clean";
/// How often a campaign under way is told of.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Options of `score`.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Only these planted bugs, by name; `clean` is the kernel without one [default: all]
    #[arg(value_name = "MUTANT")]
    mutants: Vec<String>,
    /// Programs a campaign may execute
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    execs: u64,
    /// Wall time a campaign may take, building and booting not included
    #[arg(long, default_value = "30m", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Seed of every choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of programs that walk the schedules of promising ones, to measure what that buys
    #[arg(long, value_name = "SHARE", default_value_t = WALK_PROB)]
    walk: f64,
    /// Make what is found small, run that 20 times more, and keep it in DIR/findings
    #[arg(long)]
    minimize: bool,
    /// Where results are kept [default: score/INSTANCE]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object a line in place of the table
    #[arg(long)]
    json: bool,
}

/// What became of one planted bug.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Score {
    /// Everything the result depends on, hashed.
    key: String,
    /// The bug's name, or `clean`.
    name: String,
    /// What it takes to hit it; none for the clean kernel.
    class: Option<Class>,
    /// Who can see it; none for the clean kernel.
    oracle: Option<Seer>,
    /// The first finding.
    finding: Option<Sighting>,
    /// What was made of it, where that was asked for and it showed again.
    #[serde(default)]
    minimized: Option<Small>,
    /// Programs executed in all.
    execs: u64,
    /// Wall time of the campaign, seconds.
    seconds: f64,
    /// Wall time of everything before it (kernel, modules, boot), seconds.
    preparing_seconds: f64,
}

/// A finding, in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sighting {
    /// The oracle's title.
    title: String,
    /// Its type, as public dashboards have it.
    #[serde(rename = "type")]
    kind: String,
    /// Programs executed until then.
    execs: u64,
    /// Campaign time until then, seconds.
    seconds: u64,
}

/// Runs the subcommand. Exit code 2: the clean kernel is not clean.
///
/// # Errors
/// When a kernel cannot be built or booted, or the machine fails.
pub fn run(args: &ScoreArgs) -> Outcome {
    let instance = matrix::instance(&args.machine.instance)?;
    let dir = args.dir.clone().unwrap_or_else(|| Path::new("score").join(&instance.name));
    paths::make_dir(&dir)?;
    let stop = fuzz::stop_on_signal()?;
    let entries = entries(args, index::load(&instance)?)?;
    let scores = side_by_side(args, &dir, &entries, &stop)?;
    if !args.json {
        print!("{}", summary(&scores));
    }
    let unclean = scores.iter().any(|score| score.class.is_none() && score.finding.is_some());
    Ok(if unclean { Exit::Finding } else { Exit::Pass })
}

/// Scores the entries, in order of the list, and prints each when it is done.
///
/// # Errors
/// The first there is, once what is under way has ended.
fn side_by_side(args: &ScoreArgs, dir: &Path, entries: &[Choice], stop: &AtomicBool) -> Result<Vec<Score>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Score)>> = Mutex::default();
    let work = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((mutant, patch)) = entries.get(at) else { break };
            let name = mutant.as_ref().map_or(CLEAN, |mutant| &mutant.name);
            let elsewhere = match mutant.as_ref().map(|mutant| mutant.class) {
                Some(Class::Build) => Some("when the kernel is built"),
                Some(Class::Perf) => Some("in how long things take"),
                _ => None,
            };
            if let Some(elsewhere) = elsewhere {
                eprintln!("score: {name} shows {elsewhere}, and in no report: skipped");
                continue;
            }
            eprintln!("score: {} of {}: {name}", at + 1, entries.len());
            let entry = Entry { name, mutant: mutant.as_ref(), patch: patch.as_deref(), dir, args };
            // The others end, too: what they have until then is not lost, a campaign less is.
            let scored = entry.score(stop).inspect_err(|_| stop.store(true, Ordering::Relaxed));
            let Some(score) = scored.with_context(|| name.to_owned())? else { break };
            println!("{}", if args.json { serde_json::to_string(&score)? } else { line(&score) });
            lock(&done).push((at, score));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let jobs = args.machine.jobs.unwrap_or(cores).clamp(1, entries.len().max(1));
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(Bug("scoring panicked".into()).into()))
        })
    })?;
    let mut done = std::mem::take(&mut *lock(&done));
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, score)| score).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only whole results are in there.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Choice = (Option<Mutant>, Option<PathBuf>);

/// What was asked for: the clean kernel first.
fn entries(args: &ScoreArgs, mutants: Vec<(Mutant, PathBuf)>) -> Result<Vec<Choice>> {
    let clean: Choice = (None, None);
    let mut all: Vec<Choice> =
        mutants.into_iter().map(|(mutant, patch)| (Some(mutant), Some(patch))).collect();
    all.insert(0, clean);
    if args.mutants.is_empty() {
        return Ok(all);
    }
    let name = |choice: &Choice| choice.0.as_ref().map_or(CLEAN.to_owned(), |mutant| mutant.name.clone());
    let names: Vec<String> = all.iter().map(name).collect();
    let pick = |wanted: &String| match names.iter().position(|name| name == wanted) {
        Some(at) => Ok(all[at].clone()),
        None => Err(usage!("no planted bug is called `{wanted}`; there are {}", names.join(", "))),
    };
    args.mutants.iter().map(pick).collect()
}

struct Entry<'a> {
    name: &'a str,
    mutant: Option<&'a Mutant>,
    patch: Option<&'a Path>,
    dir: &'a Path,
    args: &'a ScoreArgs,
}

impl Entry<'_> {
    /// The result, kept or made now; none when told to stop.
    fn score(&self, stop: &AtomicBool) -> Result<Option<Score>> {
        let key = self.key()?;
        let kept = self.dir.join(format!("{}.json", self.name));
        let old: Option<Score> = fs::read(&kept).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(old) = old.filter(|old| old.key == key) {
            return Ok(Some(old));
        }
        let Some(score) = self.campaign(key, stop)? else { return Ok(None) };
        paths::write_whole(&kept, &serde_json::to_vec_pretty(&score)?)?;
        Ok(Some(score))
    }

    /// Every rule, op, mutator and kernel configuration, what runs in the guest, the patch and the options.
    fn key(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut sources = fuzz::sources()?;
        for dir in ["guest-modules", "kconfigs"] {
            let dir = paths::repo_root().join(dir);
            sources.extend(paths::files_below(&dir, |dir| !dir.ends_with("mutants"))?);
        }
        paths::hash_files(&mut hasher, sources)?;
        if let Some(patch) = self.patch {
            hasher.update(&fs::read(patch).with_context(|| patch.display().to_string())?);
        }
        let (args, append) = (self.args, self.append());
        hasher.update(
            format!(
                "{} {:?} {append} {} {} {} {:?} {}",
                args.machine.instance,
                args.machine.linux,
                args.execs,
                args.seed,
                args.walk,
                args.machine.engine,
                args.minimize
            )
            .as_bytes(),
        );
        Ok(hasher.finalize().to_hex()[..16].to_owned())
    }

    fn append(&self) -> String {
        let own = self.mutant.map_or("", |mutant| &mutant.append);
        format!("{} {own}", self.args.machine.append).trim().to_owned()
    }

    fn campaign(&self, key: String, stop: &AtomicBool) -> Result<Option<Score>> {
        let began = Instant::now();
        let mut machine = MachineArgs { append: self.append(), jobs: Some(1), ..self.args.machine.clone() };
        machine.patch.extend(self.patch.map(Path::to_path_buf));
        let mut prepared = prepare::prepare(&machine)?;
        let scratch = RunDir::below(self.dir).context("folder for a campaign")?;
        // Nothing of a planted bug is looked at again from its snapshots, and there are gigabytes of them.
        prepared.snapshots = scratch.path().join("snapshots");
        let plan = Plan {
            dir: scratch.path().join("campaign"),
            seed: self.args.seed,
            // Making it small has no limit of time, but one of runs.
            time_max: None,
            execs_max: Some(self.args.execs),
            canary: 0,
            leak_scan: LEAK_SCAN,
            walk_prob: self.args.walk,
            reduce: if self.args.minimize { Reduce::Program } else { Reduce::Never },
            seeds: None,
            focus: Focus::default(),
            steady: false,
            one_schedule: false,
        };
        fuzz::boot(&mut prepared, &plan)?;
        let preparing_seconds = began.elapsed().as_secs_f64();
        let is_over = AtomicBool::new(false);
        let ends = || is_over.load(Ordering::Relaxed);
        let mut small = None;
        let mut sighting = None;
        let began = Instant::now();
        let mut told = began;
        let summary = fuzz::campaign(&prepared, plan, &is_over, &mut |event| {
            match event {
                Event::NewFinding(note) if sighting.is_none() => {
                    // A boot that shows it needs no program to be made small.
                    is_over.store(!self.args.minimize || note.n_programs == 0, Ordering::Relaxed);
                    sighting = Some(Sighting {
                        kind: kind(&note.dir),
                        title: note.title,
                        execs: note.execs,
                        seconds: note.first_seen.as_secs(),
                    });
                }
                Event::NotAgain(_) => is_over.store(true, Ordering::Relaxed),
                Event::Minimized(note) if small.is_none() => {
                    small = Some((note.dir, began.elapsed().as_secs_f64()));
                    is_over.store(true, Ordering::Relaxed);
                }
                Event::Status(_) if sighting.is_none() && began.elapsed() >= self.args.time => {
                    is_over.store(true, Ordering::Relaxed);
                }
                Event::Status(status) if !ends() && told.elapsed() >= TELL_EVERY => {
                    told = Instant::now();
                    eprintln!("{}: {status}", self.name);
                }
                Event::Warning(text) => eprintln!("{}: warning: {text}", self.name),
                Event::Infrastructure { end, in_a_row } => {
                    eprintln!("{}: infrastructure ({in_a_row} in a row): {end:?}", self.name);
                }
                _ => {}
            }
            if stop.load(Ordering::Relaxed) {
                is_over.store(true, Ordering::Relaxed);
            }
        })?;
        if summary.end == CampaignEnd::Infrastructure {
            bail!("{}: too many failures of the machine in a row", self.name);
        }
        if sighting.is_none() && stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let found_after = sighting.as_ref().map_or(0.0, |sighting| sighting.seconds as f64);
        let minimized = match small {
            Some((folder, seconds)) => Some(small::keep(
                &prepared,
                &folder,
                &self.dir.join("findings").join(self.name),
                seconds - found_after,
            )?),
            None => None,
        };
        Ok(Some(Score {
            key,
            name: self.name.to_owned(),
            class: self.mutant.map(|mutant| mutant.class),
            oracle: self.mutant.map(|mutant| mutant.oracle),
            finding: sighting,
            minimized,
            execs: summary.status.execs,
            seconds: began.elapsed().as_secs_f64(),
            preparing_seconds,
        }))
    }
}

/// The type of a finding, read off its console.
fn kind(finding: &Path) -> String {
    let console = fs::read(finding.join("console.log")).unwrap_or_default();
    oracle::judge(&console).into_iter().next().map(|report| report.kind).unwrap_or_default()
}

/// One line of the board.
fn line(score: &Score) -> String {
    let class = score.class.map_or("-".to_owned(), |class| format!("{class:?}").to_lowercase());
    let (name, execs, seconds) = (&score.name, score.execs, score.seconds);
    match &score.finding {
        Some(seen) => {
            let small = score.minimized.as_ref().map_or(String::new(), |small| format!(" [{small}]"));
            format!(
                "{name:<34} {class:<13} found after {:>6} programs, {:>5} s: {}{small}",
                seen.execs, seen.seconds, seen.title
            )
        }
        None => format!("{name:<34} {class:<13} -     after {execs:>6} programs, {seconds:>5.0} s"),
    }
}

/// Found of each class.
fn summary(scores: &[Score]) -> String {
    let mut classes: Vec<Class> = scores.iter().filter_map(|score| score.class).collect();
    classes.sort();
    classes.dedup();
    let mut out = String::new();
    for class in classes {
        let of_class: Vec<&Score> = scores.iter().filter(|score| score.class == Some(class)).collect();
        let n_found = of_class.iter().filter(|score| score.finding.is_some()).count();
        let name = format!("{class:?}").to_lowercase();
        out.push_str(&format!(
            "{name:<13} {n_found} of {} found ({:.0} %)\n",
            of_class.len(),
            100.0 * n_found as f64 / of_class.len() as f64
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(name: &str, class: Option<Class>, title: Option<&str>) -> Score {
        let finding = title.map(|title| Sighting {
            title: title.to_owned(),
            kind: "HANG".to_owned(),
            execs: 25,
            seconds: 2,
        });
        let oracle = class.map(|_| Seer::Kernel);
        let (key, name) = ("k".to_owned(), name.to_owned());
        Score {
            key,
            name,
            class,
            oracle,
            finding,
            minimized: None,
            execs: 40,
            seconds: 3.5,
            preparing_seconds: 60.0,
        }
    }

    #[test]
    fn the_board_says_what_was_found_and_what_was_not() {
        let scores = [
            score(CLEAN, None, None),
            score("one", Some(Class::Race), Some("INFO: task hung in shrinker_free")),
            score("two", Some(Class::Race), None),
            score("three", Some(Class::Deterministic), None),
        ];
        assert_eq!(
            line(&scores[1]),
            "one                                race          found after     25 programs,     2 s: INFO: task hung in shrinker_free"
        );
        assert_eq!(
            line(&scores[0]),
            "clean                              -             -     after     40 programs,     4 s"
        );
        assert_eq!(summary(&scores), "deterministic 0 of 1 found (0 %)\nrace          1 of 2 found (50 %)\n");
    }
}
