// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs: threads of ops plus the schedule they run under. One value, two other forms: text for people and git,
//! wire for the guest.
//!
//! ```text
//! schedule vcpus=4 shift=1 audit=deep
//! thread cpu=0
//!   alloc slot=0 flags=numa|memcg name=1
//!   register slot=0
//! thread cpu=1
//!   drop_caches what=slab
//! ```

use std::{fmt, str::FromStr};

use abi::{
    layout::{N_THREADS, Op},
    ops::{self, ArgSpec, Domain},
    program::{CPUS_MAX, FLAG_DEEP, OPS_MAX, PROGRAM_MAGIC, WireError, decode, is_deep},
};
use serde::{Deserialize, Serialize};

/// A whole program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// What the virtual machine looks like.
    pub schedule: Schedule,
    /// How closely the guest looks at what the program leaves.
    pub audit: Audit,
    /// 1 to [`N_THREADS`] threads, run side by side.
    pub threads: Vec<Thread>,
}

/// The part of the schedule that the virtual machine is started with; preemption points are ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Schedule {
    /// Virtual CPUs.
    pub vcpus: u8,
    /// `-icount shift=`: one instruction takes `2^shift` ns of virtual time.
    pub shift: u8,
}

/// What the guest checks of the shrinker contract when a program has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Audit {
    /// What can be seen at a glance.
    #[default]
    Light,
    /// What three writes to drop_caches show, too; as long as a short program.
    Deep,
}

/// One thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Thread {
    /// CPU it is pinned to, modulo the CPUs that are there.
    pub cpu: u8,
    /// At most [`OPS_MAX`] ops.
    pub ops: Vec<Op>,
}

/// Smallest number of virtual CPUs of a schedule.
pub const VCPUS_MIN: u8 = 1;
/// Largest number of virtual CPUs of a schedule.
pub const VCPUS_MAX: u8 = CPUS_MAX;
/// Largest `-icount` shift of a schedule.
pub const SHIFT_MAX: u8 = 6;

impl Default for Schedule {
    /// 4 vCPUs, 2 ns an instruction: fast against the kernel's tick, which costs instructions too.
    fn default() -> Self {
        Schedule { vcpus: 4, shift: 1 }
    }
}

impl Program {
    /// Ops of all threads.
    pub fn n_ops(&self) -> usize {
        self.threads.iter().map(|thread| thread.ops.len()).sum()
    }

    /// Makes any value a valid program: ops in range, limits kept, at least one thread. Total, deterministic,
    /// idempotent.
    pub fn fixup(&mut self) {
        self.schedule.vcpus = self.schedule.vcpus.clamp(VCPUS_MIN, VCPUS_MAX);
        self.schedule.shift = self.schedule.shift.min(SHIFT_MAX);
        self.threads.truncate(N_THREADS);
        if self.threads.is_empty() {
            self.threads.push(Thread::default());
        }
        for thread in &mut self.threads {
            thread.cpu %= CPUS_MAX;
            thread.ops.truncate(OPS_MAX);
            for op in &mut thread.ops {
                *op = op.fixup();
            }
        }
    }

    /// Whether it is what it says: [`Program::fixup`] would change nothing.
    pub fn is_valid(&self) -> bool {
        let mut fixed = self.clone();
        fixed.fixup();
        fixed == *self
    }

    /// The wire form. The schedule is not in it: the virtual machine embodies it.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(PROGRAM_MAGIC.to_le_bytes());
        let flags = if self.audit == Audit::Deep { FLAG_DEEP } else { 0 };
        out.extend([self.threads.len() as u8, flags]);
        for thread in &self.threads {
            out.extend([thread.cpu, 0]);
            out.extend((thread.ops.len() as u16).to_le_bytes());
            out.extend(thread.ops.iter().flat_map(|op| op.to_bytes()));
        }
        out
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// When the bytes are not a wire program.
    pub fn from_wire(bytes: &[u8], schedule: Schedule) -> Result<Program, WireError> {
        let (_, threads) = decode(bytes)?;
        let audit = if is_deep(bytes) { Audit::Deep } else { Audit::Light };
        let threads =
            threads.iter().flatten().map(|thread| Thread { cpu: thread.cpu, ops: thread.ops().collect() });
        Ok(Program { schedule, audit, threads: threads.collect() })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schedule vcpus={} shift={}", self.schedule.vcpus, self.schedule.shift)?;
        writeln!(f, "{}", if self.audit == Audit::Deep { " audit=deep" } else { "" })?;
        for thread in &self.threads {
            writeln!(f, "thread cpu={}", thread.cpu)?;
            for op in &thread.ops {
                writeln!(f, "  {}", OpText(op))?;
            }
        }
        Ok(())
    }
}

