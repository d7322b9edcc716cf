//! Which mappings are legal for a model, an engine and the hardware, and why the others are not.
//!
//! Enumerated are tensor parallel mappings of a dense model, and of a model with experts TP (every expert split), TEP
//! (experts spread, attention tensor parallel) and DEP (experts spread, attention data parallel), each over powers of
//! two of GPUs. The rules are those of NVIDIA's profiler: the counts and kinds of its release 1.6.1, which enumerates
//! through `aisimulate`, with the divisibility checks of v0.7 to v0.9, which 1.6.1 no longer makes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::candidate::Prior;
use super::memory::{DEFAULT_BATCHED_TOKENS, DoesNotFit, MemoryPlan};
use super::roofline::{DecodeBatch, Roofline};
use super::{Backend, Candidate, Job, Mapping, Model, Role};

/// How wrong [`Prior`]s may be. The roofline's worst published comparison is off by less (`docs/simulated-cluster.md`);
/// engine versions and settings add to it.
pub const PRIOR_RELATIVE_ERROR: f64 = 0.25;

/// Most GPUs of one prefill engine with wide expert parallelism.
pub const WIDE_PREFILL_GPUS: u32 = 32;

/// Most GPUs of one decode engine with wide expert parallelism.
pub const WIDE_DECODE_GPUS: u32 = 64;

/// A MoE model spreads over nodes where the GPUs of one node hold less than this many times its weights.
pub const WIDE_MEMORY_FACTOR: f64 = 2.0;

/// Architectures whose experts engines may split by tensor parallelism: Qwen3 as in NVIDIA's list, and Mixtral, whose few
/// large experts are split by default.
const EXPERT_TENSOR_ARCHITECTURES: [&str; 2] = ["Qwen3MoeForCausalLM", "MixtralForCausalLM"];

/// What the user restricts beyond what the hardware does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Fewest GPUs of one engine; absent: what memory needs.
    pub min_gpus_per_engine: Option<u32>,
    /// Most GPUs of one engine; absent: one node, or more for a MoE model that needs it.
    pub max_gpus_per_engine: Option<u32>,
}

/// A mapping that may not be deployed, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rejected {
    /// In which role; absent: in both.
    pub role: Option<Role>,
    /// Which mapping.
    pub mapping: Mapping,
    /// What kind of reason it is.
    pub cause: Cause,
    /// For a person.
    pub reason: String,
}

/// Why a mapping may not be deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The engine does not know the kind of mapping.
    Kind,
    /// Some size of the model cannot be divided so.
    Divisibility,
    /// Too few or too many GPUs.
    GpuCount,
    /// The weights do not fit.
    Weights,
    /// The weights fit, but what is left does not hold the KV cache of one request.
    KvCache,
}

/// All candidates of a run. A candidate's id is its index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchSpace {
    /// Prefill candidates first, then decode candidates, each by GPUs, then label.
    pub candidates: Vec<Candidate>,
    /// What was left out.
    pub rejected: Vec<Rejected>,
}

/// All legal candidates of the job, and all others with the reason.
///
/// The order is that of [`SearchSpace::candidates`] and does not depend on anything but the arguments.
pub fn build(job: &Job, limits: &Limits) -> SearchSpace {
    let mut space = SearchSpace::default();
    let mut both = Vec::new();
    for role in Role::ALL {
        for mapping in enumerate(job, limits) {
            match check(job, limits, role, &mapping) {
                Ok(()) => space.candidates.push(Candidate { role, mapping, prior: prior(job, role, &mapping) }),
                Err((cause, reason)) => both.push(Rejected { role: Some(role), mapping, cause, reason }),
            }
        }
    }
    // One line for a mapping that both roles reject for the same reason.
    for rejected in both {
        match space.rejected.iter_mut().find(|r| r.mapping == rejected.mapping && r.reason == rejected.reason) {
            Some(known) => known.role = None,
            None => space.rejected.push(rejected),
        }
    }
    space
}

