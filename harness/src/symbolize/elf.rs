// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens kernel images and modules: mapped, named, relocated, decompressed.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use object::{
    CompressionFormat, Object as _, ObjectKind, ObjectSection as _, ObjectSymbol as _, RelocationKind,
    RelocationTarget, SectionIndex, SectionKind, SymbolKind,
};
use ruzstd::decoding::StreamingDecoder;

/// Bytes of a debug section at most; a broken one may claim any size.
const SECTION_BYTES_MAX: u64 = 4 << 30;

/// Why a file cannot be symbolised with.
#[derive(Debug, thiserror::Error)]
pub enum SymbolizeError {
    /// It cannot be opened or mapped, or its debug sections cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no ELF file, or a broken one.
    #[error("{path}: {source}")]
    Elf {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: object::Error,
    },
    /// It is too large to be indexed.
    #[error("{path}: more code or names than an index can hold")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// A symbol of the code.
#[derive(Clone, Debug)]
pub(super) struct Symbol {
    pub name: String,
    pub address: u64,
    pub size: u64,
}

/// An ELF file and what its addresses are counted from.
pub(super) struct Image<'data> {
    pub elf: object::File<'data>,
    bases: HashMap<SectionIndex, u64>,
}

#[expect(
    unsafe_code,
    reason = "mapping a file has no safe form, and reading 140 MB for a few look-ups takes too long"
)]
pub(super) fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is private and read-only. Kernel images, modules and indexes are artifacts: written once under
    // another name, renamed into place and never changed, so the bytes stay what they are while they are borrowed.
    unsafe { Mmap::map(&file) }
}

impl<'data> Image<'data> {
    /// Reads the headers.
    pub(super) fn parse(path: &Path, data: &'data [u8]) -> Result<Image<'data>, SymbolizeError> {
        let elf = object::File::parse(data)
            .map_err(|source| SymbolizeError::Elf { path: path.to_path_buf(), source })?;
        let bases = section_bases(&elf);
        Ok(Image { elf, bases })
    }

    /// Build id, if the linker made one.
    pub(super) fn build_id(&self) -> Option<Vec<u8>> {
        self.elf.build_id().ok().flatten().map(<[u8]>::to_vec)
    }

    /// Address and size of a section of code.
    pub(super) fn section(&self, name: &str) -> Option<(u64, u64)> {
        let section = self.elf.section_by_name(name)?;
        let base = self.bases.get(&section.index()).copied().unwrap_or_default();
        Some((base.wrapping_add(section.address()), section.size()))
    }

    fn is_relocatable(&self) -> bool {
        self.elf.kind() == ObjectKind::Relocatable
    }

    /// Functions and labels of the code.
    pub(super) fn symbols(&self) -> Vec<Symbol> {
        let is_code = |kind| matches!(kind, SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown);
        let sections = self.elf.sections().filter(|section| section.kind() == SectionKind::Text);
        let code: HashSet<SectionIndex> = sections.map(|section| section.index()).collect();
        let symbols = self.elf.symbols().filter(|symbol| is_code(symbol.kind())).filter_map(|symbol| {
            let section = symbol.section_index().filter(|section| code.contains(section))?;
            let base = self.bases.get(&section).copied();
            let name = symbol.name().ok().filter(|name| !name.is_empty())?.to_string();
            Some(Symbol {
                name,
                address: base.unwrap_or_default().wrapping_add(symbol.address()),
                size: symbol.size(),
            })
        });
        symbols.collect()
    }

    /// A debug section: decompressed, and relocated where nothing was linked. Empty when there is none.
    pub(super) fn debug_section(&self, name: &str) -> io::Result<Cow<'data, [u8]>> {
        let Some(section) = self.elf.section_by_name(name) else { return Ok(Cow::Borrowed(&[])) };
        let data = uncompressed(&section)?;
        Ok(if self.is_relocatable() { Cow::Owned(self.relocated(&section, data.into_owned())) } else { data })
    }

    fn relocated(&self, section: &object::Section<'data, '_>, mut bytes: Vec<u8>) -> Vec<u8> {
        let is_little_endian = self.elf.is_little_endian();
        for (offset, relocation) in section.relocations() {
            if relocation.kind() != RelocationKind::Absolute {
                continue;
            }
            let base = |index| self.bases.get(&index).copied().unwrap_or_default();
            let target = match relocation.target() {
                RelocationTarget::Symbol(index) => self
                    .elf
                    .symbol_by_index(index)
                    .ok()
                    .map(|symbol| symbol.section_index().map_or(0, base).wrapping_add(symbol.address())),
                RelocationTarget::Section(index) => Some(base(index)),
                _ => None,
            };
            let Some(target) = target else { continue };
            let n_bytes = usize::from(relocation.size() / 8);
            let Some(field) = usize::try_from(offset)
                .ok()
                .and_then(|start| bytes.get_mut(start..start.checked_add(n_bytes)?))
            else {
                continue;
            };
            let mut value = target.wrapping_add_signed(relocation.addend());
            if relocation.has_implicit_addend() {
                value = value.wrapping_add(read(field, is_little_endian));
            }
            write(field, value, is_little_endian);
        }
        bytes
    }
}

/// A section's content, whichever way CONFIG_DEBUG_INFO_COMPRESSED_* had it compressed.
fn uncompressed<'data>(section: &object::Section<'data, '_>) -> io::Result<Cow<'data, [u8]>> {
    let stored = section.compressed_data().map_err(io::Error::other)?;
    let bytes_max = stored.uncompressed_size.min(SECTION_BYTES_MAX);
    let mut data = Vec::new();
    match stored.format {
        CompressionFormat::None => return Ok(Cow::Borrowed(stored.data)),
        CompressionFormat::Zlib => {
            flate2::read::ZlibDecoder::new(stored.data).take(bytes_max).read_to_end(&mut data)?;
        }
        CompressionFormat::Zstandard => {
            let decoder = StreamingDecoder::new(stored.data).map_err(io::Error::other)?;
            decoder.take(bytes_max).read_to_end(&mut data)?;
        }
        _ => return Err(io::Error::other("compressed in an unknown way")),
    }
    Ok(Cow::Owned(data))
}

/// Where each section of a relocatable object is taken to be: code one after the other, everything else at 0, which
/// is what offsets between debug sections are counted from. None for images that are linked.
fn section_bases(elf: &object::File<'_>) -> HashMap<SectionIndex, u64> {
    let mut bases = HashMap::new();
    if elf.kind() != ObjectKind::Relocatable {
        return bases;
    }
    // Not 0: address 0 marks what the linker threw away.
    let mut next: u64 = 0x1000;
    for section in elf.sections().filter(|section| section.kind() == SectionKind::Text) {
        let align = section.align().clamp(16, 1 << 20);
        let base = next.div_ceil(align) * align;
        bases.insert(section.index(), base);
        // A damaged file may claim any size.
        next = base.saturating_add(section.size()).min(u64::MAX / 2);
    }
    bases
}

fn read(field: &[u8], is_little_endian: bool) -> u64 {
    let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if is_little_endian { field.iter().rev().fold(0, fold) } else { field.iter().fold(0, fold) }
}

fn write(field: &mut [u8], value: u64, is_little_endian: bool) {
    let n_bytes = field.len();
    for (at, byte) in field.iter_mut().enumerate() {
        let place = if is_little_endian { at } else { n_bytes - 1 - at };
        *byte = value.to_le_bytes().get(place).copied().unwrap_or_default();
    }
}
