// SPDX-License-Identifier: MIT OR Apache-2.0
//! One commit at a time: unpacked, built, booted, run. What is the commit's own fault, that it does not build or boot, is
//! told from what is the machine's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use harness::{
    epoch::{EpochEnd, EpochOutcome},
    machine::MachineError,
    plain,
};

use super::{
    git::History,
    search::{Ran, Seen},
};
use crate::{
    exit::{Unfit, Usage},
    rerun::{Case, Elsewhere, Rerun, Showing},
};

/// Characters of a subject that are shown.
const SUBJECT_CHARS: usize = 60;

/// What runs the case on commits.
pub struct Commits<'a> {
    /// Where they are from.
    pub history: &'a History,
    /// The finding's folder or the program's file.
    pub what: PathBuf,
    /// The machine, but for its kernel's source.
    pub elsewhere: Elsewhere,
    /// Guests side by side.
    pub jobs: Option<usize>,
    /// The commit that can be run, if one can.
    ready: Option<(String, Rerun)>,
}

impl<'a> Commits<'a> {
    /// None of them ready.
    pub fn new(history: &'a History, what: &Path, elsewhere: Elsewhere, jobs: Option<usize>) -> Commits<'a> {
        Commits { history, what: what.to_owned(), elsewhere, jobs, ready: None }
    }

    /// Hash and subject for people: short, on one line, harmless.
    ///
    /// # Errors
    /// When the commit is not there.
    pub fn name(&self, commit: &str) -> Result<String> {
        let subject = self.history.subject(commit)?;
        Ok(format!("{} {}", &commit[..commit.len().min(12)], plain::line(&subject, SUBJECT_CHARS)))
    }

    /// Runs a commit as often as there are guests.
    ///
    /// # Errors
    /// For reasons that are not the commit's.
    pub fn run(&mut self, commit: &str, n_runs: u32, titles: &[String]) -> Result<Ran> {
        if self.ready.as_ref().is_none_or(|(ready, _)| ready != commit) {
            // Guests of the commit before end here.
            self.ready = None;
            eprintln!("building {}", self.name(commit)?);
            match self.open(commit) {
                Ok(rerun) => self.ready = Some((commit.to_owned(), rerun)),
                Err(error) if is_unfit(&error) => return Ok(Ran::Unfit(format!("{error:#}"))),
                Err(error) => return Err(error),
            }
        }
        let Some((_, rerun)) = &mut self.ready else { bail!("no commit is ready") };
        let case = Case { titles: titles.to_vec(), ..rerun.case.clone() };
        let epochs = rerun.epochs(&case, n_runs..n_runs + rerun.jobs as u32);
        let mut seen = Vec::new();
        rerun.run(&epochs, &mut |_, outcome| {
            seen.push(see(&case, &outcome.context("a guest did not answer")?)?);
            Ok(())
        })?;
        Ok(Ran::Seen(seen))
    }

    fn open(&self, commit: &str) -> Result<Rerun> {
        let tree = self.history.unpack(commit)?;
        if let Some(why) = too_old(&tree) {
            return Err(anyhow::Error::new(Unfit(why)));
        }
        let elsewhere = Elsewhere { linux: Some(tree), ..self.elsewhere.clone() };
        let open = || Rerun::open(&self.what, &elsewhere, self.jobs);
        match open() {
            // A busy machine may boot too slowly once.
            Err(error) if is_not_ready(&error) => open(),
            result => result,
        }
    }
}

fn see(case: &Case, outcome: &EpochOutcome) -> Result<Seen> {
    Ok(match case.judge(outcome) {
        Showing::Same(report) => Seen::Same(report.title),
        Showing::Other(report) => Seen::Other(report.title),
        Showing::None if outcome.end == EpochEnd::Done => Seen::Silent,
        // Cut short: the finding might have come.
        Showing::None => Seen::Other(format!("no report, but the run did not end well: {:?}", outcome.end)),
        Showing::Infrastructure(why) => bail!("a guest failed: {why}"),
    })
}

/// Whether an error in making a commit's machine is the commit's.
fn is_unfit(error: &anyhow::Error) -> bool {
    is_not_ready(error) || error.chain().any(|cause| cause.is::<Unfit>() || cause.is::<Usage>())
}

fn is_not_ready(error: &anyhow::Error) -> bool {
    let is = |cause: &MachineError| matches!(cause, MachineError::NotReady { .. });
    error.chain().filter_map(|cause| cause.downcast_ref()).any(is)
}

/// Why the guest modules, which are in Rust, cannot be built for a tree.
fn too_old(tree: &Path) -> Option<String> {
    const NEEDED: [(&str, &str); 3] = [
        ("rust/kernel/lib.rs", "pub use ffi;"),
        ("include/linux/shrinker.h", "shrinker_alloc("),
        ("mm/shrinker.c", "shrinker_free("),
    ];
    let lacks = |(file, words): &&(&str, &str)| {
        !fs::read(tree.join(file)).is_ok_and(|text| String::from_utf8_lossy(&text).contains(words))
    };
    let (file, words) = NEEDED.iter().find(lacks)?;
    let makefile = fs::read(tree.join("Makefile")).unwrap_or_default();
    let version = version(&String::from_utf8_lossy(&makefile)).unwrap_or_else(|| "this kernel".to_owned());
    Some(format!("{version} is too old for guest modules in Rust: no `{words}` in {file}"))
}

/// What a kernel calls itself in its Makefile.
fn version(makefile: &str) -> Option<String> {
    let value = |name: &str| {
        let assigned = |line: &str| {
            line.split_once('=')
                .filter(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        makefile.lines().take(20).find_map(assigned)
    };
    let (major, minor, patch) = (value("VERSION")?, value("PATCHLEVEL")?, value("SUBLEVEL")?);
    Some(plain::line(&format!("Linux {major}.{minor}.{patch}"), 40))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_too_old_is_named_with_what_it_lacks() {
        let tree = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("Makefile", "# SPDX\nVERSION = 6\nPATCHLEVEL = 6\nSUBLEVEL = 3\nEXTRAVERSION =\n");
        write("rust/kernel/lib.rs", "pub mod prelude;\n");
        let why = too_old(tree.path()).unwrap();
        assert!(why.contains("Linux 6.6.3 is too old") && why.contains("rust/kernel/lib.rs"), "{why}");
        write("rust/kernel/lib.rs", "pub use ffi;\n");
        assert!(too_old(tree.path()).unwrap().contains("shrinker.h"));
        write("include/linux/shrinker.h", "struct shrinker *shrinker_alloc(unsigned int flags);");
        write("mm/shrinker.c", "void shrinker_free(struct shrinker *shrinker)");
        assert_eq!(too_old(tree.path()), None);
    }

    #[test]
    fn what_does_not_boot_or_build_is_the_commits_and_a_full_disk_is_not() {
        let not_ready = MachineError::NotReady { why: "panic".into(), console: Vec::new() };
        let unfit = [anyhow::Error::new(not_ready), anyhow::Error::new(Unfit("no".into()))];
        for error in unfit {
            assert!(is_unfit(&error.context("making the machine")));
        }
        assert!(!is_unfit(&anyhow::anyhow!("No space left on device")));
    }
}
