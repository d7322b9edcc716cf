//! A user's partial DGD, merged over the generated one by the rules of Kubernetes.
//!
//! - Maps are merged key by key; `null` takes a key away.
//! - Lists whose items have a name are merged item by item: `components`, `containers`, `initContainers`, `env`,
//!   `volumes` and `imagePullSecrets` by `name`, `volumeMounts` by `mountPath`, `ports` by `containerPort`. An item with
//!   `$patch: delete` goes; one that is new comes last.
//! - Any other list (`args`, `command`, `tolerations`, …) replaces the generated one.
//!
//! The partial DGD must be written for the API version of the output. It is not converted: what a user wrote would then
//! not be what they find in the file. A component that the generated DGD lacks is new and must say its type, which
//! catches misspelt names.

use serde_json::{Map, Value};

use super::render;

/// A partial DGD does not fit the generated one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    /// Not a map where one must be.
    #[error("{place} must be {wanted}, not {found}")]
    Shape {
        /// Path of the place.
        place: String,
        /// What belongs there.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// Written for another form.
    #[error(
        "it is written for {theirs} ({their_key}), the deployment for {ours} ({our_key}); write it with {our_key}, or \
         use --dgd-api {theirs}"
    )]
    Version {
        /// Version of the override.
        theirs: &'static str,
        /// Where that version has its components.
        their_key: &'static str,
        /// Version of the output.
        ours: &'static str,
        /// Where this version has its components.
        our_key: &'static str,
    },
    /// Of some other kind or API.
    #[error("its {key} is '{found}', not '{wanted}'")]
    Foreign {
        /// `kind` or `apiVersion`.
        key: &'static str,
        /// What it says.
        found: String,
        /// What it may say.
        wanted: String,
    },
    /// An item of a list merged by key has no key.
    #[error("an item of {place} has no {key}, by which it would be merged")]
    NoKey {
        /// Path of the list.
        place: String,
        /// The key.
        key: &'static str,
    },
    /// One name twice in a list: which of the two is meant would depend on the order.
    #[error("{place} has two items with {key} {id}; say it in one")]
    Twice {
        /// Path of the list.
        place: String,
        /// The key.
        key: &'static str,
        /// What both say.
        id: String,
    },
    /// A directive of strategic merge patches that is not followed here.
    #[error("'$patch: {0}' is not supported; only '$patch: delete' is, on an item of a list merged by key")]
    Patch(String),
    /// A component that is neither generated nor complete.
    #[error("there is no component '{name}' (there are {known}); a new one must say its {type_key}")]
    UnknownComponent {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
        /// `type` or `componentType`.
        type_key: &'static str,
    },
}

const BETA: (&str, &str, &str) = ("v1beta1", "spec.components", "type");
const ALPHA: (&str, &str, &str) = ("v1alpha1", "spec.services", "componentType");

/// Merges a partial DGD into a generated one. Twice is like once.
///
/// # Errors
/// [`OverrideError`] names the place.
pub fn apply(dgd: &mut Value, user: &Value) -> Result<(), OverrideError> {
    let Some(fields) = user.as_object() else {
        return Err(OverrideError::Shape { place: "it".to_owned(), wanted: "a map", found: kind_of(user) });
    };
    let ours = if is_beta(dgd) { BETA } else { ALPHA };
    check_version(fields, ours)?;
    check_directives(user)?;
    let before: Vec<String> = render::components(dgd).into_iter().map(|(name, _)| name).collect();
    merge(dgd, user, "")?;
    for (name, component) in render::components(dgd) {
        if !before.contains(&name) && component.get(ours.2).is_none() {
            return Err(OverrideError::UnknownComponent { name, known: before.join(", "), type_key: ours.2 });
        }
    }
    Ok(())
}

fn is_beta(dgd: &Value) -> bool {
    dgd.pointer("/spec/components").is_some()
}

fn check_version(user: &Map<String, Value>, ours: (&str, &str, &str)) -> Result<(), OverrideError> {
    for (key, wanted) in
        [("kind", "DynamoGraphDeployment".to_owned()), ("apiVersion", format!("nvidia.com/{}", ours.0))]
    {
        if let Some(found) = user.get(key)
            && found.as_str() != Some(&wanted)
            // A known version is told about below, with what to do.
            && !(key == "apiVersion" && [BETA, ALPHA].iter().any(|v| found == &format!("nvidia.com/{}", v.0)))
        {
            let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            return Err(OverrideError::Foreign { key, found, wanted });
        }
    }
    let (ours, theirs) = if ours.0 == BETA.0 { (BETA, ALPHA) } else { (ALPHA, BETA) };
    let says_so = user.get("apiVersion").is_some_and(|v| v == &format!("nvidia.com/{}", theirs.0));
    let key = theirs.1.trim_start_matches("spec.");
    if says_so || user.get("spec").is_some_and(|spec| spec.get(key).is_some()) {
        return Err(OverrideError::Version { theirs: theirs.0, their_key: theirs.1, ours: ours.0, our_key: ours.1 });
    }
    Ok(())
}

