// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold when a program has ended: the kernel's side is checked by the module (`model_audit.rs`), debugfs here.

use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use abi::{
    layout::{
        N_SLOTS, Op, ioc, kind,
        model::{Audit, lost, step},
    },
    ops::{self, Field},
    program::WireThread,
};
use nix::{fcntl::AtFlags, sys::stat::fstatat};

use crate::{log, sys, user_ops::SHRINKERS, watched};

/// `what` of drop_caches: slab.
const SLAB: u32 = 0;

/// Whether ids that nobody has are reported. Off until that rule has run on good kernels for as long as the others.
const JUDGE_IDS: bool = false;

/// Audits after each program.
#[derive(Debug)]
pub struct Auditor {
    /// The folder of all shrinkers, open: looking up its path costs as much as several ops. Absent where the kernel has none.
    folder: Option<File>,
    /// Its links when nothing of ours was in it.
    n_links: Option<u64>,
    /// No shrinker was made but by the module.
    only_ours: bool,
}

impl Auditor {
    /// No program has run.
    pub fn new(device: &File) -> Auditor {
        let probe = Audit { step: step::PROBE, slot: lost::FRESH, ..Audit::default() };
        let _ = run_step(device, probe);
        Auditor { folder: File::open(SHRINKERS).ok(), n_links: None, only_ours: JUDGE_IDS }
    }

    /// Notes what a program is about to do.
    pub fn note(&mut self, mut ops: impl Iterator<Item = Op>) {
        // Superblocks have shrinkers, zswap gets one when it is first used; both may outlive the program.
        let makes_shrinkers = |op: Op| matches!(op.kind, kind::MOUNT | kind::ZSWAP | kind::MODULE_LOAD);
        self.only_ours &= !ops.any(makes_shrinkers);
    }

    /// Looks at the shrinkers that a program has left; `deep`: has them shrunk, too; `debugfs_sure`: nothing has kept the
    /// kernel from making their folders.
    pub fn before_reset(&self, device: &File, deep: bool, debugfs_sure: bool) -> io::Result<()> {
        let found = run_step(device, Audit { step: step::CHECK, ..Audit::default() })?;
        let Some(folder) = &self.folder else { return Ok(()) };
        for slot in slots(found.with_entry).filter(|_| debugfs_sure) {
            let entry = run_step(device, Audit { step: step::ENTRY, slot, ..Audit::default() })?;
            let name = CStr::from_bytes_until_nul(&entry.entry).unwrap_or_default();
            check_entry(folder, slot, &name.to_string_lossy(), entry.flag != 0);
        }
        if deep && found.registered != 0 {
            let result = shrink(device, &found);
            run_step(device, Audit { step: step::END, ..Audit::default() })?;
            result?;
        }
        Ok(())
    }

    /// Looks at what is left when the program's shrinkers are gone; `deterministic`: time is counted in instructions.
    pub fn after_reset(&mut self, device: &File, deep: bool, deterministic: bool) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let n_links = folder.metadata()?.nlink();
        // One link a subfolder; file systems that came and went have theirs.
        if self.n_links != Some(n_links) {
            let left = entries(is_ours)?;
            if let Some((name, _)) = left.first() {
                log::model(&format!("a debugfs folder is left of a shrinker that was freed: {name}"));
            } else {
                self.n_links = Some(n_links);
            }
        }
        if deep {
            let slot = if self.only_ours { lost::JUDGE } else { lost::IGNORE };
            let probe = Audit { step: step::PROBE, slot, flag: deterministic.into(), ..Audit::default() };
            // Memory may be short.
            let _ = run_step(device, probe);
        }
        Ok(())
    }
}

/// Looks at a slot's debugfs folder as soon as an op should have made it or given it another name; at the program's end most
/// shrinkers are gone. Only where no other thread has to do with the slot.
#[derive(Debug)]
pub struct Folders {
    folder: Option<File>,
    /// Slots of which it is known what they should have.
    sure: u32,
}

impl Folders {
    /// No program has run.
    pub fn new() -> Folders {
        Folders { folder: File::open(SHRINKERS).ok(), sure: 0 }
    }

