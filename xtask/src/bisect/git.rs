// SPDX-License-Identifier: MIT OR Apache-2.0
//! The history that is searched, and the tree its commits are unpacked into. The user's repository is only read: a
//! repository of our own borrows its objects, has no hooks, no filters and no configuration but ours, and keeps one tree
//! at a place that stays, in which going to another commit touches only the files that differ. So builds of it are
//! incremental.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    lock::Lock,
    paths::{Cache, files_below, make_dir, write_whole},
    proc, usage,
};

/// Longest time one command of git may take, s: unpacking a kernel on a slow disk.
const LIMIT_S: &str = "1800";
/// Configuration beyond git's defaults: nothing of a tree's is run, nothing is done behind our back.
const CONFIG: &str = "[core]\n\tbare = true\n\thooksPath = /dev/null\n\tattributesFile = /dev/null\n\tfsmonitor = false\n\tautocrlf = \
                      false\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[submodule]\n\trecurse = false\n";
/// Attributes that outrank those of a tree: files are unpacked as they are stored.
const ATTRIBUTES: &str = "* -text -eol -ident -filter -working-tree-encoding\n";

/// A repository that borrows the user's objects, and its tree.
#[derive(Debug)]
pub struct History {
    dir: PathBuf,
    /// Nobody else unpacks commits here while this lives.
    lock: Lock,
}

impl History {
    /// Makes the repository that borrows from the user's, or finds it.
    ///
    /// # Errors
    /// When the user's is none, or files cannot be written.
    pub fn open(cache: &Cache, users: &Path) -> Result<History> {
        let place = |name: &str| -> Result<PathBuf> {
            let path =
                read(users_git(users).args(["rev-parse", "--path-format=absolute", "--git-path", name]))
                    .map_err(|error| usage!("--linux {}: {error:#}", users.display()))?;
            let path = PathBuf::from(OsStr::from_bytes(path.strip_suffix(b"\n").unwrap_or(&path)));
            Ok(path.canonicalize().unwrap_or(path))
        };
        let objects = place("objects")?;
        let name = blake3::hash(objects.as_os_str().as_encoded_bytes()).to_hex();
        let dir = make_dir(&cache.dir("bisect")?.join(&name[..16]))?;
        let lock = Lock::acquire(&dir.join("lock"), "bisecting the same repository")?;
        let history = History { dir, lock };
        let git = make_dir(&history.dir.join("git"))?;
        for folder in ["objects/info", "refs", "info"] {
            make_dir(&git.join(folder))?;
        }
        write_whole(&git.join("config"), CONFIG.as_bytes())?;
        write_whole(&git.join("info/attributes"), ATTRIBUTES.as_bytes())?;
        let alternates = [objects.as_os_str().as_bytes(), b"\n"].concat();
        write_whole(&git.join("objects/info/alternates"), &alternates)?;
        // Where the user's history ends early, so does ours.
        match fs::read(place("shallow")?) {
            Ok(shallow) => write_whole(&git.join("shallow"), &shallow)?,
            Err(_) => drop(fs::remove_file(git.join("shallow"))),
        }
        // Left by a call that was killed; nobody else is here.
        for path in
            files_below(&git, |_| true)?.iter().filter(|path| path.extension() == Some("lock".as_ref()))
        {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        write_whole(&git.join("HEAD"), b"ref: refs/heads/none\n")?;
        Ok(history)
    }

    /// The commit that the user calls `name`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn resolve(&self, users: &Path, name: &str) -> Result<String> {
        let mut git = users_git(users);
        git.args(["rev-parse", "--verify", "--quiet", "--end-of-options"]).arg(format!("{name}^{{commit}}"));
        let hash = read(&mut git).map_err(|_| usage!("{name} is no commit of {}", users.display()))?;
        Ok(String::from_utf8_lossy(&hash).trim().to_owned())
    }

    /// Where state of searches through this history is kept, and the tree.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the tree that of a commit, and says where it is.
    ///
    /// # Errors
    /// When an object is missing, or the disk is full.
    pub fn unpack(&self, commit: &str) -> Result<PathBuf> {
        let tree = make_dir(&self.dir.join("tree"))?;
        let here = format!("--work-tree={}", tree.display());
        self.git(&[&here, "read-tree", "--reset", "-u", commit])?;
        // What a killed call had unpacked of another commit.
        self.git(&[&here, "clean", "-ffdxq"])?;
        Ok(tree)
    }