fn check_directives(value: &Value) -> Result<(), OverrideError> {
    match value {
        Value::Object(map) => {
            if let Some(directive) = map.get("$patch").filter(|d| *d != "delete") {
                return Err(OverrideError::Patch(directive.as_str().unwrap_or("…").to_owned()));
            }
            map.values().try_for_each(check_directives)
        }
        Value::Array(items) => items.iter().try_for_each(check_directives),
        _ => Ok(()),
    }
}

/// By which key the items of a list are the same, if they are merged at all.
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "components" | "containers" | "initContainers" | "env" | "volumes" | "imagePullSecrets" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "ports" => Some("containerPort"),
        _ => None,
    }
}

fn merge(base: &mut Value, over: &Value, place: &str) -> Result<(), OverrideError> {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => merge_maps(base, over, place),
        (base, over) => {
            check_kind(base, over, place)?;
            *base = as_new(over, place)?;
            Ok(())
        }
    }
}

fn merge_maps(base: &mut Map<String, Value>, over: &Map<String, Value>, place: &str) -> Result<(), OverrideError> {
    for (key, value) in over {
        let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
        match (base.get_mut(key), value) {
            (_, Value::Null) => {
                base.shift_remove(key);
            }
            (slot, Value::Array(items)) if merge_key(key).is_some() => {
                let merge_key = merge_key(key).unwrap_or("name");
                let mut list = match slot {
                    None => Vec::new(),
                    Some(Value::Array(list)) => std::mem::take(list),
                    Some(other) => {
                        check_kind(other, value, &place)?;
                        Vec::new()
                    }
                };
                merge_lists(&mut list, items, merge_key, &place)?;
                base.insert(key.clone(), Value::Array(list));
            }
            (Some(slot), value) => merge(slot, value, &place)?,
            (None, value) => {
                let new = as_new(value, &place)?;
                base.insert(key.clone(), new);
            }
        }
    }
    Ok(())
}

fn merge_lists(base: &mut Vec<Value>, over: &[Value], key: &'static str, place: &str) -> Result<(), OverrideError> {
    for (at, item) in over.iter().enumerate() {
        let id = item.get(key).ok_or_else(|| OverrideError::NoKey { place: place.to_owned(), key })?;
        if over.iter().take(at).any(|earlier| earlier.get(key) == Some(id)) {
            return Err(OverrideError::Twice { place: place.to_owned(), key, id: id.to_string() });
        }
        let position = base.iter().position(|b| b.get(key) == Some(id));
        if item.get("$patch").is_some_and(|p| p == "delete") {
            base.retain(|b| b.get(key) != Some(id));
        } else if let Some(slot) = position.and_then(|at| base.get_mut(at)) {
            let name = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
            merge(slot, item, &format!("{place}[{name}]"))?;
        } else {
            base.push(as_new(item, place)?);
        }
    }
    Ok(())
}

/// A map is not to be replaced by something else, nor something else by a map: Kubernetes would refuse the result, with
/// less of a hint.
fn check_kind(base: &Value, over: &Value, place: &str) -> Result<(), OverrideError> {
    let wanted = match base {
        Value::Object(_) => "a map",
        Value::Array(_) => "a list",
        _ if over.is_object() || over.is_array() => "a single value",
        _ => return Ok(()),
    };
    if kind_of(over) == wanted {
        return Ok(());
    }
    Err(OverrideError::Shape { place: place.to_owned(), wanted, found: kind_of(over) })
}

const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "a map",
        Value::Array(_) => "a list",
        Value::Null => "nothing",
        _ => "a single value",
    }
}

