// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian packages. Three ways in, from the mildest: ask (`policy`, simulation), download and unpack into a private
//! prefix (no root, nothing of the user's changes), install (root).
//!
//! No host is named here: where packages come from is what the machine's own apt sources say.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use xshell::{Cmd, cmd};

use crate::{
    paths::{Cache, make_dir, write_whole},
    proc,
};

/// Package lists older than this are fetched anew before something is downloaded: mirrors forget old versions.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// `apt-get` calls that talk to a mirror end after this long.
const NETWORK_DEADLINE: &str = "1200";
/// `apt-get` calls that only read local state end after this long.
const LOCAL_DEADLINE: &str = "60";

/// A view of package lists: the machine's, or a private one.
#[derive(Clone, Debug)]
pub struct Apt {
    options: Vec<String>,
    lists: PathBuf,
}

/// A package with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The version that would be installed.
    pub version: String,
}

/// What an installation would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Simulation {
    /// Packages it would install, dependencies first.
    pub install: Vec<Package>,
    /// Packages it would remove.
    pub remove: Vec<String>,
}

impl Apt {
    /// What the machine's own sources have; with lists of our own where the machine's are absent or old (mirrors
    /// forget old versions, and refreshing the machine's needs root).
    ///
    /// # Errors
    /// When there are no lists and none can be fetched.
    pub fn machine(cache: &Cache) -> Result<Apt> {
        ensure!(proc::which("apt-get").is_some(), "no apt-get: set-up knows Debian and its relatives only");
        let machine = Apt { options: Vec::new(), lists: "/var/lib/apt/lists".into() };
        if machine.is_fresh() {
            return Ok(machine);
        }
        let private = Apt::private(cache, "machine", Vec::new())?;
        private.refresh_if_stale()?;
        Ok(private)
    }

    /// Another suite of the distribution, fetched from where the machine fetches its own, with a private state: the
    /// user's sources and lists are not touched.
    ///
    /// # Errors
    /// When the machine's sources name no place for the distribution itself, or the lists cannot be fetched.
    pub fn suite(cache: &Cache, suite: &str) -> Result<Apt> {
        let shell = proc::shell()?;
        let format = "$(REPO_URI) $(RELEASE)";
        let targets = proc::read(cmd!(
            shell,
            "timeout {LOCAL_DEADLINE} apt-get indextargets --format {format} 'Created-By: Packages'"
        ))?;
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let base = distribution_uri(&targets, &os_release)
            .ok_or_else(|| anyhow!("apt's sources do not say where this distribution comes from"))?;
        let folder = make_dir(&cache.dir("apt")?.join(suite))?;
        let list = folder.join("sources.list");
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        write_whole(&list, format!("deb [signed-by={keyring}] {base} {suite} main\n").as_bytes())?;
        let from = [
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=/nonexistent".to_string(),
        ];
        let private = Apt::private(cache, suite, from.into())?;
        private.refresh_if_stale()?;
        Ok(private)
    }

    fn private(cache: &Cache, name: &str, mut settings: Vec<String>) -> Result<Apt> {
        let folder = make_dir(&cache.dir("apt")?.join(name))?;
        let lists = make_dir(&folder.join("lists"))?;
        make_dir(&lists.join("partial"))?;
        make_dir(&folder.join("cache/archives/partial"))?;
        settings.extend([
            format!("Dir::State::lists={}", lists.display()),
            format!("Dir::Cache={}", folder.join("cache").display()),
            // apt's own user cannot enter a home folder.
            "APT::Sandbox::User=root".to_string(),
        ]);
        let options = settings.into_iter().flat_map(|setting| ["-o".to_string(), setting]).collect();
        Ok(Apt { options, lists })
    }

    /// How old the package lists are; `None` when there are none.
    pub fn lists_age(&self) -> Option<Duration> {
        let files = fs::read_dir(&self.lists).ok()?.flatten();
        let lists = files.filter(|file| file.file_name().to_string_lossy().contains("_Packages"));
        let has_lists = lists.count() > 0;
        // apt leaves the lists' time stamps as the server has them; the folder changes at each update.
        let touched = [self.lists.join("partial"), self.lists.clone()];
        let newest = touched.iter().filter_map(|path| path.metadata().ok()?.modified().ok()).max()?;
        has_lists.then(|| SystemTime::now().duration_since(newest).unwrap_or_default())
    }

