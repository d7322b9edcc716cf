//! A picture as data, and how it is laid out. Nothing here knows what is plotted.

use plotters::{
    prelude::DrawingBackend,
    style::{Color, RGBColor},
};

use super::{
    PlotError,
    canvas::{self, Align, Canvas, Drawing, SIZE, Type, text_size},
    labels::{self, Obstacles, Rect, Wish},
    palette::{self, Marker},
    scale::{Scale, Start},
};

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Quantity and unit.
    pub label: String,
    /// Where it begins.
    pub start: Start,
}

/// A measured point.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// Where.
    pub y: f64,
    /// Error bar along x.
    pub x_range: Option<(f64, f64)>,
    /// Error bar along y.
    pub y_range: Option<(f64, f64)>,
    /// Its name, where it is told.
    pub label: Option<String>,
    /// Whether it won.
    pub chosen: bool,
}

/// Points of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// In the legend; empty: not there.
    pub name: String,
    /// Of markers and line.
    pub colour: RGBColor,
    /// Of points; absent: a line only.
    pub marker: Option<Marker>,
    /// In the order in which a line joins them.
    pub points: Vec<Point>,
    /// Through which points the line goes; empty: no line.
    pub line: Vec<(f64, f64)>,
}

/// Along which axis a limit lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// A vertical line.
    X,
    /// A horizontal line.
    Y,
}

/// A value that matters.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Of which axis.
    pub along: Along,
    /// Where.
    pub value: f64,
    /// What it is.
    pub text: String,
    /// Which side is good, if one is: `Less` or `Greater` than the value.
    pub good: Option<std::cmp::Ordering>,
}

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The question that it answers.
    pub title: String,
    /// Model, hardware, workload.
    pub subtitle: String,
    /// How to read it.
    pub note: String,
    /// What error bars are; told if one can be seen.
    pub bars: String,
    /// Horizontal.
    pub x: Axis,
    /// Vertical.
    pub y: Axis,
    /// Back to front.
    pub series: Vec<Series>,
    /// Targets and marks.
    pub limits: Vec<Limit>,
    /// Heading of the legend.
    pub legend: String,
}

impl Figure {
    /// The picture as a PNG file, 1600 by 1000 pixels.
    ///
    /// # Errors
    /// If font, backend or encoder fail; never because of the data.
    pub fn png(&self) -> Result<Vec<u8>, PlotError> {
        canvas::png(&self.layout()?)
    }

    /// The picture as an SVG file.
    ///
    /// # Errors
    /// If font or backend fail; never because of the data.
    pub fn svg(&self) -> Result<String, PlotError> {
        canvas::svg(&self.layout()?)
    }
}

const TITLE: Type = Type { size: 44.0, bold: true };
const SUBTITLE: Type = Type { size: 30.0, bold: false };
const AXIS: Type = Type { size: 30.0, bold: false };
const TICK: Type = Type { size: 28.0, bold: false };
const LABEL: Type = Type { size: 28.0, bold: false };
const STRONG: Type = Type { size: 28.0, bold: true };
const NOTE: Type = Type { size: 24.0, bold: false };

const MARKER_RADIUS: f64 = 9.0;
const RING_RADIUS: f64 = 19.0;

/// A limit further out than this many times the data's range is told at the edge instead of pressing the data together.
const REACH: f64 = 2.0;

/// A text with its place: middle of its height, at its left.
struct Placed {
    text: String,
    rect: Rect,
    kind: Type,
    colour: RGBColor,
    /// Whether lines behind it must be dimmed.
    crossed: bool,
    /// From the label to what it names, if that is not beside it.
    leader: Option<((f64, f64), (f64, f64))>,
}

/// A figure with everything in its place.
pub(super) struct Layout<'a> {
    figure: &'a Figure,
    plot: Rect,
    x: Scale,
    y: Scale,
    legend: Vec<&'a Series>,
    texts: Vec<Placed>,
    empty: bool,
}

impl Point {
    fn is_finite(&self) -> bool {
        self.x.is_finite() && self.y.is_finite()
    }
}

impl Figure {
    fn points(&self) -> impl Iterator<Item = &Point> {
        self.series.iter().flat_map(|s| &s.points).filter(|p| p.is_finite())
    }

