// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kernel build`: from an instance's name to a kernel in the cache, addressed by everything that went into it.

pub mod artifact;
pub mod make;
mod slot;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

pub use artifact::Kernel;
use artifact::{FORMAT, Manifest, Recipe};
use make::Make;
use slot::{Slot, Target};

use crate::{
    config::{self, Options},
    exit::{Exit, Outcome},
    lock::Lock,
    matrix::{self, Instance, kconfigs},
    patch::{self, Patch},
    paths::{Cache, make_dir},
    proc, sandbox, setup,
    source::{self, Source},
    tools::{Need, Toolchain},
};

/// Arguments of `kernel`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: KernelCommand,
}

#[derive(Subcommand)]
enum KernelCommand {
    /// Build a kernel, or find it in the cache.
    Build(BuildArgs),
}

#[derive(clap::Args)]
struct BuildArgs {
    /// A name of kconfigs/matrix.yaml.
    instance: String,
    /// Build this source tree (a git worktree or an unpacked archive; never modified) instead of the instance's.
    #[arg(long, value_name = "DIR")]
    linux: Option<PathBuf>,
    /// Apply a patch (diff, mail or mailbox), after the instance's own. Repeatable.
    #[arg(long, value_name = "FILE")]
    patch: Vec<PathBuf>,
    /// Print the kernel as one JSON document.
    #[arg(long)]
    json: bool,
}

/// Which kernel.
#[derive(Clone, Copy, Debug)]
pub struct BuildRequest<'a> {
    /// The instance.
    pub instance: &'a Instance,
    /// A source tree of the user's (a git worktree or an unpacked archive; never modified) instead of the instance's.
    pub linux: Option<&'a Path>,
    /// Patches (diffs, mails or mailboxes), after the instance's own.
    pub patches: &'a [PathBuf],
    /// Whose they are.
    pub trust: Trust,
}

/// Whose patches are, and what their makefiles may do when they are built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// The user's own: anything that the user may.
    #[default]
    Own,
    /// Somebody's: built in a sandbox, in a folder of its own.
    Foreign,
}

/// `kernel`.
pub fn run(args: Args) -> Outcome {
    let KernelCommand::Build(args) = args.command;
    let started = Instant::now();
    let instance = matrix::instance(&args.instance)?;
    let request = BuildRequest {
        instance: &instance,
        linux: args.linux.as_deref(),
        patches: &args.patch,
        trust: Trust::Own,
    };
    let kernel = build(&Cache::open()?, &request)?;
    if args.json {
        let mut value = serde_json::to_value(&kernel.manifest).context("cannot print the kernel")?;
        value["dir"] = kernel.dir.display().to_string().into();
        value["seconds"] = started.elapsed().as_secs_f64().into();
        println!("{}", serde_json::to_string_pretty(&value).context("cannot print the kernel")?);
    } else {
        println!("{} {} ({:.1} s)", kernel.release, kernel.dir.display(), started.elapsed().as_secs_f64());
    }
    Ok(Exit::Pass)
}

/// Prefixes of the make variables that choose what one object is instrumented with.
const INSTRUMENTS: [&str; 2] = ["KCOV_INSTRUMENT_", "KCSAN_SANITIZE_"];

/// What tells make which files to instrument. KCSAN, unlike KCOV, takes all files unless told otherwise.
fn make_variables(instance: &Instance) -> Vec<String> {
    let [kcov, kcsan] = INSTRUMENTS;
    let instrument = |prefix: &str, stem: &String| format!("{prefix}{stem}.o=y");
    let mut variables: Vec<String> = instance.kcov.iter().map(|stem| instrument(kcov, stem)).collect();
    if !instance.kcsan.is_empty() {
        variables.push("KCSAN_SANITIZE=n".to_owned());
        variables.extend(instance.kcsan.iter().map(|stem| instrument(kcsan, stem)));
    }
    variables
}

/// What a kernel is made from, read and found.
struct Inputs {
    /// The user's tree, at the place that the user's path means.
    linux: Option<PathBuf>,
    options: Options,
    source: Source,
    toolchain: Toolchain,
    recipe: Recipe,
    key: String,
}

