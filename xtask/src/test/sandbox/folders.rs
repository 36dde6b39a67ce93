// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each check of the sandbox has: folders that are bound and one that is not, a Makefile, and processes that can be
//! found again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::sandbox::{Limits, Sandbox};

/// How long it may take until what was killed is gone.
pub const GONE_WITHIN: Duration = Duration::from_secs(10);
/// One.
pub const MIB: u64 = 1 << 20;

/// Folders of one check: one with the Makefile, which is read, one that is written, one that is not bound.
pub struct Folders {
    /// What holds them.
    pub top: TempDir,
    /// What a command in the sandbox may use.
    pub limits: Limits,
    /// In the command line of processes that are to be found again, and in no other.
    pub mark: String,
}

/// How a run ended.
pub struct Ended {
    /// What it exited with.
    pub code: Option<i32>,
    /// What it printed, standard output before standard error.
    pub text: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl Folders {
    /// In a folder for temporary files, with limits that are enough for every check, and little to lose.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new() -> Result<Folders> {
        static CHECK: AtomicU32 = AtomicU32::new(0);
        let top = tempfile::tempdir()?;
        for name in ["src", "out", "outside"] {
            fs::create_dir(top.path().join(name))?;
        }
        let check = CHECK.fetch_add(1, Ordering::Relaxed);
        let limits = Limits {
            memory_bytes: 512 * MIB,
            processes: 64,
            cpu_seconds: 20,
            wall_seconds: 60,
            file_bytes: 16 * MIB,
            open_files: 256,
            tmp_bytes: 8 * MIB,
        };
        Ok(Folders { top, limits, mark: format!("1000.{}{check:03}", std::process::id()) })
    }

    /// One of them, or something in one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// A command that sees those that are bound.
    ///
    /// # Errors
    /// When there is no such sandbox.
    pub fn command(&self, program: &str) -> Result<Command> {
        let sandbox = Sandbox {
            read: vec![self.path("src")],
            write: vec![(self.path("out"), self.path("out"))],
            bind: vec![(self.path("src"), "/seen".into())],
            limits: self.limits.clone(),
        };
        let mut command = sandbox.command(Path::new(program))?;
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin");
        Ok(command)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, command: &mut Command) -> Result<Ended> {
        let started = Instant::now();
        let output = command.stdin(Stdio::null()).output().context("start a sandbox")?;
        let ended = Ended { code: output.status.code(), text: text_of(&output), elapsed: started.elapsed() };
        Ok(ended)
    }

    /// A Makefile whose only recipe is a script, with `$$` for `$`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn makefile(&self, script: &str) -> Result<()> {
        let lines: String = script.lines().map(|line| format!("\t{}\n", line.trim())).collect();
        let head = format!("SRC := {}\nOUT := {}\n", self.path("src").display(), self.path("out").display());
        let text = format!(
            "{head}OUTSIDE := {}\nMARK := {}\nall:\n{lines}",
            self.path("outside").display(),
            self.mark
        );
        Ok(fs::write(self.path("src/Makefile"), text)?)
    }

    /// The arguments for make to run it.
    pub fn args(&self) -> [String; 3] {
        ["-C".into(), self.path("src").display().to_string(), "SHELL=/bin/bash".into()]
    }

    /// Runs make in the sandbox with a script.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn make(&self, script: &str) -> Result<Ended> {
        self.makefile(script)?;
        self.run(self.command("make")?.args(self.args()))
    }

    /// Runs the same outside, to know that what fails inside is no mistake of the script's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn make_outside(&self) -> Result<Output> {
        Command::new("make").args(self.args()).stdin(Stdio::null()).output().context("start make")
    }

    /// Command lines of processes of this machine that carry the mark.
    pub fn marked(&self) -> Vec<String> {
        let read = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).ok();
        let lines = pids().into_iter().filter_map(read);
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(&self.mark)).collect()
    }

    /// Waits until no process carries the mark.
    ///
    /// # Errors
    /// When some still does.
    pub fn all_gone(&self) -> Result<()> {
        let gone = wait_for(GONE_WITHIN, || self.marked().is_empty());
        ensure!(gone, "still running after {GONE_WITHIN:?}: {:?}", self.marked());
        Ok(())
    }
}

impl Ended {
    /// It must have exited like this and said all of these words.
    ///
    /// # Errors
    /// When it did not.
    pub fn expect(&self, code: u8, words: &[&str]) -> Result<()> {
        let (have, text) = (self.code, &self.text);
        ensure!(
            have == Some(code.into()),
            "exit {have:?} instead of {code} after {:?}:\n{text}",
            self.elapsed
        );
        for word in words {
            ensure!(text.contains(word), "does not say {word:?}:\n{text}");
        }
        Ok(())
    }

    /// It must have said none of these words.
    ///
    /// # Errors
    /// When it did.
    pub fn expect_none_of(&self, words: &[&str]) -> Result<()> {
        match words.iter().find(|word| self.text.contains(**word)) {
            Some(word) => bail!("says {word:?}:\n{}", self.text),
            None => Ok(()),
        }
    }
}

/// All that was printed: what a check looks for can be anywhere in it.
pub fn text_of(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Processes of this machine.
pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Waits until something is so; whether it came to be within this time.
pub fn wait_for(most: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if started.elapsed() > most {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
