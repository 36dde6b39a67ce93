// SPDX-License-Identifier: MIT OR Apache-2.0
//! A figure: measured values, the bound they are held against, what is aimed at. And the table of them.

use std::fmt;

use serde::Serialize;

/// Several measurements of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// What a figure's ratio to its bound should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// For times.
    AtMost(f64),
    /// For rates and shares.
    AtLeast(f64),
}

/// The best a figure could be.
#[derive(Clone, Debug, Serialize)]
pub struct Bound {
    /// What was measured.
    pub what: &'static str,
    /// In the unit of the figure.
    pub value: Spread,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// `det` or `par`; `-`: none.
    pub engine: &'static str,
    /// Guests side by side.
    pub guests: usize,
    /// Unit of value and bound.
    pub unit: &'static str,
    /// The measurements.
    pub value: Spread,
    /// What they are held against.
    pub bound: Option<Bound>,
    /// Median over the bound's median.
    pub ratio: Option<f64>,
    /// What the ratio should be.
    pub aim: Option<Aim>,
    /// Is it?
    pub met: Option<bool>,
}

impl Spread {
    /// Of measurements, at least one.
    pub fn of(mut values: Vec<f64>) -> Spread {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let median = (values[(n - 1) / 2] + values[n / 2]) / 2.0;
        Spread { median, min: values[0], max: values[n - 1] }
    }

    /// Of one value that is exact.
    pub fn exact(value: f64) -> Spread {
        Spread::of(vec![value])
    }

    /// Every value times a factor.
    pub fn times(self, factor: f64) -> Spread {
        Spread { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }
}

impl Figure {
    /// A figure with nothing to hold it against.
    pub fn new(
        name: &'static str,
        engine: &'static str,
        guests: usize,
        unit: &'static str,
        value: Spread,
    ) -> Figure {
        Figure { name, engine, guests, unit, value, bound: None, ratio: None, aim: None, met: None }
    }

    /// The same with a bound.
    pub fn against(self, what: &'static str, value: Spread) -> Figure {
        let ratio = (value.median > 0.0).then(|| self.value.median / value.median);
        Figure { bound: Some(Bound { what, value }), ratio, ..self }
    }

    /// The same with an aim for the ratio to the bound.
    pub fn aiming(self, aim: Aim) -> Figure {
        let met = self.ratio.map(|ratio| match aim {
            Aim::AtMost(limit) => ratio <= limit,
            Aim::AtLeast(limit) => ratio >= limit,
        });
        Figure { aim: Some(aim), met, ..self }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median >= 100.0 { 0 } else { 2 };
        write!(f, "{:.digits$}", self.median)?;
        if self.max > self.min {
            write!(f, " ({:.digits$}-{:.digits$})", self.min, self.max)?;
        }
        Ok(())
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Aim::AtMost(limit) => write!(f, "<= {limit}"),
            Aim::AtLeast(limit) => write!(f, ">= {limit}"),
        }
    }
}

/// The figures as aligned columns.
pub fn table(figures: &[Figure]) -> String {
    let head =
        ["figure", "engine", "guests", "median (min-max)", "unit", "bound", "ratio", "aim", "", "bound is"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(figures.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String; 10]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(figure: &Figure) -> [String; 10] {
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    [
        figure.name.to_owned(),
        figure.engine.to_owned(),
        figure.guests.to_string(),
        figure.value.to_string(),
        figure.unit.to_owned(),
        text(figure.bound.as_ref().map(|bound| bound.value.to_string())),
        text(figure.ratio.map(|ratio| format!("{ratio:.2}"))),
        text(figure.aim.map(|aim| aim.to_string())),
        figure.met.map_or("", |met| if met { "met" } else { "missed" }).to_owned(),
        figure.bound.as_ref().map_or("", |bound| bound.what).to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 10.0]);
        assert_eq!(spread, Spread { median: 3.5, min: 1.0, max: 10.0 });
    }

    #[test]
    fn an_aim_is_met_or_missed_on_the_right_side() {
        let time = Figure::new("t", "det", 1, "s", Spread::exact(1.3)).against("b", Spread::exact(1.0));
        assert_eq!(time.clone().aiming(Aim::AtMost(1.3)).met, Some(true));
        assert_eq!(time.clone().aiming(Aim::AtMost(1.2)).met, Some(false));
        assert_eq!(time.clone().aiming(Aim::AtLeast(1.4)).met, Some(false));
        assert_eq!(time.aiming(Aim::AtLeast(1.2)).met, Some(true));
    }

    #[test]
    fn the_table_is_aligned() {
        let boot = Figure::new("boot to first op", "det", 1, "s", Spread::of(vec![6.5, 6.0, 6.1]))
            .against("bare boot", Spread::exact(5.0))
            .aiming(Aim::AtMost(1.3));
        let rate = Figure::new("programs", "par", 2, "/s", Spread::exact(120.4));
        expect![[r#"
            figure            engine  guests  median (min-max)  unit  bound  ratio  aim          bound is
            boot to first op  det     1       6.10 (6.00-6.50)  s     5.00   1.22   <= 1.3  met  bare boot
            programs          par     2       120               /s    -      -      -
        "#]]
        .assert_eq(&table(&[boot, rate]));
    }
}
