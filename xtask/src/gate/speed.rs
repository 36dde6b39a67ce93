// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the series makes things slower: the workloads that a series on shrinkers can affect, by instructions and waiting,
//! so that the answer is the same every time.

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use harness::{guest::Execution, plain};

use super::{
    outcome::{Check, Status},
    series::Series,
};
use crate::{
    exit::Unfit,
    kernel::{BuildRequest, Trust},
    matrix::{self, Instance},
    paths::Cache,
    regress::{
        self, Effort, Line, Measured,
        measure::{How, Lab},
        side, stats,
        verdict::Verdict,
        workload,
    },
};

/// What is measured: mounting and unmounting is where shrinkers come and go in every kernel's life.
const WORKLOADS: [&str; 2] = ["umount-latency", "ramfs"];
/// Boots of each kernel, each with other luck of layout.
const SEEDS: u32 = 3;
/// At most, where luck is not told from a change with fewer.
const SEEDS_MAX: u32 = 12;
/// A change of less than this is worth a look, and no reason to refuse: a compiler that lays code out in another way does as
/// much.
const WORSE_MIN: f64 = 0.05;

/// The instance without debugging on the same source, if the matrix has one.
pub fn instance(of: &Instance) -> Result<Option<Instance>> {
    let is_it =
        |other: &Instance| other.name.starts_with("perf-") && other.source.package == of.source.package;
    Ok(matrix::load()?.into_iter().find(is_it))
}

/// Measures each workload on both kernels.
///
/// # Errors
/// When a kernel without the series does not build, or guests cannot be put together.
pub fn checks(
    cache: &Cache,
    instance: &Instance,
    linux: Option<PathBuf>,
    series: &Series,
    trust: Trust,
    jobs: usize,
    until: Instant,
) -> Result<Vec<Check>> {
    let (files, linux) = (series.files(), linux.as_deref());
    let mut checks = Vec::new();
    for name in WORKLOADS {
        let began = Instant::now();
        if began >= until {
            checks.push(Check::new(name, Status::Unsure, "no time was left"));
            continue;
        }
        let workload = workload::find(name)?;
        let base = BuildRequest { instance, linux, patches: &[], trust: Trust::Own };
        let with = BuildRequest { instance, linux, patches: &files, trust };
        let a = side::of(cache, "base", &base, &workload)?;
        let b = match side::of(cache, "with the series", &with, &workload) {
            Ok(b) => b,
            Err(error) if error.chain().any(|cause| cause.is::<Unfit>()) => {
                let text =
                    format!("does not build without debugging: {}", plain::line(&format!("{error:#}"), 300));
                checks.push(Check::new(name, Status::Fail, &text));
                continue;
            }
            Err(error) => return Err(error),
        };
        let lab = Lab::new(&workload, None, &[], Execution::Threads)?;
        let effort = Effort {
            seeds: SEEDS,
            seeds_max: SEEDS_MAX,
            budget: until.saturating_duration_since(began),
            jobs,
            within: WORSE_MIN,
            consoles: None,
            kept: Some(cache.dir("gate")?),
        };
        let measured = regress::measure(&effort, &lab, &[a, b], How::Det)?;
        // The first figure is the workload's; the others explain it.
        let figure = &workload.figures[0].name;
        for line in measured.lines.iter().filter(|line| line.figure == *figure) {
            let mut check = of_line(name, line, &measured);
            check.seconds = began.elapsed().as_secs_f64();
            checks.push(check);
        }
    }
    Ok(checks)
}

fn of_line(workload: &str, line: &Line, measured: &Measured) -> Check {
    let judged = &line.judged;
    let status = match judged.verdict {
        Verdict::Regression if judged.is_more_than(WORSE_MIN) => Status::Fail,
        Verdict::Regression if !judged.is_clear(WORSE_MIN) => Status::Unsure,
        Verdict::Regression | Verdict::Improvement => Status::Note,
        Verdict::Unsure => Status::Unsure,
        Verdict::Same => Status::Pass,
    };
    let name = [workload, &line.figure, &line.point].join(" ");
    let text = format!(
        "{:.1} -> {:.1} {} ({:+.1} %; {:.3} to {:.3} of what it was)",
        stats::median(&line.a),
        stats::median(&line.b),
        line.unit,
        100.0 * (judged.ratio - 1.0),
        judged.interval.low,
        judged.interval.high
    );
    let mut detail = String::new();
    for blamed in measured.stacks.iter().filter(|_| status == Status::Fail) {
        let stack = &blamed.stack;
        detail
            .push_str(&format!("blocked {} times, {} before: {}\n", stack.count, blamed.before, stack.task));
        stack.frames.iter().for_each(|frame| detail.push_str(&format!("  {frame}\n")));
    }
    measured.failures.iter().for_each(|failure| detail.push_str(&format!("no figures: {failure}\n")));
    Check { detail: plain::block(&detail), ..Check::new(name.trim(), status, &text) }
}
