//! The results as pictures, both axes logarithmic.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;

use crate::table::Row;

const SIZE: (u32, u32) = (800, 480);

/// Commits per second by clients.
pub(crate) fn throughput(file: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let point = |row: &Row| (row.clients as f64, row.per_second);
    draw(file, rows, ["clients", "commits per second"], point)
}

/// The median time of a proposal by commits per second.
pub(crate) fn latency(file: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let point = |row: &Row| (row.per_second, row.p50.as_secs_f64() * 1e6);
    draw(
        file,
        rows,
        ["commits per second", "median time of a proposal, µs"],
        point,
    )
}

/// From below the least to above the most.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    low * 0.7..high * 1.4
}

fn draw(
    file: &Path,
    rows: &[Row],
    [x_name, y_name]: [&str; 2],
    point: impl Fn(&Row) -> (f64, f64),
) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let x = span(rows.iter().map(|row| point(row).0)).log_scale();
    let y = span(rows.iter().map(|row| point(row).1)).log_scale();
    let mut builder = ChartBuilder::on(&area);
    builder
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(80);
    let mut chart = builder.build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(y_name)
        .draw()?;
    let mut sides: Vec<&str> = rows.iter().map(|row| row.side).collect();
    sides.sort_unstable();
    sides.dedup();
    for (nth, side) in sides.into_iter().enumerate() {
        let colour = Palette99::pick(nth).stroke_width(2);
        let of_side = rows.iter().filter(|row| row.side == side).map(&point);
        let line = LineSeries::new(of_side, colour).point_size(4);
        let drawn = chart.draw_series(line)?.label(side);
        drawn.legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
    }
    let mut labels = chart.configure_series_labels();
    labels.background_style(WHITE).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}
