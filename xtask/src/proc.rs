// SPDX-License-Identifier: MIT OR Apache-2.0
//! Short-lived helpers: find a program, run a command under a deadline, say what went wrong with it.

use std::{
    env,
    ffi::OsStr,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use xshell::{Cmd, Shell, cmd};

/// Lines of a command's output that an error carries.
const TAIL_LINES: usize = 15;
/// Of what a program prints that need not be ours, so much is kept.
pub const PRINTED_BYTES_MAX: u64 = 64 << 20;

/// A shell in the current folder, with messages in English so that they can be parsed.
///
/// # Errors
/// When there is no current folder.
pub fn shell() -> Result<Shell> {
    let shell = Shell::new().context("cannot find out the current folder")?;
    shell.set_var("LC_ALL", "C");
    Ok(shell)
}

/// Standard output of a command that must succeed.
///
/// # Errors
/// When it cannot be run or fails; with the command and the tail of its output.
pub fn read(command: Cmd<'_>) -> Result<String> {
    let text = command.to_string();
    let output = command.quiet().ignore_status().output().with_context(|| format!("cannot run `{text}`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let both = [output.stdout, output.stderr].concat();
    bail!("`{text}` failed ({}):\n{}", output.status, tail(&String::from_utf8_lossy(&both)))
}

/// What a command printed, both streams as they came, up to [`PRINTED_BYTES_MAX`]; and how it ended.
///
/// # Errors
/// When it cannot be run.
pub fn both(command: &mut Command) -> Result<(String, ExitStatus)> {
    let name = command.get_program().to_owned();
    let what = || format!("cannot run {}", name.display());
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    command.stdout(writer.try_clone().context("cannot duplicate a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(what)?;
    // The command keeps the pipe's other end, and we would wait for ourselves.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut printed = Vec::new();
    let mut reader = reader.take(PRINTED_BYTES_MAX);
    reader.read_to_end(&mut printed).with_context(what)?;
    io::copy(reader.get_mut(), &mut io::sink()).with_context(what)?;
    let status = child.wait().with_context(what)?;
    Ok((String::from_utf8_lossy(&printed).into_owned(), status))
}

/// A command for a program that gets a signal when we die, however we die: `KILL`, or `TERM` for programs that then
/// end their own children.
pub fn dies_with_us(signal: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

/// The last lines of a text, those that an error should carry.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// A program on the search path.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Tools of the administrator (modprobe and friends) are not on everybody's path.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The first line a program prints when asked for its version, or `None` when it does not run.
pub fn version(program: &Path) -> Option<String> {
    let shell = shell().ok()?;
    let text = read(cmd!(shell, "timeout 20 {program} --version")).ok()?;
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_with_its_code_and_output() {
        let shell = shell().unwrap();
        let error = read(cmd!(shell, "sh -c 'echo one; echo two >&2; exit 3'")).unwrap_err().to_string();
        for part in ["sh -c", "exit status: 3", "one", "two"] {
            assert!(error.contains(part), "{part} not in {error}");
        }
    }

    #[test]
    fn both_streams_are_read_and_a_flood_is_cut() {
        let run = |script: &str| both(Command::new("sh").args(["-c", script])).unwrap();
        let (text, status) = run("echo one; echo two >&2; exit 3");
        assert_eq!((text.as_str(), status.code()), ("one\ntwo\n", Some(3)));
        let (text, status) = run("head -c 70000000 /dev/zero");
        assert_eq!((text.len() as u64, status.code()), (PRINTED_BYTES_MAX, Some(0)));
    }

    #[test]
    fn a_program_is_found_and_a_folder_is_not_one() {
        assert!(which("sh").is_some());
        assert_eq!(which("no-such-program-here"), None);
        assert!(!is_program(Path::new("/")));
    }
}
