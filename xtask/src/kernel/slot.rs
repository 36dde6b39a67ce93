// SPDX-License-Identifier: MIT OR Apache-2.0
//! Build folders. A slot is `build/<name>/{src,out}` for one instance and one source; its paths never change, so that
//! make and ccache find what they know. At any moment `out` holds the kernel of one key, or something unfinished.
//!
//! # Invariants
//! - Whoever changes a slot holds its lock; so do the children that work in it.
//! - `stamp.json` exists only while `src` and `out` are whole, and names their key. It is removed before anything in
//!   them changes, and written after make succeeded.
//! - What patches touched in `src` is in `patched/` before they are applied.
//! - `source.json` is the listing that `src` (patches taken back) was made from.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use xshell::cmd;

use super::{
    INSTRUMENTS, Trust, artifact,
    make::{self, Make, Show},
};
use crate::{
    config::{self, Options},
    lock::Lock,
    patch::{self, Patch},
    paths::{Cache, make_dir, write_whole},
    proc,
    sandbox::{Limits, Sandbox},
    source::Source,
    tools::Toolchain,
    tree::{self, How, Listing},
    usage,
};

/// Steps of a first build where no earlier one tells: measured for the kernels of the matrix.
const STEPS_ESTIMATE: u64 = 1850;

/// Longest `.config` that is read; those of distributions have 300 kB.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// A build folder.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its name below `build/`.
    pub name: String,
    dir: PathBuf,
    /// Where make sees it: builds of foreign patches see it at the place of the slot that theirs is a copy of, so that what
    /// is compiled there is up to date here.
    seen: PathBuf,
    trust: Trust,
    cache: PathBuf,
}

/// What `out` holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    key: String,
}

/// What `src` was made from.
#[derive(Debug, Serialize, Deserialize)]
struct SourceRecord {
    id: String,
    listing: Listing,
}

/// What `.config` was made from: the same input need not be configured again.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Configured {
    source_id: String,
    wanted: String,
    variables: Vec<String>,
}

/// What a slot is to hold.
pub struct Target<'a> {
    /// The key, and everything that is in it.
    pub key: &'a str,
    /// See [`super::artifact::Recipe`].
    pub recipe: &'a artifact::Recipe,
    /// The options with the fragments they come from, where those are known.
    pub options: &'a Options,
    /// The source to copy from.
    pub source: &'a Source,
    /// Compilers.
    pub toolchain: &'a Toolchain,
}

