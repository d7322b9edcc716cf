//! Names that Kubernetes and Grove take.

use serde_json::Value;

use super::{DgdError, render};

/// Most characters of a deployment's and a component's name together. Grove builds the names of pods from both and
/// adds its own part up to the 63 that a label holds (Dynamo's profiler has the same bound).
const MAX_NAMES: usize = 45;

/// Checks the names of a finished DGD.
pub(super) fn check(dgd: &Value) -> Result<(), DgdError> {
    let metadata = |key: &str| dgd.pointer(&format!("/metadata/{key}")).and_then(Value::as_str);
    let name = metadata("name").unwrap_or_default();
    label("the deployment", name)?;
    if let Some(namespace) = metadata("namespace") {
        label("a namespace", namespace)?;
    }
    for (component, _) in render::components(dgd) {
        // The operator makes them lower case.
        label("a component", &component.to_ascii_lowercase())?;
        let length = name.len() + component.len();
        if length > MAX_NAMES {
            return Err(DgdError::NamesTooLong { dgd: name.to_owned(), component, length, max: MAX_NAMES });
        }
    }
    Ok(())
}

/// A DNS-1123 label, which moreover starts with a letter: services are called like that (DNS-1035).
fn label(what: &'static str, name: &str) -> Result<(), DgdError> {
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 63
        && !name.ends_with('-')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if good { Ok(()) } else { Err(DgdError::Name { what, name: name.to_owned() }) }
}
