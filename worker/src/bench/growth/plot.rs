//! Growth as SVG: measured dots on predicted lines. The background is transparent and axes are grey, so that it reads on
//! white and on black.

use super::Point;
use super::model::Constants;
use crate::bench::Shape;
use medley_common::config::ExchangeMode;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::io;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What is drawn of a prediction or a measurement.
struct Quantity {
    title: &'static str,
    measured: fn(&super::StepResult) -> f64,
    predicted: fn(&super::model::Prediction) -> f64,
}

const QUANTITIES: [Quantity; 3] = [
    Quantity { title: "step [ms]", measured: |found| found.step_ms, predicted: |step| 1e3 * step.seconds },
    Quantity {
        title: "sent a worker and step [MB]",
        measured: |found| found.bytes_per_step_per_worker / 1e6,
        predicted: |step| step.bytes / 1e6,
    },
    Quantity {
        title: "memory of a worker [MB]",
        measured: |found| found.peak_rss_mb,
        predicted: |step| step.memory_bytes / 1_048_576.0,
    },
];

const GREY: RGBColor = RGBColor(128, 128, 128);
/// One a shape; told apart by people who see few colours as well.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
];

const WIDTH: u32 = 1200;
const HEIGHT: u32 = 420;
const LEGEND: i32 = 120;

/// Three panels over T, a line and dots for each shape.
///
/// # Errors
/// What the drawing library refuses.
pub fn svg(points: &[Point], constants: &Constants, cores: usize) -> io::Result<String> {
    let mut shapes: Vec<Shape> = Vec::new();
    for point in points {
        if !shapes.contains(&point.settings.shape) {
            shapes.push(point.settings.shape);
        }
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let (panels, legend) = root.split_horizontally(WIDTH as i32 - LEGEND);
        for (area, quantity) in panels.split_evenly((1, QUANTITIES.len())).iter().zip(&QUANTITIES) {
            panel(area, quantity, &shapes, points, constants, cores)?;
        }
        draw_legend(&legend, &shapes)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn panel(
    area: &Area<'_>,
    quantity: &Quantity,
    shapes: &[Shape],
    points: &[Point],
    constants: &Constants,
    cores: usize,
) -> io::Result<()> {
    let predict = |point: &Point| {
        let step = constants.predict(&point.cohort(cores), ExchangeMode::Hidden);
        (point.settings.peers as f64, (quantity.predicted)(&step))
    };
    let measured = |point: &Point| Some((point.settings.peers as f64, (quantity.measured)(point.found.as_ref()?)));
    let all = || points.iter().map(predict).chain(points.iter().filter_map(measured));
    let most = all().map(|point| point.1).fold(0.0, f64::max).max(1e-3);
    let peers = all().map(|point| point.0).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(quantity.title, text(15))
        .x_label_area_size(36)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..peers * 1.04, 0.0..most * 1.06)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("peers T")
        .axis_style(GREY)
        .bold_line_style(GREY.mix(0.25))
        .light_line_style(TRANSPARENT)
        .label_style(text(12))
        .axis_desc_style(text(13))
        .x_label_formatter(&|peers| format!("{peers:.0}"))
        .draw()
        .map_err(failed)?;
    for (shape, colour) in shapes.iter().zip(COLOURS) {
        let of_shape = || points.iter().filter(|point| point.settings.shape == *shape);
        let line = LineSeries::new(of_shape().map(predict), colour.stroke_width(2));
        chart.draw_series(line).map_err(failed)?;
        let dots = of_shape().filter_map(measured).map(|point| Circle::new(point, 4, colour.filled()));
        chart.draw_series(dots).map_err(failed)?;
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>, shapes: &[Shape]) -> io::Result<()> {
    let label = text(13).pos(Pos::new(HPos::Left, VPos::Center));
    let mut y = 50;
    for (shape, colour) in shapes.iter().zip(COLOURS) {
        area.draw(&PathElement::new([(4, y), (28, y)], colour.stroke_width(2))).map_err(failed)?;
        area.draw(&Text::new(shape.as_str(), (36, y), label.clone())).map_err(failed)?;
        y += 22;
    }
    y += 8;
    area.draw(&Circle::new((16, y), 4, GREY.filled())).map_err(failed)?;
    area.draw(&Text::new("measured", (36, y), label.clone())).map_err(failed)?;
    y += 22;
    area.draw(&PathElement::new([(4, y), (28, y)], GREY.stroke_width(2))).map_err(failed)?;
    area.draw(&Text::new("model", (36, y), label)).map_err(failed)?;
    Ok(())
}

fn text(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&GREY)
}

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}
