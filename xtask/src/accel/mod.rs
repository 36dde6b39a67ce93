// SPDX-License-Identifier: MIT OR Apache-2.0
//! Acceleration: probed, not believed. `/dev/kvm` may open, create virtual machines and then emulate kernel code in
//! software, slower than TCG and not all of it. So a small payload is booted against a deadline, its figures are
//! judged, and the answer is cached and explained.

mod payload;
mod probe;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    paths::{Cache, write_whole},
    tools::Qemu,
};
use payload::{LOOPS, Stage};
use probe::Figures;

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AccelChoice {
    /// KVM where it works, else TCG.
    #[default]
    Auto,
    /// KVM, whatever the probe says.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// What virtual machines run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Hardware.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// The answer and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccelAnswer {
    /// What to use.
    pub accel: Accel,
    /// Why, with the figures.
    pub explanation: String,
}

/// Real KVM goes through the payload's loop in under 10 ms, TCG in under 50 ms; an instruction emulator needs
/// hundreds.
const LOOP_MAX: Duration = Duration::from_millis(150);
/// How long one boot of the payload may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// Changes when the payload or the judgement does: old answers are then asked anew.
const CACHE_FORMAT: u32 = 1;

/// Decides what to run virtual machines with.
///
/// # Errors
/// When there is no QEMU, or the cache cannot be written.
pub fn choose(cache: &Cache, choice: AccelChoice) -> Result<AccelAnswer> {
    match choice {
        AccelChoice::Tcg => {
            Ok(AccelAnswer { accel: Accel::Tcg, explanation: "TCG, as asked for".to_string() })
        }
        AccelChoice::Auto => cached_probe(cache, &Qemu::find(cache)?),
        AccelChoice::Kvm => {
            let probed = cached_probe(cache, &Qemu::find(cache)?)?;
            let explanation = match probed.accel {
                Accel::Kvm => probed.explanation,
                Accel::Tcg => {
                    format!("KVM, as asked for, against the probe's advice: {}", probed.explanation)
                }
            };
            Ok(AccelAnswer { accel: Accel::Kvm, explanation })
        }
    }
}

fn cached_probe(cache: &Cache, qemu: &Qemu) -> Result<AccelAnswer> {
    let key = blake3::hash(identity(qemu).as_bytes()).to_hex();
    let path = cache.dir("probes")?.join(format!("accel-{}.json", &key[..16]));
    let cached = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(answer) = cached {
        return Ok(answer);
    }
    let answer = probe_now(qemu)?;
    write_whole(&path, &serde_json::to_vec_pretty(&answer).context("cannot write the answer down")?)?;
    Ok(answer)
}

/// All that the answer depends on, as far as one can see it.
fn identity(qemu: &Qemu) -> String {
    let first_line = |path: &str, start: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_string()
    };
    let device = fs::metadata("/dev/kvm").map(|meta| (meta.rdev(), meta.ino(), meta.mode(), kvm_opens()));
    format!(
        "{CACHE_FORMAT} {} {} {} {} {} {device:?}",
        qemu.version,
        qemu.system.display(),
        first_line("/proc/sys/kernel/osrelease", ""),
        first_line("/proc/cpuinfo", "model name"),
        first_line("/proc/cpuinfo", "flags"),
    )
}

