// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tools that commands need: which, what for, and where they are on this machine. Finding only; [`crate::setup`]
//! installs what is not found.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use xshell::cmd;

use crate::{paths::Cache, proc};

/// The clang/lld/llvm release that kernels are built with; Debian has it under this suffix. Rust with KASAN needs
/// clang, and this one builds all kernels of the matrix.
pub const LLVM: &str = "19";
/// The bindgen release; it reads the kernels' headers with [`LLVM`]'s libclang.
pub const BINDGEN: &str = "0.72.1";
/// The virtme-ng release.
pub const VIRTME_NG: &str = "1.42";
/// The programs that read the formats of `gate`, as packages of Python, and their releases: b4 itself, the schema of
/// KernelCI's database, a reader of JUnit, and the reader of Markdown that GitHub has.
pub const FORMAT_READERS: [(&str, &str); 4] =
    [("b4", "0.16.0"), ("kcidb-io", "141"), ("junitparser", "5.0.3"), ("cmarkgfm", "2025.10.22")];

/// What tools are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Building kernels, and modules for them.
    Kernel,
    /// Running virtual machines.
    Vm,
    /// Interactive guests on the host's root.
    Interactive,
    /// Workloads of other projects.
    Workload,
    /// Looking into a guest.
    Debug,
    /// Looking at patches as a reviewer does.
    Hygiene,
    /// Reading what `gate` writes, in its tests.
    Formats,
}

impl Need {
    /// All that users have; [`Need::Formats`] is for tests of the project alone.
    pub const ALL: [Need; 6] =
        [Need::Kernel, Need::Vm, Need::Interactive, Need::Workload, Need::Debug, Need::Hygiene];

    /// The commands that have this need.
    pub fn commands(self) -> &'static str {
        match self {
            Need::Kernel => "kernel build, fuzz, run, test",
            Need::Vm => "fuzz, run, repro, test",
            Need::Interactive => "boot, shell",
            Need::Workload => "regress, gate, bench",
            Need::Debug => "repro --gdb",
            Need::Hygiene => "gate",
            Need::Formats => "test",
        }
    }
}

