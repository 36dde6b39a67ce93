// SPDX-License-Identifier: MIT OR Apache-2.0
//! Results as text: in the columns that readers of LKP's reports know, and as a mail.

use std::{fmt::Write as _, fs};

use harness::plain;

use super::{
    Measured, Report,
    measure::How,
    stats,
    verdict::{Judged, Verdict},
};
use crate::proc;

/// Width of a column of figures.
const WIDTH: usize = 18;
/// Columns of a mail.
const COLUMNS: usize = 72;

/// What a person wants to see.
pub fn table(report: &Report) -> String {
    let mut out = format!("{}: {}\n", report.workload, plain::line(&report.what, 200));
    out.push_str(&kernels(report));
    for measured in &report.measured {
        out.push('\n');
        out.push_str(&columns(report, measured));
        out.push_str(&reasons(measured));
    }
    let _ = writeln!(out, "\n{}: {}", report.workload, word(report.verdict));
    out
}

fn kernels(report: &Report) -> String {
    let mut out = String::new();
    for (letter, (name, release)) in ["a", "b"].iter().zip(&report.kernels) {
        let _ = writeln!(out, "  {letter}: {} ({})", plain::line(name, 200), plain::line(release, 80));
    }
    let host = &report.host;
    let stress_ng = host.stress_ng.as_ref().map_or(String::new(), |version| format!(", {version}"));
    let _ = writeln!(out, "  on: {}, {}{stress_ng}", host.processor, host.qemu);
    if host.load.busy {
        let others = 100.0 * host.load.others;
        let _ = writeln!(out, "  the host was busy: others took {others:.0} % of it before this began");
    }
    for one in &report.config_differences {
        let shown = |value: &str| if value.is_empty() { "not set".to_owned() } else { value.to_owned() };
        let _ = writeln!(out, "  config: {}: {} -> {}", one.option, shown(&one.a), shown(&one.b));
    }
    out
}

/// The columns of an LKP report.
fn columns(report: &Report, measured: &Measured) -> String {
    let how = match measured.how {
        How::Det => "virtual time: instructions and waiting, not caches and contention in hardware",
        How::Wall => "wall clock",
    };
    let [n_a, n_b] = measured.runs;
    let mut out = format!("{how}; {n_a} and {n_b} boots, {:.0} s\n\n", measured.seconds);
    let _ = writeln!(out, "{:>WIDTH$} {:>28}", shorten(&report.kernels[0].0), shorten(&report.kernels[1].0));
    let _ = writeln!(out, "{} {}", "-".repeat(WIDTH), "-".repeat(28));
    let _ = writeln!(out, "{:>WIDTH$}  {:>8}  {:>WIDTH$}", "%stddev", "%change", "%stddev");
    let _ = writeln!(out, "{:>WIDTH$}  {:>8}  {:>WIDTH$}", "\\", "|", "\\");
    for line in &measured.lines {
        let change = 100.0 * (line.judged.ratio - 1.0);
        let change = if change.is_finite() { format!("{change:+.1}%") } else { "-".to_owned() };
        let name = if line.point.is_empty() {
            format!("{}.{}", report.workload, line.figure)
        } else {
            format!("{}.{} {}", report.workload, line.figure, line.point)
        };
        let _ =
            writeln!(out, "{}  {change:>8}  {}  {name} ({})", column(&line.a), column(&line.b), line.unit);
    }
    out
}

/// `      5344 ±  9%  `; no spread, as LKP has it, where it is below 1 %.
fn column(values: &[f64]) -> String {
    if values.is_empty() {
        return format!("{:>WIDTH$}", "-");
    }
    let middle = stats::median(values);
    let digits = if middle.abs() < 100.0 { 2 } else { 0 };
    let spread = match stats::stddev_percent(values) {
        Some(percent) if percent >= 1.0 => format!(" ±{percent:>3.0}%"),
        _ => " ".repeat(6),
    };
    format!("{middle:>12.digits$}{spread}")
}

fn reasons(measured: &Measured) -> String {
    let mut out = String::new();
    let told: Vec<String> = measured.lines.iter().map(|line| reason(&line.judged)).collect();
    match told.as_slice() {
        [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|other| other == first) => {
            let _ = writeln!(out, "  all {} figures: {first}", told.len());
        }
        _ => {
            for (line, reason) in measured.lines.iter().zip(told) {
                let name = [line.figure.as_str(), line.point.as_str()].join(" ");
                let _ = writeln!(out, "  {}: {reason}", name.trim());
            }
        }
    }
    for failure in &measured.failures {
        let _ = writeln!(out, "  no figures: {}", plain::line(failure, 300));
    }
    for blamed in &measured.stacks {
        let (count, before) = (blamed.stack.count, blamed.before);
        let _ = writeln!(
            out,
            "  blocked {count} times, {before} before: {}",
            plain::line(&blamed.stack.task, 20)
        );
        for frame in &blamed.stack.frames {
            let _ = writeln!(out, "    {}", plain::line(frame, 80));
        }
    }
    out
}