    fn scale(&self, along: Along) -> Scale {
        let pick = move |(x, y): (f64, f64)| if along == Along::X { x } else { y };
        let lines = self.series.iter().flat_map(|s| &s.line).copied().map(pick);
        let ranges = self.points().filter_map(|p| if along == Along::X { p.x_range } else { p.y_range });
        let data: Vec<f64> = self
            .points()
            .map(|p| pick((p.x, p.y)))
            .chain(lines)
            .chain(ranges.flat_map(|(low, high)| [low, high]))
            .filter(|v| v.is_finite())
            .collect();
        let low = data.iter().copied().fold(f64::INFINITY, f64::min);
        let high = data.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let span = (high - low).max(high.abs() * 0.5);
        let near = |v: f64| data.is_empty() || (low - REACH * span..=high + REACH * span).contains(&v);
        let limits = self.limits.iter().filter(|l| l.along == along && near(l.value)).map(|l| l.value);
        let start = if along == Along::X { self.x.start } else { self.y.start };
        Scale::fit(data.iter().copied().chain(limits), start)
    }

    fn layout(&self) -> Result<Layout<'_>, PlotError> {
        let (x, y) = (self.scale(Along::X), self.scale(Along::Y));
        let mut legend: Vec<&Series> = self.series.iter().filter(|s| !s.name.is_empty()).collect();
        if legend.len() < 2 {
            legend.clear();
        }
        let mut legend_width = text_size(&self.legend, STRONG)?.0;
        for series in &legend {
            legend_width = legend_width.max(54.0 + text_size(&series.name, LABEL)?.0);
        }
        let mut tick_width: f64 = 60.0;
        for tick in y.ticks(Y_TICKS) {
            tick_width = tick_width.max(text_size(&tick.text, TICK)?.0);
        }
        let (width, height) = (f64::from(SIZE.0), f64::from(SIZE.1));
        let plot = Rect {
            left: 40.0 + tick_width + 16.0,
            top: 182.0,
            right: width - if legend.is_empty() { 50.0 } else { (legend_width + 80.0).min(520.0) },
            bottom: height - 146.0,
        };
        let empty = self.points().next().is_none();
        let mut layout = Layout { figure: self, plot, x, y, legend, texts: Vec::new(), empty };
        if !empty {
            layout.place_texts()?;
        }
        Ok(layout)
    }
}

const X_TICKS: usize = 8;
const Y_TICKS: usize = 7;

