// SPDX-License-Identifier: MIT OR Apache-2.0
//! Source positions that a log was given before it came here: `func+0x1/0x2 mm/a.c:3` and, before it, a line
//! `callee mm/b.h:4 [inline]` for each function inlined there.

use super::report::SourceFrame;

/// Digits of a line number.
const LINE_DIGITS_MAX: usize = 9;

/// The position after a frame's offset: `func+0x1/0x2 [module] mm/a.c:3`, in brackets or not.
pub(crate) fn of_frame(body: &str, function: &str) -> Option<SourceFrame> {
    let (_, offset) = body.split_once("+0x")?;
    let (_, mut rest) = offset.split_once(' ')?;
    if let Some(module) = rest.strip_prefix('[') {
        (_, rest) = module.split_once("] ")?;
    }
    let word = rest.split(' ').next()?.trim_start_matches('(').trim_end_matches(')');
    let (file, line) = position(word)?;
    Some(SourceFrame { function: function.to_string(), file, line, inlined: false })
}

/// A line that tells of an inlined function: `func mm/a.h:3 [inline]`, as a register's too.
pub(crate) fn inlined(body: &str) -> Option<SourceFrame> {
    let (before, _) = body.split_once(" [inline]")?;
    let (before, word) = before.rsplit_once(' ')?;
    let function = before.rsplit([' ', ':']).next().filter(|name| is_name(name))?;
    let (file, line) = position(word)?;
    Some(SourceFrame { function: function.to_string(), file, line, inlined: true })
}

fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_.$".contains(&byte);
    !text.is_empty() && !text.as_bytes()[0].is_ascii_digit() && text.bytes().all(is_part)
}

/// `mm/a.c:3`, nothing else: a file has an ending.
fn position(word: &str) -> Option<(String, u32)> {
    let (file, line) = word.rsplit_once(':')?;
    let (_, ending) = file.rsplit_once('.')?;
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"_./+~-".contains(&byte);
    let is_file = (1..=4).contains(&ending.len()) && file.bytes().all(is_path);
    let is_number = line.len() <= LINE_DIGITS_MAX && line.bytes().all(|byte| byte.is_ascii_digit());
    (is_file && is_number).then(|| Some((file.to_string(), line.parse().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_from_symbolised_logs() {
        let told = |frame: Option<SourceFrame>| frame.map(|frame| (frame.function, frame.file, frame.line));
        let is = |function: &str, file: &str, line| Some((function.to_string(), file.to_string(), line));
        assert_eq!(
            told(of_frame(" do_shrink_slab+0x6b0/0xe50 mm/shrinker.c:435", "do_shrink_slab")),
            is("do_shrink_slab", "mm/shrinker.c", 435)
        );
        assert_eq!(told(of_frame(" f+0x6b0/0xe50 [canary] src/lib.rs:7", "f")), is("f", "src/lib.rs", 7));
        assert_eq!(told(of_frame(" f+0x6b0/0xe50", "f")), None);
        assert_eq!(
            told(inlined(" __dump_stack lib/dump_stack.c:94 [inline]")),
            is("__dump_stack", "lib/dump_stack.c", 94)
        );
        assert_eq!(told(inlined("RIP: 0010:f a/b.h:1 [inline]")), is("f", "a/b.h", 1));
        assert_eq!(told(inlined("nothing [inline] here")), None);
    }
}
