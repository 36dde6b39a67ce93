// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wrong input to the real program: each mistake has its exit code, and words that name the mistake and the mend.
//! Nothing is downloaded and nothing of the project's is changed: the mistakes are made in copies.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;
use tempfile::TempDir;

use super::{campaign::text_of, checks::Checks, xtask};
use crate::{exit::Exit, matrix::kconfigs, prepare::Prepared};

/// Names of the checks.
pub const NAMES: &[&str] = &[
    "an unknown instance is named with those there are",
    "a misspelt key is named with file and line",
    "a cache that cannot be written is named with the mend",
    "a patch that does not apply is named",
    "an option that did not survive is named with its fragment",
    "a wrong line of a program is named with file and line",
    "an unknown canary is named with those there are",
    "a folder that is no finding is named",
    "without root and tools there is one command to run",
];

/// A user that is not root.
const NOBODY: u32 = 65534;

/// Runs them.
pub fn run(checks: &mut Checks, prepared: &Prepared) {
    checks.check(NAMES[0], unknown_instance);
    checks.check(NAMES[1], misspelt_key);
    checks.check(NAMES[2], unwritable_cache);
    checks.check(NAMES[3], || patch_that_does_not_apply(prepared));
    checks.check(NAMES[4], || vanished_option(prepared));
    checks.check(NAMES[5], wrong_program);
    checks.check(NAMES[6], unknown_canary);
    checks.check(NAMES[7], no_finding);
    checks.check(NAMES[8], no_root_and_no_tools);
}

/// Runs a command line; it must exit like this and say all of these words.
fn expect(command: &mut Command, exit: Exit, words: &[&str]) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().context("start xtask")?;
    let text = text_of(&output);
    ensure!(
        output.status.code() == Some(exit as i32),
        "{} instead of {}:\n{text}",
        output.status,
        exit as i32
    );
    for word in words {
        ensure!(text.contains(word), "does not say {word:?}:\n{text}");
    }
    ensure!(!text.contains("panicked"), "{text}");
    Ok(())
}

/// A command line with an empty cache of its own.
fn empty_cache(args: &[&str], cache: &TempDir) -> Result<Command> {
    let mut command = Command::new(xtask()?);
    command.args(args).env("SHRINKTORTURE_CACHE", cache.path());
    Ok(command)
}

/// A copy of `kconfigs`, where mistakes can be made; the folder to be told as `CARGO_MANIFEST_DIR` is `xtask` in it.
fn own_kconfigs() -> Result<TempDir> {
    let top = tempfile::tempdir()?;
    let (from, to) = (kconfigs(), top.path().join("kconfigs"));
    fs::create_dir_all(to.join("fragments"))?;
    for folder in ["", "fragments"] {
        for entry in fs::read_dir(from.join(folder))?.flatten().filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), to.join(folder).join(entry.file_name()))?;
        }
    }
    Ok(top)
}

fn with_kconfigs(top: &Path, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(xtask()?);
    command.args(args).env("CARGO_MANIFEST_DIR", top.join("xtask"));
    Ok(command)
}

fn unknown_instance() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let words = ["nonesuch", "kasan-6.12", "kasan-7.2", "perf-6.12"];
    expect(&mut empty_cache(&["kernel", "build", "nonesuch"], &cache)?, Exit::Usage, &words)?;
    expect(&mut empty_cache(&["fuzz", "--instance", "nonesuch"], &cache)?, Exit::Usage, &words)
}

fn misspelt_key() -> Result<()> {
    let top = own_kconfigs()?;
    let matrix = top.path().join("kconfigs/matrix.yaml");
    let text = fs::read_to_string(&matrix)?.replacen("memory_mib: 2048", "memroy_mib: 2048", 1);
    let line = text.lines().position(|line| line.contains("memroy_mib: 2048")).context("no such key")? + 1;
    fs::write(&matrix, text)?;
    let place = format!("{}:{line}", matrix.display());
    expect(
        &mut with_kconfigs(top.path(), &["kernel", "build", "kasan-6.12"])?,
        Exit::Usage,
        &["memroy_mib", &place],
    )
}

