//! Figures as pictures: lines over a logarithmic axis, as SVG.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

/// One line of a picture.
pub(crate) struct Line {
    pub(crate) name: String,
    /// Where, and how many nanoseconds.
    pub(crate) points: Vec<(usize, f64)>,
}

const SIZE: (f64, f64) = (720.0, 420.0);
/// Left, right, top, bottom.
const MARGIN: (f64, f64, f64, f64) = (60.0, 20.0, 40.0, 50.0);
const COLOURS: [&str; 6] = [
    "#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#b8860b", "#555555",
];
/// Lines across.
const STEPS: u32 = 5;

/// How figures are laid out.
#[derive(Clone, Copy)]
enum Scale {
    /// From 0 in steps of so many.
    Linear(f64),
    /// Decades from this power of ten.
    Logarithmic(i32),
}

/// Where a picture's figures lie.
struct Frame {
    /// Decades from 1.
    decades: f64,
    scale: Scale,
    /// Lines across above the lowest.
    steps: u32,
}

impl Frame {
    fn x(&self, at: usize) -> f64 {
        let width = SIZE.0 - MARGIN.0 - MARGIN.1;
        MARGIN.0 + width * (at.max(1) as f64).log10() / self.decades
    }

    fn y(&self, ns: f64) -> f64 {
        let height = SIZE.1 - MARGIN.2 - MARGIN.3;
        let steps = match self.scale {
            Scale::Linear(step) => ns / step,
            Scale::Logarithmic(first) => ns.log10() - f64::from(first),
        };
        MARGIN.2 + height * (1.0 - steps.max(0.0) / f64::from(self.steps))
    }

    /// What the `n`th line across stands for.
    fn ns(&self, n: u32) -> f64 {
        match self.scale {
            Scale::Linear(step) => step * f64::from(n),
            Scale::Logarithmic(first) => 10f64.powi(first + n as i32),
        }
    }
}

/// Writes a picture of `lines` into a file.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(path: &Path, title: &str, across: &str, lines: &[Line]) -> Result<()> {
    let most = figures(lines).fold(1.0, f64::max);
    let step = 10f64.powf((most / f64::from(STEPS)).log10().ceil());
    let step = [step / 5.0, step / 4.0, step / 2.0, step]
        .into_iter()
        .find(|s| s * f64::from(STEPS) >= most)
        .unwrap_or(step);
    draw(path, title, across, lines, Scale::Linear(step), STEPS)
}

/// The same for figures of very different size.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_logarithmic(
    path: &Path,
    title: &str,
    across: &str,
    lines: &[Line],
) -> Result<()> {
    let decade = |ns: f64| ns.max(1.0).log10();
    let first = figures(lines).map(decade).fold(f64::MAX, f64::min).floor() as i32;
    let last = figures(lines).map(decade).fold(0.0, f64::max).ceil() as i32;
    let steps = (last - first).max(1) as u32;
    draw(path, title, across, lines, Scale::Logarithmic(first), steps)
}

fn figures(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|l| &l.points).map(|p| p.1)
}

fn draw(
    path: &Path,
    title: &str,
    across: &str,
    lines: &[Line],
    scale: Scale,
    steps: u32,
) -> Result<()> {
    let last = lines.iter().flat_map(|l| &l.points).map(|p| p.0).max();
    let frame = Frame {
        decades: (last.unwrap_or(10) as f64).log10().max(1.0),
        scale,
        steps,
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" \
         viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{2}\" y=\"22\" font-size=\"15\">{title}</text>\n",
        SIZE.0, SIZE.1, MARGIN.0
    );
    axes(&mut svg, &frame, across)?;
    for (line, (n, colour)) in lines.iter().zip(COLOURS.iter().enumerate().cycle()) {
        let places = line.points.iter();
        let places = places.map(|&(at, ns)| format!("{:.1},{:.1}", frame.x(at), frame.y(ns)));
        let places: Vec<String> = places.collect();
        writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            places.join(" ")
        )?;
        for &(at, ns) in &line.points {
            let (x, y) = (frame.x(at), frame.y(ns));
            writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
            )?;
        }
        let (x, y) = (MARGIN.0 + 12.0, MARGIN.2 + 16.0 * (n as f64 + 1.0));
        let name = &line.name;
        writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>"
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(std::fs::write(path, svg)?)
}

fn axes(svg: &mut String, frame: &Frame, across: &str) -> Result<()> {
    let (left, right) = (MARGIN.0, SIZE.0 - MARGIN.1);
    for n in 0..=frame.steps {
        let ns = frame.ns(n);
        let y = frame.y(ns);
        writeln!(
            svg,
            "<path d=\"M{left},{y:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{ns}</text>",
            left - 6.0,
            y + 4.0
        )?;
    }
    let bottom = SIZE.1 - MARGIN.3;
    for power in 0..=frame.decades as u32 {
        let at = 10usize.pow(power);
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{at}</text>",
            frame.x(at),
            bottom + 18.0
        )?;
    }
    let (middle, low) = (f64::midpoint(left, right), bottom + 38.0);
    writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{across}</text>\
         <text x=\"16\" y=\"{}\">ns</text>",
        MARGIN.2 - 8.0
    )?;
    Ok(())
}
