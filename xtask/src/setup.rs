// SPDX-License-Identifier: MIT OR Apache-2.0
//! `setup`: installs what is missing, saying what and why. Every command that needs something calls [`ensure`] first.
//!
//! Debian packages come through apt, in one go. What would conflict with what the user has (QEMU next to newer
//! tools, a second rustc) is unpacked into a private prefix in the cache instead. bindgen comes through cargo, and
//! virtme-ng into a Python environment of its own; so do the programs that tests of `gate` read its formats with.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use xshell::cmd;

use crate::{
    apt::{self, Apt, Root},
    exit::{Exit, Outcome},
    lock::Lock,
    paths::{Cache, make_dir, write_whole},
    proc,
    tools::{self, DEBIAN_TOOLS, KernelRust, Need, Qemu},
};

/// Arguments of `setup`.
#[derive(clap::Args)]
pub struct Args {}

/// `setup`.
pub fn run(_: Args) -> Outcome {
    let cache = Cache::open()?;
    ensure(&cache, &Need::ALL)?;
    eprintln!("everything is there; `cargo xtask doctor` has the details");
    Ok(Exit::Pass)
}

/// Makes sure that everything for these needs is there, installing what is not.
///
/// # Errors
/// When something cannot be installed; without root, the error is the one command to run.
pub fn ensure(cache: &Cache, needs: &[Need]) -> Result<()> {
    if is_complete(cache, needs) {
        return Ok(());
    }
    let _lock = Lock::acquire(&cache.dir("tools")?.join(".lock"), "installing tools")?;
    debian_tools(cache, needs)?;
    if needs.contains(&Need::Vm) {
        qemu(cache)?;
    }
    if needs.contains(&Need::Kernel) {
        kernel_rust(cache)?;
        bindgen(cache)?;
    }
    if needs.contains(&Need::Interactive) {
        virtme(cache)?;
    }
    if needs.contains(&Need::Formats) {
        format_readers(cache)?;
    }
    Ok(())
}

fn is_complete(cache: &Cache, needs: &[Need]) -> bool {
    let has = |need| needs.contains(&need);
    missing_debian_tools(needs).is_empty()
        && (!has(Need::Vm) || Qemu::find(cache).is_ok())
        && (!has(Need::Kernel) || KernelRust::find(cache).is_some() && tools::find_bindgen(cache).is_some())
        && !lacks_virtme(cache, needs)
        && !lacks_format_readers(cache, needs)
}

fn lacks_virtme(cache: &Cache, needs: &[Need]) -> bool {
    needs.contains(&Need::Interactive) && tools::find_virtme(cache).is_none()
}

fn lacks_format_readers(cache: &Cache, needs: &[Need]) -> bool {
    needs.contains(&Need::Formats) && tools::find_format_readers(cache).is_none()
}

fn missing_debian_tools(needs: &[Need]) -> Vec<&'static tools::DebianTool> {
    DEBIAN_TOOLS.iter().filter(|tool| needs.contains(&tool.need) && tool.probe.find().is_none()).collect()
}

/// All Debian packages in one go, so that a person without root has one command to run.
fn debian_tools(cache: &Cache, needs: &[Need]) -> Result<()> {
    let missing = missing_debian_tools(needs);
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let wants_venv = lacks_virtme(cache, needs) || lacks_format_readers(cache, needs);
    if wants_venv && python_with_venv().is_none() {
        eprintln!("missing: python3-venv (Python environments of their own for programs in Python)");
        packages.push("python3-venv");
    }
    for tool in &missing {
        eprintln!("missing: {} ({})", tool.package, tool.why);
    }
    if needs.contains(&Need::Vm) && Qemu::find(cache).is_err() && Root::probe() != Root::No {
        packages.extend(installable_qemu(cache)?);
    }
    if !packages.is_empty() {
        apt::install(&packages)?;
    }
    Ok(())
}

/// QEMU's packages, when installing them takes nothing away.
fn installable_qemu(cache: &Cache) -> Result<&'static [&'static str]> {
    const PACKAGES: &[&str] = &["qemu-system-x86", "qemu-utils"];
    match Apt::machine(cache)?.simulate(PACKAGES) {
        Ok(simulation) if simulation.remove.is_empty() => {
            eprintln!("missing: qemu-system-x86, qemu-utils (run the virtual machines)");
            Ok(PACKAGES)
        }
        // Not installable next to what is there: the private prefix takes over.
        Ok(_) | Err(_) => Ok(&[]),
    }
}

