// SPDX-License-Identifier: MIT OR Apache-2.0
//! Templates in C and shell: lines between `//{ a b` and `//}` (in shell `#{` and `#}`) are kept where one of the parts
//! named is wanted, `@KEY@` is replaced. The first line, a template's own licence, is dropped unless it is the file's.

use std::collections::BTreeSet;

/// Parts that are wanted.
pub(super) type Parts = BTreeSet<&'static str>;

/// Fills a template in.
pub(super) fn fill(template: &str, parts: &Parts, values: &[(&str, &str)]) -> String {
    let mut out = String::new();
    // Whether each of the blocks we are in is wanted.
    let mut blocks: Vec<bool> = Vec::new();
    for line in template.lines() {
        let word = line.trim_start();
        if let Some(names) = word.strip_prefix("//{").or_else(|| word.strip_prefix("#{")) {
            blocks.push(names.split_whitespace().any(|name| parts.contains(name)));
        } else if word == "//}" || word == "#}" {
            blocks.pop();
        } else if blocks.iter().all(|is_wanted| *is_wanted) {
            push_line(&mut out, line, values);
        }
    }
    out
}

/// A template's text without the line that says its licence.
pub(super) fn body(template: &str) -> &str {
    template.split_once('\n').map_or("", |(_, body)| body)
}

fn push_line(out: &mut String, line: &str, values: &[(&str, &str)]) {
    // One pass: what is filled in is not looked into again.
    let mut rest = line;
    let start = out.len();
    while let Some((before, after)) = rest.split_once('@') {
        let found = values.iter().find_map(|(key, value)| {
            let after = after.strip_prefix(key)?.strip_prefix('@')?;
            Some((*value, after))
        });
        out.push_str(before);
        match found {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('@');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    // A value that is empty, or ends its own line, leaves no line behind.
    let is_replaced = line.trim().starts_with('@') && line.trim().ends_with('@') && line.len() > 2;
    if !(is_replaced && (out.len() == start || out.ends_with('\n'))) {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_kept_if_wanted_and_what_is_filled_in_is_not_looked_into() {
        let template =
            "a @X@ b@c\n//{ one two\nkept\n\t//{ three\n\tnot\n\t//}\n//}\n#{ three\nnot\n#}\n@Y@\nend\n";
        let filled = fill(template, &Parts::from(["two"]), &[("X", "@Y@"), ("Y", "")]);
        assert_eq!(filled, "a @Y@ b@c\nkept\nend\n");
    }
}
