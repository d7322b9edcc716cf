//! `sla-profiler controller` against a real API server: one Job per request, and the life of a request after it.
//!
//! The Job's process is played by the test: it writes the status as `sla-profiler profile` does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod on_a_cluster {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Child;
    use std::sync::Arc;

    use hyper::Method;
    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use k8s_openapi::api::events::v1::Event;
    use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
    use serde_json::{Value, json};
    use sla_profiler_tests::kubernetes::proxy::Fault;
    use sla_profiler_tests::kubernetes::{ControlPlane, Namespace, Operator, Proxy, block_on, eventually, nodes, rbac};
    use sla_profiler_tests::{root, sla_profiler};

    const IMAGE: &str = "registry.example/sla-profiler:1";

    /// A controller that ends with its test.
    struct Controller {
        process: Child,
        log: PathBuf,
    }

    impl Controller {
        fn start(kubeconfig: &Path, name: &str) -> Self {
            let log = ControlPlane::shared().folder().join(format!("{name}.controller.log"));
            let process = sla_profiler(["controller", "--image", IMAGE, "--kubeconfig"])
                .arg(kubeconfig)
                .stderr(fs::File::create(&log).unwrap())
                .spawn()
                .unwrap();
            Self { process, log }
        }

        fn log(&self) -> String {
            fs::read_to_string(&self.log).unwrap()
        }
    }

    impl Drop for Controller {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    /// A namespace with the shipped account and Role, and a controller that runs with them.
    async fn with_controller(prefix: &str) -> (Namespace, Controller) {
        let namespace = Namespace::create(ControlPlane::shared(), prefix).await;
        namespace.apply_folder(&root().join("examples/kubernetes/controller")).await;
        let kubeconfig = namespace.kubeconfig("sla-profiler-controller").await;
        let controller = Controller::start(&kubeconfig, namespace.name());
        (namespace, controller)
    }

    fn request(name: &str, auto_apply: bool) -> Value {
        json!({
            "apiVersion": "nvidia.com/v1beta1",
            "kind": "DynamoGraphDeploymentRequest",
            "metadata": { "name": name, "labels": { "sla-profiler.dev/class": "sla-profiler" } },
            "spec": { "model": "Qwen/Qwen3-0.6B", "sla": { "ttft": 200, "itl": 20 }, "autoApply": auto_apply },
        })
    }

    async fn status(namespace: &Namespace, name: &str, pointer: &str) -> Value {
        let request = namespace.dgdrs().get(name).await.unwrap();
        request.data.pointer(&format!("/status{pointer}")).cloned().unwrap_or_default()
    }

    async fn phase(namespace: &Namespace, name: &str, wanted: &str) {
        eventually(&format!("phase {wanted} of {name}"), async || {
            (status(namespace, name, "/phase").await == wanted).then_some(())
        })
        .await;
    }

    async fn condition(namespace: &Namespace, name: &str, kind: &str) -> Value {
        let conditions = status(namespace, name, "/conditions").await;
        let found = conditions.as_array().unwrap().iter().find(|condition| condition["type"] == kind).cloned();
        found.unwrap_or_else(|| panic!("no condition {kind}: {conditions}"))
    }

    async fn event(namespace: &Namespace, reason: &str) -> String {
        eventually(&format!("the event {reason}"), async || {
            let events = namespace.api::<Event>().list(&ListParams::default()).await.ok()?;
            let found = events.items.into_iter().find(|event| event.reason.as_deref() == Some(reason))?;
            found.note
        })
        .await
    }

    async fn jobs(namespace: &Namespace) -> Vec<Job> {
        namespace.api::<Job>().list(&ListParams::default()).await.unwrap().items
    }

    /// As the process in the Job does it: server-side apply as `sla-profiler`.
    async fn write_status(namespace: &Namespace, name: &str, status: Value) {
        let body = json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeploymentRequest", "status": status,
        });
        let params = PatchParams::apply("sla-profiler").force();
        namespace.dgdrs().patch_status(name, &params, &Patch::Apply(body)).await.unwrap();
    }

    /// Ends the pod of a Job, as the kubelet would report it.
    async fn end_pod(namespace: &Namespace, job: &str, exit_code: i32, words: &str) {
        let api = namespace.api::<Pod>();
        let pod = eventually("the Job's pod", async || {
            let pods = api.list(&ListParams::default().labels(&format!("job-name={job}"))).await.ok()?;
            pods.items.into_iter().find(|pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Running"))
        })
        .await;
        let now = "2026-01-01T00:00:00Z";
        let status = json!({ "status": {
            "phase": if exit_code == 0 { "Succeeded" } else { "Failed" },
            "containerStatuses": [{
                "name": "profiler", "image": IMAGE, "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": {
                    "exitCode": exit_code, "message": words, "startedAt": now, "finishedAt": now,
                }},
            }],
        }});
        let name = pod.metadata.name.unwrap();
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    fn generated(name: &str) -> Value {
        let container = json!({ "name": "main", "image": "registry.example/vllm-runtime:1.4.0" });
        json!({
            "apiVersion": "nvidia.com/v1beta1",
            "kind": "DynamoGraphDeployment",
            "metadata": { "name": name },
            "spec": { "backendFramework": "vllm", "components": [{
                "name": "Frontend", "type": "frontend", "replicas": 1,
                "podTemplate": { "spec": { "containers": [container] } },
            }]},
        })
    }

    /// What the process leaves when all went well and `autoApply` is off.
    async fn finish(namespace: &Namespace, name: &str) {
        let dgd = generated(&format!("{name}-dgd"));
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("{name}-planner") }, "data": { "a": "b" },
        });
        let output: ConfigMap = serde_json::from_value(json!({
            "metadata": { "name": format!("dgdr-output-{name}") },
            "data": { "final_config.yaml": format!("{map}\n---\n{dgd}\n") },
        }))
        .unwrap();
        namespace.api().create(&PostParams::default(), &output).await.unwrap();
        let generation = namespace.dgdrs().get(name).await.unwrap().metadata.generation;
        write_status(
            namespace,
            name,
            json!({
                "phase": "Ready", "profilingPhase": "Done", "observedGeneration": generation,
                "profilingResults": { "selectedConfig": dgd },
            }),
        )
        .await;
        end_pod(namespace, &format!("profile-{name}"), 0, "").await;
    }

    async fn change(namespace: &Namespace, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        namespace.dgdrs().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    #[test]
    fn a_request_of_our_class_gets_one_job_that_goes_with_it_and_others_get_none() {
        block_on(async {
            nodes::add_node(ControlPlane::shared(), "jobs-0", "NVIDIA-H200", 8).await;
            let (namespace, controller) = with_controller("one-job").await;
            let mut other = request("other", false);
            other["metadata"]["labels"] = json!({ "sla-profiler.dev/class": "another" });
            namespace.create_strict(&other).await.unwrap();
            namespace.create_strict(&request("chat", false)).await.unwrap();
            phase(&namespace, "chat", "Profiling").await;
            assert_eq!(status(&namespace, "chat", "/profilingJobName").await, "profile-chat");
            assert_eq!(status(&namespace, "chat", "/observedGeneration").await, 1);
            assert!(event(&namespace, "ProfilingJobCreated").await.contains("profile-chat"), "{}", controller.log());

            let found = jobs(&namespace).await;
            assert_eq!(found.len(), 1);
            let job = serde_json::to_value(&found[0]).unwrap();
            assert_eq!(job["metadata"]["ownerReferences"][0]["name"], "chat");
            let container = &job["spec"]["template"]["spec"]["containers"][0];
            assert_eq!(container["image"], IMAGE);
            assert!(container["args"].as_array().unwrap().contains(&json!("chat")), "{container}");
            // The real Job controller made a pod of it, which the real admission let in.
            eventually("the Job's pod", async || {
                let pods =
                    namespace.api::<Pod>().list(&ListParams::default().labels("job-name=profile-chat")).await.ok()?;
                (pods.items.len() == 1).then_some(())
            })
            .await;

            namespace.dgdrs().delete("chat", &DeleteParams::default()).await.unwrap();
            eventually("the Job's end", async || jobs(&namespace).await.is_empty().then_some(())).await;
            assert_eq!(status(&namespace, "other", "").await, Value::Null);
        });
    }

    #[test]
    fn overrides_that_the_api_server_refuses_fail_the_request_with_its_words() {
        block_on(async {
            let (namespace, _controller) = with_controller("refused").await;
            let mut request = request("chat", false);
            request["spec"]["overrides"] = json!({ "profilingJob": { "template": { "spec": {
                "containers": [{ "name": "profiler", "env": [{ "name": "a=b", "value": "c" }] }], "restartPolicy": "Always",
            }}}});
            namespace.create_strict(&request).await.unwrap();
            phase(&namespace, "chat", "Failed").await;
            let condition = condition(&namespace, "chat", "Succeeded").await;
            assert_eq!(condition["reason"], "JobCreationFailed");
            assert!(condition["message"].as_str().unwrap().contains("restartPolicy"), "{condition}");
        });
    }

    #[test]
    fn a_job_without_a_last_word_fails_the_request_with_the_end_of_its_log() {
        block_on(async {
            nodes::add_node(ControlPlane::shared(), "words-0", "NVIDIA-H200", 8).await;
            let (namespace, _controller) = with_controller("last-words").await;
            namespace.create_strict(&request("chat", false)).await.unwrap();
            phase(&namespace, "chat", "Profiling").await;
            write_status(&namespace, "chat", json!({ "phase": "Profiling", "profilingPhase": "SweepingDecode" })).await;
            end_pod(&namespace, "profile-chat", 3, "sla.ttft: -5 is not positive").await;
            phase(&namespace, "chat", "Failed").await;
            let succeeded = condition(&namespace, "chat", "Succeeded").await;
            assert_eq!(succeeded["reason"], "SweepingDecodeFailed");
            assert_eq!(succeeded["status"], "False");
            let message = succeeded["message"].as_str().unwrap();
            assert!(message.contains("exit code 3") && message.contains("sla.ttft"), "{message}");
            assert_eq!(condition(&namespace, "chat", "Validation").await["reason"], "ValidationFailed");
            assert_eq!(status(&namespace, "chat", "/profilingPhase").await, Value::Null);
            event(&namespace, "ProfilingJobFailed").await;
        });
    }

    #[test]
    fn a_change_after_profiling_began_is_rejected_once_and_changes_nothing() {
        block_on(async {
            let (namespace, controller) = with_controller("immutable").await;
            namespace.create_strict(&request("chat", false)).await.unwrap();
            phase(&namespace, "chat", "Profiling").await;
            change(&namespace, "chat", json!({ "sla": { "ttft": 999 } })).await;
            let note = event(&namespace, "SpecChangeRejected").await;
            assert!(note.contains("autoApply"), "{note}");
            assert_eq!(status(&namespace, "chat", "/phase").await, "Profiling", "{}", controller.log());
            assert_eq!(status(&namespace, "chat", "/observedGeneration").await, 1);
            assert_eq!(jobs(&namespace).await.len(), 1);
        });
    }

    /// A namespace with the shipped account and Role, and a controller that runs with them, through a proxy.
    async fn with_proxied_controller(prefix: &str) -> (Namespace, Controller, Proxy) {
        let cluster = ControlPlane::shared();
        let namespace = Namespace::create(cluster, prefix).await;
        namespace.apply_folder(&root().join("examples/kubernetes/controller")).await;
        let proxy = Proxy::start(cluster);
        let kubeconfig = namespace.kubeconfig_through("sla-profiler-controller", proxy.port()).await;
        let controller = Controller::start(&kubeconfig, namespace.name());
        (namespace, controller, proxy)
    }

    #[test]
    fn a_write_on_what_somebody_changed_meanwhile_is_made_anew_without_a_complaint() {
        block_on(async {
            let (namespace, controller, proxy) = with_proxied_controller("stale").await;
            proxy.inject(Method::PATCH, "dynamographdeploymentrequests/chat/status", Fault::Conflict, 3);
            namespace.create_strict(&request("chat", false)).await.unwrap();
            phase(&namespace, "chat", "Profiling").await;
            assert!(proxy.is_spent());
            assert_eq!(jobs(&namespace).await.len(), 1);
            assert!(!controller.log().contains("WARN"), "{}", controller.log());
        });
    }

    #[test]
    fn auto_apply_that_is_set_later_deploys_and_the_deployment_is_followed_to_its_end() {
        block_on(async {
            let cluster = ControlPlane::shared();
            nodes::add_node(cluster, "flip-0", "NVIDIA-H200", 8).await;
            let (namespace, mut controller, proxy) = with_proxied_controller("flip").await;
            let _operator = Operator::start(cluster, namespace.name(), Arc::new(|_, _| None));
            namespace.create_strict(&request("chat", false)).await.unwrap();
            phase(&namespace, "chat", "Profiling").await;
            finish(&namespace, "chat").await;
            phase(&namespace, "chat", "Ready").await;
            assert!(namespace.dgds().get_opt("chat-dgd").await.unwrap().is_none());

            change(&namespace, "chat", json!({ "autoApply": true })).await;
            phase(&namespace, "chat", "Deployed").await;
            assert_eq!(status(&namespace, "chat", "/dgdName").await, "chat-dgd");
            assert_eq!(status(&namespace, "chat", "/deploymentInfo/availableReplicas").await, 1);
            assert_eq!(condition(&namespace, "chat", "DeploymentReady").await["status"], "True");
            assert_eq!(condition(&namespace, "chat", "Succeeded").await["status"], "True");
            let map = namespace.api::<ConfigMap>().get("chat-planner").await.unwrap();
            assert_eq!(map.data.unwrap()["a"], "b");
            let dgd = namespace.dgds().get("chat-dgd").await.unwrap();
            assert!(dgd.metadata.owner_references.is_none(), "a deployment outlives its request");

            // One pod more than there is room for.
            let broken = json!({ "spec": { "components": [{
                "name": "Frontend", "type": "frontend", "replicas": 1,
                "podTemplate": { "spec": { "nodeSelector": { "no": "such" }, "containers": [{ "name": "main", "image": "x" }] } },
            }]}});
            let patch = Patch::Merge(broken);
            namespace.dgds().patch("chat-dgd", &PatchParams::default(), &patch).await.unwrap();
            phase(&namespace, "chat", "Deploying").await;
            event(&namespace, "DeploymentDegraded").await;
            namespace.dgds().delete("chat-dgd", &DeleteParams::default()).await.unwrap();
            phase(&namespace, "chat", "Failed").await;
            assert_eq!(condition(&namespace, "chat", "Succeeded").await["reason"], "DeploymentDeleted");
            event(&namespace, "DeploymentDeleted").await;

            // A failed Job's words are read, too: with that, every right has been used.
            namespace.create_strict(&request("fails", false)).await.unwrap();
            phase(&namespace, "fails", "Profiling").await;
            end_pod(&namespace, "profile-fails", 1, "x").await;
            phase(&namespace, "fails", "Failed").await;
            assert!(controller.process.try_wait().unwrap().is_none(), "{}", controller.log());
            let role = fs::read_to_string(root().join("examples/kubernetes/controller/role.yaml")).unwrap();
            let given = rbac::given(&serde_yaml::from_str(&role).unwrap());
            let used = rbac::used(&proxy.asked());
            let idle: BTreeSet<_> = given.difference(&used).collect();
            let missing: BTreeSet<_> = used.difference(&given).collect();
            assert!(
                idle.is_empty() && missing.is_empty(),
                "given and not used: {idle:?}; used and not given: {missing:?}"
            );
        });
    }

    #[test]
    fn a_deployment_that_is_not_ours_is_never_touched() {
        block_on(async {
            nodes::add_node(ControlPlane::shared(), "foreign-0", "NVIDIA-H200", 8).await;
            let (namespace, _controller) = with_controller("foreign").await;
            let mut theirs = generated("chat-dgd");
            theirs["spec"]["backendFramework"] = json!("sglang");
            namespace.create_strict(&theirs).await.unwrap();
            namespace.create_strict(&request("chat", false)).await.unwrap();
            phase(&namespace, "chat", "Profiling").await;
            finish(&namespace, "chat").await;
            change(&namespace, "chat", json!({ "autoApply": true })).await;
            phase(&namespace, "chat", "Failed").await;
            let message = condition(&namespace, "chat", "Succeeded").await["message"].to_string();
            assert!(message.contains("not ours"), "{message}");
            let dgd = namespace.dgds().get("chat-dgd").await.unwrap();
            assert_eq!(dgd.data["spec"]["backendFramework"], "sglang");
            assert!(namespace.api::<ConfigMap>().get_opt("chat-planner").await.unwrap().is_none());
        });
    }

    #[test]
    fn of_two_replicas_one_works_and_the_other_takes_over() {
        block_on(async {
            let (namespace, first) = with_controller("replicas").await;
            let leases = namespace.api::<Lease>();
            let holder = async || {
                let lease = leases.get_opt("sla-profiler-controller").await.ok()??;
                lease.spec?.holder_identity
            };
            let one = eventually("a holder", &holder).await;
            assert!(one.ends_with(&format!("_{}", first.process.id())), "{one}");
            let kubeconfig = namespace.kubeconfig("sla-profiler-controller").await;
            let second = Controller::start(&kubeconfig, &format!("{}-second", namespace.name()));
            namespace.create_strict(&request("a", false)).await.unwrap();
            phase(&namespace, "a", "Profiling").await;
            assert_eq!(holder().await.unwrap(), one);
            // Killed, it cannot give the lease back: the other one waits until it has run out.
            drop(first);
            namespace.create_strict(&request("b", false)).await.unwrap();
            phase(&namespace, "b", "Profiling").await;
            let two = holder().await.unwrap();
            assert!(two.ends_with(&format!("_{}", second.process.id())), "{two}: {}", second.log());
            assert_eq!(jobs(&namespace).await.len(), 2);
        });
    }

    #[test]
    fn without_its_role_the_error_names_the_verb_and_the_role() {
        block_on(async {
            let namespace = Namespace::create(ControlPlane::shared(), "no-role").await;
            let kubeconfig = namespace.account("nobody", &json!([])).await;
            let output =
                sla_profiler(["controller", "--image", IMAGE, "--kubeconfig"]).arg(&kubeconfig).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(6), "{said}");
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains("not allowed to get leases.coordination.k8s.io"), "{said}");
            assert!(said.contains(r#"verbs: ["get"]"#), "{said}");
        });
    }

    #[test]
    fn asked_to_stop_it_gives_the_lease_back() {
        block_on(async {
            let (namespace, mut controller) = with_controller("stops").await;
            let leases: Api<Lease> = namespace.api();
            let holder = async || leases.get_opt("sla-profiler-controller").await.ok()??.spec?.holder_identity;
            eventually("a holder", &holder).await;
            let pid = controller.process.id().to_string();
            assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            assert_eq!(controller.process.wait().unwrap().code(), Some(0), "{}", controller.log());
            assert_eq!(holder().await, None);
        });
    }
}
