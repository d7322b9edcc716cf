//! Our reader of DGDRs and NVIDIA's pydantic model with the profiler's gates: the same documents pass, but for the
//! differences that are listed here with their reasons.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sla_profiler::spec::{Flags, Source, load};
use sla_profiler_tests::{nvidia, root};

/// What both read, by name.
type Corpus = BTreeMap<String, String>;

/// A spec that both take; variants change one value of it.
fn base() -> Value {
    json!({
        "model": "Qwen/Qwen3-32B",
        "backend": "vllm",
        "image": "registry.invalid/dynamo-planner:1.6.1",
        "modelCache": {"pvcName": "weights", "pvcModelPath": "qwen", "pvcMountPath": "/models"},
        "hardware": {"gpuSku": "h200_sxm", "totalGpus": 8, "numGpusPerNode": 8},
        "workload": {"isl": 2000, "osl": 500, "requestRate": 2.5},
        "sla": {"ttft": 800, "itl": 25},
        "features": {"planner": {"optimization_target": "sla"}, "kvRouter": {"enabled": true}},
        "overrides": {"trustRemoteCode": true},
        "searchStrategy": "rapid",
        "autoApply": false,
    })
}

/// Fields of the spec, by path.
const FIELDS: &[&str] = &[
    "model",
    "backend",
    "image",
    "runtimeVersionOverride",
    "searchStrategy",
    "autoApply",
    "modelCache",
    "modelCache.pvcName",
    "modelCache.pvcModelPath",
    "modelCache.pvcMountPath",
    "hardware",
    "hardware.gpuSku",
    "hardware.totalGpus",
    "hardware.numGpusPerNode",
    "hardware.vramMb",
    "hardware.interconnect",
    "hardware.rdma",
    "workload",
    "workload.isl",
    "workload.osl",
    "workload.requestRate",
    "sla",
    "sla.ttft",
    "sla.itl",
    "sla.e2eLatency",
    "sla.optimizationType",
    "features",
    "features.planner",
    "features.kvRouter",
    "features.kvRouter.enabled",
    "features.mocker",
    "features.mocker.enabled",
    "overrides",
    "overrides.dgd",
    "overrides.profilingJob",
    "overrides.trustRemoteCode",
];

