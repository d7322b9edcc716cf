//! Curves through measured points.

/// A curve that never falls, through points that noise may have put out of order: straight between them, level before
/// the first.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve(Vec<(f64, f64)>);

impl Curve {
    /// Isotonic regression: pools neighbours that are out of order into their weighted mean (M. Ayer et al., "An
    /// empirical distribution function for sampling with incomplete information", Ann. Math. Stat. 26, 1955). Points are
    /// (x, y, weight); those with a number that is not finite, or no weight, are left out. `None` if no point is left.
    pub fn isotonic(points: impl IntoIterator<Item = (f64, f64, f64)>) -> Option<Self> {
        let usable = |(x, y, w): &(f64, f64, f64)| x.is_finite() && y.is_finite() && *w > 0.0 && w.is_finite();
        let mut points: Vec<_> = points.into_iter().filter(usable).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Blocks of (sum of w·y, sum of w, xs); equal x is one block from the start.
        let mut blocks: Vec<(f64, f64, Vec<f64>)> = Vec::new();
        for (x, y, w) in points {
            match blocks.last_mut() {
                Some((wy, sum, xs)) if xs.last() == Some(&x) => {
                    *wy += w * y;
                    *sum += w;
                }
                _ => blocks.push((w * y, w, vec![x])),
            }
            while let [.., (wy, w, _), (next_wy, next_w, _)] = blocks.as_slice() {
                if wy / w <= next_wy / next_w {
                    break;
                }
                let Some((wy, w, xs)) = blocks.pop() else { break };
                if let Some(merged) = blocks.last_mut() {
                    merged.0 += wy;
                    merged.1 += w;
                    merged.2.extend(xs);
                }
            }
        }
        let points: Vec<_> =
            blocks.into_iter().flat_map(|(wy, w, xs)| xs.into_iter().map(move |x| (x, wy / w))).collect();
        (!points.is_empty()).then_some(Self(points))
    }

    /// Largest x that was measured.
    pub fn end(&self) -> f64 {
        self.0.last().map_or(0.0, |p| p.0)
    }

    /// Straight between points, level outside of them.
    pub fn at(&self, x: f64) -> f64 {
        let after = self.0.partition_point(|p| p.0 < x);
        match (after.checked_sub(1).and_then(|i| self.0.get(i)), self.0.get(after)) {
            (Some(&(x0, y0)), Some(&(x1, y1))) if x1 > x0 => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
            (_, Some(&(_, y))) | (Some(&(_, y)), None) => y,
            (None, None) => f64::NAN,
        }
    }

    /// Like [`at`](Self::at), but smooth between points, and still never falling: the monotone cubic of F. N. Fritsch and
    /// J. Butland, "A method for constructing local monotone piecewise cubic interpolants", SIAM J. Sci. Stat. Comput. 5
    /// (1984), known as PCHIP. For TTFT, which grows faster than the length.
    pub fn smooth_at(&self, x: f64) -> f64 {
        let after = self.0.partition_point(|p| p.0 < x);
        let Some(before) = after.checked_sub(1) else { return self.at(x) };
        let (Some(&(x0, y0)), Some(&(x1, y1))) = (self.0.get(before), self.0.get(after)) else { return self.at(x) };
        let (h, slope) = (x1 - x0, (y1 - y0) / (x1 - x0));
        let secant = |i: Option<usize>| {
            let (a, b) = (self.0.get(i?)?, self.0.get(i? + 1)?);
            Some(((b.0 - a.0), (b.1 - a.1) / (b.0 - a.0)))
        };
        // Slope at a point between two gaps of widths h and k: a weighted harmonic mean. At an end: a parabola's, within
        // the bounds that keep the curve from turning.
        let inner = |(h, m): (f64, f64), (k, n): (f64, f64)| {
            if m * n <= 0.0 { 0.0 } else { 3.0 * (h + k) / ((2.0 * k + h) / m + (k + 2.0 * h) / n) }
        };
        let end = |(k, n): (f64, f64)| (((2.0 * h + k) * slope - h * n) / (h + k)).clamp(0.0, 3.0 * slope);
        let (left, right) = (secant(before.checked_sub(1)), secant(Some(after)));
        let here = (h, slope);
        let d0 = left.map_or_else(|| right.map_or(slope, end), |l| inner(l, here));
        let d1 = right.map_or_else(|| left.map_or(slope, end), |r| inner(here, r));
        let t = (x - x0) / h;
        let (c, b) = ((3.0 * slope - 2.0 * d0 - d1) * h, (d0 + d1 - 2.0 * slope) * h);
        y0 + t * (d0 * h + t * (c + t * b))
    }

