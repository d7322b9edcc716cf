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