/// What each field is set to in turn; absent values are a variant of their own.
fn values() -> [(&'static str, Value); 10] {
    [
        ("null", Value::Null),
        ("true", json!(true)),
        ("zero", json!(0)),
        ("minus-one", json!(-1)),
        ("one", json!(1)),
        ("fraction", json!(1.5)),
        ("text", json!("text")),
        ("number-as-text", json!("64")),
        ("list", json!([])),
        ("map", json!({})),
    ]
}

/// The map that holds the path's last key, and that key; maps in between are made.
fn parent<'a, 'p>(spec: &'a mut Value, path: &'p str) -> (&'a mut Map<String, Value>, &'p str) {
    let (folders, key) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = folders
        .split('.')
        .filter(|part| !part.is_empty())
        .fold(spec, |node, part| node.as_object_mut().unwrap().entry(part).or_insert_with(|| json!({})));
    (parent.as_object_mut().unwrap(), key)
}

fn variants(corpus: &mut Corpus) {
    let mut add = |name: String, spec: &Value| corpus.insert(name, spec.to_string());
    add("base".to_owned(), &base());
    for field in FIELDS {
        let mut spec = base();
        let (parent_map, key) = parent(&mut spec, field);
        parent_map.remove(key);
        add(format!("{field}=absent"), &spec);
        for (name, value) in values() {
            let mut spec = base();
            let (parent_map, key) = parent(&mut spec, field);
            parent_map.insert(key.to_owned(), value);
            add(format!("{field}={name}"), &spec);
        }
    }
    // Each accepted word, and combinations of fields.
    let changes = [
        ("backend", json!(["auto", "sglang", "trtllm", "VLLM"])),
        ("searchStrategy", json!(["thorough", "Rapid"])),
        ("sla.optimizationType", json!(["latency", "throughput", "cost"])),
        (
            "hardware.gpuSku",
            json!([
                "vr_nvl72",
                "gb200",
                "gb200_sxm",
                "gb10",
                "b300_sxm",
                "b200_sxm",
                "h100_sxm",
                "h100_pcie",
                "a100_sxm",
                "a100_pcie",
                "a30",
                "l40s",
                "l40",
                "l4",
                "v100_sxm",
                "v100_pcie",
                "t4",
                "mi200",
                "mi300",
                "H200-SXM"
            ]),
        ),
        (
            "sla",
            json!([{"e2eLatency": 5000}, {"e2eLatency": 5000, "ttft": 800}, {"ttft": 800}, {"itl": 25},
                   {"ttft": null, "itl": null}, {"ttft": 0, "itl": 25}, {"e2eLatency": 0}, {"e2eLatency": -1},
                   {"ttft": 1e300, "itl": 25}]),
        ),
        (
            "workload",
            json!([{"isl": 2000, "osl": 500}, {"concurrency": 8}, {"concurrency": 8, "requestRate": 2},
                   {"requestRate": 0}, {"isl": 4000.0}, {"concurrency": 7.5}, {"concurrency": 0}]),
        ),
        (
            "features.planner",
            json!([{"optimization_target": "fastest"}, {"no_such_setting": 1}, {"ttft_ms": 300},
                   {"pre_deployment_sweeping_mode": "none"}, {"max_gpu_budget": "many"}]),
        ),
        ("features.mocker", json!([{"enabled": true}])),
        ("modell", json!(["a field with a slip of the pen"])),
        ("hardware.gpus", json!([8])),
    ];
    for (field, values) in changes {
        for value in values.as_array().unwrap() {
            let mut spec = base();
            let (parent_map, key) = parent(&mut spec, field);
            parent_map.insert(key.to_owned(), value.clone());
            add(format!("{field}={value}"), &spec);
        }
    }
    let mut spec = base();
    spec["backend"] = json!("auto");
    spec["searchStrategy"] = json!("thorough");
    add("backend=auto, searchStrategy=thorough".to_owned(), &spec);
}

/// Files with a v1beta1 document; the pydantic model knows no other version.
fn files(corpus: &mut Corpus, folder: &Path, label: &str) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "json"));
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !text.contains("nvidia.com/v1alpha1") && !name.starts_with("v1alpha1") {
            corpus.insert(format!("{label}/{name}"), text);
        }
    }
}

/// The documents of NVIDIA's own profiler tests, from the installed package.
fn nvidias(corpus: &mut Corpus) {
    let mut command = std::process::Command::new(nvidia::python());
    command.args([
        "-c",
        "import importlib.util as u; print(u.find_spec('dynamo.profiler').submodule_search_locations[0])",
    ]);
    let place = nvidia::expect(command, "").out;
    let before = corpus.len();
    files(corpus, &Path::new(place.trim()).join("tests/data/configs"), "nvidia");
    assert!(corpus.len() > before, "the package has its test documents");
}

fn corpus() -> Corpus {
    let mut corpus = Corpus::new();
    variants(&mut corpus);
    for name in ["quickstart", "dense-70b", "moe-multinode", "seed"] {
        files(&mut corpus, &root().join("examples").join(name), &format!("examples/{name}"));
    }
    files(&mut corpus, &root().join("tests/golden/input/valid"), "valid");
    files(&mut corpus, &root().join("tests/golden/input/invalid"), "invalid");
    nvidias(&mut corpus);
    corpus
}

/// Why theirs refuses each document, or that it does not.
fn theirs(corpus: &Corpus) -> BTreeMap<String, Option<String>> {
    let lines = corpus.iter().map(|(name, text)| json!({ "name": name, "text": text }).to_string() + "\n");
    let said = nvidia::expect(nvidia::script("read_dgdr.py"), &lines.collect::<String>());
    let verdicts =
        said.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).map(|verdict| {
            (verdict["name"].as_str().unwrap().to_owned(), verdict["reason"].as_str().map(str::to_owned))
        });
    verdicts.collect()
}

