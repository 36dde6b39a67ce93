// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scenario suite: `harness/scenarios/*.yaml`, one program a file, each with a side of the interface to go through.
//!
//! ```text
//! name: memcg           # the file's name
//! what: …               # in words
//! program: |            # as `cargo xtask run` takes it
//! ```

use std::{path::Path, thread, time::Instant};

use anyhow::{Result, ensure};
use harness::{guest::Leaks, program::Program};
use serde::Deserialize;

use super::{Gate, focus::Focus, guests::Task, outcome::Status};
use crate::{
    fuzz,
    kernel::Trust,
    matrix::{self, Instance},
    paths,
    prepare::Prepared,
    usage,
};

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// How results call it.
    pub name: String,
    /// In words.
    pub what: String,
    /// What runs.
    program: String,
}

impl Scenario {
    /// What runs.
    ///
    /// # Errors
    /// When it does not parse, or says something else when its arguments are made valid.
    pub fn program(&self) -> Result<Program> {
        let program: Program = self.program.parse()?;
        ensure!(program.is_valid(), "an argument is out of range, or there are too many ops");
        Ok(program)
    }
}

/// Every scenario, by name.
///
/// # Errors
/// When one is broken.
pub fn all() -> Result<Vec<Scenario>> {
    paths::yaml_files("harness/scenarios")?.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Scenario> {
    let broken = |error: &dyn std::fmt::Display| usage!("{}: {error:#}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| broken(&error))?;
    let scenario: Scenario = paths::parse_yaml(&text, path)?;
    scenario.program().map_err(|error| broken(&error))?;
    Ok(scenario)
}

/// The suite, on an instance.
///
/// # Errors
/// When one is broken.
pub fn task(instance: &str) -> Result<Task> {
    let seeds = all()?.iter().map(Scenario::program).collect::<Result<Vec<_>>>()?;
    let (name, execs) = (instance.to_owned(), seeds.len() as u64);
    Ok(Task { name, seeds, focus: Focus::default(), execs, leaks: false, one_schedule: true })
}

impl Gate<'_> {
    /// Each scenario, on each instance that is this kernel under other arguments.
    pub fn scenarios(&mut self, base: &mut Prepared, patched: &mut Prepared) -> Result<()> {
        let began = Instant::now();
        let all = all()?;
        let what: String = all.iter().map(|one| format!("{}: {}\n", one.name, one.what)).collect();
        let mut others = Vec::new();
        for sibling in self.siblings()? {
            let base = self.prepare(&sibling, Trust::Own, &[])?;
            let patched = self.prepare(&sibling, self.trust, &self.series.files())?;
            others.push((sibling, base, patched));
        }
        // Side by side: a boot keeps one core busy. One that fails is met again, and told, when it is its turn.
        thread::scope(|scope| {
            let others = others.iter_mut().map(|(_, _, patched)| patched);
            for prepared in std::iter::once(&mut *patched).chain(others).filter(|_| self.same.is_none()) {
                scope.spawn(|| prepared.boot(&fuzz::SCHEDULES[..1], Leaks::Ignore).ok());
            }
        });
        let name = self.instance.name.clone();
        let mut checks = self.guests(&task(&name)?, base, patched, &self.dir.join(&name))?;
        for (name, base, patched) in &mut others {
            if checks.iter().any(|check| check.status == Status::Fail) {
                break;
            }
            checks.extend(self.guests(&task(name)?, base, patched, &self.dir.join(&*name))?);
        }
        checks
            .iter_mut()
            .filter(|check| check.status == Status::Pass)
            .for_each(|check| check.detail.clone_from(&what));
        self.step("scenarios", began, checks);
        Ok(())
    }

    /// Instances that are this kernel under other arguments.
    pub fn siblings(&self) -> Result<Vec<String>> {
        let own = &self.instance;
        let is_sibling = |one: &Instance| one.kernel_name() == own.kernel_name() && one.name != own.name;
        Ok(matrix::load()?.into_iter().filter(is_sibling).map(|one| one.name).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_whole_and_says_what_it_is() {
        let all = all().unwrap();
        assert!(all.len() >= 8);
        assert!(all.iter().all(|scenario| !scenario.name.is_empty() && !scenario.what.is_empty()));
    }
}