impl Inputs {
    fn read(cache: &Cache, request: &BuildRequest<'_>) -> Result<Inputs> {
        let instance = request.instance;
        let patches = load_patches(instance, request.patches)?;
        let fragments: Vec<PathBuf> = instance
            .fragments
            .iter()
            .map(|name| kconfigs().join(format!("fragments/{name}.config")))
            .collect();
        let options = config::read_fragments(&fragments)?;
        setup::ensure(cache, &[Need::Kernel])?;
        let toolchain = Toolchain::find(cache)?;
        let linux = request.linux.map(|dir| dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf()));
        let source = find_source(cache, instance, linux.as_deref())?;
        let recipe = Recipe {
            format: FORMAT,
            source_id: source.id.clone(),
            config: config::to_text(&options),
            patches,
            toolchain: toolchain.versions.clone(),
            variables: make_variables(instance),
        };
        let key = recipe.key();
        Ok(Inputs { linux, options, source, toolchain, recipe, key })
    }

    fn target(&self) -> Target<'_> {
        let Inputs { options, source, toolchain, recipe, key, .. } = self;
        Target { key, recipe, options, source, toolchain }
    }
}

/// Builds a kernel, or finds it in the cache. Installs what that needs.
///
/// # Errors
/// When the source cannot be had, a patch does not apply, an option does not survive, or make fails.
pub fn build(cache: &Cache, request: &BuildRequest<'_>) -> Result<Kernel> {
    let inputs = Inputs::read(cache, request)?;
    let place = artifact::place(cache, request.instance.kernel_name(), &inputs.key)?;
    if let Some(kernel) = artifact::load(&place) {
        return Ok(kernel);
    }
    let slot = Slot::new(cache, request.instance.kernel_name(), inputs.linux.as_deref(), request.trust)?;
    let lock = slot.lock()?;
    // Whoever had the lock may have built it.
    if let Some(kernel) = artifact::load(&place) {
        return Ok(kernel);
    }
    if request.trust == Trust::Foreign {
        shadow(cache, request.instance, inputs.linux.as_deref(), &slot)?;
    }
    build_in(cache, request, &inputs, &slot, &lock)
}

/// Builds a kernel in a slot that is ready for it.
fn build_in(
    cache: &Cache,
    request: &BuildRequest<'_>,
    inputs: &Inputs,
    slot: &Slot,
    lock: &Lock,
) -> Result<Kernel> {
    let (instance, started) = (request.instance, Instant::now());
    eprintln!(
        "building kernel {} ({}; log: {})",
        instance.kernel_name(),
        inputs.source.id,
        slot.log().display()
    );
    slot.establish(&inputs.target(), lock)?;
    let manifest = Manifest {
        key: inputs.key.clone(),
        instance: instance.clone(),
        linux: inputs.linux.clone(),
        release: release(&slot.out())?,
        slot: slot.name.clone(),
        trust: request.trust,
        recipe: inputs.recipe.clone(),
        build_seconds: started.elapsed().as_secs(),
    };
    artifact::store(cache, &slot.out(), manifest)
}

/// Makes the slot of foreign patches a copy of the one that holds the kernel without them: nothing that other foreign
/// patches left behind is in it, and it need not compile what they do not touch.
fn shadow(cache: &Cache, instance: &Instance, linux: Option<&Path>, slot: &Slot) -> Result<()> {
    let request = BuildRequest { instance, linux, patches: &[], trust: Trust::Own };
    let inputs = Inputs::read(cache, &request)?;
    let base = Slot::new(cache, instance.kernel_name(), inputs.linux.as_deref(), Trust::Own)?;
    let lock = base.lock()?;
    base.establish(&inputs.target(), &lock)?;
    slot.copy(&base)
}

/// What a workbench begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The kernel without the series.
    Afresh,
    /// Whatever was built there last.
    AsItIs,
}

