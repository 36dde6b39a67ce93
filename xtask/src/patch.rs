// SPDX-License-Identifier: MIT OR Apache-2.0
//! Patches on a private source copy: which files one touches, applying, and taking all of them back.
//!
//! Before a file is touched, what it was is written down beside the tree, so that the next build restores it however
//! this one ended. `git apply` does the work; it refuses paths that leave the tree, also through links, and so do we,
//! before anything is written.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use xshell::{Shell, cmd};

use crate::{
    paths::{make_dir, write_whole},
    proc, usage,
};

/// A patch: one diff, out of a mail or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// The file it came from, for messages.
    pub name: String,
    /// The diff.
    pub diff: String,
}

/// What files were before they were touched: a file of the record's folder, or nothing for a file that was not there.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    files: BTreeMap<PathBuf, Option<String>>,
}

/// Reads a patch file: a plain diff, a mail, or a mailbox with several.
///
/// # Errors
/// When it cannot be read or holds no diff.
pub fn load(path: &Path) -> Result<Vec<Patch>> {
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| usage!("patch {name}: {error}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let is_mail = is_mail(&text);
    let diffs = match is_mail {
        true => mails(path)?.into_iter().map(|mail| mail.diff).collect(),
        false => vec![text.into_owned()],
    };
    let several = diffs.len() > 1;
    let patches: Vec<Patch> = diffs
        .into_iter()
        .enumerate()
        .filter(|(_, diff)| is_diff(diff))
        .map(|(idx, diff)| {
            let name = if several { format!("{name} (mail {})", idx + 1) } else { name.clone() };
            Patch { name, diff }
        })
        .collect();
    match patches.is_empty() {
        true => Err(usage!("patch {name}: there is no diff in it")),
        false => Ok(patches),
    }
}

/// A mailbox, or a mail whose body is not the diff as it stands.
pub fn is_mail(text: &str) -> bool {
    text.starts_with("From ")
        || text.lines().take_while(|line| !line.starts_with("diff ")).any(is_encoding_header)
}

fn is_encoding_header(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    line.strip_prefix("content-transfer-encoding:")
        .is_some_and(|value| ["quoted-printable", "base64"].contains(&value.trim()))
}

/// Whether a text has a diff in it; a cover letter has none.
pub fn is_diff(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("--- ") || line.starts_with("diff --git "))
}

/// A mail, with or without a diff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// As it came.
    pub text: String,
    /// Its subject, without `[PATCH …]`.
    pub subject: String,
    /// Its id, without angle brackets.
    pub message_id: Option<String>,
    /// The diff, decoded; empty in a cover letter.
    pub diff: String,
}

/// The mails of a mailbox, or the one of a file.
///
/// # Errors
/// When git cannot read one.
pub fn mails(path: &Path) -> Result<Vec<Mail>> {
    let work = tempfile::tempdir().context("cannot make a folder for mails")?;
    let shell = git_shell(work.path())?;
    let folder = work.path();
    let path = std::path::absolute(path).context("cannot find out the current folder")?;
    proc::read(cmd!(shell, "timeout 60 git mailsplit -b -o{folder} -- {path}"))
        .map_err(|error| usage!("patch {}: {error:#}", path.display()))?;
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).context("cannot list mails")?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut mails = Vec::new();
    for mail in files {
        let (message, diff) = (mail.with_extension("message"), mail.with_extension("diff"));
        let text = fs::read(&mail).with_context(|| format!("cannot read {}", mail.display()))?;
        let about = proc::read(cmd!(shell, "timeout 60 git mailinfo {message} {diff}").stdin(&text))
            .map_err(|error| usage!("patch {}: {error:#}", path.display()))?;
        let bytes = fs::read(&diff).with_context(|| format!("cannot read {}", diff.display()))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let subject = about.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap_or_default();
        mails.push(Mail {
            subject: subject.to_owned(),
            message_id: message_id(&text),
            diff: String::from_utf8_lossy(&bytes).into_owned(),
            text,
        });
    }
    Ok(mails)
}

fn message_id(mail: &str) -> Option<String> {
    let headers = mail.lines().take_while(|line| !line.is_empty());
    let ids = headers.filter_map(|line| line.get(..11).zip(line.get(11..)));
    let id = ids.filter(|(name, _)| name.eq_ignore_ascii_case("message-id:")).map(|(_, id)| id).next()?;
    Some(id.trim().trim_start_matches('<').trim_end_matches('>').to_owned())
}

