//! Components in the shape of an API version.
//!
//! `v1beta1` lists components by name, each with a pod template; `v1alpha1` has a map of services, each with a pod
//! spec whose main container stands apart.

use serde_json::{Map, Value, json};

use super::component::{Component, Kind, Source};
use crate::{
    domain::Backend,
    spec::{DeploymentSpec, DgdApi},
};

/// Name of the container that Dynamo's operator fills in.
pub(super) const MAIN: &str = "main";

/// Secret with a Hugging Face token, as Dynamo's own deployments call it.
const HF_TOKEN_SECRET: &str = "hf-token-secret";

/// Steps 1 and 2 of the module's list.
pub(super) fn dgd(wishes: &DeploymentSpec, name: &str, framework: Option<Backend>, components: &[Component]) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), name.into());
    if let Some(namespace) = &wishes.namespace {
        metadata.insert("namespace".to_owned(), namespace.as_str().into());
    }
    for (key, map) in [("labels", &wishes.labels), ("annotations", &wishes.annotations)] {
        if !map.is_empty() {
            metadata.insert(key.to_owned(), json!(map));
        }
    }
    let mut spec = Map::new();
    if let Some(backend) = framework {
        spec.insert("backendFramework".to_owned(), backend.as_str().into());
    }
    let version = match wishes.api {
        DgdApi::V1beta1 => {
            let list = components.iter().map(|c| v1beta1(wishes, c)).collect();
            spec.insert("components".to_owned(), Value::Array(list));
            "v1beta1"
        }
        DgdApi::V1alpha1 => {
            let services = components.iter().map(|c| (c.name.clone(), v1alpha1(c))).collect();
            spec.insert("services".to_owned(), Value::Object(services));
            "v1alpha1"
        }
    };
    json!({
        "apiVersion": format!("nvidia.com/{version}"),
        "kind": "DynamoGraphDeployment",
        "metadata": metadata,
        "spec": spec,
    })
}

fn v1beta1(wishes: &DeploymentSpec, component: &Component) -> Value {
    let kind = match component.kind {
        Kind::Frontend => "frontend",
        Kind::Worker(None) => "worker",
        Kind::Worker(Some(role)) => role.as_str(),
        Kind::Planner => "planner",
    };
    let mut out = Map::new();
    out.insert("name".to_owned(), component.name.as_str().into());
    out.insert("type".to_owned(), kind.into());
    // Its presence says yes; the API knows no field in it, and refuses any where validation is strict.
    shared(component, json!({}), &mut out);
    if let Some(version) = &wishes.runtime_version_override {
        out.insert("runtimeVersionOverride".to_owned(), version.as_str().into());
    }

    let mut main = Map::new();
    main.insert("name".to_owned(), MAIN.into());
    container(component, &mut main);
    if component.gpus_per_pod > 0 {
        let limits = json!({ "limits": { "nvidia.com/gpu": component.gpus_per_pod.to_string() } });
        main.insert("resources".to_owned(), limits);
    }
    let mut pod = Map::new();
    pod.insert("containers".to_owned(), json!([main]));
    volumes(component, &mut pod);
    let mut template = Map::new();
    if !component.annotations.is_empty() {
        template.insert("metadata".to_owned(), json!({ "annotations": component.annotations }));
    }
    template.insert("spec".to_owned(), Value::Object(pod));
    out.insert("podTemplate".to_owned(), Value::Object(template));
    Value::Object(out)
}

fn v1alpha1(component: &Component) -> Value {
    let (kind, role) = match component.kind {
        Kind::Frontend => ("frontend", None),
        Kind::Worker(role) => ("worker", role),
        Kind::Planner => ("planner", None),
    };
    let mut out = Map::new();
    out.insert("componentType".to_owned(), kind.into());
    if let Some(role) = role {
        out.insert("subComponentType".to_owned(), role.as_str().into());
    }
    shared(component, json!({ "enabled": true }), &mut out);
    if component.gpus_per_pod > 0 {
        out.insert("resources".to_owned(), json!({ "limits": { "gpu": component.gpus_per_pod.to_string() } }));
    }
    if !component.annotations.is_empty() {
        out.insert("extraPodMetadata".to_owned(), json!({ "annotations": component.annotations }));
    }
    let mut main = Map::new();
    container(component, &mut main);
    let mut pod = Map::new();
    pod.insert("mainContainer".to_owned(), Value::Object(main));
    volumes(component, &mut pod);
    out.insert("extraPodSpec".to_owned(), Value::Object(pod));
    Value::Object(out)
}

