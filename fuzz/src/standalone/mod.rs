// SPDX-License-Identifier: MIT OR Apache-2.0
//! What shows a finding without this tool: a kernel module in C, a shell script and a Makefile, generated from its
//! programs. Pure; what text of others goes in is made harmless first.
//!
//! A thread of a program is a function of the script. Ops that the module does and that follow one another are one step,
//! a function in C; other ops are what one would type. `templates/` has everything but the programs; it is cut down to the
//! parts that they need.

mod build;
mod caches;
mod debugfs;
mod form;
mod groups;
mod lists;
mod reclaim;
mod shrinkers;
mod template;
mod timing;
mod trees;

use harness::program::Program;

use self::build::Build;
use crate::findings::Evidence;

/// Name of the folder in a finding's.
pub const FOLDER: &str = "reproducer";
/// Name of the module.
pub const MODULE: &str = "shrinktorture_repro";
/// Programs of a batch that are all generated; of a longer one only the program in flight.
const PROGRAMS_MAX: usize = 4;
/// What goes in.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The report's title.
    pub title: &'a str,
    /// Version of the kernel that showed it.
    pub release: &'a str,
    /// In the order in which they run.
    pub programs: &'a [Program],
    /// Boot arguments that it takes.
    pub append: &'a str,
    /// Scan for leaked memory at the end.
    pub leak_scan: bool,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reproducer {
    /// `shrinktorture_repro.c`.
    pub module: String,
    /// `repro.sh`.
    pub script: String,
    /// `Makefile`.
    pub makefile: &'static str,
    /// Ops that it does without, and why.
    pub left_out: Vec<String>,
    /// Rounds that the script runs unless told otherwise.
    pub rounds: u32,
}

impl Reproducer {
    /// Its files, by name.
    pub fn files(&self) -> [(String, &str); 3] {
        [
            (format!("{MODULE}.c"), &self.module),
            ("repro.sh".to_owned(), &self.script),
            ("Makefile".to_owned(), self.makefile),
        ]
    }
}

/// The reproducer of a finding.
///
/// # Errors
/// Says why there is none.
pub fn of_finding(evidence: &Evidence) -> Result<Reproducer, &'static str> {
    let (record, title) = (&evidence.record, evidence.report.title.as_str());
    if record.canary != 0 {
        return Err("the bug is a canary of shrinktorture's own");
    }
    if title.starts_with("MODEL:") {
        return Err("the report is a check of shrinktorture's own module, which no other has");
    }
    let programs = match evidence.program() {
        _ if evidence.batch.len() <= PROGRAMS_MAX => evidence.batch.as_slice(),
        Some(program) => std::slice::from_ref(program),
        None => return Err("it takes a long batch of programs, and none of them was in flight"),
    };
    if programs.is_empty() {
        return Err("booting shows it");
    }
    let append = record.provenance.extra.get("append").map(String::as_str).unwrap_or_default();
    let release = evidence.release().unwrap_or("of an unknown version");
    Ok(generate(&Source { title, release, programs, append, leak_scan: record.leak_scan }))
}

/// Generates.
pub fn generate(source: &Source<'_>) -> Reproducer {
    let mut build = Build::new(source);
    for (idx, program) in source.programs.iter().enumerate() {
        build.program(idx, program);
    }
    build.finish()
}

#[cfg(test)]
mod tests;
