// SPDX-License-Identifier: MIT OR Apache-2.0
//! The console of one machine: a file that QEMU writes and that is read in parts, one an epoch.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// A part that grows beyond this is a flood; the guest is ended.
pub const CONSOLE_BYTES_MAX: u64 = 64 << 20;

/// Path of the console log in a run folder.
pub fn console_path(run_dir: &Path) -> PathBuf {
    run_dir.join("console.log")
}

/// How far a console was read.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    /// Where the part at hand begins.
    start: u64,
}

impl Console {
    /// The console of a machine in a run folder. Nothing of it was read.
    pub fn new(run_dir: &Path) -> Console {
        Console { path: console_path(run_dir), start: 0 }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Was too much printed since the last part was taken?
    pub fn is_flooded(&self) -> bool {
        let n_bytes = fs::metadata(&self.path).map_or(0, |meta| meta.len());
        n_bytes.saturating_sub(self.start) > CONSOLE_BYTES_MAX
    }

    /// Takes what was printed since the last call; what cannot be read was not printed.
    pub fn take(&mut self) -> Vec<u8> {
        let part = self.read_on().unwrap_or_default();
        self.start += part.len() as u64;
        part
    }

    fn read_on(&self) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.start))?;
        let mut part = Vec::new();
        file.read_to_end(&mut part)?;
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_taken_once_and_a_console_that_is_not_there_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let mut console = Console::new(dir.path());
        assert_eq!((console.take(), console.is_flooded()), (Vec::new(), false));
        fs::write(console.path(), "boot\n").unwrap();
        assert_eq!(console.take(), b"boot\n");
        assert_eq!(console.take(), b"");
        fs::write(console.path(), "boot\nepoch\n").unwrap();
        assert_eq!(console.take(), b"epoch\n");
    }

    #[test]
    fn a_long_life_is_no_flood_and_one_long_part_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut console = Console::new(dir.path());
        let file = File::create(console.path()).unwrap();
        for part in 1..4 {
            // Holes: nothing is written.
            file.set_len(part * CONSOLE_BYTES_MAX).unwrap();
            assert!(!console.is_flooded());
            console.start = part * CONSOLE_BYTES_MAX;
        }
        file.set_len(4 * CONSOLE_BYTES_MAX + 1).unwrap();
        assert!(console.is_flooded());
    }
}
