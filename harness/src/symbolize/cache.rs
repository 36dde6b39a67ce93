// SPDX-License-Identifier: MIT OR Apache-2.0
//! Indexes kept on disk: found by what the image is, written whole, made anew when they are damaged or of another version.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use memmap2::Mmap;

use super::{
    dwarf,
    elf::{self, Image, SymbolizeError},
    index::{self, Index},
};

/// Indexes kept; one of a kernel is some 30 MB.
const INDEXES_MAX: usize = 16;
const ENDING: &str = "symbols";

/// An index, wherever it is.
pub(super) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// The index of an image, from the cache if it is there, and the image's build id.
pub(super) fn index_of(
    path: &Path,
    cache: Option<&Path>,
) -> Result<(Index<Bytes>, Option<String>), SymbolizeError> {
    let io_error = |source| SymbolizeError::Io { path: path.to_path_buf(), source };
    let data = elf::map(path).map_err(io_error)?;
    let image = Image::parse(path, &data)?;
    let build_id = image.build_id().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let kept = cache.map(|folder| {
        // A stripped image has the same build id; without one the content has to tell.
        let id = build_id.clone().unwrap_or_else(|| blake3::hash(&data).to_hex()[..40].to_string());
        folder.join(format!("{id}-{:x}.{ENDING}", data.len()))
    });
    if let Some(kept) = &kept
        && let Some(index) = elf::map(kept).ok().and_then(|map| Index::open(Bytes::Mapped(map)))
    {
        return Ok((index, build_id));
    }
    let bytes = make(path, &image)?;
    if let Some(kept) = &kept {
        // A cache that cannot be written costs time, nothing else.
        let _ = store(kept, &bytes);
    }
    // What was just made opens.
    let index = Index::open(Bytes::Owned(bytes));
    let index = index.ok_or_else(|| SymbolizeError::TooLarge { path: path.to_path_buf() })?;
    Ok((index, build_id))
}

fn make(path: &Path, image: &Image<'_>) -> Result<Vec<u8>, SymbolizeError> {
    let symbols = image.symbols();
    let lowest = symbols.iter().map(|symbol| symbol.address).min();
    let tables = dwarf::tables(image, lowest)
        .map_err(|source| SymbolizeError::Io { path: path.to_path_buf(), source })?;
    index::encode(tables, symbols).ok_or_else(|| SymbolizeError::TooLarge { path: path.to_path_buf() })
}

/// Written beside its place and renamed: a reader sees all of it or nothing.
fn store(kept: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = kept.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(kept)?;
    prune(folder)
}

/// Removes the oldest indexes beyond what is kept.
fn prune(folder: &Path) -> std::io::Result<()> {
    let mut indexes: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            indexes.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    indexes.sort();
    let n_old = indexes.len().saturating_sub(INDEXES_MAX);
    indexes[..n_old].iter().try_for_each(|(_, path)| fs::remove_file(path))
}
