// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finished kernels: a folder per key, with a manifest that is written last. A folder without it does not exist.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::Trust;
use crate::{
    matrix::Instance,
    patch::Patch,
    paths::{Cache, make_dir, write_whole},
};

/// Changes when the meaning of a manifest or of a key does.
pub const FORMAT: u32 = 1;
/// In a kernel's folder.
const MANIFEST: &str = "manifest.json";

/// Everything that decides what a kernel is; its hash is the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the source's content.
    pub source_id: String,
    /// Options asked for, one a line, sorted.
    pub config: String,
    /// Patches in order.
    pub patches: Vec<Patch>,
    /// What each tool says of itself.
    pub toolchain: BTreeMap<String, String>,
    /// make's variables, those with paths of this machine excepted.
    pub variables: Vec<String>,
}

impl Recipe {
    /// The key, 64 hexadecimal digits. Names of patch files are not in it.
    pub fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        part(&self.format.to_string());
        part(&self.source_id);
        part(&self.config);
        self.patches.iter().for_each(|patch| part(&patch.diff));
        part("toolchain");
        self.toolchain.iter().for_each(|(name, version)| part(&format!("{name}: {version}")));
        part("variables");
        self.variables.iter().for_each(|variable| part(variable));
        hasher.finalize().to_hex().to_string()
    }
}

/// What is known of a finished kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The recipe's key.
    pub key: String,
    /// The instance it was built for.
    pub instance: Instance,
    /// The user's source tree, when it is not a package.
    pub linux: Option<PathBuf>,
    /// What `uname -r` will say.
    pub release: String,
    /// Build folder, below `build/` of the cache.
    pub slot: String,
    /// Whose patches are in it.
    #[serde(default)]
    pub trust: Trust,
    /// What it was made from.
    pub recipe: Recipe,
    /// Wall time of the build.
    pub build_seconds: u64,
}

/// A kernel that is there.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its folder.
    pub dir: PathBuf,
    /// Its key.
    pub key: String,
    /// What `uname -r` says in it.
    pub release: String,
    /// The image to boot.
    pub bzimage: PathBuf,
    /// The image with symbols.
    pub vmlinux: PathBuf,
    /// All that is known of it.
    pub manifest: Manifest,
}

/// Where a kernel of this key is, or will be.
pub fn place(cache: &Cache, instance: &str, key: &str) -> Result<PathBuf> {
    Ok(cache.dir("kernels")?.join(format!("{instance}-{}", &key[..16])))
}

/// The kernel in a folder; `None` when the folder does not exist, is not finished, or is of another format.
pub fn load(dir: &Path) -> Option<Kernel> {
    let bytes = fs::read(dir.join(MANIFEST)).ok()?;
    let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
    let is_ours = manifest.recipe.format == FORMAT && manifest.key == manifest.recipe.key();
    is_ours.then(|| Kernel {
        dir: dir.to_path_buf(),
        key: manifest.key.clone(),
        release: manifest.release.clone(),
        bzimage: dir.join("bzImage"),
        vmlinux: dir.join("vmlinux"),
        manifest,
    })
}

/// The kernel of an instance that was finished last.
///
/// # Errors
/// When the cache cannot be read.
pub fn newest(cache: &Cache, instance: &str) -> Result<Option<Kernel>> {
    let dir = cache.dir("kernels")?;
    let entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let kernels = entries.flatten().filter_map(|entry| load(&entry.path()));
    let finished =
        |kernel: &Kernel| fs::metadata(kernel.dir.join(MANIFEST)).and_then(|meta| meta.modified()).ok();
    Ok(kernels.filter(|kernel| kernel.manifest.instance.kernel_name() == instance).max_by_key(finished))
}

/// A file of a build folder. Whoever built there may be a stranger, and have put links into it that lead out, or pipes that
/// never end.
///
/// # Errors
/// When it goes through a link, or is no file.
pub fn inside(folder: &Path, file: &str) -> Result<PathBuf> {
    let mut path = folder.to_path_buf();
    for part in Path::new(file) {
        path.push(part);
        if path.is_symlink() {
            bail!("{} is a symbolic link, which a build does not make there", path.display());
        }
    }
    if !path.is_file() {
        bail!("{} is no file", path.display());
    }
    Ok(path)
}

/// Such a file's content.
///
/// # Errors
/// As [`inside`]; and when it is longer than `bytes_max`.
pub fn read(folder: &Path, file: &str, bytes_max: u64) -> Result<Vec<u8>> {
    let path = inside(folder, file)?;
    let length = path.metadata().with_context(|| path.display().to_string())?.len();
    ensure!(length <= bytes_max, "{} has {length} bytes, which no build makes there", path.display());
    fs::read(&path).with_context(|| path.display().to_string())
}

