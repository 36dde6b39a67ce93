// SPDX-License-Identifier: MIT OR Apache-2.0
//! The series: mails or diffs, read, refused where they are nothing to build, and kept one file a patch.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use harness::plain;

use super::outcome::PatchInfo;
use crate::{
    bisect::git::History,
    patch::{self, Patch},
    paths::{self, Cache},
    prepare, usage,
};

/// Largest series that is read, bytes. The largest that ever touched mm/ are a tenth of it.
const SIZE_MAX: u64 = 32 << 20;
/// Most patches of a series.
const PATCHES_MAX: usize = 500;

/// One patch of it.
#[derive(Clone, Debug)]
pub struct Piece {
    /// What results say of it.
    pub info: PatchInfo,
    /// The diff.
    pub patch: Patch,
    /// The diff in a file of the cache.
    pub file: PathBuf,
    /// The whole mail, where it was one; else the diff.
    pub text: String,
    /// Whether it was a mail: a diff has no message that one could find fault with.
    pub is_mail: bool,
}

/// The series.
#[derive(Clone, Debug)]
pub struct Series {
    /// Patches in order.
    pub pieces: Vec<Piece>,
}

impl Series {
    /// Reads mails, mailboxes and diffs; `-` is standard input.
    ///
    /// # Errors
    /// When one is too large, binary, or has nothing in it.
    pub fn read(cache: &Cache, files: &[PathBuf]) -> Result<Series> {
        let mut pieces = Vec::new();
        for file in files {
            let name =
                if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
            let bytes = match file == Path::new("-") {
                true => limited(std::io::stdin().lock()),
                false => fs::File::open(file).and_then(limited),
            };
            let bytes = bytes.map_err(|error| usage!("{}: {error}", plain::line(&name, 200)))?;
            pieces.extend(of_bytes(cache, &name, &bytes)?);
        }
        Series::of(pieces)
    }

    /// The commits of a range of the user's repository.
    ///
    /// # Errors
    /// When they cannot be read, or there is none.
    pub fn of_range(cache: &Cache, history: &History, from: &str, to: &str) -> Result<Series> {
        Series::of(of_bytes(cache, "the range", history.mails(from, to)?.as_bytes())?)
    }

    /// Files that it touches, below the kernel's top.
    pub fn touched(&self) -> Vec<&str> {
        self.pieces.iter().flat_map(|piece| &piece.info.files).map(String::as_str).collect()
    }

    fn of(pieces: Vec<Piece>) -> Result<Series> {
        match pieces.len() {
            0 => Err(usage!("there is no diff in the series")),
            n if n > PATCHES_MAX => {
                Err(usage!("a series of {n} patches; at most {PATCHES_MAX} are looked at"))
            }
            _ => Ok(Series { pieces }),
        }
    }

    /// Puts other diffs in place of the patches': the same changes, made to apply.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn replace(&mut self, cache: &Cache, diffs: Vec<String>) -> Result<()> {
        for (piece, diff) in self.pieces.iter_mut().zip(diffs) {
            piece.file = keep(cache, &diff)?;
            piece.patch.diff = diff;
        }
        Ok(())
    }

    /// The patches.
    pub fn patches(&self) -> Vec<Patch> {
        self.pieces.iter().map(|piece| piece.patch.clone()).collect()
    }

    /// Their files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.pieces.iter().map(|piece| piece.file.clone()).collect()
    }
}

fn limited(mut from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.by_ref().take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > SIZE_MAX {
        true => Err(std::io::Error::other(format!("larger than {} MiB", SIZE_MAX >> 20))),
        false => Ok(bytes),
    }
}

fn of_bytes(cache: &Cache, name: &str, bytes: &[u8]) -> Result<Vec<Piece>> {
    let text = String::from_utf8_lossy(bytes);
    let work = tempfile::tempdir().context("cannot make a folder for the series")?;
    let whole = work.path().join("series");
    fs::write(&whole, bytes).context("cannot write the series")?;
    let shown = plain::line(name, 200);
    let mut pieces = Vec::new();
    if patch::is_mail(&text) || starts_with_header(&text) {
        for mail in patch::mails(&whole)?.into_iter().filter(|mail| patch::is_diff(&mail.diff)) {
            let subject = plain::line(&mail.subject, 200);
            pieces.push(piece(cache, subject, mail.message_id, mail.diff, mail.text, true)?);
        }
    } else if patch::is_diff(&text) {
        let subject = Path::new(name).file_name().unwrap_or_default().to_string_lossy();
        let (subject, text) = (plain::line(&subject, 200), text.into_owned());
        pieces.push(piece(cache, subject, None, text.clone(), text, false)?);
    }
    match pieces.is_empty() {
        true => Err(usage!("{shown}: there is no diff in it")),
        false => Ok(pieces),
    }
}

