// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index of one image: everything a look-up needs, in tables of 32-bit words that are searched where they lie.
//!
//! ```text
//! head     magic, version, base address, four table lengths, BLAKE3 of all that follows the hash
//! symbols  name, offset, size, 0           by name
//! order    index into symbols              by offset
//! lines    offset, file, line              by offset; file 0 ends a sequence
//! nodes    name, call file, call line, parent + 1     a function, or one inlined into its parent
//! spans    offset, node + 1                by offset; each lasts until the next
//! strings  length, bytes
//! ```
//!
//! Offsets are from the base address, names and files are offsets in `strings`. Nothing in a file is believed: it counts
//! only if the hash is right, and every access is checked all the same.

use std::collections::HashMap;

use super::elf::Symbol;

/// Changes with the layout, and with what is put into it.
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"STSYMIDX";
/// Magic, version, number of tables' words, base, hash.
const HASH_AT: usize = 8 + 4 + 8 + N_TABLES * 4;
const HEAD_BYTES: usize = HASH_AT + 32;
const N_TABLES: usize = 6;
/// Functions inlined into one another that are followed; a broken index could be a ring.
const DEPTH_MAX: usize = 64;

const SYMBOLS: usize = 0;
const ORDER: usize = 1;
const LINES: usize = 2;
const NODES: usize = 3;
const SPANS: usize = 4;
const STRINGS: usize = 5;
/// Words in a row of each table.
const ROW_WORDS: [usize; N_TABLES] = [4, 1, 3, 4, 2, 1];

/// One source position, as the compiler has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Function, readable; empty when the debug information has none.
    pub function: String,
    /// File, as the compiler saw it.
    pub file: String,
    /// Line; 0 when unknown.
    pub line: u32,
}

/// A function, or one inlined into its parent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub name: u32,
    pub call_file: u32,
    pub call_line: u32,
    pub parent: Option<u32>,
}

/// What an index is made from.
#[derive(Default)]
pub(super) struct Tables {
    pub base: u64,
    /// `(offset, file, line)`, sorted.
    pub lines: Vec<(u32, u32, u32)>,
    pub nodes: Vec<Node>,
    /// `(offset, node)`, sorted.
    pub spans: Vec<(u32, Option<u32>)>,
    pub strings: Strings,
}

/// Text, each piece once.
pub(super) struct Strings {
    bytes: Vec<u8>,
    known: HashMap<String, u32>,
}

impl Default for Strings {
    fn default() -> Strings {
        // Offset 0 is the empty text.
        Strings { bytes: vec![0; 4], known: HashMap::from([(String::new(), 0)]) }
    }
}

impl Strings {
    /// Offset of a text; 0, the empty one, when there is no more room.
    pub(super) fn offset(&mut self, text: &str) -> u32 {
        if let Some(&offset) = self.known.get(text) {
            return offset;
        }
        let (Ok(offset), Ok(length)) = (u32::try_from(self.bytes.len()), u32::try_from(text.len())) else {
            return 0;
        };
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.known.insert(text.to_string(), offset);
        offset
    }
}

/// Writes an index. `None` when a table is too long for 32-bit words.
pub(super) fn encode(mut tables: Tables, mut symbols: Vec<Symbol>) -> Option<Vec<u8>> {
    let base = tables.base;
    let offset = |address: u64| address.checked_sub(base).and_then(|offset| u32::try_from(offset).ok());
    symbols.retain(|symbol| offset(symbol.address).is_some());
    symbols.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
    let mut order: Vec<u32> = (0..u32::try_from(symbols.len()).ok()?).collect();
    order.sort_by_key(|&idx| symbols[idx as usize].address);
    let mut words: [Vec<u32>; N_TABLES - 1] = Default::default();
    for symbol in &symbols {
        let name = tables.strings.offset(&symbol.name);
        let size = u32::try_from(symbol.size).unwrap_or(u32::MAX);
        words[SYMBOLS].extend([name, offset(symbol.address).unwrap_or_default(), size, 0]);
    }
    words[ORDER] = order;
    words[LINES].extend(tables.lines.iter().flat_map(|&(at, file, line)| [at, file, line]));
    for node in &tables.nodes {
        let parent = node.parent.map_or(0, |parent| parent + 1);
        words[NODES].extend([node.name, node.call_file, node.call_line, parent]);
    }
    words[SPANS].extend(tables.spans.iter().flat_map(|&(at, node)| [at, node.map_or(0, |node| node + 1)]));

    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend(base.to_le_bytes());
    let mut body = Vec::new();
    for table in &words {
        head.extend(u32::try_from(table.len()).ok()?.to_le_bytes());
        body.extend(table.iter().flat_map(|word| word.to_le_bytes()));
    }
    head.extend(u32::try_from(tables.strings.bytes.len() / 4).ok()?.to_le_bytes());
    body.extend(tables.strings.bytes);
    let hash = hash(&head, &body);
    head.extend(hash);
    head.extend(body);
    Some(head)
}

