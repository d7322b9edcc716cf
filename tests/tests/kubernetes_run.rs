//! Whole runs in a cluster: a request, seven phases, a deployment, and the rights that takes.
//!
//! Engine pods are played by kwok, and what answers in them is an HTTP server of the tests with a known timing; there
//! is no GPU.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod on_a_cluster {
    use std::collections::{BTreeSet, HashMap};
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use k8s_openapi::api::events::v1::Event;
    use kube::api::{DynamicObject, ListParams};
    use serde_json::{Value, json};
    use sla_profiler_tests::kubernetes::control_plane::kubectl;
    use sla_profiler_tests::kubernetes::operator::{DGD_LABEL, log_line};
    use sla_profiler_tests::kubernetes::{ControlPlane, Endpoint, Namespace, Operator, Proxy, block_on, eventually};
    use sla_profiler_tests::kubernetes::{nodes, rbac};
    use sla_profiler_tests::openai::{Behaviour, OpenAi, Timing, word_tokenizer};
    use sla_profiler_tests::{Said, root, run, sla_profiler};

    const MODEL: &str = "Qwen/Qwen3-0.6B";

    /// A namespace with the shipped rights, an operator, GPUs, and engines that answer.
    struct World {
        namespace: Namespace,
        proxy: Proxy,
        kubeconfig: PathBuf,
        _operator: Operator,
        out: tempfile::TempDir,
    }

    /// What a deployment's pods answer like. `slow`: the deployment of the last phase, which is no candidate.
    fn timing(dgd: &DynamicObject, slow: bool) -> Timing {
        let measures = dgd.metadata.labels.iter().flatten().any(|(key, _)| key.ends_with("measures-candidate"));
        let components = dgd.data["spec"]["components"].as_array().unwrap();
        let gpus = |component: &Value| {
            let limits = &component["podTemplate"]["spec"]["containers"][0]["resources"]["limits"];
            limits["nvidia.com/gpu"].as_str().and_then(|gpus| gpus.parse::<f64>().ok())
        };
        let gpus = components.iter().filter_map(gpus).fold(1.0, f64::max);
        let factor = if slow && !measures { 400.0 } else { 1.0 };
        Timing {
            ttft_ms: 4.0 / gpus * factor,
            ttft_ms_per_token: 0.02 / gpus,
            ttft_spread: 0.0,
            itl_ms: 2.0 / gpus * factor,
            itl_ms_per_request: 0.05,
        }
    }

    impl World {
        async fn new(name: &str, slow: bool) -> Self {
            let cluster = ControlPlane::shared();
            let namespace = Namespace::create(cluster, name).await;
            for node in 0..2 {
                nodes::add_node(cluster, &format!("{name}-{node}"), "NVIDIA-H200", 8).await;
            }
            let log = cluster.folder().join(format!("{name}.engine.log"));
            fs::write(&log, format!("{}\n", log_line("GPU KV cache size: 643,891 tokens"))).unwrap();
            let servers: Mutex<HashMap<String, OpenAi>> = Mutex::default();
            let engines = move |dgd: &DynamicObject, _: &Pod| {
                let mut servers = servers.lock().unwrap();
                let server = servers.entry(dgd.metadata.uid.clone().unwrap()).or_insert_with(|| {
                    let timing = timing(dgd, slow);
                    OpenAi::start(Behaviour {
                        model: MODEL.to_owned(),
                        timing,
                        kv_tokens: 643_891,
                        ..Behaviour::default()
                    })
                });
                let port = server.url.rsplit(':').next().unwrap().parse().unwrap();
                Some(Endpoint { port, log_file: Some(log.clone()) })
            };
            let operator = Operator::start(cluster, namespace.name(), Arc::new(engines));
            namespace.apply_folder(&root().join("examples/kubernetes/base")).await;
            // In the cluster Services are reached; here, outside of it, the way is a port-forward.
            let outside = json!([{ "apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"] }]);
            namespace.allow("sla-profiler", "outside", &outside).await;
            let proxy = Proxy::start(cluster);
            let kubeconfig = namespace.kubeconfig_through("sla-profiler", proxy.port()).await;
            Self { namespace, proxy, kubeconfig, _operator: operator, out: tempfile::tempdir().unwrap() }
        }

        /// Creates the request as a user does.
        fn request(&self, spec: Value) {
            let request = json!({
                "apiVersion": "nvidia.com/v1beta1",
                "kind": "DynamoGraphDeploymentRequest",
                "metadata": {
                    "name": "chat",
                    "annotations": {
                        "sla-profiler.dev/profiler": r#"{"maxNumGpusPerEngine": 2, "maxContextLength": 400}"#,
                    },
                },
                "spec": spec,
            });
            let file = self.out.path().join("dgdr.json");
            fs::write(&file, request.to_string()).unwrap();
            let mut kubectl = kubectl(&self.namespace.admin_kubeconfig(ControlPlane::shared().port()));
            let output = kubectl.args(["create", "--validate=strict", "-f"]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }

        fn profile(&self) -> Command {
            let mut command =
                sla_profiler(["profile", "--cluster", "kubernetes", "--dgdr", "chat", "--load", "builtin"]);
            command.arg("--kubeconfig").arg(&self.kubeconfig).args(["--reach", "port-forward"]);
            // These engines have one KV cache whatever their size, and a test machine is too busy for good figures.
            command.args(["--kv-tolerance", "0.99", "--max-client-share", "inf"]);
            command.arg("--tokenizer").arg(word_tokenizer());
            command.arg("--out").arg(self.out.path().join("run"));
            command
        }

        async fn run(&self) -> Said {
            let command = self.profile();
            // Beside the runtime: the servers of this test must go on.
            tokio::task::spawn_blocking(move || run(command)).await.unwrap()
        }

        async fn status(&self) -> Value {
            self.namespace.dgdrs().get("chat").await.unwrap().data["status"].clone()
        }

        async fn dgds(&self) -> Vec<String> {
            let list = self.namespace.dgds().list(&ListParams::default()).await.unwrap();
            list.items.into_iter().filter_map(|dgd| dgd.metadata.name).collect()
        }

        async fn reasons(&self) -> BTreeSet<String> {
            let events = self.namespace.api::<Event>().list(&ListParams::default()).await.unwrap();
            events.items.into_iter().filter_map(|event| event.reason).collect()
        }
    }

    /// A process that does not outlive its test.
    struct Killed(std::process::Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn spec(auto_apply: bool) -> Value {
        json!({
            "model": MODEL,
            "backend": "vllm",
            "image": "registry.example/dynamo-planner:1.4.0",
            "hardware": { "gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": 8 },
            "workload": { "isl": 100, "osl": 20, "requestRate": 5 },
            "sla": { "ttft": 500, "itl": 50 },
            "autoApply": auto_apply,
        })
    }

    fn condition(status: &Value, kind: &str) -> Value {
        let conditions = status["conditions"].as_array().unwrap();
        conditions.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
    }

    #[test]
    fn a_request_becomes_a_verified_deployment_with_the_rights_that_are_shipped() {
        block_on(async {
            let world = World::new("whole", false).await;
            let mut wanted = spec(true);
            // With it there are ConfigMaps to apply.
            wanted["features"] = json!({ "planner": { "optimization_target": "sla" } });
            world.request(wanted);
            let said = world.run().await;
            assert_eq!(said.code, 0, "{}\n{}", said.out, said.err);

            let status = world.status().await;
            assert_eq!(status["phase"], "Deployed", "{status}");
            assert_eq!(status["profilingPhase"], "Done");
            assert_eq!(status["observedGeneration"], 1);
            assert_eq!(condition(&status, "Succeeded")["status"], "True");
            assert_eq!(condition(&status, "DeploymentReady")["status"], "True");
            let name = status["dgdName"].as_str().unwrap();
            assert_eq!(status["profilingResults"]["selectedConfig"]["metadata"]["name"], name);
            let info = &status["deploymentInfo"];
            assert!(info["replicas"].as_i64().unwrap() >= 3, "frontend, prefill and decode: {status}");
            assert_eq!(info["replicas"], info["availableReplicas"], "{status}");
            assert_eq!(world.dgds().await, [name], "candidates are gone, the deployment stays");
            let pods = ListParams::default().labels(&format!("{DGD_LABEL}={name}"));
            assert!(!world.namespace.api::<Pod>().list(&pods).await.unwrap().items.is_empty());
            let output = world.namespace.api::<ConfigMap>().get("dgdr-output-chat").await.unwrap().data.unwrap();
            assert!(output["final_config.yaml"].contains(name) && output["profiler_status.yaml"].contains("Done"));
            let reasons = world.reasons().await;
            for phase in ["SweepingPrefill", "SweepingDecode", "SelectingConfig", "BuildingCurves", "GeneratingDGD"] {
                assert!(reasons.contains(phase), "{phase}: {reasons:?}");
            }
            assert!(reasons.contains("DeploymentVerified"), "{reasons:?}");
        });
    }

    #[test]
    fn a_deployment_that_misses_the_sla_is_taken_back_and_each_shipped_right_was_needed() {
        block_on(async {
            let world = World::new("missed", true).await;
            let mut wanted = spec(true);
            wanted["features"] = json!({ "planner": { "optimization_target": "sla" } });
            world.request(wanted);
            let said = world.run().await;
            assert_ne!(said.code, 0, "{}", said.out);
            let status = world.status().await;
            assert_eq!(status["phase"], "Failed", "{status}\n{}", said.err);
            assert_eq!(condition(&status, "Succeeded")["reason"], "SLANotMet");
            eventually("the deployment's end", async || world.dgds().await.is_empty().then_some(())).await;

            let role = fs::read_to_string(root().join("examples/kubernetes/base/role.yaml")).unwrap();
            let mut given = rbac::given(&serde_yaml::from_str(&role).unwrap());
            // Asked for only where pods are slow to start, and not insisted on.
            given.retain(|right| ![" events list", " events watch"].contains(&right.as_str()));
            let mut used = rbac::used(&world.proxy.asked());
            // Everybody may ask what they may do (`system:basic-user`).
            used.retain(|right| !right.contains("pods/portforward") && !right.contains("selfsubjectaccessreviews"));
            used.retain(|right| ![" events list", " events watch"].contains(&right.as_str()));
            let idle: BTreeSet<_> = given.difference(&used).collect();
            let missing: BTreeSet<_> = used.difference(&given).collect();
            assert!(
                idle.is_empty() && missing.is_empty(),
                "given and not used: {idle:?}; used and not given: {missing:?}"
            );
        });
    }

    #[test]
    fn without_auto_apply_the_result_is_in_the_status_and_nothing_runs() {
        block_on(async {
            let world = World::new("ready", false).await;
            world.request(spec(false));
            let said = world.run().await;
            assert_eq!(said.code, 0, "{}\n{}", said.out, said.err);
            let status = world.status().await;
            assert_eq!(status["phase"], "Ready", "{status}");
            assert!(condition(&status, "Succeeded")["message"].as_str().unwrap().contains("kubectl apply"), "{status}");
            // What the status holds is what the API server takes.
            let selected = &status["profilingResults"]["selectedConfig"];
            world.namespace.dry_run(selected).await.unwrap();
            assert!(world.dgds().await.is_empty());
        });
    }

    #[test]
    fn a_right_that_is_missing_is_named_with_its_verb() {
        block_on(async {
            let world = World::new("no-right", false).await;
            world.request(spec(false));
            let rules = json!([{
                "apiGroups": ["nvidia.com"], "resources": ["dynamographdeploymentrequests"], "verbs": ["get"],
            }]);
            let kubeconfig = world.namespace.account("reader", &rules).await;
            let world = World { kubeconfig, ..world };
            let said = world.run().await;
            let words = said.err.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_ne!(said.code, 0, "{words}");
            assert!(words.contains("dynamographdeployments") && words.contains("verbs: ["), "{words}");
        });
    }

    #[test]
    fn sigterm_in_each_phase_leaves_nothing_of_ours() {
        // As the journal names them: some are over before a status would tell. Generation takes no time between the
        // curves and the last phase; the curves of both roles are drawn at once.
        for phase in ["prefill_sweep", "decode_sweep", "selection", "decode_interpolation", "auto_apply"] {
            block_on(async {
                let world = World::new(&format!("term-{}", phase.replace('_', "-")), false).await;
                world.request(spec(true));
                let mut child = Killed(world.profile().stderr(std::process::Stdio::null()).spawn().unwrap());
                let begun = format!("\"phase_started\":{{\"phase\":\"{phase}\"}}");
                let journal = world.out.path().join("run/journal.jsonl");
                let deadline = Instant::now() + Duration::from_secs(600);
                while !fs::read_to_string(&journal).is_ok_and(|text| text.contains(&begun)) {
                    assert!(child.0.try_wait().unwrap().is_none() && Instant::now() < deadline, "before {phase}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let pid = child.0.id().to_string();
                assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
                let code = tokio::task::spawn_blocking(move || child.0.wait().unwrap().code()).await.unwrap();
                assert_eq!(code, Some(130), "{phase}");
                assert!(world.dgds().await.is_empty(), "{phase}: {:?}", world.dgds().await);
                assert_eq!(world.status().await["phase"], "Failed", "{phase}");
            });
        }
    }
}
