// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system calls that have no safe wrapper, each wrapped once. All `unsafe` of the agent is here.
#![expect(unsafe_code, reason = "mappings, ioctls and fork have no safe form")]

use std::{
    fs::File,
    io,
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use abi::layout::KCOV_WAKES;
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous},
    unistd::{ForkResult, Pid, fork},
};

/// A shared mapping that lives as long as the process. Reads and writes are volatile or atomic and checked.
#[derive(Clone, Copy)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is never unmapped, and every access is an aligned volatile or atomic access within bounds.
unsafe impl Send for Mapping {}

/// Types made of plain integers: any bytes are a value.
///
/// # Safety
/// `#[repr(C)]`, no padding, no pointer, every bit pattern valid.
pub unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: an integer.
unsafe impl Plain for u16 {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: an integer.
unsafe impl Plain for i32 {}
// SAFETY: `repr(C)` of u32 only.
unsafe impl Plain for abi::shm::Header {}
// SAFETY: `repr(C)` of u32 only.
unsafe impl Plain for abi::shm::ProgramRef {}
// SAFETY: `repr(C)`, 4 x u32, 2 x u64, 4 x u32: no padding.
unsafe impl Plain for abi::shm::ProgramResult {}
// SAFETY: integers only, no padding.
unsafe impl Plain for abi::shm::OpRecord {}

impl Mapping {
    /// Maps `len` bytes of `file`, shared.
    pub fn of_file(file: &File, len: usize) -> io::Result<Mapping> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; nothing else refers to it.
        let base = unsafe { mmap(None, size, prot, MapFlags::MAP_SHARED, file.as_fd(), 0)? };
        Ok(Mapping { base: base.cast(), len })
    }

    /// Maps `len` zero bytes, shared with forked children.
    pub fn anonymous(len: usize) -> io::Result<Mapping> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; nothing else refers to it.
        let base = unsafe { mmap_anonymous(None, size, prot, MapFlags::MAP_SHARED)? };
        Ok(Mapping { base: base.cast(), len })
    }

    fn at<T: Plain>(&self, offset: usize) -> *mut T {
        assert!(offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.len), "mapping overrun");
        assert!(offset.is_multiple_of(align_of::<T>()), "misaligned offset");
        // SAFETY: within the mapping, just checked.
        unsafe { self.base.as_ptr().add(offset).cast() }
    }

    /// Volatile read at a byte offset.
    pub fn read<T: Plain>(&self, offset: usize) -> T {
        // SAFETY: in bounds and aligned (`at`), any bytes are a `T` (`Plain`).
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// Volatile write at a byte offset.
    pub fn write<T: Plain>(&self, offset: usize, value: T) {
        // SAFETY: in bounds and aligned (`at`).
        unsafe { self.at::<T>(offset).write_volatile(value) }
    }

    /// Copies bytes out.
    pub fn read_bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        (offset..offset + len).map(|i| self.read(i)).collect()
    }

    /// The u32 at a byte offset as an atomic, for talk between processes.
    pub fn atomic_u32(&self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: in bounds and aligned (`at`); the mapping lives as long as the process.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }
}

/// A KCOV buffer of this thread, enabled.
pub struct Kcov {
    area: Mapping,
    _file: File,
    _this_thread_only: PhantomData<*const ()>,
}

const KCOV_INIT_TRACE: libc::c_ulong = 0x8008_6301;
const KCOV_ENABLE: libc::c_ulong = 0x6364;
const KCOV_TRACE_PC: libc::c_ulong = 0;

impl Kcov {
    /// Entries of the buffer; later ones are lost.
    const ENTRIES: usize = 128 << 10;
    const WAKES: usize = (Self::ENTRIES - KCOV_WAKES) * 8;

    /// Opens and enables coverage of the calling thread.
    pub fn enable() -> io::Result<Kcov> {
        let file = File::options().read(true).write(true).open("/sys/kernel/debug/kcov")?;
        ioctl_value(&file, KCOV_INIT_TRACE, Self::ENTRIES as libc::c_ulong)?;
        let area = Mapping::of_file(&file, Self::ENTRIES * 8)?;
        ioctl_value(&file, KCOV_ENABLE, KCOV_TRACE_PC)?;
        Ok(Kcov { area, _file: file, _this_thread_only: PhantomData })
    }

    /// Forgets what was recorded.
    pub fn clear(&self) {
        self.area.write::<u64>(0, 0);
        self.area.write::<u64>(Self::WAKES, 0);
    }

    /// How often this thread woke another one of the program since then.
    pub fn n_wakes(&self) -> u64 {
        // A buffer that is full has a program counter there.
        if self.area.read::<u64>(0) as usize >= Self::ENTRIES - 1 { 0 } else { self.area.read(Self::WAKES) }
    }

