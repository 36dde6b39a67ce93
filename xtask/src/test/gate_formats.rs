// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `gate` writes, read by the programs that it is written for: the kernel's reader of KTAP, b4, KernelCI's schema,
//! GitHub's Markdown, a reader of JUnit, a browser's idea of HTML. Read is an outcome whose texts do their worst; each
//! reader must see each check with its status, and nothing that the texts pretend.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::checks::Checks;
use crate::{
    gate::{
        b4, example, github, html, junit, kcidb, ktap,
        outcome::{Outcome, Status, Step},
        text,
    },
    matrix,
    paths::Cache,
    prepare::INSTANCE,
    setup, source,
    tools::{self, Need},
};

/// Names of the checks.
pub const NAMES: &[&str] = &[
    "gate: the kernel's own parser reads the KTAP",
    "gate: a JUnit reader reads the XML, and there is nothing in it that Jenkins does not know",
    "gate: KernelCI's schema takes the report",
    "gate: b4 reads and keeps every step",
    "gate: GitHub's Markdown shows text as text",
    "gate: the page is HTML that loads and runs nothing",
    "gate: a browser shows the page as it was meant",
    "gate: the text's last line is the verdict",
];

/// Runs them.
pub fn run(checks: &mut Checks) {
    let outcome = example::outcome();
    checks.check(NAMES[0], || kernels_parser(&outcome));
    checks.check(NAMES[1], || junit_reader(&outcome));
    checks.check(NAMES[2], || kernel_ci(&outcome));
    checks.check(NAMES[3], || b4_review(&outcome));
    checks.check(NAMES[4], || github_markdown(&outcome));
    checks.check(NAMES[5], || page(&outcome));
    checks.check(NAMES[6], || browser(&outcome));
    checks.check(NAMES[7], || last_line(&outcome));
}

/// The Python that has the readers.
fn python() -> Result<PathBuf> {
    let cache = Cache::open()?;
    setup::ensure(&cache, &[Need::Formats])?;
    tools::find_format_readers(&cache).context("the readers are not there")
}

/// Runs a script on a text: what it prints must be JSON.
fn read(script: &str, args: &[&Path], text: &str) -> Result<Value> {
    let mut child = Command::new("timeout")
        .arg("120")
        .arg(python()?)
        // A folder that is no package's must not be searched for modules.
        .args(["-I", "-c", script])
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start python")?;
    child.stdin.take().context("no pipe")?.write_all(text.as_bytes()).context("write to python")?;
    let output = child.wait_with_output().context("wait for python")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}:\n{said}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())
}

/// What a reader should have found, a list a step: what is the case for each check, in the reader's words.
fn expected(outcome: &Outcome, empty: &str, word: impl Fn(Status) -> &'static str) -> Value {
    let of_step = |step: &Step| match &step.checks[..] {
        [] => vec![empty.to_owned()],
        checks => checks.iter().map(|check| word(check.status).to_owned()).collect(),
    };
    json!(outcome.steps.iter().map(of_step).collect::<Vec<_>>())
}

fn same(found: &Value, expected: &Value) -> Result<()> {
    ensure!(found == expected, "found {found:#}\nexpected {expected:#}");
    Ok(())
}

/// `tools/testing/kunit/kunit_parser.py` of the kernel's source; the printer became an argument after 6.12.
const KUNIT: &str = "
import sys, json
out, sys.stdout = sys.stdout, sys.stderr
sys.path.insert(0, sys.argv[1])
import kunit_parser, kunit_printer, inspect
lines = sys.stdin.read().splitlines()
more = len(inspect.signature(kunit_parser.parse_run_tests).parameters) - 1
test = kunit_parser.parse_run_tests(lines, *[kunit_printer.Printer(output=sys.stderr)][:more])
leaf = lambda t: [s.status.name for s in t.subtests] or [t.status.name]
json.dump({'errors': test.counts.errors, 'total': test.counts.total(), 'names': [t.name for t in test.subtests],
           'steps': [leaf(t) for t in test.subtests]}, out)
";

fn kernels_parser(outcome: &Outcome) -> Result<()> {
    let cache = Cache::open()?;
    let source = source::debian(&cache, &matrix::instance(INSTANCE)?.source)?;
    let found = read(KUNIT, &[&source.dir.join("tools/testing/kunit")], &ktap::render(outcome))?;
    let steps = expected(outcome, "SKIPPED", |status| match status {
        Status::Fail | Status::Unsure => "FAILURE",
        Status::Skip => "SKIPPED",
        _ => "SUCCESS",
    });
    let total: usize = outcome.steps.iter().map(|step| step.checks.len().max(1)).sum();
    let names: Vec<&str> = outcome.steps.iter().map(|step| step.name.as_str()).collect();
    same(&found, &json!({ "errors": 0, "total": total, "names": names, "steps": steps }))
}

