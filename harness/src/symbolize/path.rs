// SPDX-License-Identifier: MIT OR Apache-2.0
//! Source paths as people want them: below the kernel's tree, or just the last parts.

use std::path::Path;

/// Path components shown of a source outside of the kernel's tree.
const OUTSIDE_PARTS: usize = 2;

/// Name the kernel knows a module by: dashes are underscores.
pub(super) fn module_name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_")
}

/// Leaves out where on the building machine things were: the kernel's tree, Rust's library, a module's folder.
pub(super) fn shorten(file: &str, root: &str) -> String {
    let file = normal(file);
    if let Some(below) = file.strip_prefix(root).filter(|_| !root.is_empty()) {
        return below.to_string();
    }
    if let Some((_, below)) = file.split_once("/library/") {
        return format!("library/{below}");
    }
    let parts: Vec<&str> = file.split('/').collect();
    parts[parts.len().saturating_sub(OUTSIDE_PARTS)..].join("/")
}

/// Takes `.` and `..` out of a path that the compiler put together.
pub(super) fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." if parts.last().is_some_and(|last| !last.is_empty() && *last != "..") => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_plain() {
        assert_eq!(normal("/a/b/./c/../d.c"), "/a/b/d.c");
        assert_eq!(normal("../../x.c"), "../../x.c");
    }

    #[test]
    fn paths_are_shown_from_where_they_mean_something() {
        for (file, shown) in [
            ("/build/linux/mm/shrinker.c", "mm/shrinker.c"),
            ("/build/linux/./include/../mm/vmscan.c", "mm/vmscan.c"),
            ("/rustc/abc/library/core/src/ptr.rs", "library/core/src/ptr.rs"),
            ("/somewhere/module/src/lib.rs", "src/lib.rs"),
            ("lib.rs", "lib.rs"),
        ] {
            assert_eq!(shorten(file, "/build/linux/"), shown);
        }
        assert_eq!(module_name(Path::new("/x/snd-hda-intel.ko")), "snd_hda_intel");
    }
}
