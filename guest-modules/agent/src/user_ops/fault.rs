// SPDX-License-Identifier: MIT OR Apache-2.0
//! Allocations that fail on demand: the n-th of one op, by `fail-nth` (Documentation/fault-injection).

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use super::write;

/// Fault attributes that count for `fail-nth`.
const ATTRIBUTES: [&str; 2] = ["/sys/kernel/debug/failslab", "/sys/kernel/debug/fail_page_alloc"];

/// Lets `fail-nth` reach every allocation that a kernel thread of execution can see fail, and has failures not printed:
/// they are no report. Kernels without fault injection are left alone. Pages of user space are not failed: a page fault
/// would only be tried again.
pub fn setup() {
    for attribute in ATTRIBUTES.map(Path::new) {
        for (file, value) in [("verbose", "0"), ("ignore-gfp-wait", "N"), ("min-order", "0")] {
            let _ = write(attribute.join(file), value);
        }
    }
}

/// The fault that the next op of this thread gets.
#[derive(Default)]
pub(super) struct Fault {
    /// `fail-nth` of this task; opened by the task itself.
    file: Option<File>,
    asked: Option<u32>,
    is_armed: bool,
}

impl Fault {
    /// Asks for a fault in allocation `n` of the next op.
    pub(super) fn ask(&mut self, n: u32) -> io::Result<i32> {
        if self.file.is_none() {
            self.file = Some(File::options().read(true).write(true).open("/proc/thread-self/fail-nth")?);
        }
        self.asked = Some(n);
        Ok(0)
    }

    /// Arms what was asked for; the op follows.
    pub(super) fn arm(&mut self) {
        if let (Some(n), Some(file)) = (self.asked.take(), &mut self.file) {
            self.is_armed = file.write_all(n.to_string().as_bytes()).is_ok();
        }
    }

    /// Takes back what the op did not use up; whether the allocation was made, and failed. None when none was asked for.
    pub(super) fn disarm(&mut self) -> Option<bool> {
        self.asked = None;
        let file = self.file.as_mut().filter(|_| std::mem::take(&mut self.is_armed))?;
        // The file says how many allocations are left.
        let mut left = [0];
        let has_failed = file.read_at(&mut left, 0).is_ok_and(|n| n == 1) && left == *b"0";
        if !has_failed {
            let _ = file.write_all(b"0");
        }
        Some(has_failed)
    }
}
