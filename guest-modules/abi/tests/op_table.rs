// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `OPS.md` says what the op table says. `UPDATE_EXPECT=1 cargo test -p shrinktorture-abi` writes it anew.

use std::{env, fs, path::Path};

use abi::ops::{ArgSpec, Domain, OPS, OpSpec, TOPICS};

/// What stands above this line is generated, what stands below is not.
const END: &str = "\n## Left out\n";

const HEAD: &str = "# Ops

What a thread of a program can do. Generated from the op table (`guest-modules/abi/src/ops`), by
`UPDATE_EXPECT=1 cargo test -p shrinktorture-abi`, down to \"Left out\". Weight: how often the generator picks an op, relative
to the others; a star marks ops that cost ten times as much as others and are left out of more programs.
";

fn argument(arg: &ArgSpec) -> String {
    let (min, max) = arg.domain.range();
    match arg.domain {
        Domain::Number { .. } | Domain::Place(_) => format!("`{}` {min}..{max}", arg.name),
        Domain::Name(names) => format!("`{}` {}", arg.name, names.join(", ")),
        Domain::Flags(names) => format!("`{}` any of {}", arg.name, names.join(", ")),
    }
}

fn row(op: &OpSpec) -> String {
    let args: Vec<String> = op.args.iter().map(argument).collect();
    let star = if op.is_dear { "\\*" } else { "" };
    format!("| `{}` | {} | {} | {}{star} |\n", op.name, args.join("; "), op.doc, op.weight)
}

fn generated() -> String {
    let mut text = HEAD.to_owned();
    for (topic, ops) in TOPICS {
        text += &format!("\n## {topic}\n\n| op | arguments | what it does | weight |\n|---|---|---|---|\n");
        text.extend(ops.iter().map(row));
    }
    text
}

#[test]
fn the_document_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../OPS.md");
    let document = fs::read_to_string(&path).unwrap_or_default();
    let (have, by_hand) = document.split_once(END).unwrap_or((&document, ""));
    let want = generated();
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, format!("{want}{END}{by_hand}")).unwrap();
    } else {
        assert!(
            have == want,
            "OPS.md is not what the table says: UPDATE_EXPECT=1 cargo test -p shrinktorture-abi"
        );
    }
}

#[test]
fn kinds_and_names_are_unique_and_every_argument_can_be_stored() {
    for (idx, op) in OPS.iter().enumerate() {
        let others = &OPS[idx + 1..];
        assert!(others.iter().all(|other| other.kind != op.kind && other.name != op.name), "{}", op.name);
        for (arg_idx, arg) in op.args.iter().enumerate() {
            let rest = &op.args[arg_idx + 1..];
            let is_unique = rest.iter().all(|other| other.field != arg.field && other.name != arg.name);
            assert!(is_unique, "{} {}", op.name, arg.name);
            let mut stored = abi::layout::Op::default();
            for value in [arg.domain.range().0, arg.domain.range().1] {
                stored.set(arg.field, value);
                assert_eq!(stored.get(arg.field), value, "{} {}", op.name, arg.name);
            }
        }
    }
}