    /// How many program counters were recorded since the last [`Kcov::clear`].
    pub fn n_pcs(&self) -> usize {
        (self.area.read::<u64>(0) as usize).min(Self::ENTRIES - 1 - KCOV_WAKES)
    }

    /// The program counters.
    pub fn pcs(&self) -> impl Iterator<Item = u64> + '_ {
        (1..=self.n_pcs()).map(|i| self.area.read(i * 8))
    }
}

/// An ioctl whose argument is a number.
pub fn ioctl_value(file: &File, request: libc::c_ulong, value: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the requests used with this function (KCOV, RESET, CANARY) do not touch our memory.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, value) })
}

/// An ioctl whose argument is a structure of the ABI.
pub fn ioctl_struct<T>(file: &File, request: u32, value: &mut T) -> io::Result<i32> {
    assert_eq!((request >> 16 & 0x3fff) as usize, size_of::<T>(), "ioctl size");
    // SAFETY: the request encodes the size of what the module reads and writes, and it is `T`'s.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::c_ulong::from(request), std::ptr::from_mut(value)) })
}

fn check(result: libc::c_int) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Forks; the child runs `body` and exits.
pub fn spawn(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the agent has one thread, so the child may do anything.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => std::process::exit(body()),
    }
}

/// Enables swapping on a prepared device.
pub fn swapon(path: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: the path is a C string; the call touches no other memory.
    check(unsafe { libc::swapon(path.as_ptr(), 0) }).map(drop)
}

const PAGE: usize = 4096;

/// A private anonymous mapping, unmapped when dropped.
pub struct Anonymous {
    base: NonNull<u8>,
    len: usize,
}

impl Anonymous {
    /// Maps `len` bytes.
    pub fn new(len: usize) -> io::Result<Anonymous> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; nothing else refers to it.
        let base = unsafe { mmap_anonymous(None, size, prot, MapFlags::MAP_PRIVATE)? };
        Ok(Anonymous { base: base.cast(), len })
    }

    /// Writes to every page.
    pub fn touch(&self) {
        for offset in (0..self.len).step_by(PAGE) {
            // Pages that are all one byte are not stored when they are swapped.
            // SAFETY: within the mapping, which is ours and writable.
            unsafe { self.base.as_ptr().add(offset).write_volatile((offset / PAGE) as u8 | 1) };
        }
    }

    /// Writes to the first page.
    pub fn touch_first(&self) {
        // SAFETY: a mapping has at least one page, ours and writable.
        unsafe { self.base.as_ptr().write_volatile(1) };
    }

    /// The first page, to be handed to the kernel.
    pub fn first_page(&self) -> &[u8] {
        // SAFETY: a mapping has at least one page, ours and readable; nothing writes to it while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), PAGE) }
    }

    /// Bytes from the mapping's start to the next multiple of `align`, a power of two.
    pub fn until_aligned(&self, align: usize) -> usize {
        self.base.as_ptr().addr().wrapping_neg() & (align - 1)
    }

    /// Unmaps the first `len` bytes, whole pages and not all of them.
    pub fn trim_front(&mut self, len: usize) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        if len >= self.len || !len.is_multiple_of(PAGE) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the part is ours, and is not used any more: `base` and `len` leave it out from here on.
        unsafe {
            nix::sys::mman::munmap(self.base.cast(), len)?;
            self.base = self.base.add(len);
        }
        self.len -= len;
        Ok(())
    }

    /// `madvise()` of the whole mapping with advice that keeps its content.
    pub fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the mapping is ours, and nothing refers into it.
        check(unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, advice) }).map(drop)
    }
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        // SAFETY: ours, and not used afterwards.
        let _ = unsafe { nix::sys::mman::munmap(self.base.cast(), self.len) };
    }
}

/// NUMA node of the CPU the caller runs on.
pub fn current_node() -> io::Result<u32> {
    let mut node = 0_u32;
    let nothing = std::ptr::null_mut::<u32>();
    // SAFETY: the kernel writes one u32; null pointers say what is not wanted.
    let result = unsafe { libc::syscall(libc::SYS_getcpu, nothing, &raw mut node, nothing) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(node) }
}

/// Waits until `counter` reaches `target`, at most `limit_ns`; whether it did.
///
/// Whoever it waits for is on another CPU, which the deterministic engine turns to at a `pause` and otherwise not before
/// the next timer, or on this CPU, and then it takes a yield.
pub fn wait_for(counter: &AtomicU32, target: u32, limit_ns: u64) -> bool {
    let start = now_ns();
    while counter.load(Ordering::SeqCst) < target {
        if now_ns() - start > limit_ns {
            return false;
        }
        std::hint::spin_loop();
        std::thread::yield_now();
    }
    true
}

/// CLOCK_MONOTONIC, ns.
pub fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
