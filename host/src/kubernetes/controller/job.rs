//! The Job of a request.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::kubernetes::{DGDR_NAME_LABEL, MANAGED_BY, REQUEST_LABEL};

/// The container that profiles; `overrides.profilingJob` names it like this, as in Dynamo.
pub(super) const CONTAINER: &str = "profiler";

/// Annotation of a Job: digest of the spec that it was made for, without `autoApply`.
pub(super) const SPEC_ANNOTATION: &str = "sla-profiler.dev/spec-sha256";

/// Longest name of a Job: its pods carry it as a label.
const LONGEST_NAME: usize = 63;

/// What Jobs are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Image of this program.
    pub image: String,
    /// As whom it runs; bound to the Role in examples/kubernetes.
    pub service_account: String,
}

/// Name of a request's Job, as Dynamo's operator calls it. A long one is cut, and told apart by a digest.
pub(super) fn name(request: &str) -> String {
    let name = format!("profile-{request}");
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let digest = hex(&name);
    let (digest, keep) = (digest.get(..8).unwrap_or_default(), LONGEST_NAME - 9);
    format!("{}-{digest}", name.get(..keep).unwrap_or_default().trim_end_matches(['-', '.']))
}

/// Digest of what may not change while a request is worked on: all of the spec but `autoApply`.
pub(super) fn spec_digest(spec: &Value) -> String {
    let mut spec = spec.clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("autoApply");
    }
    // Keys keep their order on the way through the API server, but a person may write them in another one.
    hex(&sorted(&spec).to_string())
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The Job of a request (an object of the cluster, with uid).
pub(super) fn job(template: &Template, request: &Value) -> Value {
    let text = |pointer: &str| request.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (name_of_request, namespace, uid) =
        (text("/metadata/name"), text("/metadata/namespace"), text("/metadata/uid"));
    let spec = request.get("spec").unwrap_or(&Value::Null);
    let labels = json!({
        MANAGED_BY.0: MANAGED_BY.1,
        REQUEST_LABEL: name_of_request,
        DGDR_NAME_LABEL: name_of_request,
        "dgdr.nvidia.com/namespace": namespace,
        "app": MANAGED_BY.1,
    });
    let mut mounts =
        vec![json!({ "name": "data", "mountPath": "/data" }), json!({ "name": "tmp", "mountPath": "/tmp" })];
    let mut volumes = vec![json!({ "name": "data", "emptyDir": {} }), json!({ "name": "tmp", "emptyDir": {} })];
    if let Some(claim) = spec.pointer("/modelCache/pvcName").and_then(Value::as_str).filter(|claim| !claim.is_empty()) {
        // The tokenizer and the model's configuration lie there.
        let path = spec.pointer("/modelCache/pvcMountPath").and_then(Value::as_str).unwrap_or("/opt/model-cache");
        mounts.push(json!({ "name": "model-cache", "mountPath": path, "readOnly": true }));
        volumes
            .push(json!({ "name": "model-cache", "persistentVolumeClaim": { "claimName": claim, "readOnly": true } }));
    }
    let container = json!({
        "name": CONTAINER,
        "image": template.image,
        "args": [
            "profile", "--cluster", "kubernetes", "--dgdr", name_of_request, "--namespace", namespace,
            "--output-dir", "/data",
        ],
        // Room for `overrides.profilingJob`, which adds by name. DGDR_NAME is not set: it means that Dynamo's operator
        // started us, and that the status is its business.
        "env": [{ "name": "HOME", "value": "/tmp" }],
        "volumeMounts": mounts,
        "resources": { "requests": { "cpu": "1", "memory": "512Mi" } },
        // So that the end of the log is in the pod's status, where the controller reads it.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        },
    });
    let mut job_spec = json!({
        // A run that fails would fail again; what it measured is lost with its pod either way.
        "backoffLimit": 0,
        "template": {
            "metadata": { "labels": labels },
            "spec": {
                "serviceAccountName": template.service_account,
                "restartPolicy": "Never",
                // Engines are removed on SIGTERM, and their pods need a while.
                "terminationGracePeriodSeconds": 120,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "containers": [container],
                "volumes": volumes,
            },
        },
    });
    if let Some(overrides) = spec.pointer("/overrides/profilingJob") {
        merge(&mut job_spec, overrides);
    }
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name(name_of_request),
            "namespace": namespace,
            "labels": labels,
            "annotations": { SPEC_ANNOTATION: spec_digest(spec) },
            "ownerReferences": [{
                "apiVersion": request.get("apiVersion"), "kind": request.get("kind"),
                "name": name_of_request, "uid": uid, "controller": true, "blockOwnerDeletion": false,
            }],
        },
        "spec": job_spec,
    })
}

