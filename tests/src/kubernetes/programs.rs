//! Pods of Jobs, played by real processes of this project's own program: what a kubelet and a container runtime would
//! make of args, env and SIGTERM, with the output as the pod's log. What they cannot show: the image, its user and its
//! limits.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::background::Background;
use super::control_plane::{ControlPlane, MANAGER, client};
use super::operator::log_line;

const JOB_LABEL: &str = "batch.kubernetes.io/job-name";
const INDEX_ANNOTATION: &str = "batch.kubernetes.io/job-completion-index";

/// A process that does not outlive the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Processes = Arc<Mutex<BTreeMap<String, Process>>>;

/// Plays the pods of all Jobs of a namespace.
pub struct Programs {
    processes: Processes,
    started: Arc<Mutex<Vec<String>>>,
    _working: Background,
}

impl Programs {
    /// Starts to play. Pods of a namespace without it run and do nothing.
    pub fn start(cluster: &'static ControlPlane, namespace: &str) -> Self {
        let (processes, started) = (Processes::default(), Arc::default());
        let stage = Stage { processes: Arc::clone(&processes), started: Arc::clone(&started) };
        let namespace = namespace.to_owned();
        let working = Background::start("programs", move || stage.work(cluster, namespace));
        Self { processes, started, _working: working }
    }

    /// Names of the pods that were played so far.
    pub fn started(&self) -> Vec<String> {
        self.started.lock().expect("no panic under the lock").clone()
    }

    /// Processes that run now.
    pub fn running(&self) -> usize {
        self.processes.lock().expect("no panic under the lock").len()
    }

    /// Kills one of them, as the kernel does where memory runs out.
    pub fn kill_one(&self) {
        let mut processes = self.processes.lock().expect("no panic under the lock");
        processes.values_mut().next().expect("one runs").0.kill().expect("it is killed");
    }
}

struct Stage {
    processes: Processes,
    started: Arc<Mutex<Vec<String>>>,
}

impl Stage {
    async fn work(self, cluster: &ControlPlane, namespace: String) {
        let client = client(&cluster.kubeconfig()).await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let mut events =
            pin!(watcher::watcher(pods.clone(), watcher::Config::default().labels(JOB_LABEL)).default_backoff());
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(Event::Apply(pod) | Event::InitApply(pod)) if pod.metadata.deletion_timestamp.is_none() => {
                        self.play(&client, &pod, cluster.folder()).await;
                    }
                    Ok(Event::Apply(pod) | Event::InitApply(pod) | Event::Delete(pod)) => self.end(&pod.name_any()),
                    _ => {}
                },
                _ = tick.tick() => self.reap(&pods).await,
            }
        }
    }

    async fn play(&self, client: &Client, pod: &Pod, folder: &Path) {
        let runs = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let name = pod.name_any();
        if !runs || self.started.lock().expect("no panic under the lock").contains(&name) {
            return;
        }
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        let mut command = Command::new(crate::program());
        command.args(container.args.iter().flatten());
        for variable in container.env.iter().flatten() {
            if let Some(value) = &variable.value {
                command.env(&variable.name, value);
            }
        }
        if let Some(index) = pod.annotations().get(INDEX_ANNOTATION) {
            command.env("JOB_COMPLETION_INDEX", index);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let log = folder.join(format!("{name}.log"));
        std::fs::write(&log, "").expect("the folder can be written");
        copy(child.stdout.take().expect("piped"), log.clone());
        copy(child.stderr.take().expect("piped"), log.clone());
        self.processes.lock().expect("no panic under the lock").insert(name.clone(), Process(child));
        self.started.lock().expect("no panic under the lock").push(name);
        show_log(client, pod, &log).await;
    }

    /// SIGTERM, as Kubernetes sends it first.
    fn end(&self, pod: &str) {
        let process = self.processes.lock().expect("no panic under the lock").remove(pod);
        if let Some(mut process) = process {
            let _ = Command::new("kill").args(["-TERM", &process.0.id().to_string()]).status();
            let _ = process.0.wait();
        }
    }

    /// Pods whose process has ended by itself have failed, or are done.
    async fn reap(&self, pods: &Api<Pod>) {
        let ended: Vec<(String, i32)> = {
            let mut processes = self.processes.lock().expect("no panic under the lock");
            let ended =
                |process: &mut Process| process.0.try_wait().ok().flatten().map(|status| status.code().unwrap_or(137));
            let ended: Vec<_> =
                processes.iter_mut().filter_map(|(name, process)| Some((name.clone(), ended(process)?))).collect();
            ended.iter().for_each(|(name, _)| drop(processes.remove(name)));
            ended
        };
        for (name, code) in ended {
            let reason = if code == 0 { "Completed" } else { "Error" };
            let status = json!({ "status": {
                "phase": if code == 0 { "Succeeded" } else { "Failed" },
                "containerStatuses": [{
                    "name": "client", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                    "state": { "terminated": { "exitCode": code, "reason": reason } },
                }],
            }});
            // Deleted meanwhile, perhaps.
            let _ = pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
        }
    }
}

/// Appends each line as a container runtime writes it.
fn copy(from: impl Read + Send + 'static, log: PathBuf) {
    std::thread::spawn(move || {
        let mut log = OpenOptions::new().append(true).open(log).expect("the log is there");
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = log.write_all(format!("{}\n", log_line(&line)).as_bytes());
        }
    });
}

async fn show_log(client: &Client, pod: &Pod, file: &Path) {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let kind = GroupVersionKind::gvk("kwok.x-k8s.io", "v1alpha1", "Logs");
    let resource = ApiResource::from_gvk_with_plural(&kind, "logs");
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let logs = json!({
        "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Logs",
        "metadata": { "name": name, "ownerReferences": [kube::Resource::owner_ref(pod, &())] },
        "spec": { "logs": [{ "logsFile": file, "follow": true }] },
    });
    api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(logs)).await.expect("a log");
}
