//! Generated deployments against golden files: every engine, dense and MoE, both API versions, every feature.
//!
//! `SLA_PROFILER_UPDATE=1` rewrites `tests/golden/dgd/`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure is the message"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sla_profiler::{
    dgd::{self, DecodeTable, DgdError, Generated, PrefillTable, ProfileData, Request, Shape, Worker},
    domain::{
        Backend, Candidate, Demand, Dtype, GpuSku, Hardware, Job, Mapping, Measurement, Model, MoeShape, Plan, Role,
        Sla, Stat, Workload, candidate::Prior, search_space::Limits,
    },
    spec::{
        CurveRange, DeploymentSpec, DgdApi, EnginesSpec, ModelCache, PluginChoice, PluginSource, Plugins, RunSpec,
        SimulationSpec,
    },
};

const BACKENDS: [Backend; 3] = [Backend::Vllm, Backend::Sglang, Backend::Trtllm];
const APIS: [DgdApi; 2] = [DgdApi::V1beta1, DgdApi::V1alpha1];

fn model(moe: bool) -> Model {
    Model {
        name: if moe { "Qwen/Qwen3-235B-A22B" } else { "meta-llama/Llama-3.1-70B-Instruct" }.to_owned(),
        architecture: if moe { "Qwen3MoeForCausalLM" } else { "LlamaForCausalLM" }.to_owned(),
        layers: 80,
        hidden: 8192,
        heads: 64,
        kv_heads: 8,
        head_dim: 128,
        intermediate: 28_672,
        vocabulary: 128_256,
        tied_embeddings: false,
        max_context_tokens: 131_072,
        weight_dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        quant_block: None,
        moe: moe.then_some(MoeShape {
            experts: 128,
            experts_per_token: 8,
            expert_intermediate: 1536,
            shared_experts: 0,
            dense_layers: 0,
        }),
        latent_attention: None,
        source: String::new(),
    }
}

fn spec(backend: Backend, api: DgdApi, moe: bool) -> RunSpec {
    let plugin = |name: &str| PluginChoice::new(PluginSource::Named(name.to_owned()));
    RunSpec {
        engines: EnginesSpec::default(),
        output_dir: None,
        job: Job {
            model: model(moe),
            hardware: Hardware {
                gpu: GpuSku {
                    name: "h200_sxm".to_owned(),
                    memory_bytes: 141e9,
                    bf16_flops: 989e12,
                    fp8_flops: None,
                    fp4_flops: None,
                    memory_bytes_per_second: 4.8e12,
                    link_bytes_per_second: 450e9,
                    network_bytes_per_second: 50e9,
                    gpus_per_node: 8,
                    source: String::new(),
                },
                gpus_per_node: 8,
                total_gpus: 64,
            },
            backend,
            workload: Workload { isl: 3000, osl: 150 },
            sla: Sla { ttft_ms: Some(200.0), itl_ms: Some(20.0), e2e_ms: None, quantile: None },
            demand: Demand::Budget,
            max_context_tokens: 16_384,
            seed: 1,
        },
        limits: Limits::default(),
        priors: None,
        curve: CurveRange { min_isl: 100, max_isl: 16_384 },
        plugins: Plugins {
            sweep: plugin("sweep-adaptive"),
            selection: plugin("select-throughput"),
            planner: plugin("planner-sla"),
            strict: false,
        },
        deployment: DeploymentSpec {
            dgdr_name: "chat".to_owned(),
            name: "chat-dgd".to_owned(),
            namespace: None,
            api,
            image: None,
            workers_image: None,
            model_cache: None,
            planner: false,
            planner_config: serde_json::Map::new(),
            kv_router: false,
            mocker: false,
            trust_remote_code: false,
            runtime_version_override: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            overrides: None,
            tolerations: Vec::new(),
        },
        auto_apply: false,
        budget: Default::default(),
        simulation: SimulationSpec {
            noise_cv: 0.0,
            model_error: 0.0,
            fault_rate: 0.0,
            passing_fault_rate: 0.0,
            load_bytes_per_second: 1e9,
            compile_s: 1.0,
            warmup_s: 1.0,
        },
    }
}