fn hash(head: &[u8], body: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(head).update(body).finalize().as_bytes()
}

/// An index in memory, or mapped from a file.
pub(super) struct Index<D> {
    data: D,
    base: u64,
    /// Where each table begins, and its rows.
    tables: [(usize, usize); N_TABLES],
}

impl<D: AsRef<[u8]>> Index<D> {
    /// `None` when it is another version's, cut short or damaged.
    pub(super) fn open(data: D) -> Option<Index<D>> {
        let bytes = data.as_ref();
        let (head, body) = bytes.split_at_checked(HEAD_BYTES)?;
        let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        if head[..8] != *MAGIC || word(8)? != VERSION || head[HASH_AT..] != hash(&head[..HASH_AT], body) {
            return None;
        }
        let base = u64::from_le_bytes(head.get(12..20)?.try_into().ok()?);
        let mut tables = [(0, 0); N_TABLES];
        let mut next = HEAD_BYTES;
        for (idx, table) in tables.iter_mut().enumerate() {
            let n_words = word(20 + idx * 4)? as usize;
            *table = (next, n_words / ROW_WORDS[idx]);
            next = next.checked_add(n_words.checked_mul(4)?)?;
        }
        (next == bytes.len()).then_some(Index { data, base, tables })
    }

    fn word(&self, table: usize, row: usize, column: usize) -> u32 {
        let (start, n_rows) = self.tables[table];
        debug_assert!(row < n_rows && column < ROW_WORDS[table]);
        let at = start + (row * ROW_WORDS[table] + column) * 4;
        let word = self.data.as_ref().get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        word.map_or(0, u32::from_le_bytes)
    }

    fn n_rows(&self, table: usize) -> usize {
        self.tables[table].1
    }

    fn text(&self, offset: u32) -> &str {
        let text = || {
            let (start, n_words) = self.tables[STRINGS];
            let strings = self.data.as_ref().get(start..start + n_words * 4)?;
            let (length, rest) = strings.get(offset as usize..)?.split_at_checked(4)?;
            let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
            std::str::from_utf8(rest.get(..length)?).ok()
        };
        text().unwrap_or_default()
    }

    /// Number of rows for which `is_before` holds; those come first.
    fn partition(&self, table: usize, mut is_before: impl FnMut(usize) -> bool) -> usize {
        let (mut low, mut high) = (0, self.n_rows(table));
        while low < high {
            let middle = low + (high - low) / 2;
            if is_before(middle) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Address and size of every symbol of a name.
    pub(super) fn symbols<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (u64, u64)> + 'a {
        let name_of = |row| self.text(self.word(SYMBOLS, row, 0));
        let first = self.partition(SYMBOLS, |row| name_of(row) < name);
        (first..self.n_rows(SYMBOLS)).take_while(move |&row| name_of(row) == name).map(|row| {
            (
                self.base.wrapping_add(u64::from(self.word(SYMBOLS, row, 1))),
                u64::from(self.word(SYMBOLS, row, 2)),
            )
        })
    }

    /// Every name.
    #[cfg(test)]
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        (0..self.n_rows(SYMBOLS)).map(|row| self.text(self.word(SYMBOLS, row, 0)))
    }

    fn offset(&self, address: u64) -> Option<u32> {
        u32::try_from(address.checked_sub(self.base)?).ok()
    }

