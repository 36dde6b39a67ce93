// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running make: a clean environment, a log, a progress bar, and an end.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    exit::Unfit,
    lock::Lock,
    paths::make_dir,
    proc,
    sandbox::{self, Sandbox},
};

/// A make that says nothing for this long is stuck: the largest single step (linking with DWARF) takes a minute.
const SILENCE_MAX: Duration = Duration::from_secs(1800);
/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(20);
/// Room for objects of several kernels with and without debugging.
const CCACHE_SIZE: &str = "20G";

/// A command line of make, to run as it is or with targets added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Make {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, without a target.
    pub args: Vec<String>,
    /// The whole environment: what the user's shell has set must not decide what is built.
    pub env: Vec<(String, String)>,
    /// What it sees of this machine, where it is not trusted.
    pub sandbox: Option<Sandbox>,
}

impl Make {
    /// A make for a source, an output folder, and variables.
    ///
    /// # Errors
    /// When the compiler cache's folder cannot be made.
    pub fn new(source: &Path, out: &Path, variables: &[String], ccache: &Path) -> Result<Make> {
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut args = vec!["-C".to_string(), source.display().to_string()];
        args.push(format!("O={}", out.display()));
        args.extend_from_slice(variables);
        args.push(format!("-j{jobs}"));
        let inherited = ["PATH", "HOME", "TMPDIR"];
        let mut env: Vec<(String, String)> =
            inherited.iter().filter_map(|name| Some((name.to_string(), std::env::var(name).ok()?))).collect();
        let fixed = [
            ("LANG", "C.UTF-8"),
            // The same kernel from the same input, to the byte.
            ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
            ("KBUILD_BUILD_USER", "shrinktorture"),
            ("KBUILD_BUILD_HOST", "shrinktorture"),
            ("KBUILD_BUILD_VERSION", "1"),
            ("CCACHE_MAXSIZE", CCACHE_SIZE),
        ];
        env.extend(fixed.map(|(name, value)| (name.to_string(), value.to_string())));
        env.push(("CCACHE_DIR".to_string(), make_dir(ccache)?.display().to_string()));
        Ok(Make { program: "make".into(), args, env, sandbox: None })
    }

    /// The command, which ends when we do.
    ///
    /// # Errors
    /// When the sandbox cannot be described.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.bare()?;
        command.args(&self.args);
        Ok(command)
    }

    /// The same without arguments.
    ///
    /// # Errors
    /// As [`Make::command`].
    pub fn bare(&self) -> Result<Command> {
        let mut command = match &self.sandbox {
            Some(sandbox) => sandbox.command(&self.program)?,
            None => proc::dies_with_us("TERM", &self.program),
        };
        command.env_clear().envs(self.env.iter().cloned());
        Ok(command)
    }
}

/// What is shown while make runs.
pub struct Show {
    /// What is being made.
    pub what: String,
    /// Objects it will be, as far as one can know.
    pub total: Option<u64>,
}

/// Runs make for targets; says how many steps it took.
///
/// # Errors
/// When it fails or goes silent; with the tail of its output and where all of it is.
pub fn run(make: &Make, targets: &[&str], lock: &Lock, log: &Path, show: &Show) -> Result<u64> {
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let mut command = make.command()?;
    command
        .args(targets)
        .stdin(lock.as_stdin()?)
        .stdout(writer.try_clone().context("cannot duplicate a pipe")?)
        .stderr(writer);
    let mut child = command.spawn().context("cannot run make")?;
    // The command keeps the pipe's other end, and we would wait for ourselves.
    drop(command);
    let (lines_to, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = reader.take(proc::PRINTED_BYTES_MAX);
        for line in BufReader::new(&mut reader).split(b'\n').map_while(Result::ok) {
            let _ = lines_to.send(String::from_utf8_lossy(&line).into_owned());
        }
        let _ = io::copy(reader.get_mut(), &mut io::sink());
    });
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut progress = Progress::new(show);
    let mut text = Vec::new();
    let is_silent = loop {
        match lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => {
                writeln!(file, "{line}").with_context(|| format!("cannot write {}", log.display()))?;
                progress.line(&line);
                text.push(line);
            }
            Err(error) => break error == mpsc::RecvTimeoutError::Timeout,
        }
    };
    if is_silent {
        let _ = child.kill();
    }
    let status = child.wait().context("cannot wait for make")?;
    progress.end();
    if !status.success() || is_silent {
        let ended = if is_silent { "went silent".to_string() } else { format!("failed ({status})") };
        let (targets, log, tail) = (targets.join(" "), log.display(), excerpt(&text.join("\n")));
        let what = format!("make {targets} {ended}; all of it is in {log}:\n{tail}");
        return Err(failure(what, !is_silent && is_own_end(status), &text));
    }
    Ok(progress.n_steps)
}

/// Whether make itself said that it failed, and not who ran it.
pub fn is_own_end(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| code != i32::from(sandbox::SETUP_FAILED))
}

/// The error for a make that failed: the source is at fault, unless the machine is.
pub fn failure<T: AsRef<str>>(what: String, ended_by_itself: bool, lines: &[T]) -> anyhow::Error {
    const MACHINE: [&str; 3] = ["No space left on device", "Cannot allocate memory", "Killed"];
    let is_machine = |line: &T| MACHINE.iter().any(|words| line.as_ref().contains(words));
    match ended_by_itself && !lines.iter().any(is_machine) {
        true => anyhow::Error::new(Unfit(what)),
        false => anyhow!(what),
    }
}