/// Lays `over` on `base`: objects field by field, lists of named things by name, everything else as a whole.
fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(key) {
                    Some(old) => merge(old, value),
                    None => drop(base.insert(key.clone(), value.clone())),
                }
            }
        }
        (Value::Array(base), Value::Array(over)) if named(base) && named(over) => {
            for item in over {
                match base.iter_mut().find(|old| old.get("name") == item.get("name")) {
                    Some(old) => merge(old, item),
                    None => base.push(item.clone()),
                }
            }
        }
        // An override of null is one that says nothing.
        (_, Value::Null) => {}
        (base, over) => *base = over.clone(),
    }
}

fn named(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(|item| item.as_object().map(Map::len) > Some(0) && item.get("name").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(spec: Value) -> Value {
        json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeploymentRequest",
            "metadata": { "name": "chat", "namespace": "llm", "uid": "u" }, "spec": spec,
        })
    }

    fn of(spec: Value) -> Value {
        job(
            &Template { image: "registry.example/sla-profiler:1".into(), service_account: "sla-profiler".into() },
            &request(spec),
        )
    }

    #[test]
    fn overrides_reach_the_container_by_its_name_and_leave_the_rest() {
        let job = of(json!({ "model": "m", "overrides": { "profilingJob": {
            "activeDeadlineSeconds": 7200,
            "template": { "spec": {
                "tolerations": [{ "key": "gpu" }],
                "containers": [{
                    "name": "profiler", "resources": { "limits": { "cpu": "4" } }, "env": [{ "name": "HF_HOME", "value": "/hf" }],
                }],
                "volumes": [{ "name": "data", "emptyDir": null, "persistentVolumeClaim": { "claimName": "out" } }],
            }},
        }}}));
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(job["spec"]["activeDeadlineSeconds"], 7200);
        assert_eq!(job["spec"]["backoffLimit"], 0);
        assert_eq!(pod["tolerations"][0]["key"], "gpu");
        assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
        assert_eq!(pod["containers"][0]["resources"]["requests"]["cpu"], "1");
        assert_eq!(pod["containers"][0]["resources"]["limits"]["cpu"], "4");
        let env: Vec<_> = pod["containers"][0]["env"].as_array().unwrap().iter().map(|env| &env["name"]).collect();
        assert_eq!(env, ["HOME", "HF_HOME"]);
        assert_eq!(pod["volumes"][1]["name"], "tmp");
    }

    #[test]
    fn the_weights_are_mounted_where_the_request_says() {
        let job = of(json!({ "model": "m", "modelCache": { "pvcName": "weights", "pvcMountPath": "/models" } }));
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["volumes"][2]["persistentVolumeClaim"]["claimName"], "weights");
        assert_eq!(pod["containers"][0]["volumeMounts"][2]["mountPath"], "/models");
    }

    #[test]
    fn the_digest_is_of_everything_but_auto_apply_in_any_order() {
        let a = json!({ "model": "m", "sla": { "ttft": 1, "itl": 2 }, "autoApply": false });
        let b = json!({ "autoApply": true, "sla": { "itl": 2, "ttft": 1 }, "model": "m" });
        assert_eq!(spec_digest(&a), spec_digest(&b));
        assert_ne!(spec_digest(&a), spec_digest(&json!({ "model": "m", "sla": { "ttft": 1, "itl": 3 } })));
    }

    #[test]
    fn a_long_name_is_cut_and_stays_its_own() {
        let (a, b) = (format!("{}a", "x".repeat(80)), format!("{}b", "x".repeat(80)));
        assert!(name(&a).len() <= LONGEST_NAME);
        assert_ne!(name(&a), name(&b));
        assert_eq!(name("chat"), "profile-chat");
    }
}