/// One op in text form.
pub struct OpText<'a>(pub &'a Op);

impl fmt::Display for OpText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(spec) = ops::spec(self.0.kind) else {
            return write!(f, "unknown_{}", self.0.kind);
        };
        f.write_str(spec.name)?;
        for arg in spec.args {
            write!(f, " {}={}", arg.name, ArgText(arg, self.0.get(arg.field)))?;
        }
        Ok(())
    }
}

/// One argument's value in text form.
struct ArgText<'a>(&'a ArgSpec, u32);

impl fmt::Display for ArgText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.domain {
            Domain::Number { .. } | Domain::Place(_) => write!(f, "{}", self.1),
            Domain::Name(names) => match names.get(self.1 as usize) {
                Some(name) => f.write_str(name),
                None => write!(f, "{}", self.1),
            },
            Domain::Flags(_) if self.1 == 0 => f.write_str("0"),
            Domain::Flags(names) => {
                let set: Vec<&str> =
                    (0..names.len()).filter(|i| self.1 >> i & 1 == 1).map(|i| names[i]).collect();
                f.write_str(&set.join("|"))
            }
        }
    }
}

/// What the program would do, for a report: one sentence for an op.
pub fn describe(op: &Op) -> String {
    let Some(spec) = ops::spec(op.kind) else {
        return format!("unknown op {}", op.kind);
    };
    spec.args.iter().fold(spec.doc.to_owned(), |text, arg| {
        text.replace(&format!("{{{}}}", arg.name), &ArgText(arg, op.get(arg.field)).to_string())
    })
}

/// Why a text is not a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl FromStr for Program {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Program, ParseError> {
        let mut program = Program { schedule: Schedule::default(), audit: Audit::Light, threads: Vec::new() };
        for (idx, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                parse_line(&mut program, line).map_err(|what| ParseError { line: idx + 1, what })?;
            }
        }
        if program.threads.is_empty() {
            return Err(ParseError { line: text.lines().count().max(1), what: "no thread".into() });
        }
        Ok(program)
    }
}

fn parse_line(program: &mut Program, line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap_or_default();
    let args: Vec<(&str, &str)> = words
        .map(|word| word.split_once('=').ok_or_else(|| format!("`{word}` is not key=value")))
        .collect::<Result<_, _>>()?;
    match verb {
        "schedule" => {
            for (key, value) in args {
                match key {
                    "vcpus" => {
                        program.schedule.vcpus = number(value, VCPUS_MIN.into(), VCPUS_MAX.into())? as u8
                    }
                    "shift" => program.schedule.shift = number(value, 0, SHIFT_MAX.into())? as u8,
                    "audit" => {
                        program.audit = match value {
                            "light" => Audit::Light,
                            "deep" => Audit::Deep,
                            _ => return Err(format!("audit: `{value}` is none of light, deep")),
                        }
                    }
                    _ => return Err(format!("schedule has no `{key}`")),
                }
            }
        }
        "thread" => {
            if program.threads.len() == N_THREADS {
                return Err(format!("more than {N_THREADS} threads"));
            }
            let mut thread = Thread::default();
            for (key, value) in args {
                match key {
                    "cpu" => thread.cpu = number(value, 0, u32::from(CPUS_MAX) - 1)? as u8,
                    _ => return Err(format!("thread has no `{key}`")),
                }
            }
            program.threads.push(thread);
        }
        name => {
            let op = parse_op(name, &args)?;
            let thread = program.threads.last_mut().ok_or("an op before the first `thread`")?;
            if thread.ops.len() == OPS_MAX {
                return Err(format!("more than {OPS_MAX} ops in a thread"));
            }
            thread.ops.push(op);
        }
    }
    Ok(())
}

