// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cuts a console into lines and strips what printk puts before the text.

use std::borrow::Cow;

use memchr::memmem;

use super::limits::LINE_BYTES_MAX;

/// Longest prompt before a kernel message on the same line.
const PROMPT_BYTES_MAX: usize = 80;

/// One line of console.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// The text, leading blanks kept.
    pub body: Cow<'a, str>,
}

/// All lines of a text.
pub(crate) fn split(text: &[u8]) -> Vec<Line<'_>> {
    text.split_inclusive(|&byte| byte == b'\n').map(line).collect()
}

/// The line around a place in a console.
pub(crate) fn line_at(console: &[u8], at: usize) -> Line<'_> {
    let start = memchr::memrchr(b'\n', &console[..at]).map_or(0, |before| before + 1);
    let end = memchr::memchr(b'\n', &console[at..]).map_or(console.len(), |after| at + after + 1);
    line(&console[start..end])
}

fn line(raw: &[u8]) -> Line<'_> {
    Line { body: String::from_utf8_lossy(stamped(raw).body) }
}

/// What printk puts before a line's text, and the text.
pub(crate) struct Stamped<'a> {
    /// Whole seconds since boot, if it has a time stamp.
    pub seconds: Option<u64>,
    /// Who printed it (`T123`, `C1`), on kernels with CONFIG_PRINTK_CALLER.
    pub caller: Option<&'a [u8]>,
    /// The text, leading blanks kept.
    pub body: &'a [u8],
}

/// Reads one line, with its break or without.
pub(crate) fn stamped(raw: &[u8]) -> Stamped<'_> {
    let mut text = raw;
    while let [rest @ .., b'\n' | b'\r'] = text {
        text = rest;
    }
    // A carriage return puts what follows at the start of the line.
    while let [b'\r', rest @ ..] = text {
        text = rest;
    }
    let (seconds, caller, body) = strip_prefix(&text[..text.len().min(LINE_BYTES_MAX)]);
    Stamped { seconds, caller, body }
}

/// Takes off `<6>`, `** 12 printk messages dropped **`, `[   12.345678]` and `[  T123]`.
fn strip_prefix(text: &[u8]) -> (Option<u64>, Option<&[u8]>, &[u8]) {
    let mut rest = strip_level(text);
    if let Some(after) = rest.strip_prefix(b"** ")
        && let Some(at) = memmem::find(&after[..after.len().min(80)], b" ** ")
    {
        rest = strip_level(&after[at + 4..]);
    }
    rest = strip_prompt(rest);
    let Some((stamp, after)) = bracketed(rest) else { return (None, None, rest) };
    let Some(seconds) = seconds(stamp) else { return (None, None, rest) };
    rest = after;
    let mut caller = None;
    if let Some((id, after)) = bracketed(rest) {
        let id = id.trim_ascii();
        if let [b'T' | b'C', digits @ ..] = id
            && !digits.is_empty()
            && digits.iter().all(u8::is_ascii_digit)
        {
            caller = Some(id);
            rest = after;
        }
    }
    (Some(seconds), caller, strip_quote(rest.strip_prefix(b" ").unwrap_or(rest)))
}

/// What our agent reads from kmemleak it prints line by line under a heading of its own.
fn strip_quote(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"SHRINKTORTURE: kmemleak: ").unwrap_or(text)
}

fn strip_level(text: &[u8]) -> &[u8] {
    match text {
        [b'<', digit, b'>', rest @ ..] if digit.is_ascii_digit() => rest,
        _ => text,
    }
}

/// A prompt or an unfinished line of user space shares the line: `guest login: [   12.345678] ...`.
fn strip_prompt(text: &[u8]) -> &[u8] {
    if text.first() == Some(&b'[') {
        return text;
    }
    let Some(at) = text.iter().take(PROMPT_BYTES_MAX).position(|&byte| byte == b'[') else { return text };
    let (prompt, rest) = text.split_at(at);
    let ends = matches!(prompt.trim_ascii_end().last(), Some(b':' | b'#' | b'$' | b'>'));
    if ends && bracketed(rest).is_some_and(|(stamp, _)| seconds(stamp).is_some()) { rest } else { text }
}

/// `[inside]rest`, with a short inside.
fn bracketed(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let after = text.strip_prefix(b"[")?;
    let at = after.iter().take(24).position(|&byte| byte == b']')?;
    Some((&after[..at], &after[at + 1..]))
}

/// Whole seconds of a time stamp's inside.
fn seconds(stamp: &[u8]) -> Option<u64> {
    let (whole, fraction) = std::str::from_utf8(stamp).ok()?.trim_start().split_once('.')?;
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    whole.parse().ok()
}
