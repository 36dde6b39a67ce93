// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel configuration: fragments in, the wanted options out; and after the kernel had its say, which of them did
//! not survive. An option that vanished silently would be a check that silently does not run.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::usage;

/// One option that a fragment asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `y`, `m`, `n`, a number or a quoted string.
    pub value: String,
    /// Fragment that asks.
    pub fragment: PathBuf,
    /// Line there, from 1.
    pub line: usize,
}

/// Options by their name, `CONFIG_` included.
pub type Options = BTreeMap<String, Wanted>;

/// Reads fragments in order. The same option twice with the same value is fine (each fragment states its needs).
///
/// # Errors
/// When a fragment cannot be read, has a line that is neither comment nor option, or contradicts another.
pub fn read_fragments(paths: &[PathBuf]) -> Result<Options> {
    let mut options = Options::new();
    for path in paths {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        add_fragment(&mut options, path, &text)?;
    }
    Ok(options)
}

fn add_fragment(options: &mut Options, path: &Path, text: &str) -> Result<()> {
    for (line, content) in text.lines().enumerate().map(|(idx, content)| (idx + 1, content.trim())) {
        if content.is_empty() || content.starts_with('#') && !content.ends_with(" is not set") {
            continue;
        }
        let place = format!("{}:{line}", path.display());
        let (name, value) = content
            .split_once('=')
            .filter(|(name, value)| is_option_name(name) && !value.is_empty())
            .ok_or_else(|| usage!("{place}: expected CONFIG_NAME=value, found {content:?}"))?;
        let wanted = Wanted { value: value.to_string(), fragment: path.to_path_buf(), line };
        match options.get(name) {
            Some(other) if other.value != value => {
                let theirs = format!("{}:{}", other.fragment.display(), other.line);
                return Err(usage!("{place}: {name}={value} contradicts {name}={} of {theirs}", other.value));
            }
            Some(_) => {}
            None => drop(options.insert(name.to_string(), wanted)),
        }
    }
    Ok(())
}

fn is_option_name(name: &str) -> bool {
    name.strip_prefix("CONFIG_")
        .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// What `KCONFIG_ALLCONFIG` reads, and what goes into a kernel's key: sorted, so that comments and the order of
/// fragments change neither.
pub fn to_text(options: &Options) -> String {
    options.iter().map(|(name, wanted)| format!("{name}={}\n", wanted.value)).collect()
}

/// Values of a `.config`; what is not in it is `n`.
fn parse_dot_config(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect()
}

/// An option that was asked for and is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vanished<'a> {
    /// Its name.
    pub name: &'a str,
    /// Who asked for what.
    pub wanted: &'a Wanted,
    /// What it became.
    pub became: String,
}

/// Compares what was asked for with what the kernel made of it.
pub fn vanished<'a>(options: &'a Options, dot_config: &str) -> Vec<Vanished<'a>> {
    let actual = parse_dot_config(dot_config);
    let differs = |(name, wanted): (&'a String, &'a Wanted)| {
        let became = actual.get(name.as_str()).copied().unwrap_or("n");
        (became != wanted.value).then(|| Vanished { name, wanted, became: became.to_string() })
    };
    options.iter().filter_map(differs).collect()
}