fn ours(text: &str) -> Option<String> {
    load(&Source::Inline(text.to_owned()), &Flags::default()).err().map(|error| error.render())
}

/// Who takes documents that the other refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    Ours,
    Theirs,
}

/// Every document on which the two disagree, and why that is right. A line that no longer holds is an error too.
const DIFFERENCES: &[(Only, &str, &[&str])] = &[
    (
        Only::Theirs,
        "pydantic turns `\"64\"` into a number and 1 into true; the CRD has types, and the API server refuses them",
        &[
            "autoApply=one",
            "autoApply=zero",
            "features.kvRouter.enabled=one",
            "features.kvRouter.enabled=zero",
            "features.mocker.enabled=one",
            "features.mocker.enabled=zero",
            "hardware.numGpusPerNode=number-as-text",
            "hardware.numGpusPerNode=true",
            "hardware.rdma=one",
            "hardware.rdma=zero",
            "hardware.totalGpus=number-as-text",
            "hardware.totalGpus=true",
            "hardware.vramMb=number-as-text",
            "hardware.vramMb=true",
            "overrides.trustRemoteCode=one",
            "overrides.trustRemoteCode=zero",
            "sla.itl=number-as-text",
            "sla.itl=true",
            "sla.ttft=number-as-text",
            "sla.ttft=true",
            "workload.isl=number-as-text",
            "workload.isl=true",
            "workload.osl=number-as-text",
            "workload.osl=true",
            "workload.requestRate=number-as-text",
            "workload.requestRate=true",
            "workload={\"isl\":4000.0}",
        ],
    ),
    (
        Only::Theirs,
        "pydantic drops unknown fields, so that a slip of the pen becomes a default; here it is named",
        &[
            "hardware.gpus=8",
            "modell=\"a field with a slip of the pen\"",
            "invalid/unknown-field-inline.json",
            "invalid/unknown-field-without-neighbour.yaml",
            "invalid/unknown-field.yaml",
            "invalid/duplicate-key.yaml",
        ],
    ),
    (
        Only::Theirs,
        "the model has no bounds: nothing can be measured with no or fewer than no tokens, requests or GPUs, in an \
         unlimited time, or with half a request in flight",
        &[
            "hardware.totalGpus=minus-one",
            "hardware.totalGpus=zero",
            "workload.isl=minus-one",
            "workload.isl=zero",
            "workload.osl=minus-one",
            "workload.osl=zero",
            "workload.requestRate=minus-one",
            "workload.requestRate=zero",
            "workload={\"concurrency\":0}",
            "workload={\"concurrency\":7.5}",
            "workload={\"requestRate\":0}",
            "invalid/fractional-concurrency.yaml",
            "invalid/infinite-e2e.yaml",
            "invalid/nan-sla.yaml",
            "invalid/negative-isl.yaml",
        ],
    ),
    (
        Only::Theirs,
        "deployments are disaggregated: two engines take two GPUs",
        &["hardware.totalGpus=one", "invalid/one-gpu.yaml", "nvidia/8_thorough_empty_candidates.yaml"],
    ),
    (
        Only::Theirs,
        "a GPU that the catalog lacks is refused until its figures are given: nothing is guessed",
        &[
            "hardware.gpuSku=\"b300_sxm\"",
            "hardware.gpuSku=\"gb10\"",
            "hardware.gpuSku=\"mi200\"",
            "hardware.gpuSku=\"mi300\"",
            "hardware.gpuSku=\"t4\"",
            "hardware.gpuSku=\"v100_pcie\"",
            "hardware.gpuSku=\"v100_sxm\"",
            "hardware.gpuSku=\"vr_nvl72\"",
        ],
    ),
    (
        Only::Theirs,
        "so is a model, until its config.json is given; theirs fetches it, later",
        &[
            "model=number-as-text",
            "model=text",
            "invalid/ambiguous-model.yaml",
            "invalid/unknown-model.yaml",
            "nvidia/4_rapid_unsupported_no_planner.yaml",
            "nvidia/5_rapid_unsupported_planner.yaml",
            "nvidia/5b_rapid_unsupported_planner_throughput_error.yaml",
        ],
    ),
    (
        Only::Theirs,
        "a cache of weights is a PVC, and a PVC has a name; theirs fails when it builds the deployment",
        &["modelCache.pvcName=absent", "modelCache.pvcName=null", "modelCache=map", "invalid/cache-without-name.yaml"],
    ),
    (
        Only::Theirs,
        "the model sees the spec only: names, of which theirs fails later, and the model's context",
        &[
            "invalid/bad-name.yaml",
            "invalid/beyond-context.yaml",
            "invalid/long-name.yaml",
            "invalid/long-overridden-name.yaml",
            "invalid/name-begins-with-digit.yaml",
        ],
    ),
    (
        Only::Theirs,
        "fields of this program, which Dynamo does not look at",
        &[
            "invalid/annotation-and-block.yaml",
            "invalid/annotation-broken.yaml",
            "invalid/annotation-second-line.yaml",
            "invalid/annotation-unknown-field.yaml",
            "invalid/bad-digest.yaml",
            "invalid/curve-backwards.yaml",
            "invalid/fault-rate-above-one.yaml",
            "invalid/min-above-max-gpus.yaml",
            "invalid/min-gpus-above-budget.yaml",
            "invalid/nested-setting.yaml",
            "invalid/no-fuel.yaml",
            "invalid/quantile-out-of-range.yaml",
        ],
    ),
    (
        Only::Ours,
        "null is an absent field, as it is to the API server, which then fills in the default",
        &[
            "backend=null",
            "modelCache.pvcMountPath=null",
            "overrides.trustRemoteCode=null",
            "searchStrategy=null",
            "sla.itl=null",
            "sla.ttft=null",
            "sla={\"ttft\":null,\"itl\":null}",
        ],
    ),
    (
        Only::Ours,
        "the planner's settings are passed through, as the CRD has it: which there are depends on the planner's version",
        &["features.planner={\"max_gpu_budget\":\"many\"}", "features.planner={\"optimization_target\":\"fastest\"}"],
    ),
    (
        Only::Ours,
        "`auto` picks vLLM, and says so, for a measured search too",
        &["backend=auto, searchStrategy=thorough"],
    ),
    (
        Only::Ours,
        "other spellings of a GPU's name, and GPUs that the CRD has no name for with explicit figures; what is \
         generated holds neither",
        &["hardware.gpuSku=\"H200-SXM\"", "valid/explicit-figures.yaml", "valid/full-v1beta1.yaml"],
    ),
    (
        Only::Ours,
        "Dynamo is handed one spec; here a file may hold other resources as well, and JSON may be indented by tabs",
        &["valid/several-documents.yaml", "valid/tabs.json"],
    ),
];

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn both_readers_accept_and_reject_the_same_documents() {
    let corpus = corpus();
    let theirs = theirs(&corpus);
    let listed: BTreeMap<&str, Only> =
        DIFFERENCES.iter().flat_map(|(only, _, names)| names.iter().map(|name| (*name, *only))).collect();
    let mut problems = Vec::new();
    for name in listed.keys().filter(|name| !corpus.contains_key(**name)) {
        problems.push(format!("{name} is listed and not in the corpus"));
    }
    for (name, text) in &corpus {
        let (ours, theirs) = (ours(text), &theirs[name]);
        let found = match (&ours, theirs) {
            (None, Some(_)) => Some(Only::Ours),
            (Some(_), None) => Some(Only::Theirs),
            _ => None,
        };
        if found != listed.get(name.as_str()).copied() {
            let say = |verdict: &Option<String>| verdict.clone().unwrap_or_else(|| "accepted".to_owned());
            problems.push(format!("{name}\n  ours: {}\n  theirs: {}", say(&ours), say(theirs)));
        }
    }
    assert!(problems.is_empty(), "{} of {} documents:\n{}", problems.len(), corpus.len(), problems.join("\n"));
    assert!(corpus.len() > 400, "{} documents", corpus.len());
}