/// Every mapping that is looked at, by GPUs, then label.
pub fn enumerate(job: &Job, limits: &Limits) -> Vec<Mapping> {
    let largest = Role::ALL.into_iter().map(|role| most_gpus(job, limits, role)).max().unwrap_or(1);
    // A node's sizes are always listed, so that the table says why a size that one would expect is missing.
    let end = largest.max(job.hardware.gpus_per_node);
    let mut mappings: Vec<Mapping> = std::iter::successors(Some(1_u32), |n| n.checked_mul(2))
        .take_while(|n| *n <= end)
        .flat_map(|n| {
            if n > 1 && job.model.is_moe() {
                vec![Mapping::tensor(n), Mapping::tensor_expert(n), Mapping::data_expert(n)]
            } else {
                vec![Mapping::tensor(n)]
            }
        })
        .collect();
    mappings.sort_by_key(|m| (m.gpus(), m.label()));
    mappings
}

/// Most GPUs of one engine in the role, whatever the budget.
fn most_gpus(job: &Job, limits: &Limits, role: Role) -> u32 {
    let node = job.hardware.gpus_per_node.max(1);
    let model = &job.model;
    if !model.is_moe() {
        return limits.max_gpus_per_engine.map_or(node, |max| max.min(node));
    }
    limits.max_gpus_per_engine.unwrap_or_else(|| {
        if is_wide(job) {
            match role {
                Role::Prefill => WIDE_PREFILL_GPUS,
                Role::Decode => WIDE_DECODE_GPUS,
            }
            .max(node)
        } else {
            node
        }
    })
}

/// Whether experts spread over several nodes by themselves: one node's memory is less than twice the weights.
pub fn is_wide(job: &Job) -> bool {
    let node_bytes = f64::from(job.hardware.gpus_per_node) * job.hardware.gpu.memory_bytes;
    job.model.is_moe() && node_bytes < WIDE_MEMORY_FACTOR * job.model.weight_bytes()
}

/// Whether the mapping may be deployed in the role.
///
/// # Errors
/// Says what is against it, with figures.
pub fn check(job: &Job, limits: &Limits, role: Role, mapping: &Mapping) -> Result<(), (Cause, String)> {
    check_kind(&job.model, job.backend, mapping).map_err(|reason| (Cause::Kind, reason))?;
    check_divisible(&job.model, mapping).map_err(|reason| (Cause::Divisibility, reason))?;
    check_gpu_count(job, limits, role, mapping).map_err(|reason| (Cause::GpuCount, reason))?;
    check_memory(job, mapping)
}

fn check_kind(model: &Model, backend: Backend, m: &Mapping) -> Result<(), String> {
    if [m.tp, m.pp, m.attention_dp, m.moe_tp, m.moe_ep].contains(&0) {
        return Err(format!("{m}: a parallel size of 0 means nothing"));
    }
    if m.pp > 1 {
        return Err(format!("pipeline parallelism (pp = {}) is not searched", m.pp));
    }
    if !model.is_moe() {
        return if m.attention_dp > 1 || m.moe_ep > 1 {
            Err("data and expert parallelism need a model with experts".to_owned())
        } else {
            Ok(())
        };
    }
    let (attention, experts) = (u64::from(m.tp) * u64::from(m.attention_dp), u64::from(m.moe_tp) * u64::from(m.moe_ep));
    if attention != experts {
        return Err(format!("attention covers {attention} GPUs (tp · dp), experts cover {experts} (moe_tp · moe_ep)"));
    }
    match backend {
        Backend::Vllm if m.moe_tp > 1 && m.moe_ep > 1 => {
            return Err(format!(
                "vLLM either splits experts (moe_tp = {}) or spreads them (moe_ep = {})",
                m.moe_tp, m.moe_ep
            ));
        }
        Backend::Trtllm if m.attention_dp > 1 && m.tp > 1 => {
            return Err(format!(
                "TensorRT-LLM's attention is either data (dp = {}) or tensor parallel (tp = {})",
                m.attention_dp, m.tp
            ));
        }
        _ => {}
    }
    let known =
        *m == Mapping::tensor(m.tp) || *m == Mapping::tensor_expert(m.tp) || *m == Mapping::data_expert(m.attention_dp);
    if !known {
        return Err("only pure TP, TEP and DEP mappings are searched".to_owned());
    }
    if m.moe_tp > 1 && !EXPERT_TENSOR_ARCHITECTURES.contains(&model.architecture.as_str()) {
        return Err(format!("engines do not split the experts of {} (moe_tp = {})", model.architecture, m.moe_tp));
    }
    Ok(())
}

