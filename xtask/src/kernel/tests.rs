// SPDX-License-Identifier: MIT OR Apache-2.0
//! Build folders put through what happens to them, with the real make, git and file system, and a tree of four files
//! in place of a kernel: what is tested is the order of things, not the compiler.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use super::{
    Trust,
    artifact::{FORMAT, Recipe},
    slot::{Slot, Target},
};
use crate::{
    config::{self, Options},
    exit::{Exit, exit_of},
    patch::Patch,
    paths::Cache,
    source,
    tools::Toolchain,
};

/// Like the kernel's in what matters here: `allnoconfig` makes `.config` of the wanted options, dropping one that the
/// tree cannot have; `bzImage` makes what is stored, out of the sources; files whose time stamp is old are not redone.
const MAKEFILE: &str = r#"
allnoconfig:
	grep -v IMPOSSIBLE $(KCONFIG_ALLCONFIG) > $(O)/.config
	echo configured >> $(O)/history
bzImage: $(O)/vmlinux
	mkdir -p $(O)/arch/x86/boot $(O)/include/config
	cp $(O)/vmlinux $(O)/arch/x86/boot/bzImage
	echo 6.12.0-small > $(O)/include/config/kernel.release
modules:
$(O)/shrinker.o: mm/shrinker.c
	@echo "  CC      mm/shrinker.o"
	! grep BROKEN mm/shrinker.c
	cp mm/shrinker.c $@
	echo shrinker >> $(O)/history
$(O)/vmscan.o: mm/vmscan.c
	@echo "  CC      mm/vmscan.o"
	cp mm/vmscan.c $@
	echo vmscan >> $(O)/history
$(O)/vmlinux: $(O)/shrinker.o $(O)/vmscan.o $(O)/.config
	cat $^ > $@
"#;

struct Small {
    top: tempfile::TempDir,
    options: Options,
    toolchain: Toolchain,
}