/// A shell for git that sees neither a repository around the folder nor the user's settings.
fn git_shell(folder: &Path) -> Result<Shell> {
    let shell = proc::shell()?;
    shell.change_dir(folder);
    shell.set_var("GIT_CEILING_DIRECTORIES", folder.parent().unwrap_or(folder));
    shell.set_var("GIT_CONFIG_GLOBAL", "/dev/null");
    shell.set_var("GIT_CONFIG_NOSYSTEM", "1");
    Ok(shell)
}

/// Applies patches in order to `source`, recording in the folder `record` what it touches.
///
/// # Errors
/// When one does not apply; names it and says what `git apply` said about which hunk. What was applied by then is
/// taken back by the next [`restore`].
pub fn apply(source: &Path, record: &Path, patches: &[Patch]) -> Result<()> {
    for patch in patches {
        let touched = touched(source, patch)?;
        for path in &touched {
            check_path(source, path)
                .map_err(|rule| usage!("patch {}: {}: {rule}", patch.name, path.display()))?;
        }
        let shell = git_shell(source)?;
        let command = cmd!(shell, "timeout 120 git apply -p1 --whitespace=nowarn --check -");
        proc::read(command.stdin(&patch.diff))
            .map_err(|error| usage!("patch {} does not apply: {error:#}", patch.name))?;
        write_down(source, record, &touched)?;
        let command = cmd!(shell, "timeout 120 git apply -p1 --whitespace=nowarn -");
        proc::read(command.stdin(&patch.diff))
            .with_context(|| format!("patch {} applied in the rehearsal only", patch.name))?;
    }
    Ok(())
}

/// Whether patches touch files that say how the kernel is configured or built.
pub fn touches_configuration(source: &Path, patches: &[Patch]) -> Result<bool> {
    for patch in patches {
        let is_configuration = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.starts_with("scripts")
                || ["Kconfig", "Makefile", "Kbuild"].iter().any(|start| name.starts_with(start))
        };
        if touched(source, patch)?.iter().any(is_configuration) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The files a patch touches, by git's own reading of it.
///
/// # Errors
/// When it is no patch, or makes links.
pub fn touched(source: &Path, patch: &Patch) -> Result<Vec<PathBuf>> {
    let shell = git_shell(source)?;
    let read = |what: &str| {
        let command = cmd!(shell, "timeout 60 git apply -p1 {what} -z -");
        proc::read(command.stdin(&patch.diff)).map_err(|error| usage!("patch {}: {error:#}", patch.name))
    };
    // A link that a patch makes could lead a later write out of the tree.
    if read("--summary")?.contains(" 120000 ") {
        return Err(usage!("patch {}: makes a symbolic link, which is not supported", patch.name));
    }
    let numstat = read("--numstat")?;
    let named = numstat.split('\0').filter_map(|entry| entry.splitn(3, '\t').nth(2)).map(PathBuf::from);
    // git lists a renamed file under its new name only.
    let renamed = patch.diff.lines().filter_map(|line| line.strip_prefix("rename from ")).map(PathBuf::from);
    Ok(named.chain(renamed).collect())
}

/// A path is inside the tree, and no part of it is a link.
fn check_path(source: &Path, path: &Path) -> Result<(), &'static str> {
    if path.as_os_str().is_empty() || !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err("leaves the source tree");
    }
    let mut part = source.to_path_buf();
    for component in path.components() {
        part.push(component);
        if part.is_symlink() {
            return Err("goes through a symbolic link");
        }
    }
    Ok(())
}

