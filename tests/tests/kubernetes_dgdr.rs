//! Requests of a cluster, as `profile` reads and refuses them, and the place of Dynamo's profiler in its operator's Job.
//! Whole runs are in `kubernetes_run.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sla_profiler::output::exit_code;
use sla_profiler_tests::runs::expect;
use sla_profiler_tests::sla_profiler;

const SPEC: &str = r#"{"model": "Qwen/Qwen3-0.6B", "backend": "vllm", "image": "nvcr.io/nvidia/ai-dynamo/dynamo-planner:1.4.0",
    "hardware": {"gpuSku": "h200_sxm", "numGpusPerNode": 2, "totalGpus": 2}, "workload": {"isl": 500, "osl": 50},
    "sla": {"ttft": 200, "itl": 20}, "searchStrategy": "rapid", "profiler": {"maxContextLength": 4096}}"#;

/// As the operator's Job starts Dynamo's profiler.
fn in_its_place(spec: &str, out: &Path) -> Command {
    let mut command = sla_profiler(["-m", "dynamo.profiler", "--config", spec, "--output-dir"]);
    command.arg(out).args(["--deployment-timeout", "3600", "--prefill-interpolation-granularity", "16"]);
    command.env("DGDR_NAME", "chat").env("DGDR_NAMESPACE", "llm").env("DGDR_UID", "1-2-3");
    command.env("KUBERNETES_SERVICE_HOST", "192.0.2.1").env("KUBERNETES_SERVICE_PORT", "443");
    command
}

fn yaml(out: &Path, name: &str) -> Vec<Value> {
    serde_yaml::from_multiple(&std::fs::read_to_string(out.join(name)).unwrap()).unwrap()
}

/// As the sidecar's `grep '^status:' | awk '{print $2}'`.
fn status(out: &Path) -> String {
    let text = std::fs::read_to_string(out.join("profiler_status.yaml")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("status:")).unwrap();
    line.trim().trim_matches('"').to_owned()
}

#[test]
fn in_the_place_of_dynamos_profiler_it_writes_what_the_sidecar_reads_and_applies_nothing() {
    let out = tempfile::tempdir().unwrap();
    // A volume has folders of its own.
    std::fs::create_dir(out.path().join("lost+found")).unwrap();
    for _again in 0..2 {
        expect(exit_code::OK, in_its_place(SPEC, out.path()));
        assert_eq!(status(out.path()), "success");
        let documents = yaml(out.path(), "final_config.yaml");
        let dgd = documents.iter().find(|d| d["kind"] == "DynamoGraphDeployment").unwrap();
        assert_eq!(dgd["apiVersion"], "nvidia.com/v1beta1");
        let status = &yaml(out.path(), "profiler_status.yaml")[0];
        assert_eq!(
            (&status["phase"], &status["outputs"]["final_config"]),
            (&"Done".into(), &"final_config.yaml".into())
        );
        let result: Value = serde_json::from_slice(&std::fs::read(out.path().join("result.json")).unwrap()).unwrap();
        assert_eq!(result["check"], Value::Null, "the operator applies it");
    }
    // Another request's results on the same volume do not stand in its way.
    expect(exit_code::OK, in_its_place(&SPEC.replace("500", "600"), out.path()));
    assert_eq!(status(out.path()), "success");
}

