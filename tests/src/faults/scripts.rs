//! The scripts: one function per kind of fault or of slow health. Times and details are drawn from a seed; messages are
//! those of kubelet, containerd, scheduler, controllers and engines.

use std::time::Duration;

use serde_json::{Value, json};
use sla_profiler::domain::FailureCause;

use super::server::{Change, Kind, Log, Timeline, stamp};
use crate::kills::Random;

/// Name of the deployment.
pub const NAME: &str = "vllm-decode-tp4-a1b2c3";

const IMAGE: &str = "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.0.500";

/// One case.
#[derive(Debug, Clone)]
pub struct Script {
    /// What happens.
    pub timeline: Timeline,
    /// What it is; none: it is healthy.
    pub wanted: Option<FailureCause>,
    /// When it could be seen first.
    pub visible: Duration,
}

/// A kind of script: its name, and how it is drawn.
pub type Case = (&'static str, fn(&mut Writer));

/// All kinds of faults.
pub const FAULTS: &[Case] = &[
    ("crash loop", crash_loop),
    ("out of GPU memory", gpu_memory),
    ("GPU memory held by others", gpu_memory_taken),
    ("container out of memory", oom_killed),
    ("bad flag", bad_flag),
    ("program not in the image", no_program),
    ("gated model, no token", gated_model),
    ("connection reset while loading", connection_reset),
    ("image not found", image_not_found),
    ("image name invalid", image_name_invalid),
    ("image pull denied", image_denied),
    ("registry 5xx, 429, timeout", registry),
    ("secret missing (environment)", secret_missing),
    ("secret missing (volume)", volume_missing),
    ("PVC missing", claim_missing),
    ("quota (controller's event)", quota),
    ("quota (operator's word)", quota_by_operator),
    ("unschedulable: no GPUs", no_gpus),
    ("unschedulable: taint, selector", no_node),
    ("device plugin gives no GPU", device_plugin),
    ("evicted", evicted),
    ("preempted", preempted),
    ("node lost", node_lost),
    ("operator silent", operator_silent),
    ("operator gives up", operator_failed),
    ("deleted by others", deleted),
    ("readiness never passes", never_ready),
];

/// All kinds of deployments that become ready, sooner or later.
pub const HEALTHY: &[Case] = &[
    ("plain", plain),
    ("loads for an hour and more", slow_load),
    ("says nothing for 19 minutes", silent_load),
    ("restarts once, recovers", restarts_once),
    ("registry out of order, recovers", pull_recovers),
    ("image pull of 18 minutes", slow_pull),
    ("GPUs become free", scheduled_late),
    ("secret appears", secret_appears),
    ("volume's secret appears", volume_appears),
    ("quota is raised", quota_raised),
    ("operator slow", operator_slow),
    ("operator says failed, mends it", operator_mends),
];

/// Draws a script.
pub fn draw(case: Case, seed: u64) -> Script {
    let mut writer = Writer::new(seed);
    (case.1)(&mut writer);
    writer.disturb();
    Script { timeline: writer.timeline, wanted: writer.wanted, visible: s(writer.visible) }
}

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

/// A script being written. Times are seconds after the launch.
pub struct Writer {
    random: Random,
    timeline: Timeline,
    wanted: Option<FailureCause>,
    visible: f64,
    worker: String,
}

impl Writer {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let worker = format!("{NAME}-vllmworker-{:05x}", random.below(1 << 20));
        Self { random, timeline: Timeline::default(), wanted: None, visible: 0.0, worker }
    }

    /// As clusters are: each kind of object is told of some time later, and beside the worker there may be others, which
    /// are well.
    fn disturb(&mut self) {
        let lags = [Kind::Dgd, Kind::Pod, Kind::Event].map(|kind| (kind, self.between(0.0, 2.0)));
        let has_pods = self.timeline.changes.iter().any(|c| c.kind == Kind::Pod);
        // Whatever the others do is a sign of life.
        let is_silence = self.wanted == Some(FailureCause::NotReady);
        let others = if has_pods && !is_silence { self.random.below(3) } else { 0 };
        for n in 0..others {
            let name = format!("{NAME}-vllmworker-well{n}");
            let at = self.between(5.0, 300.0);
            self.pod_named(at, &name, "VllmWorker", waiting("ContainerCreating", ""), false);
            let status = container(&json!({ "running": {} }), &json!({}), 0, false);
            let up = at + self.between(1.0, 60.0);
            self.pod_named(up, &name, "VllmWorker", status, false);
        }
        for change in &mut self.timeline.changes {
            let lag = lags.iter().find(|(kind, _)| *kind == change.kind).map_or(0.0, |(_, lag)| *lag);
            change.at += s(lag);
        }
    }

    fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.random.below(1 << 30) as f64 / f64::from(1 << 30)
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.random.below(of.len() as u64) as usize]
    }

    fn change(&mut self, at: f64, kind: Kind, object: Value) {
        self.timeline.changes.push(Change { at: s(at), kind, gone: false, object });
    }

    fn dgd(&mut self, at: f64, state: &str, message: &str) {
        let ready = if state == "successful" { "True" } else { "False" };
        let conditions = json!([{ "type": "Ready", "status": ready, "message": message }]);
        let status = if state.is_empty() { json!({}) } else { json!({ "state": state, "conditions": conditions }) };
        let object = json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "spec": {}, "status": status,
            "metadata": { "name": NAME, "namespace": "ns", "uid": "u", "creationTimestamp": stamp(Duration::ZERO) },
        });
        self.change(at, Kind::Dgd, object);
    }

    fn pod_named(&mut self, at: f64, name: &str, component: &str, status: Value, leaving: bool) {
        let known = self.timeline.changes.iter().find(|change| change.object["metadata"]["name"] == name);
        let created =
            known.map_or_else(|| stamp(s(at)).into(), |known| known.object["metadata"]["creationTimestamp"].clone());
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod", "status": status,
            "metadata": { "name": name, "namespace": "ns", "creationTimestamp": created, "labels": {
                "nvidia.com/dynamo-component": component,
                "nvidia.com/dynamo-component-type": if component == "Frontend" { "frontend" } else { "worker" },
            } },
            "spec": { "containers": [{ "name": "main", "resources": { "limits": { "memory": "200Gi" } } }] },
        });
        if leaving {
            object["metadata"]["deletionTimestamp"] = stamp(s(at)).into();
        }
        self.change(at, Kind::Pod, object);
    }

    fn pod(&mut self, at: f64, status: Value) {
        let name = self.worker.clone();
        self.pod_named(at, &name, "VllmWorker", status, false);
    }

    /// The operator takes it up, a frontend comes up, and the worker's pod waits for its node. When that is.
    fn begin(&mut self) -> f64 {
        self.dgd(0.0, "", "");
        let at = self.between(0.2, 4.0);
        self.dgd(at, "pending", "some resources are not ready");
        let frontend = format!("{NAME}-frontend-7c9d");
        self.pod_named(at + 0.2, &frontend, "Frontend", pending(), false);
        let up = at + self.between(2.0, 20.0);
        self.pod_named(up, &frontend, "Frontend", container(&json!({ "running": {} }), &json!({}), 0, true), false);
        at + self.between(0.1, 1.0)
    }

    /// The same, and the worker's container starts. When that is.
    fn started(&mut self) -> f64 {
        let at = self.begin();
        self.pod(at, pending());
        let at = at + self.between(0.1, 2.0);
        self.pod(at, waiting("ContainerCreating", ""));
        let at = at + self.between(1.0, 300.0);
        self.runs(at, 0);
        at
    }

    fn runs(&mut self, at: f64, restarts: i32) {
        let before = if restarts > 0 { ended(1, "Error") } else { json!({}) };
        self.pod(at, container(&json!({ "running": {} }), &before, restarts, false));
    }

    /// A life of the worker's container, with a line every so many seconds.
    fn writes(&mut self, from: f64, until: Option<f64>, every: f64, last: &[String]) {
        let end = until.unwrap_or(from + 7200.0);
        let mut lines = Vec::new();
        let mut at = from + 0.1;
        while at < end - 0.5 && lines.len() < 4000 {
            lines.push((s(at), format!("INFO loading shard {} of 999", lines.len())));
            at += self.between(0.2, 1.8) * every;
        }
        if until.is_some() {
            lines.extend(last.iter().map(|line| (s(end - 0.2), line.clone())));
        }
        self.timeline.logs.push(Log { pod: self.worker.clone(), begins: s(from), lines, ends: until.map(s) });
    }

    fn ready(&mut self, at: f64) {
        self.pod(at, container(&json!({ "running": {} }), &json!({}), 0, true));
        self.dgd(at + 0.3, "successful", "");
    }

    fn is(&mut self, cause: FailureCause, visible: f64) {
        self.wanted = Some(cause);
        self.visible = visible;
    }

    /// The container ends twice after some seconds, and its kubelet backs off.
    fn crashes(&mut self, cause: FailureCause, code: i32, last: &[&str]) {
        let first = self.started();
        let mut noise: Vec<String> = last.iter().map(|line| (*line).to_owned()).collect();
        // Whoever noticed writes a traceback of its own.
        for n in 0..self.random.below(60) {
            noise.push(format!("  File \"/usr/lib/python3/dist-packages/engine.py\", line {n}, in run"));
        }
        noise.push("RuntimeError: Engine core initialization failed. See root cause above.".to_owned());
        let life = self.between(2.0, 200.0);
        self.writes(first, Some(first + life), 5.0, &noise);
        let second = first + life + 1.0;
        self.pod(first + life, container(&ended(code, "Error"), &json!({}), 0, false));
        self.runs(second, 1);
        let life = life * self.between(0.8, 1.2);
        self.writes(second, Some(second + life), 5.0, &noise);
        let over = second + life;
        let back_off = json!({ "waiting": { "reason": "CrashLoopBackOff",
            "message": "back-off 10s restarting failed container=main" } });
        self.pod(over + 0.1, container(&back_off, &ended(code, "Error"), 1, false));
        self.is(cause, over + 0.1);
    }

    /// The image does not come: the first word of it, then backing off, with or without its reason.
    fn pull(&mut self, said: &str, rounds: u32) -> (f64, f64) {
        let at = self.begin();
        self.pod(at, waiting("ContainerCreating", ""));
        let first = at + self.between(0.5, 20.0);
        let new_kubelet = self.random.below(2) == 0;
        let (mut at, mut pause) = (first, 10.0);
        for _ in 0..rounds {
            self.pod(at, waiting("ErrImagePull", said));
            let tail = if new_kubelet { format!(": ErrImagePull: {said}") } else { String::new() };
            self.pod(at + 1.0, waiting("ImagePullBackOff", &format!("Back-off pulling image \"{IMAGE}\"{tail}")));
            at += pause;
            pause *= 1.5;
        }
        (first, at)
    }

    fn event(&mut self, at: f64, object: &str, reason: &str, message: &str) {
        let name = format!("{object}.{:x}", self.random.below(1 << 40));
        let object = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "name": name, "namespace": "ns",
                "creationTimestamp": stamp(s(at)) },
            "involvedObject": { "name": object }, "reason": reason, "message": message, "type": "Warning",
        });
        self.change(at, Kind::Event, object);
    }

    fn unscheduled(&mut self, at: f64, message: &str) {
        self.pod(at, unschedulable(message));
    }
}