/// The error for options that did not survive; `declared` says whether this kernel has an option of that name.
pub fn vanished_error(vanished: &[Vanished<'_>], declared: impl Fn(&str) -> bool) -> anyhow::Error {
    let mut text = String::from("options asked for did not survive in .config:");
    for Vanished { name, wanted, became } in vanished {
        let why = match (wanted.value.as_str(), declared(name)) {
            (_, false) => "this kernel has no such option",
            ("n", true) => "something selects it",
            (_, true) => "a dependency is missing, or something else selects or limits it",
        };
        text += &format!(
            "\n  {name}={} (asked for at {}:{}) became {became}: {why}",
            wanted.value,
            wanted.fragment.display(),
            wanted.line
        );
    }
    usage!("{text}")
}

/// Whether any Kconfig file below `source` declares the option.
pub fn is_declared(source: &Path, name: &str) -> bool {
    let symbol = name.trim_start_matches("CONFIG_");
    let declares = |text: &str| {
        text.lines().any(|line| {
            let mut words = line.split_ascii_whitespace();
            matches!(words.next(), Some("config" | "menuconfig")) && words.next() == Some(symbol)
        })
    };
    let mut folders = vec![source.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with("Kconfig")
                && fs::read(entry.path()).is_ok_and(|bytes| declares(&String::from_utf8_lossy(&bytes)))
            {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn options(fragments: &[(&str, &str)]) -> Result<Options> {
        let mut options = Options::new();
        for (path, text) in fragments {
            add_fragment(&mut options, Path::new(path), text)?;
        }
        Ok(options)
    }

    #[test]
    fn a_vanished_option_is_named_with_its_fragment_and_what_it_became() {
        let wanted = options(&[
            ("kasan.config", "# why\nCONFIG_KASAN=y\nCONFIG_KASAN_GENERIC=y\n"),
            ("base.config", "CONFIG_VT=n\nCONFIG_NR_CPUS=16\nCONFIG_NO_SUCH=y\nCONFIG_ABSENT=n"),
        ])
        .unwrap();
        let dot_config = "CONFIG_KASAN=y\n# CONFIG_KASAN_GENERIC is not set\nCONFIG_VT=y\nCONFIG_NR_CPUS=8\n";
        let vanished = vanished(&wanted, dot_config);
        expect![[r#"
            options asked for did not survive in .config:
              CONFIG_KASAN_GENERIC=y (asked for at kasan.config:3) became n: a dependency is missing, or something else selects or limits it
              CONFIG_NO_SUCH=y (asked for at base.config:3) became n: this kernel has no such option
              CONFIG_NR_CPUS=16 (asked for at base.config:2) became 8: a dependency is missing, or something else selects or limits it
              CONFIG_VT=n (asked for at base.config:1) became y: something selects it"#]].assert_eq(&format!("{:#}", vanished_error(&vanished, |name| name != "CONFIG_NO_SUCH")));
    }

    #[test]
    fn what_survived_is_no_error() {
        let wanted = options(&[("a.config", "CONFIG_A=y\nCONFIG_S=\"x y\"\nCONFIG_N=n\n")]).unwrap();
        assert_eq!(vanished(&wanted, "CONFIG_A=y\nCONFIG_S=\"x y\"\n"), []);
    }

    #[test]
    fn comments_order_and_repetition_do_not_change_the_text() {
        let one = options(&[("a", "# x\nCONFIG_A=y\nCONFIG_B=1\n"), ("b", "CONFIG_A=y")]).unwrap();
        let two = options(&[("c", "CONFIG_B=1\n\n\n  CONFIG_A=y")]).unwrap();
        assert_eq!(to_text(&one), "CONFIG_A=y\nCONFIG_B=1\n");
        assert_eq!(to_text(&one), to_text(&two));
    }

    #[test]
    fn fragments_that_contradict_each_other_are_an_error() {
        let error = options(&[("a.config", "CONFIG_A=y"), ("b.config", "\nCONFIG_A=n")]).unwrap_err();
        expect!["b.config:2: CONFIG_A=n contradicts CONFIG_A=y of a.config:1"].assert_eq(&error.to_string());
    }

    #[test]
    fn a_line_that_is_no_option_is_an_error() {
        let error = options(&[("a.config", "CONFIG_A y")]).unwrap_err();
        expect![[r#"a.config:1: expected CONFIG_NAME=value, found "CONFIG_A y""#]]
            .assert_eq(&error.to_string());
        assert!(options(&[("a.config", "# CONFIG_A is not set")]).is_err(), "write CONFIG_A=n instead");
    }
}
