// SPDX-License-Identifier: MIT OR Apache-2.0
//! Source trees: what is in one, what its content is called, and keeping a private copy of it.
//!
//! The original is only read. The copy is made of hard links where nobody else writes the original (the cache's own
//! sources), and of copies where somebody does. Whatever changes in an existing copy gets a new time stamp: make
//! compares those, and archives carry old ones.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xshell::cmd;

use crate::proc;

/// One file of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Size in bytes.
    pub size: u64,
    /// Last change, in ns since the epoch.
    pub mtime_ns: i128,
    /// Where it leads, for a symbolic link.
    pub link: Option<PathBuf>,
    /// It may be executed.
    pub executable: bool,
    /// Hash of the content, where it was needed.
    pub hash: Option<String>,
}

impl Entry {
    fn is_same_file(&self, other: &Entry) -> bool {
        (self.size, self.mtime_ns, &self.link, self.executable)
            == (other.size, other.mtime_ns, &other.link, other.executable)
    }
}

/// The files of a tree, by their path in it, in byte order. Strings, not paths: ordering 90,000 paths component by
/// component costs more than reading the folders.
pub type Listing = BTreeMap<String, Entry>;

/// How a copy is made where there was no file before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By hard links: quick, no room. The original must never be written.
    Link,
    /// By copying.
    Copy,
}

/// A file changed this recently may change again within the same time stamp: its hash is not to be trusted later.
const RACY: Duration = Duration::from_secs(2);

/// Lists the files of a tree: what git knows and what is new but not ignored, or everything but build products.
///
/// # Errors
/// When the tree cannot be read, or a name in it is not UTF-8.
pub fn list(dir: &Path) -> Result<Listing> {
    let names = match dir.join(".git").exists() {
        true => {
            let shell = proc::shell()?;
            let git =
                cmd!(shell, "timeout 300 git -C {dir} ls-files -z --cached --others --exclude-standard");
            proc::read(git)?.split('\0').filter(|name| !name.is_empty()).map(str::to_string).collect()
        }
        false => {
            let mut names = walk(dir)?;
            names.retain(|name| !is_build_product(name));
            names
        }
    };
    let look_at = |name: String| -> Result<Option<(String, Entry)>> {
        let full = dir.join(&name);
        match full.symlink_metadata() {
            Ok(meta) if meta.is_dir() => Ok(None),
            Ok(meta) => Ok(Some((name, entry_of(&full, &meta)?))),
            // Known to git, deleted by the user.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", full.display())),
        }
    };
    names.into_par_iter().filter_map(|name| look_at(name).transpose()).collect()
}

fn entry_of(path: &Path, meta: &fs::Metadata) -> Result<Entry> {
    let link = match meta.is_symlink() {
        true => Some(fs::read_link(path).with_context(|| format!("cannot read {}", path.display()))?),
        false => None,
    };
    Ok(Entry {
        size: meta.len(),
        mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        link,
        executable: meta.mode() & 0o100 != 0,
        hash: None,
    })
}

/// All files below a folder, relative to it, in no order; links are not followed.
///
/// # Errors
/// When a folder cannot be read, or a name in it is not UTF-8.
pub fn walk(top: &Path) -> Result<Vec<String>> {
    walk_below(top, "")
}

fn walk_below(top: &Path, folder: &str) -> Result<Vec<String>> {
    let full = top.join(folder);
    let cannot = || format!("cannot read {}", full.display());
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(&full).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| anyhow!("{:?} is not UTF-8", entry.path()))?;
        let path = if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
        let is_folder = entry.file_type().with_context(cannot)?.is_dir();
        if is_folder { &mut folders } else { &mut files }.push(path);
    }
    let below: Vec<_> = folders.par_iter().map(|folder| walk_below(top, folder)).collect::<Result<_>>()?;
    files.extend(below.into_iter().flatten());
    Ok(files)
}

/// What a build inside the tree leaves behind; make would find it there and take it for ours.
fn is_build_product(path: &str) -> bool {
    const SUFFIXES: [&str; 10] = ["o", "a", "ko", "cmd", "mod", "order", "symvers", "d", "rmeta", "dwo"];
    const FOLDERS: [&str; 3] = ["include/config/", "include/generated/", ".git/"];
    const FILES: [&str; 5] = [".config", ".config.old", "vmlinux", "System.map", ".version"];
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').is_some_and(|(stem, suffix)| !stem.is_empty() && SUFFIXES.contains(&suffix))
        || name.ends_with(".mod.c")
        || FOLDERS.iter().any(|folder| path.starts_with(folder))
        || path.starts_with("arch/") && path.contains("/include/generated/")
        || FILES.contains(&path)
}

