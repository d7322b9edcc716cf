//! Dynamo's CRDs.
//!
//! NVIDIA's own lie in the Go module of its operator, which Go's module proxy refuses to serve ("This module version is
//! not available", 403, for every version that was asked for). So there are two ways:
//!
//! - `SLA_PROFILER_DYNAMO_CRDS` names a folder with the real files (`config/crd/bases` of the operator's source), which
//!   are installed as they are;
//! - otherwise the stand-ins below are: the fields, enumerations and rules that the API documents, with the schema of a
//!   pod template and of a Job from the running API server itself, as the code generator of the real ones takes it.
//!   Fields that this project neither writes nor reads are left open, and one version is served: both at once need the
//!   operator's conversion webhook.

use std::collections::BTreeMap;

use kube::Client;
use serde_json::{Map, Value, json};

/// Names a folder with the real CRDs.
pub const CRDS_VARIABLE: &str = "SLA_PROFILER_DYNAMO_CRDS";

const RUNTIME_VERSION: &str = r"^(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})$";

const GPU_SKUS: [&str; 20] = [
    "vr_nvl72",
    "gb200",
    "gb200_sxm",
    "gb10",
    "b300_sxm",
    "b200_sxm",
    "h200_sxm",
    "h100_sxm",
    "h100_pcie",
    "a100_sxm",
    "a100_pcie",
    "a30",
    "l40s",
    "l40",
    "l4",
    "v100_sxm",
    "v100_pcie",
    "t4",
    "mi200",
    "mi300",
];

/// Whether the CRDs installed are NVIDIA's own.
pub fn are_real() -> bool {
    std::env::var_os(CRDS_VARIABLE).is_some_and(|folder| !folder.is_empty())
}

/// The CRDs to install.
pub fn dynamo(schemas: &Schemas) -> Vec<Value> {
    match std::env::var_os(CRDS_VARIABLE).filter(|folder| !folder.is_empty()) {
        Some(folder) => {
            let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{CRDS_VARIABLE}: {error}"));
            let paths = entries.map(|entry| entry.expect("a readable folder").path());
            let yaml = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
            yaml.map(|path| read(&path)).collect()
        }
        None => vec![graph_deployment(schemas), request(schemas)],
    }
}

/// Stand-ins that serve v1alpha1 only, as before Dynamo 1.0. Fields of services are left open: what is in question is
/// which version is spoken.
pub fn dynamo_v1alpha1(_: &Schemas) -> Vec<Value> {
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let service = json!({
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "componentType": text(), "subComponentType": text(),
            "replicas": { "type": "integer", "format": "int32", "minimum": 0 },
            "multinode": object(json!({ "nodeCount": { "type": "integer", "format": "int32", "minimum": 2 } })),
            "scalingAdapter": object(json!({ "enabled": flag() })),
            "resources": object(json!({ "limits": object(json!({ "gpu": text(), "cpu": text(), "memory": text() })) })),
            "extraPodSpec": open(),
        },
    });
    let spec = object(json!({
        "annotations": texts, "labels": texts, "backendFramework": choice(&["sglang", "vllm", "trtllm"]),
        "envs": { "type": "array", "items": open() }, "pvcs": { "type": "array", "items": open() },
        "services": { "type": "object", "maxProperties": 25, "additionalProperties": service },
    }));
    let status = object(json!({
        "state": text(), "observedGeneration": { "type": "integer", "format": "int64" }, "conditions": conditions(),
        "components": open(), "services": open(),
    }));
    let deployments =
        definition("DynamoGraphDeployment", "dynamographdeployments", "dgd", spec, status, json!([]), "v1alpha1");
    let spec = json!({
        "type": "object",
        "required": ["model", "profilingConfig"],
        "properties": {
            "model": text(), "backend": choice(&["auto", "sglang", "trtllm", "vllm"]), "useMocker": flag(),
            "enableGpuDiscovery": flag(), "autoApply": flag(),
            "profilingConfig": object(json!({
                "config": open(), "profilerImage": text(), "outputPVC": text(), "configMapRef": open(),
            })),
            "deploymentOverrides": object(json!({
                "name": text(), "namespace": text(), "labels": texts, "annotations": texts, "workersImage": text(),
            })),
        },
    });
    let status = object(json!({
        "state": choice(&["Initializing", "Pending", "Profiling", "Deploying", "Ready", "DeploymentDeleted", "Failed"]),
        "backend": text(), "observedGeneration": { "type": "integer", "format": "int64" }, "conditions": conditions(),
        "profilingResults": text(), "generatedDeployment": open(), "deployment": open(),
    }));
    let kind = "DynamoGraphDeploymentRequest";
    let requests = definition(kind, "dynamographdeploymentrequests", "dgdr", spec, status, json!([]), "v1alpha1");
    vec![deployments, requests]
}