/// The slot of a series, in which it is compiled in parts, patch by patch, and then as a whole.
pub struct Workbench<'a> {
    cache: &'a Cache,
    instance: &'a Instance,
    inputs: Inputs,
    slot: Slot,
    lock: Lock,
    trust: Trust,
}

impl<'a> Workbench<'a> {
    /// Takes the slot for oneself.
    ///
    /// # Errors
    /// When the kernel without the series does not build.
    pub fn open(
        cache: &'a Cache,
        instance: &'a Instance,
        linux: Option<&Path>,
        trust: Trust,
        begin: Begin,
    ) -> Result<Workbench<'a>> {
        let request = BuildRequest { instance, linux, patches: &[], trust };
        let inputs = Inputs::read(cache, &request)?;
        let slot = Slot::new(cache, instance.kernel_name(), inputs.linux.as_deref(), trust)?;
        let lock = slot.lock()?;
        match (begin, trust) {
            (Begin::AsItIs, _) => {}
            (Begin::Afresh, Trust::Own) => slot.establish(&inputs.target(), &lock)?,
            (Begin::Afresh, Trust::Foreign) => shadow(cache, instance, linux, &slot)?,
        }
        Ok(Workbench { cache, instance, inputs, slot, lock, trust })
    }

    /// The source, with the patches that were applied last.
    pub fn src(&self) -> PathBuf {
        self.slot.src()
    }

    /// make's output folder.
    pub fn out(&self) -> PathBuf {
        self.slot.out()
    }

    /// A folder that programs in the sandbox see where it is.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<PathBuf> {
        self.slot.scratch()
    }

    /// Makes the source that of the series' first patches.
    ///
    /// # Errors
    /// When one does not apply; names it and the hunk.
    pub fn apply(&self, patches: &[Patch]) -> Result<()> {
        self.slot.apply(&[self.inputs.recipe.patches.as_slice(), patches].concat())
    }

    /// make's command line here; standard input must stay the lock.
    ///
    /// # Errors
    /// When there is no sandbox to be had.
    pub fn make(&self) -> Result<Command> {
        let mut command = self.slot.make(&self.inputs.toolchain, &self.inputs.recipe.variables)?.command()?;
        command.stdin(self.lock.as_stdin()?);
        Ok(command)
    }

    /// Another program, in the same sandbox.
    ///
    /// # Errors
    /// When there is no sandbox to be had.
    pub fn program(&self, program: &str) -> Result<Command> {
        let mut make = self.slot.make(&self.inputs.toolchain, &[])?;
        make.program = program.into();
        let mut command = make.bare()?;
        command.stdin(self.lock.as_stdin()?);
        Ok(command)
    }

    /// What such a command printed, and whether it succeeded.
    ///
    /// # Errors
    /// When it cannot be run, or there is no sandbox to be had.
    pub fn output(&self, command: &mut Command) -> Result<(String, bool)> {
        let (text, status) = proc::both(command)?;
        if status.code() == Some(i32::from(sandbox::SETUP_FAILED)) {
            bail!("{}", proc::tail(&text));
        }
        Ok((text, status.success()))
    }

    /// make's output folder, where programs in the sandbox see it.
    pub fn seen_out(&self) -> PathBuf {
        self.slot.seen_out()
    }

    /// The source, where programs in the sandbox see it.
    pub fn seen_src(&self) -> PathBuf {
        self.slot.seen_src()
    }

    /// Builds the kernel with the whole series.
    ///
    /// # Errors
    /// As [`build`].
    pub fn build(&self, patches: &[PathBuf]) -> Result<Kernel> {
        let (instance, linux) = (self.instance, self.inputs.linux.as_deref());
        let request = BuildRequest { instance, linux, patches, trust: self.trust };
        let inputs = Inputs::read(self.cache, &request)?;
        let place = artifact::place(self.cache, instance.kernel_name(), &inputs.key)?;
        match artifact::load(&place) {
            Some(kernel) => Ok(kernel),
            None => build_in(self.cache, &request, &inputs, &self.slot, &self.lock),
        }
    }
}

