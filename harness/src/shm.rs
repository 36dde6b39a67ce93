// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's side of the shared memory. The only file with `unsafe` in the data path.
//!
//! The guest writes here at will, so nothing is borrowed from the mapping: every access is a volatile copy with its
//! bounds checked, and every offset the guest names is checked before use.
#![expect(unsafe_code, reason = "a mapping that another party writes has no safe form")]

use std::{
    collections::BTreeSet, fs::File, io, mem::offset_of, num::NonZeroUsize, os::fd::AsFd, path::Path,
    ptr::NonNull, time::Duration,
};

use abi::{
    layout::{ABI_MAGIC, ABI_VERSION, situation::SITUATIONS},
    shm::{
        BATCH_MAX, Header, OpRecord, PROGRAMS_BYTES, PROGRAMS_OFFSET, ProgramRef, ProgramResult,
        RESULTS_OFFSET, SHM_BYTES, status,
    },
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::epoch::{Coverage, Epoch, OpOutcome, ProgramOutcome};

/// A mapped shared-memory file.
pub struct Shm {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone in this process, and all access is by volatile copies.
unsafe impl Send for Shm {}

/// Plain integers in `repr(C)` without padding: any bytes are a value.
///
/// # Safety
/// No pointer, no padding, every bit pattern valid.
unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: u32 fields only.
unsafe impl Plain for Header {}
// SAFETY: u32 fields only.
unsafe impl Plain for ProgramRef {}
// SAFETY: 4 x u32, 2 x u64, 4 x u32.
unsafe impl Plain for ProgramResult {}
// SAFETY: integers only, no padding.
unsafe impl Plain for OpRecord {}

impl Shm {
    /// Creates the file anew, all zero, and maps it.
    ///
    /// # Errors
    /// When the file cannot be made or mapped.
    pub fn create(path: &Path) -> io::Result<Shm> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(SHM_BYTES as u64)?;
        let size = NonZeroUsize::new(SHM_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice, of a file that has just been sized.
        let base = unsafe { mmap(None, size, prot, MapFlags::MAP_SHARED, file.as_fd(), 0)? };
        let shm = Shm { base: base.cast() };
        shm.write(offset_of!(Header, magic), ABI_MAGIC);
        shm.write(offset_of!(Header, version), ABI_VERSION);
        Ok(shm)
    }

    /// Puts a batch in place; it is announced by its number, written last.
    ///
    /// # Errors
    /// When the batch is too large.
    pub fn put_batch(&self, epoch: &Epoch, seq: u32, flags: u32, op_deadline: Duration) -> io::Result<()> {
        let n = epoch.programs.len();
        if n > BATCH_MAX {
            return Err(io::Error::other(format!("{n} programs in a batch, {BATCH_MAX} fit")));
        }
        // The table has its full length, so that a program lies where it lay when more followed it.
        let mut offset = PROGRAMS_OFFSET + BATCH_MAX * size_of::<ProgramRef>();
        for (idx, program) in epoch.programs.iter().enumerate() {
            let wire = program.to_wire();
            if offset + wire.len() > PROGRAMS_OFFSET + PROGRAMS_BYTES {
                return Err(io::Error::other("programs of the batch do not fit into shared memory"));
            }
            let place = ProgramRef { offset: offset as u32, len: wire.len() as u32 };
            self.write(PROGRAMS_OFFSET + idx * size_of::<ProgramRef>(), place);
            for (i, byte) in wire.iter().enumerate() {
                self.write(offset + i, *byte);
            }
            self.write(RESULTS_OFFSET + idx * size_of::<ProgramResult>(), ProgramResult::default());
            offset += wire.len();
        }
        self.write(offset_of!(Header, n_programs), n as u32);
        self.write(offset_of!(Header, canary), epoch.canary);
        self.write(offset_of!(Header, op_deadline_ms), op_deadline.as_millis() as u32);
        self.write(offset_of!(Header, n_done), 0u32);
        self.set_flags(flags);
        self.write(offset_of!(Header, batch_seq), seq);
        Ok(())
    }

    /// Sets `Header::flags`.
    pub fn set_flags(&self, flags: u32) {
        self.write(offset_of!(Header, flags), flags);
    }

    /// A copy of the header.
    pub fn header(&self) -> Header {
        self.read(0).expect("the header lies within the mapping")
    }

    /// What became of each program of a batch.
    pub fn outcomes(&self, epoch: &Epoch) -> Vec<ProgramOutcome> {
        (0..epoch.programs.len()).map(|idx| self.outcome(idx, epoch.coverage)).collect()
    }

    fn outcome(&self, idx: usize, coverage: Coverage) -> ProgramOutcome {
        let Some(result) = self.read::<ProgramResult>(RESULTS_OFFSET + idx * size_of::<ProgramResult>())
        else {
            return ProgramOutcome::default();
        };
        let records = self.many(result.cover_offset, result.cover_len);
        let (cover, pcs) = match coverage {
            Coverage::Edges => (merge(records), Vec::new()),
            Coverage::Pcs => (Vec::new(), records.collect::<BTreeSet<u32>>().into_iter().collect()),
        };
        ProgramOutcome {
            started: result.status != status::NOT_RUN,
            finished: result.status == status::DONE,
            n_ops: result.n_ops,
            n_errors: result.n_errors,
            guest_time: Duration::from_nanos(result.end_ns.saturating_sub(result.start_ns)),
            cover,
            pcs,
            ops: self.many(result.results_offset, result.results_len).map(op_outcome).collect(),
            situations: self.situations(&result),
        }
    }

    fn situations(&self, result: &ProgramResult) -> Vec<u16> {
        let named = self.many::<u32>(result.situations_offset, result.situations_len);
        let known: BTreeSet<u16> =
            named.take(SITUATIONS).filter(|n| (*n as usize) < SITUATIONS).map(|n| n as u16).collect();
        known.into_iter().collect()
    }

    /// `n` values from an offset the guest named; stops at the end of the mapping.
    fn many<T: Plain>(&self, offset: u32, n: u32) -> impl Iterator<Item = T> + '_ {
        (0..n as usize).map_while(move |i| self.read(offset as usize + size_of::<T>() * i))
    }

    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let fits = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= SHM_BYTES);
        if !fits || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: in bounds and aligned, just checked; any bytes are a `T`.
        Some(unsafe { self.base.as_ptr().add(offset).cast::<T>().read_volatile() })
    }

    fn write<T: Plain>(&self, offset: usize, value: T) {
        assert!(offset + size_of::<T>() <= SHM_BYTES && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: in bounds and aligned, just checked.
        unsafe { self.base.as_ptr().add(offset).cast::<T>().write_volatile(value) }
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        // SAFETY: mapped by `create` with this size; nothing refers into it.
        let _ = unsafe { munmap(self.base.cast(), SHM_BYTES) };
    }
}

