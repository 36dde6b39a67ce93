// SPDX-License-Identifier: MIT OR Apache-2.0
//! Source lines for stacks: `function+offset` looked up in vmlinux and modules, inlined callers included.
//!
//! `elf` opens files, `dwarf` reads their debug information once and for all, `index` is what comes of it and is kept
//! (`cache`), `text` writes positions into a console. Names and offsets are the same wherever the kernel was loaded; only
//! where the kernel printed bare addresses is its offset needed.

mod cache;
mod dwarf;
mod elf;
mod index;
pub mod layout;
mod path;
#[cfg(test)]
mod tests;
mod text;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

pub use elf::SymbolizeError;
pub use text::annotate;

use self::index::Index;
use crate::oracle::{self, Frame, Report, SourceFrame};

/// A kernel image and modules, ready for look-ups.
pub struct Symbolizer {
    /// The kernel under `""`, modules under the names the kernel prints.
    objects: HashMap<String, Object>,
    /// Top of the kernel tree as the compiler saw it, with a slash at its end.
    root: String,
}

/// One image, indexed.
struct Object {
    index: Index<cache::Bytes>,
    build_id: Option<String>,
}

impl Symbolizer {
    /// Opens a kernel image and modules. The first time an image is seen its debug information is read, which takes
    /// seconds for a kernel; what comes of it is kept in `cache`, if there is one, under the build id.
    ///
    /// # Errors
    ///
    /// When a file cannot be mapped, or is not ELF with readable debug sections. A cache that cannot be written or is
    /// damaged is no error.
    pub fn new(
        vmlinux: &Path,
        modules: &[PathBuf],
        cache: Option<&Path>,
    ) -> Result<Symbolizer, SymbolizeError> {
        let mut objects = HashMap::from([(String::new(), Object::open(vmlinux, cache)?)]);
        for path in modules {
            objects.insert(path::module_name(path), Object::open(path, cache)?);
        }
        let mut symbolizer = Symbolizer { objects, root: String::new() };
        symbolizer.root = symbolizer.kernel_root().unwrap_or_default();
        Ok(symbolizer)
    }

    /// Build id of the kernel image, if it has one.
    pub fn build_id(&self) -> Option<&str> {
        self.objects.get("")?.build_id.as_deref()
    }

    /// Is this image the kernel that printed the report? `None`: the log does not tell.
    pub fn is_kernel_of(&self, report: &Report) -> Option<bool> {
        let told = report.task.as_ref()?.build_id.as_deref()?;
        Some(self.build_id()? == told)
    }

    /// Adds source positions to every frame that has none, and names to frames that are addresses.
    pub fn fill(&self, report: &mut Report) {
        let slide = report.kernel_offset.unwrap_or_default();
        for frame in report.frames_mut().filter(|frame| frame.source.is_empty()) {
            self.name(frame, slide);
            frame.source = self.symbolize(frame);
        }
    }

    /// Gives a frame that is only an address its function.
    fn name(&self, frame: &mut Frame, slide: u64) {
        let Some(address) = frame.symbol.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok())
        else {
            return;
        };
        let linked = address.wrapping_sub(slide);
        let Some((symbol, start, size)) =
            self.objects.get("").and_then(|kernel| kernel.index.symbol_at(linked))
        else {
            return;
        };
        (frame.function, frame.symbol) = (oracle::readable(symbol), symbol.to_string());
        (frame.offset, frame.size) = (linked - start, size);
    }

    /// Source positions of a stack frame, innermost first; empty when nothing is known of it.
    pub fn symbolize(&self, frame: &Frame) -> Vec<SourceFrame> {
        let module = frame.module.as_deref().unwrap_or_default();
        let Some(object) = self.objects.get(module) else { return Vec::new() };
        object
            .instruction(frame)
            .map(|address| self.positions(object, address, &frame.function))
            .unwrap_or_default()
    }

    /// Source positions of an address in the kernel as it was linked, innermost first.
    pub fn at(&self, address: u64) -> Vec<SourceFrame> {
        self.objects.get("").map(|kernel| self.positions(kernel, address, "")).unwrap_or_default()
    }

    fn positions(&self, object: &Object, address: u64, function: &str) -> Vec<SourceFrame> {
        let positions = object.index.positions(address);
        let last = positions.len().saturating_sub(1);
        let source = positions.into_iter().enumerate().map(|(idx, position)| SourceFrame {
            function: match position.function {
                // Assembly has lines, but no functions.
                name if name.is_empty() => function.to_string(),
                name => name,
            },
            file: path::shorten(&position.file, &self.root),
            line: position.line,
            inlined: idx != last,
        });
        source.collect()
    }

    /// `start_kernel` is in `init/main.c`; what comes before that is the tree's place.
    fn kernel_root(&self) -> Option<String> {
        let kernel = self.objects.get("")?;
        let (start, _) = kernel.index.symbols("start_kernel").next()?;
        let outermost = kernel.index.positions(start).pop()?;
        path::normal(&outermost.file).strip_suffix("init/main.c").map(str::to_string)
    }
}

impl Object {
    fn open(path: &Path, cache: Option<&Path>) -> Result<Object, SymbolizeError> {
        let (index, build_id) = cache::index_of(path, cache)?;
        Ok(Object { index, build_id })
    }

    /// The instruction a frame is about.
    fn instruction(&self, frame: &Frame) -> Option<u64> {
        let start = self.address_of(&frame.symbol, frame.offset, frame.size)?;
        // A return address belongs to the call before it, which may be on another line or even the last instruction.
        let back = u64::from(!frame.register && frame.offset > 0);
        Some(start.checked_add(frame.offset)? - back)
    }

    /// Where a function begins. Of several with one name, the one whose size fits best; `None` when two fit alike,
    /// because a wrong line is worse than none.
    fn address_of(&self, symbol: &str, offset: u64, size: u64) -> Option<u64> {
        let fitting = self.index.symbols(symbol).filter(|&(_, length)| length == 0 || offset <= length);
        // The kernel counts padding up to the next symbol, so sizes are close rather than equal.
        let mut fitting: Vec<(u64, u64)> =
            fitting.map(|(address, length)| (length.abs_diff(size), address)).collect();
        fitting.sort_unstable();
        match fitting[..] {
            [] => None,
            [(best, address), (second, other), ..] if best == second && address != other => None,
            [(_, address), ..] => Some(address),
        }
    }
}
