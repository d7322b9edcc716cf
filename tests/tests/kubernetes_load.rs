//! Load from pods of an Indexed Job on a real API server. The pods are played by processes of this program itself; the
//! engine is an HTTP server of the tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod on_a_cluster {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use k8s_openapi::api::batch::v1::Job;
    use kube::api::ListParams;
    use serde_json::{Value, json};
    use sla_profiler::domain::search_space;
    use sla_profiler::domain::{Aim, Candidate, FailureClass, Probe, Role};
    use sla_profiler::engine::kubernetes::{ClientPods, Deadlines, KubernetesCluster, Options, Reach};
    use sla_profiler::engine::served::{Bench, Settings, Stop};
    use sla_profiler::engine::simulated::SimulatedCluster;
    use sla_profiler::engine::{Cluster, Engine, Launch};
    use sla_profiler::http;
    use sla_profiler::kubernetes::{Access, Kube, Owner};
    use sla_profiler::load::builtin::{self, Builtin};
    use sla_profiler::load::{Endpoint as Served, LoadError, LoadGenerator, LoadReport, Point};
    use sla_profiler::run::{Existing, RunDir};
    use sla_profiler::spec::{Flags, LoadClients, Source, load};
    use sla_profiler_tests::kubernetes::{
        ControlPlane, Endpoint, Namespace, Operator, Programs, Proxy, block_on, eventually, nodes, rbac,
    };
    use sla_profiler_tests::openai::{Behaviour, OpenAi, Timing, word_tokenizer};
    use sla_profiler_tests::root;

    const MODEL: &str = "Qwen/Qwen3-0.6B";

    const JOB: &str = r#"{"model": "Qwen/Qwen3-0.6B", "hardware": {"gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": 8},
        "workload": {"isl": 40, "osl": 12}, "sla": {"ttft": 900, "itl": 90}, "profiler": {"maxNumGpusPerEngine": 1}}"#;

    /// Tests share the machine, so whether a client keeps up is not judged.
    fn lenient() -> builtin::Options {
        builtin::Options { max_client_share: f64::INFINITY, ..builtin::Options::default() }
    }

    struct World {
        namespace: Namespace,
        proxy: Proxy,
        programs: Programs,
        server: OpenAi,
        cluster: KubernetesCluster,
        owner: Owner,
        launch: Launch,
        dir: tempfile::TempDir,
        _operator: Operator,
    }

    impl World {
        async fn new(name: &str, clients: LoadClients, generator: Arc<dyn LoadGenerator>) -> Self {
            let plane = ControlPlane::shared();
            let namespace = Namespace::create(plane, name).await;
            nodes::add_node(plane, &format!("{name}-0"), "NVIDIA-H200", 8).await;
            let server = OpenAi::start(Behaviour {
                model: MODEL.to_owned(),
                timing: Timing::fixed(20.0, 4.0),
                kv_tokens: 643_891,
                ..Behaviour::default()
            });
            let port = server.url.rsplit(':').next().unwrap().parse().unwrap();
            let engines = move |_: &_, _: &_| Some(Endpoint { port, log_file: None });
            let operator = Operator::start(plane, namespace.name(), Arc::new(engines));
            let programs = Programs::start(plane, namespace.name());
            for folder in ["base", "load"] {
                namespace.apply_folder(&root().join("examples/kubernetes").join(folder)).await;
            }
            let proxy = Proxy::start(plane);
            let kubeconfig = namespace.kubeconfig_through("sla-profiler", proxy.port()).await;
            let access = Access { kubeconfig: Some(kubeconfig), ..Access::default() };
            let kube = Kube::connect(&access).await.unwrap();
            let mut spec = load(&Source::Inline(JOB.to_owned()), &Flags::default()).unwrap().spec;
            spec.deployment.namespace = Some(namespace.name().to_owned());
            let dir = tempfile::tempdir().unwrap();
            let out = RunDir::open(dir.path(), Existing::Refuse).unwrap();
            let bench = Bench {
                job: Arc::new(spec.job.clone()),
                generator,
                settings: Settings { kv_tolerance: 10.0, ..Settings::default() },
                http: http::Client::new(http::Options::default()),
                stop: Stop::default(),
                reports: Some(out),
            };
            let owner = Owner::new("req", None, name);
            let image = Some("registry.example/sla-profiler:0.1.0".to_owned());
            let options = Options {
                kube,
                owner: owner.clone(),
                lease: None,
                // The names of Services mean nothing where the pods' processes run.
                reach: Reach::Url(server.url.clone()),
                deadlines: Deadlines::default(),
                dir: None,
                endpoint: Served { tokenizer: Some(word_tokenizer().clone()), ..Served::new("", MODEL) },
                estimate: Arc::new(SimulatedCluster::new(&spec.job, &spec.simulation)),
                client_pods: Some(ClientPods { clients, image, like: None, options: lenient() }),
            };
            let space = search_space::build(&spec.job, &spec.limits);
            let found = space.candidates.iter().zip(0..).find(|(candidate, _)| candidate.role == Role::Decode).unwrap();
            let launch = Launch { id: found.1, candidate: found.0.clone(), failed: 0 };
            let cluster = KubernetesCluster::new(spec, bench, options);
            Self { namespace, proxy, programs, server, cluster, owner, launch, dir, _operator: operator }
        }

        async fn engine(&self) -> Box<dyn Engine> {
            self.cluster.launch(&self.launch).await.unwrap_or_else(|failure| panic!("{failure:?}"))
        }

        fn probe(&self, concurrency: u32) -> Probe {
            Probe {
                candidate: self.launch.id,
                isl: 40,
                osl: 12,
                concurrency,
                relative_precision: 0.2,
                max_samples: 200,
            }
        }

        async fn jobs(&self) -> Vec<String> {
            let jobs = self.namespace.api::<Job>().list(&ListParams::default()).await.unwrap();
            jobs.items.into_iter().filter_map(|job| job.metadata.name).collect()
        }

        async fn nobody_sends(&self) {
            eventually("the end of the clients", async || (self.programs.running() == 0).then_some(())).await;
        }

        fn report(&self, role: Role, probe: &Probe) -> Value {
            let name = format!("{role}_isl{}_osl{}_n{}.json", probe.isl, probe.osl, probe.concurrency);
            // Of whom the role measures, whomever the engine was launched for.
            let measured = Candidate { role, ..self.launch.candidate.clone() };
            let path = self.dir.path().join(measured.dir_name()).join("load").join(name);
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        }
    }

    fn here() -> Arc<dyn LoadGenerator> {
        Arc::new(Builtin::new(lenient()))
    }

    #[test]
    fn a_point_of_three_pods_is_one_report_takes_only_the_shipped_rights_and_leaves_nothing() {
        block_on(async {
            let world = World::new("crowd", LoadClients::Exactly(3), here()).await;
            assert_eq!(world.cluster.remove_leftovers().await.unwrap(), 0);
            let mut engine = world.engine().await;
            for (role, concurrency) in [(Role::Decode, 13), (Role::Prefill, 6)] {
                let before = world.server.records().len();
                let probe = world.probe(concurrency);
                let measured = engine.measure(role, &probe, Aim::Value).await.unwrap_or_else(|f| panic!("{f:?}"));
                let report = world.report(role, &probe);
                assert_eq!(report["clients"], 3);
                let samples = report["samples"].as_array().unwrap();
                assert_eq!(samples.len(), measured.samples as usize);
                assert!(samples.len() >= concurrency as usize, "a whole round: {}", samples.len());
                assert!(samples.windows(2).all(|two| two[0]["start_s"].as_f64() <= two[1]["start_s"].as_f64()));
                // What the server saw: three clients, never more in flight than asked for, no prompt shared by two.
                let records = &world.server.records()[before..];
                let sent: Vec<_> = records.iter().filter(|record| record.id.len() > 17).collect();
                let clients: BTreeSet<&str> = sent.iter().map(|record| &record.id[..16]).collect();
                assert_eq!(clients.len(), 3);
                // The server notes an end a moment after the client has read it.
                let most = sent.iter().map(|record| record.running).max().unwrap();
                assert!((concurrency - 1..=concurrency).contains(&most), "{most} others in flight");
                let of = |client: &str| -> BTreeSet<&str> {
                    sent.iter().filter(|r| r.id.starts_with(client)).map(|r| r.prompt.as_str()).collect()
                };
                let sets: Vec<_> = clients.iter().map(|client| of(client)).collect();
                assert!(sets[0].is_disjoint(&sets[1]) && sets[1].is_disjoint(&sets[2]));
                assert_eq!(world.jobs().await, Vec::<String>::new());
                world.nobody_sends().await;
            }
            engine.shutdown().await.unwrap();

            let role = std::fs::read_to_string(root().join("examples/kubernetes/load/role.yaml")).unwrap();
            let given = rbac::given(&serde_yaml::from_str(&role).unwrap());
            let used = rbac::used(&world.proxy.asked());
            let used: BTreeSet<_> = used.into_iter().filter(|right| right.starts_with("batch ")).collect();
            assert_eq!(used, given);
        });
    }

    /// A client that never keeps up.
    #[derive(Default)]
    struct Slow {
        asked: AtomicU32,
    }

    #[async_trait]
    impl LoadGenerator for Slow {
        fn name(&self) -> &'static str {
            "stand-in"
        }

        async fn measure(&self, _: &Served, _: &Point) -> Result<LoadReport, LoadError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let estimate = json!({ "value": 0.0, "ci_low": 0.0, "ci_high": 0.0, "samples": 0 });
            let report = json!({
                "ttft_ms": null, "itl_ms": null, "e2e_ms": null, "requests": 0, "failed_requests": 0,
                "wrong_length_requests": 0, "concurrency_seen": estimate, "input_tokens_per_second": estimate,
                "output_tokens_per_second": estimate, "requests_per_second": estimate, "duration_s": 1.0,
                "stopped": "most-requests", "tokens_per_chunk": 1.0, "chunks_per_read": 1.0, "samples": [],
            });
            let report = Box::new(serde_json::from_value(report).unwrap());
            Err(LoadError::ClientBound { reason: "it is slow".to_owned(), report })
        }
    }

    #[test]
    fn auto_takes_pods_where_one_client_is_the_bottleneck_and_remembers() {
        block_on(async {
            let slow = Arc::new(Slow::default());
            let world = World::new("auto", LoadClients::Auto, slow.clone()).await;
            let mut engine = world.engine().await;
            for concurrency in [4, 8] {
                let probe = world.probe(concurrency);
                engine.measure(Role::Decode, &probe, Aim::Value).await.unwrap_or_else(|f| panic!("{f:?}"));
                assert_eq!(world.report(Role::Decode, &probe)["clients"], 2);
            }
            assert_eq!(slow.asked.load(Ordering::Relaxed), 1, "the heavier point begins with as many");
            engine.shutdown().await.unwrap();
        });
    }

    #[test]
    fn a_client_that_is_killed_ends_the_point_with_its_pod_named() {
        block_on(async {
            let world = World::new("killed-client", LoadClients::Exactly(2), here()).await;
            let mut engine = world.engine().await;
            let mut probe = world.probe(4);
            // It would go on for long.
            (probe.relative_precision, probe.max_samples) = (0.0, 1_000_000);
            let killing = async {
                eventually("both clients", async || (world.programs.running() == 2).then_some(())).await;
                world.programs.kill_one();
            };
            let (measured, ()) = tokio::join!(engine.measure(Role::Decode, &probe, Aim::Value), killing);
            let failure = measured.expect_err("a hole in the load");
            assert_eq!(failure.class, FailureClass::Measurement);
            assert!(failure.reason.contains("a client of the load has ended: "), "{}", failure.reason);
            assert!(failure.reason.contains(&format!("pod load-{}", world.owner.run)), "{}", failure.reason);
            assert_eq!(world.jobs().await, Vec::<String>::new());
            world.nobody_sends().await;
            engine.shutdown().await.unwrap();
        });
    }

    #[test]
    fn a_measurement_that_is_broken_off_and_a_process_that_is_killed_leave_no_job() {
        block_on(async {
            let world = World::new("broken-load", LoadClients::Exactly(2), here()).await;
            let mut engine = world.engine().await;
            let mut probe = world.probe(4);
            (probe.relative_precision, probe.max_samples) = (0.0, 1_000_000);
            let both = async || {
                eventually("both clients", async || (world.programs.running() == 2).then_some(())).await;
            };
            tokio::select! {
                measured = engine.measure(Role::Decode, &probe, Aim::Value) => panic!("{measured:?}"),
                () = both() => {}
            }
            eventually("the end of the Job", async || world.jobs().await.is_empty().then_some(())).await;
            world.nobody_sends().await;

            // What nobody was left to delete.
            let left = json!({
                "apiVersion": "batch/v1", "kind": "Job",
                "metadata": { "name": "left", "labels": {
                    "sla-profiler.dev/load": "true", "sla-profiler.dev/run": world.owner.run,
                    "app.kubernetes.io/managed-by": "sla-profiler",
                } },
                "spec": { "suspend": true, "template": { "spec": {
                    "restartPolicy": "Never", "containers": [{ "name": "client", "image": "x" }],
                } } },
            });
            world.namespace.create_strict(&left).await.unwrap();
            engine.shutdown().await.unwrap();
            world.cluster.remove_leftovers().await.unwrap();
            eventually("the end of what was left", async || world.jobs().await.is_empty().then_some(())).await;
        });
    }
}