/// Fills in the content hashes that lack; those of `earlier` are taken over for files that look unchanged.
///
/// # Errors
/// When a file cannot be read.
pub fn hash(dir: &Path, listing: &mut Listing, earlier: Option<&Listing>) -> Result<()> {
    let lacking = |entry: &Entry| entry.link.is_none() && entry.hash.is_none();
    for (path, entry) in listing.iter_mut().filter(|(_, entry)| lacking(entry)) {
        let known = earlier.and_then(|earlier| earlier.get(path)).filter(|known| known.is_same_file(entry));
        entry.hash = known.and_then(|known| known.hash.clone());
        if entry.hash.is_none() {
            let full = dir.join(path);
            let mut hasher = blake3::Hasher::new();
            let mut read = || io::copy(&mut fs::File::open(&full)?, &mut hasher);
            read().with_context(|| format!("cannot read {}", full.display()))?;
            entry.hash = Some(hasher.finalize().to_hex()[..32].to_string());
        }
    }
    Ok(())
}

/// How the files look from outside. The same look later is the same content; none, where a file changed so shortly
/// before `when`, the moment of the listing, that it may change again within its time stamp.
pub fn look(listing: &Listing, when: SystemTime) -> Option<String> {
    let limit = racy_since(when);
    let mut text = String::new();
    for (path, entry) in listing {
        if entry.mtime_ns > limit {
            return None;
        }
        let link = entry.link.as_deref().map(Path::to_string_lossy).unwrap_or_default();
        let Entry { size, mtime_ns, executable, .. } = entry;
        // Cannot fail: it is a string.
        let _ = write!(text, "{path}\0{size} {mtime_ns} {executable}{link}\0");
    }
    Some(blake3::hash(text.as_bytes()).to_hex()[..32].to_string())
}

/// The name of a hashed tree's content: paths, modes, contents; not time stamps.
pub fn id(listing: &Listing) -> String {
    let mut hasher = blake3::Hasher::new();
    for (path, entry) in listing {
        let content = match &entry.link {
            Some(target) => format!("-> {}", target.display()),
            None => entry.hash.clone().unwrap_or_default(),
        };
        hasher.update(format!("{path}\0{}\0{content}\0", entry.executable).as_bytes());
    }
    format!("tree-{}", &hasher.finalize().to_hex()[..32])
}

/// Makes `copy` equal to `original`, which has the files of `listing`. `before` is what the copy was made from last
/// time; without it, files that look the same are taken to be the same.
///
/// Killed at any moment, it is continued by calling it again.
///
/// # Errors
/// When something cannot be read or written.
pub fn sync(
    original: &Path,
    copy: &Path,
    listing: &Listing,
    before: Option<&Listing>,
    how: How,
) -> Result<()> {
    let is_new = !copy.exists();
    fs::create_dir_all(copy).with_context(|| format!("cannot make {}", copy.display()))?;
    let stale: Vec<String> = match before {
        Some(before) => before.keys().cloned().collect(),
        None => walk(copy)?,
    };
    for path in stale.iter().filter(|path| !listing.contains_key(*path)) {
        remove(&copy.join(path))?;
    }
    let mut last_folder = None;
    for (path, entry) in listing {
        let (from, to) = (original.join(path), copy.join(path));
        let is_current = match before.and_then(|before| before.get(path)) {
            Some(old) if entry.hash.is_some() => {
                (&old.hash, old.executable) == (&entry.hash, entry.executable)
            }
            Some(old) => old.is_same_file(entry),
            None => to
                .symlink_metadata()
                .is_ok_and(|meta| entry_of(&to, &meta).is_ok_and(|there| there.is_same_file(entry))),
        };
        if is_current {
            continue;
        }
        if last_folder != to.parent().map(Path::to_path_buf) {
            last_folder = to.parent().map(Path::to_path_buf);
            fs::create_dir_all(to.parent().unwrap_or(copy))
                .with_context(|| format!("cannot make the folder of {}", to.display()))?;
        }
        put(&from, &to, entry, if is_new { how } else { How::Copy })?;
    }
    Ok(())
}

