// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a kernel image is instrumented for KCOV: what could be covered, for reports of what was.
//!
//! The compiler puts a call of `__sanitizer_cov_trace_pc()` at every edge; KCOV records its return address. On x86 that
//! is a five-byte `call rel32`, so the places are found by looking for calls of that function.

use std::{collections::BTreeMap, path::Path};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};

use crate::symbolize::{SymbolizeError, Symbolizer};

const TRACE: &str = "__sanitizer_cov_trace_pc";
/// `call rel32`.
const CALL: u8 = 0xe8;
/// Its length, bytes.
const CALL_BYTES: usize = 5;

/// An instrumented function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name in the symbol table.
    pub name: String,
    /// Source file, below the top of the kernel tree.
    pub file: String,
    /// Runs only while the kernel boots (`__init`).
    pub is_init: bool,
    /// Low half of its address: what a function profile records.
    pub start: u32,
    /// What KCOV records at each of its edges: low halves of addresses, ascending.
    pub edges: Vec<u32>,
}

/// Every instrumented function of a kernel image, by address; `cache` is [`Symbolizer::new`]'s.
///
/// # Errors
/// When the image cannot be read or has no debug information.
pub fn functions(vmlinux: &Path, cache: Option<&Path>) -> Result<Vec<Function>, SymbolizeError> {
    let io = |source| SymbolizeError::Io { path: vmlinux.to_owned(), source };
    let elf = |source| SymbolizeError::Elf { path: vmlinux.to_owned(), source };
    let bytes = std::fs::read(vmlinux).map_err(io)?;
    let file = object::File::parse(&*bytes).map_err(elf)?;
    let mut symbols = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        symbols.insert(symbol.address(), (symbol.size(), symbol.name().unwrap_or_default().to_owned()));
    }
    let Some((&trace, _)) = symbols.iter().find(|(_, (_, name))| name == TRACE) else {
        return Ok(Vec::new());
    };
    let symbolizer = Symbolizer::new(vmlinux, &[], cache)?;
    let mut found: BTreeMap<u64, Function> = BTreeMap::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let is_init = section.name().is_ok_and(|name| name.starts_with(".init"));
        for edge in calls(section.data().map_err(elf)?, section.address(), trace) {
            let Some((&start, (size, name))) = symbols.range(..edge).next_back() else { continue };
            if edge > start + size {
                continue;
            }
            let function = found.entry(start).or_insert_with(|| Function {
                name: name.clone(),
                file: file_of(&symbolizer, start),
                is_init,
                start: start as u32,
                edges: Vec::new(),
            });
            function.edges.push(edge as u32);
        }
    }
    Ok(found.into_values().collect())
}

/// The file that a function's first instruction comes from, inlining apart.
fn file_of(symbolizer: &Symbolizer, start: u64) -> String {
    symbolizer.at(start).pop().map(|position| position.file).unwrap_or_default()
}

/// Return addresses of the calls of `target` in a section's code.
fn calls(code: &[u8], address: u64, target: u64) -> impl Iterator<Item = u64> + '_ {
    code.windows(CALL_BYTES).enumerate().filter_map(move |(at, bytes)| {
        let after = address + (at + CALL_BYTES) as u64;
        let rel = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        (bytes[0] == CALL && after.wrapping_add_signed(rel.into()) == target).then_some(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_by_where_they_go() {
        // At 0x1000: nop, call 0x2000, call 0x1000, and four bytes that end a call.
        let mut code = vec![0x90, CALL];
        code.extend((0x2000_i32 - 0x1006).to_le_bytes());
        code.push(CALL);
        code.extend((0x1000_i32 - 0x100b).to_le_bytes());
        code.push(CALL);
        assert_eq!(calls(&code, 0x1000, 0x2000).collect::<Vec<_>>(), [0x1006]);
        assert_eq!(calls(&code, 0x1000, 0x1000).collect::<Vec<_>>(), [0x100b]);
        assert_eq!(calls(&[], 0x1000, 0x1000).count(), 0);
    }
}
