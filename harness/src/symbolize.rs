// SPDX-License-Identifier: MIT OR Apache-2.0
//! Source lines for stacks: `function+offset` looked up in vmlinux and modules, inlined callers included.
//!
//! Addresses on a console are never used: symbol and offset are the same wherever the kernel was loaded, KASLR or not.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
};

use gimli::{EndianSlice, RunTimeEndian};
use memmap2::Mmap;
use object::{
    Object as _, ObjectKind, ObjectSection as _, ObjectSymbol as _, RelocationKind, RelocationTarget,
    SectionIndex, SymbolKind,
};
use serde::{Deserialize, Serialize};

use crate::oracle::{self, Frame};

/// One source position; an inlined function has its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFrame {
    /// Function as people write it.
    pub function: String,
    /// Source file, below the top of the kernel tree where it is part of it.
    pub file: String,
    /// Line, from 1; 0 when unknown.
    pub line: u32,
    /// Inlined into the next one of the list.
    pub inlined: bool,
}

/// Why a file cannot be symbolised with.
#[derive(Debug, thiserror::Error)]
pub enum SymbolizeError {
    /// It cannot be opened or mapped.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no ELF file, or a broken one.
    #[error("{path}: {source}")]
    Elf {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: object::Error,
    },
    /// Its debug information is broken.
    #[error("{path}: debug information: {source}")]
    Dwarf {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: gimli::Error,
    },
    /// Its debug sections are compressed (CONFIG_DEBUG_INFO_COMPRESSED_*).
    #[error("{path}: {section} is compressed, build with CONFIG_DEBUG_INFO_COMPRESSED_NONE")]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The first such section.
        section: String,
    },
}

/// Path components shown of a source outside of the kernel's tree.
const OUTSIDE_PARTS: usize = 2;

type Reader = EndianSlice<'static, RunTimeEndian>;

/// A kernel image and modules, ready for look-ups. Files stay mapped until the process ends, so that what is read
/// from them needs no owner; pages are the page cache's, and one process looks at one kernel at a time.
pub struct Symbolizer {
    /// The kernel under `""`, modules under the names the kernel prints.
    objects: HashMap<String, Object>,
    /// Top of the kernel tree as the compiler saw it, with a slash at its end.
    root: String,
}

struct Object {
    symbols: HashMap<&'static str, Vec<Symbol>>,
    context: addr2line::Context<Reader>,
}

struct Symbol {
    address: u64,
    size: u64,
}

impl Symbolizer {
    /// Maps a kernel image and modules. Debug information is read when first asked for.
    ///
    /// # Errors
    ///
    /// When a file cannot be mapped or is not ELF with plain debug sections.
    pub fn new(vmlinux: &Path, modules: &[PathBuf]) -> Result<Symbolizer, SymbolizeError> {
        let mut objects = HashMap::from([(String::new(), Object::open(vmlinux)?)]);
        for path in modules {
            objects.insert(module_name(path), Object::open(path)?);
        }
        let mut symbolizer = Symbolizer { objects, root: String::new() };
        symbolizer.root = symbolizer.kernel_root().unwrap_or_default();
        Ok(symbolizer)
    }

    /// Source positions of a stack frame, innermost first; empty when nothing is known of it.
    pub fn symbolize(&self, frame: &Frame) -> Vec<SourceFrame> {
        let module = frame.module.as_deref().unwrap_or_default();
        let Some(object) = self.objects.get(module) else { return Vec::new() };
        let Some(start) = object.address_of(&frame.symbol, frame.offset, frame.size) else {
            return Vec::new();
        };
        // A return address belongs to the call before it, which may be on another line or even the last instruction.
        let back = u64::from(!frame.register && frame.offset > 0);
        object
            .positions(start + frame.offset - back)
            .into_iter()
            .map(|position| self.shorten(position))
            .collect()
    }

    /// Leaves out where on the building machine things were: the kernel's tree, Rust's library, a module's folder.
    fn shorten(&self, mut position: SourceFrame) -> SourceFrame {
        let file = normal(&position.file);
        let in_kernel = file.strip_prefix(&self.root).filter(|_| !self.root.is_empty());
        position.file = if let Some(below) = in_kernel {
            below.to_string()
        } else if let Some((_, below)) = file.split_once("/library/") {
            format!("library/{below}")
        } else {
            let parts: Vec<&str> = file.split('/').collect();
            parts[parts.len().saturating_sub(OUTSIDE_PARTS)..].join("/")
        };
        position
    }

