// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes an index out of debug information: line tables flattened, inlined functions laid out over the code.

use std::{collections::HashMap, io};

use gimli::{AttributeValue, DebuggingInformationEntry, EndianSlice, RunTimeEndian, Unit, UnitOffset};

use super::{
    elf::Image,
    index::{Node, Strings, Tables},
};
use crate::oracle::readable;

/// Declarations followed to find a name.
const ORIGINS_MAX: usize = 16;

type Reader<'a> = EndianSlice<'a, RunTimeEndian>;
type Entry<'a> = DebuggingInformationEntry<Reader<'a>>;

/// Reads an image; `lowest` is its lowest symbol. A unit that is broken is left out; the others are still good.
pub(super) fn tables(image: &Image<'_>, lowest: Option<u64>) -> io::Result<Tables> {
    use object::Object as _;
    let sections = gimli::DwarfSections::load(|id| image.debug_section(id.name()))?;
    let endian = if image.elf.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
    let dwarf = sections.borrow(|section| EndianSlice::new(section, endian));
    let mut builder =
        Builder { dwarf: &dwarf, units: Vec::new(), names: HashMap::new(), out: Out::default() };
    let mut headers = dwarf.units();
    while let Ok(Some(header)) = headers.next() {
        if let Ok(unit) = dwarf.unit(header) {
            builder.units.push(unit);
        }
    }
    let units = std::mem::take(&mut builder.units);
    for unit in &units {
        let files = builder.lines(unit).unwrap_or_default();
        // What was read before the break is kept.
        let _ = builder.functions(unit, &files, &units);
    }
    Ok(builder.out.finish(lowest))
}

struct Builder<'d, 'a> {
    dwarf: &'d gimli::Dwarf<Reader<'a>>,
    units: Vec<Unit<Reader<'a>>>,
    /// Names by offset of the declaration.
    names: HashMap<usize, u32>,
    out: Out,
}

/// The tables with whole addresses.
#[derive(Default)]
struct Out {
    lines: Vec<(u64, u32, u32)>,
    nodes: Vec<Node>,
    /// Begin, end, depth, node.
    ranges: Vec<(u64, u64, u32, u32)>,
    strings: Strings,
}

