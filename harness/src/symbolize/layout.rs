// SPDX-License-Identifier: MIT OR Apache-2.0
//! From addresses of a running kernel to functions: the kernel where it was linked, modules where the agent says.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{Symbolizer, elf, path};
use crate::oracle;

/// What comes before the sections in the agent's line about a module.
const MODULE_LINE: &str = "SHRINKTORTURE: module ";

/// The sections that the agent tells of.
pub const SECTIONS: [&str; 4] = [".text", ".rodata", ".data", ".bss"];

/// Names of sections to their addresses.
pub type Sections = BTreeMap<String, u64>;

/// A function of the kernel or a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// Name as people write it.
    pub name: String,
    /// Name as the symbol table has it.
    pub symbol: String,
    /// Module it is in, if not the kernel itself.
    pub module: Option<String>,
    /// Source file; empty when unknown.
    pub file: String,
    /// Line, from 1; 0 when unknown.
    pub line: u32,
}

/// The code of a kernel that runs.
pub struct Layout<'a> {
    symbolizer: &'a Symbolizer,
    modules: Vec<Placed>,
}

struct Placed {
    name: String,
    start: u64,
    size: u64,
    /// Where the index has it.
    indexed: u64,
}

impl<'a> Layout<'a> {
    /// A kernel that was not moved, and those modules of which the console says where they are.
    pub fn new(symbolizer: &'a Symbolizer, modules: &[PathBuf], console: &[u8]) -> Layout<'a> {
        let told = sections(console);
        let place = |file: &PathBuf| {
            let name = path::module_name(file);
            let start = *told.get(&name)?.get(".text")?;
            let (indexed, size) = text_of(file)?;
            Some(Placed { name, start, size, indexed })
        };
        Layout { symbolizer, modules: modules.iter().filter_map(place).collect() }
    }

    /// Names of the modules whose place is known.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(|placed| placed.name.as_str())
    }

    /// The function that an address is in, and where in it.
    pub fn function(&self, address: u64) -> Option<(Function, u64)> {
        let inside = |placed: &&Placed| address.checked_sub(placed.start).is_some_and(|at| at < placed.size);
        let placed = self.modules.iter().find(inside);
        let (module, indexed) = match placed {
            Some(placed) => (placed.name.as_str(), address - placed.start + placed.indexed),
            None => ("", address),
        };
        let object = self.symbolizer.objects.get(module)?;
        let (symbol, start, _) = object.index.symbol_at(indexed)?;
        let name = oracle::readable(symbol);
        let source = self.symbolizer.positions(object, start, &name).pop().unwrap_or_default();
        let function = Function {
            name,
            symbol: symbol.to_owned(),
            module: placed.map(|placed| placed.name.clone()),
            file: source.file,
            line: source.line,
        };
        Some((function, indexed - start))
    }

    /// Where functions of the kernel itself of a name begin.
    pub fn addresses(&self, symbol: &str) -> Vec<u64> {
        let kernel = self.symbolizer.objects.get("");
        kernel
            .map(|kernel| kernel.index.symbols(symbol).map(|(start, _)| start).collect())
            .unwrap_or_default()
    }
}

/// Where the agent says that the sections of its modules are.
pub fn sections(console: &[u8]) -> BTreeMap<String, Sections> {
    let text = String::from_utf8_lossy(console);
    let lines = text.lines().filter_map(|line| line.split_once(MODULE_LINE));
    lines
        .filter_map(|(_, words)| {
            let mut words = words.split_ascii_whitespace();
            let name = words.next()?.to_owned();
            let section = |word: &str| {
                let (section, address) = word.split_once("=0x")?;
                Some((section.to_owned(), u64::from_str_radix(address, 16).ok()?))
            };
            Some((name, words.filter_map(section).collect()))
        })
        .collect()
}

/// Where a module's index has `.text`, and how long that is.
fn text_of(file: &Path) -> Option<(u64, u64)> {
    let data = elf::map(file).ok()?;
    elf::Image::parse(file, &data).ok()?.section(".text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_says_where_modules_are_and_nonsense_is_passed_over() {
        let console = b"[    6.5][    T1] SHRINKTORTURE: module canary .text=0xffffffffc0012000 .bss=0xffffffffc0015840\r\n\
            [    6.6][    T1] SHRINKTORTURE: module other .text=0xzz =0x1 .data\n\
            [    6.7][    T1] SHRINKTORTURE: ready\n";
        let found = sections(console);
        assert_eq!(found["canary"][".text"], 0xffff_ffff_c001_2000);
        assert_eq!(found["canary"][".bss"], 0xffff_ffff_c001_5840);
        assert_eq!(found["other"].get(".text"), None);
        assert_eq!(found.len(), 2);
    }
}
