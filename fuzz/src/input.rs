// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program as LibAFL sees it. Serialised it is its text form, so nothing LibAFL stores needs a reader of its own.

use std::{fmt, str::FromStr};

use harness::program::Program;
use libafl::{corpus::CorpusId, inputs::Input};
use libafl_bolts::HasLen;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A program as LibAFL sees it; valid (fixed up) whenever it is not inside a mutation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProgramInput(pub Program);

impl Input for ProgramInput {
    fn generate_name(&self, _id: Option<CorpusId>) -> String {
        content_name(&self.0)
    }
}

impl HasLen for ProgramInput {
    /// Ops of all threads.
    fn len(&self) -> usize {
        self.0.n_ops()
    }
}

impl Serialize for ProgramInput {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ProgramInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = ProgramInput;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a program in text form")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ProgramInput, E> {
                Program::from_str(text).map(ProgramInput).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Name of a program by content: 16 hexadecimal digits, the same on every machine.
pub fn content_name(program: &Program) -> String {
    blake3::hash(program.to_string().as_bytes()).to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serialised_form_is_the_text() {
        let text = "schedule vcpus=2 shift=3\nthread cpu=1\n  register slot=4\n";
        let input = ProgramInput(text.parse().unwrap());
        let json = serde_json::to_string(&input).unwrap();
        assert_eq!(json, serde_json::to_string(text).unwrap());
        assert_eq!(serde_json::from_str::<ProgramInput>(&json).unwrap(), input);
        assert!(serde_json::from_str::<ProgramInput>("\"thread cpu=0\\n frobnicate\"").is_err());
    }
}