/// How one sees that a Debian package is there; the package database would miss what was installed another way.
#[derive(Clone, Copy, Debug)]
pub enum Probe {
    /// A program on the search path.
    Program(&'static str),
    /// A file.
    File(&'static str),
}

impl Probe {
    /// Where it is, if it is.
    pub fn find(self) -> Option<PathBuf> {
        match self {
            Probe::Program(name) => proc::which(name),
            Probe::File(path) => Some(PathBuf::from(path)).filter(|path| path.exists()),
        }
    }
}

/// A tool that comes as a Debian package and conflicts with nothing.
#[derive(Clone, Copy, Debug)]
pub struct DebianTool {
    /// The package.
    pub package: &'static str,
    /// How one sees that it is there.
    pub probe: Probe,
    /// What it is for.
    pub need: Need,
    /// The same in words.
    pub why: &'static str,
}

const fn tool(package: &'static str, probe: Probe, need: Need, why: &'static str) -> DebianTool {
    DebianTool { package, probe, need, why }
}

/// Those tools.
pub const DEBIAN_TOOLS: &[DebianTool] = &[
    tool("clang-19", Probe::Program("clang-19"), Need::Kernel, "compiles the kernel"),
    tool("lld-19", Probe::Program("ld.lld-19"), Need::Kernel, "links the kernel"),
    tool("llvm-19", Probe::Program("llvm-nm-19"), Need::Kernel, "archives and strips the kernel's objects"),
    tool(
        "libclang-19-dev",
        Probe::File("/usr/lib/llvm-19/lib/libclang.so"),
        Need::Kernel,
        "bindgen reads kernel headers with it",
    ),
    tool("gcc", Probe::Program("cc"), Need::Kernel, "links the kernel's host tools"),
    tool(
        "libc6-dev",
        Probe::File("/usr/include/stdio.h"),
        Need::Kernel,
        "headers of the kernel's host tools",
    ),
    tool("make", Probe::Program("make"), Need::Kernel, "drives the kernel build"),
    tool("flex", Probe::Program("flex"), Need::Kernel, "kconfig's scanner"),
    tool("bison", Probe::Program("bison"), Need::Kernel, "kconfig's parser"),
    tool("bc", Probe::Program("bc"), Need::Kernel, "computes the kernel's time constants"),
    tool("libelf-dev", Probe::File("/usr/include/gelf.h"), Need::Kernel, "objtool reads objects with it"),
    tool(
        "libssl-dev",
        Probe::File("/usr/include/openssl/opensslv.h"),
        Need::Kernel,
        "the kernel's host tools",
    ),
    tool("python3", Probe::Program("python3"), Need::Kernel, "some of the kernel's generators"),
    tool("pahole", Probe::Program("pahole"), Need::Kernel, "the configuration asks for its version"),
    tool("ccache", Probe::Program("ccache"), Need::Kernel, "makes the second build of a file cheap"),
    tool("xz-utils", Probe::Program("xz"), Need::Kernel, "unpacks kernel sources"),
    tool("lz4", Probe::Program("lz4"), Need::Kernel, "compresses bzImage: the quickest to unpack"),
    tool("kmod", Probe::Program("modinfo"), Need::Kernel, "reads modules"),
    tool("cpio", Probe::Program("cpio"), Need::Kernel, "reads the initramfs back, in the tests"),
    tool("gdb", Probe::Program("gdb"), Need::Debug, "stops a guest where its report begins"),
    tool("sparse", Probe::Program("sparse"), Need::Hygiene, "checks C for what compilers do not know"),
    tool("perl", Probe::Program("perl"), Need::Hygiene, "checkpatch and kernel-doc"),
    tool(
        "e2fsprogs",
        Probe::Program("mkfs.ext4"),
        Need::Hygiene,
        "makes a file system for the kernel's own tests",
    ),
    tool("chromium", Probe::Program("chromium"), Need::Formats, "shows the page of a gate, in the tests"),
    tool("stress-ng", Probe::Program("stress-ng"), Need::Workload, "the workload of known regressions"),
];

/// What builds kernels and their modules.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// clang behind ccache, as one path: rustc's linker argument must not contain a space.
    pub cc: PathBuf,
    /// clang itself, for host tools.
    pub hostcc: String,
    /// The kernel-side rustc.
    pub rustc: PathBuf,
    /// The standard library's source that belongs to it.
    pub rust_lib_src: PathBuf,
    /// bindgen.
    pub bindgen: PathBuf,
    /// What each says of itself; part of a kernel's key.
    pub versions: BTreeMap<String, String>,
}

impl Toolchain {
    /// Finds all of it; [`crate::setup::ensure`] with [`Need::Kernel`] makes sure that it is there.
    ///
    /// # Errors
    /// When a part is missing or does not run; names the part.
    pub fn find(cache: &Cache) -> Result<Toolchain> {
        let rust = KernelRust::find(cache).ok_or_else(|| missing("kernel-side rustc with library source"))?;
        let bindgen = find_bindgen(cache).ok_or_else(|| missing("bindgen"))?;
        let clang = format!("clang-{LLVM}");
        let mut versions = BTreeMap::new();
        for (name, program) in [
            ("clang", Path::new(&clang)),
            ("lld", Path::new(&format!("ld.lld-{LLVM}"))),
            ("rustc", &rust.rustc),
            ("bindgen", &bindgen),
            ("pahole", Path::new("pahole")),
        ] {
            let version = proc::version(program).ok_or_else(|| missing(&program.display().to_string()))?;
            versions.insert(name.to_string(), version);
        }
        Ok(Toolchain {
            cc: ccache_link(cache)?,
            hostcc: clang,
            rustc: rust.rustc,
            rust_lib_src: rust.library,
            bindgen,
            versions,
        })
    }

    /// The folder of the libclang that bindgen loads; without it, it takes the first it finds.
    pub fn libclang(&self) -> String {
        format!("/usr/lib/llvm-{LLVM}/lib")
    }

