// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of functions by their names: which are never to blame, and how to read a stack. The list is data,
//! `functions.txt`; this finds names in it.

use std::{cell::RefCell, collections::HashMap, sync::LazyLock};

/// The list.
const LIST: &str = include_str!("functions.txt");

/// Names whose groups are remembered; then the memory starts anew.
const REMEMBERED_MAX: usize = 4096;

/// Functions listed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// What found and printed the fault.
    Reporting,
    /// What the fault raised.
    Trap,
    /// Helpers that act on what their caller gave them.
    Access,
    /// Allocators.
    Memory,
    /// Locks.
    Lock,
    /// Containers and counters.
    Object,
    /// Core code that drives other people's objects.
    Core,
    /// The scheduler.
    Schedule,
    /// Sleeping, for stuck tasks.
    Wait,
    /// Where all stuck tasks are one bug.
    Bucket,
    /// What takes locks for work items.
    Work,
    /// RCU itself.
    Rcu,
    /// Socket locks.
    Sock,
    /// What asks for the CPU.
    Preempt,
    /// What looks at a lock.
    Key,
    /// Locks by whatever name.
    Spin,
    /// What frees.
    Free,
    /// What frees or arms tracked objects.
    Tracked,
    /// Checked copies.
    Usercopy,
    /// Registration in /proc.
    Proc,
    /// Wrappers of network buffers.
    Skb,
    /// What submits URBs.
    Urb,
    /// What computes on uninitialised bytes.
    Crypto,
    /// Checked arithmetic.
    Overflow,
    /// What frees pages for others.
    Page,
    /// Constructors of what somebody else owns.
    Construct,
    /// Where kernel work begins.
    Entry,
    /// Those that hand work on.
    Dispatch,
    /// Where interrupts come in.
    Interrupt,
    /// Stacks that say nothing.
    Idle,
}

