//! nDCG@10 over the budgets, as an SVG. It lies on a card of its own colour, so that it can be read on light pages and on dark ones.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::Result;
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Row;
use super::report::mean;
use crate::values::Budget;

const SIZE_PIXELS: (u32, u32) = (800, 440);
/// Of the chart; the legend is beside it, where no line can cross it.
const CHART_PIXELS: u32 = 630;
const CARD: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(225, 228, 232);
/// Told apart by people who see few colours: Okabe and Ito's, the darker ones first.
const LINES: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const FONT: &str = "sans-serif";
const LABEL_PIXELS: u32 = 14;
const TITLE_PIXELS: u32 = 18;
const MARKER_PIXELS: i32 = 4;
const STROKE_PIXELS: u32 = 2;
/// Of a line in the legend.
const SAMPLE_PIXELS: i32 = 24;
/// Between two names in the legend, and above the first.
const NAME_PIXELS: i32 = 22;
const LEGEND_TOP_PIXELS: i32 = 70;
/// Of nDCG@10: what differs by less than a hundredth is to look like it, and ticks have three places.
const LEAST_SPAN: f64 = 0.02;
/// Of the length of an axis, on either side of what is drawn.
const AXIS_MARGIN: f64 = 0.06;

/// An axis whose scale is logarithmic: doubled budgets are equally far apart. No limit comes one doubling after the longest budget.
#[derive(Debug, Clone, PartialEq)]
struct BudgetAxis {
    budgets_ms: BTreeSet<u32>,
    has_unlimited: bool,
}

/// One variant, from the shortest budget to the longest.
struct Line {
    name: String,
    points: Vec<(Budget, f64)>,
}

/// Draws one line per variant.
pub(super) fn quality_over_budgets(collection: &str, rows: &[Row]) -> Result<String> {
    let axis = BudgetAxis::of(rows.iter().map(|row| row.budget));
    let lines = lines(rows, &axis);
    let mut svg = String::new();
    draw(&mut svg, collection, &axis, &lines)?;
    Ok(svg)
}

fn lines(rows: &[Row], axis: &BudgetAxis) -> Vec<Line> {
    let variants = rows.chunk_by(|left, right| left.variant == right.variant);
    let line = |rows: &[Row]| {
        let point = |row: &Row| (row.budget, mean(&row.measured.ndcg));
        let mut points: Vec<(Budget, f64)> = rows.iter().map(point).collect();
        points.sort_by(|left, right| axis.place(left.0).total_cmp(&axis.place(right.0)));
        Line {
            name: rows[0].variant.clone(),
            points,
        }
    };
    variants.map(line).collect()
}

impl BudgetAxis {
    fn of(budgets: impl Iterator<Item = Budget> + Clone) -> Self {
        Self {
            budgets_ms: budgets.clone().filter_map(Budget::ms).collect(),
            has_unlimited: budgets.clone().any(|budget| budget == Budget::NONE),
        }
    }

    /// In doublings.
    fn place(&self, budget: Budget) -> f64 {
        let longest = self.budgets_ms.last().copied().unwrap_or(1);
        let unlimited = f64::from(longest).log2() + 1.0;
        budget.ms().map_or(unlimited, |ms| f64::from(ms).log2())
    }

    fn budgets(&self) -> Vec<Budget> {
        let limited = self.budgets_ms.iter().copied().map(Budget::of_ms);
        let unlimited = self.has_unlimited.then_some(Budget::NONE);
        limited.chain(unlimited).collect()
    }
}

impl Ranged for BudgetAxis {
    type FormatOption = DefaultFormatting;
    type ValueType = Budget;

