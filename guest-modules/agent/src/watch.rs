// SPDX-License-Identifier: MIT OR Apache-2.0
//! Has the kernel complained? Taint bits and the kernel log, looked at between programs.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    os::unix::fs::OpenOptionsExt,
};

/// Beginnings of messages after which nothing the guest does is worth running on.
const COMPLAINTS: [&str; 8] = [
    "WARNING: ",
    "BUG: ",
    "INFO: rcu",
    "INFO: task ",
    "INFO: trying",
    "------------[ cut here ]",
    "MODEL: ",
    "shrinktorture: MODEL: ",
];

/// Watches the kernel since it was made.
pub struct Watch {
    taint: u64,
    log: File,
}

impl Watch {
    /// Takes the state of now as good.
    pub fn new() -> io::Result<Watch> {
        let mut log = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        log.seek(io::SeekFrom::End(0))?;
        Ok(Watch { taint: taint()?, log })
    }

    /// What the kernel complained about since the last call, if it did.
    pub fn complaint(&mut self) -> Option<String> {
        let mut found = None;
        let mut printed = false;
        let mut record = [0; 8192];
        // EPIPE says that records were lost; the next read goes on behind the gap.
        loop {
            match self.log.read(&mut record) {
                Ok(n) => {
                    printed = true;
                    let text = String::from_utf8_lossy(&record[..n]);
                    let message = text.split_once(';').map_or("", |(_, message)| message);
                    let message = message.lines().next().unwrap_or_default();
                    // A new shrinker's folder is there already.
                    let is_present = message.starts_with("debugfs: ") && message.contains("'shrinker'");
                    if is_present || COMPLAINTS.iter().any(|start| message.starts_with(start)) {
                        found.get_or_insert_with(|| message.to_owned());
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        // Nothing taints the kernel silently, and reading a file costs as much as a short op.
        let taint = if printed { taint().unwrap_or(self.taint) } else { self.taint };
        if taint & !self.taint != 0 {
            found.get_or_insert_with(|| format!("taint {:#x} -> {taint:#x}", self.taint));
        }
        found
    }
}

fn taint() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/sys/kernel/tainted")?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}
