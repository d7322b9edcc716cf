//! Engines as DynamoGraphDeployments on a real API server: launched, watched, lost, removed, rolled out and rolled back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod on_a_cluster {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use hyper::Method;
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
    use serde_json::{Value, json};
    use sla_profiler::domain::search_space;
    use sla_profiler::domain::{Aim, FailureClass, Role};
    use sla_profiler::engine::kubernetes::{Deadlines, KubernetesCluster, Options, Reach};
    use sla_profiler::engine::served::{Bench, Settings, Stop};
    use sla_profiler::engine::simulated::SimulatedCluster;
    use sla_profiler::engine::{ApplyRequest, CheckLoad, Cluster, Launch};
    use sla_profiler::http;
    use sla_profiler::kubernetes::owner::OwnerObject;
    use sla_profiler::kubernetes::{Access, Kube, Owner};
    use sla_profiler::load::{Endpoint as Served, LoadError, LoadGenerator, LoadReport, Point};
    use sla_profiler::run::{Existing, RunDir};
    use sla_profiler::spec::{Flags, RunSpec, Source, load};
    use sla_profiler_tests::kubernetes::nodes::{self, Fault as PodFault};
    use sla_profiler_tests::kubernetes::operator::{DGD_LABEL, log_line};
    use sla_profiler_tests::kubernetes::proxy::Fault;
    use sla_profiler_tests::kubernetes::{ControlPlane, Endpoint, Namespace, Operator, Proxy, block_on, eventually};

    /// Answers every completion with a word, and every GET with nothing; in threads, so that it needs no runtime.
    fn answering() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|s| drop(std::thread::spawn(|| answer(s)))));
        port
    }

    fn answer(stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        loop {
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let start = head.len();
                if reader.read_line(&mut head).unwrap_or(0) == 0 {
                    return;
                }
                if let Some(value) = head[start..].to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            let text = if head.starts_with("POST") {
                json!({ "choices": [{ "message": { "content": "hello" } }] }).to_string()
            } else {
                String::new()
            };
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
            if stream.write_all(format!("{head}{text}").as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Stands for a load generator: what a check run finds is not in question here, but what comes of it.
    struct Finds {
        within_sla: AtomicBool,
    }

    #[async_trait]
    impl LoadGenerator for Finds {
        fn name(&self) -> &'static str {
            "stand-in"
        }

        async fn measure(&self, _: &Served, _: &Point) -> Result<LoadReport, LoadError> {
            let ms = if self.within_sla.load(Ordering::Relaxed) { 1.0 } else { 1e6 };
            let estimate = |value: f64| json!({ "value": value, "ci_low": value, "ci_high": value, "samples": 9 });
            let stat =
                json!({ "mean": ms, "p50": ms, "p90": ms, "p99": ms, "ci_low": ms, "ci_high": ms, "target": ms });
            let figure = json!({ "stat": stat, "target": estimate(ms), "samples": 9 });
            let report = json!({
                "ttft_ms": figure, "itl_ms": figure, "e2e_ms": figure, "requests": 9, "failed_requests": 0,
                "wrong_length_requests": 0, "concurrency_seen": estimate(1.0), "input_tokens_per_second": estimate(1.0),
                "output_tokens_per_second": estimate(1.0), "requests_per_second": estimate(1.0), "duration_s": 1.0,
                "stopped": serde_json::to_value(sla_profiler::load::Stopped::MostRequests).unwrap(), "tokens_per_chunk": 1.0,
                "chunks_per_read": 1.0, "samples": [],
            });
            Ok(serde_json::from_value(report).unwrap())
        }
    }

    /// A cluster with an operator and GPUs, and a run on it.
    struct World {
        namespace: Namespace,
        proxy: Proxy,
        _operator: Option<Operator>,
        spec: RunSpec,
        cluster: KubernetesCluster,
        owner: Owner,
        stop: Stop,
        finds: Arc<Finds>,
        dir: tempfile::TempDir,
    }

    const JOB: &str = r#"{"model": "Qwen/Qwen3-0.6B", "hardware": {"gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": 8},
        "workload": {"isl": 500, "osl": 50}, "sla": {"ttft": 200, "itl": 20}, "profiler": {"maxNumGpusPerEngine": 1}}"#;

    struct Wishes {
        image: Option<String>,
        operator: bool,
        deadlines: Deadlines,
        gpus_per_node: u32,
    }

    impl Default for Wishes {
        fn default() -> Self {
            Self { image: None, operator: true, deadlines: Deadlines::default(), gpus_per_node: 8 }
        }
    }

    impl World {
        async fn new(name: &str, wishes: Wishes) -> Self {
            let plane = ControlPlane::shared();
            let namespace = Namespace::create(plane, name).await;
            nodes::add_node(plane, &format!("{name}-0"), "NVIDIA-H200", 8).await;
            let log: PathBuf = plane.folder().join(format!("{name}.log"));
            let lines = [
                "loading weights",
                "GPU KV cache size: 643,891 tokens",
                "Maximum concurrency for 40,960 tokens per request: 15.72x",
            ];
            let text: String = lines.iter().map(|line| format!("{}\n", log_line(line))).collect();
            std::fs::write(&log, text).unwrap();
            let endpoint = Endpoint { port: answering(), log_file: Some(log) };
            let operator = wishes
                .operator
                .then(|| Operator::start(plane, namespace.name(), Arc::new(move |_, _| Some(endpoint.clone()))));
            let proxy = Proxy::start(plane);
            let mut spec = load(&Source::Inline(JOB.to_owned()), &Flags::default()).unwrap().spec;
            spec.deployment.namespace = Some(namespace.name().to_owned());
            spec.deployment.image = wishes.image;
            spec.job.hardware.gpus_per_node = wishes.gpus_per_node;
            let access = Access { kubeconfig: Some(namespace.admin_kubeconfig(proxy.port())), ..Access::default() };
            let kube = Kube::connect(&access).await.unwrap();
            assert_eq!(kube.namespace, namespace.name());
            let owner = Owner::new("req", None, name);
            let finds = Arc::new(Finds { within_sla: AtomicBool::new(true) });
            let stop = Stop::default();
            let dir = tempfile::tempdir().unwrap();
            let bench = Bench {
                job: Arc::new(spec.job.clone()),
                generator: Arc::clone(&finds) as Arc<dyn LoadGenerator>,
                // The stand-in's log is the only word on its capacity.
                settings: Settings { kv_tolerance: 10.0, ..Settings::default() },
                http: http::Client::new(http::Options::default()),
                stop: stop.clone(),
                reports: None,
            };
            let options = Options {
                kube,
                owner: owner.clone(),
                lease: None,
                reach: Reach::PortForward,
                deadlines: wishes.deadlines,
                dir: Some(RunDir::open(dir.path(), Existing::Refuse).unwrap()),
                endpoint: Served::new("", "Qwen/Qwen3-0.6B"),
                estimate: Arc::new(SimulatedCluster::new(&spec.job, &spec.simulation)),
                client_pods: None,
            };
            let cluster = KubernetesCluster::new(spec.clone(), bench, options);
            Self { namespace, proxy, _operator: operator, spec, cluster, owner, stop, finds, dir }
        }

        fn launch(&self, role: Role) -> Launch {
            let space = search_space::build(&self.spec.job, &self.spec.limits);
            let found = space.candidates.iter().zip(0..).find(|(candidate, _)| candidate.role == role).unwrap();
            Launch { id: found.1, candidate: found.0.clone(), failed: 0 }
        }

        async fn dgds(&self) -> Vec<String> {
            let list = self.namespace.dgds().list(&ListParams::default()).await.unwrap();
            list.items.into_iter().map(|dgd| dgd.metadata.name.unwrap()).collect()
        }

        async fn pods(&self) -> usize {
            self.namespace.api::<Pod>().list(&ListParams::default().labels(DGD_LABEL)).await.unwrap().items.len()
        }

        async fn nothing_is_left(&self) {
            assert_eq!(self.dgds().await, Vec::<String>::new());
            assert_eq!(self.pods().await, 0);
        }
    }

    #[test]
    fn an_engine_comes_up_tells_its_capacity_and_leaves_nothing() {
        block_on(async {
            let world = World::new("engine", Wishes::default()).await;
            let launch = world.launch(Role::Decode);
            world.proxy.forget();
            let engine = world.cluster.launch(&launch).await.unwrap_or_else(|failure| panic!("{failure:?}"));
            assert_eq!(engine.facts().kv_tokens, 643_891, "{:?}", engine.facts().kv_sources);
            assert!(engine.log().contains("loading weights"), "{}", engine.log());
            let names = world.dgds().await;
            assert!(names[0].ends_with(&world.owner.run), "{names:?}");
            let dgd = world.namespace.dgds().get(&names[0]).await.unwrap();
            assert_eq!(dgd.metadata.labels.as_ref().unwrap()["sla-profiler.dev/run"], world.owner.run);
            let managers: Vec<_> =
                dgd.metadata.managed_fields.iter().flatten().filter_map(|m| m.manager.clone()).collect();
            assert!(managers.contains(&"sla-profiler".to_owned()), "{managers:?}");
            let folder = world.dir.path().join(launch.candidate.dir_name());
            // Whoever follows them may be a moment behind.
            eventually("the logs of frontend and worker", async || {
                let files = std::fs::read_dir(&folder).unwrap().flatten();
                let logs = files.filter(|file| file.path().extension().is_some_and(|e| e == "log"));
                (logs.count() == 2).then_some(())
            })
            .await;
            engine.shutdown().await.unwrap();
            world.nothing_is_left().await;
            let asked = world.proxy.asked();
            // Connections of port-forwards are the load's, not the control's.
            let ours = asked.iter().filter(|asked| !asked.path.contains("portforward"));
            assert!(ours.clone().count() <= 10, "{:#?}", ours.collect::<Vec<_>>());
        });
    }

    #[test]
    fn engines_that_cannot_come_up_are_told_apart_with_a_remedy_and_leave_nothing() {
        let seconds = Duration::from_secs;
        let cases = [
            (PodFault::ImagePull, "cannot be pulled", "pull secret", FailureClass::Launch),
            (PodFault::Crash, "ends again and again", "exit code 1", FailureClass::Launch),
            (PodFault::OutOfMemory, "more host memory", "limits.memory", FailureClass::Launch),
            (PodFault::NeverReady, "no sign of life", "readiness probe", FailureClass::Timeout),
        ];
        block_on(async {
            for (n, (fault, said, remedy, class)) in cases.into_iter().enumerate() {
                let deadlines = Deadlines { silence: seconds(6), ..Deadlines::default() };
                let wishes = Wishes { image: Some(fault.image()), deadlines, ..Wishes::default() };
                let world = World::new(&format!("faulty-{n}"), wishes).await;
                let failure = world.cluster.launch(&world.launch(Role::Prefill)).await.err().expect("it fails");
                assert!(
                    failure.reason.contains(said) && failure.reason.contains(remedy),
                    "{fault:?}: {}",
                    failure.reason
                );
                assert_eq!((failure.class, failure.probe), (class, None), "{fault:?}: {}", failure.reason);
                world.nothing_is_left().await;
            }
        });
    }

    #[test]
    fn an_engine_without_gpus_or_without_an_operator_is_given_up_in_its_time() {
        block_on(async {
            let deadlines = Deadlines { scheduling: Duration::from_secs(2), ..Deadlines::default() };
            // More than any node of the tests has.
            let world = World::new("no-gpus", Wishes { deadlines, gpus_per_node: 64, ..Wishes::default() }).await;
            let mut launch = world.launch(Role::Prefill);
            launch.candidate.mapping = sla_profiler::domain::Mapping::tensor(64);
            let failure = world.cluster.launch(&launch).await.err().expect("it fails");
            assert!(
                failure.reason.contains("finds no node") && failure.reason.contains("free GPUs"),
                "{}",
                failure.reason
            );
            world.nothing_is_left().await;

            let deadlines = Deadlines { operator: Duration::from_secs(2), ..Deadlines::default() };
            let world = World::new("no-operator", Wishes { operator: false, deadlines, ..Wishes::default() }).await;
            let failure = world.cluster.launch(&world.launch(Role::Prefill)).await.err().expect("it fails");
            assert!(failure.reason.contains("operator has not touched"), "{}", failure.reason);
            world.nothing_is_left().await;
        });
    }

    #[test]
    fn a_namespace_that_is_being_deleted_takes_no_engine_and_is_named() {
        block_on(async {
            let world = World::new("terminating", Wishes::default()).await;
            // What nobody finishes holds the namespace up.
            let held = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": "held", "finalizers": ["example.com/held"] },
            });
            world.namespace.create_strict(&held).await.unwrap();
            let namespaces = kube::Api::<k8s_openapi::api::core::v1::Namespace>::all(world.namespace.admin());
            namespaces.delete(world.namespace.name(), &DeleteParams::default()).await.unwrap();
            let failure = world.cluster.launch(&world.launch(Role::Decode)).await.err().expect("it fails");
            assert!(failure.reason.contains("the namespace is being deleted"), "{}", failure.reason);
            let maps = world.namespace.api::<k8s_openapi::api::core::v1::ConfigMap>();
            let free = json!({ "metadata": { "finalizers": null } });
            maps.patch("held", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
        });
    }

    #[test]
    fn a_deployment_of_the_same_name_that_is_not_ours_is_never_touched() {
        block_on(async {
            let world = World::new("foreign", Wishes::default()).await;
            let launch = world.launch(Role::Decode);
            let mut dgd = sla_profiler::dgd::generate_candidate(&world.spec, &launch.candidate).unwrap();
            let name = format!("{}-{}", dgd["metadata"]["name"].as_str().unwrap(), world.owner.run);
            dgd["metadata"]["name"] = name.clone().into();
            dgd["spec"]["components"][1]["replicas"] = 0.into();
            let created = world.namespace.create_strict(&dgd).await.unwrap();
            let failure = world.cluster.launch(&launch).await.err().expect("it fails");
            assert!(failure.reason.contains("exists already and is not ours"), "{}", failure.reason);
            world.cluster.clean_up().await;
            let found = world.namespace.dgds().get(&name).await.unwrap();
            assert_eq!(found.metadata.uid.as_deref(), created["metadata"]["uid"].as_str());
            assert_eq!(found.data["spec"], created["spec"], "its spec is as it was");
            assert_eq!(found.metadata.labels, None);
        });
    }

    #[test]
    fn launching_survives_faults_of_the_api_server() {
        block_on(async {
            let world = World::new("weather", Wishes::default()).await;
            for (method, path, fault, times) in [
                (Method::PATCH, "dynamographdeployments", Fault::TooManyRequests, 1),
                (Method::PATCH, "dynamographdeployments", Fault::Unavailable, 1),
                (Method::GET, "dynamographdeployments", Fault::Eof, 2),
                (Method::GET, "watch=true", Fault::Expired, 2),
                (Method::GET, "/pods?", Fault::TooManyRequests, 2),
                (Method::DELETE, "dynamographdeployments", Fault::Eof, 1),
            ] {
                world.proxy.inject(method, path, fault, times);
            }
            let engine =
                world.cluster.launch(&world.launch(Role::Decode)).await.unwrap_or_else(|failure| panic!("{failure:?}"));
            // All watches end, and come back.
            world.proxy.cut();
            engine.shutdown().await.unwrap();
            assert!(world.proxy.is_spent());
            world.nothing_is_left().await;
        });
    }

    #[test]
    fn an_engine_that_somebody_deletes_is_lost_and_says_so() {
        block_on(async {
            let world = World::new("deleted", Wishes::default()).await;
            let launch = world.launch(Role::Decode);
            let engine = world.cluster.launch(&launch).await.unwrap_or_else(|failure| panic!("{failure:?}"));
            let mut engine = engine;
            let name = world.dgds().await.remove(0);
            world.namespace.dgds().delete(&name, &DeleteParams::default()).await.unwrap();
            let probe = sla_profiler::domain::Probe {
                candidate: launch.id,
                isl: 10,
                osl: 10,
                concurrency: 1,
                relative_precision: 0.1,
                max_samples: 5,
            };
            let failure = loop {
                match engine.measure(Role::Decode, &probe, Aim::Value).await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    Err(failure) => break failure,
                }
            };
            assert_eq!((failure.class, failure.probe), (FailureClass::Crash, None));
            assert!(failure.reason.contains("deleted") || failure.reason.contains("are gone"), "{}", failure.reason);
            engine.shutdown().await.unwrap();
            world.nothing_is_left().await;
        });
    }

    #[test]
    fn a_stop_ends_a_launch_at_once_and_what_was_cut_off_is_cleaned_up() {
        block_on(async {
            let wishes = || Wishes { image: Some(PodFault::NeverReady.image()), ..Wishes::default() };
            let world = World::new("stopped", wishes()).await;
            let launch = world.launch(Role::Decode);
            let stop = async {
                eventually("its deployment", async || (!world.dgds().await.is_empty()).then_some(())).await;
                world.stop.flag().store(true, Ordering::Relaxed);
            };
            let (failure, ()) = tokio::join!(world.cluster.launch(&launch), stop);
            assert!(failure.err().expect("it is given up").reason.contains("asked to stop"));
            world.nothing_is_left().await;

            // A process that breaks off, as after a second Ctrl-C.
            let world = World::new("broken-off", wishes()).await;
            tokio::select! {
                _ = world.cluster.launch(&launch) => panic!("it is never ready"),
                () = async {
                    eventually("its deployment", async || (!world.dgds().await.is_empty()).then_some(())).await;
                } => {}
            }
            world.cluster.clean_up().await;
            eventually("the end of all", async || {
                (world.dgds().await.is_empty() && world.pods().await == 0).then_some(())
            })
            .await;
        });
    }

    #[test]
    fn what_a_killed_process_left_behind_goes_when_its_run_goes_on() {
        block_on(async {
            let world = World::new("killed", Wishes::default()).await;
            let engine =
                world.cluster.launch(&world.launch(Role::Decode)).await.unwrap_or_else(|failure| panic!("{failure:?}"));
            // Killed: nothing of the engine's is run any more.
            std::mem::forget(engine);
            let other = json!({
                "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment",
                "metadata": { "name": "bystander", "labels": { "sla-profiler.dev/run": "other" } },
                "spec": { "components": [] },
            });
            world.namespace.create_strict(&other).await.unwrap();
            assert_eq!(world.cluster.remove_leftovers().await.unwrap(), 1);
            assert_eq!(world.dgds().await, ["bystander"]);
        });
    }

    fn final_dgd(name: &str, replicas: u32, image: &str) -> Value {
        let component = |name: &str, kind: &str, replicas: u32| {
            json!({ "name": name, "type": kind, "replicas": replicas,
                "podTemplate": { "spec": { "containers": [{ "name": "main", "image": image }] } } })
        };
        json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": { "name": name },
            "spec": { "components": [component("Frontend", "frontend", 1), component("decode", "decode", replicas)] },
        })
    }

    const LOAD: CheckLoad = CheckLoad { requests_per_second: 1.0, requests: 9, isl: 10, osl: 5 };

    fn request(replicas: u32, image: &str) -> ApplyRequest {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" },
            "data": { "replicas": replicas.to_string() },
        });
        ApplyRequest { dgd: final_dgd("chat", replicas, image), config_maps: vec![map] }
    }

    async fn replicas(world: &World) -> (Value, String) {
        let dgd = world.namespace.dgds().get("chat").await.unwrap();
        let map = world.namespace.api::<k8s_openapi::api::core::v1::ConfigMap>().get("settings").await.unwrap();
        (dgd.data["spec"]["components"][1]["replicas"].clone(), map.data.unwrap()["replicas"].clone())
    }

    #[test]
    fn a_rollout_that_misses_the_sla_is_taken_back_and_one_that_fails_too() {
        block_on(async {
            let world = World::new("rollout", Wishes::default()).await;
            let good = "registry.example/vllm-runtime:1";
            let mut first = world.cluster.apply(&request(1, good)).await.unwrap();
            assert!(first.check(&LOAD).await.unwrap().meets_sla);
            assert_eq!(first.roll_back().await.unwrap(), None, "what holds its promise stays");
            assert_eq!(replicas(&world).await, (json!(1), "1".to_owned()));

            world.finds.within_sla.store(false, Ordering::Relaxed);
            let mut second = world.cluster.apply(&request(2, good)).await.unwrap();
            assert_eq!(replicas(&world).await, (json!(2), "2".to_owned()));
            assert!(!second.check(&LOAD).await.unwrap().meets_sla);
            let what = second.roll_back().await.unwrap().unwrap();
            assert!(what.contains("put back"), "{what}");
            assert_eq!(replicas(&world).await, (json!(1), "1".to_owned()));

            let error = world.cluster.apply(&request(3, &PodFault::ImagePull.image())).await.err().expect("it fails");
            assert!(
                error.to_string().contains("cannot be pulled") && error.to_string().contains("put back"),
                "{error}"
            );
            assert_eq!(replicas(&world).await, (json!(1), "1".to_owned()));
            world.cluster.clean_up().await;
            assert_eq!(world.dgds().await, ["chat"], "what is deployed stays deployed");
        });
    }

    #[test]
    fn a_first_rollout_that_fails_leaves_nothing_and_a_foreign_one_is_not_touched() {
        block_on(async {
            let world = World::new("first", Wishes::default()).await;
            let error = world.cluster.apply(&request(1, &PodFault::Crash.image())).await.err().expect("it fails");
            assert!(error.to_string().contains("deleted again"), "{error}");
            eventually("the end of it", async || world.dgds().await.is_empty().then_some(())).await;

            world.namespace.create_strict(&final_dgd("chat", 0, "theirs")).await.unwrap();
            let error =
                world.cluster.apply(&request(1, "registry.example/vllm-runtime:1")).await.err().expect("it fails");
            assert!(error.to_string().contains("not ours"), "{error}");
            let found = world.namespace.dgds().get("chat").await.unwrap();
            assert_eq!(found.data["spec"]["components"][1]["replicas"], 0);
        });
    }

    #[test]
    fn a_stale_rollout_is_no_rollout() {
        // The operator's word on an older spec does not count: the state is `successful` all the time.
        block_on(async {
            let world = World::new("stale", Wishes::default()).await;
            let good = "registry.example/vllm-runtime:1";
            world.cluster.apply(&request(1, good)).await.unwrap().check(&LOAD).await.unwrap();
            let error = world.cluster.apply(&request(1, &PodFault::Crash.image())).await.err().expect("it fails");
            assert!(error.to_string().contains("again and again"), "{error}");
        });
    }

    #[test]
    fn candidates_go_with_the_object_for_which_they_run() {
        block_on(async {
            let world = World::new("owned", Wishes::default()).await;
            let owner_map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "owner" } });
            let map = world.namespace.create_strict(&owner_map).await.unwrap();
            let object = OwnerObject {
                api_version: "v1".to_owned(),
                kind: "ConfigMap".to_owned(),
                name: "owner".to_owned(),
                namespace: world.namespace.name().to_owned(),
                uid: map["metadata"]["uid"].as_str().unwrap().to_owned(),
            };
            let mut dgd = final_dgd("measures", 0, "x");
            Owner::new("req", Some(object), "").mark(&mut dgd, world.namespace.name());
            world
                .namespace
                .dgds()
                .patch("measures", &PatchParams::apply("sla-profiler"), &Patch::Apply(&dgd))
                .await
                .unwrap();
            let maps = world.namespace.api::<k8s_openapi::api::core::v1::ConfigMap>();
            maps.delete("owner", &DeleteParams::default()).await.unwrap();
            eventually("the end of the candidate", async || world.dgds().await.is_empty().then_some(())).await;
        });
    }
}