impl Small {
    fn new() -> Small {
        let top = tempfile::tempdir().unwrap();
        let small = Small {
            options: Options::new(),
            toolchain: Toolchain {
                cc: "cc".into(),
                hostcc: "cc".into(),
                rustc: "rustc".into(),
                rust_lib_src: "/".into(),
                bindgen: "bindgen".into(),
                versions: [("clang".to_string(), "19".to_string())].into(),
            },
            top,
        };
        small.write("Makefile", MAKEFILE);
        for file in ["Kbuild", "Kconfig", "MAINTAINERS"] {
            small.write(file, "");
        }
        small.write("Kconfig", "config A\n\tbool\nconfig IMPOSSIBLE\n\tbool\n");
        small.write("mm/shrinker.c", "shrinker\n");
        small.write("mm/vmscan.c", "vmscan\n");
        small.want("CONFIG_A=y\n")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.tree().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn want(mut self, text: &str) -> Small {
        let fragment = self.top.path().join("small.config");
        fs::write(&fragment, text).unwrap();
        self.options = config::read_fragments(&[fragment]).unwrap();
        self
    }

    fn tree(&self) -> PathBuf {
        self.top.path().join("linux")
    }

    fn cache(&self) -> Cache {
        Cache::at(&self.top.path().join("cache")).unwrap()
    }

    fn slot(&self) -> Slot {
        Slot::new(&self.cache(), "small", Some(&self.tree()), Trust::Own).unwrap()
    }

    /// Brings the slot to a kernel with these patches; says what `vmlinux` then is.
    fn establish(&self, patches: &[&str]) -> anyhow::Result<String> {
        let slot = self.slot();
        let lock = slot.lock()?;
        let source = source::folder(&self.cache(), &self.tree())?;
        let patch = |diff: &&str| Patch { name: "some.patch".into(), diff: (*diff).to_string() };
        let recipe = Recipe {
            format: FORMAT,
            source_id: source.id.clone(),
            config: config::to_text(&self.options),
            patches: patches.iter().map(patch).collect(),
            toolchain: self.toolchain.versions.clone(),
            variables: vec!["KCOV_INSTRUMENT_shrinker.o=y".into()],
        };
        let key = recipe.key();
        let target = Target {
            key: &key,
            recipe: &recipe,
            options: &self.options,
            source: &source,
            toolchain: &self.toolchain,
        };
        slot.establish(&target, &lock)?;
        Ok(fs::read_to_string(slot.out().join("vmlinux")).unwrap())
    }

    /// What make did since the last time we asked, sorted (it does several things at once).
    fn history(&self) -> String {
        let path = self.slot().out().join("history");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        let mut words: Vec<&str> = text.lines().collect();
        words.sort_unstable();
        words.join(" ")
    }
}

const PATCH: &str = "--- a/mm/shrinker.c\n+++ b/mm/shrinker.c\n@@ -1 +1 @@\n-shrinker\n+SHRINKER\n";
const BREAKS: &str = "--- a/mm/shrinker.c\n+++ b/mm/shrinker.c\n@@ -1 +1 @@\n-shrinker\n+BROKEN\n";
const OTHER: &str = "--- a/mm/vmscan.c\n+++ b/mm/vmscan.c\n@@ -1 +1 @@\n-vmscan\n+VMSCAN\n";
const PLAIN: &str = "shrinker\nvmscan\nCONFIG_A=y\n";

#[test]
fn patches_come_and_go_and_only_what_they_touch_is_rebuilt() {
    let small = Small::new();
    assert_eq!(small.establish(&[]).unwrap(), PLAIN);
    assert_eq!(small.history(), "configured shrinker vmscan");
    assert_eq!(small.establish(&[]).unwrap(), PLAIN);
    assert_eq!(small.history(), "", "the stamp says that there is nothing to do");
    assert_eq!(small.establish(&[PATCH]).unwrap(), "SHRINKER\nvmscan\nCONFIG_A=y\n");
    assert_eq!(small.history(), "shrinker");
    assert_eq!(small.establish(&[OTHER]).unwrap(), "shrinker\nVMSCAN\nCONFIG_A=y\n");
    assert_eq!(small.history(), "shrinker vmscan");
    assert_eq!(small.establish(&[]).unwrap(), PLAIN);
    assert_eq!(small.history(), "vmscan");
}

#[test]
fn the_users_tree_is_only_read_and_its_changes_are_followed() {
    let small = Small::new();
    let snapshot = |dir: &Path| fs::read_to_string(dir.join("mm/shrinker.c")).unwrap();
    small.establish(&[PATCH]).unwrap();
    assert_eq!(snapshot(&small.tree()), "shrinker\n");
    assert!(!small.tree().join(".config").exists());
    small.write("mm/vmscan.c", "changed\n");
    small.history();
    assert_eq!(small.establish(&[]).unwrap(), "shrinker\nchanged\nCONFIG_A=y\n");
    fs::remove_file(small.tree().join("mm/vmscan.c")).unwrap();
    assert!(small.establish(&[]).is_err(), "what the user deleted is deleted in the copy");
}

#[test]
fn what_a_broken_build_left_behind_is_mended_by_the_next() {
    let small = Small::new();
    small.establish(&[]).unwrap();
    let error = small.establish(&[BREAKS]).unwrap_err();
    assert_eq!(exit_of(&error), Exit::Infra);
    assert!(format!("{error:#}").contains("make bzImage modules failed"), "{error:#}");
    let error = small.establish(&[PATCH, PATCH]).unwrap_err();
    assert_eq!(exit_of(&error), Exit::Usage, "{error:#}");
    assert_eq!(small.establish(&[]).unwrap(), PLAIN);
}

#[test]
fn damaged_records_cost_work_and_nothing_else() {
    let small = Small::new();
    small.establish(&[]).unwrap();
    let dir = small.slot().src().parent().unwrap().to_path_buf();
    for record in ["stamp.json", "source.json", "configured.json", "steps.json"] {
        fs::write(dir.join(record), "{\"half").unwrap();
        assert_eq!(small.establish(&[PATCH]).unwrap(), "SHRINKER\nvmscan\nCONFIG_A=y\n");
        assert_eq!(small.establish(&[]).unwrap(), PLAIN);
    }
}

#[test]
fn an_option_that_vanished_is_an_error_and_no_kernel() {
    let small = Small::new().want("CONFIG_A=y\nCONFIG_IMPOSSIBLE=y\n");
    let error = small.establish(&[]).unwrap_err();
    assert_eq!(exit_of(&error), Exit::Usage);
    let text = format!("{error:#}");
    assert!(text.contains("CONFIG_IMPOSSIBLE=y") && text.contains("small.config:2"), "{text}");
    assert!(!small.slot().out().join("vmlinux").exists());
}

#[test]
fn two_at_once_take_turns() {
    let small = Small::new();
    thread::scope(|scope| {
        let builds: Vec<_> = [&[PATCH][..], &[OTHER], &[], &[PATCH]]
            .map(|patches| (patches, scope.spawn(|| small.establish(patches).unwrap())))
            .into();
        for (patches, build) in builds {
            let vmlinux = build.join().unwrap();
            // Read under no lock, so another build may have come between; but never a mixture.
            let whole = [PLAIN, "SHRINKER\nvmscan\nCONFIG_A=y\n", "shrinker\nVMSCAN\nCONFIG_A=y\n"];
            assert!(whole.contains(&vmlinux.as_str()), "{patches:?}: {vmlinux}");
        }
    });
}