    /// The toolchain's part of a kernel make's command line.
    pub fn make_variables(&self) -> Vec<String> {
        vec![
            "ARCH=x86_64".to_string(),
            format!("LLVM=-{LLVM}"),
            format!("CC={}", self.cc.display()),
            format!("HOSTCC={}", self.hostcc),
            format!("RUSTC={}", self.rustc.display()),
            format!("RUST_LIB_SRC={}", self.rust_lib_src.display()),
            format!("BINDGEN={}", self.bindgen.display()),
        ]
    }
}

fn missing(what: &str) -> anyhow::Error {
    anyhow!(
        "{what} is missing or does not run; `cargo xtask setup` installs it, `cargo xtask doctor` says more"
    )
}

/// A rustc for kernel code and the library source that belongs to it.
#[derive(Clone, Debug)]
pub struct KernelRust {
    /// The compiler.
    pub rustc: PathBuf,
    /// `library` of its source.
    pub library: PathBuf,
}

impl KernelRust {
    /// The private prefix first (its paths are stable, so that ccache and make hit), else the distribution's, if it
    /// brought its source along. A rustup toolchain is the project's own, not the kernels'.
    pub fn find(cache: &Cache) -> Option<KernelRust> {
        let prefix = cache.root().join("tools/rustc-web");
        let private = (prefix.join("bin/rustc"), prefix.join("usr/src"));
        let system = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/src"));
        [private, system].into_iter().find_map(|(rustc, sources)| {
            let version = proc::version(&rustc)?;
            let release = version.split_ascii_whitespace().nth(1)?;
            let library = sources.join(format!("rustc-{release}/library"));
            library.join("core/src/lib.rs").is_file().then_some(KernelRust { rustc, library })
        })
    }
}

/// bindgen of the release we want: our own, else one on the search path.
pub fn find_bindgen(cache: &Cache) -> Option<PathBuf> {
    let own = cache.root().join("tools/bindgen/bin/bindgen");
    [Some(own), proc::which("bindgen")].into_iter().flatten().find(|bindgen| {
        proc::version(bindgen).is_some_and(|version| version.split(' ').nth(1) == Some(BINDGEN))
    })
}

/// A link called like the compiler that leads to ccache, which then knows what to run.
fn ccache_link(cache: &Cache) -> Result<PathBuf> {
    let ccache = proc::which("ccache").ok_or_else(|| missing("ccache"))?;
    let link = cache.dir("tools")?.join(format!("ccache/bin/clang-{LLVM}"));
    if fs::read_link(&link).is_ok_and(|target| target == ccache) {
        return Ok(link);
    }
    let make = || -> std::io::Result<()> {
        let folder = link.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let fresh = folder.join(format!(".link-{}", std::process::id()));
        std::os::unix::fs::symlink(&ccache, &fresh)?;
        fs::rename(&fresh, &link)
    };
    make().with_context(|| format!("cannot make {}", link.display()))?;
    Ok(link)
}

/// QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// `qemu-system-x86_64`.
    pub system: PathBuf,
    /// `qemu-img`.
    pub img: PathBuf,
    /// What it says of itself; part of a finding's identity.
    pub version: String,
}

impl Qemu {
    /// The machine's, else the one in our private prefix; [`crate::setup::ensure`] with [`Need::Vm`] makes sure that
    /// there is one.
    ///
    /// # Errors
    /// When there is none that runs.
    pub fn find(cache: &Cache) -> Result<Qemu> {
        let private = cache.root().join("tools/qemu/bin");
        let system_img = proc::which("qemu-img");
        let private_img = Some(private.join("qemu-img")).filter(|path| path.is_file());
        let candidates = [
            (proc::which("qemu-system-x86_64"), system_img.clone()),
            (Some(private.join("qemu-system-x86_64")), private_img.or(system_img)),
        ];
        let found = candidates.into_iter().find_map(|(system, img)| {
            let (system, img) = (system?, img?);
            let version = proc::version(&system)?;
            Some(Qemu { system, img, version })
        });
        found.ok_or_else(|| missing("QEMU (qemu-system-x86_64 and qemu-img)"))
    }
}

/// virtme-ng's `vng`: our own, else one on the search path.
pub fn find_virtme(cache: &Cache) -> Option<PathBuf> {
    let own = cache.root().join("tools/virtme-ng/bin/vng");
    [Some(own), proc::which("vng")].into_iter().flatten().find(|vng| proc::version(vng).is_some())
}

/// The Python that has [`FORMAT_READERS`], all of them of the releases we want.
pub fn find_format_readers(cache: &Cache) -> Option<PathBuf> {
    let python = cache.root().join("tools/formats/bin/python");
    let names = FORMAT_READERS.map(|(name, _)| name);
    let script = "import sys, importlib.metadata as m\nfor name in sys.argv[1:]: print(m.version(name))";
    let shell = proc::shell().ok()?;
    let versions = proc::read(cmd!(shell, "timeout 60 {python} -c {script} {names...}")).ok()?;
    versions.lines().eq(FORMAT_READERS.iter().map(|(_, version)| *version)).then_some(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_are_of_the_llvm_release_we_ask_make_for() {
        for tool in
            DEBIAN_TOOLS.iter().filter(|tool| tool.why.contains("clang") || tool.package.contains("ll"))
        {
            let of_llvm = ["clang", "lld", "llvm"].iter().any(|name| tool.package.contains(name));
            assert!(!of_llvm || tool.package.contains(LLVM), "{}", tool.package);
        }
    }

    #[test]
    fn an_empty_cache_has_no_private_tools_and_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        let private = cache.root().join("tools");
        assert!(KernelRust::find(&cache).is_none_or(|rust| !rust.rustc.starts_with(&private)));
        assert!(find_virtme(&cache).is_none_or(|vng| !vng.starts_with(&private)));
        assert_eq!(find_format_readers(&cache), None);
        assert!(missing("bindgen").to_string().contains("cargo xtask setup"));
    }
}
