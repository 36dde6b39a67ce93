// SPDX-License-Identifier: MIT OR Apache-2.0
//! One page with plots: each boot's figure, the latencies, the figures in the order they were taken, cost against number.
//! Self-contained: SVG within, no scripts.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use harness::plain;
use plotters::{backend::SVGBackend, prelude::IntoLogRange};
use plotters::{
    chart::ChartBuilder,
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea},
    element::{Circle, Rectangle},
    series::LineSeries,
    style::{BLACK, Color, RGBColor, WHITE},
};

use super::{Line, Measured, Report, stats, text};

/// Colours of the two kernels: told apart without seeing red and green.
const COLOURS: [RGBColor; 2] = [RGBColor(0x1f, 0x77, 0xb4), RGBColor(0xd9, 0x5f, 0x02)];
/// Size of a plot, px.
const SIZE: (u32, u32) = (640, 280);
/// Bars of a histogram.
const BARS: usize = 40;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The page: a section for each workload.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(reports: &[Report]) -> Result<String> {
    let title =
        |report: &Report| plain::html(&format!("{}: {}", report.workload, text::word(report.verdict)));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\n<style>body {{ font: 15px \
         sans-serif; margin: 2em; max-width: 90em }} pre {{ overflow-x: auto }} .plots {{ display: flex; flex-wrap: \
         wrap; gap: 1em }} figure {{ margin: 0 }} .a {{ color: #1f77b4 }} .b {{ color: #d95f02 }}</style></head>\n<body>\n",
        reports.iter().map(title).collect::<Vec<_>>().join(", ")
    );
    for report in reports {
        let _ = writeln!(
            out,
            "<h1>{}</h1>\n<p><b class=\"a\">a: {}</b> · <b class=\"b\">b: {}</b></p>\n<pre>{}</pre>",
            title(report),
            plain::html(&report.kernels[0].0),
            plain::html(&report.kernels[1].0),
            plain::html(&text::table(report)),
        );
        for measured in &report.measured {
            let _ = writeln!(out, "<div class=\"plots\">");
            for (caption, svg) in plots(measured)? {
                let _ = writeln!(
                    out,
                    "<figure><figcaption>{}</figcaption>\n{svg}</figure>",
                    plain::html(&caption)
                );
            }
            let _ = writeln!(out, "</div>");
        }
    }
    out.push_str("</body></html>\n");
    Ok(out)
}

fn plots(measured: &Measured) -> Result<Vec<(String, String)>> {
    let mut plots = Vec::new();
    for line in measured.lines.iter().filter(|line| line.point.is_empty() || !line.point.starts_with("n=")) {
        let caption = format!("{} {} ({}), boot by boot", line.figure, line.point, line.unit);
        plots.push((caption, series(line)?));
    }
    let mut figures: Vec<&str> = measured.lines.iter().map(|line| line.figure.as_str()).collect();
    figures.dedup();
    figures.sort_unstable();
    figures.dedup();
    for figure in figures {
        let points: Vec<&Line> =
            measured.lines.iter().filter(|line| line.figure == figure && line.at > 0).collect();
        if points.len() > 1 {
            plots.push((format!("{figure} ({}) against number", points[0].unit), curve(&points)?));
        }
    }
    if measured.latencies.iter().any(|latencies| !latencies.is_empty()) {
        let caption = "how long each took, us (ops by bar; a, b)".to_owned();
        plots.push((caption, histogram(&measured.latencies)?));
    }
    Ok(plots)
}

/// Draws into a string.
fn draw(paint: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        paint(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

/// The values of both kernels in the order they were taken.
fn series(line: &Line) -> Result<String> {
    let n = line.a.len().max(line.b.len()).max(1);
    let top = line.a.iter().chain(&line.b).copied().fold(0.0, f64::max) * 1.1 + f64::MIN_POSITIVE;
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(24)
            .y_label_area_size(70)
            .build_cartesian_2d(0.5..n as f64 + 0.5, 0.0..top)
            .map_err(failed)?;
        chart.configure_mesh().disable_x_mesh().x_labels(n.min(12)).draw().map_err(failed)?;
        for (values, colour) in [&line.a, &line.b].into_iter().zip(COLOURS) {
            let dots = values.iter().enumerate().map(|(at, value)| (at as f64 + 1.0, *value));
            let circles = dots.clone().map(|dot| Circle::new(dot, 4, colour.filled()));
            chart.draw_series(circles).map_err(failed)?;
            let middle = stats::median(values);
            let line = [(0.5, middle), (n as f64 + 0.5, middle)];
            chart.draw_series(LineSeries::new(line, colour.mix(0.5))).map_err(failed)?;
        }
        Ok(())
    })
}

/// Medians against the number that the points stand for, both axes by decades.
fn curve(points: &[&Line]) -> Result<String> {
    let middle = |line: &Line| [stats::median(&line.a), stats::median(&line.b)];
    let all: Vec<f64> = points.iter().flat_map(|line| middle(line)).filter(|value| *value > 0.0).collect();
    let (low, high) = all.iter().fold((f64::MAX, 0.0_f64), |(low, high), v| (low.min(*v), high.max(*v)));
    let last = points.iter().map(|line| line.at).max().unwrap_or(1);
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(24)
            .y_label_area_size(70)
            .build_cartesian_2d(
                (0.9..f64::from(last) * 1.1).log_scale(),
                (low.min(high) * 0.8..high * 1.25 + f64::MIN_POSITIVE).log_scale(),
            )
            .map_err(failed)?;
        chart.configure_mesh().light_line_style(BLACK.mix(0.05)).draw().map_err(failed)?;
        for (side, colour) in COLOURS.into_iter().enumerate() {
            let dots: Vec<(f64, f64)> =
                points.iter().map(|line| (f64::from(line.at), middle(line)[side])).collect();
            chart.draw_series(LineSeries::new(dots.iter().copied(), colour)).map_err(failed)?;
            let circles = dots.iter().map(|dot| Circle::new(*dot, 3, colour.filled()));
            chart.draw_series(circles).map_err(failed)?;
        }
        Ok(())
    })
}

/// How often what latency, both kernels; what is beyond the 99.5th percentile counts in the last bar.
fn histogram(latencies: &[Vec<f64>; 2]) -> Result<String> {
    let all: Vec<f64> = latencies.concat();
    let end = stats::quantile(&all, 0.995).max(1e-3);
    let counts = latencies.each_ref().map(|values| {
        let mut counts = [0_u32; BARS];
        for value in values {
            counts[((value / end * BARS as f64) as usize).min(BARS - 1)] += 1;
        }
        counts
    });
    let top = counts.iter().flatten().max().copied().unwrap_or(0).max(1);
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(24)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..end, 0.0..f64::from(top) * 1.05)
            .map_err(failed)?;
        chart.configure_mesh().disable_x_mesh().draw().map_err(failed)?;
        let width = end / BARS as f64;
        for (counts, colour) in counts.iter().zip(COLOURS) {
            let bars = counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(at, n)| {
                let left = at as f64 * width;
                Rectangle::new([(left, 0.0), (left + width, f64::from(*n))], colour.mix(0.5).filled())
            });
            chart.draw_series(bars).map_err(failed)?;
        }
        Ok(())
    })
}
