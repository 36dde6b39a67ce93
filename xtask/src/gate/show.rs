// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hands the outcome to those who read it: files, standard output, GitHub's summary.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{GateArgs, b4, github, html, junit, kcidb, ktap, outcome::Outcome, text};
use crate::paths;

/// What was typed, to be typed again.
pub fn command() -> String {
    let words: Vec<String> = std::env::args().skip(1).map(|word| quoted(&word)).collect();
    format!("cargo xtask {}", words.join(" "))
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+,:@%~".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Writes and prints what was asked for.
///
/// # Errors
/// When a file cannot be written.
pub fn show(args: &GateArgs, outcome: &Outcome) -> Result<()> {
    let write = |path: &Option<PathBuf>, render: fn(&Outcome) -> String| match path {
        Some(path) => paths::write_whole(path, render(outcome).as_bytes()),
        None => Ok(()),
    };
    write(&args.junit, junit::render)?;
    write(&args.ktap, ktap::render)?;
    write(&args.kcidb, kcidb::render)?;
    write(&args.html, html::render)?;
    if args.b4 {
        println!("{}", b4::render(outcome));
        return Ok(());
    }
    if args.json {
        println!("{}", serde_json::to_string(outcome)?);
        return Ok(());
    }
    if args.github {
        print!("{}", github::commands(outcome));
        if let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY") {
            let mut text = std::fs::read_to_string(&path).unwrap_or_default();
            text.push_str(&github::summary(outcome));
            paths::write_whole(Path::new(&path), text.as_bytes())?;
        }
    }
    print!("{}", text::render(outcome));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_again() {
        assert_eq!(quoted("--patch=a/b.patch"), "--patch=a/b.patch");
        assert_eq!(quoted("it's; rm"), r"'it'\''s; rm'");
        assert_eq!(quoted(""), "''");
    }
}
