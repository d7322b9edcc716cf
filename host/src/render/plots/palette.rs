//! Colours and shapes that people with any kind of colour vision tell apart.

use plotters::style::RGBColor;

/// Text and axes.
pub const INK: RGBColor = RGBColor(34, 34, 34);

/// Less important text.
pub const GREY: RGBColor = RGBColor(96, 96, 96);

/// Grid lines.
pub const GRID: RGBColor = RGBColor(228, 228, 228);

/// Targets.
pub const TARGET: RGBColor = RGBColor(213, 94, 0);

/// The side on which a target is met.
pub const FEASIBLE: RGBColor = RGBColor(0, 158, 115);

/// Categories: Okabe and Ito's palette (jfly.uni-koeln.de/color) without its black, and without the vermilion that
/// targets have.
const CATEGORIES: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 94, 40),
];

/// An ordered scale from low to high: viridis without its palest end, which would be lost on white.
const ORDERED: [(u8, u8, u8); 6] =
    [(68, 1, 84), (65, 68, 135), (42, 120, 142), (34, 168, 132), (122, 209, 81), (200, 215, 30)];

/// Shape of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// ●
    Circle,
    /// ■
    Square,
    /// ▲
    Triangle,
    /// ◆
    Diamond,
    /// ▼
    TriangleDown,
    /// ✚
    Plus,
    /// ✖
    Cross,
}

const MARKERS: [Marker; 7] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::Diamond,
    Marker::TriangleDown,
    Marker::Plus,
    Marker::Cross,
];

/// Colour and shape of the n-th category. Six colours and seven shapes make 42 pairs before one comes again.
pub fn category(n: usize) -> (RGBColor, Marker) {
    let colour = CATEGORIES.get(n % CATEGORIES.len()).copied().unwrap_or(INK);
    (colour, marker(n))
}

/// Shape of the n-th category.
pub fn marker(n: usize) -> Marker {
    MARKERS.get(n % MARKERS.len()).copied().unwrap_or(Marker::Circle)
}

/// Colour at a fraction of an ordered scale.
pub fn ordered(fraction: f64) -> RGBColor {
    let last = u32::try_from(ORDERED.len() - 1).map_or(0.0, f64::from);
    let at = if fraction.is_finite() { fraction.clamp(0.0, 1.0) * last } else { 0.0 };
    // In range by the clamp.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 5")]
    let index = at.floor() as usize;
    let from = ORDERED.get(index).copied().unwrap_or_default();
    let to = ORDERED.get(index + 1).copied().unwrap_or(from);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two bytes")]
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * at.fract()).round() as u8;
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}