/// QEMU in a private prefix: for machines without root, or where the package fights with newer ones.
fn qemu(cache: &Cache) -> Result<()> {
    if Qemu::find(cache).is_ok() {
        return Ok(());
    }
    eprintln!("unpacking QEMU into the cache (it cannot be installed next to what this machine has)");
    let apt = Apt::machine(cache)?;
    let mut wanted = vec!["qemu-system-x86"];
    if proc::which("qemu-img").is_none() {
        wanted.push("qemu-utils");
    }
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
    let programs = ["usr/bin/qemu-system-x86_64", "usr/bin/qemu-img"];
    private_prefix(cache, &apt, "qemu", &wanted, &programs, &libraries)?;
    Qemu::find(cache)?;
    Ok(())
}

/// Debian's newest rustc with the library source that belongs to it. Its package conflicts with other rustc packages
/// and shadows rustup, so it is never installed, only unpacked.
fn kernel_rust(cache: &Cache) -> Result<()> {
    if KernelRust::find(cache).is_some() {
        return Ok(());
    }
    eprintln!(
        "unpacking Debian's rustc and its library source into the cache (compile the kernel's Rust parts)"
    );
    let apt = Apt::machine(cache)?;
    let libraries = ["usr/lib/x86_64-linux-gnu"];
    let packages: &[&str] = match apt.candidate("rustc-web")? {
        Some(_) => &["rustc-web", "rust-web-src"],
        None => &["rustc", "rust-src"],
    };
    private_prefix(cache, &apt, "rustc-web", packages, &["usr/bin/rustc"], &libraries)?;
    ensure!(KernelRust::find(cache).is_some(), "{} do not make a kernel-side rustc", packages.join(" and "));
    Ok(())
}

/// Unpacks packages and what they need beyond what is installed into `tools/<name>`, with a wrapper in `bin` for each
/// program. Moved in place when it is whole.
fn private_prefix(
    cache: &Cache,
    apt: &Apt,
    name: &str,
    packages: &[&str],
    programs: &[&str],
    libraries: &[&str],
) -> Result<PathBuf> {
    let place = cache.dir("tools")?.join(name);
    let mut wanted: Vec<String> = Vec::new();
    for package in apt.simulate(packages)?.install {
        // A private C library next to the system's loader does not start.
        if !matches!(package.name.as_str(), "libc6" | "libc-bin" | "libc6-dev" | "libc-dev-bin") {
            wanted.push(format!("{}={}", package.name, package.version));
        }
    }
    ensure!(!wanted.is_empty(), "apt says that {} is installed, but it does not work", packages.join(" "));
    eprintln!("  downloading {}", wanted.join(" "));
    let work = tempfile::tempdir_in(cache.dir("downloads")?).context("cannot make a folder for downloads")?;
    let debs = apt.download(&wanted, work.path())?;
    let prefix = make_dir(&work.path().join("prefix"))?;
    for deb in &debs {
        unpack(deb, &prefix)?;
    }
    let bin = make_dir(&prefix.join("bin"))?;
    for program in programs.iter().map(Path::new).filter(|program| prefix.join(program).exists()) {
        let wrapper = bin.join(program.file_name().unwrap_or_default());
        write_whole(&wrapper, wrapper_script(&place, program, libraries).as_bytes())?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} executable", wrapper.display()))?;
    }
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    fs::rename(&prefix, &place).with_context(|| format!("cannot make {}", place.display()))?;
    Ok(place)
}

/// Unpacks a Debian package without installing it.
///
/// # Errors
/// When `dpkg` fails.
pub fn unpack(deb: &Path, into: &Path) -> Result<()> {
    let shell = proc::shell()?;
    proc::read(cmd!(shell, "timeout 900 dpkg -x {deb} {into}")).map(drop)
}

