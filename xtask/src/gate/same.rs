// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a series changes anything that runs, or only a comment, a name of a variable, a file that this configuration does
//! not compile. Builds are reproducible and so are guests, so what the kernel without the series showed, the same kernel
//! shows.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionFlags, elf::SHF_ALLOC,
};

use super::{
    Gate,
    outcome::{Check, Status},
};
use crate::{exit::Unfit, guest::Machine, kernel::Trust, prepare::Prepared};

/// Why a kernel is the same.
pub type Why = &'static str;

const IMAGE: Why = "the kernel is the same as without the series, byte for byte but for its build id";
const COMMENTS: Why = "the series changes comments and blanks alone";
/// What a kernel and its modules have in memory and that tells which source they were made from: build ids.
const NOTES: &str = ".note";
/// Folders that have more of a guest in them than `vmlinux`: what unpacks it, what makes it, what the selftests are.
const APART: [&str; 6] = ["arch/", "drivers/firmware/efi/", "lib/", "scripts/", "tools/", "usr/"];

/// What stands in for a step that has nothing to look at.
pub fn check(name: &str, why: Why) -> Check {
    Check::new(name, Status::Pass, why)
}

/// What files of C say to a compiler; none where one is something else.
pub fn sources(src: &Path, files: &[&str]) -> Option<Vec<String>> {
    let is_c = |file: &&str| (file.ends_with(".c") || file.ends_with(".h")).then_some(());
    files
        .iter()
        .map(|file| is_c(file).and(fs::read_to_string(src.join(file)).ok()))
        .map(|text| Some(bare(&text?)))
        .collect()
}

