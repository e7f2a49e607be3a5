//! Figures as pictures: lines over a logarithmic axis, as SVG.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

/// One line of a picture.
pub(crate) struct Line {
    pub(crate) name: String,
    /// Where, and how much.
    pub(crate) points: Vec<(usize, f64)>,
}

const SIZE: (f64, f64) = (720.0, 420.0);
/// Left, right, top, bottom.
const MARGIN: (f64, f64, f64, f64) = (80.0, 40.0, 56.0, 50.0);
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

impl Scale {
    /// Steps from 0 that hold `most`, and how many they are.
    fn linear(most: f64) -> (Self, u32) {
        let step = 10f64.powf((most / f64::from(STEPS)).log10().ceil());
        let mut steps = [step / 5.0, step / 4.0, step / 2.0].into_iter();
        let fits = steps.find(|s| s * f64::from(STEPS) >= most);
        (Scale::Linear(fits.unwrap_or(step)), STEPS)
    }

    /// Decades from a number of 1 or more to another.
    fn logarithmic(least: f64, most: f64) -> (Self, u32) {
        let first = least.max(1.0).log10().floor() as i32;
        let last = most.max(1.0).log10().ceil() as i32;
        (Scale::Logarithmic(first), (last - first).max(1) as u32)
    }

    /// How many steps from the first line.
    fn steps(self, figure: f64) -> f64 {
        match self {
            Scale::Linear(step) => figure / step,
            Scale::Logarithmic(first) => figure.log10() - f64::from(first),
        }
    }

    /// What the `n`th line stands for.
    fn figure(self, n: u32) -> f64 {
        match self {
            Scale::Linear(step) => step * f64::from(n),
            Scale::Logarithmic(first) => 10f64.powi(first + n as i32),
        }
    }
}

/// Where a picture's figures lie: along, and up to the highest line.
struct Frame {
    /// A scale, and the steps that it shows, which need not be whole.
    along: (Scale, f64),
    up: (Scale, u32),
}

impl Frame {
    fn x(&self, at: f64) -> f64 {
        let width = SIZE.0 - MARGIN.0 - MARGIN.1;
        MARGIN.0 + width * self.along.0.steps(at) / self.along.1
    }

    fn y(&self, figure: f64) -> f64 {
        let height = SIZE.1 - MARGIN.2 - MARGIN.3;
        let (scale, steps) = self.up;
        MARGIN.2 + height * (1.0 - scale.steps(figure).max(0.0) / f64::from(steps))
    }
}

/// What stands around the lines.
#[derive(Clone, Copy)]
pub(crate) struct Picture<'a> {
    pub(crate) title: &'a str,
    pub(crate) across: &'a str,
    /// What figures count.
    pub(crate) unit: &'a str,
    /// Places are few and come one after the other, instead of being of any size.
    pub(crate) one_by_one: bool,
}

impl Picture<'_> {
    pub(crate) const NANOSECONDS: Self = Picture {
        title: "",
        across: "",
        unit: "ns",
        one_by_one: false,
    };

    /// Draws lines into a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, path: &Path, lines: &[Line]) -> Result<()> {
        let most = figures(lines).fold(1.0, f64::max);
        self.draw(path, lines, Scale::linear(most))
    }

    /// The same for figures of very different size.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write_logarithmic(&self, path: &Path, lines: &[Line]) -> Result<()> {
        let least = figures(lines).fold(f64::MAX, f64::min);
        let most = figures(lines).fold(0.0, f64::max);
        self.draw(path, lines, Scale::logarithmic(least, most))
    }

    fn draw(&self, path: &Path, lines: &[Line], up: (Scale, u32)) -> Result<()> {
        let last = lines.iter().flat_map(|l| &l.points).map(|p| p.0).max();
        let last = last.unwrap_or(10) as f64;
        let along = match self.one_by_one {
            true => (Scale::Linear(1.0), last),
            false => (Scale::Logarithmic(0), last.log10().max(1.0)),
        };
        let frame = Frame { along, up };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" \
             viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{2}\" y=\"22\" font-size=\"15\">{3}</text>\n",
            SIZE.0, SIZE.1, MARGIN.0, self.title
        );
        self.axes(&mut svg, &frame)?;
        for (n, line) in lines.iter().enumerate() {
            draw_line(&mut svg, &frame, n, line)?;
        }
        svg.push_str("</svg>\n");
        Ok(std::fs::write(path, svg)?)
    }

    fn axes(&self, svg: &mut String, frame: &Frame) -> Result<()> {
        let (left, right) = (MARGIN.0, SIZE.0 - MARGIN.1);
        for n in 0..=frame.up.1 {
            let figure = frame.up.0.figure(n);
            let y = frame.y(figure);
            writeln!(
                svg,
                "<path d=\"M{left},{y:.1}H{right}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{figure}</text>",
                left - 6.0,
                y + 4.0
            )?;
        }
        let bottom = SIZE.1 - MARGIN.3;
        for n in 0..=frame.along.1 as u32 {
            let at = frame.along.0.figure(n);
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
            "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{}</text>\
             <text x=\"16\" y=\"{}\">{}</text>",
            self.across,
            MARGIN.2 - 12.0,
            self.unit
        )?;
        Ok(())
    }
}

/// The `n`th line, its points, and its name in its colour.
fn draw_line(svg: &mut String, frame: &Frame, n: usize, line: &Line) -> Result<()> {
    let colour = COLOURS[n % COLOURS.len()];
    let places = line.points.iter();
    let places = places.map(|&(at, figure)| (frame.x(at as f64), frame.y(figure)));
    let places: Vec<(f64, f64)> = places.collect();
    let along: Vec<String> = places
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    writeln!(
        svg,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
        along.join(" ")
    )?;
    for (x, y) in places {
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
    Ok(())
}

fn figures(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|l| &l.points).map(|p| p.1)
}