/// junitparser reads what is there; the table says what Jenkins' schema of JUnit allows there.
const JUNIT: &str = r#"
import sys, json, xml.etree.ElementTree as tree
from junitparser import JUnitXml, Failure, Error, Skipped
data = sys.stdin.buffer.read()
allowed = {
    'testsuites': ({'name', 'time', 'tests', 'failures', 'errors'}, {'testsuite'}),
    'testsuite': ({'name', 'tests', 'failures', 'errors', 'skipped', 'time'}, {'properties', 'testcase'}),
    'properties': (set(), {'property'}),
    'property': ({'name', 'value'}, set()),
    'testcase': ({'name', 'time', 'classname'}, {'failure', 'error', 'skipped', 'system-out'}),
    'failure': ({'type', 'message'}, set()),
    'error': ({'type', 'message'}, set()),
    'skipped': ({'type', 'message'}, set()),
    'system-out': (set(), set()),
}
root = tree.fromstring(data)
assert root.tag == 'testsuites'
for element in root.iter():
    attributes, children = allowed[element.tag]
    assert set(element.attrib) <= attributes, element.attrib
    assert {child.tag for child in element} <= children, element.tag
xml = JUnitXml.fromstring(data)
def counts(suite): return [suite.tests, suite.failures, suite.errors]
told = [counts(suite) for suite in xml], counts(xml)
xml.update_statistics()
assert told == ([counts(suite) for suite in xml], counts(xml)), 'wrong sums'
word = {Failure: 'failure', Error: 'error', Skipped: 'skipped'}
names = [(case.classname, case.name) for suite in xml for case in suite]
assert len(names) == len(set(names)), names
json.dump([[word[type(case.result[0])] if case.result else 'passed' for case in suite] for suite in xml], sys.stdout)
"#;

fn junit_reader(outcome: &Outcome) -> Result<()> {
    let found = read(JUNIT, &[], &junit::render(outcome))?;
    let steps = expected(outcome, "skipped", |status| match status {
        Status::Fail => "failure",
        Status::Unsure => "error",
        Status::Skip => "skipped",
        _ => "passed",
    });
    same(&found, &steps)
}

const KERNEL_CI: &str = "
import sys, json
from kcidb_io.schema import V5_0, LATEST
report = json.load(sys.stdin)
V5_0.validate_exactly(report)
LATEST.validate(report)
LATEST.upgrade(LATEST.validate(report), copy=True)
objects = [o for kind in ('checkouts', 'builds', 'tests') for o in report[kind]]
for kind in ('checkouts', 'builds', 'tests'):
    assert len({o['id'] for o in report[kind]}) == len(report[kind]), 'an id twice'
assert all(o['id'].startswith(o['origin'] + ':') for o in objects)
assert {build['checkout_id'] for build in report['builds']} <= {c['id'] for c in report['checkouts']}
assert {test['build_id'] for test in report['tests']} <= {b['id'] for b in report['builds']}
json.dump([test['status'] for test in report['tests']], sys.stdout)
";

fn kernel_ci(outcome: &Outcome) -> Result<()> {
    let unbuilt = Outcome { patched: None, ..outcome.clone() };
    read(KERNEL_CI, &[], &kcidb::render(&unbuilt))?;
    let found = read(KERNEL_CI, &[], &kcidb::render(outcome))?;
    let steps = expected(outcome, "MISS", |status| match status {
        Status::Fail => "FAIL",
        Status::Unsure => "ERROR",
        Status::Skip => "SKIP",
        Status::Note | Status::Old => "DONE",
        Status::Pass | Status::Fixed => "PASS",
    });
    let mut statuses: Vec<Value> =
        steps.as_array().into_iter().flatten().filter_map(Value::as_array).flatten().cloned().collect();
    statuses.push("FAIL".into());
    same(&found, &json!(statuses))
}

/// The way of `b4 review`: the command's output is read, kept in its cache, and shown from there.
const B4: &str = "
import sys, json, os
os.environ['XDG_DATA_HOME'] = sys.argv[1]
from email.message import EmailMessage
from b4.review import checks
message = EmailMessage()
message['Message-ID'] = '<cover@example.org>'
message.set_content('cover')
results = checks.run_series_checks(('cover@example.org', message), [sys.argv[2]], sys.argv[1])
connection = checks.get_db()
checks.store_results(connection, 'cover@example.org', results)
kept = checks.get_cached_results(connection, ['cover@example.org'])['cover@example.org']
key = lambda result: result['tool']
assert sorted(kept, key=key) == sorted(results, key=key), 'lost in the cache'
json.dump({'read': results, 'shown': {result['tool']: result['status'] for result in kept}}, sys.stdout)
";

fn b4_review(outcome: &Outcome) -> Result<()> {
    let written: Value = serde_json::from_str(&b4::render(outcome))?;
    let dir = TempDir::new()?;
    let printed = dir.path().join("printed.json");
    fs::write(&printed, b4::render(outcome))?;
    let line = format!("cat {}", printed.display());
    let found = read(B4, &[dir.path(), Path::new(&line)], "")?;
    let fields = ["tool", "status", "summary", "details"];
    let of = |entries: &Value| -> Vec<Vec<Value>> {
        let entry = |entry: &Value| fields.map(|field| entry[field].clone()).to_vec();
        entries.as_array().into_iter().flatten().map(entry).collect()
    };
    ensure!(of(&found["read"]) == of(&written), "read {:#}", found["read"]);
    let statuses = outcome.steps.iter().filter(|step| !step.checks.is_empty()).map(|step| {
        let has = |status: Status| step.checks.iter().any(|check| check.status == status);
        let status = match (has(Status::Fail), has(Status::Unsure) || has(Status::Note)) {
            (true, _) => "fail",
            (false, true) => "warn",
            (false, false) => "pass",
        };
        (format!("gate-{}", step.name), status)
    });
    same(&found["shown"], &json!(statuses.collect::<BTreeMap<_, _>>()))
}

