// SPDX-License-Identifier: MIT OR Apache-2.0
//! Picks the function a report is blamed on.

use super::{
    Frame,
    functions::{COMMON, Group, is_in},
    rules::{Blame, Rule},
    stacks::{Stack, StackKind},
};

/// The blamed function, if the stacks give one.
pub(crate) fn blamed<'a>(
    rule: &Rule,
    stacks: &'a [Stack],
    sites: &'a [Frame],
    pid: Option<u32>,
) -> Option<&'a Frame> {
    match rule.blame {
        Blame::None | Blame::Untold | Blame::Orphan | Blame::Head => None,
        Blame::Trace => made_for_us(stacks, rule.skip)
            .or_else(|| first_of_traces(stacks, rule.skip))
            .or_else(|| first(sites, rule.skip)),
        Blame::Named => first(sites, rule.skip).or_else(|| first_of_traces(stacks, rule.skip)),
        Blame::Hung => first_of_traces_where(stacks, |frame| is(frame, Group::Bucket))
            .or_else(|| first_of_traces(stacks, rule.skip)),
        Blame::Owner => {
            let owner = stacks.iter().find(|stack| stack.kind == StackKind::Owner);
            owner.and_then(|stack| first(&stack.frames, rule.skip))
        }
        // Locks of work items and the like name only skipped functions; then how they came to be held may tell.
        Blame::LockSite => {
            let history = || stacks.iter().find_map(|stack| first(&stack.frames, rule.skip));
            first(sites, rule.skip)
                .or_else(|| history().filter(|_| !sites.is_empty()))
                .or_else(|| first_of_traces(stacks, rule.skip))
        }
        Blame::LockOrder => {
            let history = stacks.iter().find(|stack| stack.kind == StackKind::LockHistory);
            history
                .and_then(|stack| first(&stack.frames, rule.skip))
                .or_else(|| first_of_traces(stacks, rule.skip))
        }
        Blame::Overflow => {
            recursing(stacks).or_else(|| traces(stacks).find_map(|stack| loops(stack, rule.skip)))
        }
        Blame::Stall => stalled(stacks, None, rule.skip),
        Blame::Deadline => stuck(stacks, pid, rule.skip)
            .or_else(|| stalled(stacks, pid, rule.skip))
            .or_else(|| stalled(stacks, None, rule.skip)),
    }
}

/// The stack that tells where it went wrong: the one that the blamed function is on, else the first that has frames.
pub(crate) fn main_stack<'a>(stacks: &'a [Stack], blamed: Option<&Frame>) -> Option<&'a Stack> {
    let holds = |stack: &&Stack| {
        blamed.is_some_and(|blamed| stack.frames.iter().any(|frame| std::ptr::eq(frame, blamed)))
            && !matches!(stack.kind, StackKind::History | StackKind::LockHistory)
    };
    (stacks.iter().find(holds))
        .or_else(|| traces(stacks).find(|stack| stack.frames.len() > stack.n_registers))
        .or_else(|| stacks.first())
}

fn traces(stacks: &[Stack]) -> impl Iterator<Item = &Stack> {
    stacks.iter().filter(|stack| stack.kind == StackKind::Trace)
}

fn first_of_traces<'a>(stacks: &'a [Stack], skip: &[Group]) -> Option<&'a Frame> {
    first_of_traces_where(stacks, |frame| !is_skipped(frame, skip))
}

fn first_of_traces_where(stacks: &[Stack], wanted: impl Fn(&Frame) -> bool) -> Option<&Frame> {
    let known = |stack: &&Stack| stack.frames.iter().any(|frame| frame.reliable);
    let stack =
        traces(stacks).find(known).or_else(|| stacks.iter().find(|stack| stack.kind == StackKind::Fault))?;
    stack.frames.iter().filter(|frame| frame.reliable).find(|frame| wanted(frame))
}

/// First reliable frame that is not skipped.
fn first<'a>(frames: &'a [Frame], skip: &[Group]) -> Option<&'a Frame> {
    frames.iter().filter(|frame| frame.reliable).find(|frame| !is_skipped(frame, skip))
}