fn kvm_opens() -> bool {
    fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

fn probe_now(qemu: &Qemu) -> Result<AccelAnswer> {
    let tcg = probe::boot(qemu, &["-accel", "tcg", "-cpu", "max"], PROBE_DEADLINE)?;
    if !Path::new("/dev/kvm").metadata().is_ok_and(|meta| meta.file_type().is_char_device()) {
        return Ok(judge(Kvm::Absent, &tcg));
    }
    if !kvm_opens() {
        return Ok(judge(Kvm::Closed, &tcg));
    }
    let host = probe::boot(qemu, &["-accel", "kvm", "-cpu", "host"], PROBE_DEADLINE)?;
    // Where the host's processor cannot even be passed on, the plain model still gives figures to explain with.
    let plain = match host.last() {
        Some(_) => None,
        None => Some(probe::boot(qemu, &["-accel", "kvm"], PROBE_DEADLINE)?),
    };
    Ok(judge(Kvm::Probed { host, plain }, &tcg))
}

/// What is known of KVM.
enum Kvm {
    Absent,
    Closed,
    Probed { host: Figures, plain: Option<Figures> },
}

fn judge(kvm: Kvm, tcg: &Figures) -> AccelAnswer {
    let tcg_words = match tcg.loop_time() {
        Some(time) => format!("TCG takes {} ms here", time.as_millis()),
        None => format!("TCG: {}", describe(tcg)),
    };
    let answer = |accel, explanation| AccelAnswer { accel, explanation };
    match kvm {
        Kvm::Absent => answer(Accel::Tcg, "TCG: there is no /dev/kvm".to_string()),
        Kvm::Closed => answer(
            Accel::Tcg,
            "TCG: /dev/kvm cannot be opened (does this user belong to the group kvm?)".to_string(),
        ),
        Kvm::Probed { host, .. } if works(&host) => answer(
            Accel::Kvm,
            format!(
                "KVM: the probe took {} ms ({tcg_words})",
                host.loop_time().unwrap_or_default().as_millis()
            ),
        ),
        Kvm::Probed { host, plain } => {
            let plain = plain.map(|figures| format!("; with QEMU's plain model {}", describe(&figures)));
            let words = format!(
                "TCG: /dev/kvm opens but does not do what KVM should: with -cpu host {}{} \
                 (real KVM needs under 10 ms, limit {} ms; {tcg_words})",
                describe(&host),
                plain.unwrap_or_default(),
                LOOP_MAX.as_millis(),
            );
            answer(Accel::Tcg, words)
        }
    }
}

fn works(figures: &Figures) -> bool {
    figures.passed && figures.loop_time().is_some_and(|time| time <= LOOP_MAX)
}

fn describe(figures: &Figures) -> String {
    let loops = figures
        .loop_time()
        .map(|time| format!("{LOOPS} rounds of kernel-like code took {} ms", time.as_millis()));
    let stopped = match figures.last() {
        _ if figures.passed => None,
        None => Some("it does not start"),
        Some(Stage::Started) => Some("it does not reach long mode"),
        Some(Stage::LongMode) => Some("the loop does not end"),
        Some(Stage::Looped) => Some("it stops at cmpxchg16b"),
        Some(Stage::Exchanged) => Some("it does not exit"),
    };
    let message = figures.message.as_ref().map(|message| format!("QEMU says {message:?}"));
    let parts: Vec<String> = [loops, stopped.map(str::to_string), message].into_iter().flatten().collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn figures(stages: &[(Stage, u64)], passed: bool, message: Option<&str>) -> Figures {
        Figures {
            stages: stages.iter().map(|(stage, ms)| (*stage, Duration::from_millis(*ms))).collect(),
            passed,
            message: message.map(str::to_string),
        }
    }

    fn good(loop_ms: u64) -> Figures {
        use Stage::*;
        figures(
            &[(Started, 30), (LongMode, 31), (Looped, 31 + loop_ms), (Exchanged, 31 + loop_ms)],
            true,
            None,
        )
    }

    #[test]
    fn kvm_that_runs_the_payload_at_speed_is_used() {
        let answer = judge(Kvm::Probed { host: good(4), plain: None }, &good(20));
        assert_eq!(answer.accel, Accel::Kvm);
        expect!["KVM: the probe took 4 ms (TCG takes 20 ms here)"].assert_eq(&answer.explanation);
    }

    #[test]
    fn kvm_that_emulates_is_seen_through_and_explained() {
        let dead = figures(&[], false, Some("error: failed to set MSR 0x10a to 0x0"));
        let slow = figures(
            &[(Stage::Started, 40), (Stage::LongMode, 60), (Stage::Looped, 2000)],
            false,
            Some("KVM internal error. Suberror: 1"),
        );
        let answer = judge(Kvm::Probed { host: dead, plain: Some(slow) }, &good(20));
        assert_eq!(answer.accel, Accel::Tcg);
        expect![[r#"TCG: /dev/kvm opens but does not do what KVM should: with -cpu host it does not start, QEMU says "error: failed to set MSR 0x10a to 0x0"; with QEMU's plain model 200000 rounds of kernel-like code took 1940 ms, it stops at cmpxchg16b, QEMU says "KVM internal error. Suberror: 1" (real KVM needs under 10 ms, limit 150 ms; TCG takes 20 ms here)"#]].assert_eq(&answer.explanation);
    }

    #[test]
    fn kvm_that_is_merely_slow_is_not_used() {
        let answer = judge(Kvm::Probed { host: good(1900), plain: None }, &good(20));
        assert_eq!(answer.accel, Accel::Tcg);
        expect!["TCG: /dev/kvm opens but does not do what KVM should: with -cpu host 200000 rounds of kernel-like code took 1900 ms (real KVM needs under 10 ms, limit 150 ms; TCG takes 20 ms here)"].assert_eq(&answer.explanation);
    }

    #[test]
    fn no_device_and_no_permission_are_told_apart() {
        let absent = judge(Kvm::Absent, &good(20));
        let closed = judge(Kvm::Closed, &good(20));
        assert_eq!((absent.accel, closed.accel), (Accel::Tcg, Accel::Tcg));
        assert_ne!(absent.explanation, closed.explanation);
    }
}