fn load_patches(instance: &Instance, more: &[PathBuf]) -> Result<Vec<Patch>> {
    let own = instance.patches.iter().map(|path| kconfigs().join(path));
    let mut patches = Vec::new();
    for path in own.chain(more.iter().cloned()) {
        patches.extend(patch::load(&path)?);
    }
    Ok(patches)
}

fn find_source(cache: &Cache, instance: &Instance, linux: Option<&Path>) -> Result<Source> {
    match linux {
        Some(dir) => source::folder(cache, dir),
        None => source::debian(cache, &instance.source),
    }
}

fn release(out: &Path) -> Result<String> {
    let path = artifact::inside(out, "include/config/kernel.release")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_string())
}

/// A build folder that holds a given kernel, and stays so while this lives.
pub struct ModuleBuild {
    make: Make,
    /// The build folder, where make sees it.
    seen_out: PathBuf,
    scratch: PathBuf,
    lock: Lock,
}

impl ModuleBuild {
    /// make's command line for modules outside the tree; `M=FOLDER modules` is to be added. Standard input is the
    /// build folder's lock and must stay it.
    ///
    /// # Errors
    /// When the lock cannot be handed on.
    pub fn make(&self) -> Result<Command> {
        let mut command = self.make.command()?;
        command.stdin(self.lock.as_stdin()?);
        Ok(command)
    }

    /// make's command line in a folder with a module's sources and its own Makefile, as whoever has the kernel's build
    /// folder would type it.
    ///
    /// # Errors
    /// When the lock cannot be handed on.
    pub fn plain_make(&self, folder: &Path) -> Result<Command> {
        let mut command = self.make.bare()?;
        command.arg("-C").arg(folder).arg(format!("KDIR={}", self.seen_out.display()));
        command.args(self.make.args.iter().filter(|arg| arg.starts_with("LLVM=")));
        command.stdin(self.lock.as_stdin()?);
        Ok(command)
    }

    /// A folder beside the build's that stays, for copies of modules' sources.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = self.scratch.join(name);
        // A stranger's makefile may have been there, and left links for us to write through.
        if !artifact::is_plain(&folder) {
            std::fs::remove_dir_all(&folder)
                .or_else(|_| std::fs::remove_file(&folder))
                .with_context(|| folder.display().to_string())?;
        }
        make_dir(&folder)
    }
}

impl Kernel {
    /// Makes the build folder of this kernel hold it (another patch may have been built there since), for building
    /// modules against it.
    ///
    /// # Errors
    /// When it cannot be built there any more: its source or the toolchain has changed.
    pub fn prepare_for_modules(&self, cache: &Cache) -> Result<ModuleBuild> {
        let (manifest, recipe) = (&self.manifest, &self.manifest.recipe);
        setup::ensure(cache, &[Need::Kernel])?;
        let toolchain = Toolchain::find(cache)?;
        let slot =
            Slot::new(cache, manifest.instance.kernel_name(), manifest.linux.as_deref(), manifest.trust)?;
        let source = match &manifest.linux {
            Some(dir) => source::folder(cache, dir)?,
            None => {
                let mut spec = manifest.instance.source.clone();
                spec.version = recipe.source_id.split_once('_').map(|(_, version)| version.to_string());
                source::debian(cache, &spec)?
            }
        };
        if source.id != recipe.source_id || toolchain.versions != recipe.toolchain {
            bail!(
                "kernel {} was built from another source or with other compilers than are here now; build it again",
                self.dir.display()
            );
        }
        let lock = slot.lock()?;
        // They survived when the kernel was built.
        let options = Options::new();
        let target =
            Target { key: &self.key, recipe, options: &options, source: &source, toolchain: &toolchain };
        if manifest.trust == Trust::Foreign && !slot.holds(&self.key) {
            shadow(cache, &manifest.instance, manifest.linux.as_deref(), &slot)?;
        }
        slot.establish(&target, &lock)?;
        let make = slot.make(&toolchain, &recipe.variables)?;
        Ok(ModuleBuild { make, seen_out: slot.seen_out(), scratch: slot.scratch()?, lock })
    }
}