fn reason(judged: &Judged) -> String {
    let p = judged.p.map_or(String::new(), |p| format!(", p = {p:.4}"));
    let visible = judged
        .visible
        .filter(|_| judged.verdict == Verdict::Same || judged.verdict == Verdict::Unsure)
        .map_or(String::new(), |share| format!("; such runs show a change of {:.1} %", 100.0 * share));
    let (word, interval) = (word(judged.verdict), judged.interval);
    format!("{word} [{:.4}, {:.4}]{p}: {}{visible}", interval.low, interval.high, judged.why)
}

/// One table of everything, for the docs.
pub fn markdown(reports: &[Report]) -> String {
    let mut out = String::new();
    if let Some(report) = reports.first() {
        let [(a, a_release), (b, b_release)] = &report.kernels;
        let _ = writeln!(
            out,
            "a: {a} ({a_release}), b: {b} ({b_release}); {}, {}. `det`: virtual time, which is instructions and waiting. Made \
             by `cargo xtask regress {} --a {a} --b {b} --markdown FILE`.\n",
            report.host.processor,
            report.host.qemu,
            if reports.len() > 1 { "all" } else { &report.workload },
        );
    }
    out.push_str("| figure | how | a | b | ratio, 95 % | |\n|---|---|---:|---:|---|---|\n");
    for report in reports {
        for measured in &report.measured {
            let how = if measured.how == How::Det { "det" } else { "wall" };
            for line in &measured.lines {
                let judged = &line.judged;
                let (name, point, unit) = (&line.figure, &line.point, &line.unit);
                let _ = writeln!(
                    out,
                    "| {}.{name} {point} ({unit}) | {how} | {} | {} | {:.3} [{:.3}, {:.3}] | {} |",
                    report.workload,
                    column(&line.a).trim(),
                    column(&line.b).trim(),
                    judged.ratio,
                    judged.interval.low,
                    judged.interval.high,
                    word(judged.verdict)
                );
            }
        }
    }
    out
}

/// A mail in the form that LKP's have.
pub fn mail(report: &Report) -> String {
    let [(a, a_release), (b, b_release)] = &report.kernels;
    let first = report.measured.first().and_then(|measured| measured.lines.first());
    let change = first.map_or(0.0, |line| 100.0 * (line.judged.ratio - 1.0));
    let figure = first.map_or("", |line| line.figure.as_str());
    let what = match report.verdict {
        Verdict::Regression => "regression",
        Verdict::Improvement => "improvement",
        Verdict::Same => "change (none that counts)",
        Verdict::Unsure => "change (not sure)",
    };
    let mut out = format!("Subject: [{}] {change:+.1}% {figure} {what}\n\n", report.workload);
    let text = format!(
        "shrinktorture noticed a {change:+.1}% {what} of {}.{figure} from {} ({}) to {} ({}).",
        report.workload,
        plain::line(a, 80),
        plain::line(a_release, 40),
        plain::line(b, 80),
        plain::line(b_release, 40)
    );
    out.push_str(&plain::wrap(&text, COLUMNS).join("\n"));
    out.push('\n');
    let _ = writeln!(
        out,
        "\ntestcase: {}\ntest machine: {}, {}",
        report.workload, report.host.processor, report.host.qemu
    );
    out.push_str("\nDetails are as below:\n");
    out.push_str(&"-".repeat(COLUMNS));
    out.push('\n');
    for measured in &report.measured {
        out.push('\n');
        out.push_str(&columns(report, measured));
        out.push('\n');
        out.push_str(&reasons(measured));
    }
    out.push_str("\nTo reproduce:\n\n");
    let _ = writeln!(
        out,
        "    cargo xtask regress {} --a {} --b {}",
        report.workload,
        plain::line(a, 200),
        plain::line(b, 200)
    );
    out
}

fn shorten(name: &str) -> String {
    let name = plain::line(name, 200);
    let n = name.chars().count();
    if n <= 28 { name } else { format!("…{}", name.chars().skip(n - 27).collect::<String>()) }
}

/// A verdict as it is printed.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Same => "SAME",
        Verdict::Improvement => "IMPROVEMENT",
        Verdict::Unsure => "UNSURE",
        Verdict::Regression => "REGRESSION",
    }
}

/// The processor's name.
pub fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("a processor without a name".to_owned(), |(_, name)| plain::line(name, 80))
}

/// What stress-ng says of itself.
pub fn stress_ng_version() -> String {
    let version = proc::which("stress-ng").and_then(|path| proc::version(&path));
    version.unwrap_or_else(|| "stress-ng".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_has_the_spread_where_it_counts() {
        assert_eq!(column(&[5000.0, 5000.0, 5000.0]), "        5000      ");
        assert_eq!(column(&[4744.0, 5811.0, 5344.0]), "        5344 ± 10%");
        assert_eq!(column(&[1.5]), "        1.50      ");
        assert_eq!(column(&[]), "                 -");
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(shorten("perf-6.12"), "perf-6.12");
        let long = shorten("perf-6.12+/a/very/long/path/to/some/fix.patch");
        assert!(long.chars().count() == 28 && long.ends_with("to/some/fix.patch"), "{long}");
    }
}
