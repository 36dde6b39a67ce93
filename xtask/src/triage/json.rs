// SPDX-License-Identifier: MIT OR Apache-2.0
//! `triage --json`: one object a line, and the schema of it.

use std::{io, path::Path};

use harness::oracle::Report;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

/// What the kernel complained about in one log. Fields are only ever added.
#[derive(Serialize, JsonSchema)]
struct Verdict<'a> {
    /// The log as it was named.
    #[schemars(with = "String")]
    file: &'a Path,
    /// The log holds at least one report.
    crash: bool,
    /// Title of the first report.
    title: Option<&'a str>,
    /// Other titles of the first report.
    alt_titles: &'a [String],
    /// Type of the first report; empty when it has none.
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    /// The function that the first report is blamed on.
    frame: Option<&'a str>,
    /// The first report is not whole; `reports` says why.
    corrupted: bool,
    /// All reports, in order of position: the first is the cause, later ones may be aftermath.
    reports: &'a [Report],
}

/// The line of one log.
pub(super) fn line(path: &Path, reports: &[Report]) -> serde_json::Result<String> {
    let cause = reports.first();
    let verdict = Verdict {
        file: path,
        crash: cause.is_some(),
        title: cause.map(|report| report.title.as_str()),
        alt_titles: cause.map_or(&[], |report| &report.alt_titles),
        kind: cause.map(|report| report.kind.as_str()),
        frame: cause.and_then(|report| report.frame.as_deref()),
        corrupted: cause.is_some_and(|report| report.corrupted.is_some()),
        reports,
    };
    let mut out = Vec::new();
    verdict.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Ascii(CompactFormatter)))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// The schema of a line.
pub(super) fn schema() -> serde_json::Result<String> {
    serde_json::to_string_pretty(&schemars::schema_for!(Verdict<'static>))
}

/// Writes everything beyond plain ASCII as escapes: JSON allows control characters that terminals obey.
struct Ascii(CompactFormatter);

impl Formatter for Ascii {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        for c in text.chars() {
            if (' '..='~').contains(&c) {
                self.0.write_string_fragment(out, c.encode_utf8(&mut [0; 4]))?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_as_it_always_did_and_is_plain_ascii() {
        let report = Report { title: "a\u{9b}2J \u{202e}\u{1f600} \"b\" \u{1b}".into(), ..Report::default() };
        let line = line(Path::new("x.log"), std::slice::from_ref(&report)).unwrap();
        let start = r#"{"file":"x.log","crash":true,"title":"a\u009b2J \u202e\ud83d\ude00 \"b\" \u001b","alt_titles":[],"type":"","frame":null,"corrupted":false,"reports":[{"#;
        assert_eq!(&line[..start.len()], start);
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["title"], report.title.as_str());
        assert_eq!(serde_json::from_value::<Report>(read["reports"][0].clone()).unwrap(), report);
        assert!(super::line(Path::new("x"), &[]).unwrap().contains(r#""crash":false,"title":null"#));
    }

    #[test]
    fn the_schema_knows_every_field_of_a_line() {
        let schema: serde_json::Value = serde_json::from_str(&schema().unwrap()).unwrap();
        let line: serde_json::Value =
            serde_json::from_str(&line(Path::new("x"), &[Report::default()]).unwrap()).unwrap();
        let fields = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(fields(&schema["properties"]), fields(&line));
        assert_eq!(fields(&schema["$defs"]["Report"]["properties"]), fields(&line["reports"][0]));
        for (name, property) in schema["$defs"]["Report"]["properties"].as_object().unwrap() {
            assert!(property.get("description").is_some(), "{name} is not explained");
        }
    }
}
