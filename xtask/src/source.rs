// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a kernel's source comes from: a Debian source package (fetched once, unpacked into the cache), or a folder
//! of the user's, which is only ever read.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use xshell::cmd;

use crate::{
    apt::Apt,
    lock::Lock,
    matrix::SourceSpec,
    paths::{Cache, make_dir, write_whole},
    proc,
    setup::unpack,
    tree::{self, Listing},
    usage,
};

/// A kernel source that is there.
#[derive(Clone, Debug)]
pub struct Source {
    /// Names its content; part of a kernel's key.
    pub id: String,
    /// Its top folder.
    pub dir: PathBuf,
    /// Where it is a folder of the user's.
    users: Option<Users>,
}

/// The files of a folder of the user's.
#[derive(Clone, Debug)]
struct Users {
    /// With the hashes that were needed.
    listing: Listing,
    /// What is remembered of the folder.
    memory: PathBuf,
}

/// The first line of what is remembered of a folder of the user's; the second is its [`Listing`], with hashes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// See [`tree::look`].
    look: Option<String>,
    id: String,
}

impl Source {
    /// Files with their content, for a folder of the user's.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn listing(&self) -> Result<Option<Listing>> {
        let Some(users) = &self.users else { return Ok(None) };
        let mut listing = users.listing.clone();
        tree::hash(&self.dir, &mut listing, remembered(&users.memory).as_ref())?;
        Ok(Some(listing))
    }
}

/// What is written beside an unpacked package, last.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    package: String,
    version: String,
    suite: Option<String>,
}

/// The source of a Debian package: the pinned version, else the newest in the cache, else the newest there is.
///
/// # Errors
/// When it is not in the cache and cannot be fetched.
pub fn debian(cache: &Cache, spec: &SourceSpec) -> Result<Source> {
    let sources = cache.dir("sources")?;
    if let Some(source) = unpacked(&sources, spec) {
        return Ok(source);
    }
    let _lock = Lock::acquire(&sources.join(".lock"), &format!("fetching {}", spec.package))?;
    match unpacked(&sources, spec) {
        Some(source) => Ok(source),
        None => fetch(cache, &sources, spec),
    }
}

/// A folder of the user's. What is seen of it is remembered, so that later only what changed is read.
///
/// # Errors
/// When it is no kernel source, or cannot be read.
pub fn folder(cache: &Cache, dir: &Path) -> Result<Source> {
    let dir = dir.canonicalize().map_err(|error| usage!("--linux {}: {error}", dir.display()))?;
    const FILES: [&str; 4] = ["Kbuild", "Kconfig", "Makefile", "mm/shrinker.c"];
    if !FILES.iter().all(|file| dir.join(file).is_file()) {
        return Err(usage!("--linux {}: not the top of a kernel source with mm/shrinker.c", dir.display()));
    }
    let when = SystemTime::now();
    let mut listing = tree::list(&dir)?;
    // Debian's own archives carry a .gitignore that ignores everything.
    if let Some(file) = FILES.into_iter().find(|file| !listing.contains_key(*file)) {
        return Err(usage!("--linux {}: git ignores {file} there, and with it the kernel", dir.display()));
    }
    let name = blake3::hash(dir.as_os_str().as_encoded_bytes()).to_hex();
    let memory = cache.dir("trees")?.join(format!("{}.json", &name[..16]));
    let look = tree::look(&listing, when);
    let id = match seen(&memory).filter(|seen| seen.look.is_some() && seen.look == look) {
        Some(seen) => seen.id,
        None => {
            let earlier = remembered(&memory);
            if earlier.is_none() {
                eprintln!("reading {} (the first time all of it, later only what changed)", dir.display());
            }
            tree::hash(&dir, &mut listing, earlier.as_ref())?;
            let id = tree::id(&listing);
            remember(&memory, &Seen { look, id: id.clone() }, &tree::without_racy(listing.clone(), when))?;
            id
        }
    };
    Ok(Source { id, dir, users: Some(Users { listing, memory }) })
}