    /// Commits that could be the first bad one, the bad one included.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn suspects(&self, bad: &str, good: &[String]) -> Result<Vec<String>> {
        let mut args = vec!["rev-list", bad, "--not"];
        args.extend(good.iter().map(String::as_str));
        Ok(self.git(&args)?.lines().map(str::to_owned).collect())
    }

    /// The last commits that two have in common: one of the two, if it is in the other's history.
    ///
    /// # Errors
    /// When they have nothing in common.
    pub fn bases(&self, one: &str, other: &str) -> Result<Vec<String>> {
        let bases = self.git(&["merge-base", "--all", one, other]);
        let bases = bases.map_err(|_| usage!("{one} and {other} have no history in common"))?;
        Ok(bases.lines().map(str::to_owned).collect())
    }

    /// The commit to test next, as `git bisect` has it: in the middle of what is left, away from what was skipped.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn next(&self, bad: &str, good: &[String], skipped: &[String]) -> Result<String> {
        // Its state is made afresh each time: what was learned is kept elsewhere.
        self.git(&["update-ref", "--no-deref", "HEAD", bad])?;
        let mut start = vec!["bisect", "start", "--no-checkout", bad];
        start.extend(good.iter().map(String::as_str));
        self.git(&start)?;
        if !skipped.is_empty() {
            let mut skip = vec!["bisect", "skip"];
            skip.extend(skipped.iter().map(String::as_str));
            self.git(&skip)?;
        }
        Ok(self.git(&["rev-parse", "--verify", "BISECT_HEAD"])?.trim().to_owned())
    }

    /// The first line of a commit's message, as it is.
    ///
    /// # Errors
    /// When the commit is not there.
    pub fn subject(&self, commit: &str) -> Result<String> {
        Ok(self.git(&["log", "-1", "--no-show-signature", "--format=%s", commit])?.trim_end().to_owned())
    }

    /// The commits of `to` that `from` does not have, as mails, oldest first. Merges are none.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn mails(&self, from: &str, to: &str) -> Result<String> {
        self.git(&["format-patch", "--stdout", "--no-signature", "--full-index", &format!("{from}..{to}")])
    }

    /// Applies patches to a commit one after the other, each three-way: where lines moved since it was written, what it was
    /// written for is found by the object names in it. The diffs that came of it.
    ///
    /// # Errors
    /// The index of the one that does not apply, and what git said.
    pub fn three_way(&self, commit: &str, patches: &[&Path]) -> Result<Vec<String>, (usize, anyhow::Error)> {
        let index = self.dir.join("series.index");
        let git = |args: &[&str]| self.git_in(&index, args);
        let mut last = git(&["read-tree", "--reset", commit])
            .and_then(|_| git(&["write-tree"]))
            .map_err(|error| (0, error))?;
        let mut one = |patch: &Path| -> Result<String> {
            let patch = patch.display().to_string();
            git(&["apply", "--cached", "--3way", "-p1", "--whitespace=nowarn", "--", &patch])
                .map_err(|error| usage!("{error:#}"))?;
            let tree = git(&["write-tree"])?;
            let diff = git(&["diff-tree", "-p", "--no-renames", "--no-ext-diff", last.trim(), tree.trim()])?;
            last = tree;
            Ok(diff)
        };
        patches.iter().enumerate().map(|(nth, patch)| one(patch).map_err(|error| (nth, error))).collect()
    }

    fn git(&self, args: &[&str]) -> Result<String> {
        self.git_in(&self.dir.join("git/index"), args)
    }

    fn git_in(&self, index: &Path, args: &[&str]) -> Result<String> {
        let mut git = proc::dies_with_us("KILL", "timeout");
        git.args(["--signal=KILL", LIMIT_S, "git"]).arg("--git-dir").arg(self.dir.join("git"));
        git.args(args);
        // Whatever the user has set or configured must not decide what is unpacked.
        let path = std::env::var_os("PATH").unwrap_or_default();
        git.env_clear().env("PATH", path).env("LC_ALL", "C").env("HOME", &self.dir);
        for name in ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"] {
            git.env(name, "/dev/null");
        }
        git.env("GIT_INDEX_FILE", index).env("GIT_ATTR_NOSYSTEM", "1").env("GIT_ALLOW_PROTOCOL", "none");
        // A git that outlives us keeps the next call waiting.
        git.stdin(self.lock.as_stdin()?).current_dir(&self.dir);
        Ok(String::from_utf8_lossy(&read(&mut git)?).into_owned())
    }
}

/// A git that looks into the user's repository.
fn users_git(users: &Path) -> Command {
    let mut git = Command::new("git");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GIT_")) {
        git.env_remove(name);
    }
    git.env("GIT_ALLOW_PROTOCOL", "none").arg("-C").arg(users);
    git.args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]);
    git
}

/// Standard output of a command that must succeed.
fn read(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("git failed ({}): {}", output.status, proc::tail(&String::from_utf8_lossy(&said)));
    }
    Ok(output.stdout)
}
