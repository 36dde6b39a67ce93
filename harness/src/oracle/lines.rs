// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cuts a console into lines and strips what printk puts before the text.

use std::borrow::Cow;

/// Longer lines are cut: printk's own limit is 1 KiB, symbolised lines are a little longer.
const LINE_BYTES_MAX: usize = 2048;

/// Longest prompt before a kernel message on the same line.
const PROMPT_BYTES_MAX: usize = 80;

/// One line of console.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// Offset of its first byte in the console.
    pub start: usize,
    /// Offset just past its line break.
    pub end: usize,
    /// Whole seconds since boot, if it has a time stamp.
    pub seconds: Option<u64>,
    /// Who printed it (`T123`, `C1`), on kernels with CONFIG_PRINTK_CALLER.
    pub caller: Option<Cow<'a, str>>,
    /// The text, leading blanks kept.
    pub body: Cow<'a, str>,
}

/// All lines of a console.
pub(crate) fn split(console: &[u8]) -> Vec<Line<'_>> {
    let mut start = 0;
    console
        .split_inclusive(|&byte| byte == b'\n')
        .map(|raw| {
            let line = line(raw, start);
            start += raw.len();
            line
        })
        .collect()
}

fn line(raw: &[u8], start: usize) -> Line<'_> {
    let end = start + raw.len();
    let mut text = raw;
    while let [rest @ .., b'\n' | b'\r'] = text {
        text = rest;
    }
    // A carriage return puts what follows at the start of the line.
    while let [b'\r', rest @ ..] = text {
        text = rest;
    }
    let (seconds, caller, body) = strip_prefix(&text[..text.len().min(LINE_BYTES_MAX)]);
    Line {
        start,
        end,
        seconds,
        caller: caller.map(String::from_utf8_lossy),
        body: String::from_utf8_lossy(body),
    }
}

/// Takes off `<6>`, `** 12 printk messages dropped **`, `[   12.345678]` and `[  T123]`.
fn strip_prefix(text: &[u8]) -> (Option<u64>, Option<&[u8]>, &[u8]) {
    let mut rest = strip_level(text);
    if let Some(after) = rest.strip_prefix(b"** ")
        && let Some(at) = find(&after[..after.len().min(80)], b" ** ")
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

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}