fn unwritable_cache() -> Result<()> {
    let words = ["/proc/nonesuch", "SHRINKTORTURE_CACHE"];
    for args in [&["kernel", "build", "kasan-6.12"][..], &["fuzz"]] {
        let mut command = Command::new(xtask()?);
        command.args(args).env("SHRINKTORTURE_CACHE", "/proc/nonesuch");
        expect(&mut command, Exit::Infra, &words)?;
    }
    Ok(())
}

/// In an instance of its own: that has a build folder of its own, so no other build is disturbed.
fn with_instance(name: &str, more: &str) -> Result<TempDir> {
    let top = own_kconfigs()?;
    let matrix = top.path().join("kconfigs/matrix.yaml");
    let mut text = fs::read_to_string(&matrix)?;
    text += &format!(
        "\n  - name: {name}\n    source: {{ package: linux-source-6.12 }}\n    fragments: [base, reclaim{more}]\n"
    );
    fs::write(&matrix, text)?;
    Ok(top)
}

fn patch_that_does_not_apply(_prepared: &Prepared) -> Result<()> {
    let top = with_instance("test-errors", "")?;
    let patch = top.path().join("wrong.patch");
    let diff = "--- a/mm/shrinker.c\n+++ b/mm/shrinker.c\n@@ -1,3 +1,3 @@\n no such line\n-neither this\n+nor that\n nor this\n";
    fs::write(&patch, diff)?;
    let patch = patch.display().to_string();
    let args = ["kernel", "build", "test-errors", "--patch", &patch];
    expect(&mut with_kconfigs(top.path(), &args)?, Exit::Usage, &["wrong.patch", "mm/shrinker.c"])
}

fn vanished_option(_prepared: &Prepared) -> Result<()> {
    let top = with_instance("test-errors", ", wrong")?;
    let fragment = top.path().join("kconfigs/fragments/wrong.config");
    fs::write(
        &fragment,
        "# SPDX-License-Identifier: MIT OR Apache-2.0\n# Not there.\nCONFIG_SHRINKER_TELEPATHY=y\n",
    )?;
    let place = format!("{}:3", fragment.display());
    let words = ["CONFIG_SHRINKER_TELEPATHY", &place, "no such option"];
    expect(&mut with_kconfigs(top.path(), &["kernel", "build", "test-errors"])?, Exit::Usage, &words)
}

fn wrong_program() -> Result<()> {
    let (cache, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let path = dir.path().join("wrong.txt");
    fs::write(&path, "thread cpu=0\n  register slot=0\n  frobnicate slot=1\n")?;
    let path = path.display().to_string();
    expect(&mut empty_cache(&["run", &path], &cache)?, Exit::Usage, &[&path, "line 3", "frobnicate"])?;
    expect(&mut empty_cache(&["run", "/nonexistent.txt"], &cache)?, Exit::Usage, &["/nonexistent.txt"])
}

fn unknown_canary() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let words = ["parrot", "use-after-free", "leak"];
    expect(&mut empty_cache(&["fuzz", "--canary", "parrot"], &cache)?, Exit::Usage, &words)
}

fn no_finding() -> Result<()> {
    let (cache, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let path = dir.path().display().to_string();
    for command in ["repro", "minimize"] {
        expect(&mut empty_cache(&[command, &path], &cache)?, Exit::Usage, &[&path, "verdict.yaml"])?;
    }
    Ok(())
}

/// As somebody who may install nothing, with nothing on the search path.
fn no_root_and_no_tools() -> Result<()> {
    let top = own_kconfigs()?;
    let (empty, cache) = (top.path().join("empty"), top.path().join("cache"));
    for dir in [&empty, &cache] {
        fs::create_dir(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    }
    fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755))?;
    let program = top.path().join("program");
    fs::copy(xtask()?, &program)?;
    let mut command = Command::new(&program);
    command
        .args(["fuzz"])
        .current_dir(top.path())
        .env("CARGO_MANIFEST_DIR", top.path().join("xtask"))
        .env("SHRINKTORTURE_CACHE", &cache)
        .env("PATH", &empty);
    if Uid::effective().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let words = ["root is needed to install packages", "sudo apt-get update && sudo apt-get install"];
    expect(&mut command, Exit::Infra, &words)
}
