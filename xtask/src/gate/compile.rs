// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps that need no guest: does the series apply, does the kernel with it build, what do a reviewer's tools say.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Result;
use harness::plain;

use super::{
    Gate, hygiene,
    outcome::{Check, Status},
    same,
};
use crate::{
    exit::{self, Exit, Unfit},
    kernel::{Begin, Workbench, make},
};

/// Share of the time by which patches of a series are built one by one.
const LINK_SHARE: f64 = 0.25;

impl Gate<'_> {
    /// The kernel with the series; whether there is one.
    pub fn build(&mut self) -> Result<bool> {
        let began = Instant::now();
        if let Err((nth, error)) = self.three_way() {
            let check = refusal(error, "apply", "does not apply")?;
            self.step("apply", began, vec![Check { patch: Some(nth), ..check }]);
            return Ok(false);
        }
        let (cache, instance, linux) = (self.cache.clone(), self.instance.clone(), self.linux.clone());
        let bench = Workbench::open(&cache, &instance, linux.as_deref(), self.trust, Begin::Afresh)?;
        let (patches, mut checks) = (self.series.patches(), Vec::new());
        let touched = self.series.touched();
        let before = same::sources(&bench.src(), &touched);
        for n in 1..=patches.len() {
            if let Err(error) = bench.apply(&patches[..n]) {
                let check = refusal(error, "apply", "does not apply")?;
                self.step("apply", began, vec![Check { patch: Some(n - 1), ..check }]);
                return Ok(false);
            }
            // The last is built below, and whole.
            if n < patches.len() {
                checks.push(Check { patch: Some(n - 1), ..self.link(&bench)? });
            }
        }
        let after = same::sources(&bench.src(), &touched);
        self.compare_sources(before, after);
        let check = match bench.build(&self.series.files()) {
            Ok(kernel) => Check::new("kernel", Status::Pass, &kernel.release),
            Err(error) => refusal(error, "kernel", "does not build")?,
        };
        let builds = check.status == Status::Pass;
        checks.push(check);
        self.step("build", began, checks);
        Ok(builds)
    }

    /// Whether the source as it is makes a kernel: one that does not is in the way of whoever bisects.
    fn link(&self, bench: &Workbench<'_>) -> Result<Check> {
        if Instant::now() >= self.until(LINK_SHARE) {
            return Ok(Check::new("patch", Status::Note, "not built by itself: no time was left"));
        }
        let began = Instant::now();
        let (text, ok) = bench.output(bench.make()?.arg("vmlinux"))?;
        let check = match ok {
            true => Check::new("patch", Status::Pass, "builds by itself"),
            false => {
                let is_error = |line: &&str| line.contains("error:") || line.contains("undefined");
                let first = text.lines().find(is_error).unwrap_or_default();
                let first = format!("does not build by itself: {}", plain::line(first.trim(), 300));
                let detail = plain::block(&make::excerpt(&text));
                Check { detail, ..Check::new("patch", Status::Fail, &first) }
            }
        };
        Ok(Check { seconds: began.elapsed().as_secs_f64(), ..check })
    }

    /// Each patch by itself. Compilers that say more have other options, and all that is compiled once more for them is in the
    /// way of a build: so this comes after it.
    pub fn hygiene(&mut self) -> Result<()> {
        let began = Instant::now();
        let (cache, instance, linux) = (self.cache.clone(), self.instance.clone(), self.linux.clone());
        let bench = Workbench::open(&cache, &instance, linux.as_deref(), self.trust, Begin::AsItIs)?;
        let checks = hygiene::checks(&bench, &self.series)?;
        self.step("hygiene", began, checks);
        // It is the first thing that a reader wants to know.
        self.steps.rotate_right(1);
        Ok(())
    }

    /// Makes the patches such that they apply as they are, where there is a history to do it with.
    fn three_way(&mut self) -> Result<(), (usize, anyhow::Error)> {
        let Some((history, commit)) = &self.history else { return Ok(()) };
        let files = self.series.files();
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let diffs = history.three_way(commit, &files)?;
        self.series.replace(&self.cache, diffs).map_err(|error| (0, error))
    }
}

/// An error that the series is to blame for, as a check that failed.
///
/// # Errors
/// Those that it is not to blame for.
pub fn refusal(error: anyhow::Error, name: &str, what: &str) -> Result<Check> {
    if exit::exit_of(&error) != Exit::Usage && !error.chain().any(|cause| cause.is::<Unfit>()) {
        return Err(error);
    }
    let text = format!("{error:#}");
    let first = text.lines().find(|line| line.contains("error")).unwrap_or(&text);
    let first = format!("{what}: {}", plain::line(first.trim_start_matches("error: "), 300));
    Ok(Check { detail: plain::block(&text), ..Check::new(name, Status::Fail, &first) })
}
