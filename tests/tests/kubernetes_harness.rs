//! The cluster that the other tests stand on does what they take for granted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod on_a_cluster {
    use std::fs;
    use std::io::Read;
    use std::net::TcpListener;
    use std::process::Command;
    use std::sync::Arc;
    use std::time::Duration;

    use futures::StreamExt;
    use hyper::Method;
    use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
    use kube::Client;
    use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
    use kube::runtime::watcher;
    use serde_json::{Value, json};
    use sla_profiler_tests::kubernetes::control_plane::{client, kubectl};
    use sla_profiler_tests::kubernetes::nodes::{self, Fault as PodFault};
    use sla_profiler_tests::kubernetes::operator::{DGD_LABEL, log_line};
    use sla_profiler_tests::kubernetes::proxy::Fault;
    use sla_profiler_tests::kubernetes::{ControlPlane, Endpoint, Namespace, Operator, Proxy, block_on, eventually};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn dgd(name: &str, image: &str) -> Value {
        let component = |name: &str, kind: &str, gpus: u32| {
            let mut container = json!({ "name": "main", "image": image });
            if gpus > 0 {
                container["resources"] = json!({ "limits": { "nvidia.com/gpu": gpus.to_string() } });
            }
            json!({ "name": name, "type": kind, "replicas": 1, "podTemplate": { "spec": { "containers": [container] } } })
        };
        json!({
            "apiVersion": "nvidia.com/v1beta1",
            "kind": "DynamoGraphDeployment",
            "metadata": { "name": name },
            "spec": { "components": [component("Frontend", "frontend", 0), component("prefill", "prefill", 4)] },
        })
    }

    async fn state(namespace: &Namespace, name: &str, wanted: &str) {
        eventually(&format!("state {wanted} of {name}"), async || {
            let dgd = namespace.dgds().get(name).await.ok()?;
            (dgd.data["status"]["state"] == wanted).then_some(())
        })
        .await;
    }

    async fn pods(namespace: &Namespace, dgd: &str) -> Vec<Pod> {
        let params = ListParams::default().labels(&format!("{DGD_LABEL}={dgd}"));
        namespace.api::<Pod>().list(&params).await.unwrap().items
    }

    #[test]
    fn a_deployment_comes_up_answers_logs_and_leaves_nothing() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            use std::io::Write;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut asked = [0; 4];
                stream.read_exact(&mut asked).unwrap();
                stream.write_all(b"pong").unwrap();
            }
        });
        block_on(async {
            let cluster = ControlPlane::shared();
            let namespace = Namespace::create(cluster, "lives").await;
            nodes::add_node(cluster, "lives-0", "NVIDIA-H200", 8).await;
            let log = cluster.folder().join("lives.log");
            fs::write(&log, format!("{}\n", log_line("KV cache: 123 tokens"))).unwrap();
            let endpoint = Endpoint { port, log_file: Some(log) };
            let _operator = Operator::start(cluster, namespace.name(), Arc::new(move |_, _| Some(endpoint.clone())));

            namespace.create_strict(&dgd("lives", "registry.example/vllm-runtime:1.4.0")).await.unwrap();
            state(&namespace, "lives", "successful").await;
            let service = namespace.api::<Service>().get("lives-frontend").await.unwrap();
            assert_eq!(service.spec.unwrap().ports.unwrap()[0].port, 8000);

            let pod = pods(&namespace, "lives").await.remove(0).metadata.name.unwrap();
            let api = namespace.api::<Pod>();
            let forwards = eventually("the port", async || {
                let mut forward = api.portforward(&pod, &[8000]).await.ok()?;
                let mut stream = forward.take_stream(8000)?;
                stream.write_all(b"ping").await.ok()?;
                let mut answer = [0; 4];
                stream.read_exact(&mut answer).await.ok()?;
                Some(answer)
            });
            assert_eq!(&forwards.await, b"pong");
            let text =
                api.logs(&pod, &LogParams { container: Some("main".into()), ..LogParams::default() }).await.unwrap();
            assert_eq!(text.trim(), "KV cache: 123 tokens");

            namespace.dgds().delete("lives", &DeleteParams::foreground()).await.unwrap();
            eventually("the end of all pods", async || pods(&namespace, "lives").await.is_empty().then_some(())).await;
            assert!(namespace.api::<Service>().get_opt("lives-frontend").await.unwrap().is_none());
        });
    }

    #[test]
    fn engines_fail_as_their_image_says_and_wait_where_there_are_no_gpus() {
        block_on(async {
            let cluster = ControlPlane::shared();
            let namespace = Namespace::create(cluster, "fails").await;
            nodes::add_node(cluster, "fails-0", "NVIDIA-H200", 8).await;
            let _operator = Operator::start(cluster, namespace.name(), Arc::new(|_, _| None));
            let cases = [
                (PodFault::ImagePull, "ImagePullBackOff"),
                (PodFault::Crash, "CrashLoopBackOff"),
                (PodFault::OutOfMemory, "OOMKilled"),
                (PodFault::NeverReady, "running"),
            ];
            for (fault, expected) in cases {
                let name = expected.to_lowercase();
                let image = fault.image().replace("dynamo-planner", "vllm-runtime");
                let mut frontend_only = dgd(&name, &image);
                frontend_only["spec"]["components"].as_array_mut().unwrap().truncate(1);
                namespace.create_strict(&frontend_only).await.unwrap();
                eventually(expected, async || {
                    let pod = pods(&namespace, &name).await.pop()?;
                    let status = serde_json::to_string(&pod.status?.container_statuses?).ok()?;
                    status.contains(expected).then_some(())
                })
                .await;
                let dgd = namespace.dgds().get(&name).await.unwrap();
                assert_ne!(dgd.data["status"]["state"], "successful", "{expected}");
            }
            let mut large = dgd("large", "registry.example/vllm-runtime:1.4.0");
            large["spec"]["components"][1]["replicas"] = json!(999);
            namespace.create_strict(&large).await.unwrap();
            eventually("an unschedulable pod", async || {
                let pods = pods(&namespace, "large").await;
                let conditions = pods.into_iter().filter_map(|pod| pod.status?.conditions).flatten();
                conditions.into_iter().find(|c| c.reason.as_deref() == Some("Unschedulable")).map(drop)
            })
            .await;
        });
    }

    fn map(name: &str) -> ConfigMap {
        serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
    }

    async fn through(namespace: &Namespace, port: u16) -> (Client, Api<ConfigMap>) {
        let client = client(&namespace.admin_kubeconfig(port)).await;
        (client.clone(), Api::namespaced(client, namespace.name()))
    }

    #[test]
    fn the_proxy_writes_down_requests_and_injects_each_fault_as_often_as_told() {
        block_on(async {
            let cluster = ControlPlane::shared();
            let namespace = Namespace::create(cluster, "proxy").await;
            let proxy = Proxy::start(cluster);
            let (_client, maps) = through(&namespace, proxy.port()).await;

            proxy.inject(Method::POST, "/configmaps", Fault::TooManyRequests, 1);
            let said = maps.create(&PostParams::default(), &map("a")).await.unwrap_err();
            assert!(matches!(&said, kube::Error::Api(status) if status.code == 429), "{said}");
            maps.create(&PostParams::default(), &map("a")).await.unwrap();
            assert!(proxy.is_spent());
            proxy.inject(Method::GET, "/configmaps/a", Fault::Eof, 1);
            assert!(!matches!(maps.get("a").await.unwrap_err(), kube::Error::Api(_)));
            maps.get("a").await.unwrap();
            let asked = proxy.asked();
            assert_eq!(asked.iter().filter(|asked| asked.method == Method::POST).count(), 2, "{asked:?}");
        });
    }

    #[test]
    fn a_watch_survives_an_expired_version_a_cut_and_a_restart_of_the_server() {
        block_on(async {
            // A server of its own: others' tests shall not see it restart.
            let cluster: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(|_| Vec::new())));
            let namespace = Namespace::create(cluster, "survives").await;
            let proxy = Proxy::start(cluster);
            let (_client, maps) = through(&namespace, proxy.port()).await;
            proxy.inject(Method::GET, "watch=true", Fault::Expired, 1);
            let events = kube::runtime::WatchStreamExt::default_backoff(watcher(maps, watcher::Config::default()));
            let mut events = Box::pin(events);
            let see = async |events: &mut std::pin::Pin<Box<_>>, wanted: &str| {
                let wait = async {
                    loop {
                        let event = StreamExt::next(events).await.expect("a watch does not end");
                        if let Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) = event
                            && ConfigMap::metadata_name(&map) == wanted
                        {
                            return;
                        }
                    }
                };
                tokio::time::timeout(Duration::from_secs(60), wait).await.expect(wanted);
            };
            let direct = namespace.api::<ConfigMap>();
            direct.create(&PostParams::default(), &map("first")).await.unwrap();
            see(&mut events, "first").await;
            proxy.cut();
            direct.create(&PostParams::default(), &map("second")).await.unwrap();
            see(&mut events, "second").await;
            cluster.restart_api_server().await;
            let fresh: Api<ConfigMap> = Api::namespaced(cluster.admin().await, namespace.name());
            fresh.create(&PostParams::default(), &map("third")).await.unwrap();
            see(&mut events, "third").await;
        });
    }

    trait Name {
        fn metadata_name(&self) -> &str;
    }

    impl Name for ConfigMap {
        fn metadata_name(&self) -> &str {
            self.metadata.name.as_deref().unwrap_or_default()
        }
    }

    #[test]
    fn kubectl_sees_what_the_tests_see() {
        block_on(async {
            let namespace = Namespace::create(ControlPlane::shared(), "kubectl").await;
            namespace.create_strict(&dgd("shown", "x:1")).await.unwrap();
            let mut command = kubectl(&namespace.admin_kubeconfig(ControlPlane::shared().port()));
            let output = command.args(["get", "dgd", "-o", "name"]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "dynamographdeployment.nvidia.com/shown");
        });
    }

    /// Not a test: what `nothing_survives_a_killed_test` starts and kills.
    #[test]
    #[ignore = "a part of another test"]
    fn holds_a_cluster_until_it_is_killed() {
        let cluster = ControlPlane::start(|_| Vec::new());
        println!("folder={}", cluster.folder().display());
        std::thread::sleep(Duration::from_secs(600));
    }

    #[test]
    fn nothing_survives_a_killed_test() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "on_a_cluster::holds_a_cluster_until_it_is_killed"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let folder = loop {
            let mut line = String::new();
            assert!(std::io::BufRead::read_line(&mut stdout, &mut line).unwrap() > 0, "it ended early");
            if let Some((_, folder)) = line.split_once("folder=") {
                break folder.trim().to_owned();
            }
        };
        let servers = || {
            let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok());
            let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
            lines.filter(|line| String::from_utf8_lossy(line).contains(&folder)).count()
        };
        assert!(servers() >= 5, "{}", servers());
        child.kill().unwrap();
        child.wait().unwrap();
        block_on(eventually("the end of all servers", async || (servers() == 0).then_some(())));
        block_on(eventually("the end of their folder", async || {
            (!std::path::Path::new(&folder).exists()).then_some(())
        }));
    }
}