fn plan() -> Plan {
    Plan {
        prefill_replicas: 2,
        decode_replicas: 3,
        capacity_requests_per_second: 12.0,
        prefill_requests_per_second: 12.0,
        decode_requests_per_second: 13.0,
        decode_concurrency: 48,
        expected_ttft_ms: 180.0,
        expected_itl_ms: 18.0,
        meets_sla: true,
        meets_demand: true,
        assumptions: Vec::new(),
    }
}

fn stat(mean: f64) -> Stat {
    Stat { mean, p50: mean, p90: mean * 1.1, p99: mean * 1.2, ci_low: mean * 0.99, ci_high: mean * 1.01, target: mean }
}

fn profile() -> ProfileData {
    let point = |isl: u32, osl: u32, concurrency: u32, ttft: Option<f64>, itl: Option<f64>| Measurement {
        candidate: 0,
        isl,
        osl,
        concurrency,
        concurrency_seen: f64::from(concurrency) * 0.5,
        ttft_ms: ttft.map(stat),
        itl_ms: itl.map(stat),
        samples: 10,
        failed_requests: 0,
        input_tokens_per_second_per_gpu: ttft.map_or(0.0, |t| f64::from(isl) * 250.0 / t),
        output_tokens_per_second_per_gpu: itl.map_or(0.0, |t| f64::from(concurrency) * 250.0 / t),
        kv_usage: f64::from(isl * concurrency) * 0.5 / 655_360.0,
        kv_usage_nominal: f64::from(isl * concurrency) / 655_360.0,
        duration_s: 1.0,
    };
    let prefill: Vec<_> =
        [16_000, 100, 2000, 4000, 8000].map(|isl| point(isl, 5, 1, Some(f64::from(isl) / 16.0), None)).into();
    let decode: Vec<_> = [1000, 4000]
        .iter()
        .flat_map(|isl| [1, 8, 64].map(|n| point(*isl, 500, n, None, Some(8.0 + f64::from(n) / 8.0))))
        .chain([point(100, 500, 1, None, Some(f64::NAN))])
        .collect();
    ProfileData { prefill: PrefillTable::new(&prefill), decode: DecodeTable::new(&decode, 655_360) }
}

/// Mappings of the two golden models: dense on one node, MoE over two.
fn mappings(moe: bool) -> (Mapping, Mapping) {
    if moe { (Mapping::tensor_expert(8), Mapping::data_expert(16)) } else { (Mapping::tensor(4), Mapping::tensor(2)) }
}

fn generate(spec: &RunSpec, shape: Shape) -> Result<Generated, DgdError> {
    let (plan, profile) = (plan(), profile());
    let (prefill, decode) = mappings(spec.job.model.is_moe());
    dgd::generate_shape(&Request { spec: spec.into(), prefill, decode, plan: &plan, profile: Some(&profile) }, shape)
}

const PLAIN: Shape = Shape { mocker: false, planner: false };
const PLANNER: Shape = Shape { mocker: false, planner: true };
const MOCKER: Shape = Shape { mocker: true, planner: true };

fn api_name(api: DgdApi) -> &'static str {
    match api {
        DgdApi::V1alpha1 => "v1alpha1",
        DgdApi::V1beta1 => "v1beta1",
    }
}

fn overrides(api: DgdApi) -> Value {
    let container = json!({
        "name": "main",
        "env": [{ "name": "FLAG", "value": "on" }],
        "resources": { "limits": { "rdma/ib": "8" } },
    });
    match api {
        DgdApi::V1beta1 => json!({
            "apiVersion": "nvidia.com/v1beta1",
            "metadata": { "name": "renamed", "labels": { "team": null } },
            "spec": { "components": [{
                "name": "decode", "replicas": 7,
                "podTemplate": { "spec": { "containers": [container], "nodeSelector": { "pool": "yes" } } },
            }] },
        }),
        DgdApi::V1alpha1 => json!({
            "apiVersion": "nvidia.com/v1alpha1",
            "metadata": { "name": "renamed", "labels": { "team": null } },
            "spec": { "services": { "decode": {
                "replicas": 7,
                "extraPodSpec": { "mainContainer": container, "nodeSelector": { "pool": "yes" } },
            } } },
        }),
    }
}

