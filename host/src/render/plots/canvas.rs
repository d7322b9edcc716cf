//! Pixels and vectors: what plotters draws on, and how its output becomes bytes.

use std::{fmt::Display, sync::OnceLock};

use plotters::{
    coord::Shift,
    element::{Circle, PathElement, Polygon, Text},
    prelude::{BitMapBackend, DrawingArea, DrawingBackend, IntoDrawingArea, SVGBackend},
    style::{
        Color, FontDesc, FontFamily, FontStyle, RGBAColor, RGBColor, ShapeStyle, TextStyle, WHITE, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{PlotError, palette::Marker};

/// Size of a picture in pixels.
pub const SIZE: (u32, u32) = (1600, 1000);

/// A PNG is drawn this much larger and averaged down, since plotters leaves edges of filled shapes jagged.
const OVERSAMPLE: u32 = 2;

/// Name under which the embedded font is known; in an SVG file, the viewer's own stands in.
const FONT: FontFamily<'static> = FontFamily::SansSerif;

/// What a text is aligned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Begins there.
    Left,
    /// Has its middle there.
    Centre,
    /// Ends there.
    Right,
}

/// Weight and size of a text, in pixels of the finished picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Type {
    /// Line height.
    pub size: f64,
    /// Thicker strokes.
    pub bold: bool,
}

/// Draws on any of plotters' backends, in pixels of the finished picture.
pub struct Canvas<'a, DB: DrawingBackend> {
    area: &'a DrawingArea<DB, Shift>,
    scale: f64,
    /// By how much of its size a text is lowered to stand in the middle of its place.
    lower: f64,
}

impl<DB: DrawingBackend> Canvas<'_, DB> {
    fn pixel(&self, (x, y): (f64, f64)) -> (i32, i32) {
        // Nothing is drawn beyond the picture; the clamp keeps casts and plotters' arithmetic in range.
        #[expect(clippy::cast_possible_truncation, reason = "clamped")]
        let whole = |v: f64| (v * self.scale).round().clamp(-20_000.0, 20_000.0) as i32;
        (whole(x), whole(y))
    }

    fn pixels(&self, points: &[(f64, f64)]) -> Vec<(i32, i32)> {
        let mut pixels: Vec<_> = points.iter().map(|p| self.pixel(*p)).collect();
        pixels.dedup();
        pixels
    }

    fn stroke(&self, colour: impl Color, width: f64) -> ShapeStyle {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let width = (width * self.scale).round().clamp(1.0, 100.0) as u32;
        colour.stroke_width(width)
    }

    /// A filled shape.
    pub fn polygon(&self, points: &[(f64, f64)], colour: RGBAColor) -> Result<(), PlotError> {
        let pixels = self.pixels(points);
        if pixels.len() < 3 {
            return Ok(());
        }
        self.area.draw(&Polygon::new(pixels, colour.filled())).map_err(failed)
    }

    /// A line through points.
    pub fn path(&self, points: &[(f64, f64)], colour: RGBColor, width: f64) -> Result<(), PlotError> {
        let pixels = self.pixels(points);
        if pixels.len() < 2 {
            return Ok(());
        }
        self.area.draw(&PathElement::new(pixels, self.stroke(colour, width))).map_err(failed)
    }

    /// A dashed line from one point to another.
    pub fn dashes(&self, from: (f64, f64), to: (f64, f64), colour: RGBColor, width: f64) -> Result<(), PlotError> {
        const ON: f64 = 14.0;
        const OFF: f64 = 8.0;
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy);
        let point = |at: f64| (from.0 + dx * at / length, from.1 + dy * at / length);
        let mut at = 0.0;
        while at < length && length < 1e5 {
            self.path(&[point(at), point((at + ON).min(length))], colour, width)?;
            at += ON + OFF;
        }
        Ok(())
    }

    /// A circle's outline.
    pub fn ring(&self, centre: (f64, f64), radius: f64, colour: RGBColor, width: f64) -> Result<(), PlotError> {
        let turn = std::f64::consts::TAU / 64.0;
        let points: Vec<_> = (0..=64u32)
            .map(|i| (f64::from(i) * turn).sin_cos())
            .map(|(s, c)| (centre.0 + radius * c, centre.1 + radius * s))
            .collect();
        self.path(&points, colour, width)
    }

    /// A point, with a white edge so that points on top of each other stay apart.
    pub fn marker(&self, marker: Marker, (x, y): (f64, f64), radius: f64, colour: RGBColor) -> Result<(), PlotError> {
        self.shape(marker, (x, y), radius + 2.5, WHITE)?;
        self.shape(marker, (x, y), radius, colour)
    }

    fn shape(&self, marker: Marker, (x, y): (f64, f64), r: f64, colour: RGBColor) -> Result<(), PlotError> {
        let corners = |list: &[(f64, f64)]| list.iter().map(|(dx, dy)| (x + dx * r, y + dy * r)).collect::<Vec<_>>();
        let bars =
            |list: [&[(f64, f64)]; 2]| list.iter().try_for_each(|bar| self.polygon(&corners(bar), colour.mix(1.0)));
        match marker {
            Marker::Circle => {
                #[expect(clippy::cast_possible_truncation, reason = "a few pixels")]
                let radius = (r * self.scale).round() as i32;
                self.area.draw(&Circle::new(self.pixel((x, y)), radius, colour.filled())).map_err(failed)
            }
            Marker::Square => {
                self.polygon(&corners(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]), colour.mix(1.0))
            }
            Marker::Triangle => self.polygon(&corners(&[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)]), colour.mix(1.0)),
            Marker::TriangleDown => self.polygon(&corners(&[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)]), colour.mix(1.0)),
            Marker::Diamond => {
                self.polygon(&corners(&[(0.0, -1.25), (1.1, 0.0), (0.0, 1.25), (-1.1, 0.0)]), colour.mix(1.0))
            }
            Marker::Plus => bars([
                &[(-1.1, -0.4), (1.1, -0.4), (1.1, 0.4), (-1.1, 0.4)],
                &[(-0.4, -1.1), (0.4, -1.1), (0.4, 1.1), (-0.4, 1.1)],
            ]),
            Marker::Cross => bars([
                &[(-1.1, -0.6), (-0.6, -1.1), (1.1, 0.6), (0.6, 1.1)],
                &[(1.1, -0.6), (0.6, -1.1), (-1.1, 0.6), (-0.6, 1.1)],
            ]),
        }
    }

    /// A line of text whose middle is at the height of the point.
    pub fn text(
        &self,
        text: &str,
        (x, y): (f64, f64),
        align: Align,
        kind: Type,
        colour: RGBColor,
    ) -> Result<(), PlotError> {
        let h = match align {
            Align::Left => HPos::Left,
            Align::Centre => HPos::Center,
            Align::Right => HPos::Right,
        };
        let style = TextStyle::from(font(kind, self.scale)).color(&colour).pos(Pos::new(h, VPos::Center));
        let at = self.pixel((x, y + self.lower * kind.size));
        self.area.draw(&Text::new(text.to_owned(), at, style)).map_err(failed)
    }
}

