// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured: `harness/workloads/*.yaml`, one file a workload. Either a command of this machine's programs, run by a
//! shell in the guest, or a program of ops, run by the agent.
//!
//! ```text
//! name: ramfs                       # how commands call it; the file's name
//! what: …                           # in words
//! vcpus: 4                          # (default 4)
//! memory_mib: 1024                  # (default 1024)
//! command: stress-ng --ramfs 9 …    # a shell runs it; {seconds} is how long
//! binaries: [stress-ng]             # programs of this machine that it takes
//! seconds: { det: 5, wall: 20 }     # (default 5 and 20)
//! program: |                        # or: ops; $n is a value of `for`
//! threads: [1, 2, 4]                # the ops are one thread's, run by so many; $t is the thread
//! repeat: 20                        #   so many times in a program (default 1)
//! for: [1, 16, 256]                 # values of $n; {pads} in a program makes $n shrinkers, {groups} $n groups
//! times: 20                         # runs of the program in one boot (default 1)
//! figures:
//!   - name: bogo_ops                # what it is called
//!     unit: ops
//!     better: more                  # or: less
//!     line: '\] ramfs +(\d+)'       # of a command: the first group is the figure
//!     op: umount                    # of a program: the op that is looked at,
//!     of: mean                      #   and of it: mean, median or p99 (us), or rate (a second)
//! ```

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use harness::program::Program;
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{paths, usage};

/// Most shrinkers that one op of a program makes.
const PAD_MAX: u32 = 256;
/// Most groups that one op of a program makes.
const CROWD_MAX: u32 = 64;

/// A workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// How commands call it.
    pub name: String,
    /// In words.
    pub what: String,
    /// CPUs of the guest.
    #[serde(default = "four")]
    pub vcpus: u8,
    /// Memory of the guest, MiB.
    #[serde(default = "one_gib")]
    pub memory_mib: u32,
    /// What the shell runs.
    #[serde(default)]
    pub command: Option<String>,
    /// Programs of this machine that it takes.
    #[serde(default)]
    pub binaries: Vec<String>,
    /// How long.
    #[serde(default)]
    pub seconds: Seconds,
    /// Ops.
    #[serde(default)]
    pub program: Option<String>,
    /// The ops are one thread's: run by so many.
    #[serde(default)]
    pub threads: Vec<u32>,
    /// How often one thread's ops are repeated in a program.
    #[serde(default = "once")]
    pub repeat: u32,
    /// Values of `$n`.
    #[serde(default, rename = "for")]
    pub values: Vec<u32>,
    /// Runs of the program in one boot.
    #[serde(default = "once")]
    pub times: u32,
    /// What is read off.
    pub figures: Vec<Figure>,
}

/// How long a command runs, s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seconds {
    /// Of virtual time.
    pub det: u32,
    /// Of the wall clock's.
    pub wall: u32,
}

impl Default for Seconds {
    fn default() -> Seconds {
        Seconds { det: 5, wall: 20 }
    }
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What it is called.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Which direction is better.
    pub better: Better,
    /// Of a command's output: where the figure is.
    #[serde(default)]
    pub line: Option<String>,
    /// Of a program: the op that is looked at.
    #[serde(default)]
    pub op: Option<String>,
    /// Of that op: what.
    #[serde(default)]
    pub of: Of,
}

/// Which direction is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is.
    More,
    /// Less is.
    Less,
}

/// What of an op.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Of {
    /// How long it takes on average, us.
    #[default]
    Mean,
    /// How long it takes as a rule, us: the few that a timer's tick falls into do not count.
    Median,
    /// How long it takes at the 99th percentile, us.
    P99,
    /// How often it is done a second, by all threads together.
    Rate,
}

/// One thing to run: a figure is taken of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What tells it from the others of the workload; empty when there is one.
    pub label: String,
    /// The value that it stands for on an axis.
    pub at: u32,
    /// The programs; none of a command.
    pub programs: Vec<Program>,
}

fn four() -> u8 {
    4
}

fn one_gib() -> u32 {
    1024
}

fn once() -> u32 {
    1
}

/// Every workload that comes with the tool, by name.
///
/// # Errors
/// When one is broken.
pub fn all() -> Result<Vec<Workload>> {
    paths::yaml_files("harness/workloads")?.iter().map(|path| read(path)).collect()
}

/// A workload by name, or from a file of the user's.
///
/// # Errors
/// When there is none, or it is broken.
pub fn find(name: &str) -> Result<Workload> {
    let path = Path::new(name);
    if paths::is_yaml(path) {
        return read(path);
    }
    let all = all()?;
    let names: Vec<&str> = all.iter().map(|workload| workload.name.as_str()).collect();
    match all.iter().find(|workload| workload.name == name) {
        Some(workload) => Ok(workload.clone()),
        None => Err(usage!("no workload is called `{name}`; there are {}, or name a file", names.join(", "))),
    }
}

fn read(path: &Path) -> Result<Workload> {
    let text = fs::read_to_string(path).map_err(|error| usage!("{}: {error}", path.display()))?;
    let workload: Workload = paths::parse_yaml(&text, path)?;
    workload.check().map_err(|error| usage!("{}: {error:#}", path.display()))?;
    Ok(workload)
}