fn parse_op(name: &str, args: &[(&str, &str)]) -> Result<Op, String> {
    let spec = ops::by_name(name).ok_or_else(|| format!("no op is called `{name}`"))?;
    let mut op = Op { kind: spec.kind, ..Op::default() };
    for (key, _) in args {
        if !spec.args.iter().any(|arg| arg.name == *key) {
            return Err(format!("{name} has no `{key}`"));
        }
    }
    for arg in spec.args {
        let (_, value) = args
            .iter()
            .find(|(key, _)| *key == arg.name)
            .ok_or_else(|| format!("{name} needs `{}`", arg.name))?;
        op.set(arg.field, parse_arg(arg, value)?);
    }
    Ok(op)
}

fn parse_arg(arg: &ArgSpec, text: &str) -> Result<u32, String> {
    let position = |names: &[&str], name: &str| {
        names
            .iter()
            .position(|n| *n == name)
            .ok_or_else(|| format!("{}: `{name}` is none of {}", arg.name, names.join(", ")))
    };
    match arg.domain {
        Domain::Number { .. } | Domain::Place(_) => {
            let (min, max) = arg.domain.range();
            number(text, min, max).map_err(|e| format!("{}: {e}", arg.name))
        }
        Domain::Name(names) => Ok(position(names, text)? as u32),
        Domain::Flags(_) if text == "0" => Ok(0),
        Domain::Flags(names) => {
            text.split('|').try_fold(0, |bits, name| Ok(bits | 1 << position(names, name)?))
        }
    }
}

fn number(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let value: u32 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (min..=max).contains(&value) { Ok(value) } else { Err(format!("{value} is not in {min}..={max}")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_op() -> impl Strategy<Value = Op> {
        any::<([u8; 4], u32, u32, u32)>().prop_map(|([kind, slot, memcg, nid], a, b, c)| Op {
            kind,
            slot,
            memcg,
            nid,
            a,
            b,
            c,
        })
    }

    fn any_program() -> impl Strategy<Value = Program> {
        let thread =
            (any::<u8>(), prop::collection::vec(any_op(), 0..80)).prop_map(|(cpu, ops)| Thread { cpu, ops });
        (any::<(u8, u8, bool)>(), prop::collection::vec(thread, 0..6)).prop_map(
            |((vcpus, shift, deep), threads)| Program {
                schedule: Schedule { vcpus, shift },
                audit: if deep { Audit::Deep } else { Audit::Light },
                threads,
            },
        )
    }

    proptest! {
        #[test]
        fn fixup_is_idempotent_and_every_form_round_trips(mut program in any_program()) {
            program.fixup();
            let mut twice = program.clone();
            twice.fixup();
            prop_assert_eq!(&twice, &program);
            prop_assert_eq!(&program.to_string().parse::<Program>().unwrap(), &program);
            prop_assert_eq!(&Program::from_wire(&program.to_wire(), program.schedule).unwrap(), &program);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Program::from_wire(&bytes, Schedule::default());
            let _ = String::from_utf8_lossy(&bytes).parse::<Program>();
        }
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = "thread cpu=0\n  register slot=99\n".parse::<Program>().unwrap_err();
        assert_eq!(error.to_string(), "line 2: slot: 99 is not in 0..=15");
        let error = "thread cpu=0\n  frobnicate\n".parse::<Program>().unwrap_err();
        assert_eq!(error.to_string(), "line 2: no op is called `frobnicate`");
    }

    #[test]
    fn an_op_is_described_in_words() {
        let program: Program = "thread cpu=0\n alloc slot=3 flags=numa|memcg name=0".parse().unwrap();
        assert_eq!(describe(&program.threads[0].ops[0]), "shrinker_alloc(numa|memcg) into slot 3");
    }
}
