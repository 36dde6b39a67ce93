// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole campaigns through the command line: killed and resumed, a corpus file cut short, a finding replayed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fuzz::findings::Verdict;
use harness::program::Program;
use serde_json::json;

use super::{INSTANCE, checks::Checks, machines::process_naming, xtask};
use crate::prepare::Prepared;

/// Names of the checks.
pub const NAMES: &[&str] = &[
    "a campaign killed with SIGKILL resumes, and a corpus file cut short is set aside",
    "a canary campaign finds it, minimize leaves one op, one CPU and no argument, and repro is 3 of 3 with identical consoles",
];

/// Corpus files after which the first campaign is killed.
const CORPUS_AIM: usize = 8;
/// How long it may take to get there.
const CORPUS_LIMIT: Duration = Duration::from_secs(90);

/// Runs them.
pub fn run(checks: &mut Checks, _prepared: &Prepared) {
    checks.check(NAMES[0], killed_and_resumed);
    checks.check(NAMES[1], found_and_replayed);
}

fn killed_and_resumed() -> Result<()> {
    let top = tempfile::tempdir()?;
    let dir = top.path().join("campaign");
    let mut child = fuzz(&dir, "10m", &[])?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let killed = kill_when_busy(&mut child, &dir);
    let guests = PathBuf::from(format!("shrinktorture-{}-", child.id()));
    let _ = child.kill();
    let _ = child.wait();
    killed?;
    wait_gone(&guests)?;
    let (before, execs) = (corpus(&dir)?, execs(&dir)?);
    ensure!(execs > 0, "the campaign that was killed stored no progress");
    let victim = before.iter().next().context("no corpus")?.clone();
    let text = fs::read(dir.join("corpus").join(&victim))?;
    fs::write(dir.join("corpus").join(&victim), &text[..text.len() / 2])?;

    let output = fuzz(&dir, "15s", &[])?.output()?;
    let text = text_of(&output);
    // A finding is a finding of the kernel's; anything else is ours.
    ensure!(matches!(output.status.code(), Some(0 | 2)), "{} after resuming:\n{text}", output.status);
    ensure!(text.contains(&victim) && text.contains("moved to"), "no warning about {victim}:\n{text}");
    ensure!(dir.join("corpus/broken").join(&victim).exists(), "{victim} is not in corpus/broken");
    let after = corpus(&dir)?;
    let lost: Vec<&String> = before.difference(&after).filter(|name| **name != victim).collect();
    ensure!(lost.is_empty(), "corpus files are gone: {lost:?}");
    let resumed = self::execs(&dir)?;
    ensure!(resumed > execs, "{execs} programs before the kill, {resumed} after resuming");
    Ok(())
}

fn found_and_replayed() -> Result<()> {
    let top = tempfile::tempdir()?;
    let dir = top.path().join("campaign");
    let output = fuzz(&dir, "12s", &["--canary", "use-after-free", "--append", "audit=0"])?.output()?;
    let text = text_of(&output);
    ensure!(output.status.code() == Some(2), "{} instead of 2:\n{text}", output.status);
    let title = "KASAN: slab-use-after-free Read in canary::use_after_free";
    ensure!(text.contains(title), "no finding is called {title:?}:\n{text}");
    let mut findings: Vec<PathBuf> = fs::read_dir(dir.join("findings"))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    findings.sort();
    let finding = findings.first().context("no folder of a finding")?;
    for name in
        ["report.md", "console.log", "program.txt", "verdict.yaml", "provenance.yaml", "batch/0000.txt"]
    {
        ensure!(finding.join(name).exists(), "the finding has no {name}");
    }
    findings.iter().try_for_each(|finding| triaged_alike(finding))?;
    let output = command()?.arg("minimize").arg(finding).output()?;
    let text = text_of(&output);
    ensure!(output.status.code() == Some(2), "minimize: {} instead of 2:\n{text}", output.status);
    let program: Program = fs::read_to_string(finding.join("program.txt"))?.parse()?;
    ensure!(program.n_ops() == 1, "one op calls the canary, but minimize left\n{program}");
    for line in ["shows with 1 CPU(s), too", "shows without audit=0, too"] {
        ensure!(text.contains(line), "minimize does not say `{line}`:\n{text}");
    }
    triaged_alike(finding)?;
    let output = command()?.arg("repro").arg(finding).args(["--times", "3"]).output()?;
    let text = text_of(&output);
    ensure!(output.status.code() == Some(2), "repro: {} instead of 2:\n{text}", output.status);
    for line in [
        format!("3 of 3: {title}").as_str(),
        "consoles: identical among the runs; 3 of 3 equal the stored one byte for byte",
    ] {
        ensure!(text.contains(line), "repro does not say `{line}`:\n{text}");
    }
    Ok(())
}

