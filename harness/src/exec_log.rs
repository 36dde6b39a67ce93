// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's log of the code it executes (`-d exec,nochain`): which vCPU entered which block, in the order in which they ran.
//! A block is straight-line code; every call and every return begins one.

use std::io::{self, BufRead};

/// A vCPU entered a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Number of the vCPU.
    pub cpu: u32,
    /// Address of its first instruction.
    pub pc: u64,
}

/// Longest line of the log, bytes.
const LINE_BYTES_MAX: usize = 256;

/// Hands over block after block until the log ends.
///
/// # Errors
/// When the log cannot be read.
pub fn read(mut log: impl BufRead, mut each: impl FnMut(Block)) -> io::Result<()> {
    let mut line = Vec::with_capacity(LINE_BYTES_MAX);
    // A block is logged before it is known whether its vCPU may go on; where it may not, the next line takes it back.
    let mut last = None;
    loop {
        line.clear();
        if log.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if let Some(block) = entered(&line) {
            last.replace(block).into_iter().for_each(&mut each);
        } else if let Some(pc) = taken_back(&line) {
            last = last.filter(|block: &Block| block.pc != pc);
        }
    }
    last.into_iter().for_each(each);
    Ok(())
}

/// `Trace 1: 0x7f21a0001234 [0000000000000000/ffffffff81000000/00c0b2b0/ff020200] name`
fn entered(line: &[u8]) -> Option<Block> {
    let line = std::str::from_utf8(line.strip_prefix(b"Trace ")?).ok()?;
    let (cpu, rest) = line.split_once(':')?;
    let pc = rest.split('/').nth(1)?;
    Some(Block { cpu: cpu.parse().ok()?, pc: u64::from_str_radix(pc, 16).ok()? })
}

/// `Stopped execution of TB chain before 0x7f21a0001234 [ffffffff81000000] name`
fn taken_back(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line.strip_prefix(b"Stopped execution of TB chain before ")?).ok()?;
    let (_, rest) = line.split_once('[')?;
    u64::from_str_radix(rest.split(']').next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_in_order_without_those_taken_back() {
        let log = b"Trace 0: 0x7f21a0001234 [0000000000000000/ffffffff81000010/00c0b2b0/ff020200] \n\
            Linking TBs 0x1 index 0 -> 0x2\n\
            Trace 0: 0x7f21a0001240 [0000000000000000/ffffffff81000020/00c0b2b0/ff020200] \n\
            Stopped execution of TB chain before 0x7f21a0001240 [ffffffff81000020] \n\
            Trace 3: 0x7f21a0001250 [0000000000000000/ffffffff81000030/00c0b2b0/ff020200] kfree\n\
            Trace x: \xff\nTrace 3: 0x7f [";
        let mut blocks = Vec::new();
        read(&log[..], |block| blocks.push((block.cpu, block.pc))).unwrap();
        assert_eq!(blocks, [(0, 0xffff_ffff_8100_0010), (3, 0xffff_ffff_8100_0030)]);
    }
}