/// Puts one file in its place; whole or not at all.
fn put(from: &Path, to: &Path, entry: &Entry, how: How) -> Result<()> {
    let write = || -> io::Result<()> {
        if how == How::Link && entry.link.is_none() && fs::hard_link(from, to).is_ok() {
            return Ok(());
        }
        let fresh = to.with_file_name(".shrinktorture-fresh");
        let _ = fs::remove_file(&fresh);
        match &entry.link {
            Some(target) => symlink(target, &fresh)?,
            None => {
                fs::copy(from, &fresh)?;
                let mode = if entry.executable { 0o755 } else { 0o644 };
                fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))?;
            }
        }
        if to.is_dir() && !to.is_symlink() {
            fs::remove_dir_all(to)?;
        }
        fs::rename(&fresh, to)
    };
    write().with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// A listing to keep: hashes of files that changed just before `when`, the moment of the listing, are left out.
pub fn without_racy(mut listing: Listing, when: SystemTime) -> Listing {
    let limit = racy_since(when);
    listing.values_mut().filter(|entry| entry.mtime_ns > limit).for_each(|entry| entry.hash = None);
    listing
}

/// In ns since the epoch, as [`Entry::mtime_ns`].
fn racy_since(when: SystemTime) -> i128 {
    let when = when.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    when.saturating_sub(RACY).as_nanos() as i128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(dir: &Path) -> Listing {
        let mut listing = list(dir).unwrap();
        hash(dir, &mut listing, None).unwrap();
        listing
    }

    fn write(dir: &Path, path: &str, text: &str) {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        fs::write(dir.join(path), text).unwrap();
    }

    #[test]
    fn the_id_is_of_paths_and_contents_not_of_time_stamps_or_build_products() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "mm/shrinker.c", "one");
        let first = id(&hashed(dir.path()));
        write(dir.path(), "mm/shrinker.o", "object");
        write(dir.path(), "mm/shrinker.c", "one");
        assert_eq!(id(&hashed(dir.path())), first);
        write(dir.path(), "mm/shrinker.c", "two");
        assert_ne!(id(&hashed(dir.path())), first);
    }

    #[test]
    fn what_changed_is_copied_with_a_new_time_stamp_and_the_original_is_left_alone() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let copy = to.path().join("src");
        write(from.path(), "a/one.c", "one");
        write(from.path(), "a/two.c", "two");
        write(from.path(), "a/run.sh", "script");
        symlink("one.c", from.path().join("a/link.c")).unwrap();
        let old = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        for file in ["a/one.c", "a/two.c"] {
            fs::File::options().write(true).open(from.path().join(file)).unwrap().set_times(old).unwrap();
        }
        let first = hashed(from.path());
        sync(from.path(), &copy, &first, None, How::Link).unwrap();
        let inode = |path: &Path| path.metadata().unwrap().ino();
        assert_eq!(inode(&copy.join("a/one.c")), inode(&from.path().join("a/one.c")));
        assert_eq!(fs::read_link(copy.join("a/link.c")).unwrap(), Path::new("one.c"));

        fs::remove_file(from.path().join("a/two.c")).unwrap();
        fs::remove_file(from.path().join("a/one.c")).unwrap();
        write(from.path(), "a/one.c", "three");
        fs::set_permissions(from.path().join("a/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::File::options().write(true).open(from.path().join("a/one.c")).unwrap().set_times(old).unwrap();
        let second = hashed(from.path());
        sync(from.path(), &copy, &second, Some(&first), How::Link).unwrap();
        assert_eq!(fs::read_to_string(copy.join("a/one.c")).unwrap(), "three");
        assert!(copy.join("a/one.c").metadata().unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH);
        assert_ne!(inode(&copy.join("a/one.c")), inode(&from.path().join("a/one.c")));
        assert!(!copy.join("a/two.c").exists());
        assert_eq!(copy.join("a/run.sh").metadata().unwrap().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_copy_of_unknown_state_is_mended() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(from.path(), "one.c", "one");
        write(to.path(), "one.c", "something else");
        write(to.path(), "left-over.c", "x");
        sync(from.path(), to.path(), &hashed(from.path()), None, How::Link).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("one.c")).unwrap(), "one");
        assert!(!to.path().join("left-over.c").exists());
    }

    #[test]
    fn hashes_of_files_that_look_unchanged_are_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "one.c", "one");
        let mut earlier = hashed(dir.path());
        earlier.values_mut().for_each(|entry| entry.hash = Some("remembered".into()));
        let mut again = list(dir.path()).unwrap();
        hash(dir.path(), &mut again, Some(&earlier)).unwrap();
        assert_eq!(again, earlier);
        assert!(
            without_racy(again, SystemTime::now()).values().all(|entry| entry.hash.is_none()),
            "written a moment ago"
        );
    }
}
