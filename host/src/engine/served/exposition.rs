//! Prometheus' text format, as far as gauges need it. Of the parsers on crates.io, `prometheus-parse` knows no colon in
//! a name (vLLM's and SGLang's all have one) and none tells two series of one name apart by labels with commas in them.

/// One line: a name, labels, a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// `vllm:num_requests_running`
    pub name: String,
    /// In the order of the line.
    pub labels: Vec<(String, String)>,
    /// May be NaN or infinite.
    pub value: f64,
}

impl Sample {
    /// The label's value; `None` where the line has no such label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// All samples of a page. Comments, and lines that are none of the format's, are passed over.
pub fn parse(page: &str) -> Vec<Sample> {
    page.lines().filter_map(|line| sample(line.trim())).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, mut rest) = line.split_at_checked(end)?;
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, quoted) = rest.split_once("=\"")?;
            let (value, after) = unquote(quoted)?;
            labels.push((key.trim().to_owned(), value));
            rest = after;
        }
    }
    // A timestamp may follow.
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_with_colons_and_labels_with_commas_are_read() {
        let page = "# HELP vllm:x some help\n# TYPE vllm:x gauge\n\
                    vllm:x{a=\"1,2\",b=\"q\\\"{}\\n\", } 1.5e3 1700000000\n\
                    plain 7\nnan_value NaN\nbroken{a=\"1 3\nnovalue{}\n{} 3\n";
        let samples = parse(page);
        let names: Vec<&str> = samples.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["vllm:x", "plain", "nan_value"]);
        assert_eq!((samples[0].label("a"), samples[0].label("b")), (Some("1,2"), Some("q\"{}\n")));
        assert_eq!((samples[0].value, samples[1].value), (1500.0, 7.0));
        assert_eq!(samples[0].label("c"), None);
    }

    proptest! {
        #[test]
        fn any_page_is_read_without_a_panic(page in "[a-z:{}=\",\\\\ #\n0-9é]{0,200}") {
            let _ = parse(&page);
        }

        #[test]
        fn what_is_written_is_read(name in "[a-z_:]{1,12}", value in -1e9_f64..1e9, label in "[^\r\n]{0,12}") {
            let quoted = label.replace('\\', "\\\\").replace('"', "\\\"");
            let samples = parse(&format!("{name}{{k=\"{quoted}\"}} {value}"));
            prop_assert_eq!(samples, vec![Sample { name, labels: vec![("k".into(), label)], value }]);
        }
    }
}
