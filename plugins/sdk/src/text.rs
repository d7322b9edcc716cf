//! Figures in sentences.

/// Three significant digits at least, thousands apart: `1,843`, `17.9`, `0.0521`, `n/a` for what is no number.
pub fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "n/a".to_owned();
    }
    let magnitude = value.abs();
    if magnitude < 99.95 {
        let decimals = match magnitude {
            m if m >= 9.995 || m == 0.0 => 1,
            m if m >= 0.9995 => 2,
            m if m >= 0.09995 => 3,
            _ => 4,
        };
        return format!("{value:.decimals$}");
    }
    let digits = format!("{magnitude:.0}");
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
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
        ];
        for (value, text) in cases {
            assert_eq!(figure(value), text);
        }
    }
}
