//! What of a user's overrides holds for the deployments that measure candidates: where pods may run and what they need
//! (images, secrets, volumes, node selectors, tolerations, resource claims, environment), since measurements are to be
//! those of the deployment in the end. What makes the candidate a candidate is left alone: its command line, its GPUs,
//! its replicas and nodes.

use serde_json::{Map, Value};

use super::component::FRONTEND;
use crate::domain::Role;

/// Name of the one worker of a deployment that measures.
pub(super) const WORKER: &str = "worker";

/// Fields of a component, in either version, that are the candidate's own.
const OF_THE_CANDIDATE: [&str; 8] =
    ["replicas", "type", "componentType", "subComponentType", "multinode", "scalingAdapter", "autoscaling", "scaling"];

/// Fields of a container that are.
const OF_ITS_CONTAINER: [&str; 2] = ["command", "args"];

/// The part of the overrides that holds for a candidate of that role, in terms of its own deployment.
pub(super) fn overrides(user: &Value, role: Role) -> Value {
    let Some(user) = user.as_object() else { return user.clone() };
    let mut out = Map::new();
    for (key, value) in user {
        let value = match key.as_str() {
            "metadata" => without(value, &["name", "namespace"]),
            "spec" => spec(value, role),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

fn without(value: &Value, keys: &[&str]) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(key, _)| !keys.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
        other => other.clone(),
    }
}

fn spec(value: &Value, role: Role) -> Value {
    let Some(spec) = value.as_object() else { return value.clone() };
    let mut out = Map::new();
    for (key, value) in spec {
        match (key.as_str(), value) {
            ("backendFramework", _) => {}
            ("components", Value::Array(list)) => {
                let of = |component: &Value| {
                    let name = component.get("name")?.as_str()?;
                    let mut kept = part(component);
                    kept.as_object_mut()?.insert("name".to_owned(), here(name, role)?.into());
                    Some(kept)
                };
                out.insert(key.clone(), list.iter().filter_map(of).collect());
            }
            ("services", Value::Object(map)) => {
                let of = |(name, service): (&String, &Value)| Some((here(name, role)?.to_owned(), part(service)));
                out.insert(key.clone(), Value::Object(map.iter().filter_map(of).collect()));
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(out)
}

/// What a component of the final deployment is called in one that measures, if it is there.
fn here(name: &str, role: Role) -> Option<&'static str> {
    match name {
        FRONTEND => Some(FRONTEND),
        name if name == role.as_str() => Some(WORKER),
        _ => None,
    }
}

fn part(component: &Value) -> Value {
    let mut kept = without(component, &OF_THE_CANDIDATE);
    if let Some(containers) = kept.pointer_mut("/podTemplate/spec/containers").and_then(Value::as_array_mut) {
        for container in containers.iter_mut().filter(|c| c.get("name").is_some_and(|n| n == super::render::MAIN)) {
            main(container);
        }
    }
    if let Some(container) = kept.pointer_mut("/extraPodSpec/mainContainer") {
        main(container);
    }
    if let Some(resources) = kept.get_mut("resources") {
        gpus_stay(resources);
    }
    kept
}

fn main(container: &mut Value) {
    *container = without(container, &OF_ITS_CONTAINER);
    if let Some(resources) = container.get_mut("resources") {
        gpus_stay(resources);
    }
}

fn gpus_stay(resources: &mut Value) {
    for kind in ["limits", "requests"] {
        if let Some(amounts) = resources.get_mut(kind) {
            *amounts = without(amounts, &["nvidia.com/gpu", "gpu"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn where_pods_run_holds_and_what_the_candidate_is_stays() {
        let user = json!({
            "metadata": { "name": "mine", "labels": { "team": "a" } },
            "spec": { "components": [
                { "name": "Frontend", "replicas": 3, "podTemplate": { "spec": { "imagePullSecrets": [{ "name": "s" }] } } },
                { "name": "decode", "replicas": 9, "multinode": { "nodeCount": 4 }, "podTemplate": { "spec": {
                    "nodeSelector": { "pool": "h200" }, "resourceClaims": [{ "name": "c" }],
                    "containers": [{ "name": "main", "args": ["--x"], "env": [{ "name": "A", "value": "1" }],
                        "resources": { "limits": { "nvidia.com/gpu": "8", "memory": "1Ti" }, "claims": [{ "name": "c" }] } }],
                } } },
                { "name": "prefill", "podTemplate": { "spec": { "nodeSelector": { "pool": "other" } } } },
                { "name": "Planner", "replicas": 0 },
            ] },
        });
        let decode = overrides(&user, Role::Decode);
        assert_eq!(
            decode,
            json!({
                "metadata": { "labels": { "team": "a" } },
                "spec": { "components": [
                    { "name": "Frontend", "podTemplate": { "spec": { "imagePullSecrets": [{ "name": "s" }] } } },
                    { "name": "worker", "podTemplate": { "spec": {
                        "nodeSelector": { "pool": "h200" }, "resourceClaims": [{ "name": "c" }],
                        "containers": [{ "name": "main", "env": [{ "name": "A", "value": "1" }],
                            "resources": { "limits": { "memory": "1Ti" }, "claims": [{ "name": "c" }] } }],
                    } } },
                ] },
            })
        );
        let prefill = overrides(&user, Role::Prefill);
        assert_eq!(prefill["spec"]["components"][1]["podTemplate"]["spec"]["nodeSelector"]["pool"], "other");
    }

    #[test]
    fn services_of_the_older_version_likewise() {
        let user = json!({ "spec": { "services": {
            "decode": { "replicas": 2, "resources": { "limits": { "gpu": "8", "memory": "1Ti" } },
                "extraPodSpec": { "nodeSelector": { "p": "q" }, "mainContainer": { "args": [], "image": "i" } } },
            "prefill": {},
        } } });
        assert_eq!(
            overrides(&user, Role::Decode),
            json!({ "spec": { "services": { "worker": {
                "resources": { "limits": { "memory": "1Ti" } },
                "extraPodSpec": { "nodeSelector": { "p": "q" }, "mainContainer": { "image": "i" } },
            } } } })
        );
    }
}
