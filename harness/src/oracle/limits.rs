// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the oracle keeps of a console at most, so that none, however long or broken, makes it large or slow.

/// Bytes read of a line; the rest is skipped. printk's own limit is 1 KiB, symbolised lines are a little longer.
pub const LINE_BYTES_MAX: usize = 2048;
/// Lines kept of a report; stalls and lockdep dumps are the longest.
pub const REPORT_LINES_MAX: usize = 2000;
/// Bytes kept of a report.
pub const REPORT_BYTES_MAX: usize = 256 << 10;
/// Reports kept of a console. The first is the cause; what a kernel says after so many is no longer news.
pub const REPORTS_MAX: usize = 128;
/// A report that got no line for so many lines is over: neither an echo (`Oops:`, `Kernel panic`) nor its caller resumes it.
pub const SILENCE_LINES_MAX: u64 = 600;
