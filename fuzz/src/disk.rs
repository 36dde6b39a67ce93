// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are whole or absent: written beside their place, then renamed. A campaign may be killed at any instant.

use std::{
    fs::{self, File, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// How the name of a file or folder begins that is not whole yet.
pub const PARTIAL_PREFIX: &str = ".partial-";

/// Where something is put together before it is renamed to `path`.
pub fn partial(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{PARTIAL_PREFIX}{name}"))
}

/// Writes a whole file.
///
/// # Errors
/// Names the path.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = partial(path);
    let written = File::create(&temporary).and_then(|mut file| file.write_all(bytes));
    written.and_then(|()| fs::rename(&temporary, path)).with_context(|| format!("write {}", path.display()))
}

/// Puts a folder together with `fill` and gives it its name; one of that name is replaced.
///
/// # Errors
/// Names the path.
pub fn write_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = partial(path);
    remove_dir(&temporary)?;
    make_dir(&temporary)?;
    fill(&temporary)?;
    // A rename does not replace a folder that is not empty. Killed between the two, `complete_dirs` does the second.
    remove_dir(path)?;
    fs::rename(&temporary, path).with_context(|| format!("rename to {}", path.display()))
}

/// Copies a folder; one that is there is replaced.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fn fill(from: &Path, to: &Path) -> Result<()> {
        for path in list(from)? {
            let copy = to.join(path.file_name().unwrap_or_default());
            if path.is_dir() {
                make_dir(&copy)?;
                fill(&path, &copy)?;
            } else {
                write(&copy, &fs::read(&path).with_context(|| format!("read {}", path.display()))?)?;
            }
        }
        Ok(())
    }
    make_dir(to.parent().unwrap_or(to))?;
    write_dir(to, |temporary| fill(from, temporary))
}

/// Ends what a kill interrupted in a folder of folders: one that is whole, told by the file written last, gets its name;
/// others are removed.
///
/// # Errors
/// Names the path.
pub fn complete_dirs(dir: &Path, written_last: &str) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_string_lossy().strip_prefix(PARTIAL_PREFIX).map(str::to_owned) else {
            continue;
        };
        if path.join(written_last).exists() {
            remove_dir(&dir.join(&name))?;
            fs::rename(&path, dir.join(&name)).with_context(|| format!("rename {}", path.display()))?;
        } else if path.is_dir() {
            remove_dir(&path)?;
        }
    }
    Ok(())
}

/// Makes a folder and those above it.
///
/// # Errors
/// Names the path.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make folder {}", path.display()))
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove folder {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What a folder holds, by name, without what is hidden or partial.
///
/// # Errors
/// Names the path.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Takes the lock of a folder; it is held until the file is dropped, or the process dies however it does.
///
/// # Errors
/// When another process holds it.
pub fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another campaign is at work in {}", dir.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_as_a_whole_and_partial_ones_are_not_listed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("1-title");
        write_dir(&folder, |dir| write(&dir.join("a"), b"old")).unwrap();
        write_dir(&folder, |dir| write(&dir.join("b"), b"new")).unwrap();
        assert!(write_dir(&folder, |_| bail!("disk full")).is_err());
        assert_eq!(list(dir.path()).unwrap(), std::slice::from_ref(&folder));
        assert_eq!(list(&folder).unwrap(), [folder.join("b")]);
    }

    #[test]
    fn a_folder_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(lock(dir.path()).unwrap_err().to_string().contains("another campaign"));
        drop(held);
        lock(dir.path()).unwrap();
    }
}
