// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gate` through the command line, on real kernels: a planted bug is refused by its title, a function without a prototype by
//! its name, what does not apply by its file; a comment, a name and a refactoring pass.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{campaign::text_of, checks::Checks, xtask};
use crate::{exit::Exit, matrix::kconfigs};

/// Names of the checks.
pub const NAMES: &[&str] = &[
    "gate: a planted bug is refused by its title",
    "gate: a function without a prototype is refused by name",
    "gate: a comment passes, and nothing is run for it",
    "gate: a patch that does not apply is refused with file and line",
    "gate: a unit test of the kernel that fails anew is refused by name",
    "gate: a patch that only links with the next is refused",
    "gate: another name for a variable passes, and nothing is run for it",
    "gate: a refactoring passes",
];

const COMMENT: &str = "--- a/mm/shrinker.c
+++ b/mm/shrinker.c
@@ -1,3 +1,4 @@
 // SPDX-License-Identifier: GPL-2.0
+/* Shrinkers: who gives memory back. */
 #include <linux/memcontrol.h>
 #include <linux/rwsem.h>
";

const NAME: &str = "--- a/mm/shrinker.c
+++ b/mm/shrinker.c
@@ -13,9 +13,9 @@
 #ifdef CONFIG_MEMCG
 static int shrinker_nr_max;
 
-static inline int shrinker_unit_size(int nr_items)
+static inline int shrinker_unit_size(int n)
 {
-\treturn (DIV_ROUND_UP(nr_items, SHRINKER_UNIT_BITS) * sizeof(struct shrinker_info_unit *));
+\treturn (DIV_ROUND_UP(n, SHRINKER_UNIT_BITS) * sizeof(struct shrinker_info_unit *));
 }
 
 static inline void shrinker_unit_free(struct shrinker_info *info, int start)
";

/// A condition moves into its loop's head.
const REFACTORING: &str = "--- a/mm/shrinker.c
+++ b/mm/shrinker.c
@@ -29,10 +29,7 @@
 \tunit = info->unit;
 \tnr = DIV_ROUND_UP(info->map_nr_max, SHRINKER_UNIT_BITS);
 
-\tfor (i = start; i < nr; i++) {
-\t\tif (!unit[i])
-\t\t\tbreak;
-
+\tfor (i = start; i < nr && unit[i]; i++) {
 \t\tkfree(unit[i]);
 \t\tunit[i] = NULL;
 \t}
";

/// Breaks a test of KUnit, and nothing else.
const UNIT_TEST: &str = "--- a/lib/list-test.c
+++ b/lib/list-test.c
@@ -53,7 +53,7 @@ static void list_test_list_add(struct kunit *test)
 \tlist_add(&b, &list);
 
 \t/* should be [list] -> b -> a */
-\tKUNIT_EXPECT_PTR_EQ(test, list.next, &b);
+\tKUNIT_EXPECT_PTR_EQ(test, list.next, &a);
 \tKUNIT_EXPECT_PTR_EQ(test, b.prev, &list);
 \tKUNIT_EXPECT_PTR_EQ(test, b.next, &a);
 }
";

/// The first calls what the second brings.
const LINKS_LATER: &str = "From 1111111111111111111111111111111111111111 Mon Sep 17 00:00:00 2001
From: A <a@example.org>
Date: Fri, 2 Jan 2026 00:00:00 +0000
Subject: [PATCH 1/2] mm: call it

---
 mm/shrinker.c | 2 ++
--- a/mm/shrinker.c
+++ b/mm/shrinker.c
@@ -7,5 +7,7 @@
 
 #include \"internal.h\"
 
+extern struct list_head shrinker_later;
+struct list_head *shrinker_later_now(void) { return &shrinker_later; }
 LIST_HEAD(shrinker_list);
 DEFINE_MUTEX(shrinker_mutex);
-- 
2.47.3

From 2222222222222222222222222222222222222222 Mon Sep 17 00:00:00 2001
From: A <a@example.org>
Date: Fri, 2 Jan 2026 00:00:00 +0000
Subject: [PATCH 2/2] mm: bring it

---
 mm/shrinker.c | 1 +
--- a/mm/shrinker.c
+++ b/mm/shrinker.c
@@ -8,6 +8,7 @@
 #include \"internal.h\"
 
 extern struct list_head shrinker_later;
+LIST_HEAD(shrinker_later);
 struct list_head *shrinker_later_now(void) { return &shrinker_later; }
 LIST_HEAD(shrinker_list);
 DEFINE_MUTEX(shrinker_mutex);
-- 
2.47.3

";

/// Runs them.
pub fn run(checks: &mut Checks) {
    checks.check(NAMES[0], planted);
    checks.check(NAMES[1], prototype);
    checks.check(NAMES[2], comment);
    checks.check(NAMES[3], does_not_apply);
    checks.check(NAMES[4], unit_test);
    checks.check(NAMES[5], links_later);
    checks.check(NAMES[6], name);
    checks.check(NAMES[7], refactoring);
}