impl<'a> Builder<'_, 'a> {
    /// Takes in a unit's line table; its files.
    fn lines(&mut self, unit: &Unit<Reader<'a>>) -> Result<HashMap<u64, u32>, gimli::Error> {
        let mut files = HashMap::new();
        let Some(program) = unit.line_program.clone() else { return Ok(files) };
        let header = program.header().clone();
        let first = u64::from(header.version() <= 4);
        for idx in first..first + header.file_names().len() as u64 {
            if let Some(path) = header.file(idx).and_then(|file| self.path(unit, &header, file)) {
                files.insert(idx, self.out.strings.offset(&path));
            }
        }
        let mut rows = program.rows();
        let mut sequence: Vec<(u64, u32, u32)> = Vec::new();
        while let Some((_, row)) = rows.next_row()? {
            if row.end_sequence() {
                sequence.push((row.address(), 0, 0));
                // Code that the linker threw away is at 0.
                if sequence.first().is_some_and(|&(address, ..)| address != 0) {
                    self.out.lines.append(&mut sequence);
                }
                sequence.clear();
                continue;
            }
            let file = files.get(&row.file_index()).copied().unwrap_or_default();
            let line = row.line().and_then(|line| u32::try_from(line.get()).ok()).unwrap_or_default();
            // The last row of an address is the one that counts.
            if sequence.last().is_some_and(|&(address, ..)| address == row.address()) {
                sequence.pop();
            }
            if sequence.last().is_none_or(|&(_, last_file, last_line)| (last_file, last_line) != (file, line))
            {
                sequence.push((row.address(), file, line));
            }
        }
        Ok(files)
    }

    /// A file's path as the compiler saw it.
    fn path(
        &self,
        unit: &Unit<Reader<'a>>,
        header: &gimli::LineProgramHeader<Reader<'a>>,
        file: &gimli::FileEntry<Reader<'a>>,
    ) -> Option<String> {
        let text =
            |value| self.dwarf.attr_string(unit, value).ok().map(|text| text.to_string_lossy().into_owned());
        let mut path = unit.comp_dir.map(|dir| dir.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(directory) = file.directory(header).and_then(text) {
            push(&mut path, &directory);
        }
        push(&mut path, &text(file.path_name())?);
        Some(path)
    }

    /// Takes in a unit's functions and what is inlined into them.
    fn functions(
        &mut self,
        unit: &Unit<Reader<'a>>,
        files: &HashMap<u64, u32>,
        units: &[Unit<Reader<'a>>],
    ) -> Result<(), gimli::Error> {
        let mut entries = unit.entries();
        // The functions that the entry at hand is in: depth of the entry, node, how deeply inlined.
        let mut open: Vec<(isize, u32, u32)> = Vec::new();
        while let Some(entry) = entries.next_dfs()? {
            open.retain(|&(depth, ..)| depth < entry.depth());
            let parent = match entry.tag() {
                gimli::DW_TAG_subprogram => None,
                gimli::DW_TAG_inlined_subroutine => match open.last() {
                    Some(&(_, node, depth)) => Some((node, depth)),
                    None => continue,
                },
                _ => continue,
            };
            let mut ranges = self.dwarf.die_ranges(unit, entry)?;
            let (depth, node) = (parent.map_or(0, |(_, depth)| depth + 1), self.out.nodes.len() as u32);
            let mut has_code = false;
            while let Some(range) = ranges.next()? {
                if range.begin != 0 && range.begin < range.end {
                    self.out.ranges.push((range.begin, range.end, depth, node));
                    has_code = true;
                }
            }
            if !has_code {
                continue;
            }
            let number = |name| match entry.attr_value(name) {
                Some(AttributeValue::FileIndex(file)) => Some(file),
                Some(value) => value.udata_value(),
                None => None,
            };
            let call_file = number(gimli::DW_AT_call_file).and_then(|file| files.get(&file)).copied();
            let call_line = number(gimli::DW_AT_call_line).and_then(|line| u32::try_from(line).ok());
            let name = self.name(unit, entry, units);
            self.out.nodes.push(Node {
                name,
                call_file: call_file.unwrap_or_default(),
                call_line: call_line.unwrap_or_default(),
                parent: parent.map(|(node, _)| node),
            });
            open.push((entry.depth(), node, depth));
        }
        Ok(())
    }

    /// A function's name: its own, or that of the declaration it refers to.
    fn name(&mut self, unit: &Unit<Reader<'a>>, entry: &Entry<'a>, units: &[Unit<Reader<'a>>]) -> u32 {
        if let Some(name) = self.own_name(unit, entry) {
            return name;
        }
        let Some((origin_unit, offset)) = origin(unit, entry, units) else { return 0 };
        let key = offset.to_debug_info_offset(&origin_unit.header).map_or(0, |offset| offset.0);
        if let Some(&name) = self.names.get(&key) {
            return name;
        }
        let (mut at, mut at_offset, mut name) = (origin_unit, offset, 0);
        for _ in 0..ORIGINS_MAX {
            let Ok(entry) = at.entry(at_offset) else { break };
            if let Some(own) = self.own_name(at, &entry) {
                name = own;
                break;
            }
            let Some(next) = origin(at, &entry, units) else { break };
            (at, at_offset) = next;
        }
        self.names.insert(key, name);
        name
    }

    fn own_name(&mut self, unit: &Unit<Reader<'a>>, entry: &Entry<'a>) -> Option<u32> {
        let value =
            (entry.attr_value(gimli::DW_AT_linkage_name)).or_else(|| entry.attr_value(gimli::DW_AT_name))?;
        let name = self.dwarf.attr_string(unit, value).ok()?;
        Some(self.out.strings.offset(&readable(&name.to_string_lossy())))
    }
}

/// The entry that an entry is an instance or the definition of.
fn origin<'u, 'a>(
    unit: &'u Unit<Reader<'a>>,
    entry: &Entry<'a>,
    units: &'u [Unit<Reader<'a>>],
) -> Option<(&'u Unit<Reader<'a>>, UnitOffset)> {
    let value = (entry.attr_value(gimli::DW_AT_abstract_origin))
        .or_else(|| entry.attr_value(gimli::DW_AT_specification))?;
    match value {
        AttributeValue::UnitRef(offset) => Some((unit, offset)),
        AttributeValue::DebugInfoRef(offset) => {
            let start =
                |unit: &Unit<Reader<'_>>| unit.header.debug_info_offset().map_or(usize::MAX, |start| start.0);
            let home = units.partition_point(|unit| start(unit) <= offset.0).checked_sub(1)?;
            Some((&units[home], offset.to_unit_offset(&units[home].header)?))
        }
        _ => None,
    }
}

fn push(path: &mut String, part: &str) {
    if part.starts_with('/') {
        path.clear();
    } else if !path.is_empty() && !path.ends_with('/') {
        path.push('/');
    }
    path.push_str(part);
}

impl Out {
    fn finish(mut self, lowest: Option<u64>) -> Tables {
        // The linker marks what it threw away with low addresses.
        let floor = lowest.unwrap_or_default();
        self.lines.retain(|&(address, ..)| address >= floor);
        self.ranges.retain(|&(begin, ..)| begin >= floor);
        self.lines.sort_by_key(|&(address, file, _)| (address, file != 0));
        // Of an end and a beginning at one address the beginning counts, and it was sorted last.
        self.lines.reverse();
        self.lines.dedup_by_key(|&mut (address, ..)| address);
        self.lines.reverse();
        let spans = spans(self.ranges);
        let firsts = [lowest, self.lines.first().map(|row| row.0), spans.first().map(|span| span.0)];
        let base = firsts.into_iter().flatten().min().unwrap_or_default();
        let offset = |address: u64| u32::try_from(address - base).ok();
        Tables {
            base,
            lines: self
                .lines
                .iter()
                .filter_map(|&(at, file, line)| Some((offset(at)?, file, line)))
                .collect(),
            nodes: self.nodes,
            spans: spans.iter().filter_map(|&(at, node)| Some((offset(at)?, node))).collect(),
            strings: self.strings,
        }
    }
}

/// Lays ranges over one another, the deeper over the shallower: where each piece begins, and whose it is.
fn spans(ranges: Vec<(u64, u64, u32, u32)>) -> Vec<(u64, Option<u32>)> {
    let mut edges: Vec<(u64, bool, u32, u32)> = Vec::with_capacity(ranges.len() * 2);
    for (begin, end, depth, node) in ranges {
        edges.push((begin, true, depth, node));
        edges.push((end, false, depth, node));
    }
    // Ends first: what begins where another ends is not in it.
    edges.sort_unstable_by_key(|&(address, is_begin, depth, node)| (address, is_begin, depth, node));
    let mut active = std::collections::BTreeSet::new();
    let mut spans: Vec<(u64, Option<u32>)> = Vec::new();
    for (address, is_begin, depth, node) in edges {
        if is_begin {
            active.insert((depth, node));
        } else {
            active.remove(&(depth, node));
        }
        let top = active.last().map(|&(_, node)| node);
        if spans.last().is_some_and(|&(last, _)| last == address) {
            spans.pop();
        }
        if spans.last().is_none_or(|&(_, last)| last != top) {
            spans.push((address, top));
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deeper_range_lies_over_the_shallower() {
        let told =
            spans(vec![(10, 50, 0, 0), (20, 40, 1, 1), (25, 30, 2, 2), (40, 45, 1, 3), (60, 70, 0, 4)]);
        assert_eq!(
            told,
            [
                (10, Some(0)),
                (20, Some(1)),
                (25, Some(2)),
                (30, Some(1)),
                (40, Some(3)),
                (45, Some(0)),
                (50, None),
                (60, Some(4)),
                (70, None)
            ]
        );
        assert_eq!(spans(Vec::new()), []);
    }
}
