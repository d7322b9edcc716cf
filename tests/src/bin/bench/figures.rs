//! What every table shares: how a figure is taken and written.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// First quartile, median and third quartile.
pub fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// `12.3 (11.9 to 13.0)`
pub fn spread(values: Vec<f64>) -> String {
    if values.iter().any(|value| value.is_nan()) {
        return "not taken".to_owned();
    }
    let [low, median, high] = quartiles(values);
    let text = |x: f64| {
        let digits = if x.abs() < 10.0 {
            2
        } else if x.abs() < 100.0 {
            1
        } else {
            0
        };
        format!("{x:.digits$}")
    };
    format!("{} ({} to {})", text(median), text(low), text(high))
}

/// Microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// How long it takes, in microseconds.
pub fn timed<T>(run: impl FnOnce() -> T) -> f64 {
    let started = Instant::now();
    black_box(run());
    micros(started.elapsed())
}