fn check_divisible(model: &Model, m: &Mapping) -> Result<(), String> {
    let divides = |what: &str, size: u32, name: &str, by: u32| {
        if by <= 1 || size.is_multiple_of(by) {
            Ok(())
        } else {
            Err(format!("{size} {what} cannot be divided over {name} = {by}"))
        }
    };
    // A slice of a block-quantised matrix has to start at a block.
    let slice = |what: &str, size: u32, name: &str, by: u32| {
        divides(what, size, name, by)?;
        match model.quant_block.filter(|block| *block > 0 && by > 1) {
            Some(block) if !(size / by).is_multiple_of(block) => Err(format!(
                "{what} {size} over {name} = {by} gives {}, no multiple of the quantisation block {block}",
                size / by
            )),
            _ => Ok(()),
        }
    };
    divides("attention heads", model.heads, "tp", m.tp)?;
    // KV heads are divided, or replicated once each GPU has one (as vLLM, SGLang and TensorRT-LLM do). The latent
    // vector of MLA is replicated anyhow.
    if model.latent_attention.is_none() && !m.tp.is_multiple_of(model.kv_heads.max(1)) {
        divides("KV heads", model.kv_heads, "tp", m.tp)?;
    }
    if model.dense_layers() > 0 {
        slice("intermediate size", model.intermediate, "tp", m.tp)?;
    }
    if let Some(moe) = &model.moe {
        divides("experts", moe.experts, "moe_ep", m.moe_ep)?;
        slice("expert intermediate size", moe.expert_intermediate, "moe_tp", m.moe_tp)?;
        if moe.shared_experts > 0 {
            let shared = moe.expert_intermediate.saturating_mul(moe.shared_experts);
            slice("shared experts' intermediate size", shared, "tp", m.tp)?;
        }
    }
    Ok(())
}

fn check_gpu_count(job: &Job, limits: &Limits, role: Role, m: &Mapping) -> Result<(), String> {
    let gpus = m.gpus();
    let (node, total) = (job.hardware.gpus_per_node, job.hardware.total_gpus);
    if gpus > total {
        return Err(format!("needs {gpus} GPUs, the budget is {total}"));
    }
    if let Some(min) = limits.min_gpus_per_engine.filter(|min| gpus < *min) {
        return Err(format!("{gpus} GPUs are fewer than the {min} asked for per engine"));
    }
    if let Some(max) = limits.max_gpus_per_engine.filter(|max| gpus > *max) {
        return Err(format!("{gpus} GPUs are more than the {max} allowed per engine"));
    }
    let most = most_gpus(job, limits, role);
    if gpus > most {
        return Err(if most <= node {
            format!("{gpus} GPUs are more than one node's {node}")
        } else {
            format!("{gpus} GPUs are more than the {most} up to which a {role} engine spreads over nodes")
        });
    }
    if gpus > node && !gpus.is_multiple_of(node.max(1)) {
        return Err(format!("{gpus} GPUs are no whole number of nodes of {node}"));
    }
    Ok(())
}

fn check_memory(job: &Job, mapping: &Mapping) -> Result<(), (Cause, String)> {
    let sequence = job.workload.isl.saturating_add(job.workload.osl);
    MemoryPlan::new(&job.model, mapping, &job.hardware.gpu, DEFAULT_BATCHED_TOKENS).check(sequence).map_err(|reason| {
        let cause = match reason {
            DoesNotFit::Weights { .. } => Cause::Weights,
            DoesNotFit::Cache { .. } => Cause::KvCache,
        };
        (cause, reason.to_string())
    })
}

