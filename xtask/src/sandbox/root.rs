// SPDX-License-Identifier: MIT OR Apache-2.0
//! The root that a command in a sandbox sees: empty, and then only what is bound into it.
//!
//! It is built below a folder of the old root. Whatever was there before is untrusted where a command could write
//! earlier, so no link is followed on the way to a place, and nothing is created except in what is made here.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::{self, File},
    io::ErrorKind,
    os::unix::{
        ffi::OsStringExt,
        fs::{DirBuilderExt, MetadataExt, symlink},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::pivot_root,
};

use super::{Access, Place, say, system_entries};

/// Where the new root is while it is built: a folder that every machine has, and that nothing bound is below.
const ROOT: &str = "/sys";
/// Devices without state or harm.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];
const DEVICE_LINKS: &[(&str, &str)] =
    &[("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")];
/// Room in `/dev/shm`.
const SHM_BYTES: u64 = 16 << 20;
/// Files in `/tmp`: each takes memory, even when it is empty.
const TMP_FILES: u64 = 100_000;

/// Builds it, in a mount namespace of our own.
///
/// # Errors
/// When something cannot be mounted or has no place.
pub fn build(places: &[Place], tmp_bytes: u64) -> Result<()> {
    // What is mounted here is to be seen by nobody else.
    mount_at(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;
    let root = Path::new(ROOT);
    tmpfs(root, "size=1m,nr_inodes=10000,mode=755")?;
    for name in ["dev", "proc", "tmp"] {
        folder(&root.join(name))?;
    }
    tmpfs(&root.join("tmp"), &format!("size={tmp_bytes},nr_inodes={TMP_FILES},mode=1777"))?;
    devices(&root.join("dev"))?;
    if let Err(error) = proc(&root.join("proc")) {
        // Inside of a container the machine's own may be masked, and then there is none to be had. Compilers need none.
        say(&format!("goes on without /proc: {error:#}"));
    }
    for path in system_entries(Path::new("/"))?.iter().filter(|path| path.is_symlink()) {
        let target = fs::read_link(path).with_context(|| format!("cannot read {}", path.display()))?;
        symlink(target, inside(path)).with_context(|| format!("cannot make {}", path.display()))?;
    }
    for place in places {
        let what = || format!("cannot show {} in a sandbox", place.real.display());
        bind(place).with_context(what)?;
    }
    remount(root, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
}

/// Makes it the root of this process and of all that have the old one, and drops the old one.
///
/// # Errors
/// When the kernel does not let us.
pub fn enter() -> Result<()> {
    env::set_current_dir(ROOT).context("cannot change to the new root")?;
    // The old root is put on top of the new one: it needs no folder there, and is gone with the next call.
    pivot_root(".", ".").context("cannot change roots")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot drop the old root")?;
    env::set_current_dir("/").context("cannot change to /")
}

fn devices(dev: &Path) -> Result<()> {
    tmpfs(dev, "size=64k,nr_inodes=100,mode=755")?;
    for name in DEVICES {
        let (real, point) = (Path::new("/dev").join(name), dev.join(name));
        File::create_new(&point).with_context(|| format!("cannot make {}", point.display()))?;
        mount_at(Some(&real), &point, None, MsFlags::MS_BIND, "")?;
        // That is about its mode and owner: devices can be written all the same.
        restrict(&point, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)?;
    }
    for (target, name) in DEVICE_LINKS {
        symlink(target, dev.join(name)).with_context(|| format!("cannot make /dev/{name}"))?;
    }
    folder(&dev.join("shm"))?;
    tmpfs(&dev.join("shm"), &format!("size={SHM_BYTES},nr_inodes=1000,mode=1777"))?;
    remount(dev, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)
}

/// Read-only: where root is the caller, the command owns every file of the machine in there, and there are some that
/// need no capability to be written.
fn proc(point: &Path) -> Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at(Some(Path::new("proc")), point, Some("proc"), flags, "")?;
    // Of a filesystem that is in memory already the flags of this mount count, and no others.
    remount(point, flags)
}

fn bind(place: &Place) -> Result<()> {
    let point = make_point(&place.seen, place.real.is_dir())?;
    // With what is mounted below: parts of a tree cannot be had alone, something may be hidden under them.
    mount_at(Some(&place.real), &point, None, MsFlags::MS_BIND | MsFlags::MS_REC, "")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    match place.access {
        Access::Read => restrict(&point, flags | MsFlags::MS_RDONLY),
        Access::Write => restrict(&point, flags),
    }
}

/// A file or folder to mount on, below the new root.
fn make_point(seen: &Path, is_folder: bool) -> Result<PathBuf> {
    let device = |path: &Path| -> Result<u64> {
        Ok(path.symlink_metadata().with_context(|| format!("cannot look at {}", path.display()))?.dev())
    };
    let made_here = [device(Path::new(ROOT))?, device(&inside(Path::new("/tmp")))?];
    let point = inside(seen);
    let mut steps: Vec<&Path> = point.ancestors().take_while(|step| *step != Path::new(ROOT)).collect();
    steps.reverse();
    for step in steps {
        let wants_folder = is_folder || step != point;
        match step.symlink_metadata() {
            Ok(meta) if meta.is_dir() && wants_folder || meta.is_file() && !wants_folder => {}
            Ok(_) => bail!("{}: there is something else, or a link, on the way to it", seen.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let parent = step.parent().unwrap_or(Path::new(ROOT));
                if !made_here.contains(&device(parent)?) {
                    bail!("{}: a folder of this machine is there, and it has no such entry", seen.display());
                }
                match wants_folder {
                    true => folder(step)?,
                    false => drop(File::create_new(step).context("cannot make an empty file")?),
                }
            }
            Err(error) => return Err(error).with_context(|| format!("cannot look at {}", step.display())),
        }
    }
    Ok(point)
}

/// Where a path of the sandbox is while it is built.
fn inside(seen: &Path) -> PathBuf {
    Path::new(ROOT).join(seen.strip_prefix("/").unwrap_or(seen))
}

fn folder(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().mode(0o755).create(path);
    made.with_context(|| format!("cannot make the folder {}", path.display()))
}

fn tmpfs(point: &Path, options: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_at(Some(Path::new("tmpfs")), point, Some("tmpfs"), flags, options)
}

/// Adds restrictions to everything mounted at a point and below it.
fn restrict(point: &Path, flags: MsFlags) -> Result<()> {
    let mounts = fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    // Those it has stay: in a user namespace none may be taken away.
    mounts_below(&mounts, point).into_iter().try_for_each(|(path, has)| remount(&path, has | flags))
}

fn remount(point: &Path, flags: MsFlags) -> Result<()> {
    mount_at(None, point, None, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, "")
}

fn mount_at(
    source: Option<&Path>,
    point: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: &str,
) -> Result<()> {
    mount(source, point, kind, flags, Some(options)).with_context(|| {
        let what = source.map_or(String::new(), |source| format!("{} on ", source.display()));
        format!("cannot mount {what}{} ({flags:?})", point.display())
    })
}

/// What is mounted at a point and below it, and how that is restricted already. Of several at one point the upper one
/// counts, which is the one that gets what all of them have.
fn mounts_below(mountinfo: &[u8], point: &Path) -> BTreeMap<PathBuf, MsFlags> {
    let mut found = BTreeMap::new();
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ').skip(4);
        let (Some(path), Some(options)) = (fields.next(), fields.next()) else { continue };
        let path = PathBuf::from(OsString::from_vec(unescape(path)));
        if path.starts_with(point) {
            *found.entry(path).or_insert(MsFlags::empty()) |= flags_of(options);
        }
    }
    found
}