fn pending() -> Value {
    json!({ "phase": "Pending" })
}

fn unschedulable(message: &str) -> Value {
    json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": message }] })
}

fn container(state: &Value, last: &Value, restarts: i32, ready: bool) -> Value {
    json!({ "phase": "Running",
        "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        "containerStatuses": [{ "name": "main", "image": IMAGE, "imageID": "", "ready": ready,
            "restartCount": restarts, "state": state, "lastState": last }] })
}

fn waiting(reason: &str, message: &str) -> Value {
    let mut status = container(&json!({ "waiting": { "reason": reason, "message": message } }), &json!({}), 0, false);
    status["phase"] = "Pending".into();
    status
}

fn ended(code: i32, reason: &str) -> Value {
    json!({ "terminated": { "exitCode": code, "reason": reason } })
}

fn disrupted(reason: &str, message: &str) -> Value {
    let mut status = container(&json!({ "running": {} }), &json!({}), 0, false);
    let target = json!({ "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message });
    status["conditions"] = json!([target]);
    status
}

fn crash_loop(w: &mut Writer) {
    let last = w.pick(&["Segmentation fault (core dumped)", "AssertionError", "NCCL error: unhandled system error"]);
    w.crashes(FailureCause::CrashLoop, 1, &[last]);
}

fn gpu_memory(w: &mut Writer) {
    let last = w.pick(&[
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of 79.1 GiB",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "ValueError: To serve at least one request with the models's max seq len (131072), 16.00 GiB KV cache is needed, \
         which is larger than the available KV cache memory (9.2 GiB)",
    ]);
    w.crashes(FailureCause::GpuMemory, 1, &[last, "ConnectionResetError: [Errno 104] Connection reset by peer"]);
}

fn gpu_memory_taken(w: &mut Writer) {
    let last = "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU memory \
                utilization (0.9, 71.2 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.";
    w.crashes(FailureCause::GpusTaken, 1, &[last]);
}

fn oom_killed(w: &mut Writer) {
    let at = w.started();
    let over = at + w.between(1.0, 300.0);
    w.writes(at, Some(over), 10.0, &[]);
    let status = if w.random.below(2) == 0 {
        container(&ended(137, "OOMKilled"), &json!({}), 0, false)
    } else {
        container(&json!({ "running": {} }), &ended(137, "OOMKilled"), 1, false)
    };
    w.pod(over, status);
    w.is(FailureCause::HostMemory, over);
}

fn bad_flag(w: &mut Writer) {
    let last = w.pick(&[
        "api_server.py: error: unrecognized arguments: --enable-nothing",
        "launch_server.py: error: argument --tp-size: invalid int value: 'four'",
        "vllm serve: error: ambiguous option: --max could match --max-model-len, --max-num-seqs",
    ]);
    w.crashes(FailureCause::CommandLine, 2, &[last]);
}

fn no_program(w: &mut Writer) {
    let at = w.begin();
    w.pod(at, waiting("ContainerCreating", ""));
    let at = at + w.between(1.0, 200.0);
    let kind = w.pick(&["RunContainerError", "CreateContainerError"]);
    let said = "failed to create containerd task: exec: \"dynamo\": executable file not found in $PATH: unknown";
    w.pod(at, waiting(kind, said));
    w.is(FailureCause::CommandLine, at);
}

fn gated_model(w: &mut Writer) {
    let last = w.pick(&[
        "huggingface_hub.errors.GatedRepoError: 401 Client Error. Cannot access gated repo",
        "OSError: acme/none is not a local folder and is not a valid model identifier listed on huggingface.co",
    ]);
    w.crashes(FailureCause::Missing, 1, &[last]);
}

fn connection_reset(w: &mut Writer) {
    let last = w.pick(&[
        "requests.exceptions.ConnectionError: ('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
        "urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(host='cdn-lfs.huggingface.co', port=443): Read timed out.",
        "huggingface_hub.errors.HfHubHTTPError: 503 Server Error: Service Temporarily Unavailable",
        "huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests",
    ]);
    w.crashes(FailureCause::Connection, 1, &[last]);
}

fn image_not_found(w: &mut Writer) {
    let said = w.pick(&[
        "rpc error: code = NotFound desc = failed to pull and unpack image \"nvcr.io/x:1\": failed to resolve reference \
         \"nvcr.io/x:1\": nvcr.io/x:1: not found",
        "rpc error: code = Unknown desc = Error response from daemon: manifest for nvcr.io/x:1 not found: manifest unknown: \
         manifest unknown",
        "failed to pull and unpack image: no match for platform in manifest: not found",
        "dial tcp: lookup nvcr.oi on 10.96.0.10:53: no such host",
    ]);
    let (at, _) = w.pull(said, 8);
    w.is(FailureCause::ImageMissing, at);
}

fn image_name_invalid(w: &mut Writer) {
    let at = w.begin();
    let said =
        "Failed to apply default image tag \"nvcr.io/X Y:1\": couldn't parse image name: invalid reference format";
    w.pod(at, waiting("InvalidImageName", said));
    w.is(FailureCause::ImageMissing, at);
}

fn image_denied(w: &mut Writer) {
    let said = w.pick(&[
        "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to \
         https://nvcr.io/proxy_auth: 401 Unauthorized",
        "failed to resolve reference \"nvcr.io/x:1\": unexpected status from HEAD request: 403 Forbidden",
        "Error response from daemon: pull access denied for acme/x, repository does not exist or may require 'docker login'",
    ]);
    let (at, _) = w.pull(said, 8);
    w.is(FailureCause::ImageDenied, at);
}

const PASSING_PULLS: [&str; 6] = [
    "failed to resolve reference: unexpected status from HEAD request to https://nvcr.io/v2/x: 503 Service Unavailable",
    "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating",
    "failed to do request: Head \"https://nvcr.io/v2/x\": dial tcp 10.0.0.1:443: i/o timeout",
    "failed to copy: httpReadSeeker: failed open: unexpected status code: 502 Bad Gateway",
    "failed to do request: read tcp 10.1.1.1:1->10.2.2.2:443: read: connection reset by peer",
    "net/http: TLS handshake timeout",
];

fn registry(w: &mut Writer) {
    let said = w.pick(&PASSING_PULLS);
    let (at, _) = w.pull(said, 12);
    w.is(FailureCause::Registry, at);
}

fn secret_missing(w: &mut Writer) {
    let at = w.begin();
    let at = at + w.between(0.5, 30.0);
    let said = w.pick(&["secret \"hf-token\" not found", "couldn't find key HF_TOKEN in Secret ns/hf-token"]);
    w.pod(at, waiting("CreateContainerConfigError", said));
    w.is(FailureCause::Missing, at);
}

fn volume_missing(w: &mut Writer) {
    let at = w.begin();
    w.pod(at, waiting("ContainerCreating", ""));
    let at = at + w.between(0.3, 3.0);
    let what = w.pick(&["secret \"hf-token\"", "configmap \"engine-config\""]);
    let message = format!("MountVolume.SetUp failed for volume \"token\" : {what} not found");
    let worker = w.worker.clone();
    for n in 0..6 {
        w.event(at + 30.0 * f64::from(n), &worker, "FailedMount", &message);
    }
    w.is(FailureCause::Missing, at);
}

fn claim_missing(w: &mut Writer) {
    let at = w.begin();
    w.unscheduled(
        at,
        "0/8 nodes are available: persistentvolumeclaim \"model-cache\" not found. preemption: 0/8 nodes",
    );
    w.is(FailureCause::Missing, at);
}

fn quota(w: &mut Writer) {
    let at = w.begin();
    let at = at + w.between(0.1, 2.0);
    let message = "Error creating: pods \"w-0\" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, \
                   used: requests.nvidia.com/gpu=24, limited: requests.nvidia.com/gpu=24";
    w.event(at, &format!("{NAME}-vllmworker-6b7f"), "FailedCreate", message);
    w.is(FailureCause::Quota, at);
}

fn quota_by_operator(w: &mut Writer) {
    let at = w.begin() + 5.0;
    w.dgd(at, "failed", "pods \"w-0\" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8");
    w.is(FailureCause::Quota, at);
}

const NO_GPUS: [&str; 3] = [
    "0/8 nodes are available: 8 Insufficient nvidia.com/gpu. preemption: 0/8 nodes are available",
    "0/9 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 8 Insufficient \
     nvidia.com/gpu.",
    "0/4 nodes are available: 2 Insufficient memory, 4 Insufficient nvidia.com/gpu.",
];

fn no_gpus(w: &mut Writer) {
    let at = w.begin();
    let said = w.pick(&NO_GPUS);
    w.unscheduled(at, said);
    w.is(FailureCause::GpusTaken, at);
}

fn no_node(w: &mut Writer) {
    let at = w.begin();
    let said = w.pick(&[
        "0/8 nodes are available: 8 node(s) had untolerated taint {nvidia.com/gpu: present}.",
        "0/8 nodes are available: 8 node(s) didn't match Pod's node affinity/selector.",
        "0/8 nodes are available: 8 Insufficient memory.",
    ]);
    w.unscheduled(at, said);
    w.is(FailureCause::Unschedulable, at);
}

fn device_plugin(w: &mut Writer) {
    let at = w.begin();
    w.pod(at, pending());
    let at = at + w.between(0.2, 3.0);
    let (reason, message) = if w.random.below(2) == 0 {
        (
            "UnexpectedAdmissionError",
            "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu",
        )
    } else {
        ("OutOfnvidia.com/gpu", "Node didn't have enough resource: nvidia.com/gpu, requested: 8, used: 8, capacity: 8")
    };
    w.pod(at, json!({ "phase": "Failed", "reason": reason, "message": message }));
    w.is(FailureCause::GpusTaken, at);
}

fn evicted(w: &mut Writer) {
    let at = w.started();
    let over = at + w.between(1.0, 400.0);
    w.writes(at, Some(over), 10.0, &[]);
    let message = w.pick(&[
        "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 9Gi.",
        "The node was low on resource: memory.",
    ]);
    w.pod(over, json!({ "phase": "Failed", "reason": "Evicted", "message": message }));
    w.is(FailureCause::Evicted, over);
}

fn leaves(w: &mut Writer, cause: FailureCause, reason: &str, message: &str) {
    let at = w.started();
    let over = at + w.between(1.0, 400.0);
    w.writes(at, Some(over), 10.0, &[]);
    let name = w.worker.clone();
    w.pod_named(over, &name, "VllmWorker", disrupted(reason, message), true);
    w.is(cause, over);
}

fn preempted(w: &mut Writer) {
    let reason = w.pick(&["PreemptionByScheduler", "EvictionByEvictionAPI"]);
    leaves(w, FailureCause::Evicted, reason, "preempting to accommodate a higher priority pod");
}

fn node_lost(w: &mut Writer) {
    let reason = w.pick(&["DeletionByTaintManager", "DeletionByPodGC"]);
    leaves(w, FailureCause::NodeLost, reason, "Taint manager: deleting due to NoExecute taint");
}

fn operator_silent(w: &mut Writer) {
    w.dgd(0.0, "", "");
    w.is(FailureCause::OperatorSilent, 0.0);
}

fn operator_failed(w: &mut Writer) {
    let at = w.begin() + w.between(0.0, 60.0);
    w.dgd(at, "failed", "failed to sync the DynamoComponentDeployment: admission webhook denied the request");
    w.is(FailureCause::OperatorFailed, at);
}

fn deleted(w: &mut Writer) {
    let at = w.started() + w.between(1.0, 60.0);
    let object = w.timeline.changes.iter().rfind(|c| c.kind == Kind::Dgd).expect("there is one").object.clone();
    w.timeline.changes.push(Change { at: s(at), kind: Kind::Dgd, gone: true, object });
    w.is(FailureCause::Deleted, at);
}

/// Nothing tells it from a slow load but time: it can be seen when the deadline on silence passes.
fn never_ready(w: &mut Writer) {
    let at = w.started();
    let last = at + w.between(10.0, 600.0);
    w.timeline.logs.push(Log {
        pod: w.worker.clone(),
        begins: s(at),
        lines: vec![(s(last), "INFO listening on port 9090".to_owned())],
        ends: None,
    });
    w.is(FailureCause::NotReady, last + 1200.0);
}

fn plain(w: &mut Writer) {
    let at = w.started();
    w.writes(at, None, 20.0, &[]);
    let at = at + w.between(20.0, 600.0);
    w.ready(at);
}

fn slow_load(w: &mut Writer) {
    let at = w.started();
    let every = w.between(30.0, 400.0);
    w.writes(at, None, every, &[]);
    let worker = w.worker.clone();
    for n in 1..20 {
        w.event(at + 60.0 * f64::from(n), &worker, "Unhealthy", "Startup probe failed: HTTP probe failed with 503");
    }
    let at = at + w.between(3600.0, 6600.0);
    w.ready(at);
}

fn silent_load(w: &mut Writer) {
    let at = w.started();
    let at = at + w.between(900.0, 1150.0);
    w.ready(at);
}

fn restarts_once(w: &mut Writer) {
    let at = w.started();
    let over = at + w.between(1.0, 300.0);
    w.writes(at, Some(over), 10.0, &["ConnectionResetError: [Errno 104] Connection reset by peer".to_owned()]);
    w.pod(over, container(&ended(1, "Error"), &json!({}), 0, false));
    let back = over + w.between(0.1, 11.0);
    w.runs(back, 1);
    w.writes(back, None, 20.0, &[]);
    let at = back + w.between(20.0, 600.0);
    w.ready(at);
}

fn pull_recovers(w: &mut Writer) {
    let said = w.pick(&PASSING_PULLS);
    let rounds = 1 + w.random.below(3) as u32;
    let (_, at) = w.pull(said, rounds);
    w.runs(at, 0);
    w.writes(at, None, 20.0, &[]);
    let at = at + w.between(20.0, 600.0);
    w.ready(at);
}

fn slow_pull(w: &mut Writer) {
    let at = w.begin();
    w.pod(at, waiting("ContainerCreating", ""));
    let at = at + w.between(600.0, 1100.0);
    w.runs(at, 0);
    w.writes(at, None, 20.0, &[]);
    let at = at + w.between(20.0, 600.0);
    w.ready(at);
}

fn scheduled_late(w: &mut Writer) {
    let at = w.begin();
    let said = w.pick(&NO_GPUS);
    w.unscheduled(at, said);
    let at = at + w.between(30.0, 290.0);
    w.pod(at, waiting("ContainerCreating", ""));
    let at = at + w.between(5.0, 60.0);
    w.runs(at, 0);
    w.writes(at, None, 20.0, &[]);
    w.ready(at + 90.0);
}

fn secret_appears(w: &mut Writer) {
    let at = w.begin();
    w.pod(at, waiting("CreateContainerConfigError", "secret \"hf-token\" not found"));
    let at = at + w.between(2.0, 55.0);
    w.runs(at, 0);
    w.writes(at, None, 20.0, &[]);
    w.ready(at + 90.0);
}

fn volume_appears(w: &mut Writer) {
    let at = w.begin();
    w.pod(at, waiting("ContainerCreating", ""));
    let worker = w.worker.clone();
    w.event(at + 0.5, &worker, "FailedMount", "MountVolume.SetUp failed for volume \"t\" : secret \"hf\" not found");
    let at = at + w.between(2.0, 55.0);
    w.runs(at, 0);
    w.writes(at, None, 20.0, &[]);
    w.ready(at + 600.0);
}

fn quota_raised(w: &mut Writer) {
    let at = w.begin();
    let set = format!("{NAME}-vllmworker-6b7f");
    w.event(at, &set, "FailedCreate", "Error creating: pods \"w\" is forbidden: exceeded quota: gpus");
    w.worker = format!("{set}-x2v9k");
    let at = at + w.between(2.0, 55.0);
    w.pod(at, waiting("ContainerCreating", ""));
    w.runs(at + 20.0, 0);
    w.writes(at + 20.0, None, 20.0, &[]);
    w.ready(at + 600.0);
}

fn operator_slow(w: &mut Writer) {
    w.dgd(0.0, "", "");
    let at = w.between(12.0, 55.0);
    w.dgd(at, "pending", "some resources are not ready");
    w.pod(at, waiting("ContainerCreating", ""));
    w.runs(at + 20.0, 0);
    w.writes(at + 20.0, None, 20.0, &[]);
    w.ready(at + 300.0);
}

fn operator_mends(w: &mut Writer) {
    let at = w.begin();
    w.dgd(at + 1.0, "failed", "Operation cannot be fulfilled: the object has been modified");
    let again = at + 1.0 + w.between(1.0, 18.0);
    w.dgd(again, "pending", "some resources are not ready");
    w.pod(again, waiting("ContainerCreating", ""));
    w.runs(again + 20.0, 0);
    w.writes(again + 20.0, None, 20.0, &[]);
    w.ready(again + 300.0);
}
