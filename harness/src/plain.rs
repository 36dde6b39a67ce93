// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes what a guest printed harmless: a kernel under test may print anything, and terminals, mail readers and issue
//! trackers obey what they are shown.

/// Characters that change what others look like, or are not seen at all.
fn is_active(c: char) -> bool {
    let is_format = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control() || is_format
}

/// One line for a terminal: no control characters, at most `chars_max` characters.
pub fn line(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    for (idx, c) in text.chars().enumerate() {
        if idx >= chars_max {
            out.push('…');
            break;
        }
        push(&mut out, c);
    }
    out
}

/// Several lines for a terminal: line breaks and tabs stay.
pub fn block(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c => push(&mut out, c),
        }
    }
    out
}

/// Text within a line of markdown: no markup, no HTML, no link, nobody mentioned.
pub fn inline_markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // Trackers notify whoever stands behind an at sign, escaped or not.
            '@' => out.push_str("(at)"),
            '\\' | '`' | '*' | '[' | ']' | '|' | '#' | '~' | '$' => out.extend(['\\', c]),
            c => push(&mut out, c),
        }
    }
    out.replace("://", ":\\/\\/").replace("www.", "www\\.")
}

/// Text as a block of markdown that nothing in it can end.
pub fn quote_markdown(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let body = block(text);
    let gap = if body.ends_with('\n') { "" } else { "\n" };
    format!("{fence}text\n{body}{gap}{fence}\n\n")
}

/// Text within HTML, also within a quoted attribute; line breaks and tabs stay.
pub fn html(text: &str) -> String {
    let text = block(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

/// Text as lines of at most so many columns; a word that is longer has a line of its own.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn push(out: &mut String, c: char) {
    if is_active(c) { out.extend(c.escape_default()) } else { out.push(c) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_at_words() {
        assert_eq!(wrap("a bc  def\nghijklm n", 4), ["a bc", "def", "ghijklm", "n"]);
    }

    #[test]
    fn what_the_guest_prints_cannot_leave_its_block_or_line() {
        assert_eq!(quote_markdown("a\r\n```\n\x1b[31m"), "````text\na\n```\n\\u{1b}[31m\n````\n\n");
        assert_eq!(inline_markdown("a|<b>`c`\n# d"), "a\\|&lt;b&gt;\\`c\\`\\n\\# d");
        assert_eq!(inline_markdown("@all see https://x www.y"), "(at)all see https:\\/\\/x www\\.y");
        assert_eq!(line("\x1b]0;title\x07\u{202e}x\u{9b}2J", 99), "\\u{1b}]0;title\\u{7}\\u{202e}x\\u{9b}2J");
        assert_eq!(line("long line", 4), "long…");
        assert_eq!(html("<a b='c'>\n\"&\x1b"), "&lt;a b=&#39;c&#39;&gt;\n&quot;&amp;\\u{1b}");
    }
}
