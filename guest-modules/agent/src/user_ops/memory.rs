// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ops on anonymous memory: pressure, swap, huge pages.

use std::{
    io::{self, IoSlice},
    os::fd::OwnedFd,
};

use abi::layout::{Op, kind};
use nix::fcntl::SpliceFFlags;

use super::Hands;
use crate::sys::Anonymous;

const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;

/// What is left of a huge page.
pub(super) struct Huge {
    memory: Anonymous,
    /// Both ends of a pipe that holds its first page.
    pin: Option<(OwnedFd, OwnedFd)>,
}

/// Executes one of them.
pub(super) fn run(op: &Op, hands: &mut Hands) -> io::Result<i32> {
    match op.kind {
        kind::PRESSURE => {
            Anonymous::new(op.a as usize * 1024)?.touch();
            Ok(0)
        }
        kind::SWAP_OUT => {
            let memory = Anonymous::new(op.a as usize * 1024)?;
            memory.touch();
            memory.advise(libc::MADV_PAGEOUT)?;
            memory.touch();
            Ok(0)
        }
        kind::THP_SPLIT => {
            // Room for one huge page wherever the kernel puts it.
            let mut memory = Anonymous::new(2 * HUGE_PAGE)?;
            memory.trim_front(memory.until_aligned(HUGE_PAGE))?;
            memory.advise(libc::MADV_HUGEPAGE)?;
            memory.touch_first();
            memory.trim_front(op.a as usize * PAGE)?;
            hands.huge = Some(Huge { memory, pin: None });
            Ok(0)
        }
        kind::THP_PIN => {
            let huge = hands.huge.as_mut().ok_or(nix::Error::EAGAIN)?;
            let (end, pipe) = nix::unistd::pipe()?;
            let page = [IoSlice::new(huge.memory.first_page())];
            let held = nix::fcntl::vmsplice(&pipe, &page, SpliceFFlags::SPLICE_F_NONBLOCK)?;
            huge.pin = Some((end, pipe));
            Ok(i32::from(held > 0))
        }
        _ => Ok(i32::from(hands.huge.take().is_some())),
    }
}