#[test]
fn what_nobody_should_apply_unasked_fails_the_job_and_what_waits_for_a_person_does_not() {
    let impossible = SPEC.replace(r#""ttft": 200"#, r#""ttft": 0.001"#);
    let out = tempfile::tempdir().unwrap();
    expect(exit_code::INFEASIBLE, in_its_place(&impossible, out.path()));
    assert_eq!(status(out.path()), "failed");
    assert!(out.path().join("final_config.yaml").exists());
    let by_hand = impossible.replace(r#""searchStrategy""#, r#""autoApply": false, "searchStrategy""#);
    let out = tempfile::tempdir().unwrap();
    expect(exit_code::OK, in_its_place(&by_hand, out.path()));
    assert_eq!(status(out.path()), "success");
}

#[test]
fn the_sidecar_is_told_of_every_failure_also_before_there_is_a_run() {
    let cases = [
        (
            exit_code::INPUT,
            in_its_place as fn(&str, &Path) -> Command,
            SPEC.replace("ttft", "tfft"),
            "unknown field `tfft`",
        ),
        (
            exit_code::USAGE,
            |spec, out| {
                let mut c = in_its_place(spec, out);
                c.arg("--no-such-flag");
                c
            },
            SPEC.to_owned(),
            "--no-such-flag",
        ),
        (
            exit_code::NO_CANDIDATE,
            in_its_place,
            SPEC.replace("Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-405B-Instruct"),
            "fits none",
        ),
    ];
    for (code, start, spec, said) in cases {
        let out = tempfile::tempdir().unwrap();
        expect(code, start(&spec, out.path()));
        assert_eq!(status(out.path()), "failed");
        let error = yaml(out.path(), "profiler_status.yaml")[0]["error"].as_str().unwrap().to_owned();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn flags_of_kubernetes_need_kubernetes_and_a_cluster_that_is_not_there_is_named() {
    let said = expect(exit_code::USAGE, sla_profiler(["profile", "--context", "x", "--config", SPEC]));
    assert!(said.err.contains("--cluster kubernetes"), "{}", said.err);
    let out = tempfile::tempdir().unwrap();
    let mut command = sla_profiler(["profile", "--cluster", "kubernetes", "--config", SPEC, "--out"]);
    command.arg(out.path().join("run")).arg("--kubeconfig").arg(out.path().join("nothing"));
    let said = expect(exit_code::CLUSTER, command);
    assert!(said.err.contains("no way to a cluster") && said.err.contains("--kubeconfig"), "{}", said.err);
    assert!(!out.path().join("run").exists(), "nothing is begun");
}

mod on_a_cluster {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use serde_json::{Value, json};
    use sla_profiler::output::exit_code;
    use sla_profiler_tests::kubernetes::{ControlPlane, Namespace, block_on, nodes};
    use sla_profiler_tests::openai::word_tokenizer;
    use sla_profiler_tests::runs::expect;
    use sla_profiler_tests::sla_profiler;

    fn profile(kubeconfig: &Path, out: &Path, more: &[&str]) -> Command {
        let mut command = sla_profiler(["profile", "--cluster", "kubernetes", "--kubeconfig"]);
        command.arg(kubeconfig).arg("--tokenizer").arg(word_tokenizer()).arg("--out").arg(out).args(more);
        command
    }

    async fn request(namespace: &Namespace, name: &str, spec: Value) {
        let request = json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeploymentRequest",
            "metadata": { "name": name }, "spec": spec,
        });
        namespace.create_strict(&request).await.unwrap();
    }

    async fn world(name: &str) -> (Namespace, PathBuf, tempfile::TempDir) {
        let plane = ControlPlane::shared();
        let namespace = Namespace::create(plane, name).await;
        let kubeconfig = namespace.admin_kubeconfig(plane.port());
        (namespace, kubeconfig, tempfile::tempdir().unwrap())
    }

    /// Runs it beside the test's runtime.
    async fn said(code: u8, command: Command) -> String {
        let said = tokio::task::spawn_blocking(move || expect(code, command)).await.unwrap();
        // Lines are wrapped.
        format!("{}\n{}", said.out, said.err).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn hardware_that_the_request_leaves_out_is_found_on_the_nodes_without_a_cap() {
        block_on(async {
            let (namespace, kubeconfig, out) = world("nodes").await;
            for node in 0..5 {
                nodes::add_node(ControlPlane::shared(), &format!("nodes-{node}"), "NVIDIA-H200", 8).await;
            }
            request(&namespace, "bare", json!({ "model": "Qwen/Qwen3-8B", "backend": "vllm" })).await;
            let dry = ["--dgdr", "bare", "--dry-run", "--output", "json"];
            said(exit_code::OK, profile(&kubeconfig, out.path(), &dry)).await;
            // A second kind of GPU: somebody has to say which, and both are named.
            nodes::add_node(ControlPlane::shared(), "nodes-other", "NVIDIA-L40S", 4).await;
            let words = said(exit_code::CLUSTER, profile(&kubeconfig, out.path(), &dry)).await;
            assert!(
                words.contains("NVIDIA-H200") && words.contains("NVIDIA-L40S") && words.contains("--gpu-sku"),
                "{words}"
            );
            let chosen = [&dry[..3], &["--gpu-sku", "l40s"]].concat();
            let words = said(exit_code::OK, profile(&kubeconfig, out.path(), &chosen)).await;
            assert!(words.contains("4 x l40s") || words.contains("l40s"), "{words}");
        });
    }

    #[test]
    fn a_request_that_is_not_there_or_makes_no_job_is_refused_with_its_place() {
        block_on(async {
            let (namespace, kubeconfig, out) = world("refused").await;
            let words = said(exit_code::CLUSTER, profile(&kubeconfig, out.path(), &["--dgdr", "absent"])).await;
            assert!(words.contains("\"absent\"") && words.contains("does not exist"), "{words}");
            let hardware = json!({ "gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": 8 });
            request(&namespace, "odd", json!({ "model": "nobody/knows-this-model", "hardware": hardware })).await;
            let words = said(exit_code::INPUT, profile(&kubeconfig, out.path(), &["--dgdr", "odd"])).await;
            assert!(words.contains("dgdr/odd:") && words.contains("nobody/knows-this-model"), "{words}");
            assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "nothing is begun");
        });
    }
}
