// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots the payload once and takes its times. Thin: what the figures mean is decided in the parent.

use std::{
    io::Read,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::payload::{self, Stage};
use crate::{proc, tools::Qemu};

/// How far the payload came, and when.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Stages in order, with the time since QEMU was started.
    pub stages: Vec<(Stage, Duration)>,
    /// It came through and left by the exit device.
    pub passed: bool,
    /// What QEMU said.
    pub message: Option<String>,
}

impl Figures {
    /// The last stage it reached.
    pub fn last(&self) -> Option<Stage> {
        self.stages.last().map(|(stage, _)| *stage)
    }

    /// How long the loop took, if it ended.
    pub fn loop_time(&self) -> Option<Duration> {
        let at = |wanted| self.stages.iter().find(|(stage, _)| *stage == wanted).map(|(_, at)| *at);
        Some(at(Stage::Looped)?.saturating_sub(at(Stage::LongMode)?))
    }
}

/// Boots the payload with these QEMU arguments.
///
/// # Errors
/// When QEMU cannot be started at all.
pub fn boot(qemu: &Qemu, acceleration: &[&str], deadline: Duration) -> Result<Figures> {
    let mut rom = tempfile::NamedTempFile::new().context("cannot make a file for the probe's payload")?;
    std::io::Write::write_all(&mut rom, &payload::rom()).context("cannot write the probe's payload")?;
    let mut command = proc::dies_with_us("KILL", &qemu.system);
    command
        .args(["-machine", "pc", "-m", "16", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(acceleration)
        .arg("-bios")
        .arg(rom.path())
        .args(["-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {}", qemu.system.display()))?;
    let figures = watch(&mut child, started, deadline);
    // Killed whatever happened: after an internal error QEMU stays, with the guest stopped.
    let _ = child.kill();
    let status = child.wait().context("cannot wait for QEMU")?;
    let (stages, said) = figures;
    let passed = status.code() == Some(payload::EXIT_CODE) && stages.len() == 4;
    let message = said.recv_timeout(Duration::from_secs(5)).ok().and_then(|text| message_of(&text));
    Ok(Figures { stages, passed, message })
}

/// Reads stages until the payload is through, QEMU ends, or the deadline passes.
fn watch(
    child: &mut Child,
    started: Instant,
    deadline: Duration,
) -> (Vec<(Stage, Duration)>, mpsc::Receiver<String>) {
    let (letters_to, letters) = mpsc::channel();
    let (said_to, said) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut letter = [0];
            while matches!(stdout.read(&mut letter), Ok(1)) {
                let _ = letters_to.send((letter[0], started.elapsed()));
            }
        });
    }
    if let Some(mut stderr) = child.stderr.take() {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            let _ = said_to.send(String::from_utf8_lossy(&bytes).into_owned());
        });
    }
    let mut stages = Vec::new();
    while let Some(left) = deadline.checked_sub(started.elapsed()) {
        // QEMU's end closes the pipe, and with it the channel.
        let Ok((letter, at)) = letters.recv_timeout(left.min(STALL_MAX)) else { break };
        stages.extend(Stage::of_letter(letter).map(|stage| (stage, at)));
    }
    (stages, said)
}

/// No stage takes longer than this under anything that deserves to be called acceleration.
const STALL_MAX: Duration = Duration::from_secs(5);

/// The line of QEMU's messages that says what went wrong.
fn message_of(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first =
        lines.clone().find(|line| line.to_ascii_lowercase().contains("error")).or_else(|| lines.next())?;
    // The program's own path says nothing here.
    let plain = first.split_once("qemu-system-x86_64: ").map_or(first, |(_, rest)| rest);
    Some(plain.to_string())
}
