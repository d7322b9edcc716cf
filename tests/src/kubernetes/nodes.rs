//! Nodes and kubelets, played by kwok: pods run at once, or fail as their image says.

use std::path::Path;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::assets;
use super::control_plane::{ControlPlane, MANAGER};
use super::identity::Identity;

/// What happens to a pod whose image has this as a folder: `faults.invalid/crash/vllm-runtime:1.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The image cannot be pulled.
    ImagePull,
    /// The container ends with an error again and again.
    Crash,
    /// The container is killed for its memory again and again.
    OutOfMemory,
    /// The container runs and never becomes ready.
    NeverReady,
}

impl Fault {
    const ALL: [Self; 4] = [Self::ImagePull, Self::Crash, Self::OutOfMemory, Self::NeverReady];

    const fn name(self) -> &'static str {
        match self {
            Self::ImagePull => "image-pull",
            Self::Crash => "crash",
            Self::OutOfMemory => "out-of-memory",
            Self::NeverReady => "never-ready",
        }
    }

    /// The image of a DGDR whose engines have this fault; the workers' image is derived from it.
    pub fn image(self) -> String {
        format!("faults.invalid/{}/dynamo-planner:1.4.0", self.name())
    }

    /// The state of each container, as a kwok template.
    const fn state(self) -> &'static str {
        match self {
            Self::ImagePull => {
                "waiting: { reason: ImagePullBackOff, message: 'Back-off pulling image \"{{ .image }}\": not found' }"
            }
            Self::Crash => "waiting: { reason: CrashLoopBackOff, message: back-off 5m0s restarting failed container }",
            Self::OutOfMemory => "waiting: { reason: CrashLoopBackOff, message: back-off 5m0s }",
            Self::NeverReady => "running: { startedAt: {{ Now | Quote }} }",
        }
    }

    const fn last_state(self) -> &'static str {
        match self {
            Self::Crash => "terminated: { exitCode: 1, reason: Error, message: engine initialisation failed }",
            Self::OutOfMemory => "terminated: { exitCode: 137, reason: OOMKilled }",
            Self::ImagePull | Self::NeverReady => "",
        }
    }
}

/// A node with GPUs, as the GPU operator labels it.
pub async fn add_node(cluster: &ControlPlane, name: &str, product: &str, gpus: u32) {
    let amounts = json!({ "cpu": "128", "memory": "2Ti", "pods": "1100", "nvidia.com/gpu": gpus.to_string() });
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "nvidia.com/gpu.product": product,
                "nvidia.com/gpu.count": gpus.to_string(),
                "nvidia.com/gpu.memory": "143771",
                "nvidia.com/gpu.present": "true",
            },
        },
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            // Both kinds: where one is missing, kwok 0.8 replaces all by what it has, and the second time by nothing.
            "addresses": [
                { "type": "InternalIP", "address": "127.0.0.1" }, { "type": "Hostname", "address": "127.0.0.1" },
            ],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": cluster.kubelet_port() } },
        },
    });
    let api: Api<Node> = Api::all(cluster.admin().await);
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(node)).await.expect("a node");
}

/// The CRDs with which kwok is told what a pod's logs and ports are.
pub(super) fn kwok_crds() -> Vec<Value> {
    let wanted = ["kwok.x-k8s.io_logs.yaml", "kwok.x-k8s.io_portforwards.yaml"];
    let read = |name: &&str| {
        let path = assets::folder().join("kwok.d").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_yaml::from_str(&text).expect("YAML")
    };
    wanted.iter().map(read).collect()
}