/// Gates a diff; the outcome must come with that exit code.
fn gate(diff: &str, steps: &str, exit: Exit) -> Result<Value> {
    let dir = tempfile::tempdir()?;
    let patch = dir.path().join("series.patch");
    fs::write(&patch, diff)?;
    let output = Command::new(xtask()?)
        .args(["gate", "--json", "--only", steps, "--patch"])
        .arg(&patch)
        .arg("--dir")
        .arg(dir.path().join("findings"))
        .output()
        .context("start xtask")?;
    let text = text_of(&output);
    ensure!(output.status.code() == Some(exit as i32), "{:?}:\n{text}", output.status);
    let line = text.lines().find(|line| line.starts_with('{')).with_context(|| text.clone())?;
    Ok(serde_json::from_str(line)?)
}

fn mutant(name: &str) -> Result<String> {
    let path = kconfigs().join(format!("mutants/6.12/{name}.patch"));
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn planted() -> Result<()> {
    let outcome = gate(&mutant("28-debugfs-count-node0-only")?, "scenarios", Exit::Finding)?;
    ensure!(outcome["verdict"] == "FAIL", "{outcome}");
    let why = outcome["why"].as_str().unwrap_or_default();
    ensure!(why.contains("debugfs count did not ask for each node"), "{why}");
    Ok(())
}

fn prototype() -> Result<()> {
    let outcome = gate(&mutant("75-missing-prototypes-build")?, "hygiene", Exit::Finding)?;
    let why = outcome["why"].as_str().unwrap_or_default();
    ensure!(why.contains("no previous prototype") && why.contains("mm/"), "{why}");
    Ok(())
}

fn comment() -> Result<()> {
    let outcome = gate(COMMENT, "hygiene,scenarios", Exit::Pass)?;
    ensure!(outcome["verdict"] == "PASS" && outcome["patched"]["release"].is_string(), "{outcome}");
    let steps: Vec<&str> =
        outcome["steps"].as_array().into_iter().flatten().filter_map(|step| step["name"].as_str()).collect();
    ensure!(steps == ["hygiene", "build", "scenarios"], "{steps:?}");
    ensure!(scenarios_of(&outcome).contains("comments and blanks alone"), "{outcome}");
    Ok(())
}

fn name() -> Result<()> {
    let outcome = gate(NAME, "scenarios", Exit::Pass)?;
    ensure!(scenarios_of(&outcome).contains("byte for byte"), "{outcome}");
    Ok(())
}

fn refactoring() -> Result<()> {
    let outcome = gate(REFACTORING, "scenarios", Exit::Pass)?;
    let said = scenarios_of(&outcome);
    ensure!(said.contains(" programs") && !said.contains("byte for byte"), "{outcome}");
    Ok(())
}

/// What the checks of the scenarios say.
fn scenarios_of(outcome: &Value) -> String {
    let steps = outcome["steps"].as_array().into_iter().flatten();
    let checks =
        steps.filter(|step| step["name"] == "scenarios").filter_map(|step| step["checks"].as_array());
    checks.flatten().filter_map(|check| check["text"].as_str()).collect::<Vec<_>>().join("\n")
}

fn does_not_apply() -> Result<()> {
    let outcome = gate(&COMMENT.replace("memcontrol.h", "no-such.h"), "hygiene", Exit::Finding)?;
    let why = outcome["why"].as_str().unwrap_or_default();
    ensure!(why.contains("does not apply") && why.contains("mm/shrinker.c:1"), "{outcome}");
    Ok(())
}

fn unit_test() -> Result<()> {
    let outcome = gate(UNIT_TEST, "selftests", Exit::Finding)?;
    let why = outcome["why"].as_str().unwrap_or_default();
    ensure!(why.contains("kunit list-kunit-test.list_test_list_add: not ok"), "{outcome}");
    // Programs ran, too.
    let checks = outcome["steps"].as_array().and_then(|steps| steps.last()).map(|step| &step["checks"]);
    let names: Vec<&str> = checks
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|check| check["status"] == "fail")
        .filter_map(|check| check["name"].as_str())
        .collect();
    ensure!(names == ["kunit list-kunit-test.list_test_list_add"], "{outcome}");
    let said = checks.map(Value::to_string).unwrap_or_default();
    ensure!(said.contains("tests ok") && said.contains("kselftest cgroup/test_kmem"), "{outcome}");
    Ok(())
}

fn links_later() -> Result<()> {
    let outcome = gate(LINKS_LATER, "build", Exit::Finding)?;
    let checks = outcome["steps"][0]["checks"].as_array().cloned().unwrap_or_default();
    let status: Vec<&str> = checks.iter().filter_map(|check| check["status"].as_str()).collect();
    ensure!(status == ["fail", "pass"] && checks[0]["patch"] == 0, "{outcome}");
    let text = checks[0]["text"].as_str().unwrap_or_default();
    ensure!(text.contains("undefined") && text.contains("shrinker_later"), "{text}");
    Ok(())
}