/// Adds what files are now to the record, unless they are in it. The record is whole on disk before this returns.
fn write_down(source: &Path, folder: &Path, paths: &[PathBuf]) -> Result<()> {
    make_dir(folder)?;
    let mut record = read_record(folder)?.unwrap_or_default();
    for path in paths {
        if record.files.contains_key(path) {
            continue;
        }
        let before = match fs::read(source.join(path)) {
            Ok(content) => {
                let name = format!("{:04}", record.files.len());
                write_whole(&folder.join(&name), &content)?;
                Some(name)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        record.files.insert(path.clone(), before);
    }
    let bytes = serde_json::to_vec_pretty(&record).context("cannot encode the patch record")?;
    write_whole(&folder.join("record.json"), &bytes)
}

fn read_record(folder: &Path) -> Result<Option<Record>> {
    let path = folder.join("record.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| {
            format!("{} is damaged; remove {} to start over", path.display(), folder.display())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Takes back everything that [`apply`] did since the last time. The files get new time stamps, so make sees them.
///
/// # Errors
/// When a file cannot be restored.
pub fn restore(source: &Path, folder: &Path) -> Result<()> {
    let Some(record) = read_record(folder)? else { return Ok(()) };
    for (path, before) in &record.files {
        check_path(source, path).map_err(|rule| anyhow!("cannot restore {}: {rule}", path.display()))?;
        let file = source.join(path);
        match before {
            Some(name) => {
                let content = fs::read(folder.join(name)).context("cannot read the patch record")?;
                let mode = file.metadata().map(|meta| meta.permissions());
                make_dir(file.parent().unwrap_or(source))?;
                write_whole(&file, &content)?;
                let mode = mode.unwrap_or_else(|_| std::os::unix::fs::PermissionsExt::from_mode(0o644));
                fs::set_permissions(&file, mode)
                    .with_context(|| format!("cannot set the mode of {}", file.display()))?;
            }
            None => match fs::remove_file(&file) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot remove {}", file.display())),
            },
        }
    }
    // The record first: the files without it mean nothing.
    fs::remove_file(folder.join("record.json")).context("cannot remove the patch record")?;
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    struct Tree {
        top: tempfile::TempDir,
    }

    impl Tree {
        fn new() -> Tree {
            let tree = Tree { top: tempfile::tempdir().unwrap() };
            fs::create_dir_all(tree.src().join("mm")).unwrap();
            fs::create_dir_all(tree.top.path().join("outside")).unwrap();
            fs::write(tree.src().join("mm/a.c"), "one\ntwo\nthree\n").unwrap();
            fs::write(tree.src().join("mm/keep.c"), "keep\n").unwrap();
            fs::write(tree.top.path().join("outside/b.c"), "one\n").unwrap();
            symlink("../outside", tree.src().join("link")).unwrap();
            tree
        }

        fn src(&self) -> PathBuf {
            self.top.path().join("src")
        }

        fn record(&self) -> PathBuf {
            self.top.path().join("patched")
        }

        fn a(&self) -> String {
            fs::read_to_string(self.src().join("mm/a.c")).unwrap()
        }

        fn apply(&self, diffs: &[&str]) -> Result<()> {
            let patches: Vec<Patch> = diffs
                .iter()
                .enumerate()
                .map(|(idx, diff)| Patch { name: format!("{idx}.patch"), diff: (*diff).to_string() })
                .collect();
            apply(&self.src(), &self.record(), &patches)
        }

        fn restore(&self) {
            restore(&self.src(), &self.record()).unwrap();
        }

        /// The error of a patch that must be refused, with nothing written anywhere.
        fn refused(&self, diff: &str) -> String {
            let error = self.apply(&[diff]).unwrap_err();
            assert_eq!(crate::exit::exit_of(&error), crate::exit::Exit::Usage, "{error:#}");
            assert_eq!(fs::read_to_string(self.top.path().join("outside/b.c")).unwrap(), "one\n");
            assert_eq!(fs::read_dir(self.top.path().join("outside")).unwrap().count(), 1);
            assert!(!self.record().exists());
            format!("{error:#}")
        }
    }

    const CHANGE: &str = "--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n";
    const AGAIN: &str = "--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1,3 +1,3 @@\n one\n-TWO\n+2\n three\n";
    const NEW: &str = "diff --git a/mm/new.c b/mm/new.c\nnew file mode 100644\n--- /dev/null\n+++ b/mm/new.c\n@@ -0,0 +1 @@\n+new\n";
    const DELETE: &str = "diff --git a/mm/a.c b/mm/a.c\ndeleted file mode 100644\n--- a/mm/a.c\n+++ /dev/null\n@@ -1,3 +0,0 @@\n-one\n-two\n-three\n";
    const RENAME: &str =
        "diff --git a/mm/a.c b/mm/b.c\nsimilarity index 100%\nrename from mm/a.c\nrename to mm/b.c\n";

    #[test]
    fn patches_are_applied_in_order_and_taken_back_whatever_they_did() {
        for diffs in [&[CHANGE, AGAIN, NEW][..], &[DELETE], &[RENAME], &[]] {
            let tree = Tree::new();
            let files = || {
                let mut names: Vec<_> = fs::read_dir(tree.src().join("mm"))
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name())
                    .collect();
                names.sort();
                names
            };
            let before = (files(), tree.a());
            tree.apply(diffs).unwrap();
            let is_same = files() == before.0 && tree.a() == before.1;
            assert_eq!(is_same, diffs.is_empty());
            tree.restore();
            assert_eq!((files(), tree.a()), before);
            assert!(!tree.record().exists());
            tree.restore();
        }
    }

    #[test]
    fn the_original_behind_a_hard_link_is_not_written() {
        let tree = Tree::new();
        let original = tree.top.path().join("original.c");
        fs::hard_link(tree.src().join("mm/a.c"), &original).unwrap();
        tree.apply(&[CHANGE]).unwrap();
        assert_eq!(tree.a(), "one\nTWO\nthree\n");
        assert_eq!(fs::read_to_string(&original).unwrap(), "one\ntwo\nthree\n");
        tree.restore();
        assert_ne!(original.metadata().unwrap().ino(), tree.src().join("mm/a.c").metadata().unwrap().ino());
    }

    #[test]
    fn what_a_killed_run_left_is_restored() {
        let tree = Tree::new();
        // Killed after the record was written, in the middle of the patch's own work.
        write_down(&tree.src(), &tree.record(), &["mm/a.c".into(), "mm/new.c".into()]).unwrap();
        fs::remove_file(tree.src().join("mm/a.c")).unwrap();
        fs::write(tree.src().join("mm/new.c"), "half").unwrap();
        tree.restore();
        assert_eq!(tree.a(), "one\ntwo\nthree\n");
        assert!(!tree.src().join("mm/new.c").exists());
    }

    #[test]
    fn a_patch_that_does_not_apply_is_named_with_the_hunk() {
        let tree = Tree::new();
        let error = tree.refused(AGAIN);
        for part in ["0.patch does not apply", "mm/a.c:1"] {
            assert!(error.contains(part), "{part} not in {error}");
        }
        assert_eq!(tree.a(), "one\ntwo\nthree\n");
    }

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        let tree = Tree::new();
        let outside = tree.top.path().join("outside/b.c").display().to_string();
        for path in ["../outside/b.c", &outside, "link/b.c", "mm/../../outside/b.c"] {
            let diff = format!("--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-one\n+bad\n");
            tree.refused(&diff);
            let new = format!(
                "diff --git a/{path}.new b/{path}.new\nnew file mode 100644\n--- /dev/null\n+++ b/{path}.new\n@@ -0,0 +1 @@\n+bad\n"
            );
            tree.refused(&new);
        }
    }

    #[test]
    fn a_patch_that_makes_a_link_is_refused() {
        let tree = Tree::new();
        let link = "diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+../outside\n\\ No newline at end of file\n";
        assert!(tree.refused(link).contains("symbolic link"));
    }

    #[test]
    fn mails_are_decoded_and_mailboxes_are_split() {
        let tree = Tree::new();
        let file = tree.top.path().join("series.mbox");
        let mail = |subject: &str, encoding: &str, diff: &str| {
            format!(
                "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\n\
                 Date: Mon, 1 Jan 2024 00:00:00 +0000\nSubject: {subject}\nMIME-Version: 1.0\n\
                 Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: {encoding}\n\nwhy\n\n---\n{diff}-- \n2.40\n\n"
            )
        };
        // "=41" is "A" in quoted-printable; a reader that does not decode finds no such line.
        let quoted =
            NEW.replace("+new\n", "+new=41\n").replace("a/mm/new.c b/mm/new.c", "a/mm/n=65w.c b/mm/new.c");
        fs::write(&file, mail("one", "8bit", CHANGE) + &mail("two", "quoted-printable", &quoted)).unwrap();
        let patches = load(&file).unwrap();
        assert_eq!(patches.len(), 2);
        apply(&tree.src(), &tree.record(), &patches).unwrap();
        assert_eq!(tree.a(), "one\nTWO\nthree\n");
        assert_eq!(fs::read_to_string(tree.src().join("mm/new.c")).unwrap(), "newA\n");
    }

    #[test]
    fn a_file_without_a_diff_is_no_patch() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hello\n").unwrap();
        assert!(load(file.path()).unwrap_err().to_string().contains("no diff"));
    }
}
