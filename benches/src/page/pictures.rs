//! Pictures of a run, as SVG: throughput against clients, latency against rate, rate over time around a failover.

use plotters::prelude::*;

use crate::compare::Result;
use crate::compare::results::{Results, Sample};

/// Pixels.
const SIZE: (u32, u32) = (760, 380);
/// One for each line, told apart without their hue, too.
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 90, 160), RGBColor(210, 110, 0), RGBColor(90, 90, 90), RGBColor(150, 0, 90)];

/// A picture.
pub(super) struct Picture {
    /// Its file, without its ending.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) svg: String,
}

/// A line of a picture.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// What its axes are.
struct Axes {
    x: &'static str,
    y: &'static str,
    /// Whether each step of x is twice the one before.
    is_doubling: bool,
}

/// All for which there are figures.
pub(super) fn all(results: &Results) -> Result<Vec<Picture>> {
    let sweep = |name: &str, of: fn(&Sample) -> f64, part: &str| {
        let sweeps = results.sweeps.iter().filter(|sweep| sweep.name == name);
        let curve = |sweep: &crate::compare::results::Sweep| Curve {
            name: format!("{}{part}", sweep.system),
            points: sweep.points.iter().map(|(x, sample)| (*x, of(sample))).collect(),
        };
        sweeps.map(curve).collect::<Vec<Curve>>()
    };
    let failovers =
        results.scenarios.iter().filter(|it| it.scenario == "failover" && it.regions == 1);
    let failovers = failovers.map(|it| Curve { name: it.target.clone(), points: it.rates.clone() });
    let times = [
        sweep("rate", |sample| sample.p50_ms, ", p50"),
        sweep("rate", |sample| sample.p99_ms, ", p99"),
    ];
    let axes = |x, y, is_doubling| Axes { x, y, is_doubling };
    let wanted = [
        (
            "throughput",
            "Puts of 100 bytes against clients",
            axes("clients", "puts a second", true),
            sweep("clients", |sample| sample.per_second, ""),
        ),
        (
            "latency",
            "Time of a put against the rate that is asked for",
            axes("puts a second", "milliseconds", false),
            times.into_iter().flatten().collect(),
        ),
        (
            "failover",
            "Puts of 16 clients around the death of the leader's store",
            axes("seconds", "puts a second", false),
            failovers.collect(),
        ),
    ];
    let mut pictures = Vec::new();
    for (name, title, axes, curves) in wanted {
        if curves.iter().any(|curve| !curve.points.is_empty()) {
            let svg = drawn(title, &axes, &curves).map_err(|error| format!("{name}: {error}"))?;
            pictures.push(Picture { name, title, svg });
        }
    }
    Ok(pictures)
}

/// Draws lines over each other.
fn drawn(
    title: &str,
    axes: &Axes,
    curves: &[Curve],
) -> std::result::Result<String, Box<dyn std::error::Error>> {
    // On a doubling axis equal steps are powers of two.
    let place = |x: f64| if axes.is_doubling { x.max(1.0).log2() } else { x };
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let least = points().map(|(x, _)| place(x)).fold(f64::INFINITY, f64::min);
    let most = points().map(|(x, _)| place(x)).fold(f64::NEG_INFINITY, f64::max);
    let top = points().map(|(_, y)| y).fold(0.0, f64::max) * 1.05;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(least..most.max(least + 1e-9), 0.0..top.max(1e-9))?;
        let number = |x: &f64| {
            let value = if axes.is_doubling { x.exp2() } else { *x };
            format!("{}", (value * 100.0).round() / 100.0)
        };
        chart
            .configure_mesh()
            .x_desc(axes.x)
            .y_desc(axes.y)
            .x_label_formatter(&number)
            .y_label_formatter(&|y| format!("{}", (y * 100.0).round() / 100.0))
            .max_light_lines(0)
            .draw()?;
        for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<_> = curve.points.iter().map(|(x, y)| (place(*x), *y)).collect();
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(curve.name.as_str())
                .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        area.present()?;
    }
    Ok(svg + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_holds_its_lines_and_is_the_same_each_time() {
        let curve = |name: &str| Curve { name: name.into(), points: vec![(1.0, 5.0), (64.0, 9.0)] };
        let curves = [curve("skerry"), curve("etcd")];
        let axes = Axes { x: "clients", y: "puts", is_doubling: true };
        let svg = drawn("Puts", &axes, &curves).expect("it can be drawn");
        assert!(svg.starts_with("<svg") && svg.contains("etcd") && svg.contains("polyline"));
        assert_eq!(svg, drawn("Puts", &axes, &curves).expect("again"));
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert!(all(&Results::default()).expect("nothing fails").is_empty());
    }
}
