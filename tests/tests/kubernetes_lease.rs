//! The lease of a run, and `sla-profiler gc` on a cluster: kills, a second process, a lost lease, no right to leases.
//!
//! Another machine is played by a lease whose holder says that it is one of elsewhere, and that lasts for seconds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod on_a_cluster {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command};
    use std::sync::Arc;
    use std::time::Duration;

    use hyper::Method;
    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
    use serde_json::{Value, json};
    use sla_profiler::output::exit_code;
    use sla_profiler_tests::kubernetes::operator::{DGD_LABEL, log_line};
    use sla_profiler_tests::kubernetes::proxy::Fault;
    use sla_profiler_tests::kubernetes::{
        ControlPlane, Endpoint, Namespace, Operator, Proxy, block_on, eventually_within, nodes, rbac,
    };
    use sla_profiler_tests::openai::{Behaviour, OpenAi, Timing, word_tokenizer};
    use sla_profiler_tests::{Said, root, run, sla_profiler};

    const MODEL: &str = "Qwen/Qwen3-0.6B";
    /// A busy machine takes long to bring a run up.
    const LONG: Duration = Duration::from_secs(240);

    const RUN: &str = "sla-profiler.dev/run";
    const LEASE: &str = "sla-profiler.dev/lease";
    const CANDIDATE: &str = "sla-profiler.dev/measures-candidate";
    const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

    /// A namespace with the shipped rights, an operator, GPUs, and engines that answer slowly enough for a run to last.
    struct World {
        namespace: Namespace,
        kubeconfig: PathBuf,
        server: OpenAi,
        dir: tempfile::TempDir,
        _operator: Operator,
    }

    impl World {
        async fn new(name: &str) -> Self {
            // A run lasts a minute: several renewals of its lease.
            Self::answering(name, Timing::fixed(90.0, 20.0)).await
        }

        async fn answering(name: &str, timing: Timing) -> Self {
            let plane = ControlPlane::shared();
            let namespace = Namespace::create(plane, name).await;
            nodes::add_node(plane, &format!("{name}-0"), "NVIDIA-H200", 8).await;
            let server =
                OpenAi::start(Behaviour { model: MODEL.to_owned(), timing, kv_tokens: 20_000, ..Behaviour::default() });
            let port = server.url.rsplit(':').next().unwrap().parse().unwrap();
            let log = plane.folder().join(format!("{name}.engine.log"));
            fs::write(&log, format!("{}\n", log_line("GPU KV cache size: 20,000 tokens"))).unwrap();
            let engines = move |_: &_, _: &_| Some(Endpoint { port, log_file: Some(log.clone()) });
            let operator = Operator::start(plane, namespace.name(), Arc::new(engines));
            namespace.apply_folder(&root().join("examples/kubernetes/base")).await;
            let kubeconfig = namespace.kubeconfig("sla-profiler").await;
            let world = Self { namespace, kubeconfig, server, dir: tempfile::tempdir().unwrap(), _operator: operator };
            world.request("chat").await;
            world
        }

        async fn request(&self, name: &str) {
            let request = json!({
                "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeploymentRequest",
                "metadata": { "name": name, "annotations": {
                    "sla-profiler.dev/profiler": r#"{"maxNumGpusPerEngine": 1, "maxContextLength": 200}"#,
                } },
                "spec": {
                    "model": MODEL, "backend": "vllm", "image": "registry.example/dynamo-planner:1.4.0", "autoApply": false,
                    "hardware": { "gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": 8 },
                    "workload": { "isl": 100, "osl": 20, "requestRate": 5 }, "sla": { "ttft": 500, "itl": 50 },
                },
            });
            self.namespace.create_strict(&request).await.unwrap();
        }

        fn out(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn command(&self, kubeconfig: &Path, request: &str, out: &str) -> Command {
            let mut command =
                sla_profiler(["profile", "--cluster", "kubernetes", "--dgdr", request, "--load", "builtin"]);
            command.arg("--kubeconfig").arg(kubeconfig).args(["--reach", &self.server.url]);
            command.args(["--kv-tolerance", "0.999", "--max-client-share", "inf", "--tokenizer"]);
            command.arg(word_tokenizer()).arg("--out").arg(self.out(out));
            command
        }

        /// Starts a run and waits until it measures.
        async fn measuring(&self, kubeconfig: &Path, request: &str, more: &[&str]) -> Running {
            let log = self.out(&format!("{request}.stderr"));
            let mut command = self.command(kubeconfig, request, request);
            command.args(more).stdout(std::process::Stdio::null()).stderr(fs::File::create(&log).unwrap());
            let run = Running { process: command.spawn().unwrap(), log };
            let before = self.server.completions();
            eventually_within(LONG, "a measurement", async || {
                (self.server.completions() > before + 3 && !self.candidates().await.is_empty()).then_some(())
            })
            .await;
            run
        }

        async fn dgds(&self) -> Vec<DynamicObject> {
            self.namespace.dgds().list(&ListParams::default()).await.unwrap().items
        }

        async fn candidates(&self) -> Vec<DynamicObject> {
            self.namespace.dgds().list(&ListParams::default().labels(CANDIDATE)).await.unwrap().items
        }

        async fn leases(&self) -> Vec<Lease> {
            self.namespace.api::<Lease>().list(&ListParams::default().labels(RUN)).await.unwrap().items
        }

        async fn lease(&self) -> Lease {
            let leases = self.leases().await;
            assert_eq!(leases.len(), 1, "{leases:?}");
            leases.into_iter().next().unwrap()
        }

        /// The lease as if its holder were another machine's; `more` of its spec.
        async fn pretend_elsewhere(&self, more: Value) {
            let lease = self.lease().await;
            let annotation = &lease.metadata.annotations.as_ref().unwrap()["sla-profiler.dev/holder"];
            let mut holder: Value = serde_json::from_str(annotation).unwrap();
            holder["process"]["place"] = json!("another machine");
            let patch = json!({
                "metadata": { "annotations": { "sla-profiler.dev/holder": holder.to_string() } },
                "spec": more,
            });
            self.patch_lease(&lease, patch).await;
        }

        async fn patch_lease(&self, lease: &Lease, patch: Value) {
            let name = lease.metadata.name.as_deref().unwrap();
            let leases = self.namespace.api::<Lease>();
            leases.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        }

        async fn gc(&self, kubeconfig: &Path, more: &[&str]) -> Said {
            let mut command = sla_profiler(["gc", "--kubeconfig"]);
            command.arg(kubeconfig).args(more).env("XDG_STATE_HOME", self.dir.path());
            finished(command).await
        }

        /// What gc found, as JSON; it ended well.
        async fn gc_json(&self, kubeconfig: &Path, more: &[&str]) -> Vec<Value> {
            let said = self.gc(kubeconfig, &[&["--output", "json"], more].concat()).await;
            assert_eq!(said.code, 0, "{}\n{}", said.out, said.err);
            let report: Value = serde_json::from_str(&said.out).unwrap();
            report["cluster"]["runs"].as_array().unwrap().clone()
        }

        async fn pods(&self) -> usize {
            self.namespace.api::<Pod>().list(&ListParams::default().labels(DGD_LABEL)).await.unwrap().items.len()
        }

        async fn nothing_is_left(&self) {
            assert_eq!(names(&self.candidates().await), BTreeSet::new());
            assert!(self.leases().await.is_empty(), "{:?}", self.leases().await);
        }

        async fn phase(&self, request: &str) -> Value {
            self.namespace.dgdrs().get(request).await.unwrap().data["status"].clone()
        }
    }

    fn names(objects: &[DynamicObject]) -> BTreeSet<String> {
        objects.iter().filter_map(|object| object.metadata.name.clone()).collect()
    }

    fn words(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Beside the runtime: the servers of the test go on.
    async fn finished(command: Command) -> Said {
        tokio::task::spawn_blocking(move || run(command)).await.unwrap()
    }

    /// A run that does not outlive its test.
    struct Running {
        process: Child,
        log: PathBuf,
    }

    impl Running {
        fn signal(&self, name: &str) {
            let pid = self.process.id().to_string();
            assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
        }

        /// Its exit code, none after a signal, and what it said.
        async fn end(mut self) -> (Option<i32>, String) {
            let log = self.log.clone();
            let code = tokio::task::spawn_blocking(move || self.process.wait().unwrap().code()).await.unwrap();
            (code, words(&fs::read_to_string(log).unwrap()))
        }

        async fn kill(self) {
            self.signal("-KILL");
            assert_eq!(self.end().await.0, None);
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    fn dgd(name: &str, labels: &Value) -> Value {
        let container = json!({ "name": "main", "image": "registry.example/vllm-runtime:1.4.0" });
        json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment",
            "metadata": { "name": name, "labels": labels },
            "spec": { "backendFramework": "vllm", "components": [{
                "name": "Frontend", "type": "frontend", "replicas": 1,
                "podTemplate": { "spec": { "containers": [container] } },
            }]},
        })
    }

    #[test]
    fn what_a_killed_run_left_is_mentioned_by_the_next_one_and_removed_by_gc_and_nothing_of_anybody_else() {
        block_on(async {
            let world = World::new("gc").await;
            let run = world.measuring(&world.kubeconfig, "chat", &[]).await;
            let lease = world.lease().await;
            let spec = lease.spec.clone().unwrap();
            let holder = spec.holder_identity.unwrap();
            assert!(holder.contains(&format!("_{}_", run.process.id())), "{holder}");
            assert_eq!(lease.metadata.owner_references.as_ref().unwrap()[0].name, "chat");
            let candidates = world.candidates().await;
            let name = lease.metadata.name.clone().unwrap();
            for candidate in &candidates {
                assert!(candidate.metadata.creation_timestamp >= lease.metadata.creation_timestamp);
                assert_eq!(candidate.metadata.labels.as_ref().unwrap()[LEASE], name);
            }
            run.kill().await;
            let left = names(&world.candidates().await);
            assert!(!left.is_empty(), "else there is nothing to remove");

            // Another run says so, and touches nothing.
            world.request("other").await;
            let other = world.measuring(&world.kubeconfig, "other", &[]).await;
            assert!(names(&world.candidates().await).is_superset(&left));
            other.signal("-TERM");
            let (code, said) = other.end().await;
            assert_eq!(code, Some(exit_code::INTERRUPTED.into()), "{said}");
            assert!(said.contains("is gone (the process was one of this machine, and it has ended)"), "{said}");
            assert!(said.contains(&format!("gc --namespace {}", world.namespace.name())), "{said}");

            // Of somebody else, with names and labels that are like ours.
            let run = lease.metadata.labels.as_ref().unwrap()[RUN].clone();
            let strangers = [
                dgd(&format!("vllm-decode-tp1-{run}x"), &json!({})),
                dgd("of-another-program", &json!({ RUN: run, CANDIDATE: "true", LEASE: name })),
                dgd("the-last-phase", &json!({ RUN: run, MANAGED_BY: "sla-profiler" })),
                dgd("of-no-run", &json!({ RUN: "mine", MANAGED_BY: "sla-profiler", CANDIDATE: "true", LEASE: name })),
                json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "sla-profiler-run-abcdef" },
                    "spec": { "holderIdentity": "somebody", "leaseDurationSeconds": 1 },
                }),
            ];
            for stranger in &strangers {
                world.namespace.create_strict(stranger).await.unwrap();
            }
            let labels = json!({ RUN: run, MANAGED_BY: "sla-profiler", LEASE: name, "sla-profiler.dev/load": "true" });
            let job = json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "load-left", "labels": labels },
                "spec": { "suspend": true, "template": { "spec": {
                    "restartPolicy": "Never", "containers": [{ "name": "client", "image": "x" }],
                } } },
            });
            world.namespace.create_strict(&job).await.unwrap();
            let mine = |objects: BTreeSet<String>| -> BTreeSet<String> { objects.difference(&left).cloned().collect() };
            let of_others = mine(names(&world.dgds().await));
            assert_eq!(of_others.len(), 4, "{of_others:?}");

            // From another machine, with the shipped rights for it.
            world.pretend_elsewhere(json!({ "leaseDurationSeconds": 5 })).await;
            world.namespace.apply_folder(&root().join("examples/kubernetes/gc")).await;
            let proxy = Proxy::start(ControlPlane::shared());
            let kubeconfig = world.namespace.kubeconfig_through("sla-profiler-gc", proxy.port()).await;
            let found = world.gc_json(&kubeconfig, &["--dry-run"]).await;
            assert_eq!((found.len(), &found[0]["outcome"]), (1, &json!("would-be-removed")), "{found:?}");
            assert_eq!(found[0]["request"], "chat");
            assert_eq!(names(&world.candidates().await).len(), left.len() + 2, "it only looks");
            let said = world.gc(&kubeconfig, &[]).await;
            assert_eq!(said.code, 0, "{}\n{}", said.out, said.err);
            assert!(said.out.contains("it has not renewed the lease for 5 s; removed: "), "{}", said.out);
            assert!(left.iter().all(|name| said.out.contains(name)), "{}", said.out);
            assert_eq!(names(&world.dgds().await), of_others);
            assert!(world.leases().await.is_empty());
            assert!(world.namespace.api::<Lease>().get_opt("sla-profiler-run-abcdef").await.unwrap().is_some());
            assert!(world.namespace.api::<Job>().list(&ListParams::default()).await.unwrap().items.is_empty());
            let left_pods = ListParams::default()
                .labels(&format!("{DGD_LABEL} in ({})", left.iter().cloned().collect::<Vec<_>>().join(",")));
            assert!(world.namespace.api::<Pod>().list(&left_pods).await.unwrap().items.is_empty(), "it waits for them");
            let said = world.gc(&kubeconfig, &[]).await;
            assert!(said.out.contains("nothing is left of any run in namespace"), "{}", said.out);

            // One whose lease somebody deleted is gone, too.
            let orphan = json!({ RUN: run, MANAGED_BY: "sla-profiler", CANDIDATE: "true", LEASE: name });
            world.namespace.create_strict(&dgd("orphan", &orphan)).await.unwrap();
            proxy.inject(Method::DELETE, "/leases/", Fault::Conflict, 1);
            let found = world.gc_json(&kubeconfig, &[]).await;
            assert_eq!(found[0]["outcome"], "removed", "{found:?}");
            assert_eq!(names(&world.dgds().await), of_others);
            assert!(world.leases().await.is_empty());
            let role = fs::read_to_string(root().join("examples/kubernetes/gc/role.yaml")).unwrap();
            assert_eq!(rbac::used(&proxy.asked()), rbac::given(&serde_yaml::from_str(&role).unwrap()));
        });
    }

    #[test]
    fn a_run_that_lives_is_left_alone_and_refuses_a_second_process_and_once_killed_goes_on() {
        block_on(async {
            let world = World::new("lives").await;
            let run = world.measuring(&world.kubeconfig, "chat", &[]).await;
            let pid = run.process.id();
            let admin = world.namespace.admin_kubeconfig(ControlPlane::shared().port());
            let found = world.gc_json(&admin, &[]).await;
            assert_eq!(found[0]["outcome"], "lives", "{found:?}");
            // Also where the machine cannot be looked at.
            world.pretend_elsewhere(json!({})).await;
            let found = world.gc_json(&admin, &["--dry-run"]).await;
            assert_eq!(found[0]["outcome"], "lives", "{found:?}");

            let said = finished(world.command(&world.kubeconfig, "chat", "second")).await;
            let said_words = words(&said.err);
            assert_eq!(said.code, i32::from(exit_code::CLUSTER), "{said_words}");
            assert!(said_words.contains("another process holds the lease sla-profiler-run-"), "{said_words}");
            assert!(said_words.contains(&format!("process {pid} on ")), "{said_words}");
            assert!(!world.out("second").exists(), "nothing was begun");

            run.kill().await;
            let mut resumed = world.command(&world.kubeconfig, "chat", "chat");
            resumed.arg("--resume");
            let said = finished(resumed).await;
            let said_words = words(&said.err);
            assert_eq!(said.code, 0, "{said_words}");
            assert!(said_words.contains("this run had another process, which is gone"), "{said_words}");
            world.nothing_is_left().await;
            assert_eq!(world.pods().await, 0);
        });
    }

    #[test]
    fn a_run_whose_lease_is_taken_or_deleted_stops_with_the_reason_and_releases_its_engines() {
        block_on(async {
            // Slower still: a run that is through before its lease is next renewed has lost nothing.
            let world = World::answering("lost", Timing::fixed(200.0, 40.0)).await;
            let run = world.measuring(&world.kubeconfig, "chat", &[]).await;
            let lease = world.lease().await;
            world.patch_lease(&lease, json!({ "spec": { "holderIdentity": "another_1_ab" } })).await;
            let (code, said) = run.end().await;
            assert_eq!(code, Some(exit_code::INTERRUPTED.into()), "{said}");
            assert!(said.contains("the lease of this run is lost: it was taken over by another_1_ab"), "{said}");
            assert!(said.contains("what was measured so far is kept"), "{said}");
            assert_eq!(names(&world.candidates().await), BTreeSet::new());
            let spec = world.lease().await.spec.unwrap();
            assert_eq!(spec.holder_identity.as_deref(), Some("another_1_ab"), "the other one's now");
            assert_eq!(world.phase("chat").await["phase"], "Profiling", "the other one's word, too");

            let name = lease.metadata.name.unwrap();
            world.namespace.api::<Lease>().delete(&name, &DeleteParams::default()).await.unwrap();
            world.request("again").await;
            let run = world.measuring(&world.kubeconfig, "again", &[]).await;
            let name = world.lease().await.metadata.name.unwrap();
            world.namespace.api::<Lease>().delete(&name, &DeleteParams::default()).await.unwrap();
            let (code, said) = run.end().await;
            assert_eq!(code, Some(exit_code::INTERRUPTED.into()), "{said}");
            assert!(said.contains("the lease of this run is lost: it was deleted"), "{said}");
            world.nothing_is_left().await;
            assert_eq!(world.phase("again").await["phase"], "Failed");
        });
    }

    #[test]
    fn without_the_right_to_leases_a_run_goes_on_with_one_warning_and_gc_leaves_it_alone() {
        block_on(async {
            let world = World::new("no-leases").await;
            let role = fs::read_to_string(root().join("examples/kubernetes/base/role.yaml")).unwrap();
            let role: Value = serde_yaml::from_str(&role).unwrap();
            let mut rules = role["rules"].clone();
            rules.as_array_mut().unwrap().retain(|rule| rule["apiGroups"] != json!(["coordination.k8s.io"]));
            let kubeconfig = world.namespace.account("without", &rules).await;
            let run = world.measuring(&kubeconfig, "chat", &[]).await;
            assert!(world.leases().await.is_empty());
            let candidates = world.candidates().await;
            assert!(candidates.iter().all(|dgd| !dgd.metadata.labels.as_ref().unwrap().contains_key(LEASE)));
            let log = run.log.clone();
            run.kill().await;
            let said = words(&fs::read_to_string(log).unwrap());
            assert_eq!(said.matches("no right to hold a lease").count(), 1, "{said}");

            let admin = world.namespace.admin_kubeconfig(ControlPlane::shared().port());
            let said = world.gc(&admin, &[]).await;
            assert_eq!(said.code, 0, "{}", said.err);
            assert!(
                said.out.contains("made without a lease") && said.out.contains("kubectl delete dgd -n"),
                "{}",
                said.out
            );
            assert_eq!(names(&world.candidates().await), names(&candidates));
            // The same run finds them all the same.
            let run = world.measuring(&world.kubeconfig, "chat", &["--resume"]).await;
            run.signal("-TERM");
            let (code, said) = run.end().await;
            assert_eq!(code, Some(exit_code::INTERRUPTED.into()), "{said}");
            assert!(said.contains("an earlier process of this run left"), "{said}");
            world.nothing_is_left().await;
        });
    }
}
