// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a kernel to a guest that can be started: agent and modules built, packed into an initramfs, and the whole
//! recorded under its content key, so that a finding can name it and a later run can start the very same machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use harness::guest::{BASE_APPEND, GuestConfig};
use serde::{Deserialize, Serialize};

use crate::{
    initramfs::{self, Entry},
    kernel::{Kernel, artifact, make},
    lock::Lock,
    paths::{self, Cache},
    proc, tools,
};

/// The kernel modules.
pub const MODULES: [&str; 3] = ["shrinktorture", "canary", "st_unload"];
/// The agent's target: static, so that the initramfs needs nothing else.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Written last; a folder without it does not exist.
const MANIFEST: &str = "manifest.json";

/// A machine that can be started, and what it was made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// What the harness starts.
    pub config: GuestConfig,
    /// How to make it again.
    pub recipe: Recipe,
    /// Kernel with debugging information, when it was built with it.
    pub vmlinux: PathBuf,
    /// Modules with debugging information.
    pub modules: Vec<PathBuf>,
    /// Kind of artifact to its content key.
    pub artifacts: BTreeMap<String, String>,
}

impl Machine {
    /// The kernel's configuration, which lies beside it.
    pub fn kernel_config(&self) -> Option<String> {
        fs::read_to_string(self.vmlinux.with_file_name("config")).ok()
    }
}

/// What a machine is made from, in the words of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Instance of the matrix.
    pub instance: String,
    /// Extra boot arguments.
    pub append: String,
    /// Kernel tree, when it was not the instance's own.
    pub linux: Option<PathBuf>,
    /// Patches; copies in the cache, named by content.
    pub patches: Vec<PathBuf>,
}

/// Agent and modules in an initramfs.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Payload {
    key: String,
    initramfs: PathBuf,
    modules: Vec<PathBuf>,
}

/// What a machine is given besides its kernel.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Boot arguments beyond [`BASE_APPEND`].
    pub append: String,
    /// Guest memory, MiB.
    pub memory_mib: u32,
    /// NUMA nodes.
    pub numa_nodes: u32,
}

/// Builds what is missing for a kernel and records the machine in the cache.
///
/// # Errors
/// When agent or modules do not build, or files cannot be written.
pub fn machine(cache: &Cache, kernel: &Kernel, shape: &Shape, recipe: Recipe) -> Result<Machine> {
    let qemu = tools::Qemu::find(cache)?;
    let qemu_version = qemu.version;
    let payload = payload(cache, kernel)?;
    let seed = 1;
    let mut hasher = blake3::Hasher::new();
    for part in [&kernel.key, &payload.key, &qemu_version, BASE_APPEND, &shape.append] {
        hasher.update(part.as_bytes()).update(b"\0");
    }
    hasher.update(format!("{} {} {seed}", shape.memory_mib, shape.numa_nodes).as_bytes());
    let key = hasher.finalize().to_hex()[..16].to_owned();
    let machine = Machine {
        config: GuestConfig {
            qemu: qemu.system,
            qemu_version,
            kernel: kernel.bzimage.clone(),
            initramfs: payload.initramfs,
            append: shape.append.clone(),
            memory_mib: shape.memory_mib,
            numa_nodes: shape.numa_nodes,
            seed,
            key: key.clone(),
        },
        recipe,
        vmlinux: kernel.vmlinux.clone(),
        modules: payload.modules,
        artifacts: BTreeMap::from([
            ("kernel".to_owned(), kernel.key.clone()),
            ("payload".to_owned(), payload.key),
            ("machine".to_owned(), key.clone()),
        ]),
    };
    let record = serde_json::to_vec_pretty(&machine)?;
    paths::write_whole(&cache.dir("machines")?.join(format!("{key}.json")), &record)?;
    Ok(machine)
}

/// The machine recorded under a key, if all its files are still there.
///
/// # Errors
/// When nothing is recorded, or a file is gone; says what.
pub fn recorded(cache: &Cache, key: &str) -> Result<Machine> {
    if !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("`{key}` is no machine key");
    }
    let path = cache.dir("machines")?.join(format!("{key}.json"));
    let text = fs::read(&path).with_context(|| format!("no machine is recorded at {}", path.display()))?;
    let machine: Machine = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    for file in [&machine.config.qemu, &machine.config.kernel, &machine.config.initramfs] {
        if !file.exists() {
            bail!("{} is gone", file.display());
        }
    }
    Ok(machine)
}

