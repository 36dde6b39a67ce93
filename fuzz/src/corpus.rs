// SPDX-License-Identifier: MIT OR Apache-2.0
//! The corpus on disk: one program in text form a file, named by content, written whole. What cannot be read is moved
//! aside and said, never fatal.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use harness::program::Program;

use crate::{disk, input::content_name};

/// Programs a campaign starts from: one for each use of the API, none for a bug.
pub const SEEDS: &[(&str, &str)] = &[
    ("global-life", include_str!("../seeds/global-life.txt")),
    ("numa-life", include_str!("../seeds/numa-life.txt")),
    ("memcg-life", include_str!("../seeds/memcg-life.txt")),
    ("list-lru", include_str!("../seeds/list-lru.txt")),
    ("debugfs", include_str!("../seeds/debugfs.txt")),
    ("churn", include_str!("../seeds/churn.txt")),
    ("rename", include_str!("../seeds/rename.txt")),
    ("groups", include_str!("../seeds/groups.txt")),
    ("superblock", include_str!("../seeds/superblock.txt")),
    ("slab-cache", include_str!("../seeds/slab-cache.txt")),
    ("owners", include_str!("../seeds/owners.txt")),
    ("memory", include_str!("../seeds/memory.txt")),
    ("faults", include_str!("../seeds/faults.txt")),
];
/// Programs that a campaign on a good kernel found, and that together reach most of what it reached: a campaign on another
/// kernel need not find the way there again. Made by `cargo xtask distill`, each begins with its schedule.
const GENERIC: &str = include_str!("../corpus.txt");
/// Folder for files that are not programs.
const BROKEN: &str = "broken";
/// A text program is far smaller; a larger file is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Every program a campaign starts from, [`SEEDS`] first.
///
/// # Errors
/// When one does not parse.
pub fn seeds() -> Result<Vec<Program>> {
    let seeds = SEEDS.iter().map(|(name, text)| text.parse().with_context(|| format!("seed {name}")));
    let generic = GENERIC.split("\n\nschedule ").skip(1).enumerate();
    let generic = generic.map(|(nth, text)| {
        format!("schedule {text}").parse().with_context(|| format!("corpus.txt, program {nth}"))
    });
    seeds.chain(generic).collect()
}

/// The folder.
#[derive(Clone, Debug)]
pub struct CorpusDir(PathBuf);

impl CorpusDir {
    /// Makes the folder when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> Result<CorpusDir> {
        disk::make_dir(dir)?;
        Ok(CorpusDir(dir.to_owned()))
    }

    /// Stores a program, unless it is there; whether it was not.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, program: &Program) -> Result<bool> {
        let path = self.0.join(content_name(program)).with_extension("txt");
        let is_new = !path.exists();
        if is_new {
            disk::write(&path, program.to_string().as_bytes())?;
        }
        Ok(is_new)
    }

    /// Every stored program by file name, and a warning for each file that is none; such files are moved to `broken/`.
    ///
    /// # Errors
    /// When the folder cannot be read or a broken file not be moved.
    pub fn load(&self) -> Result<(Vec<Program>, Vec<String>)> {
        let (mut programs, mut warnings) = (Vec::new(), Vec::new());
        for path in disk::list(&self.0)? {
            if path.is_dir() {
                continue;
            }
            match read(&path) {
                Ok(program) => programs.push(program),
                Err(error) => {
                    let to = self.set_aside(&path)?;
                    warnings.push(format!(
                        "{} is no program ({error:#}), moved to {}",
                        path.display(),
                        to.display()
                    ));
                }
            }
        }
        Ok((programs, warnings))
    }

    fn set_aside(&self, path: &Path) -> Result<PathBuf> {
        let broken = self.0.join(BROKEN);
        disk::make_dir(&broken)?;
        let to = broken.join(path.file_name().unwrap_or_default());
        fs::rename(path, &to).with_context(|| format!("move {} to {}", path.display(), to.display()))?;
        Ok(to)
    }
}

/// Reads a program file. A file that was named by its content must still have it: text cut at the end of a line is a
/// program too, just not the one that was stored.
fn read(path: &Path) -> Result<Program> {
    let len = fs::metadata(path)?.len();
    anyhow::ensure!(len <= FILE_BYTES_MAX, "{len} bytes");
    let program: Program = String::from_utf8(fs::read(path)?)?.parse()?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let by_content = stem.len() == 16 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    anyhow::ensure!(
        !by_content || stem == content_name(&program),
        "truncated or edited: its content is another"
    );
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_a_valid_program() {
        for (name, text) in SEEDS {
            let program: Program = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(program.is_valid(), "{name}");
        }
    }

    #[test]
    fn what_is_stored_is_loaded_and_what_is_broken_is_named_and_moved() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = CorpusDir::open(dir.path()).unwrap();
        let program: Program = SEEDS[0].1.parse().unwrap();
        let other: Program = SEEDS[1].1.parse().unwrap();
        assert!(corpus.store(&program).unwrap());
        assert!(!corpus.store(&program).unwrap());
        corpus.store(&other).unwrap();
        fs::write(dir.path().join("by-hand.txt"), SEEDS[2].1).unwrap();
        fs::write(dir.path().join("noise.txt"), [0xff, 0xfe, 0]).unwrap();
        let cut = dir.path().join(content_name(&other)).with_extension("txt");
        let whole = fs::read(&cut).unwrap();
        let lines: Vec<&[u8]> = whole.split_inclusive(|&byte| byte == b'\n').collect();
        fs::write(&cut, lines[..3].concat()).unwrap();

        let (programs, warnings) = corpus.load().unwrap();
        assert_eq!(programs.len(), 2);
        assert!(programs.contains(&program));
        assert_eq!(warnings.len(), 2);
        assert!(warnings.iter().any(|warning| warning.contains("noise.txt")), "{warnings:?}");
        assert!(warnings.iter().any(|warning| warning.contains("truncated")), "{warnings:?}");
        assert!(dir.path().join("broken/noise.txt").exists());
        assert_eq!(corpus.load().unwrap(), (programs, Vec::new()));
    }
}
