// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sandbox for builds of code that nobody has read: a patch may change Makefiles, so `make` runs what its author wants.
//!
//! The command sees a root of its own with what was named and nothing else, all of it read-only except the folders that
//! were named to be written; no network, no process but its own, no privilege. Where it hits a limit it fails, and what
//! it started ends with it. Three stages, each this very program started again, because a new PID namespace begins with
//! the next child, and because a process must be single-threaded to enter a user namespace:
//!
//! 1. `outside.rs` has the new namespaces and the old root; it waits, watches the limits, and passes on how it ended.
//! 2. `init.rs` is PID 1 inside: it builds the new root (`root.rs`), drops the old one, reaps. Its end is everybody's.
//! 3. `last.rs` gives up all privilege in a user namespace further in, sets the limits and a filter of system calls, and
//!    becomes the command.
//!
//! Guaranteed by the kernel: what is not bound cannot be opened, what is bound read-only cannot be changed, nothing is
//! reached through a network or a terminal, nothing outlives the command. Bounds per process: private memory, CPU time,
//! file size, open files. Bounds over all: the number of processes, by the kernel too unless root runs this on one
//! older than 6.14; memory, wall-clock time, room on the disks, by looking ten times a second (once, where the machine is
//! slow), so that they can be passed for a moment.
//!
//! The filter refuses what no namespace holds: sockets of the family `AF_VSOCK`, by which a virtual machine talks with its
//! host, and others that are rare; keyrings.
//!
//! Not guarded against: faults of the kernel; sockets and named pipes in folders that were bound, which work even
//! read-only; figures of this machine in `/proc`.
//!
//! What a command leaves in a folder it may write is as hostile as the command: links that lead anywhere, files that
//! are set-uid to the caller. Follow no links there, and let nobody else run what is there. What it prints has no
//! bound, and may hold what terminals obey.

mod init;
mod last;
mod outside;
mod probe;
mod process;
mod root;
mod watch;

use std::{
    env,
    ffi::OsString,
    fs,
    io::Write,
    path::{Component, Path, PathBuf},
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::sys::prctl;
use serde::{Deserialize, Serialize};

pub use self::probe::probe;

/// What the sandbox exits with when it could not be set up; one line on standard error says why.
pub const SETUP_FAILED: u8 = 125;
/// What the sandbox exits with when it ended the command, for one of the limits that it watches.
pub const ENDED: u8 = 124;

/// First arguments that make this program a stage of a sandbox; nobody types them.
const OUTSIDE: &str = "__sandbox";
const INIT: &str = "__sandbox-init";
const LAST: &str = "__sandbox-last";

/// Folders that the sandbox makes itself.
const MADE_HERE: &[&str] = &["/proc", "/dev", "/sys"];
/// What compilers and linkers read in `/etc`, and nothing that is anybody's secret.
const ETC: &[&str] = &["/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"];

/// What a command in the sandbox sees of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Files and folders it may read, at the place where they are here.
    pub read: Vec<PathBuf>,
    /// Folders it may write: the real one, and where the command sees it.
    pub write: Vec<(PathBuf, PathBuf)>,
    /// Files and folders it may read elsewhere than they are: the real one, and where the command sees it.
    pub bind: Vec<(PathBuf, PathBuf)>,
    /// What it may use.
    pub limits: Limits,
}

/// What a command in the sandbox may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory of all its processes; one alone cannot have more either. Past it, the command is ended.
    pub memory_bytes: u64,
    /// Processes and threads at a time; past it, the command is ended, and `fork` fails soon.
    pub processes: u64,
    /// CPU time of one process; past it, that process gets a signal.
    pub cpu_seconds: u64,
    /// Time from start to end; past it, the command is ended.
    pub wall_seconds: u64,
    /// Length of a file; a longer write fails.
    pub file_bytes: u64,
    /// Open files of one process.
    pub open_files: u64,
    /// Room in `/tmp`.
    pub tmp_bytes: u64,
}

impl Default for Limits {
    /// Room for a kernel with debug information on all cores of this machine.
    fn default() -> Limits {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        Limits {
            // pahole and the linker take up to 4 GiB, a compiler takes up to 1 GiB.
            memory_bytes: (8 << 30) + (cores << 30),
            // A job is make, a shell, the compiler's driver, the compiler, and sometimes its threads.
            processes: 256 + 32 * cores,
            cpu_seconds: 3600,
            wall_seconds: 4 * 3600,
            // A vmlinux with KASAN and debug information has a little more than 1 GiB.
            file_bytes: 8 << 30,
            open_files: 16_384,
            tmp_bytes: 1 << 30,
        }
    }
}

