// SPDX-License-Identifier: MIT OR Apache-2.0
//! An outcome that has everything in it, and that a guest, a build and a mail did their worst to: what the views are
//! tested with, here and against the programs that read them (`test/gate_formats.rs`).

use std::path::PathBuf;

use super::outcome::{Check, KernelInfo, Outcome, PatchInfo, Status, Step, verdict};

/// Ends markup, obeys nobody: HTML, CDATA, workflow commands, a terminal's escape sequences, a bell, a line separator, a
/// character that XML does not allow, and what a wrong encoding leaves behind.
const HOSTILE: &str = "<script>alert('1')</script> ]]> ::error::x ##[stop-commands]y \x1b[31m\x07\u{2028}\u{ffff}\u{fffd} & \"q\"";

/// Details that pretend to be results, and to be the end of them.
const HOSTILE_DETAIL: &str = "ok 1 all is well\nKTAP version 1\n1..9\n# Subtest: boot\n::error file=a::b\n\
    ::stop-commands::x\n##[add-mask]a\n]]></failure></testcase>\n</pre><img src=x onerror=alert(1)>\n````\n\
    [[ATTACHMENT|/etc/passwd]] @all https://example.org\nKernel panic - not syncing: VFS: Unable to mount root fs\n\
    reboot: System halted\nList of all partitions:\n\x1b]0;title\x07\u{202e}txt\r\n\ttab\n100% a,b:c\n";

/// That outcome.
pub fn outcome() -> Outcome {
    let steps = vec![hygiene(), build(), boot(), scenarios(), corpus(), campaign(), performance()];
    let (verdict, why) = verdict(&steps);
    Outcome {
        patches: patches(),
        base: kernel("6.12.0-base", "8f2e1c0"),
        patched: Some(kernel("6.12.0-series", "17ab3f9")),
        steps,
        verdict,
        why,
        command: "cargo xtask gate --instance kasan-6.12 series.mbx".to_owned(),
        seconds: 1234.5,
    }
}

fn patches() -> Vec<PatchInfo> {
    let patch = |subject: &str, message_id: Option<&str>, files: &[&str]| PatchInfo {
        subject: subject.to_owned(),
        message_id: message_id.map(str::to_owned),
        files: files.iter().map(|file| (*file).to_owned()).collect(),
    };
    vec![
        patch("mm: shrinker: count later", Some("20260102-shrinker-1@example.org"), &["mm/shrinker.c"]),
        patch(HOSTILE, None, &["mm/shrinker.c", "mm/vmscan.c"]),
    ]
}

fn kernel(release: &str, key: &str) -> KernelInfo {
    KernelInfo {
        instance: "kasan-6.12".to_owned(),
        release: release.to_owned(),
        key: key.to_owned(),
        source: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        compiler: "clang version 19.1.7".to_owned(),
    }
}

fn check(name: &str, status: Status, text: &str) -> Check {
    Check { seconds: 0.5, ..Check::new(name, status, text) }
}

fn step(name: &str, seconds: f64, checks: Vec<Check>) -> Step {
    Step { name: name.to_owned(), checks, seconds }
}

fn hygiene() -> Step {
    let place = Some(("mm/shrinker.c".to_owned(), 12));
    let long = Check {
        patch: Some(0),
        place,
        ..check("checkpatch", Status::Note, "line over 100 columns, no blank")
    };
    step("hygiene", 1.25, vec![check("applies", Status::Pass, ""), long])
}

fn build() -> Step {
    let place = Some(("mm/vm,scan:1.c".to_owned(), 321));
    let warning = Check {
        patch: Some(1),
        place,
        detail: "mm/vmscan.c:321:6: warning: unused variable 'x' [-Wunused-variable]\n  321 |     int x;\n"
            .to_owned(),
        ..check("W=1 mm/vmscan.c", Status::Fail, "unused variable 'x' # SKIP 100%")
    };
    step("build", 61.0, vec![check("bzImage", Status::Pass, ""), warning])
}

fn boot() -> Step {
    // A check may be called like its step.
    step("boot", 4.0, vec![check("boot", Status::Pass, "clean console")])
}

fn scenarios() -> Step {
    let fixed = check("umount-latency", Status::Fixed, "INFO: task hung in shrinker_free");
    step("scenarios", 33.3, vec![check("memcg", Status::Skip, "- no CONFIG_MEMCG #1"), fixed])
}

fn corpus() -> Step {
    let old = check("replay 17", Status::Old, "WARNING in do_shrink_slab");
    let new = Check {
        detail: HOSTILE_DETAIL.to_owned(),
        folder: Some(PathBuf::from("findings/0001-<b>")),
        ..check(
            "replay #18\n<b>\u{1b}[1m",
            Status::Fail,
            &format!("SKIP KASAN: slab-use-after-free # SKIP {HOSTILE}\nok 2"),
        )
    };
    step("corpus", 120.0, vec![old, new])
}

fn campaign() -> Step {
    let unsure = Check {
        detail: "the guest went away\n".to_owned(),
        folder: Some(PathBuf::from("campaign")),
        ..check("campaign", Status::Unsure, "2 of 8 minutes: the guest was lost # SKIP")
    };
    step("campaign", 120.0, vec![unsure])
}

fn performance() -> Step {
    step("performance", 0.0, Vec::new())
}