fn everything(api: DgdApi) -> RunSpec {
    let mut spec = spec(Backend::Vllm, api, false);
    let wishes = &mut spec.deployment;
    wishes.namespace = Some("inference".to_owned());
    wishes.image = Some("registry.example/team/dynamo-planner:1.5.0".to_owned());
    wishes.model_cache = Some(ModelCache {
        pvc_name: "weights".to_owned(),
        pvc_model_path: "llama-70b".to_owned(),
        mount_path: "/opt/model-cache".to_owned(),
    });
    wishes.kv_router = true;
    wishes.trust_remote_code = true;
    wishes.planner_config = json!({ "load_predictor": "kalman", "max_gpu_budget": 16, "environment": null })
        .as_object()
        .cloned()
        .unwrap_or_default();
    wishes.runtime_version_override = (api == DgdApi::V1beta1).then(|| "1.5.0".to_owned());
    wishes.labels = BTreeMap::from([("team".to_owned(), "no".to_owned()), ("app".to_owned(), "chat".to_owned())]);
    wishes.annotations = BTreeMap::from([("example.com/since".to_owned(), "2026-01-01".to_owned())]);
    wishes.tolerations = vec![json!({ "key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule" })];
    wishes.overrides = Some(overrides(api));
    spec
}

fn cases() -> Vec<(String, Generated)> {
    let mut cases = Vec::new();
    let mut case = |name: String, spec: &RunSpec, shape: Shape| {
        let generated = generate(spec, shape).unwrap_or_else(|e| panic!("{name}: {e}"));
        cases.push((name, generated));
    };
    for api in APIS {
        for backend in BACKENDS {
            for (moe, kind) in [(false, "dense"), (true, "moe")] {
                case(format!("{backend}-{kind}-{}", api_name(api)), &spec(backend, api, moe), PLAIN);
            }
        }
        let v = api_name(api);
        case(format!("vllm-dense-planner-{v}"), &spec(Backend::Vllm, api, false), PLANNER);
        case(format!("trtllm-moe-mocker-{v}"), &spec(Backend::Trtllm, api, true), MOCKER);
        case(format!("vllm-everything-{v}"), &everything(api), PLANNER);
    }
    let candidate = Candidate {
        role: Role::Decode,
        mapping: Mapping::data_expert(16),
        prior: Prior { latency_ms: 1.0, tokens_per_second_per_gpu: 1.0, relative_error: 0.0, kv_tokens: 1.0 },
    };
    let mut spec = spec(Backend::Sglang, DgdApi::V1beta1, true);
    for (name, share) in [("sglang-candidate-v1beta1", false), ("sglang-shared-v1beta1", true)] {
        spec.engines.share_engines = Some(share);
        let dgd = dgd::generate_candidate(&spec, &candidate).unwrap();
        cases.push((name.to_owned(), Generated { dgd, config_maps: Vec::new() }));
    }
    cases
}

#[test]
fn one_engine_serves_both_roles_unless_that_would_measure_something_else() {
    let spec = || spec(Backend::Vllm, DgdApi::V1beta1, false);
    assert!(dgd::shares_engines(&spec()));
    let of = |role| Candidate {
        role,
        mapping: Mapping::tensor(2),
        prior: Prior { latency_ms: 1.0, tokens_per_second_per_gpu: 1.0, relative_error: 0.0, kv_tokens: 1.0 },
    };
    let [prefill, decode] = Role::ALL.map(|role| dgd::generate_candidate(&spec(), &of(role)).unwrap());
    assert_eq!(prefill, decode);
    let mut unwanted = spec();
    unwanted.engines.share_engines = Some(false);
    let mut long = spec();
    long.job.workload.isl = 60_000;
    let mut apart = spec();
    apart.deployment.overrides = Some(json!({ "spec": { "components": [
        { "name": "prefill", "podTemplate": { "spec": { "nodeSelector": { "pool": "a" } } } },
    ] } }));
    for other in [&unwanted, &long, &apart] {
        assert!(!dgd::shares_engines(other));
        let [prefill, decode] = Role::ALL.map(|role| dgd::generate_candidate(other, &of(role)).unwrap());
        assert_ne!(prefill["metadata"]["name"], decode["metadata"]["name"]);
    }
    let mut alike = spec();
    let pool = json!({ "podTemplate": { "spec": { "nodeSelector": { "pool": "a" } } } });
    let component = |name: &str| {
        let mut component = pool.clone();
        component["name"] = name.into();
        component
    };
    let components = [component("prefill"), component("decode")];
    alike.deployment.overrides = Some(json!({ "spec": { "components": components } }));
    assert!(dgd::shares_engines(&alike));
}

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/dgd")
}