impl Slot {
    /// The slot of an instance, for its package or for a tree of the user's.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn new(cache: &Cache, instance: &str, linux: Option<&Path>, trust: Trust) -> Result<Slot> {
        let name = match linux {
            None => instance.to_string(),
            Some(tree) => {
                let hash = blake3::hash(tree.as_os_str().as_encoded_bytes()).to_hex();
                format!("{instance}-{}", &hash[..8])
            }
        };
        let builds = cache.dir("build")?;
        let seen = builds.join(&name);
        let name = if trust == Trust::Foreign { format!("{name}-foreign") } else { name };
        let dir = make_dir(&builds.join(&name))?;
        Ok(Slot { name, dir, seen, trust, cache: cache.root().to_owned() })
    }

    /// Makes this slot a copy of another, whose lock is held.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn copy(&self, other: &Slot) -> Result<()> {
        self.forget("stamp.json")?;
        for folder in ["src", "out", "patched"] {
            match fs::remove_dir_all(self.dir.join(folder)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot empty {}", self.dir.display()));
                }
                _ => {}
            }
        }
        let shell = proc::shell()?;
        let (from, to) = (&other.dir, &self.dir);
        // Sources are only ever replaced; objects are written in place.
        proc::read(cmd!(shell, "timeout 600 cp -al {from}/src {to}/src"))?;
        proc::read(cmd!(shell, "timeout 600 cp -a --reflink=auto {from}/out {to}/out"))?;
        for name in ["source.json", "configured.json", "stamp.json"] {
            if let Ok(bytes) = fs::read(from.join(name)) {
                write_whole(&to.join(name), &bytes)?;
            }
        }
        Ok(())
    }

    /// The private source copy.
    pub fn src(&self) -> PathBuf {
        self.dir.join("src")
    }

    /// make's output folder.
    pub fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// [`Slot::src`], where make sees it.
    pub fn seen_src(&self) -> PathBuf {
        self.seen.join("src")
    }

    /// [`Slot::out`], where make sees it.
    pub fn seen_out(&self) -> PathBuf {
        self.seen.join("out")
    }

    /// A folder for whoever builds against this one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<PathBuf> {
        make_dir(&self.dir.join("scratch"))
    }

    /// Where the last make's output went.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Takes the slot for oneself.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self) -> Result<Lock> {
        Lock::acquire(&self.dir.join("lock"), &format!("the build folder of {}", self.name))
    }

    /// make's command line here.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn make(&self, toolchain: &Toolchain, variables: &[String]) -> Result<Make> {
        let all = [toolchain.make_variables(), variables.to_vec()].concat();
        let mut make = Make::new(&self.seen_src(), &self.seen_out(), &all, &self.cache.join("ccache"))?;
        make.env.push(("LIBCLANG_PATH".to_string(), toolchain.libclang()));
        if self.trust == Trust::Foreign {
            // What a stranger's makefile leaves in the compiler's cache would be found by the next build.
            let own =
                [("CCACHE_READONLY", "1"), ("CCACHE_TEMPDIR", "/tmp"), ("TMPDIR", "/tmp"), ("HOME", "/tmp")];
            make.env.retain(|(name, _)| own.iter().all(|(other, _)| name != other));
            make.env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
            make.sandbox = Some(self.sandbox()?);
        }
        Ok(make)
    }

    /// What a stranger's makefile sees: compilers and the sources, and only the build folder to write into.
    fn sandbox(&self) -> Result<Sandbox> {
        let scratch = self.scratch()?;
        Ok(Sandbox {
            read: vec![self.cache.join("tools"), make_dir(&self.cache.join("ccache"))?, self.dir.clone()],
            bind: vec![(self.src(), self.seen_src())],
            write: vec![(self.out(), self.seen_out()), (scratch.clone(), scratch)],
            // A whole kernel in an hour, on the slowest machine that is of use.
            limits: Limits { wall_seconds: 3600, ..Limits::default() },
        })
    }

    /// Whether it holds the kernel of a key.
    pub fn holds(&self, key: &str) -> bool {
        self.read("stamp.json").is_some_and(|stamp: Stamp| stamp.key == key)
    }

    /// Makes the source that of some patches, whatever it was.
    ///
    /// # Errors
    /// When one does not apply.
    pub fn apply(&self, patches: &[Patch]) -> Result<()> {
        self.forget("stamp.json")?;
        patch::restore(&self.src(), &self.dir.join("patched"))?;
        patch::apply(&self.src(), &self.dir.join("patched"), patches)
    }

    /// Makes the slot hold a kernel, doing no more than is needed for that.
    ///
    /// # Errors
    /// When a patch does not apply, an option does not survive, or make fails.
    pub fn establish(&self, target: &Target<'_>, lock: &Lock) -> Result<()> {
        if self.holds(target.key) {
            return Ok(());
        }
        self.forget("stamp.json")?;
        make_dir(&self.out())?;
        patch::restore(&self.src(), &self.dir.join("patched"))?;
        self.sync_source(target.source)?;
        patch::apply(&self.src(), &self.dir.join("patched"), &target.recipe.patches)?;
        check_instrumented(&self.src(), &target.recipe.variables)?;
        let make = self.make(target.toolchain, &target.recipe.variables)?;
        self.configure(target, &make, lock)?;
        let is_first = !self.out().join("vmlinux").exists();
        let show = Show {
            what: format!("kernel {}", self.name),
            total: is_first.then(|| self.read("steps.json").unwrap_or(STEPS_ESTIMATE)),
        };
        let n_steps = make::run(&make, &["bzImage", "modules"], lock, &self.log(), &show)?;
        if is_first {
            // A first build that was interrupted and continued has fewer steps than a whole one.
            self.write("steps.json", &n_steps.max(self.read("steps.json").unwrap_or(0)))?;
        }
        self.write("stamp.json", &Stamp { key: target.key.to_string() })
    }

    fn sync_source(&self, source: &Source) -> Result<()> {
        let before = self.read::<SourceRecord>("source.json");
        if before.as_ref().is_some_and(|before| before.id == source.id) && self.src().is_dir() {
            return Ok(());
        }
        let when = SystemTime::now();
        let (listing, how) = match source.listing()? {
            // The cache's own tree, which nobody writes.
            None => (tree::list(&source.dir)?, How::Link),
            Some(listing) => (listing, How::Copy),
        };
        eprintln!("preparing a source copy for {}", self.name);
        tree::sync(&source.dir, &self.src(), &listing, before.as_ref().map(|before| &before.listing), how)?;
        let record = SourceRecord { id: source.id.clone(), listing: tree::without_racy(listing, when) };
        self.write("source.json", &record)
    }

    fn configure(&self, target: &Target<'_>, make: &Make, lock: &Lock) -> Result<()> {
        let recipe = target.recipe;
        let configured = Configured {
            source_id: recipe.source_id.clone(),
            wanted: recipe.config.clone(),
            variables: [target.toolchain.make_variables(), recipe.toolchain.values().cloned().collect()]
                .concat(),
        };
        let dot_config = self.out().join(".config");
        let is_changed_by_patch = patch::touches_configuration(&self.src(), &recipe.patches)?;
        if dot_config.is_file()
            && !is_changed_by_patch
            && self.read("configured.json").as_ref() == Some(&configured)
        {
            return Ok(());
        }
        self.forget("configured.json")?;
        let wanted = self.dir.join("wanted.config");
        write_whole(&wanted, recipe.config.as_bytes())?;
        let all_config = format!("KCONFIG_ALLCONFIG={}", wanted.display());
        let show = Show { what: format!("configuration of {}", self.name), total: None };
        make::run(make, &[&all_config, "allnoconfig"], lock, &self.log(), &show)?;
        let text = String::from_utf8(artifact::read(&self.out(), ".config", CONFIG_BYTES_MAX)?)
            .context("a .config that is no text")?;
        let vanished = config::vanished(target.options, &text);
        if !vanished.is_empty() {
            let error = config::vanished_error(&vanished, |name| config::is_declared(&self.src(), name));
            return Err(match vanished.iter().any(|option| option.name == "CONFIG_RUST") {
                true => error.context(self.why_no_rust(make, lock)),
                false => error,
            });
        }
        // A patch that changes what options there are must not leave its configuration behind as the usual one.
        if is_changed_by_patch { Ok(()) } else { self.write("configured.json", &configured) }
    }

    /// The kernel's own answer to why it would not take the Rust compiler.
    fn why_no_rust(&self, make: &Make, lock: &Lock) -> String {
        let show = Show { what: "check of the Rust toolchain".to_string(), total: None };
        match make::run(make, &["rustavailable"], lock, &self.dir.join("log-rust"), &show) {
            Ok(_) => "the Rust toolchain suits this kernel, so RUST lost one of its dependencies".to_string(),
            Err(error) => format!("the Rust toolchain does not suit this kernel: {error:#}"),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        // Unreadable is as good as absent: the work is then done again.
        serde_json::from_slice(&fs::read(self.dir.join(name)).ok()?).ok()
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).with_context(|| format!("cannot encode {name}"))?;
        write_whole(&self.dir.join(name), &bytes)
    }

    fn forget(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {name} of {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// make ignores a variable for an object that does not exist: coverage or checks would silently be missing.
fn check_instrumented(source: &Path, variables: &[String]) -> Result<()> {
    let stem_of = |variable: &'_ String| {
        let object = INSTRUMENTS.iter().find_map(|prefix| variable.strip_prefix(prefix))?;
        Some(object.strip_suffix(".o=y")?.to_string())
    };
    let mut missing: BTreeSet<String> = variables.iter().filter_map(stem_of).collect();
    for path in tree::walk(source)? {
        if let Some(stem) = path.strip_suffix(".c") {
            missing.remove(stem.rsplit('/').next().unwrap_or(stem));
        }
    }
    match missing.first() {
        Some(stem) => Err(usage!("kcov or kcsan names {stem:?}, but this kernel has no {stem}.c")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_of_a_file_that_is_not_there_is_an_error() {
        let source = tempfile::tempdir().unwrap();
        make_dir(&source.path().join("mm")).unwrap();
        fs::write(source.path().join("mm/vmscan.c"), "").unwrap();
        let variables = |stem: &str| vec![format!("KCOV_INSTRUMENT_{stem}.o=y")];
        check_instrumented(source.path(), &variables("vmscan")).unwrap();
        let error = check_instrumented(source.path(), &variables("vmscam")).unwrap_err();
        assert!(error.to_string().contains("vmscam.c"), "{error}");
        check_instrumented(source.path(), &[]).unwrap();
    }

    #[test]
    fn trees_of_the_user_get_slots_of_their_own_that_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        let name = |linux: Option<&str>| {
            Slot::new(&cache, "kasan-6.12", linux.map(Path::new), Trust::Own).unwrap().name
        };
        assert_eq!(name(None), "kasan-6.12");
        assert_eq!(name(Some("/src/linux")), name(Some("/src/linux")));
        assert_ne!(name(Some("/src/linux")), name(Some("/src/other")));
    }
}
