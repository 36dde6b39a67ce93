// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The wire form of a program: a header, then for each thread a header and its ops, little endian.

use crate::layout::{N_THREADS, Op};

/// First two bytes of a wire program.
pub const PROGRAM_MAGIC: u16 = 0x5350;
/// Ops one thread can hold.
pub const OPS_MAX: usize = 64;
/// CPUs a thread can be pinned to are `0..CPUS_MAX`, taken modulo the CPUs that are there.
pub const CPUS_MAX: u8 = 8;
/// Bytes of the program header: magic u16, threads u8, [`FLAG_DEEP`] u8.
pub const HEADER_BYTES: usize = 4;
/// Flag of a program after which the audit is a deep one.
pub const FLAG_DEEP: u8 = 1;
/// Bytes of a thread header: cpu u8, reserved u8, ops u16.
pub const THREAD_HEADER_BYTES: usize = 4;
/// Bytes of one op.
pub const OP_BYTES: usize = 16;
/// The longest wire program, bytes.
pub const WIRE_MAX: usize = HEADER_BYTES + N_THREADS * (THREAD_HEADER_BYTES + OPS_MAX * OP_BYTES);

impl Op {
    /// The 16 bytes of the wire form.
    pub fn to_bytes(self) -> [u8; OP_BYTES] {
        let mut out = [0; OP_BYTES];
        out[..4].copy_from_slice(&[self.kind, self.slot, self.memcg, self.nid]);
        out[4..8].copy_from_slice(&self.a.to_le_bytes());
        out[8..12].copy_from_slice(&self.b.to_le_bytes());
        out[12..].copy_from_slice(&self.c.to_le_bytes());
        out
    }

    /// Reverses [`Op::to_bytes`]. Any bytes give an op; whether it means something is the op table's business.
    pub fn from_bytes(bytes: &[u8; OP_BYTES]) -> Op {
        let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Op {
            kind: bytes[0],
            slot: bytes[1],
            memcg: bytes[2],
            nid: bytes[3],
            a: word(4),
            b: word(8),
            c: word(12),
        }
    }
}

/// One thread of a wire program.
#[derive(Clone, Copy, Debug)]
pub struct WireThread<'a> {
    /// CPU the thread is pinned to.
    pub cpu: u8,
    bytes: &'a [u8],
}

impl<'a> WireThread<'a> {
    /// Number of ops.
    pub fn n_ops(&self) -> usize {
        self.bytes.len() / OP_BYTES
    }

    /// The ops in order.
    pub fn ops(&self) -> impl Iterator<Item = Op> + 'a {
        self.bytes.as_chunks::<OP_BYTES>().0.iter().map(Op::from_bytes)
    }
}

/// Why bytes are not a wire program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The magic is missing.
    Magic,
    /// The bytes end early.
    Truncated,
    /// Bytes follow the last thread.
    Trailing,
    /// More threads than [`N_THREADS`] or none.
    Threads,
    /// More ops in a thread than [`OPS_MAX`].
    Ops,
}

/// Whether a wire program asks for a deep audit.
pub fn is_deep(bytes: &[u8]) -> bool {
    bytes.get(3).is_some_and(|flags| flags & FLAG_DEEP != 0)
}

/// Reads a wire program: the number of threads and an array whose first so many elements are set.
///
/// # Errors
/// Any deviation from the format; nothing is guessed.
pub fn decode(bytes: &[u8]) -> Result<(usize, [Option<WireThread<'_>>; N_THREADS]), WireError> {
    let Some((head, mut rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(WireError::Truncated);
    };
    if u16::from_le_bytes([head[0], head[1]]) != PROGRAM_MAGIC {
        return Err(WireError::Magic);
    }
    let n_threads = head[2] as usize;
    if n_threads == 0 || n_threads > N_THREADS {
        return Err(WireError::Threads);
    }
    let mut threads = [None; N_THREADS];
    for thread in &mut threads[..n_threads] {
        let Some((head, tail)) = rest.split_first_chunk::<THREAD_HEADER_BYTES>() else {
            return Err(WireError::Truncated);
        };
        let n_ops = u16::from_le_bytes([head[2], head[3]]) as usize;
        if n_ops > OPS_MAX {
            return Err(WireError::Ops);
        }
        if tail.len() < n_ops * OP_BYTES {
            return Err(WireError::Truncated);
        }
        let (ops, after) = tail.split_at(n_ops * OP_BYTES);
        *thread = Some(WireThread { cpu: head[0], bytes: ops });
        rest = after;
    }
    if rest.is_empty() { Ok((n_threads, threads)) } else { Err(WireError::Trailing) }
}