    fn is_fresh(&self) -> bool {
        self.lists_age().is_some_and(|age| age <= LISTS_AGE_MAX)
    }

    /// Fetches private lists.
    fn refresh_if_stale(&self) -> Result<()> {
        if self.is_fresh() {
            return Ok(());
        }
        let (shell, options) = (proc::shell()?, &self.options);
        eprintln!(
            "fetching package lists into {} (nothing of the system's is changed)",
            self.lists.display()
        );
        let update = proc::read(cmd!(shell, "timeout {NETWORK_DEADLINE} apt-get {options...} -q update"));
        match update {
            Ok(_) => {}
            // A third-party source that is down must not stand in the way of packages that come from elsewhere.
            Err(error) if self.lists_age().is_some() => eprintln!("warning: {error:#}"),
            Err(error) => return Err(error),
        }
        ensure!(
            self.lists_age().is_some(),
            "apt-get update left no package lists in {}",
            self.lists.display()
        );
        Ok(())
    }

    /// The version that would be installed of a package; `None` when it is unknown here.
    ///
    /// # Errors
    /// When apt cannot be asked.
    pub fn candidate(&self, package: &str) -> Result<Option<String>> {
        let (shell, options) = (proc::shell()?, &self.options);
        let text =
            proc::read(cmd!(shell, "timeout {LOCAL_DEADLINE} apt-cache {options...} policy {package}"))?;
        Ok(parse_candidate(&text))
    }

    /// Packages whose names begin so; for saying what there is instead of what was asked for.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let ask = || -> Result<String> {
            let (shell, options) = (proc::shell()?, &self.options);
            proc::read(cmd!(shell, "timeout {LOCAL_DEADLINE} apt-cache {options...} pkgnames {prefix}"))
        };
        let mut names: Vec<String> = ask().unwrap_or_default().lines().map(str::to_string).collect();
        names.sort();
        names
    }

    /// What installing would do.
    ///
    /// # Errors
    /// When apt says it cannot be done.
    pub fn simulate(&self, packages: &[&str]) -> Result<Simulation> {
        let (shell, options) = (proc::shell()?, &self.options);
        let text = proc::read(cmd!(
            shell,
            "timeout {LOCAL_DEADLINE} apt-get {options...} -s install --no-install-recommends {packages...}"
        ))?;
        Ok(parse_simulation(&text))
    }

    /// Downloads packages (`name` or `name=version`) into a folder; says which files came.
    ///
    /// # Errors
    /// When one cannot be had.
    pub fn download(&self, packages: &[String], into: &Path) -> Result<Vec<PathBuf>> {
        let (shell, options) = (proc::shell()?, &self.options);
        shell.change_dir(into);
        proc::read(cmd!(shell, "timeout {NETWORK_DEADLINE} apt-get {options...} -q download {packages...}"))?;
        let debs = fs::read_dir(into).with_context(|| format!("cannot read {}", into.display()))?;
        let mut debs: Vec<PathBuf> = debs.flatten().map(|entry| entry.path()).collect();
        debs.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        debs.sort();
        ensure!(
            debs.len() >= packages.len(),
            "{} packages were asked for, {} came",
            packages.len(),
            debs.len()
        );
        Ok(debs)
    }
}

/// How commands that need root are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// We are root.
    Is,
    /// `sudo -n` works.
    Sudo,
    /// Neither.
    No,
}

impl Root {
    /// Finds out.
    pub fn probe() -> Root {
        let sudo_works = || {
            let shell = proc::shell().ok()?;
            proc::which("sudo")?;
            proc::read(cmd!(shell, "timeout 10 sudo -n true")).ok()
        };
        match nix::unistd::geteuid().is_root() {
            true => Root::Is,
            false if sudo_works().is_some() => Root::Sudo,
            false => Root::No,
        }
    }
}

/// The command that installs packages, as a person would type it.
pub fn install_command(packages: &[&str]) -> String {
    format!("sudo apt-get update && sudo apt-get install -y --no-install-recommends {}", packages.join(" "))
}

