// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are: the project's own folder, and the cache with everything that was downloaded or built.
//!
//! ```text
//! <cache>/sources/<package>_<version>/   unpacked kernel sources; their `source.json` is written last
//!         trees/                         what was seen of the trees given with `--linux`
//!         tools/<tool>/                  private prefixes of tools the machine does not have
//!         build/<slot>/{src,out}         where a kernel is built; paths stay, so that ccache and make hit
//!         kernels/<instance>-<key>/      finished kernels; `manifest.json` is written last
//!         symbols/                       what was read of debug information, by build id
//!         bisect/<repository>/           searches through a git repository, and the tree its commits are unpacked into
//!         ccache/ downloads/ probes/
//! ```

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::usage;

/// The folder of the project: where `Cargo.toml`, `kconfigs` and the others are.
pub fn repo_root() -> PathBuf {
    // Set by `cargo run`; the path at compile time serves a binary that is started directly.
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let xtask = manifest_dir.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    xtask.parent().map_or_else(|| xtask.clone(), Path::to_path_buf)
}

/// The cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache of this user: `$SHRINKTORTURE_CACHE`, else `$XDG_CACHE_HOME/shrinktorture`, else
    /// `~/.cache/shrinktorture`. Made if it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn open() -> Result<Cache> {
        let from_env = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = match (from_env("SHRINKTORTURE_CACHE"), from_env("XDG_CACHE_HOME"), from_env("HOME")) {
            (Some(root), _, _) => root,
            (None, Some(xdg), _) => xdg.join("shrinktorture"),
            (None, None, Some(home)) => home.join(".cache/shrinktorture"),
            (None, None, None) => bail!("no cache folder: set SHRINKTORTURE_CACHE or HOME"),
        };
        Cache::at(&root)
    }

    /// A cache at a given place.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn at(root: &Path) -> Result<Cache> {
        let root = std::path::absolute(root).with_context(|| format!("cache folder {}", root.display()))?;
        let mend = || {
            format!(
                "cache folder {} cannot be written; make it writable or set SHRINKTORTURE_CACHE",
                root.display()
            )
        };
        fs::create_dir_all(&root).with_context(mend)?;
        // A write is the only honest test: read-only mounts and full disks pass every permission check.
        tempfile::NamedTempFile::new_in(&root)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"probe"))
            .with_context(mend)?;
        Ok(Cache { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder directly below, made if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        make_dir(&self.root.join(name))
    }
}

/// Where indexes of debug information are kept, by build id; none where there is no cache.
pub fn symbols() -> Option<PathBuf> {
    Cache::open().and_then(|cache| cache.dir("symbols")).ok()
}

/// Makes a folder and its parents.
///
/// # Errors
/// When it cannot be made; the path is in the error.
pub fn make_dir(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(path).with_context(|| format!("cannot make folder {}", path.display()))?;
    Ok(path.to_path_buf())
}

/// Every file below a folder, in no order; `enter` says which folders are looked into.
///
/// # Errors
/// When a folder cannot be read; the path is in the error.
pub fn files_below(root: &Path, enter: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if !path.is_dir() {
                found.push(path);
            } else if enter(&path) {
                dirs.push(path);
            }
        }
    }
    Ok(found)
}

/// Every YAML file below a folder of the repository, in order.
///
/// # Errors
/// As [`files_below`].
pub fn yaml_files(folder: &str) -> Result<Vec<PathBuf>> {
    let mut files = files_below(&repo_root().join(folder), |_| true)?;
    files.retain(|path| is_yaml(path));
    files.sort();
    Ok(files)
}

/// Whether a file's name says that it is YAML.
pub fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml")
}

/// Hashes the content of files, in the order of their names.
///
/// # Errors
/// When one cannot be read; its path is in the error.
pub fn hash_files(hasher: &mut blake3::Hasher, mut files: Vec<PathBuf>) -> Result<()> {
    files.sort();
    for path in files {
        hasher.update(&fs::read(&path).with_context(|| path.display().to_string())?);
    }
    Ok(())
}

/// Writes a file so that a reader, or a run after a crash, sees the old content or the new one.
///
/// # Errors
/// When it cannot be written; the path is in the error.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        std::io::Write::write_all(&mut file, content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads what a YAML file of the repository says; unknown keys are up to `T`.
///
/// # Errors
/// Wrong usage, with file, line and column.
pub fn parse_yaml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    serde_yaml::from_str(text).map_err(|error| match error.location() {
        Some(at) => usage!("{}:{}:{}: {error}", path.display(), at.line(), at.column()),
        None => usage!("{}: {error}", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_cannot_be_made_names_itself_and_the_mend() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = format!("{:#}", Cache::at(&file.path().join("below")).unwrap_err());
        assert!(error.contains("SHRINKTORTURE_CACHE"), "{error}");
        assert!(error.contains(&*file.path().to_string_lossy()), "{error}");
    }

    #[test]
    fn the_project_folder_holds_the_fragments() {
        assert!(repo_root().join("kconfigs/fragments").is_dir());
    }
}