fn op_outcome(record: OpRecord) -> Option<OpOutcome> {
    let OpRecord { result, start_ns, end_ns, n_edges, n_wakes } = record;
    (result != OpRecord::NOT_RUN).then_some(OpOutcome { result, start_ns, end_ns, n_edges, n_wakes })
}

/// Adds up the records of several threads: each index once, sorted.
fn merge(records: impl Iterator<Item = u32>) -> Vec<(u16, u16)> {
    let mut cover: Vec<(u16, u16)> = records.map(|record| ((record >> 16) as u16, record as u16)).collect();
    cover.sort_unstable();
    cover.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 = kept.1.saturating_add(next.1);
        }
        same
    });
    cover
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_claims_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let shm = Shm::create(&dir.path().join("shm")).unwrap();
        let program = "thread cpu=0\n yield\n".parse().unwrap();
        let epoch = Epoch { programs: vec![program], ..Epoch::default() };
        shm.put_batch(&epoch, 1, 0, Duration::from_secs(1)).unwrap();
        let hostile = ProgramResult {
            status: status::DONE,
            cover_offset: u32::MAX - 8,
            cover_len: u32::MAX,
            results_offset: 3,
            results_len: u32::MAX,
            ..ProgramResult::default()
        };
        shm.write(RESULTS_OFFSET, hostile);
        let outcome = &shm.outcomes(&epoch)[0];
        assert!(outcome.finished && outcome.cover.is_empty() && outcome.ops.is_empty());
    }

    #[test]
    fn records_of_several_threads_are_added() {
        assert_eq!(merge([5 << 16 | 1, 2 << 16 | 7, 5 << 16 | 2].into_iter()), [(2, 7), (5, 3)]);
    }
}