fn payload(cache: &Cache, kernel: &Kernel) -> Result<Payload> {
    let sources = guest_sources()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(kernel.key.as_bytes());
    // The agent is made by this machine's compiler, from these dependencies.
    hasher.update(rustc_version()?.as_bytes()).update(b"\0");
    let lock = paths::repo_root().join("Cargo.lock");
    hasher.update(&fs::read(&lock).with_context(|| lock.display().to_string())?);
    for (name, content) in &sources {
        hasher
            .update(name.as_bytes())
            .update(b"\0")
            .update(&(content.len() as u64).to_le_bytes())
            .update(content);
    }
    let key = hasher.finalize().to_hex()[..16].to_owned();
    let dir = cache.dir("payloads")?.join(&key);
    if let Some(payload) = open_payload(&dir) {
        return Ok(payload);
    }
    let _lock = Lock::acquire(&cache.dir("payloads")?.join(format!("{key}.lock")), "guest modules")?;
    if let Some(payload) = open_payload(&dir) {
        return Ok(payload);
    }
    let _ = fs::remove_dir_all(&dir);
    paths::make_dir(&dir)?;
    let agent = build_agent(cache)?;
    let modules = build_modules(cache, kernel, &sources, &dir)?;
    let initramfs = dir.join("initramfs.cpio");
    fs::write(&initramfs, pack(&agent, &modules)?).with_context(|| initramfs.display().to_string())?;
    let payload = Payload { key, initramfs, modules };
    paths::write_whole(&dir.join(MANIFEST), &serde_json::to_vec_pretty(&payload)?)?;
    Ok(payload)
}

fn open_payload(dir: &Path) -> Option<Payload> {
    serde_json::from_slice(&fs::read(dir.join(MANIFEST)).ok()?).ok()
}

/// Every source file that goes into the guest, relative to `guest-modules`, sorted.
fn guest_sources() -> Result<BTreeMap<String, Vec<u8>>> {
    let root = paths::repo_root().join("guest-modules");
    let mut found = BTreeMap::new();
    for path in paths::files_below(&root, |_| true)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".rs") || ["Cargo.toml", "Kbuild", "Makefile"].contains(&&*name) {
            let relative = path.strip_prefix(&root)?.to_string_lossy().into_owned();
            found.insert(relative, fs::read(&path).with_context(|| path.display().to_string())?);
        }
    }
    Ok(found)
}

/// What the compiler that builds the agent says of itself.
fn rustc_version() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).current_dir(paths::repo_root()).arg("-vV").output();
    let output = output.context("cannot run rustc")?;
    if !output.status.success() {
        bail!("rustc -vV failed: {}", proc::tail(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The static agent binary.
fn build_agent(cache: &Cache) -> Result<Vec<u8>> {
    // cargo names what it builds by paths within the workspace, and takes what is newer than the sources for fresh: two
    // checkouts must not share a folder.
    let root = blake3::hash(paths::repo_root().as_os_str().as_encoded_bytes()).to_hex();
    let target_dir = cache.dir("build")?.join(format!("agent-{}", &root[..8]));
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(paths::repo_root())
        .args(["build", "--quiet", "--release", "--package", "shrinktorture-agent", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the agent does not build: {}", proc::tail(&String::from_utf8_lossy(&output.stderr)));
    }
    let binary = target_dir.join(TARGET).join("release/shrinktorture-agent");
    fs::read(&binary).with_context(|| binary.display().to_string())
}

/// Builds the modules in a copy beside the kernel's build folder and puts them into `dir`.
fn build_modules(
    cache: &Cache,
    kernel: &Kernel,
    sources: &BTreeMap<String, Vec<u8>>,
    dir: &Path,
) -> Result<Vec<PathBuf>> {
    let build = kernel.prepare_for_modules(cache)?;
    let copy = build.scratch("guest-modules")?;
    for (name, content) in sources {
        let path = copy.join(name);
        // Untouched files keep their time, so make rebuilds only what changed.
        if fs::read(&path).ok().as_ref() != Some(content) {
            paths::make_dir(path.parent().unwrap_or(&copy))?;
            fs::write(&path, content).with_context(|| path.display().to_string())?;
        }
    }
    let folder = copy.join("kernel");
    let (text, status) = proc::both(build.make()?.arg(format!("M={}", folder.display())).arg("modules"))?;
    if !status.success() {
        let lines: Vec<&str> = text.lines().collect();
        let what = format!("the guest modules do not build: {}", make::excerpt(&text));
        return Err(make::failure(what, make::is_own_end(status), &lines));
    }
    MODULES
        .iter()
        .map(|name| {
            let (from, to) =
                (artifact::inside(&folder, &format!("{name}.ko"))?, dir.join(format!("{name}.ko")));
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
            Ok(to)
        })
        .collect()
}

/// Agent and stripped modules as an initramfs.
fn pack(agent: &[u8], modules: &[PathBuf]) -> Result<Vec<u8>> {
    let mut entries: Vec<(String, Entry)> =
        ["dev", "proc", "sys", "scratch"].map(|dir| (dir.to_owned(), Entry::Dir)).into();
    // The kernel opens it for PID 1 before devtmpfs is mounted.
    entries.push(("dev/console".to_owned(), Entry::Device { major: 5, minor: 1 }));
    entries.push(("init".to_owned(), Entry::File(agent.to_vec(), true)));
    for module in modules {
        let stripped = tempfile::NamedTempFile::new()?.into_temp_path();
        let strip = format!("llvm-strip-{}", tools::LLVM);
        let shell = proc::shell()?;
        proc::read(xshell::cmd!(shell, "{strip} --strip-debug -o {stripped} {module}"))?;
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        entries.push((name, Entry::File(fs::read(&stripped)?, false)));
    }
    let mut archive = Vec::new();
    initramfs::write(&mut archive, &entries)?;
    Ok(archive)
}
