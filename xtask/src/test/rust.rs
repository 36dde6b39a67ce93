// SPDX-License-Identifier: MIT OR Apache-2.0
//! What cargo itself checks: format, lints, tests.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::checks::Checks;
use crate::paths;

/// Names of the checks.
pub const NAMES: &[&str] = &["cargo fmt", "cargo clippy", "cargo test"];

/// Runs them.
pub fn run(checks: &mut Checks) {
    checks.check("cargo fmt", || succeed(&["fmt", "--check"]));
    checks.check("cargo clippy", || {
        succeed(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
    });
    checks.counted("cargo test", tests);
}

/// rustfmt and clippy, which a minimal toolchain does not have.
///
/// # Errors
/// When they are missing and rustup cannot get them.
pub fn ensure_components() -> Result<()> {
    let works = |tool| cargo().args([tool, "--version"]).output().is_ok_and(|output| output.status.success());
    let missing: Vec<&str> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(tool, _)| !works(tool))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("missing: {} (check format and lints); asking rustup", missing.join(", "));
    let status = Command::new("rustup")
        .args(["component", "add"])
        .args(&missing)
        .status()
        .context("cannot run rustup")?;
    ensure!(status.success(), "`rustup component add {}` failed ({status})", missing.join(" "));
    Ok(())
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(paths::repo_root()).stdin(Stdio::null());
    command
}

fn succeed(args: &[&str]) -> Result<()> {
    let status = cargo().args(args).status().context("cannot run cargo")?;
    ensure!(status.success(), "`cargo {}` failed ({status})", args.join(" "));
    Ok(())
}

/// All cargo tests, shown as they come; counted from the closing line of each test program.
fn tests() -> Result<(usize, usize)> {
    let mut child = cargo()
        .args(["test", "--workspace", "--no-fail-fast"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let stdout = child.stdout.take().context("no output of cargo test")?;
    let (mut n_passed, mut n_failed) = (0, 0);
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read the output of cargo test")?;
        if let Some((passed, failed)) = closing_line(&line) {
            n_passed += passed;
            n_failed += failed;
        }
        if !line.ends_with("... ok") && !line.is_empty() {
            println!("{line}");
        }
    }
    let status = child.wait().context("wait for cargo test")?;
    ensure!(n_passed > 0, "`cargo test --workspace` ran nothing ({status})");
    ensure!(status.success() || n_failed > 0, "`cargo test --workspace` failed ({status})");
    Ok((n_passed, n_failed))
}

/// `test result: ok. 12 passed; 0 failed; …`
fn closing_line(line: &str) -> Option<(usize, usize)> {
    let counts = line.strip_prefix("test result: ")?;
    let before = |word: &str| counts.split(word).next()?.split_whitespace().last()?.parse().ok();
    Some((before(" passed;")?, before(" failed;")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(closing_line(line), Some((12, 3)));
        assert_eq!(closing_line("test result_is_shown ... FAILED"), None);
    }
}