/// What the stages are told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    /// Who starts the stage, as the `/proc` of this machine counts; it dies with that one.
    parent: u32,
    /// What is bound, in this order.
    places: Vec<Place>,
    limits: Limits,
}

/// A file or folder, and where the command sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    real: PathBuf,
    seen: PathBuf,
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Read,
    Write,
}

impl Sandbox {
    /// The command, to be given arguments and environment by the caller as usual. Whether the sandbox works on this
    /// machine, [`probe`] says.
    ///
    /// It exits as the program does, with 128 and the signal's number if that died by a signal; or with [`ENDED`] or
    /// [`SETUP_FAILED`]. It dies with the thread that starts it, which must be of this process. Its standard output and
    /// error are the program's, the environment too; the program starts in the current folder if that is to be seen
    /// inside, else in `/`. The program's standard input is empty: what is given is held by the sandbox until the last
    /// process is gone, as a lock is to be, because a file that is handed in could be written, wherever it is.
    ///
    /// # Errors
    /// When a folder is not there, is seen at two places that exclude each other, or has no place in a sandbox.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let plan = Plan { parent: std::process::id(), places: self.places()?, limits: self.limits.clone() };
        let plan = serde_json::to_string(&plan).context("cannot tell a sandbox of such a path")?;
        let mut command = Command::new(env::current_exe().context("cannot find this program")?);
        command.arg(OUTSIDE).arg(plan).arg(program);
        Ok(command)
    }

    /// Everything to be bound, what is inside of another after it.
    fn places(&self) -> Result<Vec<Place>> {
        let mut places = system(Path::new("/"))?;
        for path in &self.read {
            let real = canonical(path)?;
            // Where the way there has links, programs ask for both: what they were told, and where it really is.
            if real != *path && !begins_with_a_link(path) {
                add(&mut places, place(&real, path, Access::Read)?)?;
            }
            add(&mut places, place(&real, &real, Access::Read)?)?;
        }
        for (real, seen) in &self.bind {
            add(&mut places, place(&canonical(real)?, seen, Access::Read)?)?;
        }
        for (real, seen) in &self.write {
            ensure!(real.is_dir(), "{} is no folder that a sandbox could write", real.display());
            add(&mut places, place(&canonical(real)?, seen, Access::Write)?)?;
        }
        places.sort_by_key(|place| place.seen.components().count());
        Ok(places)
    }
}

/// Becomes a stage of a sandbox when the command line says so; else returns at once. To be called first of all, while
/// there is one thread.
pub fn stage() -> Option<ExitCode> {
    let mut args = env::args_os().skip(1);
    let stage = args.next()?;
    let run = match stage.to_str()? {
        OUTSIDE => outside::run,
        INIT => init::run,
        LAST => last::run,
        _ => return None,
    };
    // Its file is called `exe`, see `next_stage`.
    let _ = prctl::set_name(c"sandbox");
    let code = read_plan(args).and_then(|(plan, command)| run(&plan, &command)).unwrap_or_else(|error| {
        say(&format!("{error:#}"));
        SETUP_FAILED
    });
    Some(ExitCode::from(code))
}

/// The arguments of a stage: the plan, the program, its arguments.
fn read_plan(mut args: impl Iterator<Item = OsString>) -> Result<(Plan, Vec<OsString>)> {
    let plan = args.next().context("no plan")?;
    let plan = serde_json::from_str(&plan.to_string_lossy()).context("cannot read the plan")?;
    let command: Vec<OsString> = args.collect();
    ensure!(!command.is_empty(), "no program");
    Ok((plan, command))
}

/// The command that becomes the next stage. Not by its path: whoever builds this program anew does not change what runs.
fn next_stage(stage: &str, plan: &Plan, program: &[OsString]) -> Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(stage).arg(serde_json::to_string(plan)?).args(program);
    Ok(command)
}

/// One line on standard error, which nobody need be reading.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "sandbox: {text}");
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("cannot find {} for a sandbox", path.display()))
}

/// A place, if a sandbox can have it.
fn place(real: &Path, seen: &Path, access: Access) -> Result<Place> {
    let is_plain = seen.is_absolute()
        && seen.components().skip(1).all(|part| matches!(part, Component::Normal(_)))
        && seen.components().count() > 1;
    ensure!(is_plain, "{} is no place for something in a sandbox", seen.display());
    for made in MADE_HERE {
        ensure!(!seen.starts_with(made), "{}: {made} is the sandbox's own", seen.display());
        ensure!(!real.starts_with(made), "{}: {made} stays outside", real.display());
    }
    Ok(Place { real: real.into(), seen: seen.into(), access })
}

