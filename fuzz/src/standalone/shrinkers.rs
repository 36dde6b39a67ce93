// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shrinkers without this tool.

use abi::layout::{Op, alloc_flag, behave, delay, kind};

use super::form::{Context, Form, Reason};

/// Tails of names; `slots.rs` of the kernel module has the same.
const TAILS: [(&str, usize); 8] = [
    ("a", 1),
    ("b", 1),
    ("%s%n%p", 1),
    ("caf\u{e9} au lait", 1),
    ("a/b", 1),
    ("", 1),
    ("long", 24),
    ("longer", 27),
];
/// Longest name, bytes.
const NAME_MAX: usize = 191;

const BEHAVIOURS: [&str; behave::N as usize] = ["HONEST", "ZERO", "STOP", "LIE", "HALF", "PART", "FITFUL"];
const COUNT_PARTS: [&str; behave::N as usize] =
    ["set_count", "count_zero", "count_stop", "count_lie", "count_half", "count_part", "count_fitful"];
const SCAN_PARTS: [&str; behave::N as usize] =
    ["set_scan", "scan_zero", "scan_stop", "scan_lie", "scan_half", "scan_part", "scan_fitful"];
const DELAYS: [(&str, &str); delay::N as usize] = [
    ("NO_DELAY", "set_behaviour"),
    ("DELAY_SLEEP", "delay_sleep"),
    ("DELAY_SPIN", "delay_spin"),
    ("DELAY_YIELD", "delay_yield"),
    ("DELAY_ALLOC", "delay_alloc"),
    ("DELAY_LOCK", "delay_lock"),
    ("DELAY_TRYLOCK", "delay_trylock"),
    ("DELAY_OTHER", "delay_other"),
];

/// The form of an op on shrinkers.
pub(super) fn form(op: &Op, context: Context<'_>) -> Option<Result<Form, Reason>> {
    let slot = format!("&slots[{}]", op.slot);
    let n = op.a;
    let slotted = |form: Form| {
        if context.has_slot(op.slot) { Ok(form) } else { Err("that slot never gets a shrinker") }
    };
    Some(match op.kind {
        kind::ALLOC => Ok(alloc(op, &slot)),
        kind::SET_SEEKS => slotted(Form::call(format!("do_set_seeks({slot}, {n});")).with(&["set_seeks"])),
        kind::SET_BATCH => slotted(Form::call(format!("do_set_batch({slot}, {n});")).with(&["set_batch"])),
        kind::REGISTER => slotted(Form::call(format!("do_register({slot});")).with(&["register"])),
        kind::RENAME => {
            let name = name(op.slot, op.a);
            slotted(Form::call(format!("do_rename({slot}, {name});")).with(&["rename"]))
        }
        kind::FREE => slotted(Form::call(format!("do_free({slot});"))),
        kind::ADD_OBJECTS => slotted(
            Form::call(format!("do_add_objects({slot}, {}, {n});", op.nid))
                .with(&["add_objects", "objects_of"]),
        ),
        kind::DEL_OBJECTS => {
            slotted(Form::call(format!("do_del_objects({slot}, {}, {n});", op.nid)).with(&[
                "del_objects",
                "objects_of",
                "take_objects",
            ]))
        }
        kind::SET_COUNT | kind::SET_SCAN if !is_registered(op.slot, context) => {
            Err("that slot's shrinker is never registered")
        }
        kind::SET_COUNT => slotted(behaviour(op, context, "count", "count_delay", &COUNT_PARTS)),
        kind::SET_SCAN => slotted(behaviour(op, context, "scan", "scan_delay", &SCAN_PARTS)),
        kind::PAD_IDS => Ok(Form::call(format!("do_pads(64, {n}, {});", op.b != 0)).with(&["pads"])),
        kind::PAD => Ok(Form::call(format!("do_pads({n}, -1, {});", op.b != 0)).with(&["pads"])),
        kind::UNPAD if !context.has(|op| matches!(op.kind, kind::PAD_IDS | kind::PAD)) => {
            Err("there is no pad and no pad_ids")
        }
        kind::UNPAD => {
            let (first, step) = [("0", 1), ("PADS_MAX - 1", -1), ("0", 2)][op.b as usize % 3];
            Ok(Form::call(format!("free_pads({n}, {first}, {step});")).with(&["pads"]))
        }
        kind::OBJECT_NEW => {
            let flags = flags(op.b);
            Ok(Form::call(format!("do_object_new({n}, {flags}, {});", op.c)).with(&["objects"]))
        }
        kind::OBJECT_FREE if !context.has(|new| new.kind == kind::OBJECT_NEW && new.a == op.a) => {
            Err("that object is never made")
        }
        kind::OBJECT_FREE => Ok(Form::call(format!("do_object_free({n});")).with(&["object_free"])),
        kind::MODULE_LOAD | kind::MODULE_UNLOAD => Err("it takes a second module, whose text goes away"),
        _ => return None,
    })
}

fn is_registered(slot: u8, context: Context<'_>) -> bool {
    context.has_slot(slot) && context.has(|op| op.kind == kind::REGISTER && op.slot == slot)
}

fn alloc(op: &Op, slot: &str) -> Form {
    let is_tied = op.a & (alloc_flag::MEMCG | alloc_flag::PLAIN_LRU) == alloc_flag::MEMCG;
    let scans = op.a & alloc_flag::COUNT_ONLY == 0;
    let (flags, name) = (flags(op.a), name(op.slot, op.b));
    let call = format!("do_alloc({slot}, {flags}, {is_tied}, {scans}, {name});");
    let form = Form::call(call).with(&["slots"]);
    let form = if is_tied { form.with(&["lru"]) } else { form };
    if scans { form } else { form.with(&["count_only"]) }
}

fn behaviour(
    op: &Op,
    context: Context<'_>,
    callback: &'static str,
    delay_part: &'static str,
    parts: &[&'static str],
) -> Form {
    let (mut kind, mut part) = DELAYS[op.b as usize % DELAYS.len()];
    // The next slot has to have a list.
    if op.b == delay::OTHER && !context.has_slot((op.slot + 1) % abi::layout::N_SLOTS as u8) {
        (kind, part) = DELAYS[0];
    }
    let (returns, part_of) =
        (BEHAVIOURS[op.a as usize % BEHAVIOURS.len()], parts[op.a as usize % parts.len()]);
    let call = format!("do_set_{callback}(&slots[{}], {returns}, {kind}, {});", op.slot, op.c);
    let form = Form::call(call).with(&["set_behaviour", parts[0], part_of, part]);
    match part {
        "set_behaviour" => form,
        "delay_other" => form.with(&["delay", delay_part, "add_one", "items", "lru"]),
        _ => form.with(&["delay", delay_part]),
    }
}

fn flags(bits: u32) -> String {
    let names = [
        (alloc_flag::NUMA, "SHRINKER_NUMA_AWARE"),
        (alloc_flag::MEMCG, "SHRINKER_MEMCG_AWARE"),
        (alloc_flag::NONSLAB, "SHRINKER_NONSLAB"),
    ];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "0".to_owned() } else { set.join(" | ") }
}

/// The name of a slot's shrinker, as a C string.
fn name(slot: u8, seed: u32) -> String {
    let (tail, n) = TAILS[seed as usize % TAILS.len()];
    let mut name = format!("st{slot}-{}", tail.repeat(n)).into_bytes();
    name.truncate(NAME_MAX);
    let mut out = String::from('"');
    for byte in name {
        match byte {
            b'"' | b'\\' => out.extend(['\\', byte.into()]),
            b' '..=b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("\\{byte:03o}")),
        }
    }
    out.push('"');
    out
}
