//! Plots as SVG texts. Invariant: a plot needs nothing but itself: no script, no font, no file beside it.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::summary::{Answered, Summary};

/// Width and height of a plot, in pixels.
const SIZE: (u32, u32) = (860, 300);

const BLUE_LINE: RGBColor = RGBColor(31, 98, 176);
const GREEN_LINE: RGBColor = RGBColor(34, 139, 84);
const RED_LINE: RGBColor = RGBColor(196, 56, 48);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// One line of a plot.
struct Line {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Answers by the second.
pub(super) fn throughput(summary: &Summary) -> String {
    let points = |value: fn(&crate::record::Point) -> u64| {
        let seconds = summary.seconds.iter();
        seconds
            .map(|point| (point.second as f64, value(point) as f64))
            .collect()
    };
    let lines = [
        Line {
            name: "answers",
            colour: BLUE_LINE,
            points: points(|point| point.answers),
        },
        Line {
            name: "granted",
            colour: GREEN_LINE,
            points: points(|point| point.granted),
        },
    ];
    plot(|area| over_time(area, &lines, "a second"))
}

/// Latency by the second.
pub(super) fn latency(summary: &Summary) -> String {
    let points = |value: fn(&crate::record::Point) -> u64| {
        let seconds = summary.seconds.iter();
        seconds
            .map(|point| (point.second as f64, value(point) as f64 / 1000.0))
            .collect()
    };
    let lines = [
        Line {
            name: "p50",
            colour: GREEN_LINE,
            points: points(|point| point.p50_us),
        },
        Line {
            name: "p99",
            colour: BLUE_LINE,
            points: points(|point| point.p99_us),
        },
        Line {
            name: "max",
            colour: RED_LINE,
            points: points(|point| point.max_us),
        },
    ];
    plot(|area| over_time(area, &lines, "ms"))
}

/// The distribution of latency, the slow ones drawn apart: 90, 99, 99.9, 99.99 of 100 are equally far from each other.
pub(super) fn distribution(summary: &Summary) -> String {
    const LABELS: usize = 6;
    plot(|area| {
        // One more nine to a step: x is minus the logarithm of the share that was slower.
        let nines = |quantile: f64| -(1.0 - quantile).max(1e-7).log10();
        let points: Vec<(f64, f64)> = summary
            .distribution
            .iter()
            .filter(|(_, quantile)| *quantile < 1.0)
            .map(|(us, quantile)| (nines(*quantile), *us as f64 / 1000.0))
            .collect();
        let right = points.iter().map(|(x, _)| *x).fold(1.0, f64::max);
        let top = points.iter().map(|(_, y)| *y).fold(0.001, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(34)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..right, 0.0..top)?;
        let label = |x: &f64| {
            let share = 100.0 * (1.0 - 10_f64.powf(-x));
            format!("{}", (share * 10_000.0).round() / 10_000.0)
        };
        chart
            .configure_mesh()
            .x_labels(LABELS)
            .x_label_formatter(&label)
            .x_desc("of 100 requests were at most so long")
            .y_desc("ms")
            .light_line_style(TRANSPARENT)
            .draw()?;
        chart.draw_series(LineSeries::new(points, BLUE_LINE.stroke_width(2)))?;
        Ok(())
    })
}

/// Answers that were no success, by code.
pub(super) fn refusals(refused: &[Answered]) -> String {
    plot(|area| {
        let most = refused.iter().map(|answered| answered.count).max();
        let right = most.unwrap_or(1) as f64 * 1.15;
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(34)
            .y_label_area_size(10)
            .build_cartesian_2d(0.0..right, 0.0..refused.len() as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_label_formatter(&|x| short(*x))
            .x_desc("answers")
            .light_line_style(TRANSPARENT)
            .draw()?;
        let rows = refused.iter().rev().enumerate();
        for (row, answered) in rows {
            let bottom = row as f64;
            let bar = [(0.0, bottom + 0.15), (answered.count as f64, bottom + 0.85)];
            let text = format!("{}: {}", answered.code, answered.count);
            let style = ("sans-serif", 14).into_font().color(&BLACK);
            chart.draw_series([Rectangle::new(bar, RED_LINE.mix(0.35).filled())])?;
            chart.draw_series([Text::new(text, (right * 0.01, bottom + 0.65), style)])?;
        }
        Ok(())
    })
}

fn over_time(area: &Area<'_>, lines: &[Line], unit: &str) -> Drawn {
    let points = || lines.iter().flat_map(|line| &line.points);
    let right = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let top = points().map(|(_, y)| *y).fold(0.001, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc(unit)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| short(*y))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for line in lines {
        let colour = line.colour;
        let series = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(series)?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(TRANSPARENT)
        .draw()?;
    Ok(())
}

/// A number in few letters: 1.5k, 20M.
fn short(number: f64) -> String {
    let (scaled, unit) = match number.abs() {
        size if size >= 1e6 => (number / 1e6, "M"),
        size if size >= 1e4 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    // At most three digits behind the point, without zeros at the end.
    let text = format!("{scaled:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

fn plot(draw: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let drawn = area
            .fill(&WHITE)
            .map_err(Into::into)
            .and_then(|()| draw(&area))
            .and_then(|()| area.present().map_err(Into::into));
        drawn.expect("drawing into memory does not fail");
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_axes_are_short() {
        let told = [0.0, 0.25, 1_500.0, 20_000.0, 1_250_000.0].map(short);
        assert_eq!(told, ["0", "0.25", "1500", "20k", "1.25M"]);
    }
}