/// The options of a mount that a user namespace may not take away. When files were read is left as it is by itself.
fn flags_of(options: &[u8]) -> MsFlags {
    let flag = |option: &[u8]| match option {
        b"ro" => MsFlags::MS_RDONLY,
        b"nosuid" => MsFlags::MS_NOSUID,
        b"nodev" => MsFlags::MS_NODEV,
        b"noexec" => MsFlags::MS_NOEXEC,
        _ => MsFlags::empty(),
    };
    options.split(|byte| *byte == b',').map(flag).collect()
}

/// A path of mountinfo: blanks and backslashes are written as a backslash and three octal digits.
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut path = Vec::new();
    while let [first, rest @ ..] = text {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match rest.get(..3).filter(|_| *first == b'\\').and_then(octal) {
            Some(byte) => (path.push(byte), text = &rest[3..]).1,
            None => (path.push(*first), text = rest).1,
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_at_and_below_a_point_with_their_flags() {
        let text = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            30 27 0:1 / /sys/usr ro,nosuid,nodev,relatime shared:1 - ext4 /dev/vdb rw\n\
            31 30 0:2 / /sys/usr/my\\040disk rw,noexec - ext4 /dev/vdc rw\n\
            32 31 0:3 / /sys/usr/my\\040disk ro - tmpfs tmpfs rw\n\
            33 27 0:4 / /sys/usr2 rw - tmpfs tmpfs rw\n";
        let found = mounts_below(text, Path::new("/sys/usr"));
        let flags = |path: &str| found[Path::new(path)];
        assert_eq!(flags("/sys/usr"), MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
        assert_eq!(flags("/sys/usr/my disk"), MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn escapes_are_undone_and_what_is_none_stays() {
        assert_eq!(unescape(b"a\\040b\\134c"), b"a b\\c");
        assert_eq!(unescape(b"a\\9\\04"), b"a\\9\\04");
    }

    #[test]
    fn places_are_below_the_root_that_is_built() {
        assert_eq!(inside(Path::new("/usr/lib")), Path::new("/sys/usr/lib"));
    }
}