impl Workload {
    fn check(&self) -> Result<()> {
        if self.command.is_some() == self.program.is_some() {
            bail!("a workload has either `command` or `program`");
        }
        if self.figures.is_empty() {
            bail!("there are no `figures`");
        }
        for figure in &self.figures {
            let name = &figure.name;
            match (&self.command, &figure.line, &figure.op) {
                (Some(_), Some(line), None) => {
                    let regex = Regex::new(line).with_context(|| format!("`line` of {name}"))?;
                    if regex.captures_len() != 2 {
                        bail!("`line` of {name} wants one group, the figure");
                    }
                }
                (None, None, Some(op)) if abi::ops::by_name(op).is_some() => {}
                (None, None, Some(op)) => bail!("{name}: no op is called `{op}`"),
                (Some(_), _, _) => bail!("{name}: a figure of a command has `line`, and no `op`"),
                (None, _, _) => bail!("{name}: a figure of a program has `op`, and no `line`"),
            }
        }
        if !self.threads.is_empty() && !self.values.is_empty() {
            bail!("a workload has either `threads` or `for`");
        }
        self.points().map(|_| ())
    }

    /// What to run, in order.
    ///
    /// # Errors
    /// When a program does not parse, or says something else when its arguments are made valid.
    pub fn points(&self) -> Result<Vec<Point>> {
        let Some(text) = &self.program else {
            return Ok(vec![Point { label: String::new(), at: 0, programs: Vec::new() }]);
        };
        let point = |label: String, at: u32, text: String| -> Result<Point> {
            let mut program: Program = text.parse().with_context(|| format!("program, {label}"))?;
            program.schedule.vcpus = self.vcpus;
            if !program.is_valid() {
                bail!("program, {label}: an argument is out of range, or there are too many ops");
            }
            Ok(Point { label, at, programs: vec![program; self.times as usize] })
        };
        if !self.threads.is_empty() {
            let each = |n: u32| {
                let ops = text.repeat(self.repeat as usize);
                let thread = |t: u32| format!("thread cpu={t}\n{}\n", ops.replace("$t", &t.to_string()));
                point(format!("{n} thread(s)"), n, (0..n).map(thread).collect())
            };
            return self.threads.iter().map(|&n| each(n)).collect();
        }
        if self.values.is_empty() {
            return Ok(vec![point(String::new(), 0, text.clone())?]);
        }
        let each = |n: u32| {
            let text = text
                .replace("{pads}", &so_many(n, PAD_MAX, |n| format!("pad n={n} do=register\n")))
                .replace("{groups}", &so_many(n, CROWD_MAX, |n| format!("memcg_crowd n={n}\n")))
                .replace("$n", &n.to_string());
            point(format!("n={n}"), n, text)
        };
        self.values.iter().map(|&n| each(n)).collect()
    }
}

/// Ops that make `n` of something, each no more than `max`.
fn so_many(n: u32, max: u32, op: impl Fn(u32) -> String) -> String {
    (0..n).step_by(max as usize).map(|made| op(max.min(n - made))).collect()
}

impl Figure {
    /// The figure in what a command printed.
    pub fn read(&self, console: &str) -> Option<f64> {
        let regex = Regex::new(self.line.as_deref()?).ok()?;
        console.lines().filter_map(|line| regex.captures(line)?.get(1)?.as_str().parse().ok()).next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_whole_and_called_as_its_file() {
        let all = all().unwrap();
        assert!(all.len() >= 5);
        for workload in all {
            assert!(find(&workload.name).is_ok(), "{}", workload.name);
            assert!(!workload.points().unwrap().is_empty());
        }
        assert!(find("no-such").unwrap_err().to_string().contains("ramfs"));
    }

    fn broken(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.yaml");
        fs::write(&path, text).unwrap();
        format!("{:#}", find(&path.display().to_string()).unwrap_err())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let head = "name: x\nwhat: y\nfigures:\n  - {name: f, unit: u, better: more, line: '(.)'}\n";
        assert!(broken(head).contains("either `command` or `program`"));
        assert!(broken(&format!("{head}comand: true\n")).contains("mine.yaml:5"));
        let program = "name: x\nwhat: y\nprogram: |\n  thread cpu=0\n    yield\n";
        let figures =
            |figure: &str| format!("{program}figures:\n  - {{name: f, unit: u, better: more, {figure}}}\n");
        assert!(broken(&figures("op: umont")).contains("no op is called `umont`"));
        assert!(broken(&figures("line: x")).contains("has `op`"));
        assert!(
            broken(&format!("{head}command: x\nthreads: [1]\nfor: [1]\n"))
                .contains("either `threads` or `for`")
        );
    }

    #[test]
    fn ops_together_make_as_many_as_are_wanted() {
        for (n, max) in [(0, 64), (1, 64), (64, 64), (65, 64), (4096, 256), (1000, 256)] {
            let ops = so_many(n, max, |n| format!("{n}\n"));
            let each: Vec<u32> = ops.lines().map(|n| n.parse().unwrap()).collect();
            assert!(each.iter().all(|of| (1..=max).contains(of)), "{each:?}");
            assert_eq!(each.iter().sum::<u32>(), n);
        }
    }

    #[test]
    fn the_last_line_that_fits_has_the_figure() {
        let figure = Figure {
            name: "bogo_ops".into(),
            unit: "ops".into(),
            better: Better::More,
            line: Some(r"\] ramfs +(\d+)".into()),
            op: None,
            of: Of::Mean,
        };
        let console =
            "stress-ng: metrc: [61] ramfs   12 5.0\nstress-ng: metrc: [61] ramfs   4744 20.01 1.2\nx\n";
        assert_eq!(figure.read(console), Some(4744.0));
        assert_eq!(figure.read("nothing"), None);
    }
}
