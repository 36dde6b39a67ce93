// SPDX-License-Identifier: MIT OR Apache-2.0
//! Source lines for reports: from the image that was named, else from the machine that a finding was made on.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context, Result};
use fuzz::findings::Record;
use harness::{oracle::Report, symbolize::Symbolizer};

use super::modules;
use crate::{guest, paths, paths::Cache};

/// A kernel and modules.
type Images = (PathBuf, Vec<PathBuf>);

/// Images opened so far, by what they are made of.
pub(super) struct Symbols<'a> {
    vmlinux: Option<&'a Path>,
    modules: &'a [PathBuf],
    opened: RefCell<BTreeMap<Images, Rc<Symbolizer>>>,
}

impl<'a> Symbols<'a> {
    /// Opens nothing yet. Without a cache folder the image is read anew each time.
    pub(super) fn new(vmlinux: Option<&'a Path>, modules: &'a [PathBuf]) -> Symbols<'a> {
        Symbols { vmlinux, modules, opened: RefCell::default() }
    }

    /// Adds source lines to the reports of a log, where there is an image for it.
    ///
    /// # Errors
    /// When an image was named and cannot be read. One that was only guessed is left alone.
    pub(super) fn fill(&self, log: &Path, reports: &mut [Report]) -> Result<()> {
        if reports.is_empty() {
            return Ok(());
        }
        let symbolizer = match self.vmlinux {
            Some(vmlinux) => {
                let wanted = modules(reports);
                let mut files = Vec::new();
                for path in self.modules {
                    let found =
                        if path.is_dir() { paths::files_below(path, |_| true)? } else { vec![path.clone()] };
                    let is_named = |file: &PathBuf| !path.is_dir() || is_module(file, &wanted);
                    files.extend(found.into_iter().filter(is_named));
                }
                Some(self.open(vmlinux, files)?)
            }
            None => self.of_finding(log).and_then(|(vmlinux, modules)| self.open(&vmlinux, modules).ok()),
        };
        let Some(symbolizer) = symbolizer else { return Ok(()) };
        for report in reports {
            if symbolizer.is_kernel_of(report) == Some(false) {
                eprintln!(
                    "warning: {}: the log is of another kernel than the image with build id {}",
                    log.display(),
                    symbolizer.build_id().unwrap_or_default()
                );
                break;
            }
            symbolizer.fill(report);
        }
        Ok(())
    }

    fn open(&self, vmlinux: &Path, modules: Vec<PathBuf>) -> Result<Rc<Symbolizer>> {
        let key = (vmlinux.to_owned(), modules);
        if let Some(symbolizer) = self.opened.borrow().get(&key) {
            return Ok(Rc::clone(symbolizer));
        }
        let symbolizer = Rc::new(Symbolizer::new(vmlinux, &key.1, paths::symbols().as_deref())?);
        self.opened.borrow_mut().insert(key, Rc::clone(&symbolizer));
        Ok(symbolizer)
    }

    /// Kernel and modules of the machine that `provenance.yaml` beside the log names.
    fn of_finding(&self, log: &Path) -> Option<Images> {
        let text = std::fs::read_to_string(log.parent()?.join("provenance.yaml")).ok()?;
        let record: Record = serde_yaml::from_str(&text).context("provenance").ok()?;
        let machine =
            guest::recorded(&Cache::open().ok()?, record.provenance.artifacts.get("machine")?).ok()?;
        Some((machine.vmlinux, machine.modules))
    }
}

/// Is the file one of the modules, by the name the kernel knows it by?
fn is_module(file: &Path, wanted: &std::collections::BTreeSet<String>) -> bool {
    let is_object = file.extension().is_some_and(|ending| ending == "ko" || ending == "debug");
    let stem = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next());
    is_object && stem.is_some_and(|stem| wanted.contains(&stem.replace('-', "_")))
}