/// A part that is not there yet: merged into nothing, so that it comes out as it would the second time.
fn as_new(value: &Value, place: &str) -> Result<Value, OverrideError> {
    match value {
        Value::Object(map) => {
            let mut new = Map::new();
            merge_maps(&mut new, map, place)?;
            Ok(Value::Object(new))
        }
        Value::Array(items) => {
            let gone = |v: &&Value| v.get("$patch").is_some_and(|p| p == "delete");
            items.iter().filter(|v| !gone(v)).map(|v| as_new(v, place)).collect()
        }
        other => Ok(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn beta() -> Value {
        json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": { "name": "d" },
            "spec": { "components": [
                { "name": "Frontend", "type": "frontend", "replicas": 1 },
                { "name": "decode", "type": "decode", "replicas": 2, "podTemplate": { "spec": { "containers": [
                    { "name": "main", "args": ["--a", "1"], "env": [{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }] },
                ] } } },
            ] },
        })
    }

    #[test]
    fn lists_with_names_merge_by_name_and_other_lists_are_replaced() {
        let mut dgd = beta();
        let user = json!({ "spec": { "components": [ { "name": "decode", "podTemplate": { "spec": {
            "containers": [
                { "name": "main", "args": ["--b"], "env": [{ "name": "B", "value": "3" }, { "name": "A", "$patch": "delete" }] },
                { "name": "sidecar", "image": "x", "args": null },
            ],
            "nodeSelector": { "pool": "h200" },
        } } } ] } });
        apply(&mut dgd, &user).unwrap();
        let pod = dgd.pointer("/spec/components/1/podTemplate/spec").unwrap();
        assert_eq!(
            pod,
            &json!({
                "containers": [
                    { "name": "main", "args": ["--b"], "env": [{ "name": "B", "value": "3" }] },
                    { "name": "sidecar", "image": "x" },
                ],
                "nodeSelector": { "pool": "h200" },
            })
        );
        assert_eq!(dgd.pointer("/spec/components/1/replicas"), Some(&json!(2)));
    }

    #[test]
    fn null_takes_a_key_away() {
        let mut dgd = beta();
        apply(&mut dgd, &json!({ "spec": { "components": [{ "name": "decode", "replicas": null }] } })).unwrap();
        assert_eq!(dgd.pointer("/spec/components/1/replicas"), None);
    }

    #[test]
    fn each_way_of_not_fitting_is_told() {
        let cases = [
            (json!([]), "it must be a map, not a list"),
            (json!({ "spec": { "services": {} } }), "use --dgd-api v1alpha1"),
            (json!({ "apiVersion": "nvidia.com/v1alpha1" }), "write it with spec.components"),
            (json!({ "apiVersion": "apps/v1" }), "its apiVersion is 'apps/v1'"),
            (json!({ "kind": "Deployment" }), "its kind is 'Deployment'"),
            (json!({ "spec": { "components": [{ "replicas": 3 }] } }), "an item of spec.components has no name"),
            (json!({ "spec": { "components": { "decode": {} } } }), "spec.components must be a list, not a map"),
            (
                json!({ "spec": { "components": [{ "name": "Decode" }] } }),
                "there is no component 'Decode' (there are Frontend, decode)",
            ),
            (
                json!({ "spec": { "components": [{ "name": "decode" }, { "name": "decode", "replicas": 3 }] } }),
                "spec.components has two items with name \"decode\"",
            ),
            (json!({ "spec": { "$patch": "replace" } }), "'$patch: replace' is not supported"),
            (json!({ "metadata": { "name": {} } }), "metadata.name must be a single value, not a map"),
            (
                json!({ "spec": { "components": [{ "name": "decode", "podTemplate": [] }] } }),
                "spec.components[decode].podTemplate must be a map, not a list",
            ),
        ];
        for (user, told) in cases {
            let error = apply(&mut beta(), &user).unwrap_err().to_string();
            assert!(error.contains(told), "{user}: {error}");
        }
    }

    /// Partial DGDs over few names, so that they meet what is there.
    fn partial() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3u32).prop_map(Value::from),
            "[a-c]".prop_map(Value::from),
        ];
        let key = || proptest::sample::select(vec!["a", "b", "env", "containers", "args", "volumeMounts"]);
        let tree = leaf.prop_recursive(4, 24, 4, move |inner| {
            let map = proptest::collection::btree_map(key().prop_map(str::to_owned), inner.clone(), 0..4);
            let named = (map.clone(), "[a-c]", any::<bool>()).prop_map(|(map, name, gone)| {
                let mut item: Map<String, Value> = map.into_iter().collect();
                item.insert("name".to_owned(), name.clone().into());
                item.insert("mountPath".to_owned(), name.into());
                if gone {
                    item.insert("$patch".to_owned(), "delete".into());
                }
                Value::Object(item)
            });
            prop_oneof![
                map.prop_map(|m| Value::Object(m.into_iter().collect())),
                proptest::collection::vec(named, 0..4).prop_map(|mut items| {
                    let mut seen = std::collections::BTreeSet::new();
                    items.retain(|item| seen.insert(item.get("name").map(ToString::to_string)));
                    Value::Array(items)
                }),
            ]
        });
        tree.prop_map(|t| json!({ "spec": { "x": t } }))
    }

    proptest! {
        // Half of the pairs do not fit each other.
        #![proptest_config(ProptestConfig { max_global_rejects: 1_000_000, ..ProptestConfig::default() })]
        #[test]
        fn merging_twice_is_merging_once(first in partial(), second in partial()) {
            let mut once = beta();
            prop_assume!(apply(&mut once, &first).is_ok());
            prop_assume!(apply(&mut once, &second).is_ok());
            let mut twice = once.clone();
            apply(&mut twice, &second).unwrap();
            prop_assert_eq!(once, twice);
        }
    }
}
