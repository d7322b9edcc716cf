//! TensorRT-LLM. `tensor_parallel_size` counts all GPUs of a pipeline stage; with attention DP every one of them is a
//! rank. Sizes with a flag of their own are flags; the engine arguments without one go into `--override-engine-args`,
//! whose JSON wins over flags, so that the reader looks there first.

use serde_json::{Map, Value, json};

use super::{
    ArgList, Mode, Worker,
    flags::{FlagError, Flags, MAX_SIZE},
    log::{Logged, number_after},
};
use crate::domain::{Mapping, Role};

const TP: &str = "--tensor-parallel-size";
const PP: &str = "--pipeline-parallel-size";
const EP: &str = "--expert-parallel-size";
const ATTENTION_DP: &str = "--enable-attention-dp";
const OVERRIDE: &str = "--override-engine-args";

pub(super) fn write(worker: &Worker<'_>, args: &mut ArgList) {
    let m = worker.mapping;
    args.pair("--model-path", worker.model_path);
    args.pair("--served-model-name", worker.served_name);
    args.pair(TP, m.tp.saturating_mul(m.attention_dp));
    if m.pp > 1 {
        args.pair(PP, m.pp);
    }
    if m.moe_ep > 1 {
        args.pair(EP, m.moe_ep);
    }
    if m.attention_dp > 1 {
        args.flag(ATTENTION_DP);
    }
    args.pair("--max-seq-len", worker.max_context_tokens);
    args.pair("--max-batch-size", worker.limits.max_running);
    args.pair("--max-num-tokens", worker.limits.max_batched_tokens);
    if let Mode::Disaggregated { role, kv_events } = worker.mode {
        args.disaggregation_mode(role);
        if kv_events && role == Role::Prefill {
            args.flag("--publish-kv-events");
        }
    }
    args.pair(OVERRIDE, Value::Object(engine_args(worker)));
}

/// Engine arguments that have no flag.
fn engine_args(worker: &Worker<'_>) -> Map<String, Value> {
    let mut engine = Map::new();
    if worker.mapping.moe_ep > 1 {
        engine.insert("moe_tensor_parallel_size".to_owned(), worker.mapping.moe_tp.into());
    }
    // The token budget of one pass may be smaller than a prompt.
    engine.insert("enable_chunked_prefill".to_owned(), true.into());
    match worker.mode {
        Mode::Disaggregated { role, .. } => {
            // A context-only worker must not start the next step before the cache is handed over.
            engine.insert("disable_overlap_scheduler".to_owned(), (role == Role::Prefill).into());
            engine.insert("cache_transceiver_config".to_owned(), json!({ "backend": "DEFAULT" }));
        }
        Mode::Alone { serves } => {
            engine.insert("disable_overlap_scheduler".to_owned(), false.into());
            engine.insert("cache_transceiver_config".to_owned(), Value::Null);
            engine.insert("kv_cache_config".to_owned(), json!({ "enable_block_reuse": serves.decode() }));
        }
    }
    if worker.trust_remote_code {
        engine.insert("trust_remote_code".to_owned(), true.into());
    }
    engine
}

pub(super) fn read(flags: &Flags<'_>) -> Result<Mapping, FlagError> {
    let engine: Map<String, Value> = match flags.value(&[OVERRIDE])? {
        None | Some("") => Map::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|e| FlagError::new(OVERRIDE, format!("'{text}' is not a JSON object: {e}")))?,
    };
    let size = |key: &str, flag: Option<&str>| match engine.get(key).filter(|v| !v.is_null()) {
        Some(value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n @ 1..=MAX_SIZE) => Ok(Some(n)),
            _ => Err(FlagError::new(
                format!("{OVERRIDE} {key}"),
                format!("{value} is not a number from 1 to {MAX_SIZE}"),
            )),
        },
        None => flag.map_or(Ok(None), |flag| flags.optional_size(&[flag])),
    };
    let stage = size("tensor_parallel_size", Some(TP))?.unwrap_or(1);
    let pp = size("pipeline_parallel_size", Some(PP))?.unwrap_or(1);
    let moe_tp = size("moe_tensor_parallel_size", None)?;
    let moe_ep = size("moe_expert_parallel_size", Some(EP))?;
    // As the engine does: whichever of the two is missing takes the rest of the stage.
    let (moe_tp, moe_ep) = match (moe_tp, moe_ep) {
        (Some(tp), Some(ep)) => (tp, ep),
        (Some(tp), None) => (tp, stage / tp),
        (None, ep) => (stage / ep.unwrap_or(1), ep.unwrap_or(1)),
    };
    let attention_dp = match engine.get("enable_attention_dp") {
        None | Some(Value::Null) => flags.is_set(ATTENTION_DP),
        Some(Value::Bool(on)) => *on,
        Some(other) => {
            return Err(FlagError::new(
                format!("{OVERRIDE} enable_attention_dp"),
                format!("{other} is neither true nor false"),
            ));
        }
    };
    let (tp, attention_dp) = if attention_dp { (1, stage) } else { (stage, 1) };
    Ok(Mapping { tp, pp, attention_dp, moe_tp, moe_ep })
}

/// `[MemUsageChange] Allocated 43.87 GiB for max tokens in paged KV cache (229984).` The engine writes it first for a
/// trial and then for good; no line names its rank.
pub(super) fn capacity(line: &str) -> Option<Logged<'_>> {
    let value = number_after(line, "for max tokens in paged KV cache (")?;
    Some(Logged { rank: None, value, line })
}

/// `max_seq_len=131072, max_num_requests=2048, max_num_tokens=8192`, for one rank.
pub(super) fn max_running(line: &str) -> Option<f64> {
    number_after(line, "max_num_requests=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_arguments_in_json_win_over_flags() {
        let args = [
            TP,
            "2",
            OVERRIDE,
            r#"{"tensor_parallel_size":8,"moe_expert_parallel_size":4,"enable_attention_dp":true}"#,
        ]
        .map(str::to_owned);
        let mapping = read(&Flags::new(&args)).unwrap();
        assert_eq!(mapping, Mapping { tp: 1, pp: 1, attention_dp: 8, moe_tp: 2, moe_ep: 4 });
    }

    #[test]
    fn broken_json_names_the_flag() {
        let args = [OVERRIDE, "{'a': 1}"].map(str::to_owned);
        assert!(read(&Flags::new(&args)).unwrap_err().to_string().starts_with(OVERRIDE));
    }
}
