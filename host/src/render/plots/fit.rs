//! Curves through measured points, to guide the eye.

/// `a + b·x + c·x²`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quadratic {
    a: f64,
    b: f64,
    c: f64,
}

impl Quadratic {
    /// Least squares, weighted by 1/y² so that relative errors count: TTFT grows over orders of magnitude. `None` for
    /// fewer than four points of different x, or if they determine no curve.
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        let mut xs: Vec<f64> = points.iter().map(|p| p.0).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        let scale = xs.last().copied().filter(|s| *s > 0.0 && s.is_finite())?;
        if xs.len() < 4 || points.iter().any(|(x, y)| !x.is_finite() || !y.is_finite() || *y <= 0.0) {
            return None;
        }
        // Normal equations in x / scale, so that the matrix is well conditioned.
        let mut m = [[0.0; 4]; 3];
        for (x, y) in points {
            let (t, w) = (x / scale, 1.0 / (y * y));
            let powers = [1.0, t, t * t];
            for (row, p) in m.iter_mut().zip(powers) {
                for (cell, q) in row.iter_mut().zip([1.0, t, t * t, *y]) {
                    *cell += w * p * q;
                }
            }
        }
        let [a, b, c] = solve(m)?;
        let fit = Self { a, b: b / scale, c: c / (scale * scale) };
        [fit.a, fit.b, fit.c].iter().all(|k| k.is_finite()).then_some(fit)
    }

    /// The curve at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.a + x * (self.b + x * self.c)
    }

    /// Mean of |fit − y| / y over the points.
    pub fn mean_relative_error(&self, points: &[(f64, f64)]) -> f64 {
        let errors = points.iter().map(|(x, y)| ((self.at(*x) - y) / y).abs());
        errors.sum::<f64>() / u32::try_from(points.len()).map_or(f64::NAN, f64::from)
    }
}

/// Gauss elimination with pivoting.
fn solve(mut m: [[f64; 4]; 3]) -> Option<[f64; 3]> {
    for column in 0..3 {
        let pivot = (column..3).max_by(|a, b| {
            let size = |r: &usize| m.get(*r).and_then(|r| r.get(column)).map_or(0.0, |v| v.abs());
            size(a).total_cmp(&size(b))
        })?;
        m.swap(column, pivot);
        let top = *m.get(column)?;
        let lead = *top.get(column)?;
        if lead == 0.0 || !lead.is_finite() {
            return None;
        }
        for (r, row) in m.iter_mut().enumerate() {
            let factor = row.get(column)? / lead;
            if r != column {
                row.iter_mut().zip(top).for_each(|(cell, t)| *cell -= factor * t);
            }
        }
    }
    let [[a, _, _, x], [_, b, _, y], [_, _, c, z]] = m;
    Some([x / a, y / b, z / c])
}

/// Points on a curve that passes through all given ones and never overshoots between two of them: piecewise cubic with
/// the slopes of Fritsch and Butland (SIAM J. Sci. Stat. Comput. 5, 1984). The points must ascend in x.
pub fn monotone(points: &[(f64, f64)], per_segment: u32) -> Vec<(f64, f64)> {
    let rise = |(a, b): (&(f64, f64), &(f64, f64))| (b.1 - a.1) / (b.0 - a.0);
    let rises: Vec<f64> = points.iter().zip(points.iter().skip(1)).map(rise).collect();
    // A slope between two rises of the same sign is their harmonic mean, else flat.
    let inner =
        rises.iter().zip(rises.iter().skip(1)).map(|(a, b)| if a * b > 0.0 { 2.0 * a * b / (a + b) } else { 0.0 });
    let first = rises.first().copied();
    let slopes: Vec<f64> = first.into_iter().chain(inner).chain(rises.last().copied()).collect();
    let mut out: Vec<(f64, f64)> = points.first().copied().into_iter().collect();
    let segments = points.iter().zip(points.iter().skip(1)).zip(slopes.iter().zip(slopes.iter().skip(1)));
    for ((&(x0, y0), &(x1, y1)), (&s0, &s1)) in segments {
        let h = x1 - x0;
        for i in 1..=per_segment.max(1) {
            let t = f64::from(i) / f64::from(per_segment.max(1));
            let (u, tt) = (1.0 - t, t * t);
            let y = y0 * (1.0 + 2.0 * t) * u * u + s0 * h * t * u * u + y1 * tt * (3.0 - 2.0 * t) - s1 * h * tt * u;
            out.push((x0 + t * h, y));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quadratic_is_found_again(a in 1.0..50.0, b in 0.001..0.1, c in 0.0..1e-6) {
            let points: Vec<_> = (1..10u32).map(|i| f64::from(i) * 1500.0).map(|x| (x, a + b * x + c * x * x)).collect();
            let fit = Quadratic::fit(&points).unwrap();
            prop_assert!(fit.mean_relative_error(&points) < 1e-6);
        }

        #[test]
        fn the_monotone_curve_stays_between_neighbours(ys in proptest::collection::vec(0.0..100.0, 2..8)) {
            let points: Vec<_> = ys.iter().zip(0u32..).map(|(y, x)| (f64::from(x), *y)).collect();
            for (x, y) in monotone(&points, 8) {
                let at = (x.floor() as usize).min(ys.len() - 2);
                let (low, high) = (ys[at].min(ys[at + 1]), ys[at].max(ys[at + 1]));
                prop_assert!((low - 1e-9..=high + 1e-9).contains(&y), "{} {} {:?}", x, y, ys);
            }
        }
    }

    #[test]
    fn too_little_determines_no_curve() {
        assert_eq!(Quadratic::fit(&[(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]), None);
        assert_eq!(Quadratic::fit(&[(1.0, 1.0); 8]), None);
        assert_eq!(monotone(&[], 4), []);
        assert_eq!(monotone(&[(1.0, 2.0)], 4), [(1.0, 2.0)]);
    }
}
