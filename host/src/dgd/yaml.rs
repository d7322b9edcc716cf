//! YAML that every reader takes the same way.

use serde::Serialize;

use super::DgdError;

/// One document.
///
/// Strings that a YAML 1.1 reader would take for something else (`on`, `yes`, `1:30`) come out quoted, long lines are not
/// folded, and text of several lines is a literal block.
///
/// # Errors
/// If the value cannot be written as YAML.
pub fn to_yaml(value: &impl Serialize) -> Result<String, DgdError> {
    let mut options = serde_yaml::SerializerOptions::default();
    options.folded_wrap_chars = usize::MAX;
    serde_yaml::to_string_with_options(value, options).map_err(|e| DgdError::Yaml(e.to_string()))
}

/// Several documents in one stream.
///
/// # Errors
/// If one of them cannot be written as YAML.
pub fn documents<'a, T: Serialize + 'a>(values: impl IntoIterator<Item = &'a T>) -> Result<String, DgdError> {
    let documents = values.into_iter().map(to_yaml).collect::<Result<Vec<_>, _>>()?;
    Ok(documents.join("---\n"))
}

/// The first DynamoGraphDeployment of a YAML stream.
pub fn deployment_in(text: &str) -> Option<serde_json::Value> {
    let documents: Vec<serde_json::Value> = serde_yaml::from_multiple(text).ok()?;
    documents.into_iter().find(|document| document.get("kind").is_some_and(|kind| kind == "DynamoGraphDeployment"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn strings_stay_strings_for_yaml_1_1() {
        for text in
            ["on", "yes", "No", "y", "1:30", "0x1F", "1e3", "null", "~", "2026-01-01", "01", "", " x", "a: b", "#"]
        {
            let yaml = to_yaml(&json!({ text: text, "list": [text] })).unwrap();
            let quoted = yaml.matches('\'').count() + yaml.matches('"').count();
            assert_eq!(quoted, 6, "key and both values are quoted: {yaml}");
            let back: Value = serde_yaml::from_str(&yaml).unwrap();
            assert_eq!(back, json!({ text: text, "list": [text] }), "{yaml}");
        }
    }

    #[test]
    fn long_lines_are_kept_and_line_breaks_are_literal() {
        let long = "word ".repeat(60) + "end";
        let yaml = to_yaml(&json!({ "long": long, "lines": "a\n  b\n" })).unwrap();
        assert!(yaml.contains(&long), "{yaml}");
        assert!(yaml.contains("lines: |\n"), "{yaml}");
        let back: Value = serde_yaml::from_str(&yaml).unwrap();
        assert_eq!(back, json!({ "long": long, "lines": "a\n  b\n" }));
    }
}
