// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots of two kernels until their figures tell: seed by seed under the deterministic engine, in turns by the wall clock.

use std::{ops::RangeInclusive, time::Instant};

use anyhow::Result;

use super::{
    Blamed, Effort, Line, Measured, blame,
    measure::{self, How, Lab, Run},
    side::Side,
    verdict::{self, Verdict},
};
use crate::{exit::Bug, paths};

/// Stacks shown of where the time went.
const STACKS_MAX: usize = 3;
/// Boots of each kernel in which blocked tasks are looked at: one may be unlike the others by luck.
const BLAMED_BOOTS: u32 = 3;
/// Failed measurements after which there is no point in going on with a kernel that gave no figures.
const FAILURES_MAX: usize = 3;

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
    /// Each seed with both kernels, until the figures tell.
    fn by_seeds(&mut self) -> Result<()> {
        let (began, step) = (Instant::now(), self.effort.seeds.max(1));
        for first in (1..=self.effort.seeds_max).step_by(step as usize) {
            self.some_seeds(first..=(first + step - 1).min(self.effort.seeds_max))?;
            let judged = self.first_lines(self.effort.within);
            // As long again as all that was done so far is too long at worst.
            let is_late = 2 * began.elapsed() > self.effort.budget;
            if is_late
                || self.is_hopeless()
                || judged.iter().all(|line| line.judged.is_clear(self.effort.within))
            {
                break;
            }
        }
        Ok(())
    }

    /// Seeds with both kernels; the very first of the first kernel twice, which must be the same to the last digit.
    fn some_seeds(&mut self, seeds: RangeInclusive<u32>) -> Result<()> {
        let is_twice = self.effort.kept.is_none() && *seeds.start() == 1;
        let mut plan: Vec<(usize, u32)> = if is_twice { vec![(0, 1)] } else { Vec::new() };
        plan.extend(seeds.flat_map(|seed| [(0, seed), (1, seed)]));
        let results = measure::side_by_side(self.effort.jobs, plan.len(), |nth, job| {
            let (side, seed) = plan[nth];
            let result = self.by_seed(side, seed, job);
            eprintln!("{} seed {seed}: {}", self.sides[side].name, tell(&result));
            result
        });
        let mut results = results.into_iter().collect::<Result<Vec<_>>>()?;
        let again = is_twice.then(|| results.remove(0));
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
            let lines = self.first_lines(within);
            let told = lines.iter().all(|line| line.judged.verdict != Verdict::Unsure);
            let a_round = began.elapsed() / (round + 1);
            if told || self.is_hopeless() || began.elapsed() + a_round > self.effort.budget {
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

    /// A kernel gave no figures so far, and that was tried often enough.
    fn is_hopeless(&self) -> bool {
        self.failures.len() >= FAILURES_MAX && self.runs.iter().any(Vec::is_empty)
    }

    /// Those of the workload's figure; the others explain it.
    fn first_lines(&self, within: f64) -> Vec<Line> {
        let first = &self.lab.workload.figures[0].name;
        self.lines(within).into_iter().filter(|line| line.figure == *first).collect()
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

    /// Runs both kernels a few times more, looking at blocked tasks meanwhile.
    fn blame(&self) -> Result<Vec<Blamed>> {
        let plan: Vec<(usize, u32)> = (1..=BLAMED_BOOTS).flat_map(|seed| [(0, seed), (1, seed)]).collect();
        let runs = measure::side_by_side(self.effort.jobs, plan.len(), |nth, job| {
            let (side, seed) = plan[nth];
            self.lab.run(&self.sides[side], self.how, seed, true, job)
        });
        let mut consoles = [String::new(), String::new()];
        for (run, (side, _)) in runs.into_iter().zip(&plan) {
            if let Ok(run) = run? {
                consoles[*side] += &String::from_utf8_lossy(&run.console);
            }
        }
        let [before, after] = consoles.map(|console| blame::blocked(&console));
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
