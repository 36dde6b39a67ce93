// SPDX-License-Identifier: MIT OR Apache-2.0
//! `clean`: takes out of the cache what nobody used for a while. All of it is made again when it is wanted; sources, tools and
//! the compiler's cache, which are dear or come from a network, stay.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use indicatif::HumanBytes;

use crate::{
    exit::{Exit, Outcome},
    paths::{self, Cache},
    usage,
};

/// Folders of the cache in which each entry is an artifact.
const FOLDERS: [&str; 6] = ["build", "gate", "kernels", "machines", "payloads", "snapshots"];
/// The kernel notes that a file was read once a day (`relatime`): what is at work now may look as old as that.
const UNUSED_MIN: Duration = Duration::from_secs(2 * 24 * 3600);

/// Arguments of `clean`.
#[derive(Debug, clap::Args)]
pub struct CleanArgs {
    /// What was not used for so long goes; two days at least
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = humantime::parse_duration)]
    unused: Duration,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

/// An artifact.
#[derive(Debug)]
struct Artifact {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Runs the subcommand.
///
/// # Errors
/// When the time is too short, or something cannot be removed.
pub fn run(args: &CleanArgs) -> Outcome {
    if args.unused < UNUSED_MIN {
        return Err(usage!("--unused: two days at least, for what is at work may look as old as one"));
    }
    let cache = Cache::open()?;
    let before = SystemTime::now() - args.unused;
    let mut total = 0;
    for name in FOLDERS {
        let unused = unused(&cache.dir(name)?, before)?;
        let bytes: u64 = unused.iter().map(|artifact| artifact.bytes).sum();
        total += bytes;
        if !args.dry_run {
            unused.iter().try_for_each(|artifact| remove(&artifact.path))?;
        }
        println!("{name:10} {:4} {:>12}", unused.len(), HumanBytes(bytes).to_string());
    }
    println!(
        "{:10} {:>17}{}",
        "all",
        HumanBytes(total).to_string(),
        if args.dry_run { ", kept" } else { "" }
    );
    Ok(Exit::Pass)
}

/// Artifacts that nobody used since then. Locks stay: one that is gone while somebody waits for it is two.
fn unused(folder: &Path, before: SystemTime) -> Result<Vec<Artifact>> {
    let mut artifacts = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|end| end == "lock") {
            continue;
        }
        artifacts.push(artifact(path)?);
    }
    artifacts.retain(|artifact| artifact.used < before);
    Ok(artifacts)
}

/// When it was written or read last, and how large it is. A link is what it is, not where it leads.
fn artifact(path: PathBuf) -> Result<Artifact> {
    let mut artifact = Artifact { bytes: 0, used: SystemTime::UNIX_EPOCH, path };
    let mut files = match artifact.path.is_dir() && !artifact.path.is_symlink() {
        true => paths::files_below(&artifact.path, |folder| !folder.is_symlink())?,
        false => Vec::new(),
    };
    files.push(artifact.path.clone());
    for file in files {
        // What goes away meanwhile is somebody's at work.
        let Ok(found) = file.symlink_metadata() else { continue };
        artifact.bytes += if found.is_file() { found.len() } else { 0 };
        // A folder is read by whoever looks for what is old.
        let read = found.is_file().then(|| found.accessed().ok()).flatten();
        let times = [found.modified().ok(), read];
        artifact.used = times.into_iter().flatten().fold(artifact.used, SystemTime::max);
    }
    Ok(artifact)
}

fn remove(path: &Path) -> Result<()> {
    let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    #[test]
    fn what_was_read_or_written_lately_stays_and_so_do_locks() {
        let dir = tempfile::tempdir().unwrap();
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
        let make = |name: &str, read: u32, written: u32| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "1234").unwrap();
            let times = FileTimes::new().set_accessed(now - day * read).set_modified(now - day * written);
            File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
            // The folder is as old as what was put into it.
            let times = FileTimes::new().set_modified(now - day * written);
            let _ = File::open(path.parent().unwrap()).unwrap().set_times(times);
        };
        for (name, read, written) in [
            ("old/a", 20, 20),
            ("old/deep/b", 20, 20),
            ("read/a", 1, 20),
            ("written/a", 20, 1),
            ("record.json", 20, 20),
            ("record.lock", 20, 20),
        ] {
            make(name, read, written);
        }
        let old = File::open(dir.path().join("old")).unwrap();
        old.set_times(FileTimes::new().set_modified(now - day * 20)).unwrap();
        let found = unused(dir.path(), now - day * 14).unwrap();
        let mut names: Vec<_> = found.iter().map(|one| one.path.file_name().unwrap().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["old", "record.json"]);
        assert_eq!(found.iter().map(|one| one.bytes).sum::<u64>(), 12);
        found.iter().for_each(|one| remove(&one.path).unwrap());
        assert!(!dir.path().join("old").exists() && dir.path().join("read/a").exists());
    }

    #[cfg(unix)]
    #[test]
    fn where_a_link_leads_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("mine"), "x").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        assert_eq!(artifact(link.clone()).unwrap().bytes, 0);
        assert_eq!(artifact(dir.path().to_owned()).unwrap().bytes, 0);
        remove(&link).unwrap();
        assert!(elsewhere.path().join("mine").exists());
    }
}