fn read(path: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Schemas of built-in types, as a CRD may use them.
pub struct Schemas {
    pod_template: Value,
    job_spec: Value,
    env: Value,
}

impl Schemas {
    /// Reads the OpenAPI documents of the running API server.
    pub async fn fetch(client: &Client) -> Self {
        let core = document(client, "/openapi/v3/api/v1").await;
        let batch = document(client, "/openapi/v3/apis/batch/v1").await;
        Self {
            pod_template: structural(&core, "io.k8s.api.core.v1.PodTemplateSpec"),
            env: structural(&core, "io.k8s.api.core.v1.EnvVar"),
            job_spec: structural(&batch, "io.k8s.api.batch.v1.JobSpec"),
        }
    }
}

type Definitions = BTreeMap<String, Value>;

async fn document(client: &Client, path: &str) -> Definitions {
    let request = hyper::Request::get(path).body(Vec::new()).expect("a request");
    let document: Value = client.request(request).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    let schemas = document.pointer("/components/schemas").and_then(Value::as_object).expect("schemas");
    schemas.iter().map(|(name, schema)| (name.clone(), schema.clone())).collect()
}

/// The schema of a type with all references resolved, reduced to what a structural schema may say.
fn structural(definitions: &Definitions, name: &str) -> Value {
    match name.rsplit('.').next() {
        Some("Quantity" | "IntOrString") => return json!({ "x-kubernetes-int-or-string": true }),
        Some("ObjectMeta") => {
            let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
            return json!({ "type": "object", "properties": {
                "annotations": texts, "labels": texts, "name": { "type": "string" }, "namespace": { "type": "string" },
                "finalizers": { "type": "array", "items": { "type": "string" } },
            }});
        }
        _ => {}
    }
    let schema = definitions.get(name).unwrap_or_else(|| panic!("the API server describes {name}"));
    resolve(definitions, schema, false)
}

fn resolve(definitions: &Definitions, schema: &Value, required: bool) -> Value {
    let object = schema.as_object().expect("a schema is an object");
    let reference = object.get("$ref").or_else(|| object.get("allOf").and_then(|all| all.pointer("/0/$ref")));
    if let Some(reference) = reference.and_then(Value::as_str) {
        return structural(definitions, reference.rsplit('/').next().unwrap_or(reference));
    }
    let needed: Vec<&str> =
        object.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut kept = Map::new();
    for (key, value) in object {
        match key.as_str() {
            "type"
            | "format"
            | "enum"
            | "required"
            | "x-kubernetes-list-type"
            | "x-kubernetes-list-map-keys"
            | "x-kubernetes-map-type" => {
                kept.insert(key.clone(), value.clone());
            }
            // That of a required field would make up for its absence; items have none.
            "default" if !required && value.is_string() => {
                kept.insert(key.clone(), value.clone());
            }
            "items" | "additionalProperties" if value.is_object() => {
                kept.insert(key.clone(), resolve(definitions, value, true));
            }
            "properties" => {
                let properties = value.as_object().expect("properties").iter();
                let properties = properties.map(|(name, property)| {
                    (name.clone(), resolve(definitions, property, needed.contains(&name.as_str())))
                });
                kept.insert(key.clone(), Value::Object(properties.collect()));
            }
            _ => {}
        }
    }
    Value::Object(kept)
}

fn open() -> Value {
    json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn number() -> Value {
    json!({ "type": "number" })
}

fn integer() -> Value {
    json!({ "type": "integer", "format": "int32" })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

fn choice(values: &[&str]) -> Value {
    json!({ "type": "string", "enum": values })
}

fn object(properties: Value) -> Value {
    json!({ "type": "object", "properties": properties })
}

fn rule(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message })
}

/// `metav1.Condition`, a map by type.
fn conditions() -> Value {
    json!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": choice(&["True", "False", "Unknown"]),
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": { "type": "string", "maxLength": 32768 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
            },
        },
    })
}

