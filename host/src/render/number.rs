//! Numbers for people.

/// With thousands separators and a fixed number of decimals: `12,345.6`. Not a number: `–`.
pub fn grouped(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(w, r)| (w, Some(r)));
    let mut out = String::with_capacity(text.len() + whole.len() / 3 + 1);
    // No "-0".
    if value < 0.0 && text.bytes().any(|b| b.is_ascii_digit() && b != b'0') {
        out.push('-');
    }
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(rest) = rest {
        out.push('.');
        out.push_str(rest);
    }
    out
}

/// With about three significant digits: `0.0123`, `1.23`, `12.3`, `123`, `1,234`.
pub fn short(value: f64) -> String {
    grouped(value, decimals_for(value))
}

/// A value with the half width of its interval, to the same decimals: `181 ±4`, `9.40 ±0.19`.
pub fn with_error(value: f64, half: f64) -> String {
    let decimals = decimals_for(value);
    if !half.is_finite() {
        return grouped(value, decimals);
    }
    format!("{} ±{}", grouped(value, decimals), grouped(half.abs(), decimals))
}

/// As a person would write it: up to three decimals, none that are zero: `20`, `12.5`.
pub fn plain(value: f64) -> String {
    let text = grouped(value, 3);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Decimals that show three significant digits, at most six.
fn decimals_for(value: f64) -> usize {
    let size = value.abs();
    if !size.is_finite() || size >= 99.95 || size == 0.0 {
        return 0;
    }
    let mut decimals = 1;
    let mut unit = 9.995;
    while size < unit && decimals < 6 {
        decimals += 1;
        unit /= 10.0;
    }
    decimals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators_and_three_digits() {
        let cases = [
            (0.0, "0"),
            (0.0123, "0.0123"),
            (1.2345, "1.23"),
            (9.999, "10.0"),
            (12.34, "12.3"),
            (99.96, "100"),
            (123.4, "123"),
            (1_234_567.8, "1,234,568"),
            (-1234.0, "-1,234"),
            (f64::NAN, "–"),
            (1e-12, "0.000000"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
        assert_eq!((with_error(181.3, 3.6), with_error(9.4, 0.188)), ("181 ±4".into(), "9.40 ±0.19".into()));
        assert_eq!(with_error(9.4, f64::NAN), "9.40");
        assert_eq!((plain(20.0), plain(12.5), plain(1_000.0)), ("20".into(), "12.5".into(), "1,000".into()));
        assert_eq!(grouped(-0.001, 1), "0.0");
        assert_eq!(grouped(999_999.96, 1), "1,000,000.0");
    }
}