impl Layout<'_> {
    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let plot = &self.plot;
        (
            plot.left + self.x.fraction(x) * (plot.right - plot.left),
            plot.bottom - self.y.fraction(y) * (plot.bottom - plot.top),
        )
    }

    fn clamped(&self, point: (f64, f64)) -> (f64, f64) {
        self.plot.nearest(self.at(point))
    }

    fn scale(&self, along: Along) -> &Scale {
        if along == Along::X { &self.x } else { &self.y }
    }

    /// Pixel of a limit along its axis, if it is on the picture.
    fn limit_pixel(&self, limit: &Limit) -> Option<f64> {
        let fraction = self.scale(limit.along).fraction(limit.value);
        let visible = (0.0..=1.0).contains(&fraction);
        let (x, y) = match limit.along {
            Along::X => self.at((limit.value, self.y.value(0.5))),
            Along::Y => self.at((self.x.value(0.5), limit.value)),
        };
        visible.then_some(if limit.along == Along::X { x } else { y })
    }

    /// Places of limit texts first, which have little choice, then of the chosen points, then of the others.
    fn place_texts(&mut self) -> Result<(), PlotError> {
        let mut obstacles = Obstacles::default();
        for point in self.figure.points() {
            let radius = if point.chosen { RING_RADIUS + 2.0 } else { MARKER_RADIUS + 2.0 };
            obstacles.boxes.push(Rect::around(self.at((point.x, point.y)), radius));
            for (from, to) in self.error_bars(point) {
                obstacles.segments.push((from, to));
            }
        }
        for series in &self.figure.series {
            let line: Vec<_> = series.line.iter().map(|p| self.clamped(*p)).collect();
            obstacles.segments.extend(line.iter().copied().zip(line.iter().skip(1).copied()));
        }
        let limits = self.figure.limits.iter();
        for limit in limits {
            if let Some(pixel) = self.limit_pixel(limit) {
                obstacles.segments.push(self.limit_ends(limit.along, pixel));
            }
        }
        for limit in &self.figure.limits {
            self.place_limit(limit, &mut obstacles)?;
        }

        let mut named: Vec<(&Point, &str)> =
            self.figure.points().filter_map(|p| p.label.as_deref().map(|label| (p, label))).collect();
        // Stable: otherwise in the order of the data.
        named.sort_by_key(|(p, _)| !p.chosen);
        let mut wishes = Vec::with_capacity(named.len());
        for (point, label) in &named {
            let kind = if point.chosen { STRONG } else { LABEL };
            let (width, height) = text_size(label, kind)?;
            let clearance = if point.chosen { RING_RADIUS + 6.0 } else { MARKER_RADIUS + 7.0 };
            wishes.push(Wish { anchor: self.at((point.x, point.y)), size: (width + 6.0, height), clearance });
        }
        let places = labels::place(&wishes, &obstacles, &self.plot);
        for (((point, label), wish), place) in named.into_iter().zip(&wishes).zip(places) {
            if let Some(rect) = place {
                let crossed = obstacles.segments.iter().any(|(a, b)| rect.meets_segment(*a, *b));
                let near = rect.nearest(wish.anchor);
                let far = (near.0 - wish.anchor.0).hypot(near.1 - wish.anchor.1) > wish.clearance + 14.0;
                self.texts.push(Placed {
                    text: label.to_owned(),
                    rect,
                    kind: if point.chosen { STRONG } else { LABEL },
                    colour: palette::INK,
                    crossed,
                    leader: far.then_some((near, wish.anchor)),
                });
            }
        }
        Ok(())
    }

    /// A limit's text stands at its line where there is most room, or at the edge beyond which the limit lies.
    fn place_limit(&mut self, limit: &Limit, obstacles: &mut Obstacles) -> Result<(), PlotError> {
        let pixel = self.limit_pixel(limit);
        let beyond = self.scale(limit.along).fraction(limit.value) > 0.5;
        let text = match (pixel, limit.along, beyond) {
            (Some(_), ..) => limit.text.clone(),
            (None, Along::X, true) => format!("{} →", limit.text),
            (None, Along::X, false) => format!("← {}", limit.text),
            (None, Along::Y, true) => format!("{} ↑", limit.text),
            (None, Along::Y, false) => format!("{} ↓", limit.text),
        };
        let (width, height) = text_size(&text, STRONG)?;
        let size = (width + 8.0, height);
        let plot = self.plot;
        let (right, left) = (plot.right - size.0 - 8.0, plot.left + 8.0);
        let rows = [plot.top + 4.0, plot.bottom - height - 6.0];
        let mut spots = Vec::new();
        match (limit.along, pixel) {
            (Along::X, Some(px)) => {
                let middle = [0.15, 0.3, 0.45, 0.6, 0.75].map(|f| plot.top + f * (plot.bottom - plot.top));
                for top in rows.into_iter().chain(middle) {
                    spots.extend([px + 6.0, px - size.0 - 6.0].map(|l| Rect::at(l, top, size)));
                }
            }
            (Along::Y, Some(py)) => {
                let middle = [0.75, 0.5, 0.25].map(|f| left + f * (right - left));
                for x in [right, left].into_iter().chain(middle) {
                    spots.extend([py - height - 4.0, py + 4.0].map(|t| Rect::at(x, t, size)));
                }
            }
            (Along::X, None) => spots.extend(rows.map(|top| Rect::at(if beyond { right } else { left }, top, size))),
            (Along::Y, None) => {
                let top = if beyond { plot.top + 4.0 } else { plot.bottom - height - 6.0 };
                spots.extend([right, left].map(|x| Rect::at(x, top, size)));
            }
        }
        let free = |rect: &Rect| plot.contains(rect) && !obstacles.boxes.iter().any(|b| b.intersects(rect));
        let crossed = |rect: &Rect| obstacles.segments.iter().filter(|(a, b)| rect.meets_segment(*a, *b)).count();
        if let Some(rect) = spots.into_iter().filter(free).min_by_key(crossed) {
            let crossed = crossed(&rect) > 0;
            obstacles.boxes.push(rect);
            let colour = if limit.good.is_some() { palette::TARGET } else { palette::GREY };
            self.texts.push(Placed { text, rect, kind: STRONG, colour, crossed, leader: None });
        }
        Ok(())
    }

    fn limit_ends(&self, along: Along, pixel: f64) -> ((f64, f64), (f64, f64)) {
        let plot = &self.plot;
        match along {
            Along::X => ((pixel, plot.top), (pixel, plot.bottom)),
            Along::Y => ((plot.left, pixel), (plot.right, pixel)),
        }
    }

    fn error_bars(&self, point: &Point) -> Vec<((f64, f64), (f64, f64))> {
        let along_x = point.x_range.map(|(low, high)| ((low, point.y), (high, point.y)));
        let along_y = point.y_range.map(|(low, high)| ((point.x, low), (point.x, high)));
        let finite = |(a, b): &((f64, f64), (f64, f64))| [a.0, a.1, b.0, b.1].iter().all(|v| v.is_finite());
        let bars = along_x.into_iter().chain(along_y).filter(finite);
        let pixels = bars.map(|(a, b)| (self.clamped(a), self.clamped(b)));
        // Behind the marker it would be no more than a speck.
        pixels.filter(|(a, b)| (a.0 - b.0).hypot(a.1 - b.1) > 2.0 * (MARKER_RADIUS + 5.0)).collect()
    }

    fn draw_shades<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Result<(), PlotError> {
        let plot = &self.plot;
        for limit in &self.figure.limits {
            let Some(good) = limit.good else { continue };
            let fraction = self.scale(limit.along).fraction(limit.value).clamp(0.0, 1.0);
            let (low, high) = if good.is_lt() { (0.0, fraction) } else { (fraction, 1.0) };
            let (width, height) = (plot.right - plot.left, plot.bottom - plot.top);
            let rect = match limit.along {
                Along::X => Rect { left: plot.left + low * width, right: plot.left + high * width, ..*plot },
                Along::Y => Rect { top: plot.bottom - high * height, bottom: plot.bottom - low * height, ..*plot },
            };
            let corners =
                [(rect.left, rect.top), (rect.right, rect.top), (rect.right, rect.bottom), (rect.left, rect.bottom)];
            canvas.polygon(&corners, palette::FEASIBLE.mix(0.08))?;
        }
        Ok(())
    }

    fn draw_axes<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Result<(), PlotError> {
        let plot = &self.plot;
        let mut free_from = f64::NEG_INFINITY;
        for tick in self.x.ticks(X_TICKS) {
            let x = plot.left + tick.at * (plot.right - plot.left);
            canvas.path(&[(x, plot.top), (x, plot.bottom)], palette::GRID, 1.0)?;
            canvas.path(&[(x, plot.bottom), (x, plot.bottom + 8.0)], palette::INK, 2.0)?;
            let half = text_size(&tick.text, TICK)?.0 / 2.0;
            if x - half > free_from {
                canvas.text(&tick.text, (x, plot.bottom + 28.0), Align::Centre, TICK, palette::INK)?;
                free_from = x + half + 12.0;
            }
        }
        for tick in self.y.ticks(Y_TICKS) {
            let y = plot.bottom - tick.at * (plot.bottom - plot.top);
            canvas.path(&[(plot.left, y), (plot.right, y)], palette::GRID, 1.0)?;
            canvas.text(&tick.text, (plot.left - 14.0, y), Align::Right, TICK, palette::INK)?;
        }
        let corner = [(plot.left, plot.top), (plot.left, plot.bottom), (plot.right, plot.bottom)];
        canvas.path(&corner, palette::INK, 2.0)?;
        let log = |scale: &Scale| if scale.is_log() { ", logarithmic" } else { "" };
        let x = format!("{}{}", self.figure.x.label, log(&self.x));
        let y = format!("{}{}", self.figure.y.label, log(&self.y));
        canvas.text(&x, (plot.right, plot.bottom + 68.0), Align::Right, AXIS, palette::INK)?;
        canvas.text(&y, (40.0, plot.top - 30.0), Align::Left, AXIS, palette::INK)
    }

    fn draw_data<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Result<(), PlotError> {
        for series in &self.figure.series {
            let finite = series.line.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
            let line: Vec<_> = finite.map(|p| self.clamped(*p)).collect();
            canvas.path(&line, series.colour, 3.0)?;
        }
        for limit in &self.figure.limits {
            if let Some(pixel) = self.limit_pixel(limit) {
                let (from, to) = self.limit_ends(limit.along, pixel);
                let colour = if limit.good.is_some() { palette::TARGET } else { palette::GREY };
                canvas.dashes(from, to, colour, if limit.good.is_some() { 4.0 } else { 2.0 })?;
            }
        }
        for series in &self.figure.series {
            let points = || series.points.iter().filter(|p| p.is_finite());
            for (from, to) in points().flat_map(|p| self.error_bars(p)) {
                canvas.path(&[from, to], series.colour, 2.0)?;
                // Caps across the ends.
                let cap = if (from.1 - to.1).abs() < 0.5 { (0.0, 7.0) } else { (7.0, 0.0) };
                for (x, y) in [from, to] {
                    canvas.path(&[(x - cap.0, y - cap.1), (x + cap.0, y + cap.1)], series.colour, 2.0)?;
                }
            }
            if let Some(marker) = series.marker {
                for point in points() {
                    let at = self.at((point.x, point.y));
                    canvas.marker(marker, at, MARKER_RADIUS, series.colour)?;
                }
            }
        }
        for point in self.figure.points().filter(|p| p.chosen) {
            canvas.ring(self.at((point.x, point.y)), RING_RADIUS, palette::INK, 4.0)?;
        }
        Ok(())
    }

    fn draw_leaders<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Result<(), PlotError> {
        let mut leaders = self.texts.iter().filter_map(|t| t.leader);
        leaders.try_for_each(|(from, to)| canvas.path(&[from, to], palette::GREY, 2.0))
    }

    fn draw_texts<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Result<(), PlotError> {
        for Placed { text, rect, kind, colour, crossed, .. } in &self.texts {
            if *crossed {
                let Rect { left, top, right, bottom } = *rect;
                let corners = [(left, top), (right, top), (right, bottom), (left, bottom)];
                canvas.polygon(&corners, plotters::style::WHITE.mix(0.85))?;
            }
            canvas.text(text, (rect.left + 3.0, f64::midpoint(rect.top, rect.bottom)), Align::Left, *kind, *colour)?;
        }
        Ok(())
    }

    fn draw_legend<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Result<(), PlotError> {
        if self.legend.is_empty() {
            return Ok(());
        }
        let left = self.plot.right + 36.0;
        let mut y = self.plot.top + 14.0;
        canvas.text(&self.figure.legend, (left, y), Align::Left, STRONG, palette::INK)?;
        for series in &self.legend {
            y += 42.0;
            if y > self.plot.bottom - 10.0 {
                return canvas.text("…", (left, y), Align::Left, LABEL, palette::INK);
            }
            if !series.line.is_empty() {
                canvas.path(&[(left, y), (left + 40.0, y)], series.colour, 3.0)?;
            }
            if let Some(marker) = series.marker {
                canvas.marker(marker, (left + 20.0, y), MARKER_RADIUS, series.colour)?;
            }
            let room = f64::from(SIZE.0) - left - 54.0 - 10.0;
            let name = fit(&series.name, LABEL, room)?.0;
            canvas.text(&name, (left + 54.0, y), Align::Left, LABEL, palette::INK)?;
        }
        Ok(())
    }

    fn draw_titles<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Result<(), PlotError> {
        let room = f64::from(SIZE.0) - 80.0;
        let mut note = self.figure.note.clone();
        if self.figure.points().any(|p| !self.error_bars(p).is_empty()) {
            note = format!("{note} {}", self.figure.bars);
        }
        let lines = [
            (&self.figure.title, 44.0, TITLE, palette::INK),
            (&self.figure.subtitle, 96.0, SUBTITLE, palette::GREY),
            (&note, f64::from(SIZE.1) - 30.0, NOTE, palette::GREY),
        ];
        for (text, y, kind, colour) in lines {
            let (text, kind) = fit(text, kind, room)?;
            canvas.text(&text, (40.0, y), Align::Left, kind, colour)?;
        }
        Ok(())
    }
}