    /// The symbol that an address is in, where that begins, and its size up to the next.
    pub(super) fn symbol_at(&self, address: u64) -> Option<(&str, u64, u64)> {
        let offset = self.offset(address)?;
        let at = |place: usize| self.word(SYMBOLS, self.word(ORDER, place, 0) as usize, 1);
        let after = self.partition(ORDER, |place| at(place) <= offset);
        let place = after.checked_sub(1)?;
        let row = self.word(ORDER, place, 0) as usize;
        let (start, size) = (self.word(SYMBOLS, row, 1), self.word(SYMBOLS, row, 2));
        let to_next = if after < self.n_rows(ORDER) { at(after) - start } else { size };
        let size = if size == 0 { to_next } else { size };
        (offset - start < size.max(1)).then(|| {
            (self.text(self.word(SYMBOLS, row, 0)), self.base.wrapping_add(u64::from(start)), u64::from(size))
        })
    }

    /// Positions of an address, innermost first; empty when nothing is known of it.
    pub(super) fn positions(&self, address: u64) -> Vec<Position> {
        let mut positions = Vec::new();
        let Some(offset) = self.offset(address) else { return positions };
        let row = self.partition(LINES, |row| self.word(LINES, row, 0) <= offset).checked_sub(1);
        let Some((file, line)) = row.map(|row| (self.word(LINES, row, 1), self.word(LINES, row, 2))) else {
            return positions;
        };
        if file == 0 {
            return positions;
        }
        let span = self.partition(SPANS, |row| self.word(SPANS, row, 0) <= offset).checked_sub(1);
        let mut node = span.map_or(0, |row| self.word(SPANS, row, 1));
        let (mut file, mut line) = (file, line);
        while let Some(row) = (node as usize).checked_sub(1)
            && row < self.n_rows(NODES)
            && positions.len() < DEPTH_MAX
        {
            let column = |column| self.word(NODES, row, column);
            positions.push(self.position(column(0), file, line));
            (file, line, node) = (column(1), column(2), column(3));
        }
        if positions.is_empty() {
            positions.push(self.position(0, file, line));
        }
        positions
    }

    fn position(&self, name: u32, file: u32, line: u32) -> Position {
        Position { function: self.text(name).to_string(), file: self.text(file).to_string(), line }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut strings = Strings::default();
        let (file, header) = (strings.offset("a.c"), strings.offset("a.h"));
        let (outer, inner) = (strings.offset("outer"), strings.offset("inner"));
        let tables = Tables {
            base: 0xffff_ffff_8100_0000,
            lines: vec![(0, file, 1), (4, header, 7), (8, file, 3), (16, 0, 0)],
            nodes: vec![
                Node { name: outer, call_file: 0, call_line: 0, parent: None },
                Node { name: inner, call_file: file, call_line: 2, parent: Some(0) },
            ],
            spans: vec![(0, Some(0)), (4, Some(1)), (8, Some(0)), (16, None)],
            strings,
        };
        let symbol = |name: &str, offset: u64, size| Symbol {
            name: name.into(),
            address: 0xffff_ffff_8100_0000 + offset,
            size,
        };
        let low = Symbol { name: "low".into(), address: 0x1000, size: 1 };
        encode(tables, vec![symbol("outer", 0, 16), symbol("asm", 32, 0), low]).unwrap()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let index = Index::open(sample()).expect("a good index");
        let base = 0xffff_ffff_8100_0000;
        let is = |function: &str, file: &str, line| Position {
            function: function.into(),
            file: file.into(),
            line,
        };
        assert_eq!(index.positions(base + 1), [is("outer", "a.c", 1)]);
        assert_eq!(index.positions(base + 5), [is("inner", "a.h", 7), is("outer", "a.c", 2)]);
        assert_eq!(index.positions(base + 20), []);
        assert_eq!(index.positions(0), []);
        assert_eq!(index.positions(u64::MAX), []);
        assert_eq!(index.symbols("outer").collect::<Vec<_>>(), [(base, 16)]);
        assert_eq!(index.symbols("nobody").count(), 0);
        assert_eq!(index.symbol_at(base + 15), Some(("outer", base, 16)));
        assert_eq!(index.symbol_at(base + 16), None);
        assert_eq!(index.symbol_at(base + 32), Some(("asm", base + 32, 0)));
    }

    #[test]
    fn a_damaged_index_does_not_open() {
        let good = sample();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Index::open(bad).is_none(), "byte {at}");
            assert!(Index::open(&good[..at]).is_none(), "cut at {at}");
        }
    }
}