fn font(kind: Type, scale: f64) -> FontDesc<'static> {
    let style = if kind.bold { FontStyle::Bold } else { FontStyle::Normal };
    FontDesc::new(FONT, kind.size * scale, style)
}

fn failed(error: impl Display) -> PlotError {
    PlotError::Draw(error.to_string())
}

/// Width and height of a text in pixels.
///
/// # Errors
/// If the font cannot be read.
pub fn text_size(text: &str, kind: Type) -> Result<(f64, f64), PlotError> {
    fonts()?;
    // Measured large, since plotters rounds to whole pixels.
    let (width, _) = font(kind, 8.0).box_size(text).map_err(failed)?;
    Ok((f64::from(width) / 8.0, kind.size))
}

/// Makes the embedded fonts known to plotters, once.
fn fonts() -> Result<(), PlotError> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        let name = FONT.as_str();
        register_font(name, FontStyle::Normal, dejavu::sans::regular()).is_ok()
            && register_font(name, FontStyle::Bold, dejavu::sans::bold()).is_ok()
    });
    if *done { Ok(()) } else { Err(PlotError::Font) }
}

/// What a drawing routine is called with.
pub trait Drawing {
    /// Draws itself.
    ///
    /// # Errors
    /// If the backend fails.
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Result<(), PlotError>;
}

/// Draws into a PNG file's bytes.
///
/// # Errors
/// If the font, the backend or the encoder fails.
pub fn png(drawing: &impl Drawing) -> Result<Vec<u8>, PlotError> {
    fonts()?;
    let (width, height) = SIZE;
    let large = (width * OVERSAMPLE, height * OVERSAMPLE);
    let mut pixels = vec![255; bytes(large)];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, large).into_drawing_area();
        drawing.draw(&Canvas { area: &area, scale: f64::from(OVERSAMPLE), lower: 0.17 })?;
        area.present().map_err(failed)?;
    }
    let small = halve(&pixels, large.0);
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&small).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(out)
}

/// Draws into an SVG file's text.
///
/// # Errors
/// If the font or the backend fails.
pub fn svg(drawing: &impl Drawing) -> Result<String, PlotError> {
    fonts()?;
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        drawing.draw(&Canvas { area: &area, scale: 1.0, lower: 0.0 })?;
        area.present().map_err(failed)?;
    }
    Ok(out)
}

fn bytes((width, height): (u32, u32)) -> usize {
    usize::try_from(u64::from(width) * u64::from(height) * 3).unwrap_or(0)
}

/// Averages blocks of two by two RGB pixels.
fn halve(pixels: &[u8], width: u32) -> Vec<u8> {
    let row = bytes((width, 1)).max(1);
    let mut out = Vec::with_capacity(pixels.len() / 4);
    for rows in pixels.chunks_exact(2 * row) {
        let (upper, lower) = rows.split_at(row);
        for (a, b) in upper.chunks_exact(6).zip(lower.chunks_exact(6)) {
            if let ([r0, g0, b0, r1, g1, b1], [r2, g2, b2, r3, g3, b3]) = (a, b) {
                for four in [[r0, r1, r2, r3], [g0, g1, g2, g3], [b0, b1, b2, b3]] {
                    let sum: u16 = four.into_iter().map(|v| u16::from(*v)).sum();
                    out.push(u8::try_from((sum + 2) / 4).unwrap_or(u8::MAX));
                }
            }
        }
    }
    out
}
