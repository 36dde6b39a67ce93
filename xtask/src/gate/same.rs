// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a series changes anything that runs: a comment, another name for a variable, a file that this configuration does
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

/// How results call it.
const TEXT: &str = "the kernel is the same as without the series, byte for byte but for its build id";
/// What a kernel and its modules have in memory and that tells which source they were made from: build ids.
const NOTES: &str = ".note";
/// Folders that have more of a guest in them than `vmlinux`: what unpacks it, what makes it, what the selftests are.
const APART: [&str; 4] = ["arch/", "scripts/", "tools/", "usr/"];

/// What stands in for a step that has nothing to look at.
pub fn check(name: &str) -> Check {
    Check::new(name, Status::Pass, TEXT)
}

impl Gate<'_> {
    /// Whether guests of both run the same code.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn is_same(&self, base: &Prepared, patched: &Prepared) -> Result<bool> {
        let mut files = self.series.pieces.iter().flat_map(|piece| &piece.info.files);
        if !files.all(|file| is_plain_source(file)) {
            return Ok(false);
        }
        Ok(code(&base.machine)? == code(&patched.machine)?)
    }

    /// Whether guests of another instance run the same code with the series and without.
    ///
    /// # Errors
    /// When the kernel without it does not build, or a file cannot be read.
    pub fn is_same_instance(&self, instance: &str) -> Result<bool> {
        match self.prepare(instance, self.trust, &self.series.files()) {
            Ok(patched) => self.is_same(&self.prepare(instance, Trust::Own, &[])?, &patched),
            Err(error) if error.chain().any(|cause| cause.is::<Unfit>()) => Ok(false),
            Err(error) => Err(error),
        }
    }
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
    fn what_makes_more_of_a_guest_than_the_kernel_is_not_passed_over() {
        for file in ["mm/shrinker.c", "include/linux/shrinker.h", "rust/kernel/lib.rs"] {
            assert!(is_plain_source(file), "{file}");
        }
        for file in ["arch/x86/boot/main.c", "Makefile", "mm/Kconfig", "tools/testing/selftests/mm/cow.c"] {
            assert!(!is_plain_source(file), "{file}");
        }
    }
}
