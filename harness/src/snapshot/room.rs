// SPDX-License-Identifier: MIT OR Apache-2.0
//! Room for one more: what was not used for the longest time goes, so that snapshots never fill a disk.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::sys::statvfs::statvfs;

use super::{MANIFEST, PARTIAL, lock_file, lock_path};

/// What may be kept in a folder, and what is to be left on its disk; bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    kept_max: u64,
    free_min: u64,
}

impl Default for Bounds {
    /// 16 GiB: some fifty guests, two campaigns with all their schedules. 4 GiB: two kernels' build folders.
    fn default() -> Self {
        Bounds { kept_max: 16 << 30, free_min: 4 << 30 }
    }
}

/// A snapshot on disk, or what somebody left who was killed while taking one.
#[derive(Debug)]
struct Kept {
    folders: Vec<PathBuf>,
    bytes: u64,
    used: SystemTime,
}

/// Removes from a folder of snapshots what is not in use, the longest unused first, until it is within bounds.
///
/// # Errors
/// When the disk that it lies on has no room for a guest's memory even so.
pub(super) fn make_room(cache: &Path, bounds: Bounds, wanted: u64) -> io::Result<()> {
    let mut kept: Vec<(String, Kept)> = list(cache)?.into_iter().collect();
    kept.sort_by_key(|(_, one)| std::cmp::Reverse(one.used));
    let mut total: u64 = kept.iter().map(|(_, one)| one.bytes).sum();
    while total > bounds.kept_max || free(cache)? < bounds.free_min {
        let Some((name, one)) = kept.pop() else { break };
        // The lock file stays: one that is gone while somebody waits for it is two.
        if lock_file(cache, &name)?.try_lock().is_ok() {
            one.folders.iter().try_for_each(fs::remove_dir_all)?;
            total = total.saturating_sub(one.bytes);
        }
    }
    let free = free(cache)?;
    if free < wanted {
        let mib = |bytes: u64| bytes >> 20;
        let why = format!("{} MiB are free there, and a guest may need {}", mib(free), mib(wanted));
        return Err(io::Error::new(io::ErrorKind::StorageFull, why));
    }
    Ok(())
}

fn list(cache: &Path) -> io::Result<BTreeMap<String, Kept>> {
    let mut all = BTreeMap::new();
    for folder in fs::read_dir(cache)?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { continue };
        let name = name.strip_suffix(PARTIAL).unwrap_or(name).to_owned();
        // Somebody else's folder.
        if !lock_path(cache, &name).exists() {
            continue;
        }
        let one = all.entry(name).or_insert_with(|| Kept {
            folders: Vec::new(),
            bytes: 0,
            used: SystemTime::UNIX_EPOCH,
        });
        let manifest = folder.join(MANIFEST).metadata().and_then(|manifest| manifest.modified());
        one.used = one.used.max(manifest.unwrap_or(SystemTime::UNIX_EPOCH));
        // Memory that no guest touched is a hole.
        let files = fs::read_dir(&folder)?.flatten().filter_map(|file| file.metadata().ok());
        one.bytes += files.map(|file| file.blocks() * 512).sum::<u64>();
        one.folders.push(folder);
    }
    Ok(all)
}

fn free(dir: &Path) -> io::Result<u64> {
    let disk = statvfs(dir)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Notes that a snapshot is used now. On a disk that cannot be written to, its age stays what it was.
pub(super) fn note_use(manifest: &Path) {
    let _ = File::options().append(true).open(manifest).and_then(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// So many files of a megabyte, and a quarter of one for the room that manifests take.
    const fn at_most(n: u64) -> Bounds {
        Bounds { kept_max: (n << 20) + (1 << 18), free_min: 0 }
    }

    fn put(cache: &Path, name: &str, days: u64) -> PathBuf {
        let dir = cache.join(name);
        fs::create_dir(&dir).unwrap();
        lock_file(cache, name.trim_end_matches(PARTIAL)).unwrap();
        fs::write(dir.join("ram0"), vec![1; 1 << 20]).unwrap();
        fs::write(dir.join(MANIFEST), "x").unwrap();
        let used = SystemTime::now() - Duration::from_secs(days * 24 * 3600);
        File::options().append(true).open(dir.join(MANIFEST)).unwrap().set_modified(used).unwrap();
        dir
    }

    #[test]
    fn the_longest_unused_goes_unless_it_is_in_use() {
        let cache = tempfile::tempdir().unwrap();
        let cache = cache.path();
        let [oldest, old, young, youngest] =
            [("a", 9), ("b", 5), ("c", 3), ("d", 1)].map(|(n, d)| put(cache, n, d));
        let theirs = cache.join("theirs");
        fs::create_dir(&theirs).unwrap();
        let left = put(cache, "killed.partial", 0);
        fs::remove_file(left.join(MANIFEST)).unwrap();
        let held = lock_file(cache, "a").unwrap();
        held.lock_shared().unwrap();
        note_use(&young.join(MANIFEST));

        make_room(cache, at_most(3), 0).unwrap();
        assert!(!left.exists() && !old.exists());
        assert!(oldest.exists() && young.exists() && youngest.exists());

        make_room(cache, at_most(2), 0).unwrap();
        assert!(oldest.exists() && young.exists() && !youngest.exists());

        drop(held);
        make_room(cache, at_most(0), 0).unwrap();
        assert!(list(cache).unwrap().is_empty() && theirs.exists());
    }

    #[test]
    fn a_disk_without_room_is_said() {
        let cache = tempfile::tempdir().unwrap();
        let error = make_room(cache.path(), at_most(0), u64::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("MiB are free there, and a guest may need"), "{error}");
    }
}