/// A text in the size in which it fits, at least two thirds of the wanted; cut if that is not enough.
fn fit(text: &str, kind: Type, room: f64) -> Result<(String, Type), PlotError> {
    let width = text_size(text, kind)?.0;
    if width <= room {
        return Ok((text.to_owned(), kind));
    }
    let smaller = Type { size: kind.size * (room / width).max(2.0 / 3.0), ..kind };
    let mut kept = text.to_owned();
    let mut cut = kept.clone();
    while text_size(&cut, smaller)?.0 > room && kept.pop().is_some() {
        cut = format!("{}…", kept.trim_end());
    }
    Ok((cut, smaller))
}

impl Drawing for Layout<'_> {
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Result<(), PlotError> {
        self.draw_titles(canvas)?;
        if self.empty {
            let middle =
                (f64::midpoint(self.plot.left, self.plot.right), f64::midpoint(self.plot.top, self.plot.bottom));
            return canvas.text("Nothing was measured", middle, Align::Centre, SUBTITLE, palette::GREY);
        }
        self.draw_shades(canvas)?;
        self.draw_axes(canvas)?;
        self.draw_leaders(canvas)?;
        self.draw_data(canvas)?;
        self.draw_texts(canvas)?;
        self.draw_legend(canvas)
    }
}

#[cfg(test)]
impl Layout<'_> {
    /// Boxes of all texts within the plot, for tests.
    pub(super) fn text_boxes(&self) -> Vec<Rect> {
        self.texts.iter().map(|t| t.rect).collect()
    }
}

#[cfg(test)]
impl Figure {
    /// Boxes of all texts within the plot, for tests.
    pub(super) fn text_boxes(&self) -> Vec<Rect> {
        self.layout().unwrap().text_boxes()
    }
}
