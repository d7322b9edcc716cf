//! A run on a cluster that serves v1alpha1 only, during which its API server and etcd are killed and started again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod on_a_cluster {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::fs;
    use std::process::Stdio;
    use std::sync::Arc;
    use std::time::Duration;

    use kube::api::ListParams;
    use serde_json::json;
    use sla_profiler::spec::DgdApi;
    use sla_profiler_tests::kubernetes::control_plane::kubectl;
    use sla_profiler_tests::kubernetes::operator::log_line;
    use sla_profiler_tests::kubernetes::{
        ControlPlane, Endpoint, Namespace, Operator, block_on, eventually_within, nodes,
    };
    use sla_profiler_tests::openai::{Behaviour, OpenAi, Timing, word_tokenizer};
    use sla_profiler_tests::{root, said, sla_profiler};

    const MODEL: &str = "Qwen/Qwen3-0.6B";

    /// Long enough for what waits to notice.
    const OUTAGE: Duration = Duration::from_secs(5);

    #[test]
    fn a_run_on_v1alpha1_survives_the_death_of_the_api_server_and_of_etcd_and_a_cluster_without_the_kind_or_with_a_later_one_is_named()
     {
        block_on(async {
            let plane = ControlPlane::of_v1alpha1();
            let namespace = Namespace::create(plane, "outage").await;
            nodes::add_node(plane, "outage-0", "NVIDIA-H200", 8).await;
            let server = OpenAi::start(Behaviour {
                model: MODEL.to_owned(),
                timing: Timing::fixed(6.0, 2.0),
                kv_tokens: 20_000,
                ..Behaviour::default()
            });
            let port = server.url.rsplit(':').next().unwrap().parse().unwrap();
            let log = plane.folder().join("outage.engine.log");
            fs::write(&log, format!("{}\n", log_line("GPU KV cache size: 20,000 tokens"))).unwrap();
            let engines = move |_: &_, _: &_| Some(Endpoint { port, log_file: Some(log.clone()) });
            let _operator = Operator::start(plane, namespace.name(), Arc::new(engines));
            namespace.apply_folder(&root().join("examples/kubernetes/base")).await;
            let kubeconfig = namespace.kubeconfig("sla-profiler").await;
            namespace
                .create_strict(&json!({
                    "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoGraphDeploymentRequest",
                    "metadata": { "name": "chat" },
                    "spec": {
                        "model": MODEL, "backend": "vllm", "autoApply": false,
                        "profilingConfig": {
                            "profilerImage": "registry.example/dynamo-planner:1.4.0",
                            "config": {
                                "hardware": { "system": "h200_sxm", "num_gpus_per_node": 8, "total_gpus": 8 },
                                "sla": { "isl": 100, "osl": 20, "ttft": 500.0, "itl": 50.0 },
                                "profiler": { "maxNumGpusPerEngine": 2, "maxContextLength": 200 },
                            },
                        },
                    },
                }))
                .await
                .unwrap();

            let out = tempfile::tempdir().unwrap();
            let profile = || {
                let mut command = sla_profiler(["profile", "--cluster", "kubernetes", "--dgdr", "chat"]);
                command.arg("--kubeconfig").arg(&kubeconfig).args(["--reach", &server.url]);
                command.args(["--kv-tolerance", "0.999", "--max-client-share", "inf", "--tokenizer"]);
                command.arg(word_tokenizer()).arg("--out").arg(out.path().join("run"));
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                command
            };
            let child = profile().spawn().unwrap();
            // The second engine is being measured, and others are to come.
            let dgds = async || namespace.dgds().list(&ListParams::default()).await.unwrap().items;
            let minutes = Duration::from_secs(300);
            let seen = RefCell::new(BTreeSet::new());
            eventually_within(minutes, "the second engine", async || {
                let now = dgds().await;
                let mut seen = seen.borrow_mut();
                seen.extend(now.into_iter().filter_map(|dgd| dgd.metadata.uid));
                (seen.len() >= 2 && server.completions() > 20).then_some(())
            })
            .await;
            plane.stop_api_server();
            plane.stop_etcd();
            tokio::time::sleep(OUTAGE).await;
            plane.start_etcd();
            plane.start_api_server().await;

            let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
            let said_of_run = said(output);
            assert_eq!(said_of_run.code, 0, "{}\n{}", said_of_run.out, said_of_run.err);
            let status = namespace.dgdrs().get("chat").await.unwrap().data["status"].clone();
            assert_eq!(status["state"], "Ready", "{status}");
            let generated = &status["generatedDeployment"];
            assert_eq!(generated["apiVersion"], "nvidia.com/v1alpha1", "{status}");
            namespace.dry_run(generated).await.unwrap();
            assert_eq!(dgds().await.len(), 0, "no engine is left");
            let mut gc = sla_profiler(["gc", "--all-namespaces", "--output", "json", "--kubeconfig"]);
            gc.arg(plane.kubeconfig());
            let said_of_rest = said(tokio::task::spawn_blocking(move || gc.output().unwrap()).await.unwrap());
            assert_eq!(said_of_rest.code, 0, "{}", said_of_rest.err);
            let rest: serde_json::Value = serde_json::from_str(&said_of_rest.out).unwrap();
            assert_eq!(rest["cluster"]["runs"], json!([]), "no lease is left either, in any namespace");
            let measured = fs::read_to_string(out.path().join("run/measurements.csv")).unwrap();
            assert!(measured.lines().count() > 4, "{measured}");

            // Without the kind there is nothing to do, and it is said so.
            let mut delete = kubectl(&plane.kubeconfig());
            delete.args(["delete", "crd", "dynamographdeployments.nvidia.com", "--wait=true"]);
            let deleted = tokio::task::spawn_blocking(move || delete.output().unwrap()).await.unwrap();
            assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
            let mut again = profile();
            again.arg("--force");
            let output = tokio::task::spawn_blocking(move || again.output().unwrap()).await.unwrap();
            let said_of_nothing = said(output);
            let words = said_of_nothing.err.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(said_of_nothing.code, 6, "{words}");
            assert!(words.contains("the cluster has no such kind"), "{words}");
            assert_eq!(plane.dynamo(), DgdApi::V1alpha1);

            // With a version of it that came after this program, that is said.
            let later = json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": { "name": "dynamographdeployments.nvidia.com" },
                "spec": {
                    "group": "nvidia.com", "scope": "Namespaced",
                    "names": { "plural": "dynamographdeployments", "kind": "DynamoGraphDeployment" },
                    "versions": [{
                        "name": "v2", "served": true, "storage": true,
                        "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
                    }],
                },
            });
            let file = out.path().join("later.json");
            fs::write(&file, later.to_string()).unwrap();
            let mut create = kubectl(&plane.kubeconfig());
            create.args(["create", "-f"]).arg(&file);
            let created = tokio::task::spawn_blocking(move || create.output().unwrap()).await.unwrap();
            assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
            let said_of_later = RefCell::new(String::new());
            eventually_within(Duration::from_secs(60), "the new version in the API server's lists", async || {
                let mut again = profile();
                again.arg("--force");
                let said = said(tokio::task::spawn_blocking(move || again.output().unwrap()).await.unwrap());
                assert_eq!(said.code, 6, "{}", said.err);
                let words = said.err.split_whitespace().collect::<Vec<_>>().join(" ");
                said_of_later.replace(words.clone());
                (!words.contains("no such kind")).then_some(())
            })
            .await;
            let words = said_of_later.into_inner();
            assert!(words.contains("serves it as v2") && words.contains("v1beta1, v1alpha1"), "{words}");
        });
    }
}
