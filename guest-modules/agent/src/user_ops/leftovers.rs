// SPDX-License-Identifier: MIT OR Apache-2.0
//! What programs may leave behind, beside the module's things: noted before a program runs, undone after it. Asking the
//! kernel what is there costs more than a short program.

use std::{fs, io};

use abi::{
    layout::{N_MEMCGS, kind, zswap},
    program::WireThread,
};

use super::{groups, switch_zswap, system, trees, watermark};

/// Notes.
#[derive(Debug, Default)]
pub struct Leftovers {
    groups: [bool; N_MEMCGS],
    crowd: bool,
    mounts: bool,
    module: bool,
    zswap: bool,
    watermark: bool,
    cpus: bool,
}

impl Leftovers {
    /// Nothing is left; takes the present state as the usual one.
    pub fn new() -> io::Result<Leftovers> {
        watermark::usual()?;
        Ok(Leftovers::default())
    }

    /// Notes what a program may leave.
    pub fn note(&mut self, threads: &[WireThread<'_>]) {
        for op in threads.iter().flat_map(WireThread::ops) {
            match op.kind {
                kind::MEMCG_CREATE | kind::MEMCG_NEST => {
                    if let Some(made) = self.groups.get_mut(usize::from(op.memcg)) {
                        *made = true;
                    }
                }
                kind::MEMCG_CROWD => self.crowd = true,
                kind::MOUNT => self.mounts = true,
                kind::MODULE_LOAD => self.module = true,
                kind::ZSWAP => self.zswap = true,
                kind::WATERMARK => self.watermark = true,
                kind::CPU_CYCLE => self.cpus = true,
                _ => {}
            }
        }
    }

    /// Undoes it; groups that are still in use stay noted.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.watermark) {
            watermark::restore();
        }
        if std::mem::take(&mut self.cpus) {
            system::restore_cpus();
        }
        if std::mem::take(&mut self.module) {
            let _ = system::unload_unloadable();
        }
        if std::mem::take(&mut self.mounts) {
            trees::umount_all();
        }
        if std::mem::take(&mut self.zswap) {
            let _ = switch_zswap(zswap::OFF);
        }
        if std::mem::take(&mut self.crowd) {
            groups::remove_crowd();
        }
        // The later ones may lie inside the earlier ones.
        for (memcg, made) in self.groups.iter_mut().enumerate().rev().filter(|(_, made)| **made) {
            let memcg = memcg as u8;
            let is_left =
                |removed: io::Result<()>| removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound);
            let nested = groups::nested(memcg).is_some_and(|path| is_left(fs::remove_dir(path)));
            *made = is_left(fs::remove_dir(groups::top(memcg))) || nested;
        }
    }
}
