//! Figures in sentences.

/// Three significant digits at least, thousands apart: `1,843`, `17.9`, `0.0521`, `n/a` for what is no number.
///
/// Works on integers: formatting floats costs a guest thousands of instructions each, and a ranking holds hundreds.
pub fn figure(value: f64) -> String {
    let magnitude = value.abs();
    // Beyond this an f64 does not hold tenths, nor an i64 the digits.
    if !value.is_finite() || magnitude >= 1e15 {
        return if value.is_finite() { format!("{value:e}") } else { "n/a".to_owned() };
    }
    let (decimals, scale) = match magnitude {
        m if m >= 99.95 => (0, 1.0),
        m if m >= 9.995 || m == 0.0 => (1, 10.0),
        m if m >= 0.9995 => (2, 100.0),
        m if m >= 0.09995 => (3, 1000.0),
        _ => (4, 10_000.0),
    };
    let digits = format!("{:0width$}", (magnitude * scale).round() as u64, width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if decimals > 0 {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

/// `1 request`, `2 requests`
pub fn count(n: u32, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_a_person_writes_them() {
        let cases = [
            (1843.2, "1,843"),
            (17.94, "17.9"),
            (99.96, "100"),
            (9.999, "10.0"),
            (0.05214, "0.0521"),
            (1_234_567.0, "1,234,567"),
            (-1500.0, "-1,500"),
            (0.0, "0.0"),
            (f64::NAN, "n/a"),
            (f64::INFINITY, "n/a"),
            (0.000_04, "0.0000"),
            (0.5, "0.500"),
            (1e18, "1e18"),
        ];
        for (value, text) in cases {
            assert_eq!(figure(value), text);
        }
    }
}
