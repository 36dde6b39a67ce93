// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oracle on console logs, one JSON object a line: what the score tool runs.

use std::{fs, io};

use harness::oracle;

fn main() -> io::Result<()> {
    for path in std::env::args().skip(1) {
        let reports = oracle::judge(&fs::read(&path)?);
        let cause = reports.first();
        let verdict = serde_json::json!({
            "file": path,
            "crash": cause.is_some(),
            "title": cause.map(|report| &report.title),
            "alt_titles": cause.map_or(&[][..], |report| &report.alt_titles),
            "type": cause.map(|report| &report.kind),
            "frame": cause.map(|report| report.frame.as_deref().unwrap_or("corrupted")),
            "corrupted": cause.is_some_and(|report| report.corrupted.is_some()),
            "why": cause.map(|report| &report.corrupted),
            "reports": reports,
        });
        println!("{verdict}");
    }
    Ok(())
}
