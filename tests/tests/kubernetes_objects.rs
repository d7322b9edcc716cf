//! What we write is what a real API server takes, with strict validation; what it refuses, it names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::path::Path;

use serde_json::Value;

fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let documents: Vec<Value> = serde_yaml::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

mod on_a_cluster {
    use std::fs;
    use std::path::PathBuf;

    use serde_json::{Value, json};
    use sla_profiler_tests::kubernetes::control_plane::kubectl;
    use sla_profiler_tests::kubernetes::namespace::kustomized;
    use sla_profiler_tests::kubernetes::{ControlPlane, Namespace, block_on};
    use sla_profiler_tests::root;

    use super::documents;

    fn refusal(error: &kube::Error) -> String {
        match error {
            kube::Error::Api(status) => status.message.clone(),
            other => panic!("not an answer of the API server: {other}"),
        }
    }

    fn files(folder: &str, part: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(part)).collect();
        files.sort();
        assert!(!files.is_empty(), "{folder}/*{part}");
        files
    }

    #[test]
    fn every_generated_deployment_is_accepted_with_strict_validation() {
        block_on(async {
            let namespace = Namespace::create(ControlPlane::shared(), "generated").await;
            for file in files("tests/golden/dgd", "-v1beta1.yaml") {
                for object in documents(&file) {
                    let answer = namespace.dry_run(&object).await;
                    assert!(answer.is_ok(), "{}: {}", file.display(), refusal(&answer.unwrap_err()));
                }
            }
        });
    }

    #[test]
    fn every_example_is_accepted_without_our_own_section() {
        block_on(async {
            let namespace = Namespace::create(ControlPlane::shared(), "examples").await;
            let mut seen = 0;
            for folder in fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path()) {
                let file = folder.join("dgdr.yaml");
                if !file.is_file() {
                    continue;
                }
                for mut object in documents(&file) {
                    if object["apiVersion"] != "nvidia.com/v1beta1" {
                        continue;
                    }
                    seen += 1;
                    if object["spec"].get("profiler").is_some() {
                        // A file may have it; in a cluster the annotation takes its place.
                        let said = refusal(&namespace.dry_run(&object).await.unwrap_err());
                        assert!(said.contains("unknown field \"spec.profiler\""), "{said}");
                        object["spec"].as_object_mut().unwrap().remove("profiler");
                    }
                    let answer = namespace.dry_run(&object).await;
                    assert!(answer.is_ok(), "{}: {}", file.display(), refusal(&answer.unwrap_err()));
                }
            }
            assert!(seen > 0);
        });
    }

    #[test]
    fn every_shipped_manifest_is_accepted_and_stays_in_its_namespace() {
        block_on(async {
            let cluster = ControlPlane::shared();
            for folder in ["base", "job", "load", "controller"] {
                let path = root().join("examples/kubernetes").join(folder);
                for object in kustomized(&path) {
                    assert_eq!(object["metadata"]["namespace"], "inference", "{folder}: {}", object["kind"]);
                }
                Namespace::create(cluster, folder).await.apply_folder(&path).await;
            }
            // What belongs to the whole cluster is in a folder of its own.
            let mut kubectl = kubectl(&cluster.kubeconfig());
            let folder = root().join("examples/kubernetes/gpu-discovery");
            let output =
                kubectl.args(["apply", "--server-side", "--validate=strict", "-k"]).arg(folder).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        });
    }

    fn deployment(component: Value) -> Value {
        json!({
            "apiVersion": "nvidia.com/v1beta1",
            "kind": "DynamoGraphDeployment",
            "metadata": { "name": "refused" },
            "spec": { "backendFramework": "vllm", "components": [component] },
        })
    }

    #[test]
    fn a_wrong_deployment_is_refused_and_the_field_is_named() {
        let container = json!({ "name": "main", "image": "x" });
        let cases = [
            (json!({ "name": "a", "type": "predecode" }), "Unsupported value: \"predecode\""),
            (json!({ "name": "a", "replicas": -1 }), "should be greater than or equal to 0"),
            (json!({ "name": "a", "multinode": { "nodeCount": 1 } }), "should be greater than or equal to 2"),
            (json!({ "name": "a", "runtimeVersionOverride": "1.5" }), "should match"),
            (json!({ "name": "a", "nodes": 2 }), "unknown field \"spec.components[0].nodes\""),
            (json!({ "name": "a", "scalingAdapter": { "enabled": true } }), "unknown field"),
            (json!({ "type": "worker" }), "spec.components[0].name"),
            (
                json!({ "name": "a", "podTemplate": { "spec": { "containers": [container], "tolerations": "all" } } }),
                "tolerations in body must be of type array",
            ),
            (
                json!({ "name": "a", "podTemplate": { "spec": { "containers": [{ "name": "main", "argz": [] }] } } }),
                "podTemplate.spec.containers[0].argz",
            ),
            (json!({ "name": "a", "podTemplate": { "spec": {} } }), "podTemplate.spec.containers: Required value"),
        ];
        block_on(async {
            let namespace = Namespace::create(ControlPlane::shared(), "wrong").await;
            for (component, expected) in cases {
                let said = refusal(&namespace.dry_run(&deployment(component.clone())).await.unwrap_err());
                assert!(said.contains(expected), "{component}: {said}");
            }
            let mut twice = deployment(json!({ "name": "Worker" }));
            twice["spec"]["components"].as_array_mut().unwrap().push(json!({ "name": "worker" }));
            let said = refusal(&namespace.dry_run(&twice).await.unwrap_err());
            assert!(said.contains("unique case-insensitively"), "{said}");
        });
    }

    #[test]
    fn a_wrong_request_is_refused_and_the_field_is_named() {
        let cases = [
            (json!({}), "spec.model: Required value"),
            (json!({ "model": "m", "backend": "tgi" }), "Unsupported value: \"tgi\""),
            (json!({ "model": "m", "hardware": { "gpuSku": "H200" } }), "Unsupported value: \"H200\""),
            (json!({ "model": "m", "sla": { "ttft": "fast" } }), "must be of type number"),
            (json!({ "model": "m", "autoapply": true }), "unknown field \"spec.autoapply\""),
        ];
        block_on(async {
            let namespace = Namespace::create(ControlPlane::shared(), "wrong-request").await;
            for (spec, expected) in cases {
                let request = json!({
                    "apiVersion": "nvidia.com/v1beta1",
                    "kind": "DynamoGraphDeploymentRequest",
                    "metadata": { "name": "refused" },
                    "spec": spec,
                });
                let said = refusal(&namespace.dry_run(&request).await.unwrap_err());
                assert!(said.contains(expected), "{spec}: {said}");
            }
        });
    }
}