fn definition(
    kind: &str,
    plural: &str,
    short: &str,
    spec: Value,
    status: Value,
    columns: Value,
    version: &str,
) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.nvidia.com") },
        "spec": {
            "group": "nvidia.com",
            "scope": "Namespaced",
            "names": {
                "kind": kind, "listKind": format!("{kind}List"), "plural": plural,
                "singular": kind.to_lowercase(), "shortNames": [short],
            },
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns,
                "schema": { "openAPIV3Schema": object(json!({
                    "apiVersion": text(), "kind": text(), "metadata": { "type": "object" },
                    "spec": spec, "status": status,
                })) },
            }],
        },
    })
}

fn graph_deployment(schemas: &Schemas) -> Value {
    let component = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {
                "type": "string", "minLength": 1, "maxLength": 63,
                "pattern": "^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$",
            },
            "type": choice(&["frontend", "worker", "prefill", "decode", "planner", "epp"]),
            "runtimeVersionOverride": { "type": "string", "pattern": RUNTIME_VERSION },
            "globalDynamoNamespace": flag(),
            "podTemplate": schemas.pod_template,
            "replicas": { "type": "integer", "format": "int32", "minimum": 0 },
            "minAvailable": { "type": "integer", "format": "int32", "minimum": 1 },
            "multinode": object(json!({
                "nodeCount": { "type": "integer", "format": "int32", "minimum": 2, "default": 2 },
            })),
            "roles": { "type": "array", "items": open() },
            "sharedMemorySize": { "x-kubernetes-int-or-string": true },
            "modelRef": {
                "type": "object",
                "required": ["name"],
                "properties": { "name": { "type": "string", "minLength": 1 }, "revision": text() },
            },
            // Empty on purpose: its presence alone says yes.
            "scalingAdapter": { "type": "object" },
            "eppConfig": open(),
            "frontendSidecar": text(),
            "dynamoSidecar": text(),
            "compilationCache": {
                "type": "object",
                "required": ["pvcName"],
                "properties": { "pvcName": { "type": "string", "minLength": 1 }, "mountPath": text() },
            },
            "topologyConstraint": open(),
            "providerOverride": open(),
            "experimental": open(),
        },
        "x-kubernetes-validations": [
            rule(
                "!has(self.eppConfig) || (has(self.type) && self.type == 'epp')",
                "eppConfig may only be set when type is epp",
            ),
            rule(
                "!has(oldSelf.type) || (has(self.type) && self.type == oldSelf.type)",
                "type is immutable after it is set",
            ),
        ],
    });
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let spec = json!({
        "type": "object",
        "properties": {
            "annotations": texts,
            "labels": texts,
            "priorityClassName": text(),
            "backendFramework": choice(&["sglang", "vllm", "trtllm"]),
            "env": { "type": "array", "items": schemas.env },
            "providerOverride": open(),
            "topologyConstraint": open(),
            "experimental": open(),
            "restart": {
                "type": "object", "required": ["id"],
                "properties": { "id": { "type": "string", "minLength": 1 }, "strategy": open() },
            },
            "components": {
                "type": "array",
                "maxItems": 25,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": component,
                "x-kubernetes-validations": [
                    rule(
                        "self.filter(c, has(c.type) && c.type == 'epp').size() <= 1",
                        "at most one component may have type epp",
                    ),
                    rule(
                        "self.all(c1, !has(c1.name) || self.filter(c2, has(c2.name) && c2.name.lowerAscii() == \
                         c1.name.lowerAscii()).size() == 1)",
                        "component names must be unique case-insensitively",
                    ),
                ],
            },
        },
        "x-kubernetes-validations": [{
            "rule": "oldSelf.hasValue() || !has(self.restart)",
            "message": "spec.restart must be unset on create; set spec.restart.id after creation to request a restart",
            "optionalOldSelf": true,
        }],
    });
    let status = json!({
        "type": "object",
        "required": ["state"],
        "properties": {
            "state": {
                "type": "string", "default": "initializing",
                "enum": ["initializing", "pending", "successful", "failed"],
            },
            "observedGeneration": { "type": "integer", "format": "int64" },
            "conditions": conditions(),
            "components": open(),
            "restart": open(),
            "checkpoints": open(),
            "rollingUpdate": open(),
            "placement": open(),
        },
    });
    let columns = json!([
        { "name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status" },
        { "name": "Backend", "type": "string", "jsonPath": ".spec.backendFramework" },
        { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
    ]);
    definition("DynamoGraphDeployment", "dynamographdeployments", "dgd", spec, status, columns, "v1beta1")
}