    /// A program begins, of which the caller is thread number `own`.
    pub fn begin(&mut self, threads: &[Option<WireThread<'_>>], own: usize) {
        let ops = |thread: &Option<WireThread<'_>>| -> Vec<Op> {
            thread.iter().flat_map(WireThread::ops).collect()
        };
        let others = threads.iter().enumerate().filter(|(nth, _)| *nth != own);
        let theirs =
            others.flat_map(|(_, thread)| ops(thread)).filter_map(slot_of).fold(0, |all, bit| all | bit);
        // A group without memory makes no folders.
        let is_limited = threads.iter().flat_map(ops).any(|op| op.kind == kind::MEMCG_MAX);
        self.sure = if is_limited { 0 } else { !theirs };
    }

    /// An op is done; `fault`: whether an allocation of it failed.
    pub fn look(&mut self, device: &File, op: Op, result: i32, fault: bool) {
        let (Some(folder), Some(bit)) = (&self.folder, slot_of(op)) else { return };
        if fault {
            self.sure &= !bit;
        }
        if result < 0 || self.sure & bit == 0 || !matches!(op.kind, kind::REGISTER | kind::RENAME) {
            return;
        }
        let slot = u32::from(op.slot);
        // Refused when it has none: its name has a slash.
        if let Ok(entry) = run_step(device, Audit { step: step::ENTRY, slot, ..Audit::default() }) {
            let name = CStr::from_bytes_until_nul(&entry.entry).unwrap_or_default();
            check_entry(folder, slot, &name.to_string_lossy(), entry.flag != 0);
        }
    }
}

/// The slot that an op has to do with, as a bit.
fn slot_of(op: Op) -> Option<u32> {
    let has_slot = ops::spec(op.kind)?.args.iter().any(|arg| arg.field == Field::Slot);
    (has_slot && usize::from(op.slot) < N_SLOTS).then(|| 1 << op.slot)
}

fn run_step(device: &File, mut audit: Audit) -> io::Result<Audit> {
    sys::ioctl_struct(device, ioc::AUDIT, &mut audit)?;
    Ok(audit)
}

fn slots(bits: u32) -> impl Iterator<Item = u32> {
    (0..N_SLOTS as u32).filter(move |slot| bits >> slot & 1 != 0)
}

/// A shrinker's folder is there, with a file for each callback (shrinker_debugfs_add()).
fn check_entry(folder: &File, slot: u32, name: &str, has_scan: bool) {
    let exists = |path: &str| fstatat(folder, path, AtFlags::empty()).is_ok();
    for (file, wanted) in [("count", true), ("scan", has_scan)] {
        if exists(&format!("{name}/{file}")) != wanted {
            if !exists(name) {
                log::model(&format!("a registered shrinker has no debugfs folder: slot {slot}, {name}"));
                return;
            }
            let what = if wanted { "is missing" } else { "has no callback" };
            log::model(&format!("a debugfs file does not match the callbacks: slot {slot}, {file} {what}"));
        }
    }
}

/// Has everything shrunk while callbacks say what the module needs to hear.
fn shrink(device: &File, found: &Audit) -> io::Result<()> {
    let go = |step| run_step(device, Audit { step, ..Audit::default() });
    for slot in slots(found.with_entry) {
        let prefix = format!("st{slot}-");
        let n = entries(|name| name.starts_with(&prefix))?.len();
        if n > 1 {
            log::model(&format!("a shrinker has more than one debugfs folder: slot {slot}, {n}"));
        }
    }
    go(step::STOP)?;
    watched::drop_caches(device, SLAB)?;
    go(step::HONEST)?;
    read_counts(device, found.memcg_aware)?;
    watched::drop_caches(device, SLAB)?;
    read_counts(device, found.memcg_aware)?;
    go(step::LISTS)?;
    watched::drop_caches(device, SLAB)?;
    Ok(())
}

fn read_counts(device: &File, slots_wanted: u32) -> io::Result<()> {
    for slot in slots(slots_wanted) {
        let prefix = format!("st{slot}-");
        if let Some((_, folder)) = entries(|name| name.starts_with(&prefix))?.first()
            && let Ok(mut file) = File::open(folder.join("count"))
        {
            let _ = watched::debugfs_count(device, &mut file);
        }
    }
    Ok(())
}

fn entries(wanted: impl Fn(&str) -> bool) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(SHRINKERS)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if wanted(&name) {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

/// `st<slot>-` of slots, or what the module calls objects and pads: see [`abi::layout::kind::ALLOC`].
fn is_ours(name: &str) -> bool {
    if ["st-object-", "st-pad-"].iter().any(|prefix| name.starts_with(prefix)) {
        return true;
    }
    let rest = name.strip_prefix("st").unwrap_or_default();
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    digits > 0 && rest[digits..].starts_with('-')
}