/// `exec`, so that the process we started is the program itself: signals and deadlines reach it.
fn wrapper_script(prefix: &Path, program: &Path, libraries: &[&str]) -> String {
    let folders: Vec<String> =
        libraries.iter().map(|folder| format!("'{}/{folder}'", prefix.display())).collect();
    format!(
        "#!/bin/sh\nLD_LIBRARY_PATH={} exec '{}/{}' \"$@\"\n",
        folders.join(":"),
        prefix.display(),
        program.display()
    )
}

/// bindgen through cargo: Debian's is another release.
fn bindgen(cache: &Cache) -> Result<()> {
    if tools::find_bindgen(cache).is_some() {
        return Ok(());
    }
    let (version, root) = (tools::BINDGEN, cache.dir("tools")?.join("bindgen"));
    eprintln!("building bindgen {version} with cargo (makes Rust bindings of the kernel's headers)");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let shell = proc::shell()?;
    // Not into the project's target folder: that one may be locked by the cargo that runs us.
    shell.set_var("CARGO_TARGET_DIR", root.join("target"));
    shell.change_dir(cache.root());
    proc::read(cmd!(
        shell,
        "timeout 1800 {cargo} install bindgen-cli --version {version} --locked --force --root {root}"
    ))?;
    // Large, and of no more use.
    let _ = fs::remove_dir_all(root.join("target"));
    ensure!(
        tools::find_bindgen(cache).is_some(),
        "bindgen was built but does not run from {}",
        root.display()
    );
    Ok(())
}

/// virtme-ng in an environment of its own.
fn virtme(cache: &Cache) -> Result<()> {
    if tools::find_virtme(cache).is_some() {
        return Ok(());
    }
    let version = tools::VIRTME_NG;
    eprintln!("installing virtme-ng {version} into a private Python environment (interactive guests)");
    let venv = python_environment(cache, "virtme-ng", &[format!("virtme-ng=={version}")])?;
    if tools::find_virtme(cache).is_none() {
        bail!("virtme-ng was installed into {} but does not run", venv.display());
    }
    Ok(())
}

/// The programs that read what `gate` writes, in an environment of their own.
fn format_readers(cache: &Cache) -> Result<()> {
    if tools::find_format_readers(cache).is_some() {
        return Ok(());
    }
    let packages = tools::FORMAT_READERS.map(|(name, version)| format!("{name}=={version}"));
    eprintln!("installing {} into a private Python environment (tests of gate)", packages.join(", "));
    let venv = python_environment(cache, "formats", &packages)?;
    ensure!(
        tools::find_format_readers(cache).is_some(),
        "{} were installed into {} but are not found there",
        packages.join(", "),
        venv.display()
    );
    Ok(())
}

/// Makes a Python environment with these packages, in place of what may be there.
fn python_environment(cache: &Cache, name: &str, packages: &[String]) -> Result<PathBuf> {
    let python =
        python_with_venv().ok_or_else(|| anyhow!("no python3 that can make environments (python3-venv)"))?;
    let venv = cache.dir("tools")?.join(name);
    let shell = proc::shell()?;
    // Environments cannot be moved: made in place, judged by whether what is in it runs, made anew if it does not.
    proc::read(cmd!(shell, "timeout 300 {python} -m venv --clear {venv}"))?;
    let pip = venv.join("bin/pip");
    proc::read(cmd!(shell, "timeout 900 {pip} install --quiet --disable-pip-version-check {packages...}"))?;
    Ok(venv)
}

fn python_with_venv() -> Option<PathBuf> {
    let candidates = [Some(PathBuf::from("/usr/bin/python3")), proc::which("python3")];
    candidates.into_iter().flatten().find(|python| {
        let probe = || -> Result<String> {
            let shell = proc::shell()?;
            proc::read(cmd!(shell, "timeout 20 {python} -c 'import ensurepip, venv'"))
        };
        probe().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_wrapper_becomes_the_program_and_survives_odd_paths() {
        let script = wrapper_script(Path::new("/a b/qemu"), Path::new("usr/bin/x"), &["usr/lib", "lib"]);
        expect![[r##"
            #!/bin/sh
            LD_LIBRARY_PATH='/a b/qemu/usr/lib':'/a b/qemu/lib' exec '/a b/qemu/usr/bin/x' "$@"
        "##]]
        .assert_eq(&script);
    }
}
