// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines into the kernel log, so that they stand in order among the kernel's own.

use std::{fs::File, io::Write};

/// Prints a line of ours.
pub fn say(text: &str) {
    emit("SHRINKTORTURE", text);
}

/// Reports that the kernel does not do as it promises; what comes before the first colon is the title.
pub fn model(text: &str) {
    emit("MODEL", text);
}

/// Reports that the harness itself failed. Never used for what the kernel did.
pub fn failure(text: &str) {
    emit("HARNESSFAIL", text);
}

fn emit(prefix: &str, text: &str) {
    let line = format!("<4>{prefix}: {text}\n");
    let written =
        File::options().write(true).open("/dev/kmsg").and_then(|mut log| log.write_all(line.as_bytes()));
    if written.is_err() {
        println!("{prefix}: {text}");
    }
}