/// What a constructor made is its caller's to lose, but the guest module only calls what is under test: then it is the
/// constructor.
fn made_for_us<'a>(stacks: &'a [Stack], skip: &[Group]) -> Option<&'a Frame> {
    let caller = first_of_traces(stacks, skip).filter(|_| skip.contains(&Group::Construct))?;
    if is_ours(caller) { first_of_traces(stacks, &[]) } else { None }
}

/// Whether the frame is of the guest module that calls what is under test.
fn is_ours(frame: &Frame) -> bool {
    frame.module.as_deref() == Some("shrinktorture")
}

fn is_skipped(frame: &Frame, skip: &[Group]) -> bool {
    is_in(&frame.function, COMMON) || is_in(&frame.function, skip)
}

/// The looping function: on the first stack that is not idle, what the first dispatcher called. Only stacks that an
/// interrupt broke into count, of the task asked for: tasks that were merely shown do not loop.
fn stalled<'a>(stacks: &'a [Stack], pid: Option<u32>, skip: &[Group]) -> Option<&'a Frame> {
    let broken_into = |stack: &&Stack| {
        stack.n_registers > 0
            || stack.frames.iter().any(|frame| frame.reliable && is(frame, Group::Interrupt))
    };
    let wanted = |stack: &&Stack| pid.is_none() || stack.pid == pid;
    traces(stacks).filter(broken_into).filter(wanted).find_map(|stack| loops(stack, skip))
}

/// The function that calls itself.
fn recursing(stacks: &[Stack]) -> Option<&Frame> {
    let same =
        |pair: &&[Frame]| pair[0].function == pair[1].function && pair.iter().all(|frame| frame.reliable);
    traces(stacks).find_map(|stack| stack.frames.windows(2).find(same)).map(|pair| &pair[0])
}

fn loops<'a>(stack: &'a Stack, skip: &[Group]) -> Option<&'a Frame> {
    let reliable: Vec<&Frame> = interrupted(&stack.frames).iter().filter(|frame| frame.reliable).collect();
    if reliable.iter().any(|frame| is(frame, Group::Idle)) {
        return None;
    }
    let telling: Vec<&Frame> = reliable.into_iter().filter(|frame| !is_skipped(frame, skip)).collect();
    let dispatcher = telling.iter().position(|frame| is(frame, Group::Dispatch))?;
    // Waiting for another CPU to answer: that CPU is stuck, this one only shows it.
    let waits = telling[dispatcher].function.contains("smp_call_function");
    Some(telling[if waits { dispatcher } else { dispatcher.saturating_sub(1) }])
}

/// What the innermost interrupt interrupted; everything, when none did.
fn interrupted(frames: &[Frame]) -> &[Frame] {
    let Some(entry) = frames.iter().position(|frame| frame.reliable && is(frame, Group::Interrupt)) else {
        return frames;
    };
    let rest = &frames[entry..];
    let beyond = rest.iter().position(|frame| frame.reliable && !is(frame, Group::Interrupt));
    beyond.map_or(&[], |at| &rest[at..])
}

/// The stuck worker: its own stack as the agent read it, else the task of that pid, else one that came from a system
/// call rather than a kernel thread.
fn stuck<'a>(stacks: &'a [Stack], pid: Option<u32>, skip: &[Group]) -> Option<&'a Frame> {
    let from_user = |stack: &Stack| {
        stack
            .frames
            .iter()
            .any(|frame| frame.function.starts_with("do_syscall_") || frame.function.starts_with("el0_svc"))
    };
    let own = stacks.iter().filter(|stack| stack.kind == StackKind::Stuck);
    // A register means that it was running.
    let asleep = || traces(stacks).filter(|stack| stack.pid.is_some() && stack.n_registers == 0);
    let same = asleep().filter(|stack| stack.pid == pid);
    let listed = asleep().filter(|stack| pid.is_none() && from_user(stack));
    own.chain(same).chain(listed).find_map(|stack| first(&stack.frames, skip))
}

fn is(frame: &Frame, group: Group) -> bool {
    is_in(&frame.function, &[group])
}
