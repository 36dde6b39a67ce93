// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every op has a form or a reason; what is generated is stable, and nothing in a title or a boot argument is obeyed.

use std::{fs, path::Path};

use abi::ops;

use super::*;

const PROGRAM: &str = "schedule vcpus=2 shift=1
thread cpu=0
  memcg_create memcg=0
  memcg_enter memcg=0
  alloc slot=3 flags=numa|memcg name=3
  set_batch slot=3 batch=64
  register slot=3
  set_count slot=3 returns=part delay=sleep ns=5000
  lru_add slot=3 nid=0 by=memcg n=4
  lru_add slot=3 nid=0 by=obj n=4
  barrier id=1
  preempt ns=2000 hold=100
  free slot=3
thread cpu=1
  debugfs_hold handle=0 slot=3 file=count
  memcg_reclaim memcg=0 kib=64
  fail_nth n=3
  lru_del slot=3 n=2
  held_read handle=0
  register slot=9
  module_load
  barrier id=1
  drop_caches what=slab
";

fn source<'a>(programs: &'a [Program], title: &'a str) -> Source<'a> {
    Source { title, release: "6.12.0", programs, append: "cgroup.memory=nokmem", leak_scan: false }
}

fn expect(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/standalone").join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} is another; UPDATE_EXPECT=1 writes it:\n{found}", path.display());
}

#[test]
fn what_is_generated_is_stable() {
    let programs = [PROGRAM.parse().unwrap()];
    let found = generate(&source(&programs, "KASAN: slab-use-after-free Read in shrink_slab"));
    expect("shrinktorture_repro.c", &found.module);
    expect("repro.sh", &found.script);
    assert_eq!(found.left_out.len(), 2, "{:?}", found.left_out);
}

#[test]
fn every_op_has_a_form_or_a_reason() {
    for spec in ops::OPS {
        let op = abi::layout::Op { kind: spec.kind, ..Default::default() }.fixup();
        let program = Program { threads: vec![Default::default()], ..PROGRAM.parse().unwrap() };
        let context = form::Context { programs: &[program] };
        assert!(form::of(&op, context).is_some(), "{}: say what it is without this tool", spec.name);
    }
}

#[test]
fn nothing_is_left_of_the_templates() {
    let programs: [Program; 1] = [PROGRAM.parse().unwrap()];
    let found = generate(&source(&programs, "a title"));
    for text in [&found.module, &found.script] {
        assert!(!text.contains("//{") && !text.contains("#{"), "{text}");
        assert!(!text.lines().any(|line| line.trim().starts_with('@')), "{text}");
    }
}

#[test]
fn a_title_stays_a_title() {
    let programs: [Program; 1] = [PROGRAM.parse().unwrap()];
    let title = "*/ int x; /* '; rm -rf /; ' $(reboot) `reboot` \n reboot @STEPS@ \u{202e}";
    let mut source = source(&programs, title);
    source.append = "a' ; reboot ; 'b";
    let found = generate(&source);
    assert_eq!(found.module.matches("*/").count(), found.module.matches("/*").count(), "{}", found.module);
    assert!(found.module.contains("@STEPS@") && !found.module.contains("*/ int"));
    for line in found.script.lines().filter(|line| line.contains("reboot")) {
        let is_comment = line.starts_with('#');
        let is_quoted = line.starts_with("title='") || line.starts_with("for argument in 'a");
        assert!(is_comment || is_quoted, "{line}");
    }
    assert!(found.script.contains(r"title='*/ int x; /* '\''; rm -rf /; '\'' $(reboot)"), "{}", found.script);
}