#[test]
fn deployments_are_as_in_the_golden_files() {
    let update = std::env::var_os("SLA_PROFILER_UPDATE").is_some_and(|v| v == "1");
    let mut wrong = Vec::new();
    let mut known = Vec::new();
    for (name, generated) in cases() {
        let yaml = generated.to_yaml().unwrap();
        let path = golden_dir().join(format!("{name}.yaml"));
        if update {
            std::fs::create_dir_all(golden_dir()).unwrap();
            std::fs::write(&path, &yaml).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != yaml {
            wrong.push(format!("{}\n--- now ---\n{yaml}", path.display()));
        }
        known.push(path);
    }
    for entry in std::fs::read_dir(golden_dir()).unwrap() {
        let path = entry.unwrap().path();
        if !known.contains(&path) {
            wrong.push(format!("{}: no test makes it", path.display()));
        }
    }
    assert!(wrong.is_empty(), "set SLA_PROFILER_UPDATE=1 to rewrite, if right:\n{}", wrong.join("\n"));
}

#[test]
fn what_is_written_is_read_back() {
    for api in APIS {
        for backend in BACKENDS {
            for moe in [false, true] {
                for shape in [PLAIN, PLANNER, MOCKER] {
                    let generated = generate(&spec(backend, api, moe), shape).unwrap();
                    let (prefill, decode) = mappings(moe);
                    let worker = |role: Role, mapping, replicas| Worker {
                        component: role.as_str().to_owned(),
                        role,
                        backend,
                        mapping,
                        replicas,
                    };
                    assert_eq!(
                        dgd::workers(&generated.dgd).unwrap(),
                        [worker(Role::Prefill, prefill, 2), worker(Role::Decode, decode, 3)],
                        "{api:?} {backend} {shape:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_same_decision_gives_the_same_names_and_another_gives_others() {
    let names = |g: &Generated| -> Vec<String> {
        g.config_maps.iter().map(|c| c.pointer("/metadata/name").unwrap().to_string()).collect()
    };
    let first = spec(Backend::Vllm, DgdApi::V1beta1, false);
    let mut second = first.clone();
    let once = generate(&first, PLANNER).unwrap();
    assert_eq!(once, generate(&first, PLANNER).unwrap());
    second.job.sla.ttft_ms = Some(300.0);
    let other = generate(&second, PLANNER).unwrap();
    let (once, other) = (names(&once), names(&other));
    assert_eq!(once.len(), 2);
    assert_ne!(once[0], other[0], "the settings differ");
    assert_eq!(once[1], other[1], "the profile data do not");
}

#[test]
fn an_end_to_end_target_is_split_by_what_the_plan_promises() {
    let mut spec = spec(Backend::Vllm, DgdApi::V1beta1, false);
    spec.job.sla = Sla { ttft_ms: None, itl_ms: None, e2e_ms: Some(3160.0), quantile: None };
    let generated = generate(&spec, PLANNER).unwrap();
    let text = generated.config_maps[0].pointer("/data/planner_config.json").unwrap().as_str().unwrap();
    let settings: Value = serde_json::from_str(text).unwrap();
    assert_eq!(settings["ttft_ms"], json!(180.0));
    assert_eq!(settings["itl_ms"], json!(20.0));
}

#[test]
fn names_that_do_not_fit_are_told_with_both_names() {
    let mut spec = spec(Backend::Vllm, DgdApi::V1beta1, false);
    spec.deployment.name = "a".repeat(37);
    assert!(generate(&spec, PLAIN).is_ok());
    spec.deployment.name = "a".repeat(38);
    let error = generate(&spec, PLAIN).unwrap_err().to_string();
    assert!(error.contains(&spec.deployment.name) && error.contains("'Frontend'") && error.contains("46"), "{error}");
    for bad in ["", "Chat", "chat.v1", "-chat", "chat-", "1chat"] {
        spec.deployment.name = bad.to_owned();
        assert!(matches!(generate(&spec, PLAIN), Err(DgdError::Name { .. })), "{bad}");
    }
}

#[test]
fn a_mocker_without_curves_and_a_runtime_version_in_v1alpha1_are_refused() {
    let mut spec = spec(Backend::Vllm, DgdApi::V1alpha1, false);
    let plan = plan();
    let (prefill, decode) = mappings(false);
    let request = Request { spec: (&spec).into(), prefill, decode, plan: &plan, profile: None };
    assert_eq!(dgd::generate_shape(&request, MOCKER), Err(DgdError::MockerWithoutProfile));
    let files = dgd::generate_files(&request).unwrap();
    assert_eq!(files.mocker_config_with_planner, None);
    assert_eq!(files.config_with_planner.config_maps.len(), 1, "settings, but no data");
    spec.deployment.runtime_version_override = Some("1.5.0".to_owned());
    let error = generate(&spec, PLAIN).unwrap_err().to_string();
    assert!(error.contains("--dgd-api v1beta1"), "{error}");
}

#[test]
fn an_unreadable_deployment_names_component_and_reason() {
    let broken = |pointer: &str, value: Value| {
        let mut dgd = generate(&spec(Backend::Vllm, DgdApi::V1beta1, false), PLAIN).unwrap().dgd;
        *dgd.pointer_mut(pointer).unwrap() = value;
        dgd::workers(&dgd).unwrap_err().to_string()
    };
    let main = "/spec/components/1/podTemplate/spec/containers/0";
    let cases = [
        (broken("/spec", json!({})), "spec: neither"),
        (broken(&format!("{main}/name"), json!("other")), "prefill: it has no container 'main'"),
        (broken(&format!("{main}/command"), json!(["serve"])), "runs no module of Dynamo"),
        (broken(&format!("{main}/command/2"), json!("dynamo.other")), "'dynamo.other' is none of the engines"),
        (broken(&format!("{main}/args"), json!(["--tensor-parallel-size", "many"])), "'many' is not a number"),
        (broken(&format!("{main}/args"), json!("--x")), "args must be a list"),
        (
            broken(&format!("{main}/resources/limits/nvidia.com~1gpu"), json!("2")),
            "spread over 4 GPUs, but it has 1 pod(s) of 2",
        ),
        (broken("/spec/components/1/replicas", json!(-1)), "replicas must be a number"),
        (broken("/spec/components/1/type", json!("decode")), "its flags make it a prefill worker"),
    ];
    for (error, told) in cases {
        assert!(error.contains(told), "{error} / {told}");
    }
}

#[test]
fn a_worker_in_a_shell_is_read_too() {
    let dgd = json!({ "spec": { "services": { "VllmDecodeWorker": {
        "componentType": "worker", "subComponentType": "decode", "resources": { "limits": { "gpu": "4" } },
        "extraPodSpec": { "mainContainer": {
            "command": ["/bin/sh", "-c"], "args": ["exec python3 -m dynamo.vllm --model 'a b' -tp 4"],
        } },
    } } } });
    let workers = dgd::workers(&dgd).unwrap();
    assert_eq!(workers[0].mapping, Mapping::tensor(4));
    assert_eq!((workers[0].role, workers[0].replicas), (Role::Decode, 1));
}

/// PyYAML follows YAML 1.1, where `on` is a boolean: what it reads must be what was written.
#[test]
fn another_yaml_reader_reads_the_same_data() {
    let Some(python) = std::env::var_os("SLA_PROFILER_PYTHON") else { return };
    let has_yaml = std::process::Command::new(&python).args(["-c", "import yaml"]).output().unwrap().status.success();
    if !has_yaml {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, generated) in cases() {
        let file = dir.path().join(format!("{name}.yaml"));
        std::fs::write(&file, generated.to_yaml().unwrap()).unwrap();
        let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
        let output = std::process::Command::new(&python).args(["-c", script]).arg(&file).output().unwrap();
        let read: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let written: Vec<Value> = generated.config_maps.iter().chain([&generated.dgd]).cloned().collect();
        assert_eq!(read, written, "{name}");
    }
}