/// Adds a place; the same twice is one, and two things at one place are an error.
fn add(places: &mut Vec<Place>, new: Place) -> Result<()> {
    match places.iter().find(|old| old.seen == new.seen) {
        Some(old) => ensure!(*old == new, "two folders at one place in a sandbox: {}", new.seen.display()),
        None => places.push(new),
    }
    Ok(())
}

/// Names at the top of a root that hold programs and libraries.
fn is_system(name: &str) -> bool {
    ["usr", "bin", "sbin"].contains(&name) || name.starts_with("lib")
}

/// Programs, libraries and what they need: of those at the top, those that are folders.
fn system(top: &Path) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for path in system_entries(top)? {
        if !path.is_symlink() && path.is_dir() {
            places.push(place(&path, &path, Access::Read)?);
        }
    }
    for path in ETC.iter().map(Path::new).filter(|path| path.exists()) {
        places.push(place(&canonical(path)?, path, Access::Read)?);
    }
    Ok(places)
}

/// Entries at the top that hold programs and libraries; some are links into `/usr`.
fn system_entries(top: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(top).with_context(|| format!("cannot read {}", top.display()))?;
    let is_wanted = |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(is_system);
    let mut paths: Vec<PathBuf> = entries.flatten().filter(is_wanted).map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Whether a path goes through one of the links at the top, which the sandbox has too.
fn begins_with_a_link(path: &Path) -> bool {
    let top: PathBuf = path.components().take(2).collect();
    top.file_name().and_then(|name| name.to_str()).is_some_and(is_system) && top.is_symlink()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sandbox: &Sandbox) -> Vec<(PathBuf, Access)> {
        sandbox.places().unwrap().into_iter().map(|place| (place.seen, place.access)).collect()
    }

    #[test]
    fn what_is_inside_of_another_is_bound_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let sandbox = Sandbox {
            read: vec![folder.path().into()],
            write: vec![(inner.clone(), inner.clone())],
            ..Sandbox::default()
        };
        let seen = seen(&sandbox);
        let at = |path: &Path| seen.iter().position(|(place, _)| place == path).unwrap();
        assert!(at(Path::new("/usr")) < at(folder.path()) && at(folder.path()) < at(&inner));
        assert_eq!(seen[at(&inner)].1, Access::Write);
        assert_eq!(seen.iter().filter(|(_, access)| *access == Access::Write).count(), 1);
    }

    #[test]
    fn a_folder_that_is_reached_through_a_link_is_at_both_places() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let seen = seen(&Sandbox { read: vec![link.clone()], ..Sandbox::default() });
        for path in [real, link] {
            assert!(seen.contains(&(path.clone(), Access::Read)), "{} not in {seen:?}", path.display());
        }
    }

    #[test]
    fn places_that_cannot_be_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().to_path_buf();
        let bind = |real: &Path, seen: &str| Sandbox {
            bind: vec![(real.into(), seen.into())],
            ..Sandbox::default()
        };
        let both = Sandbox {
            read: vec![own.clone()],
            write: vec![(own.clone(), own.clone())],
            ..Sandbox::default()
        };
        for (sandbox, word) in [
            (bind(&own, "relative"), "relative"),
            (bind(&own, "/a/../b"), "/a/../b"),
            (bind(&own, "/"), "no place"),
            (bind(&own, "/proc/x"), "the sandbox's own"),
            (bind(Path::new("/proc/self"), "/x"), "stays outside"),
            (bind(&own.join("nonesuch"), "/x"), "nonesuch"),
            (bind(&own, "/usr"), "two folders at one place"),
            (both, "two folders at one place"),
        ] {
            let error = format!("{:#}", sandbox.places().unwrap_err());
            assert!(error.contains(word), "{word} not in {error}");
        }
    }

    #[test]
    fn a_plan_survives_its_way_through_an_argument() {
        let plan = Plan { parent: 7, places: system(Path::new("/")).unwrap(), limits: Limits::default() };
        let text = serde_json::to_string(&plan).unwrap();
        let args = [text, "make".into(), "-j2".into()].map(OsString::from);
        let (back, command) = read_plan(args.into_iter()).unwrap();
        assert_eq!((back.parent, &back.places, &back.limits), (7, &plan.places, &plan.limits));
        assert_eq!(command, ["make", "-j2"]);
        assert!(read_plan(["{}", "make"].map(OsString::from).into_iter()).is_err());
    }
}
