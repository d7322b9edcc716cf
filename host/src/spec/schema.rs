//! JSON schema of a DGDR, our additions included.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::request::{KIND, Metadata, V1ALPHA1, V1BETA1};
use super::{v1alpha1, v1beta1};

/// JSON schema (draft 2020-12) of a whole DGDR, v1alpha1 or v1beta1.
///
/// The form depends on `apiVersion`, so that an editor complains about the one that is meant.
pub fn dgdr_schema() -> Value {
    let mut generator: SchemaGenerator = SchemaSettings::draft2020_12().into_generator();
    let metadata = generator.subschema_for::<Metadata>();
    let beta = generator.subschema_for::<v1beta1::Spec>();
    // Both versions have types of the same names; the generator numbers the second ones.
    let alpha = generator.subschema_for::<v1alpha1::Spec>();
    let definitions = generator.take_definitions(true);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": KIND,
        "description": "Input of sla-profiler: Dynamo's DGDR and the `profiler` block. The program also takes the spec alone.",
        "type": "object",
        "required": ["apiVersion", "kind", "spec"],
        "additionalProperties": false,
        "properties": {
            "apiVersion": { "enum": [V1BETA1, V1ALPHA1] },
            "kind": { "const": KIND },
            "metadata": metadata,
            "spec": true,
            "status": { "description": "Ignored.", "type": "object" }
        },
        "if": { "properties": { "apiVersion": { "const": V1ALPHA1 } } },
        "then": { "properties": { "spec": alpha } },
        "else": { "properties": { "spec": beta } },
        "$defs": definitions
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` of the schema.
    fn references(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    out.push(target.clone());
                }
                map.values().for_each(|value| references(value, out));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, out)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_has_its_definition() {
        let schema = dgdr_schema();
        let mut found = Vec::new();
        references(&schema, &mut found);
        assert!(found.len() > 20);
        for target in found {
            assert!(schema.pointer(target.trim_start_matches('#')).is_some(), "{target}");
        }
    }

    #[test]
    fn the_older_version_has_both_spellings() {
        let text = dgdr_schema().to_string();
        assert!(text.contains("maxContextLength") && text.contains("max_context_length"));
    }
}