    /// Like [`at`](Self::at), but beyond the last point it goes on as steeply as it rose over its last half.
    pub fn at_or_straight(&self, x: f64) -> f64 {
        let end = self.end();
        let half = self.0.iter().rfind(|p| p.0 <= end / 2.0).or(self.0.first());
        match half {
            Some(&(x0, y0)) if x > end && end > x0 => self.at(end) + (self.at(end) - y0) / (end - x0) * (x - end),
            _ => self.at(x),
        }
    }

    /// Like [`at`](Self::at), but beyond the last point y grows as x does. For ITL against load that means: what was not
    /// measured brings no more throughput.
    pub fn at_or_proportional(&self, x: f64) -> f64 {
        let end = self.end();
        if x > end && end > 0.0 { self.at(end) * x / end } else { self.at(x) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_order_are_met_exactly_and_joined_straight() {
        let curve = Curve::isotonic([(2.0, 20.0, 1.0), (1.0, 10.0, 5.0), (4.0, 60.0, 1.0)]).unwrap();
        assert_eq!([curve.at(1.0), curve.at(2.0), curve.at(3.0), curve.at(4.0)], [10.0, 20.0, 40.0, 60.0]);
        assert_eq!((curve.at(0.0), curve.at(9.0), curve.at_or_proportional(8.0)), (10.0, 60.0, 120.0));
        assert_eq!((curve.at_or_straight(5.0), curve.at_or_straight(3.0)), (80.0, 40.0));
    }

    #[test]
    fn smooth_curves_meet_their_points_never_fall_and_follow_a_parabola() {
        let parabola = |x: f64| 20.0 + 0.03 * x + 3e-6 * x * x;
        let points: Vec<_> = [100.0, 416.0, 1732.0, 3000.0, 7208.0, 30_000.0].map(|x| (x, parabola(x), 1.0)).into();
        let curve = Curve::isotonic(points.clone()).unwrap();
        for (x, y, _) in points {
            assert!((curve.smooth_at(x) - y).abs() < 1e-9);
        }
        let mut before = 0.0;
        for i in 10..3100 {
            let (x, y) = (f64::from(i) * 10.0, curve.smooth_at(f64::from(i) * 10.0));
            assert!(y >= before, "falls at {x}");
            assert!((y / parabola(x.min(30_000.0)) - 1.0).abs() < 0.12, "{x}: {y} {}", parabola(x));
            before = y;
        }
        let two = Curve::isotonic([(1.0, 1.0, 1.0), (3.0, 5.0, 1.0)]).unwrap();
        assert_eq!((two.smooth_at(0.0), two.smooth_at(2.0), two.smooth_at(9.0)), (1.0, 3.0, 5.0));
    }

    #[test]
    fn points_out_of_order_are_pooled_by_weight() {
        let curve = Curve::isotonic([(1.0, 1.0, 1.0), (2.0, 9.0, 1.0), (3.0, 3.0, 2.0), (4.0, 10.0, 1.0)]).unwrap();
        assert_eq!([curve.at(2.0), curve.at(2.5), curve.at(3.0)], [5.0, 5.0, 5.0]);
    }

    #[test]
    fn two_looks_at_one_point_are_averaged() {
        let curve = Curve::isotonic([(1.0, 1.0, 1.0), (1.0, 4.0, 2.0)]).unwrap();
        assert_eq!(curve.at(1.0), 3.0);
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let points = [(1.0, f64::NAN, 1.0), (f64::INFINITY, 1.0, 1.0), (1.0, 1.0, 0.0)];
        assert_eq!(Curve::isotonic(points), None);
    }
}