    fn map(&self, budget: &Budget, (first, last): (i32, i32)) -> i32 {
        let budgets = self.budgets();
        let drawn = with_margin(budgets.into_iter().map(|budget| self.place(budget)));
        let share = (self.place(*budget) - drawn.start) / (drawn.end - drawn.start);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<Budget> {
        self.budgets()
    }

    fn range(&self) -> Range<Budget> {
        let budgets = self.budgets();
        let end = |budget: Option<&Budget>| budget.copied().unwrap_or(Budget::NONE);
        end(budgets.first())..end(budgets.last())
    }
}

/// From the least to the greatest value, and some more on either side.
fn with_margin(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let greatest = values.fold(f64::NEG_INFINITY, f64::max);
    let margin = match greatest - least {
        0.0 => AXIS_MARGIN,
        length => length * AXIS_MARGIN,
    };
    least - margin..greatest + margin
}

/// Of this length, or longer, around the same middle.
fn at_least(length: f64, range: Range<f64>) -> Range<f64> {
    let missing = (length - (range.end - range.start)).max(0.0);
    range.start - missing / 2.0..range.end + missing / 2.0
}

type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<BudgetAxis, RangedCoordf64>>;

fn draw(svg: &mut String, collection: &str, axis: &BudgetAxis, lines: &[Line]) -> Result<()> {
    let root = SVGBackend::with_string(svg, SIZE_PIXELS).into_drawing_area();
    root.fill(&CARD)?;
    let (left, right) = root.split_horizontally(CHART_PIXELS);
    let title = format!("{collection}: what a budget is worth");
    let qualities = lines.iter().flat_map(|line| &line.points);
    let qualities = at_least(
        LEAST_SPAN,
        with_margin(qualities.map(|(_, quality)| *quality)),
    );
    let mut chart = ChartBuilder::on(&left)
        .caption(title, (FONT, TITLE_PIXELS).into_font().color(&INK))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(axis.clone(), qualities)?;
    draw_axes(&mut chart)?;
    let places = (0..).map(|place| LEGEND_TOP_PIXELS + place * NAME_PIXELS);
    for ((line, colour), y) in lines.iter().zip(LINES.into_iter().cycle()).zip(places) {
        draw_line(&mut chart, line, colour)?;
        draw_name(&right, y, line, colour)?;
    }
    root.present()?;
    Ok(())
}

fn draw_axes(chart: &mut Chart<'_>) -> Result<()> {
    chart
        .configure_mesh()
        .x_desc("budget of an answer (ms, logarithmic)")
        .y_desc("nDCG@10")
        .x_label_formatter(&label)
        .y_label_formatter(&|quality| format!("{quality:.3}"))
        .label_style((FONT, LABEL_PIXELS).into_font().color(&INK))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    Ok(())
}

fn label(budget: &Budget) -> String {
    budget
        .ms()
        .map_or_else(|| "no limit".to_owned(), |ms| ms.to_string())
}

fn draw_line(chart: &mut Chart<'_>, line: &Line, colour: RGBColor) -> Result<()> {
    let points = line.points.iter().copied();
    chart.draw_series(LineSeries::new(points, colour.stroke_width(STROKE_PIXELS)))?;
    let markers = line.points.iter();
    chart.draw_series(markers.map(|point| Circle::new(*point, MARKER_PIXELS, colour.filled())))?;
    Ok(())
}

/// One line of the legend.
fn draw_name(
    legend: &DrawingArea<SVGBackend<'_>, Shift>,
    y: i32,
    line: &Line,
    colour: RGBColor,
) -> Result<()> {
    let stroke = colour.stroke_width(STROKE_PIXELS);
    legend.draw(&PathElement::new([(0, y), (SAMPLE_PIXELS, y)], stroke))?;
    let middle = (SAMPLE_PIXELS / 2, y);
    legend.draw(&Circle::new(middle, MARKER_PIXELS, colour.filled()))?;
    let style = (FONT, LABEL_PIXELS).into_font().color(&INK);
    let style = style.pos(Pos::new(HPos::Left, VPos::Center));
    let place = (SAMPLE_PIXELS + 2 * MARKER_PIXELS, y);
    legend.draw(&Text::new(line.name.as_str(), place, style))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::measure::Measured;
    use super::*;

    fn row(variant: &str, budget: &str, ndcg: f64) -> Row {
        Row {
            variant: variant.to_owned(),
            budget: Budget::parse(budget).unwrap(),
            measured: Measured {
                ndcg: vec![ndcg],
                ..Measured::default()
            },
        }
    }

    #[test]
    fn doubled_budgets_are_equally_far_apart_and_no_limit_comes_last() {
        let budgets = ["none", "100", "25", "50"].map(|text| Budget::parse(text).unwrap());
        let axis = BudgetAxis::of(budgets.into_iter());
        let budgets = axis.budgets();
        let pixels = budgets.iter().map(|budget| axis.map(budget, (0, 1000)));
        let pixels: Vec<i32> = pixels.collect();
        let gaps: Vec<i32> = pixels.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            gaps.iter().all(|gap| (gap - gaps[0]).abs() <= 1),
            "{pixels:?}"
        );
        let labels: Vec<String> = budgets.iter().map(label).collect();
        assert_eq!(labels, ["25", "50", "100", "no limit"]);
    }

    #[test]
    fn every_variant_has_its_line_and_every_budget_its_label() {
        let rows = [
            row("hybrid", "none", 0.7),
            row("hybrid", "25", 0.5),
            row("<full>", "25", 0.5),
            row("<full>", "none", 0.75),
        ];
        let svg = quality_over_budgets("papers", &rows).unwrap();
        for expected in [
            "papers",
            "hybrid",
            "&lt;full&gt;",
            "25",
            "no limit",
            "nDCG@10",
        ] {
            assert!(svg.contains(expected), "{expected}: {svg}");
        }
        assert_eq!(
            svg.matches("<circle").count(),
            6,
            "four points and two samples"
        );
    }

    #[test]
    fn one_point_and_no_quality_are_drawn_too() {
        for budget in ["none", "10"] {
            let svg = quality_over_budgets("papers", &[row("hybrid", budget, 0.0)]).unwrap();
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
        }
    }
}
