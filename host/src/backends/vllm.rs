//! vLLM. It has no size for expert parallelism: `--enable-expert-parallel` spreads experts over all `tp · dp` GPUs of a
//! pipeline stage, without it every expert is sharded over them.

use super::{
    ArgList, Mode, Worker,
    flags::{FlagError, Flags},
    log::{Logged, dp_rank, number, number_after},
};
use crate::domain::{Mapping, Role};

const TP: &[&str] = &["--tensor-parallel-size", "-tp", "--tp"];
const PP: &[&str] = &["--pipeline-parallel-size", "-pp", "--pp"];
const DP: &[&str] = &["--data-parallel-size", "-dp", "--dp"];
const EP: &str = "--enable-expert-parallel";

pub(super) fn write(worker: &Worker<'_>, args: &mut ArgList) {
    let m = worker.mapping;
    args.pair("--model", worker.model_path);
    args.pair("--served-model-name", worker.served_name);
    args.pair("--tensor-parallel-size", m.tp);
    if m.pp > 1 {
        args.pair("--pipeline-parallel-size", m.pp);
    }
    if m.attention_dp > 1 {
        args.pair("--data-parallel-size", m.attention_dp);
    }
    if m.moe_ep > 1 {
        args.flag(EP);
    }
    args.pair("--max-model-len", worker.max_context_tokens);
    args.pair("--max-num-seqs", worker.limits.max_running);
    args.pair("--max-num-batched-tokens", worker.limits.max_batched_tokens);
    match worker.mode {
        Mode::Disaggregated { role, kv_events } => {
            args.disaggregation_mode(role);
            let side = match role {
                Role::Prefill => "kv_producer",
                Role::Decode => "kv_consumer",
            };
            // Dynamo refuses a prefill worker that does not name its connector.
            args.pair("--kv-transfer-config", format!(r#"{{"kv_connector":"NixlConnector","kv_role":"{side}"}}"#));
            // A request is placed by the prefix that its prefill worker holds.
            if kv_events && role == Role::Prefill {
                args.flag("--enable-prefix-caching");
                args.pair(
                    "--kv-events-config",
                    r#"{"enable_kv_cache_events":true,"publisher":"zmq","topic":"kv-events","endpoint":"tcp://*:20080"}"#,
                );
            }
        }
        Mode::Alone { serves } if serves.decode() => args.flag("--enable-prefix-caching"),
        Mode::Alone { .. } => args.flag("--no-enable-prefix-caching"),
    }
    if worker.trust_remote_code {
        args.flag("--trust-remote-code");
    }
}

pub(super) fn read(flags: &Flags<'_>) -> Result<Mapping, FlagError> {
    let (tp, pp, attention_dp) = (flags.size(TP)?, flags.size(PP)?, flags.size(DP)?);
    let stage = tp * attention_dp;
    let (moe_tp, moe_ep) = if flags.is_set(EP) { (1, stage) } else { (stage, 1) };
    Ok(Mapping { tp, pp, attention_dp, moe_tp, moe_ep })
}

/// `GPU KV cache size: 643,891 tokens`, which each engine core writes for its rank.
pub(super) fn capacity(line: &str) -> Option<Logged<'_>> {
    Some(Logged { rank: dp_rank(line), value: number_after(line, "GPU KV cache size: ")?, line })
}

/// `Maximum concurrency for 40,960 tokens per request: 15.72x`: the capacity to half a percent of a context, for
/// versions that do not write the line above.
pub(super) fn coarse_capacity(line: &str) -> Option<Logged<'_>> {
    let (context, factor) = line.split_once("Maximum concurrency for ")?.1.split_once(" tokens per request: ")?;
    Some(Logged { rank: dp_rank(line), value: (number(context)? * number(factor)?).floor(), line })
}

/// `non-default args: {…, 'max_num_seqs': 256, …}`
pub(super) fn max_running(line: &str) -> Option<f64> {
    number_after(line, "'max_num_seqs': ")
}