/// Installs packages from the machine's own sources. Refuses when that would remove something.
///
/// # Errors
/// When we are not root (the error is the command to run), or apt fails.
pub fn install(packages: &[&str]) -> Result<()> {
    let root = Root::probe();
    if root == Root::No {
        bail!(
            "root is needed to install packages; run this, then try again:\n    {}",
            install_command(packages)
        );
    }
    let machine = Apt { options: Vec::new(), lists: "/var/lib/apt/lists".into() };
    let shell = proc::shell()?;
    shell.set_var("DEBIAN_FRONTEND", "noninteractive");
    let as_root = |words: &[&str]| -> Result<String> {
        let sudo: &[&str] = match root {
            Root::Sudo => &["sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"],
            Root::Is | Root::No => &[],
        };
        let command: Cmd<'_> = cmd!(shell, "timeout {NETWORK_DEADLINE} {sudo...} {words...}");
        proc::read(command)
    };
    if !machine.is_fresh() {
        eprintln!("fetching package lists (apt-get update)");
        // A third-party source that is down must not stand in the way of packages that come from elsewhere.
        if let Err(error) = as_root(&["apt-get", "-q", "update"]) {
            eprintln!("warning: {error:#}");
        }
    }
    let removed = machine.simulate(packages)?.remove;
    ensure!(
        removed.is_empty(),
        "installing {} would remove {}; that is for you to decide: {}",
        packages.join(", "),
        removed.join(", "),
        install_command(packages)
    );
    eprintln!("installing with apt: {}", packages.join(" "));
    let lock_wait = "DPkg::Lock::Timeout=300";
    let install = ["apt-get", "-q", "-y", "-o", lock_wait, "install", "--no-install-recommends"];
    as_root(&[&install[..], packages].concat())?;
    Ok(())
}

/// Where the distribution itself comes from: the place that has the suite named like the installed release.
fn distribution_uri(targets: &str, os_release: &str) -> Option<String> {
    let codename =
        os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?.trim_matches('"');
    let mut pairs = targets.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(_, release)| release.trim() == codename).map(|(uri, _)| uri.to_string())
}

fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_string())
}

fn parse_simulation(text: &str) -> Simulation {
    let mut simulation = Simulation::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Inst"), Some(name)) => {
                let version = words.find_map(|word| word.strip_prefix('(')).unwrap_or_default();
                simulation.install.push(Package { name: name.to_string(), version: version.to_string() });
            }
            (Some("Remv"), Some(name)) => simulation.remove.push(name.to_string()),
            _ => {}
        }
    }
    simulation
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_simulation_says_what_comes_and_what_goes() {
        let text = "Reading package lists...\nThe following packages will be REMOVED:\n  qemu-utils\n\
            Remv qemu-utils [1:10.0.2+ds-2+deb13u1~bpo12+1]\n\
            Inst libslirp0 (4.7.0-1 Debian:12.15/oldstable [amd64])\n\
            Inst libc6 [2.36-9+deb12u10] (2.36-9+deb12u13 Debian:12.15/oldstable [amd64]) []\n\
            Conf libslirp0 (4.7.0-1 Debian:12.15/oldstable [amd64])\n";
        let simulation = parse_simulation(text);
        assert_eq!(simulation.remove, ["qemu-utils"]);
        expect![[r#"
            [
                Package {
                    name: "libslirp0",
                    version: "4.7.0-1",
                },
                Package {
                    name: "libc6",
                    version: "2.36-9+deb12u13",
                },
            ]
        "#]]
        .assert_debug_eq(&simulation.install);
    }

    #[test]
    fn the_candidate_of_an_unknown_package_is_none() {
        let policy =
            "linux-source-6.12:\n  Installed: (none)\n  Candidate: 6.12.117-1~deb12u1\n  Version table:\n";
        assert_eq!(parse_candidate(policy).as_deref(), Some("6.12.117-1~deb12u1"));
        assert_eq!(parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn the_distribution_is_the_source_that_has_the_installed_release() {
        let targets = "http://security.example/d-security/ bookworm-security\n\
            http://mirror.example/debian/ bookworm\nhttp://other.example/ nodistro\n";
        let os_release = "NAME=x\nVERSION_CODENAME=bookworm\n";
        let found = distribution_uri(targets, os_release);
        assert_eq!(found.as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(distribution_uri(targets, "VERSION_CODENAME=trixie\n"), None);
    }

    #[test]
    fn the_command_for_a_person_is_one_line() {
        expect!["sudo apt-get update && sudo apt-get install -y --no-install-recommends flex bison"]
            .assert_eq(&install_command(&["flex", "bison"]));
    }
}