/// `triage` says of a finding's console what the campaign said of it.
fn triaged_alike(finding: &Path) -> Result<()> {
    let told: Verdict = serde_yaml::from_str(&fs::read_to_string(finding.join("verdict.yaml"))?)?;
    let output = command()?.args(["triage", "--json"]).arg(finding.join("console.log")).output()?;
    ensure!(output.status.code() == Some(2), "triage: {} instead of 2:\n{}", output.status, text_of(&output));
    let triaged: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let first = &triaged["reports"][0];
    for (what, campaign, triage) in [
        ("title", json!(told.title), &triaged["title"]),
        ("type", json!(told.kind), &triaged["type"]),
        ("frame", json!(told.frame), &triaged["frame"]),
        ("stack hash", json!(told.stack_hash), &first["stack_hash"]),
        ("corrupted", json!(told.corrupted), &first["corrupted"]),
    ] {
        let name = finding.display();
        ensure!(campaign == *triage, "{name}: {what} of the finding {campaign}, of its console {triage}");
    }
    // A batch that was made smaller may be known by a further name: the one it was found by.
    let names = triaged["alt_titles"].as_array().context("no alt_titles")?;
    let unknown: Vec<_> =
        names.iter().filter(|name| !told.alt_titles.iter().any(|told| *name == told)).collect();
    ensure!(unknown.is_empty(), "{}: alt titles of its console alone: {unknown:?}", finding.display());
    Ok(())
}

fn fuzz(dir: &Path, time: &str, more: &[&str]) -> Result<Command> {
    let mut command = command()?;
    command
        .args(["fuzz", "--instance", INSTANCE, "--engine", "det", "--time", time, "--dir"])
        .arg(dir)
        .args(more);
    Ok(command)
}

fn command() -> Result<Command> {
    let mut command = Command::new(xtask()?);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Waits until a campaign has stored some of its corpus and its state.
fn kill_when_busy(child: &mut Child, dir: &Path) -> Result<()> {
    let deadline = Instant::now() + CORPUS_LIMIT;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            bail!("the campaign ended by itself ({status})");
        }
        let n_stored = corpus(dir).map_or(0, |corpus| corpus.len());
        if n_stored >= CORPUS_AIM && execs(dir).is_ok_and(|execs| execs > 0) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("no {CORPUS_AIM} corpus files within {} s", CORPUS_LIMIT.as_secs())
}

/// Guests die with the campaign.
fn wait_gone(name: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(pid) = process_naming(name) {
        ensure!(Instant::now() < deadline, "process {pid}, a guest, outlives its campaign");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Programs executed, as stored.
fn execs(dir: &Path) -> Result<u64> {
    let state: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("state.json"))?)?;
    state["counters"]["execs"].as_u64().context("state.json has no counters.execs")
}

/// Names of the corpus files.
fn corpus(dir: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(dir.join("corpus"))?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.ends_with(".txt") && !name.starts_with('.')).collect())
}

/// The end of what a command printed.
pub fn text_of(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    // The warnings come first, the summary last.
    if lines.len() <= 60 {
        text
    } else {
        [&lines[..20], &["…"], &lines[lines.len() - 40..]].concat().join("\n")
    }
}
