// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the library that keeps a deterministic QEMU in lockstep; the harness carries it along (`src/lockstep.rs`).

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "lockstep/lockstep.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("liblockstep.so");
    let status = Command::new(env::var_os("RUSTC").expect("cargo sets it"))
        .args([
            "--edition=2024",
            "--crate-type=cdylib",
            "-Cpanic=abort",
            "-Copt-level=2",
            "-Cstrip=symbols",
            "-o",
        ])
        .arg(&out)
        .arg(SOURCE)
        .status()
        .expect("rustc can be run");
    assert!(status.success(), "{SOURCE} does not compile");
}
