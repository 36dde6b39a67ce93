// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks with names: run, timed, counted. One line each; a failure says why and how to see it again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use anyhow::{Result, anyhow};

/// The checks of one part.
#[derive(Debug)]
pub struct Checks {
    only: Option<String>,
    n_passed: usize,
    failed: Vec<String>,
}

impl Checks {
    /// Runs the checks of one part, to be added to a tally later.
    pub fn collect(only: Option<&str>, part: impl FnOnce(&mut Checks)) -> Checks {
        let mut checks = Checks { only: only.map(str::to_owned), n_passed: 0, failed: Vec::new() };
        part(&mut checks);
        checks
    }

    /// Whether any of these names is asked for.
    pub fn any(only: Option<&str>, names: &[&str]) -> bool {
        only.is_none_or(|only| names.iter().any(|name| name.contains(only)))
    }

    /// Runs one check, unless others were asked for.
    pub fn check(&mut self, name: &str, body: impl FnOnce() -> Result<()>) {
        self.counted(name, || body().map(|()| (1, 0)));
    }

    /// Runs a check that consists of several: how many passed and failed.
    pub fn counted(&mut self, name: &str, body: impl FnOnce() -> Result<(usize, usize)>) {
        if !Checks::any(self.only.as_deref(), &[name]) {
            return;
        }
        let started = Instant::now();
        // A check that panics is one that failed; the others still run.
        let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(anyhow!("panicked")));
        let secs = started.elapsed().as_secs_f64();
        match result {
            Ok((n_passed, 0)) => {
                self.n_passed += n_passed;
                println!("ok     {secs:6.1} s  {name}");
            }
            result => {
                let (n_passed, n_failed, why) = match result {
                    Ok((n_passed, n_failed)) => (n_passed, n_failed, format!("{n_failed} failed, see above")),
                    Err(error) => (0, 1, format!("{error:#}")),
                };
                self.n_passed += n_passed;
                self.failed.extend(std::iter::repeat_n(name.to_owned(), n_failed));
                println!("FAILED {secs:6.1} s  {name}");
                println!("    {}", why.replace('\n', "\n    "));
                println!("    again: cargo xtask test --only '{name}'");
            }
        }
    }
}

/// What all parts came to.
#[derive(Debug, Default)]
pub struct Tally {
    parts: Vec<(&'static str, usize, usize)>,
    /// Names of the checks that failed.
    pub failed: Vec<String>,
}

impl Tally {
    /// Runs a part and adds it.
    pub fn part(&mut self, name: &'static str, only: Option<&str>, part: impl FnOnce(&mut Checks)) {
        let checks = Checks::collect(only, part);
        self.add(name, checks);
    }

    /// Adds a part that was run; the same part again adds up.
    pub fn add(&mut self, name: &'static str, checks: Checks) {
        let (n_passed, n_failed) = (checks.n_passed, checks.failed.len());
        match self.parts.iter_mut().find(|(known, ..)| *known == name) {
            Some(part) => *part = (name, part.1 + n_passed, part.2 + n_failed),
            None => self.parts.push((name, n_passed, n_failed)),
        }
        self.failed.extend(checks.failed);
        self.failed.dedup();
    }

    /// Checks that passed.
    pub fn n_passed(&self) -> usize {
        self.parts.iter().map(|part| part.1).sum()
    }

    /// Checks that failed.
    pub fn n_failed(&self) -> usize {
        self.parts.iter().map(|part| part.2).sum()
    }

    /// One line a part, then the total.
    pub fn print(&self) {
        println!();
        for (name, n_passed, n_failed) in &self.parts {
            if n_passed + n_failed > 0 {
                println!("{name}: {n_passed} passed, {n_failed} failed");
            }
        }
        if !self.failed.is_empty() {
            println!("failed: {}", self.failed.join("; "));
        }
        println!("{} passed, {} failed", self.n_passed(), self.n_failed());
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn errors_and_panics_are_failures_and_the_rest_still_runs() {
        let mut tally = Tally::default();
        tally.part("one", None, |checks| {
            checks.check("good", || Ok(()));
            checks.check("bad", || bail!("on purpose"));
            checks.check("worse", || panic!("on purpose"));
            checks.counted("many", || Ok((7, 2)));
            checks.check("good again", || Ok(()));
        });
        assert_eq!((tally.n_passed(), tally.n_failed()), (9, 4));
        assert_eq!(tally.failed, ["bad", "worse", "many"]);
    }

    #[test]
    fn only_what_was_asked_for_runs() {
        let checks = Checks::collect(Some("canary"), |checks| {
            checks.check("canary leak", || Ok(()));
            checks.check("clean epoch", || bail!("not asked for"));
        });
        assert_eq!((checks.n_passed, checks.failed.len()), (1, 0));
        assert!(!Checks::any(Some("x"), &["a", "b"]) && Checks::any(None, &["a"]));
    }
}