    /// `start_kernel` is in `init/main.c`; what comes before that is the tree's place.
    fn kernel_root(&self) -> Option<String> {
        let kernel = self.objects.get("")?;
        let start = kernel.address_of("start_kernel", 0, 0)?;
        let outermost = kernel.positions(start).pop()?;
        normal(&outermost.file).strip_suffix("init/main.c").map(str::to_string)
    }
}

impl Object {
    fn open(path: &Path) -> Result<Object, SymbolizeError> {
        let data = map(path)?;
        let elf_error = |source| SymbolizeError::Elf { path: path.to_path_buf(), source };
        let elf = object::File::parse(data).map_err(elf_error)?;
        let bases = section_bases(&elf);
        let endian = if elf.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let load = |id: gimli::SectionId| -> Result<Reader, SymbolizeError> {
            let Some(section) = elf.section_by_name(id.name()) else {
                return Ok(EndianSlice::new(&[], endian));
            };
            if section.compressed_data().map_err(elf_error)?.format != object::CompressionFormat::None {
                let (path, section) = (path.to_path_buf(), id.name().to_string());
                return Err(SymbolizeError::Compressed { path, section });
            }
            let bytes = section.data().map_err(elf_error)?;
            let bytes = if elf.kind() == ObjectKind::Relocatable {
                relocated(&elf, &section, bytes, &bases)
            } else {
                bytes
            };
            Ok(EndianSlice::new(bytes, endian))
        };
        let dwarf = gimli::Dwarf::load(load)?;
        let context = addr2line::Context::from_dwarf(dwarf)
            .map_err(|source| SymbolizeError::Dwarf { path: path.to_path_buf(), source })?;
        Ok(Object { symbols: symbols(&elf, &bases), context })
    }

    /// Where a function begins. Of several with one name, the one whose size fits best.
    fn address_of(&self, symbol: &str, offset: u64, size: u64) -> Option<u64> {
        let candidates = self.symbols.get(symbol)?;
        let fitting = candidates.iter().filter(|symbol| symbol.size == 0 || offset <= symbol.size);
        // The kernel counts padding up to the next symbol, so sizes are close rather than equal.
        let best = fitting.min_by_key(|symbol| symbol.size.abs_diff(size))?;
        Some(best.address)
    }

    /// Innermost first; broken debug information ends the list.
    fn positions(&self, address: u64) -> Vec<SourceFrame> {
        let mut positions = Vec::new();
        let Ok(mut frames) = self.context.find_frames(address).skip_all_loads() else { return positions };
        while let Ok(Some(frame)) = frames.next() {
            let Some(location) = frame.location else { break };
            let name =
                frame.function.and_then(|function| function.raw_name().ok().map(|name| name.into_owned()));
            positions.push(SourceFrame {
                function: name.as_deref().map(oracle::readable).unwrap_or_default(),
                file: location.file.unwrap_or_default().to_string(),
                line: location.line.unwrap_or_default(),
                inlined: true,
            });
        }
        if let Some(outermost) = positions.last_mut() {
            outermost.inlined = false;
        }
        positions
    }
}

/// Adds source positions to a console text, in the manner of the kernel's `scripts/decode_stacktrace.sh`: after each
/// `function+0x12/0x34` its position, and before a line of stack one more line for each function inlined there.
pub fn annotate(console: &str, symbolizer: &Symbolizer) -> String {
    let mut out = String::with_capacity(console.len() * 2);
    for line in console.split_inclusive('\n') {
        annotate_line(line, symbolizer, &mut out);
    }
    out
}

fn annotate_line(line: &str, symbolizer: &Symbolizer, out: &mut String) {
    let text = line.trim_end_matches(['\n', '\r']);
    let Some(place) = oracle::place_in_line(text) else {
        out.push_str(line);
        return;
    };
    let positions = symbolizer.symbolize(&place.frame);
    let Some((outermost, inlined)) = positions.split_last() else {
        out.push_str(line);
        return;
    };
    // A guess off the stack is not worth the lines.
    if place.is_stack && place.frame.reliable {
        for position in inlined {
            let SourceFrame { function, file, line, .. } = position;
            out.push_str(&format!("{}{function} {file}:{line} [inline]\n", &text[..place.start]));
        }
    }
    // Mangled names are for machines.
    out.push_str(&text[..place.start]);
    out.push_str(if place.frame.function.contains("::") {
        &place.frame.function
    } else {
        &place.frame.symbol
    });
    out.push_str(&text[place.start + place.frame.symbol.len()..place.end]);
    out.push_str(&format!(" {}:{}", outermost.file, outermost.line));
    out.push_str(&text[place.end..]);
    out.push_str(&line[text.len()..]);
}