/// What the roofline expects of a candidate. See [`Prior`] for the operating points.
pub fn prior(job: &Job, role: Role, mapping: &Mapping) -> Prior {
    let roofline = Roofline::new(&job.model, &job.hardware, mapping, job.backend);
    let ranks = f64::from(mapping.attention_dp.max(1));
    let (latency_s, tokens) = match role {
        Role::Prefill => {
            (roofline.ttft_s(job.workload.isl, DEFAULT_BATCHED_TOKENS), ranks * f64::from(job.workload.isl))
        }
        Role::Decode => {
            let context_tokens = f64::from(job.workload.isl) + f64::from(job.workload.osl) / 2.0;
            (roofline.decode_step(DecodeBatch { sequences: 1.0, context_tokens }).total_s(), ranks)
        }
    };
    Prior {
        latency_ms: 1e3 * latency_s,
        tokens_per_second_per_gpu: tokens / latency_s / f64::from(mapping.gpus().max(1)),
        relative_error: PRIOR_RELATIVE_ERROR,
        kv_tokens: MemoryPlan::new(&job.model, mapping, &job.hardware.gpu, DEFAULT_BATCHED_TOKENS).kv_tokens(),
    }
}

/// What the roofline expects of a decode candidate's ITL in milliseconds, at loads that rise by a factor of four up to what
/// its prior says that it holds: requests and ITL. Scaled so that it begins at the candidate's prior.
pub fn prior_itl(job: &Job, candidate: &Candidate) -> Vec<(u32, f64)> {
    let Candidate { mapping, prior, .. } = candidate;
    let roofline = Roofline::new(&job.model, &job.hardware, mapping, job.backend);
    let context_tokens = f64::from(job.workload.isl) + f64::from(job.workload.osl) / 2.0;
    let ranks = mapping.attention_dp.max(1);
    let step_s = |requests: u32| {
        let sequences = f64::from(requests) / f64::from(ranks);
        roofline.decode_step(DecodeBatch { sequences, context_tokens }).total_s()
    };
    let scale = prior.latency_ms / step_s(ranks);
    let most = (prior.kv_tokens / context_tokens).clamp(f64::from(ranks), 1e6) as u32;
    std::iter::successors(Some(ranks), |n| (*n < most).then(|| n.saturating_mul(4)))
        .map(|n| (n, step_s(n) * scale))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::samples::{deepseek_v3, h100, h200, hardware, job, llama_8b_fp8, llama_70b_fp8, qwen3_235b};
    use super::*;

    fn labels(space: &SearchSpace, role: Role) -> Vec<String> {
        space.candidates.iter().filter(|c| c.role == role).map(|c| c.mapping.label()).collect()
    }

    fn reason(space: &SearchSpace, label: &str) -> String {
        space.rejected.iter().find(|r| r.mapping.label() == label).map(|r| r.reason.clone()).unwrap_or_default()
    }

    #[test]
    fn the_prior_over_load_begins_at_the_prior_and_rises_to_what_fits() {
        let job = job(deepseek_v3(), hardware(h200(), 32));
        let space = build(&job, &Limits::default());
        for candidate in space.candidates.iter().filter(|c| c.role == Role::Decode) {
            let told = prior_itl(&job, candidate);
            assert!((told[0].1 / candidate.prior.latency_ms - 1.0).abs() < 1e-9);
            assert!(told.windows(2).all(|w| w[0].1 < w[1].1 && w[1].0 == 4 * w[0].0), "{told:?}");
            let most = candidate.prior.kv_tokens / 3075.0;
            assert!(f64::from(told[told.len() - 1].0) >= most.floor(), "{told:?} up to {most}");
        }
    }

    #[test]
    fn a_dense_8b_model_on_one_node_is_searched_over_powers_of_two() {
        let space = build(&job(llama_8b_fp8(), hardware(h100(), 8)), &Limits::default());
        assert_eq!(labels(&space, Role::Prefill), ["tp1", "tp2", "tp4", "tp8"]);
        assert_eq!(labels(&space, Role::Decode), ["tp1", "tp2", "tp4", "tp8"]);
        assert!(space.rejected.is_empty(), "{:?}", space.rejected);
    }

    #[test]
    fn a_dense_70b_model_needs_two_h100() {
        let space = build(&job(llama_70b_fp8(), hardware(h100(), 16)), &Limits::default());
        assert_eq!(labels(&space, Role::Decode), ["tp2", "tp4", "tp8"]);
        assert!(reason(&space, "tp1").contains("GB left per GPU"), "{}", reason(&space, "tp1"));
        assert_eq!(space.rejected.iter().filter(|r| r.mapping.label() == "tp1").count(), 1, "one line for both roles");
    }

    #[test]
    fn deepseek_spreads_over_nodes_and_is_never_split_by_tensor_parallelism() {
        let space = build(&job(deepseek_v3(), hardware(h100(), 64)), &Limits::default());
        assert_eq!(labels(&space, Role::Prefill), ["dep16", "tep16", "dep32"]);
        assert_eq!(labels(&space, Role::Decode), ["dep16", "tep16", "dep32", "dep64"]);
        assert!(reason(&space, "tp8").contains("DeepseekV3ForCausalLM"));
        assert!(reason(&space, "tep8").contains("GB of weights"), "{}", reason(&space, "tep8"));
        assert!(reason(&space, "tep32").contains("quantisation block 128"), "{}", reason(&space, "tep32"));
        assert!(reason(&space, "dep64").contains("32 up to which a prefill engine"), "{}", reason(&space, "dep64"));
    }

    #[test]
    fn qwen3_may_split_its_experts_as_far_as_blocks_allow() {
        let space = build(&job(qwen3_235b(), hardware(h200(), 8)), &Limits::default());
        let decode = labels(&space, Role::Decode);
        assert!(decode.contains(&"tp4".to_owned()) && decode.contains(&"dep8".to_owned()), "{decode:?}");
        // 1536 / 8 = 192 is no multiple of 128.
        assert!(reason(&space, "tp8").contains("gives 192"), "{}", reason(&space, "tp8"));
    }

    #[test]
    fn heads_that_cannot_be_divided_reject_a_mapping_with_figures() {
        let mut model = llama_8b_fp8();
        (model.heads, model.kv_heads) = (28, 4);
        let space = build(&job(model, hardware(h100(), 8)), &Limits::default());
        assert_eq!(labels(&space, Role::Decode), ["tp1", "tp2", "tp4"]);
        assert_eq!(reason(&space, "tp8"), "28 attention heads cannot be divided over tp = 8");
        let mut model = llama_8b_fp8();
        model.kv_heads = 2;
        // Two KV heads over eight GPUs are replicated, three could not be.
        let space = build(&job(model.clone(), hardware(h100(), 8)), &Limits::default());
        assert_eq!(labels(&space, Role::Decode), ["tp1", "tp2", "tp4", "tp8"]);
        model.kv_heads = 3;
        let space = build(&job(model, hardware(h100(), 8)), &Limits::default());
        assert_eq!(reason(&space, "tp2"), "3 KV heads cannot be divided over tp = 2");
    }

    #[test]
    fn limits_and_budget_bound_the_gpus_of_an_engine() {
        let limits = Limits { min_gpus_per_engine: Some(2), max_gpus_per_engine: Some(4) };
        let space = build(&job(llama_8b_fp8(), hardware(h100(), 8)), &limits);
        assert_eq!(labels(&space, Role::Decode), ["tp2", "tp4"]);
        assert!(reason(&space, "tp1").contains("fewer than the 2 asked for"));
        assert!(reason(&space, "tp8").contains("more than the 4 allowed"));
        let space = build(&job(llama_8b_fp8(), hardware(h100(), 2)), &Limits::default());
        assert_eq!(labels(&space, Role::Decode), ["tp1", "tp2"]);
        assert_eq!(reason(&space, "tp4"), "needs 4 GPUs, the budget is 2");
    }

    #[test]
    fn backends_differ_in_which_mixtures_they_know() {
        let limits = Limits::default();
        let mut job = job(qwen3_235b(), hardware(h200(), 8));
        let both = Mapping { tp: 4, pp: 1, attention_dp: 1, moe_tp: 2, moe_ep: 2 };
        assert!(check(&job, &limits, Role::Decode, &both).unwrap_err().1.contains("vLLM either splits"));
        job.backend = Backend::Trtllm;
        let mixed = Mapping { tp: 2, pp: 1, attention_dp: 2, moe_tp: 1, moe_ep: 4 };
        assert!(check(&job, &limits, Role::Decode, &mixed).unwrap_err().1.contains("TensorRT-LLM's attention"));
        job.backend = Backend::Sglang;
        assert!(check(&job, &limits, Role::Decode, &mixed).unwrap_err().1.contains("only pure"));
        let uneven = Mapping { moe_ep: 8, ..mixed };
        assert!(check(&job, &limits, Role::Decode, &uneven).unwrap_err().1.contains("attention covers 4 GPUs"));
    }

    #[test]
    fn a_request_longer_than_the_cache_rejects_a_mapping() {
        let mut job = job(llama_70b_fp8(), hardware(h100(), 8));
        job.workload.isl = 120_000;
        let space = build(&job, &Limits::default());
        assert!(reason(&space, "tp2").is_empty(), "two GPUs hold 120k tokens: {}", reason(&space, "tp2"));
        job.model.weight_dtype = super::super::Dtype::Bf16;
        let space = build(&job, &Limits::default());
        assert!(reason(&space, "tp2").contains("one request needs 120150"), "{}", reason(&space, "tp2"));
    }

    #[test]
    fn a_prior_is_that_of_one_request_per_rank() {
        let job = job(deepseek_v3(), hardware(h200(), 16));
        let one = prior(&job, Role::Decode, &Mapping::data_expert(8));
        assert!((one.tokens_per_second_per_gpu - 1e3 / one.latency_ms).abs() < 1e-6);
        assert!(one.kv_tokens > 0.0 && one.relative_error == PRIOR_RELATIVE_ERROR);
    }

    fn any_job() -> impl Strategy<Value = (Job, Limits)> {
        let model = prop_oneof![Just(llama_8b_fp8()), Just(llama_70b_fp8()), Just(deepseek_v3()), Just(qwen3_235b())];
        let gpu = prop_oneof![Just(h100()), Just(h200())];
        let backend = prop_oneof![Just(Backend::Vllm), Just(Backend::Sglang), Just(Backend::Trtllm)];
        let limit = prop_oneof![Just(None), (1_u32..80).prop_map(Some)];
        (model, gpu, backend, 1_u32..130, 1_u32..=16, 1_u32..200_000, (limit.clone(), limit)).prop_map(
            |(model, gpu, backend, total, per_node, isl, (min, max))| {
                let mut job = job(model, hardware(gpu, total));
                job.hardware.gpus_per_node = per_node;
                job.backend = backend;
                job.workload.isl = isl;
                (job, Limits { min_gpus_per_engine: min, max_gpus_per_engine: max })
            },
        )
    }

    proptest! {
        #[test]
        fn every_candidate_is_legal_and_nothing_is_lost((job, limits) in any_job()) {
            let space = build(&job, &limits);
            let mut seen = HashSet::new();
            for c in &space.candidates {
                prop_assert!(check(&job, &limits, c.role, &c.mapping).is_ok());
                prop_assert!(c.gpus() <= job.hardware.total_gpus);
                prop_assert!(job.model.heads.is_multiple_of(c.mapping.tp));
                prop_assert!(c.prior.kv_tokens >= f64::from(job.workload.isl + job.workload.osl));
                prop_assert!(c.prior.latency_ms > 0.0 && c.prior.tokens_per_second_per_gpu.is_finite());
                prop_assert!(seen.insert((c.role, c.mapping)), "{} twice", c.name());
            }
            for r in &space.rejected {
                prop_assert!(!r.reason.is_empty());
                for role in r.role.map_or(Role::ALL.to_vec(), |role| vec![role]) {
                    prop_assert!(seen.insert((role, r.mapping)), "{role} {} twice", r.mapping);
                }
            }
            let all: HashSet<_> = Role::ALL
                .into_iter()
                .flat_map(|role| enumerate(&job, &limits).into_iter().map(move |m| (role, m)))
                .collect();
            prop_assert_eq!(seen, all);
        }

        #[test]
        fn the_order_is_by_role_then_gpus_then_label((job, limits) in any_job()) {
            let space = build(&job, &limits);
            let keys: Vec<_> = space.candidates.iter().map(|c| (c.role, c.gpus(), c.mapping.label())).collect();
            let mut sorted = keys.clone();
            sorted.sort();
            prop_assert_eq!(keys, sorted);
            prop_assert_eq!(build(&job, &limits), space);
        }
    }
}