/// The little that tells whether a folder has changed at all.
fn seen(memory: &Path) -> Option<Seen> {
    let mut line = String::new();
    BufReader::new(fs::File::open(memory).ok()?).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// All that is known of a folder's files.
fn remembered(memory: &Path) -> Option<Listing> {
    let text = fs::read_to_string(memory).ok()?;
    serde_json::from_str(text.split_once('\n')?.1).ok()
}

fn remember(memory: &Path, seen: &Seen, listing: &Listing) -> Result<()> {
    let mut text = serde_json::to_vec(seen).context("cannot encode")?;
    text.push(b'\n');
    serde_json::to_writer(&mut text, listing).context("cannot encode")?;
    write_whole(memory, &text)
}

fn unpacked(sources: &Path, spec: &SourceSpec) -> Option<Source> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sources).ok()?.flatten() {
        let marker = entry.path().join("source.json");
        let done: Option<Done> = fs::read(&marker).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(done) = done.filter(|done| done.package == spec.package) else { continue };
        if spec.version.as_ref().is_none_or(|version| *version == done.version) {
            let when = marker.metadata().and_then(|meta| meta.modified()).ok()?;
            found.push((when, done, entry.path()));
        }
    }
    let (_, done, folder) = found.into_iter().max_by_key(|(when, ..)| *when)?;
    let id = format!("{}_{}", done.package, done.version);
    Some(Source { id, dir: folder.join("tree"), users: None })
}

fn fetch(cache: &Cache, sources: &Path, spec: &SourceSpec) -> Result<Source> {
    let package = &spec.package;
    let (apt, version) = locate(cache, spec)?;
    eprintln!("fetching {package} {version} (the kernel's source, about 160 MB)");
    let work = tempfile::Builder::new()
        .prefix(".unpack-")
        .tempdir_in(sources)
        .with_context(|| format!("cannot make a folder in {}", sources.display()))?;
    let debs = apt.download(&[format!("{package}={version}")], work.path())?;
    let deb = debs.first().ok_or_else(|| anyhow!("no package came for {package}"))?;
    eprintln!("unpacking {package} {version}");
    let contents = make_dir(&work.path().join("deb"))?;
    unpack(deb, &contents)?;
    let archive = contents.join(format!("usr/src/{package}.tar.xz"));
    ensure!(archive.is_file(), "{package} {version} has no usr/src/{package}.tar.xz");
    let whole = make_dir(&work.path().join("whole"))?;
    let tree = make_dir(&whole.join("tree"))?;
    let shell = proc::shell()?;
    proc::read(cmd!(
        shell,
        "timeout 1800 tar --extract --xz --file {archive} --directory {tree} --strip-components 1 --no-same-owner"
    ))?;
    let done = Done { package: package.clone(), version: version.clone(), suite: spec.suite.clone() };
    write_whole(&whole.join("source.json"), &serde_json::to_vec_pretty(&done).context("cannot encode")?)?;
    let place = sources.join(format!("{package}_{}", version.replace(':', "%3a")));
    fs::rename(&whole, &place).with_context(|| format!("cannot make {}", place.display()))?;
    Ok(Source { id: format!("{package}_{version}"), dir: place.join("tree"), users: None })
}

