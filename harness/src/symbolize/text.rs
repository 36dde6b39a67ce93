// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes source positions into a console's text.

use super::Symbolizer;
use crate::oracle::{self, SourceFrame};

/// Adds source positions to a console text, in the manner of the kernel's `scripts/decode_stacktrace.sh`: after each
/// `function+0x12/0x34` its position, and before a line of stack one more line for each function inlined there.
pub fn annotate(console: &str, symbolizer: &Symbolizer) -> String {
    let mut out = String::with_capacity(console.len() * 2);
    for line in console.split_inclusive('\n') {
        annotate_line(line, symbolizer, &mut out);
    }
    out
}

fn annotate_line(line: &str, symbolizer: &Symbolizer, out: &mut String) {
    let text = line.trim_end_matches(['\n', '\r']);
    let Some(place) = oracle::place_in_line(text) else {
        out.push_str(line);
        return;
    };
    let positions = symbolizer.symbolize(&place.frame);
    let Some((outermost, inlined)) = positions.split_last() else {
        out.push_str(line);
        return;
    };
    // A guess off the stack is not worth the lines.
    if place.is_stack && place.frame.reliable {
        for position in inlined {
            let SourceFrame { function, file, line, .. } = position;
            out.push_str(&format!("{}{function} {file}:{line} [inline]\n", &text[..place.start]));
        }
    }
    // Mangled names are for machines.
    out.push_str(&text[..place.start]);
    out.push_str(if place.frame.function.contains("::") {
        &place.frame.function
    } else {
        &place.frame.symbol
    });
    out.push_str(&text[place.start + place.frame.symbol.len()..place.end]);
    out.push_str(&format!(" {}:{}", outermost.file, outermost.line));
    out.push_str(&text[place.end..]);
    out.push_str(&line[text.len()..]);
}
