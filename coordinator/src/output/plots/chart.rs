//! Panels of series, drawn.

use super::palette::{GREY, colour, is_distinct, ramp};
use super::series::{Level, Series, smooth, stretches};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::io;

/// The drawing library knows whole units only; so many of them make a pixel, or curves would be staircases.
const UNITS: i32 = 8;
/// In pixels, as all sizes below.
const WIDTH: i32 = 960;
const LEGEND: i32 = 130;
const TITLE: i32 = 40;
const FONT: &str = "sans-serif";
/// Labels beside the ramp of a legend.
const RAMP_LABELS: usize = 8;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One chart.
pub struct Panel {
    /// Empty: none.
    pub title: String,
    /// With its unit.
    pub y_title: String,
    /// One a peer.
    pub series: Vec<Series>,
    /// Baselines.
    pub levels: Vec<Level>,
    /// Steps at which another training stage begins.
    pub boundaries: Vec<f64>,
    /// Whether a smoothed line is drawn over faint raw values, in the place of dots joined by a line.
    pub is_noisy: bool,
}

/// Charts under one title, with one legend.
pub struct Figure {
    title: String,
    panels: Vec<Panel>,
}

impl Figure {
    pub fn new(title: String, panels: Vec<Panel>) -> Self {
        Self { title, panels }
    }

    /// The figure as SVG.
    pub fn svg(&self) -> io::Result<String> {
        let columns = if self.panels.len() > 1 { 2 } else { 1 };
        let rows = self.panels.len().div_ceil(columns);
        let height = TITLE + if columns == 1 { 460 } else { 330 * rows as i32 };
        let mut svg = String::new();
        {
            let root =
                SVGBackend::with_string(&mut svg, (units(WIDTH) as u32, units(height) as u32)).into_drawing_area();
            let title = text(19).pos(Pos::new(HPos::Left, VPos::Top));
            root.draw(&Text::new(self.title.clone(), at(14, 12), title)).map_err(failed)?;
            let (_, below) = root.split_vertically(units(TITLE));
            let (plots, legend) = below.split_horizontally(units(WIDTH - LEGEND));
            for (area, panel) in plots.split_evenly((rows, columns)).iter().zip(&self.panels) {
                panel.draw(area)?;
            }
            self.legend(&legend)?;
            root.present().map_err(failed)?;
        }
        let in_units = format!("width=\"{}\" height=\"{}\"", units(WIDTH), units(height));
        let in_pixels = format!("width=\"{WIDTH}\" height=\"{height}\"");
        Ok(svg.replacen(&in_units, &in_pixels, 1))
    }

    /// Which colour is which peer: a line each, or a ramp where peers are many.
    fn legend(&self, area: &Area<'_>) -> io::Result<()> {
        let mut peers: Vec<u32> = Vec::new();
        let mut levels: Vec<&str> = Vec::new();
        for panel in &self.panels {
            if panel.series.len() > peers.len() {
                peers = panel.series.iter().map(|series| series.peer).collect();
            }
            for level in &panel.levels {
                if !levels.contains(&level.name.as_str()) {
                    levels.push(&level.name);
                }
            }
        }
        let label = text(13).pos(Pos::new(HPos::Left, VPos::Center));
        let mut y = 24;
        if is_distinct(peers.len()) {
            for (number, peer) in peers.iter().enumerate() {
                let style = line_style(colour(number, peers.len()), 3);
                area.draw(&PathElement::new([at(8, y), at(32, y)], style)).map_err(failed)?;
                area.draw(&Text::new(format!("peer {peer}"), at(40, y), label.clone())).map_err(failed)?;
                y += 22;
            }
        } else {
            let height = 220;
            for line in 0..height {
                let colour = ramp(f64::from(line) / f64::from(height - 1));
                let bar = Rectangle::new([at(10, y + line), at(28, y + line + 1)], colour.filled());
                area.draw(&bar).map_err(failed)?;
            }
            for label_number in 0..RAMP_LABELS {
                let share = label_number as f64 / (RAMP_LABELS - 1) as f64;
                let peer = peers[(share * (peers.len() - 1) as f64).round() as usize];
                let place = at(38, y + (share * f64::from(height - 1)).round() as i32);
                area.draw(&Text::new(format!("peer {peer}"), place, label.clone())).map_err(failed)?;
            }
            y += height + 22;
        }
        let dashed = levels.into_iter().enumerate().map(|(number, name)| (dash(number), 2, name));
        let has_stages = self.panels.iter().any(|panel| !panel.boundaries.is_empty());
        let stages = has_stages.then_some((BOUNDARY, 1, "next stage"));
        for ((stroke, gap), width, name) in dashed.chain(stages) {
            let style = line_style(GREY, width);
            let ends = vec![at(8, y), at(32, y)];
            let line = DashedPathElement::new(ends, units(stroke), units(gap), style);
            area.draw(&line).map_err(failed)?;
            area.draw(&Text::new(name.to_owned(), at(40, y), label.clone())).map_err(failed)?;
            y += 22;
        }
        Ok(())
    }
}