fn request(schemas: &Schemas) -> Value {
    let enabled = object(json!({ "enabled": flag() }));
    let spec = json!({
        "type": "object",
        "required": ["model"],
        "properties": {
            "model": { "type": "string", "minLength": 1 },
            "backend": choice(&["auto", "sglang", "trtllm", "vllm"]),
            "image": text(),
            "runtimeVersionOverride": { "type": "string", "pattern": RUNTIME_VERSION },
            "modelCache": object(json!({
                "pvcName": text(), "pvcModelPath": text(),
                "pvcMountPath": { "type": "string", "default": "/opt/model-cache" },
            })),
            "hardware": object(json!({
                "gpuSku": choice(&GPU_SKUS), "vramMb": number(), "totalGpus": integer(), "numGpusPerNode": integer(),
                "interconnect": text(), "rdma": flag(),
            })),
            "workload": object(json!({
                "isl": { "type": "integer", "format": "int32", "default": 4000 },
                "osl": { "type": "integer", "format": "int32", "default": 1000 },
                "concurrency": number(), "requestRate": number(),
            })),
            "sla": object(json!({
                "ttft": number(), "itl": number(), "e2eLatency": number(),
                "optimizationType": choice(&["latency", "throughput"]),
            })),
            "overrides": object(json!({
                "profilingJob": schemas.job_spec,
                "trustRemoteCode": { "type": "boolean", "default": false },
                "dgd": {
                    "type": "object", "x-kubernetes-embedded-resource": true,
                    "x-kubernetes-preserve-unknown-fields": true,
                },
            })),
            "features": object(json!({ "planner": open(), "kvRouter": enabled, "mocker": enabled })),
            "searchStrategy": choice(&["rapid", "thorough"]),
            "autoApply": flag(),
        },
    });
    let status = object(json!({
        "phase": choice(&["Pending", "Profiling", "Ready", "Deploying", "Deployed", "Failed"]),
        "profilingPhase": choice(&[
            "Initializing", "SweepingPrefill", "SweepingDecode", "SelectingConfig", "BuildingCurves", "GeneratingDGD", "Done",
        ]),
        "dgdName": text(),
        "profilingJobName": text(),
        "conditions": conditions(),
        "profilingResults": object(json!({
            "pareto": { "type": "array", "items": object(json!({ "config": open() })) },
            "selectedConfig": open(),
        })),
        "deploymentInfo": object(json!({ "replicas": integer(), "availableReplicas": integer() })),
        "observedGeneration": { "type": "integer", "format": "int64" },
    }));
    let column = |name: &str, path: &str| json!({ "name": name, "type": "string", "jsonPath": path });
    let columns = json!([
        column("Model", ".spec.model"),
        column("Backend", ".spec.backend"),
        column("Phase", ".status.phase"),
        column("Profiling", ".status.profilingPhase"),
        column("Reason", ".status.conditions[?(@.type==\"Succeeded\")].reason"),
        column("Message", ".status.conditions[?(@.type==\"Succeeded\")].message"),
        column("DGD", ".status.dgdName"),
    ]);
    definition(
        "DynamoGraphDeploymentRequest",
        "dynamographdeploymentrequests",
        "dgdr",
        spec,
        status,
        columns,
        "v1beta1",
    )
}
