// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit codes, and how a result, an error or a panic becomes one.
//!
//! A command returns an [`Outcome`]. An error says whose it is by its type: [`Usage`] is the caller's, [`Bug`] is
//! ours, everything else is the machine's (no QEMU, build broke, disk full).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

/// What a subcommand returns.
pub type Outcome = anyhow::Result<Exit>;

/// How a command ended, other than by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for was done and is well.
    Pass = 0,
    /// The caller asked for something that does not exist or makes no sense.
    Usage = 1,
    /// The kernel under test misbehaved.
    Finding = 2,
    /// Nothing could be said: everything was skipped.
    Skipped = 4,
    /// The machine is at fault: no QEMU, build broke, disk full.
    Infra = 69,
    /// We are at fault.
    Bug = 70,
}

/// An error of the caller: unknown instance, misspelt key, patch that does not apply.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A kernel's source that cannot be built, or not with what it takes to test it. The machine's fault to whoever asked for
/// that kernel; `bisect` goes round it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// An error of our own.
#[derive(Debug, thiserror::Error)]
#[error("bug in shrinktorture: {0}")]
pub struct Bug(pub String);

/// A [`Usage`] error, formatted.
#[macro_export]
macro_rules! usage {
    ($($arg:tt)*) => { anyhow::Error::new($crate::exit::Usage(format!($($arg)*))) };
}

/// Runs `command`, prints its error, and says what the process exits with.
pub fn code_of(command: impl FnOnce() -> Outcome) -> ExitCode {
    // The default hook has printed message and place by the time the unwinding arrives here.
    let exit = match catch_unwind(AssertUnwindSafe(command)) {
        Ok(Ok(exit)) => exit,
        Ok(Err(error)) => {
            eprintln!("error: {error:#}");
            exit_of(&error)
        }
        Err(_) => {
            eprintln!("error: this is a bug in shrinktorture, not in the kernel under test");
            Exit::Bug
        }
    };
    ExitCode::from(exit as u8)
}

/// Whose error it is.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    if error.chain().any(|cause| cause.is::<Usage>()) {
        Exit::Usage
    } else if error.chain().any(|cause| cause.is::<Bug>()) {
        Exit::Bug
    } else {
        Exit::Infra
    }
}

/// clap's own exit code for wrong arguments is 2, which here means a finding.
pub fn usage_from_clap(error: &clap::Error) -> Outcome {
    error.print()?;
    Ok(if error.use_stderr() { Exit::Usage } else { Exit::Pass })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_type_of_an_error_decides_whose_it_is_through_any_context() {
        let usage: anyhow::Result<()> = Err(usage!("no such instance")).context("reading");
        assert_eq!(exit_of(&usage.unwrap_err()), Exit::Usage);
        assert_eq!(exit_of(&anyhow::Error::new(Bug("x".into())).context("y")), Exit::Bug);
        assert_eq!(exit_of(&anyhow::anyhow!("disk full")), Exit::Infra);
    }

    #[test]
    fn a_panic_is_our_own_bug() {
        assert_eq!(
            format!("{:?}", code_of(|| panic!("on purpose"))),
            format!("{:?}", ExitCode::from(Exit::Bug as u8))
        );
    }
}