/// The package lists that know the package, and its version.
fn locate(cache: &Cache, spec: &SourceSpec) -> Result<(Apt, String)> {
    let machine = Apt::machine(cache)?;
    let mut views = vec![machine];
    if let Some(candidate) = views[0].candidate(&spec.package)? {
        let version = spec.version.clone().unwrap_or(candidate);
        return Ok((views.remove(0), version));
    }
    if let Some(suite) = &spec.suite {
        let view = Apt::suite(cache, suite)?;
        if let Some(candidate) = view.candidate(&spec.package)? {
            return Ok((view, spec.version.clone().unwrap_or(candidate)));
        }
        views.push(view);
    }
    let others: Vec<String> = views
        .iter()
        .flat_map(|view| view.names("linux-source-"))
        .filter(|name| name.trim_start_matches("linux-source-").starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    let place = spec.suite.as_deref().unwrap_or("the machine's apt sources");
    Err(anyhow!("no package {} in {place}; there is: {}", spec.package, others.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn unpack_by_hand(sources: &Path, version: &str) {
        let folder = make_dir(&sources.join(format!("linux-source-6.12_{version}"))).unwrap();
        let done = Done { package: "linux-source-6.12".into(), version: version.into(), suite: None };
        write_whole(&folder.join("source.json"), &serde_json::to_vec(&done).unwrap()).unwrap();
    }

    fn spec(version: Option<&str>) -> SourceSpec {
        SourceSpec { package: "linux-source-6.12".into(), suite: None, version: version.map(str::to_string) }
    }

    #[test]
    fn a_pin_is_obeyed_and_a_folder_without_its_marker_does_not_exist() {
        let sources = tempfile::tempdir().unwrap();
        make_dir(&sources.path().join("linux-source-6.12_6.12.1-1/tree")).unwrap();
        assert!(unpacked(sources.path(), &spec(None)).is_none());
        unpack_by_hand(sources.path(), "6.12.2-1");
        unpack_by_hand(sources.path(), "6.12.3-1");
        let pinned = unpacked(sources.path(), &spec(Some("6.12.2-1"))).unwrap();
        assert_eq!(pinned.id, "linux-source-6.12_6.12.2-1");
        assert!(unpacked(sources.path(), &spec(Some("6.12.1-1"))).is_none());
    }

    #[test]
    fn a_repository_that_ignores_its_files_is_not_an_empty_kernel() {
        let dir = tempfile::tempdir().unwrap();
        make_dir(&dir.path().join("mm")).unwrap();
        for file in ["Kbuild", "Kconfig", "Makefile", "mm/shrinker.c"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let room = tempfile::tempdir().unwrap();
        let cache = Cache::at(room.path()).unwrap();
        let n_files = || folder(&cache, dir.path()).map(|source| source.listing().unwrap().unwrap().len());
        assert_eq!(n_files().unwrap(), 4);
        let shell = proc::shell().unwrap();
        let path = dir.path();
        proc::read(cmd!(shell, "git init --quiet {path}")).unwrap();
        assert_eq!(n_files().unwrap(), 4);
        fs::write(dir.path().join(".gitignore"), "/*\n").unwrap();
        assert!(n_files().unwrap_err().to_string().contains("git ignores"));
    }

    #[test]
    fn a_folder_that_looks_the_same_is_not_read_and_one_that_changed_is() {
        let (dir, room) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::at(room.path()).unwrap();
        make_dir(&dir.path().join("mm")).unwrap();
        let put = |file: &str, text: &str, age: u64| {
            let path = dir.path().join(file);
            fs::write(&path, text).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        for file in ["Kbuild", "Kconfig", "Makefile", "mm/shrinker.c"] {
            put(file, "one", 100);
        }
        let first = folder(&cache, dir.path()).unwrap();
        let memory = first.users.as_ref().unwrap().memory.clone();
        assert_eq!(seen(&memory).unwrap().id, first.id);

        // A memory that lies shows that it is believed, and that nothing is read.
        let lie = Seen { id: "believed".into(), ..seen(&memory).unwrap() };
        remember(&memory, &lie, &remembered(&memory).unwrap()).unwrap();
        let again = folder(&cache, dir.path()).unwrap();
        assert_eq!(again.id, "believed");
        assert!(again.users.as_ref().unwrap().listing.values().all(|entry| entry.hash.is_none()));
        assert_eq!(again.listing().unwrap(), first.listing().unwrap());

        put("Makefile", "two", 50);
        let changed = folder(&cache, dir.path()).unwrap();
        assert_ne!(changed.id, first.id);
        put("Makefile", "one", 40);
        assert_eq!(folder(&cache, dir.path()).unwrap().id, first.id);

        // Written a moment ago: it may be written again within the time stamp.
        put("Makefile", "six", 0);
        folder(&cache, dir.path()).unwrap();
        assert_eq!(seen(&memory).unwrap().look, None);
        assert_eq!(remembered(&memory).unwrap()["Makefile"].hash, None);
    }

    #[test]
    fn a_folder_that_is_no_kernel_is_the_callers_mistake() {
        let (empty, room) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::at(room.path()).unwrap();
        for dir in [empty.path(), &empty.path().join("absent")] {
            let error = folder(&cache, dir).unwrap_err();
            assert_eq!(crate::exit::exit_of(&error), crate::exit::Exit::Usage);
        }
    }
}