/// Name the kernel knows a module by: dashes are underscores.
fn module_name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_")
}

#[expect(
    unsafe_code,
    reason = "mapping a file has no safe form, and reading 140 MB for a few look-ups takes too long"
)]
fn map(path: &Path) -> Result<&'static [u8], SymbolizeError> {
    let io_error = |source| SymbolizeError::Io { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io_error)?;
    // SAFETY: the map is private and read-only. Kernel images and modules are artifacts: written once under another
    // name, renamed into place and never changed, so the bytes stay what they are while they are borrowed.
    let map = unsafe { Mmap::map(&file) }.map_err(io_error)?;
    Ok(Box::leak(Box::new(map)))
}

/// Where each section of a relocatable object is taken to be: code one after the other, everything else at 0, which
/// is what offsets between debug sections are counted from. All 0 for images that are linked.
fn section_bases(elf: &object::File<'static>) -> HashMap<SectionIndex, u64> {
    let mut bases = HashMap::new();
    if elf.kind() != ObjectKind::Relocatable {
        return bases;
    }
    // Not 0: address 0 marks what the linker threw away.
    let mut next: u64 = 0x1000;
    for section in elf.sections().filter(|section| section.kind() == object::SectionKind::Text) {
        let align = section.align().max(16);
        let base = next.div_ceil(align) * align;
        bases.insert(section.index(), base);
        next = base + section.size();
    }
    bases
}

fn symbols(
    elf: &object::File<'static>,
    bases: &HashMap<SectionIndex, u64>,
) -> HashMap<&'static str, Vec<Symbol>> {
    let mut symbols: HashMap<&'static str, Vec<Symbol>> = HashMap::new();
    for symbol in elf.symbols() {
        let Some(section) = symbol.section_index() else { continue };
        if !matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown) {
            continue;
        }
        let Ok(name) = symbol.name() else { continue };
        let base = bases.get(&section).copied().unwrap_or_default();
        if elf.kind() == ObjectKind::Relocatable && !bases.contains_key(&section) {
            continue;
        }
        symbols
            .entry(name)
            .or_default()
            .push(Symbol { address: base + symbol.address(), size: symbol.size() });
    }
    symbols
}

/// A debug section of a relocatable object with its relocations applied.
fn relocated(
    elf: &object::File<'static>,
    section: &object::Section<'static, '_>,
    bytes: &'static [u8],
    bases: &HashMap<SectionIndex, u64>,
) -> &'static [u8] {
    let mut bytes = bytes.to_vec();
    for (offset, relocation) in section.relocations() {
        if relocation.kind() != RelocationKind::Absolute {
            continue;
        }
        let target = match relocation.target() {
            RelocationTarget::Symbol(index) => elf.symbol_by_index(index).ok().map(|symbol| {
                let base = symbol.section_index().and_then(|section| bases.get(&section)).copied();
                base.unwrap_or_default() + symbol.address()
            }),
            RelocationTarget::Section(index) => Some(bases.get(&index).copied().unwrap_or_default()),
            _ => None,
        };
        let Some(target) = target else { continue };
        let n_bytes = usize::from(relocation.size() / 8);
        let Some(field) =
            usize::try_from(offset).ok().and_then(|start| bytes.get_mut(start..start.checked_add(n_bytes)?))
        else {
            continue;
        };
        let mut value = target.wrapping_add_signed(relocation.addend());
        if relocation.has_implicit_addend() {
            value = value.wrapping_add(read(field, elf.is_little_endian()));
        }
        write(field, value, elf.is_little_endian());
    }
    Box::leak(bytes.into_boxed_slice())
}

fn read(field: &[u8], little_endian: bool) -> u64 {
    let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if little_endian { field.iter().rev().fold(0, fold) } else { field.iter().fold(0, fold) }
}

fn write(field: &mut [u8], value: u64, little_endian: bool) {
    let n_bytes = field.len();
    for (at, byte) in field.iter_mut().enumerate() {
        let place = if little_endian { at } else { n_bytes - 1 - at };
        *byte = value.to_le_bytes().get(place).copied().unwrap_or_default();
    }
}