/// Whether there is nothing in a folder but files and folders, or no folder at all.
pub fn is_plain(folder: &Path) -> bool {
    match folder.symlink_metadata() {
        Ok(meta) if meta.is_file() => true,
        Ok(meta) if meta.is_dir() => fs::read_dir(folder)
            .is_ok_and(|mut all| all.all(|one| one.is_ok_and(|one| is_plain(&one.path())))),
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Copies a finished build out of its build folder; the manifest last.
///
/// # Errors
/// When it cannot be copied.
pub fn store(cache: &Cache, out: &Path, manifest: Manifest) -> Result<Kernel> {
    let dir = make_dir(&place(cache, manifest.instance.kernel_name(), &manifest.key)?)?;
    for (from, name) in [("arch/x86/boot/bzImage", "bzImage"), ("vmlinux", "vmlinux"), (".config", "config")]
    {
        // Copied, not linked: the next build may write into the same file.
        let (from, to) = (inside(out, from)?, dir.join(name));
        fs::copy(&from, &to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    let bytes = serde_json::to_vec_pretty(&manifest).context("cannot encode the manifest")?;
    write_whole(&dir.join(MANIFEST), &bytes)?;
    load(&dir).context("the kernel just stored cannot be loaded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn recipe() -> Recipe {
        Recipe {
            format: FORMAT,
            source_id: "linux-source-6.12_6.12.117-1".into(),
            config: "CONFIG_A=y\n".into(),
            patches: vec![Patch { name: "/tmp/a.patch".into(), diff: "--- a/x\n".into() }],
            toolchain: [("clang".to_string(), "19".to_string())].into(),
            variables: vec!["KCOV_INSTRUMENT_shrinker.o=y".into()],
        }
    }

    fn manifest() -> Manifest {
        let yaml = "{ name: a, source: { package: p }, fragments: [base] }";
        Manifest {
            key: recipe().key(),
            instance: serde_yaml::from_str(yaml).unwrap(),
            linux: None,
            release: "6.12.117".into(),
            slot: "a".into(),
            trust: Trust::Own,
            recipe: recipe(),
            build_seconds: 1,
        }
    }

    #[test]
    fn the_key_is_stable() {
        expect!["d81331c0fbf0fb65498ce17aeeb6b845a88c570f3cdc9530305fb10dae426352"]
            .assert_eq(&recipe().key());
    }

    #[test]
    fn everything_that_makes_another_kernel_makes_another_key_and_a_name_does_not() {
        let mut renamed = recipe();
        renamed.patches[0].name = "b.patch".into();
        assert_eq!(renamed.key(), recipe().key());
        let change = |change: fn(&mut Recipe)| {
            let mut recipe = recipe();
            change(&mut recipe);
            recipe.key()
        };
        let keys = [
            recipe().key(),
            change(|recipe| recipe.source_id += "2"),
            change(|recipe| recipe.config += "CONFIG_B=y\n"),
            change(|recipe| recipe.patches.clear()),
            change(|recipe| recipe.patches[0].diff += "+x\n"),
            change(|recipe| drop(recipe.toolchain.insert("clang".into(), "20".into()))),
            change(|recipe| recipe.variables.clear()),
        ];
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), keys.len());
    }

    #[test]
    fn what_a_stranger_left_is_no_plain_folder() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("copy");
        assert!(is_plain(&top));
        fs::create_dir_all(top.join("kernel")).unwrap();
        fs::write(top.join("kernel/a.rs"), "x").unwrap();
        assert!(is_plain(&top));
        assert_eq!(read(&top, "kernel/a.rs", 1).unwrap(), b"x");
        assert!(read(&top, "kernel/a.rs", 0).is_err());
        std::os::unix::fs::symlink("/", top.join("kernel/b")).unwrap();
        assert!(!is_plain(&top) && read(&top, "kernel/b/etc/passwd", 1 << 20).is_err());
        fs::remove_file(top.join("kernel/b")).unwrap();
        nix::unistd::mkfifo(&top.join("kernel/c"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(!is_plain(&top));
    }

    #[test]
    fn a_folder_without_its_manifest_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        let out = folder.path().join("out");
        fs::create_dir_all(out.join("arch/x86/boot")).unwrap();
        fs::write(out.join("arch/x86/boot/bzImage"), "image").unwrap();
        fs::write(out.join("vmlinux"), "symbols").unwrap();
        // The third file is missing: the store is interrupted in the middle.
        assert!(store(&cache, &out, manifest()).is_err());
        let dir = place(&cache, "a", &manifest().key).unwrap();
        assert!(dir.join("bzImage").is_file() && load(&dir).is_none());

        fs::write(out.join(".config"), "CONFIG_A=y\n").unwrap();
        let kernel = store(&cache, &out, manifest()).unwrap();
        assert_eq!((kernel.dir.clone(), kernel.release.as_str()), (dir.clone(), "6.12.117"));
        fs::write(dir.join(MANIFEST), "{").unwrap();
        assert!(load(&dir).is_none(), "truncated");
    }
}
