// SPDX-License-Identifier: MIT OR Apache-2.0
//! The smallest file system that the kernel mounts as ext4: one block group, no journal, an empty root folder.
//!
//! Layout: Documentation/filesystems/ext4 ("revision 0", which is ext2's). Blocks of 1 KiB.

use std::{fs::File, io, os::unix::fs::FileExt, os::unix::fs::OpenOptionsExt};

const BLOCK: usize = 1024;
const N_BLOCKS: u32 = 1024;
const N_INODES: u32 = 64;
const INODE_BYTES: usize = 128;
/// Inodes that are taken in an empty file system.
const N_INODES_RESERVED: u32 = 10;
const ROOT_INODE: u32 = 2;
const BLOCKS_PER_GROUP: u32 = 8 * BLOCK as u32;

const SUPERBLOCK: usize = 1;
const DESCRIPTORS: usize = 2;
const BLOCK_BITMAP: usize = 3;
const INODE_BITMAP: usize = 4;
const INODE_TABLE: usize = 5;
const ROOT_FOLDER: usize = INODE_TABLE + N_INODES as usize * INODE_BYTES / BLOCK;
const N_BLOCKS_USED: usize = ROOT_FOLDER + 1;

/// Writes an empty file system to a block device that is not mounted.
pub fn format(device: &str) -> io::Result<()> {
    // Exclusive: refused while the device is mounted.
    let device = File::options().write(true).custom_flags(libc::O_EXCL).open(device)?;
    device.write_all_at(&image(), 0)
}

/// The first blocks of an empty file system; the others may hold anything.
fn image() -> Vec<u8> {
    let mut image = Image(vec![0; N_BLOCKS_USED * BLOCK]);
    // Block 0 belongs to no group, so bit 0 of the bitmap is block 1.
    let n_taken = N_BLOCKS_USED as u32 - 1;
    let n_free = N_BLOCKS - 1 - n_taken;
    let n_inodes_free = N_INODES - N_INODES_RESERVED;

    let at = SUPERBLOCK * BLOCK;
    image.u32(at, N_INODES);
    image.u32(at + 4, N_BLOCKS);
    image.u32(at + 12, n_free);
    image.u32(at + 16, n_inodes_free);
    image.u32(at + 20, SUPERBLOCK as u32);
    image.u32(at + 32, BLOCKS_PER_GROUP);
    image.u32(at + 36, BLOCKS_PER_GROUP);
    image.u32(at + 40, N_INODES);
    // No limit of mounts between checks.
    image.u16(at + 54, u16::MAX);
    image.u16(at + 56, 0xef53);
    // Clean; errors are ignored.
    image.u16(at + 58, 1);
    image.u16(at + 60, 1);

    let at = DESCRIPTORS * BLOCK;
    image.u32(at, BLOCK_BITMAP as u32);
    image.u32(at + 4, INODE_BITMAP as u32);
    image.u32(at + 8, INODE_TABLE as u32);
    image.u16(at + 12, n_free as u16);
    image.u16(at + 14, n_inodes_free as u16);
    image.u16(at + 16, 1);

    image.bits(BLOCK_BITMAP * BLOCK, 0..n_taken);
    image.bits(BLOCK_BITMAP * BLOCK, N_BLOCKS - 1..BLOCKS_PER_GROUP);
    image.bits(INODE_BITMAP * BLOCK, 0..N_INODES_RESERVED);
    image.bits(INODE_BITMAP * BLOCK, N_INODES..BLOCKS_PER_GROUP);

    let at = INODE_TABLE * BLOCK + (ROOT_INODE as usize - 1) * INODE_BYTES;
    image.u16(at, (libc::S_IFDIR | 0o755) as u16);
    image.u32(at + 4, BLOCK as u32);
    image.u16(at + 26, 2);
    // In sectors of 512 bytes.
    image.u32(at + 28, 2);
    image.u32(at + 40, ROOT_FOLDER as u32);

    let at = ROOT_FOLDER * BLOCK;
    image.entry(at, 12, b".");
    image.entry(at + 12, BLOCK as u16 - 12, b"..");
    image.0
}

struct Image(Vec<u8>);

impl Image {
    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn u16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    fn u32(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_le_bytes());
    }

    fn bits(&mut self, at: usize, bits: std::ops::Range<u32>) {
        for bit in bits {
            self.0[at + bit as usize / 8] |= 1 << (bit % 8);
        }
    }

    /// An entry of the root folder for that folder itself.
    fn entry(&mut self, at: usize, len: u16, name: &[u8]) {
        self.u32(at, ROOT_INODE);
        self.u16(at + 4, len);
        self.u16(at + 6, name.len() as u16);
        self.bytes(at + 8, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_as_free_is_free_in_the_bitmaps() {
        let image = image();
        let number = |at: usize| u32::from_le_bytes([image[at], image[at + 1], image[at + 2], image[at + 3]]);
        let n_clear = |block: usize| {
            image[block * BLOCK..(block + 1) * BLOCK].iter().map(|byte| byte.count_zeros()).sum::<u32>()
        };
        assert_eq!(number(SUPERBLOCK * BLOCK + 12), n_clear(BLOCK_BITMAP));
        assert_eq!(number(SUPERBLOCK * BLOCK + 16), n_clear(INODE_BITMAP));
        assert_eq!(image.len(), 14 * BLOCK);
    }
}