/// cmark-gfm is what GitHub renders with; what it leaves of raw HTML is removed later there, and must not be any here.
const MARKDOWN: &str = "
import sys, json, cmarkgfm, html.parser
from cmarkgfm.cmark import Options
found = {}
class Reader(html.parser.HTMLParser):
    def handle_starttag(self, tag, attributes): found[tag] = found.get(tag, 0) + 1
Reader().feed(cmarkgfm.github_flavored_markdown_to_html(sys.stdin.read(), Options.CMARK_OPT_UNSAFE))
json.dump(found, sys.stdout)
";

fn github_markdown(outcome: &Outcome) -> Result<()> {
    let commands = github::commands(outcome);
    ensure!(commands.lines().all(|line| line.starts_with("::")), "{commands}");
    let found = read(MARKDOWN, &[], &github::summary(outcome))?;
    let n_told =
        outcome.steps.iter().flat_map(|step| &step.checks).filter(|c| c.status != Status::Pass).count();
    let known = ["h2", "h3", "p", "pre", "code", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"];
    only(&found, &known)?;
    ensure!(found["code"] == found["pre"], "code within a line in {found}");
    let wanted = [
        ("h2", 1),
        ("h3", n_told),
        ("table", 1),
        ("tr", outcome.steps.len() + 1),
        ("ul", 1),
        ("li", outcome.patches.len() + 2),
    ];
    for (tag, n) in wanted {
        ensure!(found[tag] == n, "not {n} <{tag}> in {found}");
    }
    Ok(())
}

/// No elements but these.
fn only(found: &Value, known: &[&str]) -> Result<()> {
    for tag in found.as_object().context("no elements")?.keys() {
        ensure!(known.contains(&tag.as_str()), "<{tag}> in {found}");
    }
    Ok(())
}

const PAGE: &str = "
import sys, json, html.parser
found, stack = {}, []
class Reader(html.parser.HTMLParser):
    def handle_starttag(self, tag, attributes):
        found[tag] = found.get(tag, 0) + 1
        if tag != 'meta': stack.append(tag)
        for name, value in attributes:
            assert name in ('lang', 'charset', 'http-equiv', 'content', 'name', 'class', 'open'), (tag, name)
    def handle_endtag(self, tag):
        assert stack.pop() == tag, tag
reader = Reader()
reader.feed(sys.stdin.read())
reader.close()
assert stack == [], stack
json.dump(found, sys.stdout)
";

fn page(outcome: &Outcome) -> Result<()> {
    let found = read(PAGE, &[], &html::render(outcome))?;
    let known = [
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr", "th", "td",
        "details", "summary", "pre", "b", "span",
    ];
    only(&found, &known)?;
    ensure!(found["table"] == 2 && found["h1"] == 1, "{found}");
    Ok(())
}

/// What a browser made of the page, as text; asserts that it made no element of what was text.
const SHOWN: &str = "
import sys, json, html.parser
data, tags = [], {}
class Reader(html.parser.HTMLParser):
    def handle_starttag(self, tag, attributes): tags[tag] = tags.get(tag, 0) + 1
    def handle_data(self, text): data.append(text)
reader = Reader()
reader.feed(sys.stdin.read())
reader.close()
assert not {'script', 'img', 'a', 'iframe', 'link', 'object'} & set(tags), tags
json.dump({'text': ' '.join(data), 'tags': tags}, sys.stdout)
";

fn browser(outcome: &Outcome) -> Result<()> {
    setup::ensure(&Cache::open()?, &[Need::Formats])?;
    let dir = tempfile::tempdir()?;
    let page = dir.path().join("page.html");
    fs::write(&page, html::render(outcome))?;
    let output = Command::new("timeout")
        .args([
            "120",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .output()
        .context("start chromium")?;
    let dom = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    let shown = read(SHOWN, &[], &dom)?;
    let text = shown["text"].as_str().unwrap_or_default();
    ensure!(shown["tags"]["h1"] == 1 && text.contains("FAIL"), "{shown}");
    for step in &outcome.steps {
        ensure!(text.contains(&step.name), "{} is not shown", step.name);
    }
    // What a guest printed is there to be read.
    ensure!(
        text.contains("<script>alert('1')</script>") && text.contains("<img src=x onerror=alert(1)>"),
        "{text}"
    );
    Ok(())
}

fn last_line(outcome: &Outcome) -> Result<()> {
    let text = text::render(outcome);
    let last = text.lines().last().context("no text")?;
    ensure!(last == format!("FAIL: {}", outcome.why), "{last}");
    Ok(())
}
