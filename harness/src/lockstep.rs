// SPDX-License-Identifier: MIT OR Apache-2.0
//! The library preloaded into a deterministic QEMU, so that how the host schedules its threads does not reach the guest:
//! `lockstep/lockstep.rs` says what it does and why.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Environment variable that names it to the dynamic linker.
pub const PRELOAD: &str = "LD_PRELOAD";
const NAME: &str = "liblockstep.so";

const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/liblockstep.so"));

/// Puts the library into a folder; its path.
///
/// # Errors
/// When it cannot be written.
pub fn install(dir: &Path) -> io::Result<PathBuf> {
    // The dynamic linker takes spaces and colons for separators, and knows no escape.
    let path = fs::canonicalize(dir)?.join(NAME);
    if path.to_string_lossy().contains([' ', ':']) {
        let what = format!("{} has a space or a colon, which LD_PRELOAD cannot express", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    fs::write(&path, LIBRARY)?;
    Ok(path)
}

/// Did the process take it? A static program does not, nor one that runs with rights of its own.
pub fn is_in(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(NAME))
}
