// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast the oracle reads consoles, on one core. Beside it grep, counting lines with the words by which the oracle tells
//! lines worth reading.
//!
//! Noise is what the logs hold besides the lines that begin reports: a console on which nothing is to be found.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use harness::oracle::{self, Judge, Report};

use super::{
    cpu,
    figure::{Aim, Figure, Spread},
};
use crate::paths;

/// Bytes read of each kind, made by repetition.
const CONSOLE_BYTES: usize = 200 << 20;
/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;
/// What is asked of the oracle where there is nothing to report, MB/s.
const NOISE_RATE_MIN: f64 = 100.0;
/// Between the verdict and the console of a golden file.
const SEPARATOR: &[u8] = b"\n=== console ===\n";

/// Rates over noise and over logs with reports, each read `times` times. Logs: `*.log` in a folder, else the golden ones.
///
/// # Errors
/// When logs cannot be read or grep cannot be run.
pub fn figures(times: u32, logs: Option<&Path>) -> Result<Vec<Figure>> {
    let logs = match logs {
        Some(folder) => logs_in(folder)?,
        None => golden()?,
    };
    let noise = noise(&logs.concat());
    let n_bytes: usize = logs.iter().map(Vec::len).sum();
    eprintln!("bench: {} logs, {n_bytes} bytes, {} of them noise", logs.len(), noise.len());
    let folder = tempfile::tempdir().context("folder for consoles")?;
    let (noise_path, logs_path) = (folder.path().join("noise"), folder.path().join("logs"));
    repeat(&noise_path, &noise)?;
    repeat(&logs_path, &logs.concat())?;

    let noise_rate = rates(times, || judge_file(&noise_path))?;
    // So much of it that once is enough.
    let logs_rate = rates(1, || judge_each(&logs))?;
    let figure = |name, value| Figure::new(name, "-", 0, "MB/s", value);
    let bound = "LC_ALL=C grep -acE";
    Ok(vec![
        figure("oracle, noise", noise_rate)
            .against(bound, rates(times, || grep(&noise_path))?)
            .aiming(Aim::AtLeast(0.5)),
        figure("  the same", noise_rate)
            .against("asked for", Spread::exact(NOISE_RATE_MIN))
            .aiming(Aim::AtLeast(1.0)),
        figure("oracle, logs with reports", logs_rate).against(bound, rates(times, || grep(&logs_path))?),
    ])
}

/// MB/s of something that takes CPU seconds for all the bytes.
fn rates(times: u32, seconds: impl Fn() -> Result<f64>) -> Result<Spread> {
    let rate = |_| Ok(CONSOLE_BYTES as f64 / 1e6 / seconds()?);
    Ok(Spread::of((0..times).map(rate).collect::<Result<_>>()?))
}

/// The consoles of the oracle's own tests.
fn golden() -> Result<Vec<Vec<u8>>> {
    let files = files(&paths::repo_root().join("harness/testdata/console"), "txt")?;
    let console = |text: Vec<u8>| {
        let at = text.windows(SEPARATOR.len()).position(|part| part == SEPARATOR);
        at.map(|at| text[at + SEPARATOR.len()..].to_vec()).context("a golden file has no console")
    };
    files.into_iter().map(console).collect()
}

fn logs_in(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let logs = files(folder, "log")?;
    ensure!(!logs.is_empty(), "{}: no *.log in it", folder.display());
    Ok(logs)
}

fn files(folder: &Path, ending: &str) -> Result<Vec<Vec<u8>>> {
    let mut paths = paths::files_below(folder, |_| false)?;
    paths.retain(|path| path.extension().is_some_and(|have| have == ending));
    paths.sort();
    paths.iter().map(|path| fs::read(path).with_context(|| path.display().to_string())).collect()
}

/// Consoles without the lines that begin reports, so that none is left however often the rest is repeated; the banner of
/// a boot goes, too, for then it is a reboot's.
fn noise(logs: &[u8]) -> Vec<u8> {
    let mut noise = logs.to_vec();
    loop {
        let reports = oracle::judge(&noise.repeat(2));
        let mut heads: Vec<usize> = reports.iter().map(|report| report.start % noise.len()).collect();
        if heads.is_empty() {
            return noise;
        }
        heads.sort_unstable();
        heads.dedup();
        let (mut rest, mut at) = (Vec::with_capacity(noise.len()), 0);
        for head in heads {
            rest.extend_from_slice(&noise[at..head]);
            let line = noise[head..].iter().position(|byte| *byte == b'\n');
            at = line.map_or(noise.len(), |end| head + end + 1);
        }
        rest.extend_from_slice(&noise[at..]);
        noise = rest;
    }
}

fn repeat(path: &Path, console: &[u8]) -> Result<()> {
    let text = console.repeat(CONSOLE_BYTES / console.len() + 1);
    fs::write(path, &text[..CONSOLE_BYTES]).with_context(|| path.display().to_string())
}

/// CPU seconds that one console without reports takes, read from its file as `triage` does.
fn judge_file(path: &Path) -> Result<f64> {
    let (reports, seconds) = cpu::of(|| {
        let (mut file, mut piece, mut judge) = (File::open(path)?, vec![0; PIECE_BYTES], Judge::default());
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(judge.finish()),
                n => judge.push(&piece[..n]),
            }
        }
    })?;
    ensure!(reports.is_empty(), "the noise holds a report: {}", reports[0].title);
    Ok(seconds)
}

/// CPU seconds that many consoles take, each judged by itself: of one that is as long few reports would be read.
fn judge_each(logs: &[Vec<u8>]) -> Result<f64> {
    let judge_all = || {
        let mut left = CONSOLE_BYTES;
        for log in logs.iter().cycle() {
            std::hint::black_box::<Vec<Report>>(oracle::judge(&log[..log.len().min(left)]));
            left -= log.len().min(left);
            if left == 0 {
                break;
            }
        }
        Ok(())
    };
    Ok(cpu::of(judge_all)?.1)
}

/// CPU seconds that grep takes for a file, in the locale in which it is fastest.
fn grep(path: &Path) -> Result<f64> {
    let escape = |word: &String| -> String {
        let escaped = |c| [r".[]{}()*+?|^$\".contains(c).then_some('\\'), Some(c)];
        word.chars().flat_map(escaped).flatten().collect()
    };
    let pattern = oracle::head_words().iter().map(escape).collect::<Vec<String>>().join("|");
    let mut command = Command::new("grep");
    let (status, seconds) = cpu::of_command(command.env("LC_ALL", "C").args(["-acE", &pattern]).arg(path))?;
    // 1: no such line.
    ensure!(matches!(status.code(), Some(0 | 1)), "grep failed ({status})");
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_no_report_however_often_it_is_repeated() {
        let logs = golden().unwrap().concat();
        let noise = noise(&logs);
        assert!(noise.len() > logs.len() / 2 && noise.len() < logs.len());
        assert_eq!(oracle::judge(&noise.repeat(3)), []);
    }
}