impl Panel {
    fn draw(&self, area: &Area<'_>) -> io::Result<()> {
        let lines: Vec<Vec<(f64, f64)>> = self
            .series
            .iter()
            .map(|series| if self.is_noisy { smooth(&series.points) } else { series.points.clone() })
            .collect();
        let (x, y) = (self.steps(), self.values(&lines));
        let mut builder = ChartBuilder::on(area);
        builder.margin(units(10)).margin_right(units(18)).x_label_area_size(units(42)).y_label_area_size(units(64));
        if !self.title.is_empty() {
            builder.caption(&self.title, text(15));
        }
        let mut chart = builder.build_cartesian_2d(x.0..x.1, y.0..y.1).map_err(failed)?;
        let digits = digits(y.1 - y.0);
        chart
            .configure_mesh()
            .x_desc("step")
            .y_desc(&self.y_title)
            .axis_style(line_style(GREY, 1))
            .set_all_tick_mark_size(units(5))
            .bold_line_style(line_style(GREY.mix(0.25), 1))
            .light_line_style(TRANSPARENT)
            .label_style(text(12))
            .axis_desc_style(text(13))
            .x_labels(6)
            .y_labels(7)
            .x_label_formatter(&|step| thousands(*step))
            .y_label_formatter(&|value| format!("{value:.digits$}"))
            .draw()
            .map_err(failed)?;
        for step in &self.boundaries {
            let ends = vec![(*step, y.0), (*step, y.1)];
            let line = DashedPathElement::new(ends, units(BOUNDARY.0), units(BOUNDARY.1), line_style(GREY, 1));
            chart.draw_series(std::iter::once(line)).map_err(failed)?;
        }
        for (number, level) in self.levels.iter().enumerate() {
            let (stroke, gap) = dash(number);
            let ends = vec![(x.0, level.value), (x.1, level.value)];
            let line = DashedPathElement::new(ends, units(stroke), units(gap), line_style(GREY, 2));
            chart.draw_series(std::iter::once(line)).map_err(failed)?;
        }
        let count = self.series.len();
        if self.is_noisy && is_distinct(count) {
            for (number, series) in self.series.iter().enumerate() {
                let style = line_style(colour(number, count).mix(0.25), 1);
                for stretch in stretches(&series.points) {
                    // What a few outliers would take of the space, the curves need.
                    let inside = stretch.iter().map(|point| (point.0, point.1.clamp(y.0, y.1)));
                    chart.draw_series(LineSeries::new(inside, style)).map_err(failed)?;
                }
            }
        }
        let width = if is_distinct(count) { 2 } else { 1 };
        for (number, line) in lines.iter().enumerate() {
            let colour = colour(number, count);
            for stretch in stretches(line) {
                let style = line_style(colour, width);
                chart.draw_series(LineSeries::new(stretch.iter().copied(), style)).map_err(failed)?;
                // A point by itself makes no line.
                if stretch.len() == 1 || !self.is_noisy {
                    let dots = stretch.iter().map(|point| Circle::new(*point, units(width + 1), colour.filled()));
                    chart.draw_series(dots).map_err(failed)?;
                }
            }
        }
        if lines.iter().all(|line| stretches(line).next().is_none()) {
            let middle = (0.5 * (x.0 + x.1), 0.5 * (y.0 + y.1));
            let style = text(14).pos(Pos::new(HPos::Center, VPos::Center));
            let nothing = Text::new("no finite value", middle, style);
            chart.draw_series(std::iter::once(nothing)).map_err(failed)?;
        }
        Ok(())
    }

    /// From 0 to the last step.
    fn steps(&self) -> (f64, f64) {
        let points = self.series.iter().flat_map(|series| &series.points);
        let last = points.fold(0.0, |last: f64, point| last.max(point.0));
        (0.0, if last > 0.0 { last * 1.01 } else { 1.0 })
    }

    /// All that the lines reach, and most of the raw values.
    fn values(&self, lines: &[Vec<(f64, f64)>]) -> (f64, f64) {
        let finite = |point: &&(f64, f64)| point.1.is_finite();
        let mut raw: Vec<f64> =
            self.series.iter().flat_map(|series| &series.points).filter(finite).map(|point| point.1).collect();
        raw.sort_by(f64::total_cmp);
        let outliers = raw.len() / 100;
        let most = raw.get(outliers..raw.len() - outliers).unwrap_or_default();
        let drawn = lines.iter().flatten().filter(finite).map(|point| point.1);
        let levels = self.levels.iter().map(|level| level.value);
        let (low, high) = drawn
            .chain(levels)
            .chain(most.first().copied())
            .chain(most.last().copied())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return (0.0, 1.0);
        }
        let space = if high > low { 0.05 * (high - low) } else { (0.1 * high.abs()).max(0.01) };
        // Losses and shares are never negative, so neither is their axis.
        let floor = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
        ((low - space).max(floor), high + space)
    }
}

/// Strokes and gaps of the line where a training stage begins.
const BOUNDARY: (i32, i32) = (2, 4);

fn units(pixels: i32) -> i32 {
    UNITS * pixels
}

fn at(x: i32, y: i32) -> (i32, i32) {
    (units(x), units(y))
}

fn line_style(colour: impl Color, width: i32) -> ShapeStyle {
    colour.stroke_width(units(width) as u32)
}

fn text(size: i32) -> TextStyle<'static> {
    (FONT, units(size)).into_font().color(&GREY)
}

/// Lengths of the strokes of a baseline's line and of the gaps between them.
fn dash(number: usize) -> (i32, i32) {
    if number.is_multiple_of(2) { (8, 5) } else { (2, 3) }
}

/// Decimals that tell the marks of an axis apart.
fn digits(span: f64) -> usize {
    // 7 marks: at a span of 1 they are 0.1 or 0.2 apart.
    (1.0 - span.log10().floor()).clamp(0.0, 6.0) as usize
}

fn thousands(step: f64) -> String {
    if (step - step.round()).abs() > 1e-6 {
        return format!("{step:.1}");
    }
    let step = step.round() as i64;
    match step {
        1_000_000.. if step % 100_000 == 0 => format!("{}M", step as f64 / 1e6),
        10_000.. if step % 100 == 0 => format!("{}k", step as f64 / 1e3),
        _ => step.to_string(),
    }
}

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}