/// kwok's command line; writes its configuration.
pub(super) fn kwok_arguments(folder: &Path, kubeconfig: &str, identity: &Identity, port: u16) -> Vec<String> {
    let config = folder.join("kwok.yaml");
    std::fs::write(&config, stages()).expect("the folder can be written");
    vec![
        kubeconfig.to_owned(),
        format!("--config={}", config.display()),
        "--manage-all-nodes=true".to_owned(),
        "--node-ip=127.0.0.1".to_owned(),
        format!("--node-port={port}"),
        format!("--server-address=127.0.0.1:{port}"),
        format!("--tls-cert-file={}", identity.file("server.crt")),
        format!("--tls-private-key-file={}", identity.file("server.key")),
        "--enable-crds=Logs,PortForward".to_owned(),
    ]
}

/// How nodes and pods live: kwok's own stages for nodes, ours for pods. A pod of a Job stays running until the test
/// ends it.
fn stages() -> String {
    let mut all: Vec<String> = assets::kwok_files("node-")
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("a readable file"))
        .collect();
    let faulty: Vec<String> = Fault::ALL.iter().map(|fault| format!(r#"test("/{}/")"#, fault.name())).collect();
    let any = faulty.join(" or ");
    all.push(pod_stage(
        "ready",
        &format!("({any}) | not"),
        "True",
        "Running",
        "running: { startedAt: {{ Now | Quote }} }",
        "",
    ));
    for fault in Fault::ALL {
        let phase = if fault == Fault::ImagePull { "Pending" } else { "Running" };
        let selector = format!(r#"test("/{}/")"#, fault.name());
        all.push(pod_stage(fault.name(), &selector, "False", phase, fault.state(), fault.last_state()));
    }
    all.push(POD_DELETE.to_owned());
    all.join("\n---\n")
}

/// A pending pod whose first image meets `image` (jq) gets these states.
fn pod_stage(name: &str, image: &str, ready: &str, phase: &str, state: &str, last_state: &str) -> String {
    let restarts = if last_state.is_empty() { 0 } else { 5 };
    let is_ready = ready == "True";
    format!(
        r#"apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-{name}
spec:
  resourceRef: {{ apiGroup: v1, kind: Pod }}
  selector:
    matchExpressions:
    - {{ key: .metadata.deletionTimestamp, operator: DoesNotExist }}
    - {{ key: '.status.phase', operator: In, values: [Pending] }}
    - {{ key: '.status.containerStatuses', operator: DoesNotExist }}
    - key: '.spec.containers[0].image | {image}'
      operator: In
      values: ["true"]
  next:
    statusTemplate: |
      {{{{ $now := Now }}}}
      conditions:
      - {{ type: Initialized, status: "True", lastTransitionTime: {{{{ $now | Quote }}}} }}
      - {{ type: Ready, status: "{ready}", lastTransitionTime: {{{{ $now | Quote }}}} }}
      - {{ type: ContainersReady, status: "{ready}", lastTransitionTime: {{{{ $now | Quote }}}} }}
      containerStatuses:
      {{{{ range .spec.containers }}}}
      - name: {{{{ .name | Quote }}}}
        image: {{{{ .image | Quote }}}}
        ready: {is_ready}
        started: {is_ready}
        restartCount: {restarts}
        state: {{ {state} }}
        lastState: {{ {last_state} }}
      {{{{ end }}}}
      {{{{ with NodeIPsWith .spec.nodeName }}}}
      hostIP: {{{{ index . 0 | Quote }}}}
      {{{{ end }}}}
      {{{{ with PodIPsWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace }}}}
      podIP: {{{{ index . 0 | Quote }}}}
      podIPs: [{{ ip: {{{{ index . 0 | Quote }}}} }}]
      {{{{ end }}}}
      phase: {phase}
      startTime: {{{{ $now | Quote }}}}
"#
    )
}

/// A pod that is being deleted, and that nobody holds, is gone.
const POD_DELETE: &str = "apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-delete
spec:
  resourceRef: { apiGroup: v1, kind: Pod }
  selector:
    matchExpressions:
    - { key: .metadata.deletionTimestamp, operator: Exists }
    - { key: .metadata.finalizers, operator: DoesNotExist }
  next:
    finalizers: { empty: true }
    delete: true
";
