//! From figures to pixels: ranges that fit, ticks on round numbers.

use crate::render::number;

/// Range of an axis and how it is divided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

/// A mark on an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Where, as a fraction of the axis.
    pub at: f64,
    /// What it says.
    pub text: String,
}

/// Where an axis begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At zero, unless the scale is logarithmic: lengths can be compared.
    Zero,
    /// At zero and always linear: fractions of a whole.
    Whole,
    /// A little below the data.
    Data,
}

/// Beyond this ratio of the largest to the median, a few points would press all others together on a linear axis.
const EXPLODES: f64 = 6.0;

impl Scale {
    /// One that shows all finite values, with some air. Logarithmic where all are positive and a few are far larger than
    /// the rest. Without any value: 0 to 1.
    pub fn fit(values: impl IntoIterator<Item = f64>, start: Start) -> Self {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            return Self { low: 0.0, high: 1.0, log: false };
        };
        // Far outside of what is measured, differences would overflow.
        let (min, max) = (min.clamp(-1e100, 1e100), max.clamp(-1e100, 1e100));
        let median = values.get(values.len() / 2).copied().unwrap_or(max);
        if min > 1e-100 && max / median > EXPLODES && start != Start::Whole {
            return Self { low: min / 1.25, high: max * 1.25, log: true };
        }
        let span = if max > min { max - min } else { max.abs().max(1.0) };
        let low = if start != Start::Data && min >= 0.0 { 0.0 } else { min - 0.08 * span };
        let high = if max > low { max + 0.08 * (max - low) } else { low + span };
        Self { low, high, log: false }
    }

    /// Whether it is logarithmic.
    pub const fn is_log(&self) -> bool {
        self.log
    }

    /// Fraction of the axis, from 0 at its low to 1 at its high end; outside of it less or more.
    pub fn fraction(&self, value: f64) -> f64 {
        if self.log {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// The value at a fraction of the axis.
    pub fn value(&self, fraction: f64) -> f64 {
        if self.log {
            self.low * (self.high / self.low).powf(fraction)
        } else {
            self.low + fraction * (self.high - self.low)
        }
    }

    /// About as many ticks as wanted, on round numbers.
    pub fn ticks(&self, wanted: usize) -> Vec<Tick> {
        let values = if self.log { self.log_values(wanted) } else { self.linear_values(wanted) };
        values.into_iter().map(|v| Tick { at: self.fraction(v), text: tick_text(v, self.step(wanted)) }).collect()
    }

    /// Distance of linear ticks: 1, 2, 2.5 or 5 times a power of ten.
    fn step(&self, wanted: usize) -> f64 {
        let wanted = u32::try_from(wanted.max(2)).map_or(10.0, f64::from);
        let raw = (self.high - self.low) / wanted;
        let power = 10f64.powf(raw.log10().floor());
        let nice = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|m| m * power >= raw * 0.999).unwrap_or(10.0);
        nice * power
    }

    fn linear_values(&self, wanted: usize) -> Vec<f64> {
        let step = self.step(wanted);
        let first = (self.low / step - 1e-9).ceil();
        (0..64u32)
            .map(|i| (first + f64::from(i)) * step)
            .take_while(|v| *v <= self.high + 1e-9 * step)
            // Not "-0".
            .map(|v| if v.abs() < step * 1e-6 { 0.0 } else { v })
            .collect()
    }

    fn log_values(&self, wanted: usize) -> Vec<f64> {
        let sets: [&[f64]; 4] = [&[1.0, 1.5, 2.0, 3.0, 5.0, 7.0], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
        let (from, to) = (self.low.log10().floor(), self.high.log10().ceil());
        let decades = (to - from).clamp(1.0, 400.0);
        let per_set = |set: &[f64], stride: f64| -> Vec<f64> {
            (0..=400u32)
                .map(|i| from + f64::from(i) * stride)
                .take_while(|e| *e <= to)
                .flat_map(|e| set.iter().map(move |m| m * 10f64.powf(e)))
                .filter(|v| (self.low..=self.high).contains(v))
                .collect()
        };
        let fine = sets.iter().map(|set| per_set(set, 1.0)).find(|values| values.len() <= wanted.max(2));
        fine.unwrap_or_else(|| per_set(&[1.0], (decades / 6.0).ceil()))
    }
}

/// As many decimals as the distance of the ticks needs.
fn tick_text(value: f64, step: f64) -> String {
    if value != 0.0 && !(1e-4..1e9).contains(&value.abs()) {
        return format!("{value:.0e}");
    }
    let decimals = (0..7).find(|d| {
        let scaled = value * 10f64.powi(*d);
        let near = |x: f64| (x - x.round()).abs() < 1e-6 * x.abs().max(1.0);
        near(scaled) && (step >= 1e9 || near(scaled))
    });
    let decimals = decimals.and_then(|d| usize::try_from(d).ok()).unwrap_or(6);
    number::grouped(value, decimals)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ticks_are_round_numbers_with_separators() {
        let scale = Scale::fit([100.0, 11_800.0], Start::Zero);
        let texts: Vec<_> = scale.ticks(6).into_iter().map(|t| t.text).collect();
        assert_eq!(texts, ["0", "2,500", "5,000", "7,500", "10,000", "12,500"]);
    }

    #[test]
    fn a_few_huge_points_make_the_axis_logarithmic() {
        assert!(Scale::fit([5.0, 6.0, 7.0, 8.0, 900.0], Start::Zero).is_log());
        assert!(!Scale::fit([5.0, 6.0, 7.0, 8.0, 30.0], Start::Zero).is_log());
        assert!(!Scale::fit([0.0, 1.0, 900.0], Start::Zero).is_log());
        assert!(!Scale::fit([1.0, 1.0, 1.0, 90.0], Start::Whole).is_log());
    }

    proptest! {
        #[test]
        fn every_finite_value_lies_on_the_axis(values in proptest::collection::vec(proptest::num::f64::ANY, 0..20), zero: bool) {
            let scale = Scale::fit(values.iter().copied(), if zero { Start::Zero } else { Start::Data });
            for v in values.iter().filter(|v| v.abs() < 1e100) {
                let f = scale.fraction(*v);
                prop_assert!((-1e-6..=1.000_001).contains(&f), "{} at {} of {:?}", v, f, scale);
            }
            let ticks = scale.ticks(7);
            prop_assert!(ticks.len() < 70);
            for t in ticks {
                prop_assert!((-1e-3..=1.001).contains(&t.at), "{:?} {:?}", t, scale);
            }
        }
    }
}