/// Takes `.` and `..` out of a path that the compiler put together.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." if parts.last().is_some_and(|last| !last.is_empty() && *last != "..") => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A kernel image stands in no repository; this program is an ELF image with debug information, too.
    fn ourselves() -> Symbolizer {
        Symbolizer::new(&std::env::current_exe().expect("a running program"), &[])
            .expect("readable debug information")
    }

    #[inline(never)]
    fn a_function_to_be_found(seed: u64) -> u64 {
        std::hint::black_box(seed.rotate_left(7)) ^ 0x5eed
    }

    fn symbol(symbolizer: &Symbolizer, object: &str, name: &str) -> String {
        let symbols = &symbolizer.objects[object].symbols;
        let mut found = symbols.keys().filter(|symbol| oracle::readable(symbol).ends_with(name));
        found.next().unwrap_or_else(|| panic!("no symbol {name}")).to_string()
    }

    #[test]
    fn a_function_of_a_linked_image_has_file_and_line() {
        std::hint::black_box(a_function_to_be_found(1));
        let symbolizer = ourselves();
        let symbol = symbol(&symbolizer, "", "a_function_to_be_found");
        let frame = Frame { symbol, offset: 1, reliable: true, ..Frame::default() };
        let positions = symbolizer.symbolize(&frame);
        let outermost = positions.last().expect("a position");
        assert_eq!((outermost.file.as_str(), outermost.inlined), ("src/symbolize.rs", false));
        assert!(outermost.function.ends_with("a_function_to_be_found"), "{}", outermost.function);
        assert!(outermost.line > 300, "{}", outermost.line);
    }

    #[test]
    fn nothing_is_said_of_what_is_not_there() {
        let symbolizer = ourselves();
        for (symbol, module, offset) in
            [("no_such_function", None, 1), ("main", Some("no_such_module"), 1), ("main", None, 1 << 40)]
        {
            let (symbol, module) = (symbol.to_string(), module.map(str::to_string));
            assert_eq!(symbolizer.symbolize(&Frame { symbol, module, offset, ..Frame::default() }), []);
        }
        let text = "[    1.0][ T1] nothing to add here\n no_such_function+0x1/0x2\r\nand no line break";
        assert_eq!(annotate(text, &symbolizer), text);
    }

    #[test]
    fn a_relocatable_object_is_relocated() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = folder.path().join("thing.rs");
        let object = folder.path().join("thing.ko");
        // The second function is in another section and inlines the first, which takes both kinds of relocation.
        let text = "#[inline(always)]\nfn inner(x: &mut u64) {\n    *x = x.wrapping_mul(7);\n}\n\
                    pub extern \"C\" fn first(x: &mut u64) {\n    *x += 1;\n}\n\
                    pub extern \"C\" fn second(x: &mut u64) {\n    inner(x);\n}\n";
        std::fs::write(&source, text).expect("a writable folder");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(rustc)
            .args([
                "--crate-type=lib",
                "--emit=obj",
                "-g",
                "-Copt-level=1",
                "-Cpanic=abort",
                "--edition=2024",
                "-o",
            ])
            .args([&object, &source])
            .status();
        assert!(status.expect("a compiler").success());
        let symbolizer = Symbolizer::new(&std::env::current_exe().expect("a running program"), &[object])
            .expect("objects");
        let symbol = symbol(&symbolizer, "thing", "second");
        let line = format!("[    1.000000][   T1]  {symbol}+0x1/0x10 [thing]\n");
        let annotated = annotate(&line, &symbolizer);
        let expected = "[    1.000000][   T1]  thing::inner /thing.rs:3 [inline]\n\
                        [    1.000000][   T1]  thing::second+0x1/0x10 [thing] /thing.rs:9\n";
        let folder_name = folder.path().file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(annotated.replace(&folder_name, ""), expected);
    }

    #[test]
    fn files_that_are_no_images_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = folder.path().join("vmlinux");
        std::fs::write(&text, "no image").expect("a writable folder");
        let error = Symbolizer::new(&text, &[]).err().expect("an error").to_string();
        assert!(error.contains("vmlinux: "), "{error}");
        let error = Symbolizer::new(&folder.path().join("missing"), &[]).err().expect("an error").to_string();
        assert!(error.contains("missing: "), "{error}");
    }

    #[test]
    fn paths_are_made_plain() {
        assert_eq!(normal("/a/b/./c/../d.c"), "/a/b/d.c");
        assert_eq!(normal("../../x.c"), "../../x.c");
    }
}
