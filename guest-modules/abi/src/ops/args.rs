// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Arguments that several ops have.

use super::{ArgSpec, Domain, Field};
use crate::layout::{MEMCG_ROOT, N_CACHES, N_HANDLES, N_MOUNTS, N_NODES, N_OBJECTS, N_SLOTS};

pub(super) const fn number(name: &'static str, field: Field, min: u32, max: u32) -> ArgSpec {
    ArgSpec { name, field, domain: Domain::Number { min, max } }
}
pub(super) const fn named(name: &'static str, field: Field, names: &'static [&'static str]) -> ArgSpec {
    ArgSpec { name, field, domain: Domain::Name(names) }
}
pub(super) const fn flags(field: Field, names: &'static [&'static str]) -> ArgSpec {
    ArgSpec { name: "flags", field, domain: Domain::Flags(names) }
}
const fn place(name: &'static str, n: usize) -> ArgSpec {
    ArgSpec { name, field: Field::A, domain: Domain::Place(n as u32) }
}

pub(super) const SLOT: ArgSpec = number("slot", Field::Slot, 0, N_SLOTS as u32 - 1);
pub(super) const NID: ArgSpec = number("nid", Field::Nid, 0, N_NODES as u32 - 1);
pub(super) const GROUP: ArgSpec = number("memcg", Field::Memcg, 0, MEMCG_ROOT as u32 - 1);
pub(super) const MEMCG: ArgSpec = named("memcg", Field::Memcg, &["0", "1", "2", "3", "root"]);
pub(super) const CACHE: ArgSpec = place("cache", N_CACHES);
pub(super) const HANDLE: ArgSpec = place("handle", N_HANDLES);
pub(super) const MOUNT: ArgSpec = place("mount", N_MOUNTS);
pub(super) const OBJECT: ArgSpec = place("object", N_OBJECTS);