/// A mail that was saved without the line that mailboxes begin mails with.
fn starts_with_header(text: &str) -> bool {
    let is_header = |line: &str| {
        ["from:", "subject:", "date:", "message-id:"]
            .iter()
            .any(|name| line.to_ascii_lowercase().starts_with(name))
    };
    text.lines().take_while(|line| !line.is_empty()).any(is_header)
}

fn piece(
    cache: &Cache,
    subject: String,
    message_id: Option<String>,
    diff: String,
    text: String,
    is_mail: bool,
) -> Result<Piece> {
    let is_binary = |line: &str| {
        line.starts_with("GIT binary patch")
            || (line.starts_with("Binary files ") && line.ends_with("differ"))
    };
    if diff.lines().any(is_binary) {
        return Err(usage!("patch {subject:?}: changes a binary file, which is not supported"));
    }
    let patch = Patch { name: subject.clone(), diff };
    let files =
        patch::touched(Path::new("/"), &patch)?.iter().map(|path| path.display().to_string()).collect();
    let file = keep(cache, &patch.diff)?;
    Ok(Piece { info: PatchInfo { subject, message_id, files }, patch, file, text, is_mail })
}

/// A diff as a file of the cache.
fn keep(cache: &Cache, diff: &str) -> Result<PathBuf> {
    let mut file = tempfile::NamedTempFile::new().context("cannot make a file for a patch")?;
    file.write_all(diff.as_bytes()).context("cannot write a patch")?;
    prepare::keep_patch(cache, file.path())
}

/// Writes a patch as it came to where programs can read it.
///
/// # Errors
/// When the disk is full.
pub fn write_text(piece: &Piece, folder: &Path) -> Result<PathBuf> {
    let path = folder.join("series.patch");
    paths::write_whole(&path, piece.text.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n";

    fn read(text: &str) -> Result<Series> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("it.patch");
        fs::write(&file, text).unwrap();
        Series::read(&Cache::at(dir.path()).unwrap(), &[file])
    }

    #[test]
    fn a_mailbox_is_patches_with_subjects_and_a_cover_letter_is_none() {
        let mail = |subject: &str, body: &str| {
            format!(
                "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\nFrom: A <a@b.c>\nDate: Mon, 1 Jan \
                 2024 00:00:00 +0000\nSubject: {subject}\nMessage-ID: <{}@b.c>\n\nText.\n\n{body}\n",
                subject.len()
            )
        };
        let diff = format!("---\n mm/a.c | 2 +-\n\ndiff --git a/mm/a.c b/mm/a.c\n{DIFF}-- \n2.4");
        let series =
            read(&[mail("[PATCH 0/1] cover", ""), mail("[PATCH 1/1] mm: shout", &diff)].concat()).unwrap();
        let [piece] = &series.pieces[..] else { panic!("{series:?}") };
        assert_eq!(piece.info.subject, "mm: shout");
        assert_eq!(piece.info.message_id.as_deref(), Some("21@b.c"));
        assert_eq!(piece.info.files, ["mm/a.c"]);
        assert!(piece.is_mail && piece.patch.diff.contains("+TWO"));
    }

    #[test]
    fn a_diff_is_called_as_its_file() {
        let series = read(DIFF).unwrap();
        assert_eq!(series.pieces[0].info.subject, "it.patch");
        assert!(!series.pieces[0].is_mail);
    }

    #[test]
    fn what_is_nothing_to_build_is_refused_by_name() {
        assert!(read("hello\n").unwrap_err().to_string().contains("no diff"));
        let binary = "diff --git a/x b/x\nindex 1..2 100644\nGIT binary patch\nliteral 1\nIcmZ\n\n--- a/x\n";
        assert!(read(binary).unwrap_err().to_string().contains("binary"));
        let large = format!("{DIFF}{}", " ".repeat(SIZE_MAX as usize));
        assert!(read(&large).unwrap_err().to_string().contains("larger than 32 MiB"));
    }
}
