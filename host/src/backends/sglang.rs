//! SGLang. `--tp` counts all GPUs of a pipeline stage; with `--enable-dp-attention`, `--dp` divides them among
//! attention-DP ranks. The limit on running requests and the chunk size are for all ranks together.

use super::{
    ArgList, Mode, Worker,
    flags::{FlagError, Flags},
    log::{Logged, dp_rank, number_after},
};
use crate::domain::{Mapping, Role};

const TP: &[&str] = &["--tp", "--tp-size", "--tensor-parallel-size"];
const PP: &[&str] = &["--pp", "--pp-size", "--pipeline-parallel-size"];
const DP: &[&str] = &["--dp", "--dp-size", "--data-parallel-size"];
const EP: &[&str] = &["--ep", "--ep-size", "--expert-parallel-size"];
const DP_ATTENTION: &str = "--enable-dp-attention";

/// Where prefill workers hand over KV cache. Every worker has a pod of its own, so one port serves all.
const BOOTSTRAP_PORT: u16 = 12345;

pub(super) fn write(worker: &Worker<'_>, args: &mut ArgList) {
    let m = worker.mapping;
    args.pair("--model-path", worker.model_path);
    args.pair("--served-model-name", worker.served_name);
    args.pair("--tp", m.tp.saturating_mul(m.attention_dp));
    if m.pp > 1 {
        args.pair("--pp-size", m.pp);
    }
    if m.attention_dp > 1 {
        args.pair("--dp", m.attention_dp);
        args.flag(DP_ATTENTION);
    }
    if m.moe_ep > 1 {
        args.pair("--ep", m.moe_ep);
    }
    args.pair("--context-length", worker.max_context_tokens);
    args.pair("--max-running-requests", worker.limits.max_running.saturating_mul(m.attention_dp));
    if worker.mode.serves().prefill() {
        args.pair("--max-prefill-tokens", worker.limits.max_batched_tokens);
        args.pair("--chunked-prefill-size", worker.limits.max_batched_tokens.saturating_mul(m.attention_dp));
    }
    match worker.mode {
        Mode::Disaggregated { role, kv_events } => {
            args.disaggregation_mode(role);
            args.pair("--disaggregation-transfer-backend", "nixl");
            args.pair("--disaggregation-bootstrap-port", BOOTSTRAP_PORT);
            args.pair("--host", "0.0.0.0");
            if kv_events && role == Role::Prefill {
                args.pair("--page-size", 16);
                args.pair(
                    "--kv-events-config",
                    r#"{"publisher":"zmq","topic":"kv-events","endpoint":"tcp://*:20080"}"#,
                );
            }
        }
        Mode::Alone { serves } if serves.decode() => {
            // Repeated prompts must come back to the rank that cached them.
            if m.attention_dp > 1 {
                args.pair("--load-balance-method", "round_robin");
            }
        }
        Mode::Alone { .. } => args.flag("--disable-radix-cache"),
    }
    if worker.trust_remote_code {
        args.flag("--trust-remote-code");
    }
}

pub(super) fn read(flags: &Flags<'_>) -> Result<Mapping, FlagError> {
    let (stage, pp, attention_dp, moe_ep) = (flags.size(TP)?, flags.size(PP)?, flags.size(DP)?, flags.size(EP)?);
    if attention_dp > 1 && !flags.is_set(DP_ATTENTION) {
        let reason =
            format!("without {DP_ATTENTION} it starts independent replicas in one pod; use `replicas` instead");
        return Err(FlagError::new("--dp", reason));
    }
    for (name, part) in [("--dp", attention_dp), ("--ep", moe_ep)] {
        if stage % part != 0 {
            return Err(FlagError::new(name, format!("{part} does not divide --tp {stage}")));
        }
    }
    Ok(Mapping { tp: stage / attention_dp, pp, attention_dp, moe_tp: stage / moe_ep, moe_ep })
}

/// `[… DP0 TP0] KV Cache is allocated. #tokens: 524288, KV size: 17.16 GB`, which every GPU writes for its rank.
pub(super) fn capacity(line: &str) -> Option<Logged<'_>> {
    let value = number_after(line.split_once("KV Cache is allocated")?.1, "#tokens: ")?;
    Some(Logged { rank: dp_rank(line), value, line })
}

/// `max_total_num_tokens=350257, …, max_running_requests=12, context_len=262144`, for one rank.
pub(super) fn max_running(line: &str) -> Option<f64> {
    if !line.contains("max_total_num_tokens=") {
        return None;
    }
    number_after(line, "max_running_requests=")
}