/// What an error should carry of make's output. With several jobs the first error is long gone when make ends: errors first,
/// each with its place, then the end.
pub fn excerpt(text: &str) -> String {
    const ERRORS: [&str; 5] = ["error:", "error[", "ERROR:", "Error ", "undefined"];
    const SHOWN_MAX: usize = 8;
    let tail = proc::tail(text);
    let lines: Vec<&str> = text.lines().collect();
    let is_error = |line: &str| ERRORS.iter().any(|word| line.contains(word));
    let is_place = |line: &&&str| line.trim_start().starts_with("--> ");
    let errors = lines.iter().enumerate().filter(|(_, line)| is_error(line) && !tail.contains(**line));
    let shown: Vec<&str> = errors
        .take(SHOWN_MAX)
        .flat_map(|(at, line)| [Some(line), lines.get(at + 1).filter(is_place)])
        .flatten()
        .copied()
        .collect();
    if shown.is_empty() { tail } else { format!("{}\n...\n{tail}", shown.join("\n")) }
}

/// Whether a line of make's output is one step: `  CC      mm/shrinker.o`.
fn is_step(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("  ") else { return false };
    let mut words = rest.split_ascii_whitespace();
    let is_verb =
        |verb: &str| verb.len() > 1 && verb.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    !rest.starts_with(' ') && words.next().is_some_and(is_verb) && words.next().is_some()
}

struct Progress<'a> {
    show: &'a Show,
    bar: Option<ProgressBar>,
    n_steps: u64,
    started: Instant,
    last_line: Instant,
}

impl<'a> Progress<'a> {
    fn new(show: &'a Show) -> Progress<'a> {
        let bar = io::stderr().is_terminal().then(|| {
            let (bar, template) = match show.total {
                Some(total) => {
                    (ProgressBar::new(total), "{prefix} [{bar:30}] {pos}/{len} objects {elapsed} {wide_msg}")
                }
                None => (ProgressBar::new_spinner(), "{prefix} {spinner} {pos} objects {elapsed} {wide_msg}"),
            };
            let style = ProgressStyle::with_template(template);
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_prefix(show.what.clone())
        });
        Progress { show, bar, n_steps: 0, started: Instant::now(), last_line: Instant::now() }
    }

    fn line(&mut self, line: &str) {
        if !is_step(line) {
            return;
        }
        self.n_steps += 1;
        if let Some(bar) = &self.bar {
            if self.show.total.is_some_and(|total| total < self.n_steps) {
                bar.set_length(self.n_steps);
            }
            bar.set_position(self.n_steps);
            bar.set_message(line.trim().to_string());
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let of = self.show.total.map(|total| format!("/{}", total.max(self.n_steps))).unwrap_or_default();
            eprintln!(
                "{}: {}{of} objects, {} s",
                self.show.what,
                self.n_steps,
                self.started.elapsed().as_secs()
            );
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(folder: &Path, script: &str) -> (Make, Lock) {
        let make = Make {
            program: "sh".into(),
            args: vec!["-c".into(), script.into(), "make".into()],
            env: vec![("PATH".into(), std::env::var("PATH").unwrap())],
            sandbox: None,
        };
        (make, Lock::acquire(&folder.join("lock"), "a test").unwrap())
    }

    #[test]
    fn steps_are_counted_and_other_lines_are_not() {
        for line in
            ["  CC      mm/shrinker.o", "  LD [M]  a.ko", "  AR      built-in.a", "  RUSTC L rust/core.o"]
        {
            assert!(is_step(line), "{line}");
        }
        for line in ["make: Entering directory", "mm/x.c:1: error: no", "    CC x", "  note: `x`", "  ", ""] {
            assert!(!is_step(line), "{line}");
        }
    }

    #[test]
    fn a_run_is_logged_counted_and_sees_only_the_given_environment() {
        let folder = tempfile::tempdir().unwrap();
        let (make, lock) =
            fake(folder.path(), "echo '  CC      a.o'; echo \"  CC      b.o\" >&2; echo ${HOME-unset} $1");
        let log = folder.path().join("log");
        let show = Show { what: "test".into(), total: None };
        assert_eq!(run(&make, &["target"], &lock, &log, &show).unwrap(), 2);
        assert_eq!(std::fs::read_to_string(log).unwrap(), "  CC      a.o\n  CC      b.o\nunset target\n");
    }

    #[test]
    fn a_failure_shows_the_first_errors_and_the_end_and_names_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo 'mm/a.c:7:1: error: expected ;'; echo 'error[E0425]: odd'; echo ' --> b.rs:1'; for i in $(seq 100); do echo line $i; done; exit 2";
        let (make, lock) = fake(folder.path(), script);
        let log = folder.path().join("log");
        let show = Show { what: "test".into(), total: None };
        let error = run(&make, &["bzImage"], &lock, &log, &show).unwrap_err().to_string();
        for part in [
            "make bzImage failed",
            "mm/a.c:7:1: error",
            "error[E0425]: odd\n --> b.rs:1\n...\n",
            "line 100",
            &log.display().to_string(),
        ] {
            assert!(error.contains(part), "{part} not in {error}");
        }
    }
}
