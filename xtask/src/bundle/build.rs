// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds a stand-alone reproducer with its own Makefile.

use std::fs;

use ::fuzz::standalone::{MODULE, Reproducer};
use anyhow::{Context, Result, bail};

use crate::{
    kernel::{Kernel, make},
    paths::Cache,
    proc, tools,
};

/// The module, without debugging information.
///
/// # Errors
/// When it does not build without a warning.
pub fn build(cache: &Cache, kernel: &Kernel, reproducer: &Reproducer) -> Result<Vec<u8>> {
    let build = kernel.prepare_for_modules(cache)?;
    let folder = build.scratch("reproducer")?;
    for (name, text) in reproducer.files() {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    let (text, status) = proc::both(&mut build.plain_make(&folder)?)?;
    if !status.success() || text.contains("warning:") {
        bail!("the stand-alone reproducer does not build: {}", make::excerpt(&text));
    }
    let stripped = tempfile::NamedTempFile::new()?.into_temp_path();
    let (strip, module) = (format!("llvm-strip-{}", tools::LLVM), folder.join(format!("{MODULE}.ko")));
    let shell = proc::shell()?;
    proc::read(xshell::cmd!(shell, "{strip} --strip-debug -o {stripped} {module}"))?;
    fs::read(&stripped).with_context(|| stripped.display().to_string())
}