impl Group {
    const NAMES: [(&str, Group); 30] = [
        ("reporting", Group::Reporting),
        ("trap", Group::Trap),
        ("access", Group::Access),
        ("memory", Group::Memory),
        ("lock", Group::Lock),
        ("object", Group::Object),
        ("core", Group::Core),
        ("schedule", Group::Schedule),
        ("wait", Group::Wait),
        ("bucket", Group::Bucket),
        ("work", Group::Work),
        ("rcu", Group::Rcu),
        ("sock", Group::Sock),
        ("preempt", Group::Preempt),
        ("key", Group::Key),
        ("spin", Group::Spin),
        ("free", Group::Free),
        ("tracked", Group::Tracked),
        ("usercopy", Group::Usercopy),
        ("proc", Group::Proc),
        ("skb", Group::Skb),
        ("urb", Group::Urb),
        ("crypto", Group::Crypto),
        ("overflow", Group::Overflow),
        ("page", Group::Page),
        ("construct", Group::Construct),
        ("entry", Group::Entry),
        ("dispatch", Group::Dispatch),
        ("interrupt", Group::Interrupt),
        ("idle", Group::Idle),
    ];

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Never to blame, whatever the report.
pub(crate) const COMMON: &[Group] =
    &[Group::Reporting, Group::Trap, Group::Access, Group::Memory, Group::Lock, Group::Object, Group::Core];

/// Is the function in one of the groups?
pub(crate) fn is_in(function: &str, groups: &[Group]) -> bool {
    let wanted = groups.iter().fold(0, |bits, group| bits | group.bit());
    groups_of(function) & wanted != 0
}

thread_local! {
    /// Every stack is asked about many times, and most stacks hold the same functions.
    static REMEMBERED: RefCell<HashMap<Box<str>, u32>> = RefCell::default();
}

/// The bits of every group a function is in.
fn groups_of(function: &str) -> u32 {
    REMEMBERED.with_borrow_mut(|remembered| {
        if let Some(&groups) = remembered.get(function) {
            return groups;
        }
        let groups = LISTED.groups_of(function);
        if remembered.len() == REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(function.into(), groups);
        groups
    })
}

/// One pattern against one name. Parts between stars are taken where they are first found, so time is linear.
fn glob(pattern: &str, name: &str) -> bool {
    let Some((first, mut rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    while let Some((part, after)) = rest.split_once('*') {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
        rest = after;
    }
    name.ends_with(rest)
}

/// The list, ready for look-ups. Nearly all patterns are names or beginnings of names, which maps find.
struct Listed {
    names: HashMap<&'static str, u32>,
    beginnings: HashMap<&'static str, u32>,
    globs: Vec<(&'static str, u32)>,
}

static LISTED: LazyLock<Listed> = LazyLock::new(|| {
    let mut listed = Listed { names: HashMap::new(), beginnings: HashMap::new(), globs: Vec::new() };
    for (pattern, group) in patterns() {
        match pattern.split_once('*') {
            None => *listed.names.entry(pattern).or_default() |= group.bit(),
            Some((beginning, "")) => *listed.beginnings.entry(beginning).or_default() |= group.bit(),
            Some(_) => listed.globs.push((pattern, group.bit())),
        }
    }
    listed
});

impl Listed {
    fn groups_of(&self, function: &str) -> u32 {
        let beginnings = (1..=function.len()).filter_map(|end| self.beginnings.get(function.get(..end)?));
        let globs =
            self.globs.iter().filter(|(pattern, _)| glob(pattern, function)).map(|(_, groups)| groups);
        self.names
            .get(function)
            .into_iter()
            .chain(beginnings)
            .chain(globs)
            .fold(0, |bits, groups| bits | groups)
    }
}

/// Every pattern with its group; lines of no known group are left out, which a test forbids.
fn patterns() -> impl Iterator<Item = (&'static str, Group)> {
    let mut group = None;
    LIST.lines().filter(|line| !line.starts_with('#')).flat_map(move |line| {
        if let Some((name, _reason)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            group = Group::NAMES.iter().find(|(known, _)| *known == name).map(|(_, group)| *group);
            return Vec::new();
        }
        let of_group = |pattern| group.map(|group| (pattern, group));
        line.split_whitespace().filter_map(of_group).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_heading_names_a_group_and_a_reason() {
        for line in LIST.lines().filter(|line| line.starts_with('[')) {
            let (name, reason) = line[1..].split_once(']').expect("a closed heading");
            assert!(Group::NAMES.iter().any(|(known, _)| *known == name), "unknown group: {line}");
            assert!(reason.trim().ends_with('.'), "no reason: {line}");
        }
        for (_, group) in Group::NAMES {
            assert!(patterns().any(|(_, listed)| listed == group), "nothing in {group:?}");
        }
    }

    #[test]
    fn no_pattern_is_listed_twice_in_a_group() {
        let mut seen = std::collections::HashSet::new();
        for (pattern, group) in patterns() {
            assert!(seen.insert((pattern, group.bit())), "{pattern} is listed twice in {group:?}");
        }
    }

    #[test]
    fn what_is_under_test_is_never_skipped() {
        // Some reports have exceptions of their own: shrinker_alloc() made what its caller leaked.
        let groups = [Group::Schedule, Group::Wait, Group::Bucket].into_iter().chain(COMMON.iter().copied());
        let groups: Vec<Group> = groups.collect();
        for function in [
            "shrinker_alloc",
            "shrinker_register",
            "shrinker_free",
            "shrink_slab",
            "do_shrink_slab",
            "shrink_slab_memcg",
            "shrinker_put",
            "shrinker_free_rcu_cb",
            "list_lru_add",
            "list_lru_del",
            "list_lru_walk_one",
            "__list_lru_init",
            "list_lru_destroy",
            "set_shrinker_bit",
            "reparent_shrinker_deferred",
            "expand_shrinker_info",
            "drop_slab",
            "mem_cgroup_iter",
            "memcg_list_lru_alloc",
            "shrinker_debugfs_add",
            "shrinker_unit_alloc",
            "xchg_nr_deferred_memcg",
            "shadow_lru_isolate",
        ] {
            assert!(!is_in(function, &groups), "{function} would never be blamed");
        }
    }

    #[test]
    fn globs_match_as_people_expect() {
        assert!(glob("do_*_bit", "do_test_bit") && glob("*work*", "flush_work") && glob("a*", "a"));
        assert!(!glob("do_*_bit", "do_bit") && !glob("abc", "abcd") && !glob("*x", "xy"));
    }
}
