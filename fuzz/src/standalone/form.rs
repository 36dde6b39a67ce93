// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an op is without this tool: calls in the kernel module, lines of shell, or nothing and why.

use abi::{
    layout::{Op, kind},
    ops,
};
use harness::program::Program;

use super::{caches, debugfs, groups, lists, reclaim, shrinkers, timing, trees};

/// A piece of an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A statement in the module.
    Call(String),
    /// A line of the script.
    Line(String),
}

impl Piece {
    /// Whether the module does it.
    pub(super) fn is_call(&self) -> bool {
        matches!(self, Piece::Call(_))
    }
}

/// An op's stand-alone form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    /// In order.
    pub(super) pieces: Vec<Piece>,
    /// Parts of the templates it needs.
    pub(super) parts: Vec<&'static str>,
    /// Kernel options it needs.
    pub(super) options: Vec<&'static str>,
}

impl Form {
    /// A statement in the module.
    pub(super) fn call(statement: impl Into<String>) -> Form {
        Form::default().and_call(statement)
    }

    /// A line of the script.
    pub(super) fn line(line: impl Into<String>) -> Form {
        Form::default().and_line(line)
    }

    /// The same, and then a statement.
    pub(super) fn and_call(mut self, statement: impl Into<String>) -> Form {
        self.pieces.push(Piece::Call(statement.into()));
        self
    }

    /// The same, and then a line.
    pub(super) fn and_line(mut self, line: impl Into<String>) -> Form {
        self.pieces.push(Piece::Line(line.into()));
        self
    }

    /// The same, with parts of the templates.
    pub(super) fn with(mut self, parts: &[&'static str]) -> Form {
        self.parts.extend(parts);
        self
    }

    /// The same, with kernel options.
    pub(super) fn needs(mut self, options: &[&'static str]) -> Form {
        self.options.extend(options);
        self
    }
}

/// Why an op is left out.
pub(super) type Reason = &'static str;

/// What is known of the programs as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    /// All of them.
    pub(super) programs: &'a [Program],
}

impl Context<'_> {
    /// Every op.
    pub(super) fn ops(&self) -> impl Iterator<Item = &Op> {
        self.programs.iter().flat_map(|program| &program.threads).flat_map(|thread| &thread.ops)
    }

    /// Whether there is an op like this.
    pub(super) fn has(&self, is_it: impl Fn(&Op) -> bool) -> bool {
        self.ops().any(is_it)
    }

    /// Whether a slot ever gets a shrinker.
    pub(super) fn has_slot(&self, slot: u8) -> bool {
        self.has(|op| op.kind == kind::ALLOC && op.slot == slot)
    }
}

/// The form of an op; none for one that no topic knows, which is a mistake in this folder.
pub(super) fn of(op: &Op, context: Context<'_>) -> Option<Result<Form, Reason>> {
    [
        shrinkers::form,
        lists::form,
        groups::form,
        reclaim::form,
        debugfs::form,
        trees::form,
        caches::form,
        timing::form,
    ]
    .iter()
    .find_map(|topic| topic(op, context))
}

/// A name argument's value as it is written.
pub(super) fn name_of(op: &Op, arg: &str) -> &'static str {
    let spec = ops::spec(op.kind).into_iter().flat_map(|spec| spec.args).find(|spec| spec.name == arg);
    match spec.map(|spec| (spec.domain, op.get(spec.field))) {
        Some((ops::Domain::Name(names), value)) => names[value as usize % names.len()],
        _ => "",
    }
}