impl Gate<'_> {
    /// Notes why the kernel is the same, where all that was touched says to a compiler what it said before.
    pub fn compare_sources(&mut self, before: Option<Vec<String>>, after: Option<Vec<String>>) {
        self.same = before.zip(after).filter(|(before, after)| before == after).map(|_| COMMENTS);
    }

    /// Why guests of both run the same code, if they do.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn is_same(&self, base: &Prepared, patched: &Prepared) -> Result<Option<Why>> {
        if self.same.is_some() {
            return Ok(self.same);
        }
        if !self.series.touched().into_iter().all(is_plain_source) {
            return Ok(None);
        }
        Ok((code(&base.machine)? == code(&patched.machine)?).then_some(IMAGE))
    }

    /// Why guests of another instance run the same code with the series and without, if they do.
    ///
    /// # Errors
    /// When the kernel without it does not build, or a file cannot be read.
    pub fn is_same_instance(&self, instance: &str) -> Result<Option<Why>> {
        match self.prepare(instance, self.trust, &self.series.files()) {
            Ok(patched) => self.is_same(&self.prepare(instance, Trust::Own, &[])?, &patched),
            Err(error) if error.chain().any(|cause| cause.is::<Unfit>()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// C without comments and blanks, which only move the numbers of lines.
fn bare(text: &str) -> String {
    let text = text.replace("\\\n", " ");
    let mut bare = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let n_taken = match c {
            '/' if rest.starts_with("/*") => {
                push_blank(&mut bare, ' ');
                rest[2..].find("*/").map_or(rest.len(), |at| at + 4)
            }
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' => {
                let n = literal(rest, c);
                bare.push_str(&rest[..n]);
                n
            }
            c if c.is_whitespace() => {
                push_blank(&mut bare, c);
                c.len_utf8()
            }
            c => {
                bare.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[n_taken..];
    }
    bare.truncate(bare.trim_end().len());
    bare
}

/// Of blanks in a row one is left; the end of a line is more than a blank, which it is to the preprocessor.
fn push_blank(bare: &mut String, blank: char) {
    let blank = if blank == '\n' { '\n' } else { ' ' };
    match bare.chars().next_back() {
        Some(' ') if blank == '\n' => {
            bare.pop();
            push_blank(bare, blank);
        }
        None | Some(' ' | '\n') => {}
        Some(_) => bare.push(blank),
    }
}

/// Length of the string or character that a text begins with; to the end of the line where it has no end.
fn literal(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return at,
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Digests of the kernel and of each module; the rest of a guest is the same whatever the kernel is.
fn code(machine: &Machine) -> Result<Vec<blake3::Hash>> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let images = std::iter::once(&machine.vmlinux).chain(&machine.modules);
    images.map(|image| loaded(&read(image)?)).collect()
}

fn is_plain_source(file: &str) -> bool {
    let is_apart = APART.iter().any(|folder| file.starts_with(folder));
    !is_apart && [".c", ".h", ".rs", ".S"].iter().any(|end| file.ends_with(end))
}

/// Digest of everything that an image has in memory, but for notes.
fn loaded(elf: &[u8]) -> Result<blake3::Hash> {
    let file = object::File::parse(elf).context("a kernel or module is no ELF file")?;
    let mut hasher = blake3::Hasher::new();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        let flags = sh_flags.0;
        let name = section.name().context("a section of a kernel or module")?;
        if flags & SHF_ALLOC.0 == 0 || name.starts_with(NOTES) {
            continue;
        }
        let data = section.data().context("a section of a kernel or module")?;
        for part in [section.address(), section.size(), flags, data.len() as u64, name.len() as u64] {
            hasher.update(&part.to_le_bytes());
        }
        hasher.update(name.as_bytes()).update(data);
        // What a module calls is filled in when it is loaded.
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(idx) = relocation.target() else { continue };
            let symbol = file.symbol_by_index(idx).context("a symbol of a kernel or module")?;
            let section = symbol.section_index().map_or(0, |section| section.0 as u64);
            for part in [offset, relocation.addend() as u64, symbol.address(), section] {
                hasher.update(&part.to_le_bytes());
            }
            hasher.update(symbol.name_bytes().context("a symbol of a kernel or module")?).update(b"\0");
        }
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_counts_and_the_build_id_does_not() {
        let own = fs::read("/proc/self/exe").unwrap();
        let file = object::File::parse(&*own).unwrap();
        let changed = |section: &str| {
            let (at, len) = file.section_by_name(section).unwrap().file_range().unwrap();
            let mut bytes = own.clone();
            bytes[(at + len / 2) as usize] ^= 1;
            loaded(&bytes).unwrap()
        };
        let before = loaded(&own).unwrap();
        assert_ne!(changed(".text"), before);
        assert_ne!(changed(".rodata"), before);
        assert_eq!(changed(".comment"), before);
        assert!(loaded(b"no ELF").is_err());
    }

    #[test]
    fn comments_and_blanks_do_not_count_and_all_else_does() {
        let before =
            "#include <a.h>\n/* One. */\nint f(void)\n{\n\treturn g(\"/* no */ a  b\", '\\''); // two\n}\n";
        let same = "#include <a.h>\n\n\n  /* Another,\n * longer \"one */\nint  f(void)\n{\n        return g(\"/* no */ a  b\", '\\'');\n}";
        assert_eq!(bare(before), bare(same));
        for other in [
            before.replace("a  b", "a b"),
            before.replace("/* no */", ""),
            before.replace("int f", "intf"),
            before.replace("return", "/* return */"),
            before.replace("<a.h>\n/* One. */\n", "<a.h> "),
        ] {
            assert_ne!(bare(before), bare(&other), "{other}");
        }
        // Without an end.
        for text in ["/*", "\"", "'", "//", "\"\\", "/* x", "#error don't\nint x; /* y */"] {
            bare(text);
        }
        assert_eq!(bare("#error don't\nint x; /* y */"), "#error don't\nint x;");
    }

    #[test]
    fn what_makes_more_of_a_guest_than_the_kernel_is_not_passed_over() {
        for file in ["mm/shrinker.c", "include/linux/shrinker.h", "rust/kernel/lib.rs"] {
            assert!(is_plain_source(file), "{file}");
        }
        for file in [
            "arch/x86/boot/main.c",
            "lib/decompress_unxz.c",
            "Makefile",
            "mm/Kconfig",
            "tools/testing/selftests/mm/cow.c",
        ] {
            assert!(!is_plain_source(file), "{file}");
        }
    }
}
