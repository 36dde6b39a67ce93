// SPDX-License-Identifier: MIT OR Apache-2.0
//! The initramfs: a cpio archive in "newc" form, as `Documentation/driver-api/early-userspace/buffer-format.rst`
//! describes it. Time stamps, owners and inode numbers are fixed, so equal content gives equal bytes.

use std::io::{self, Write};

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Dir,
    /// A file with its content; `true`: executable.
    File(Vec<u8>, bool),
    /// A character device.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Writes an archive; names are relative to the root, parents come before children.
///
/// # Errors
/// When writing fails or a file is larger than the format can say.
pub fn write(out: &mut impl Write, entries: &[(String, Entry)]) -> io::Result<()> {
    for (inode, (name, entry)) in entries.iter().enumerate() {
        write_entry(out, inode as u32 + 1, name, entry)?;
    }
    write_entry(out, 0, "TRAILER!!!", &Entry::File(Vec::new(), false))
}

fn write_entry(out: &mut impl Write, inode: u32, name: &str, entry: &Entry) -> io::Result<()> {
    let (mode, data, device): (u32, &[u8], (u32, u32)) = match entry {
        Entry::Dir => (0o040_755, &[], (0, 0)),
        Entry::File(data, false) => (0o100_644, data, (0, 0)),
        Entry::File(data, true) => (0o100_755, data, (0, 0)),
        Entry::Device { major, minor } => (0o020_600, &[], (*major, *minor)),
    };
    let size =
        u32::try_from(data.len()).map_err(|_| io::Error::other(format!("{name} is larger than 4 GiB")))?;
    let name_size = name.len() as u32 + 1;
    // magic ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08X}")?;
    }
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, 110 + name_size as usize)?;
    out.write_all(data)?;
    pad(out, data.len())
}

/// Pads to a multiple of four after `len` bytes.
fn pad(out: &mut impl Write, len: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..len.next_multiple_of(4) - len])
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpio_reads_what_we_write() {
        let entries = [
            ("dev".to_owned(), Entry::Dir),
            ("init".to_owned(), Entry::File(b"#!/bin/true\n".to_vec(), true)),
            ("odd".to_owned(), Entry::File(b"12345".to_vec(), false)),
        ];
        let mut archive = Vec::new();
        write(&mut archive, &entries).unwrap();
        let mut cpio = Command::new("cpio")
            .args(["-itv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio is installed by `cargo xtask setup`");
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        let listing = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let names: Vec<&str> = listing.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(names, ["dev", "init", "odd"]);
        assert!(listing.contains("-rwxr-xr-x") && listing.contains("           5"), "{listing}");
    }
}
