// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks the recipes of `xtask/ci/`: that they are YAML, and that the commands in them are commands.

use std::fs;

use clap::Parser;

use crate::{Cli, paths};

fn recipe(name: &str) -> String {
    fs::read_to_string(paths::repo_root().join("xtask/ci").join(name)).unwrap()
}

/// Commands of a recipe, with what a CI system puts in place of its variables.
fn commands(text: &str) -> Vec<Vec<String>> {
    let variables = regex::Regex::new(r"\$\{\{[^}]*\}\}|\$[A-Z_]+").unwrap();
    let lines = text.lines().filter_map(|line| Some(&line[line.find("cargo xtask ")?..]));
    let command = |line: &str| {
        let line = variables.replace_all(line, "x").into_owned();
        let words = line.split_whitespace().take_while(|word| !["&&", "||", ">"].contains(word));
        words.map(str::to_owned).collect()
    };
    lines.map(command).collect()
}

#[test]
fn recipes_are_yaml_with_a_job() {
    for (name, job) in [("github.yml", "jobs"), ("gitlab.yml", "shrinktorture")] {
        let value: serde_yaml::Value = serde_yaml::from_str(&recipe(name)).unwrap();
        assert!(value.get(job).is_some_and(serde_yaml::Value::is_mapping), "{name}");
    }
}

#[test]
fn their_commands_are_commands() {
    for name in ["github.yml", "gitlab.yml", "crontab"] {
        let commands = commands(&recipe(name));
        assert_eq!(commands.len(), 1, "{name}");
        for command in commands {
            // The first two words are one.
            Cli::try_parse_from(&command[1..]).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