/// What both versions say in the same words.
fn shared(component: &Component, scaling_adapter: Value, out: &mut Map<String, Value>) {
    out.insert("replicas".to_owned(), component.replicas.into());
    if component.nodes > 1 {
        out.insert("multinode".to_owned(), json!({ "nodeCount": component.nodes }));
    }
    if component.scaled {
        out.insert("scalingAdapter".to_owned(), scaling_adapter);
    }
}

fn container(component: &Component, main: &mut Map<String, Value>) {
    main.insert("image".to_owned(), component.image.as_str().into());
    main.insert("command".to_owned(), json!(["python3", "-m", component.module]));
    if !component.args.is_empty() {
        main.insert("args".to_owned(), json!(component.args));
    }
    if !component.env.is_empty() {
        let env: Vec<_> = component.env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        main.insert("env".to_owned(), Value::Array(env));
    }
    if component.fetches_model {
        // Optional: open models need no token, and pods would wait for the secret for ever.
        let from = json!([{ "secretRef": { "name": HF_TOKEN_SECRET, "optional": true } }]);
        main.insert("envFrom".to_owned(), from);
    }
    if !component.mounts.is_empty() {
        let mounts: Vec<_> = component
            .mounts
            .iter()
            .map(|m| match m.source {
                Source::ConfigMap => json!({ "name": m.name, "mountPath": m.path, "readOnly": true }),
                Source::Pvc => json!({ "name": m.name, "mountPath": m.path }),
            })
            .collect();
        main.insert("volumeMounts".to_owned(), Value::Array(mounts));
    }
}

fn volumes(component: &Component, pod: &mut Map<String, Value>) {
    let volumes: Vec<_> = component
        .mounts
        .iter()
        .map(|m| match m.source {
            Source::ConfigMap => json!({ "name": m.name, "configMap": { "name": m.name } }),
            Source::Pvc => json!({ "name": m.name, "persistentVolumeClaim": { "claimName": m.name } }),
        })
        .collect();
    if !volumes.is_empty() {
        pod.insert("volumes".to_owned(), Value::Array(volumes));
    }
}

/// Components of either version with their names.
pub(super) fn components(dgd: &Value) -> Vec<(String, &Value)> {
    let spec = dgd.get("spec");
    let listed = spec.and_then(|s| s.get("components")).and_then(Value::as_array).into_iter().flatten();
    let mapped = spec.and_then(|s| s.get("services")).and_then(Value::as_object).into_iter().flatten();
    let name = |c: &Value| c.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    listed.map(|c| (name(c), c)).chain(mapped.map(|(name, s)| (name.clone(), s))).collect()
}

/// Adds tolerations to the pods of every component; one that is there already is not added again.
pub(super) fn tolerate(dgd: &mut Value, tolerations: &[Value]) {
    if tolerations.is_empty() {
        return;
    }
    let Some(spec) = dgd.get_mut("spec") else { return };
    if let Some(list) = spec.get_mut("components").and_then(Value::as_array_mut) {
        for component in list.iter_mut() {
            if let Some(pod) = object(component, "podTemplate").and_then(|t| object(t, "spec")) {
                add_tolerations(pod, tolerations);
            }
        }
    }
    if let Some(services) = spec.get_mut("services").and_then(Value::as_object_mut) {
        for service in services.values_mut() {
            if let Some(pod) = object(service, "extraPodSpec") {
                add_tolerations(pod, tolerations);
            }
        }
    }
}

/// The map under a key, made if absent.
fn object<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let slot = value.as_object_mut()?.entry(key).or_insert_with(|| json!({}));
    slot.is_object().then_some(slot)
}

fn add_tolerations(pod: &mut Value, tolerations: &[Value]) {
    let Some(pod) = pod.as_object_mut() else { return };
    let slot = pod.entry("tolerations").or_insert_with(|| json!([]));
    if let Some(list) = slot.as_array_mut() {
        for toleration in tolerations {
            if !list.contains(toleration) {
                list.push(toleration.clone());
            }
        }
    }
}
