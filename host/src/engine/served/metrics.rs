//! What an engine's metrics endpoint says: how large its KV cache is, how full, and how many requests run.
//!
//! The names are those of vLLM (0.4 to 0.32), SGLang (with `--enable-metrics`) and Dynamo (1.6: frontend, and workers
//! with `DYN_SYSTEM_PORT`). A Dynamo worker passes its engine's own metrics on; those come first, since they are the
//! source.

use super::exposition::Sample;

/// One look at an engine. Everything is for the whole engine, over all attention-DP ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Look {
    /// KV capacity in tokens.
    pub kv_tokens: Option<f64>,
    /// Most requests that it runs at once.
    pub max_running: Option<f64>,
    /// Requests that it runs now.
    pub running: Option<f64>,
    /// Fraction of the KV cache in use, 0 to 1; the mean of the ranks.
    pub kv_usage: Option<f64>,
}

/// Labels that tell attention-DP ranks apart: vLLM's, SGLang's and Dynamo's.
const RANK_LABELS: [&str; 2] = ["engine", "dp_rank"];

/// Labels that name the model.
const MODEL_LABELS: [&str; 2] = ["model_name", "model"];

/// Reads the pages of one engine (a frontend's and its workers' together). `model` is the name under which it is
/// served: a frontend may know others.
pub fn look(samples: &[Sample], model: &str, ranks: u32) -> Look {
    let page = Page { samples, model, ranks: f64::from(ranks.max(1)) };
    let block_tokens = page.sum(&["dynamo_frontend_model_kv_cache_block_size"], |s| Some(s.value), Fill::AsIs);
    let blocks = |names: &[&str]| Some(page.sum(names, |s| Some(s.value), Fill::EveryRank)? * block_tokens?);
    Look {
        kv_tokens: page
            .sum(&["vllm:cache_config_info"], vllm_capacity, Fill::EveryRank)
            .or_else(|| page.sum(&["sglang:max_total_num_tokens"], |s| Some(s.value), Fill::EveryRank))
            .or_else(|| blocks(&["dynamo_component_total_blocks"]))
            .or_else(|| blocks(&["dynamo_frontend_model_total_kv_blocks"]))
            .filter(|tokens| *tokens >= 1.0),
        max_running: page
            .sum(&["dynamo_frontend_model_max_num_seqs"], |s| Some(s.value), Fill::EveryRank)
            .filter(|n| *n >= 1.0),
        running: page.sum(
            &[
                "vllm:num_requests_running",
                "sglang:num_running_reqs",
                "dynamo_component_inflight_requests",
                "dynamo_frontend_inflight_requests",
                "dynamo_frontend_active_requests",
            ],
            |s| Some(s.value),
            Fill::AsIs,
        ),
        kv_usage: page.mean(&[
            "vllm:kv_cache_usage_perc",
            "vllm:gpu_cache_usage_perc",
            "sglang:token_usage",
            "dynamo_component_gpu_cache_usage_percent",
        ]),
    }
}

/// `vllm:cache_config_info{block_size="16",num_gpu_blocks="573",kv_cache_size_tokens="9168"} 1`; the size in tokens is
/// there in newer versions, and is the right one where layers of several kinds share the blocks.
fn vllm_capacity(sample: &Sample) -> Option<f64> {
    let number = |label: &str| sample.label(label)?.parse::<f64>().ok();
    number("kv_cache_size_tokens").or_else(|| Some(number("num_gpu_blocks")? * number("block_size")?))
}

/// What stands for ranks that have no series of their own.
#[derive(Clone, Copy, PartialEq)]
enum Fill {
    /// Nothing: the sum is over those that there are.
    AsIs,
    /// The smallest of the others: ranks are built alike.
    EveryRank,
}

struct Page<'a> {
    samples: &'a [Sample],
    model: &'a str,
    ranks: f64,
}

impl Page<'_> {
    /// One value per rank, under the first of the names that has any.
    fn by_rank(&self, names: &[&str], value: impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
        for name in names {
            let mut ranks: Vec<(Option<&str>, f64)> = Vec::new();
            for sample in self.samples.iter().filter(|s| s.name == *name && self.is_ours(s)) {
                let Some(value) = value(sample).filter(|v| v.is_finite() && *v >= 0.0) else { continue };
                let rank = RANK_LABELS.iter().find_map(|label| sample.label(label));
                match ranks.iter_mut().find(|(known, _)| *known == rank) {
                    // Several GPUs, or several endpoints of a component, speak for the rank; idle ones say less.
                    Some((_, known)) => *known = known.max(value),
                    None => ranks.push((rank, value)),
                }
            }
            if !ranks.is_empty() {
                return ranks.into_iter().map(|(_, value)| value).collect();
            }
        }
        Vec::new()
    }

    fn sum(&self, names: &[&str], value: impl Fn(&Sample) -> Option<f64>, fill: Fill) -> Option<f64> {
        let found = self.by_rank(names, value);
        let smallest = found.iter().copied().reduce(f64::min)?;
        let missing = if fill == Fill::EveryRank { (self.ranks - found.len() as f64).max(0.0) } else { 0.0 };
        Some(found.iter().sum::<f64>() + smallest * missing)
    }

    fn mean(&self, names: &[&str]) -> Option<f64> {
        let found = self.by_rank(names, |s| Some(s.value));
        (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
    }

    /// Whether the series is of the model that is measured. Dynamo's frontend writes names in lower case; an engine may
    /// know its model by a path, and is then the only one on its page.
    fn is_ours(&self, sample: &Sample) -> bool {
        let named = |s: &Sample| MODEL_LABELS.iter().find_map(|label| s.label(label).map(str::to_owned));
        let Some(name) = named(sample) else { return true };
        if name.eq_ignore_ascii_case(self.model) {
            return true;
        }
        !self
            .samples
            .iter()
            .any(|s| s.name == sample.name && named(s).is_some_and(|n| n.eq_ignore_ascii_case(self.model)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::exposition::parse;
    use super::*;

    fn read(page: &str, ranks: u32) -> Look {
        look(&parse(page), "org/Model", ranks)
    }

    #[test]
    fn vllm_is_read_over_its_engine_cores() {
        let page = r#"
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="573",cache_dtype="auto"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="570",cache_dtype="auto"} 1.0
vllm:num_requests_running{engine="0",model_name="org/Model"} 3.0
vllm:num_requests_running{engine="1",model_name="org/Model"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="org/Model"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="org/Model"} 0.75
"#;
        let look = read(page, 2);
        assert_eq!(look.kv_tokens, Some(16.0 * (573.0 + 570.0)));
        assert_eq!((look.running, look.kv_usage), (Some(7.0), Some(0.5)));
    }

    #[test]
    fn the_size_in_tokens_wins_over_blocks_and_none_is_no_number() {
        let page = r#"vllm:cache_config_info{block_size="16",num_gpu_blocks="10",kv_cache_size_tokens="1000"} 1"#;
        assert_eq!(read(page, 1).kv_tokens, Some(1000.0));
        assert_eq!(read(r#"vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1"#, 1).kv_tokens, None);
        assert_eq!(read("vllm:gpu_cache_usage_perc 0.5", 1).kv_usage, Some(0.5));
    }

    #[test]
    fn a_rank_without_a_series_is_taken_to_be_like_the_others() {
        let page = r#"vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1"#;
        assert_eq!(read(page, 4).kv_tokens, Some(6400.0));
    }

    #[test]
    fn sglang_is_read_over_its_ranks_and_not_over_their_gpus() {
        let mut page = String::new();
        for dp in 0..2 {
            for tp in 0..2 {
                let labels = format!("{{dp_rank=\"{dp}\",tp_rank=\"{tp}\",model_name=\"org/Model\"}}");
                page += &format!("sglang:max_total_num_tokens{labels} 5000\nsglang:num_running_reqs{labels} 6\n");
                page += &format!("sglang:token_usage{labels} 0.{}\n", dp + 1);
            }
        }
        let look = read(&page, 2);
        assert_eq!((look.kv_tokens, look.running), (Some(10_000.0), Some(12.0)));
        assert!((look.kv_usage.unwrap() - 0.15).abs() < 1e-9);
    }

    #[test]
    fn dynamo_is_read_from_frontend_and_worker_together() {
        let frontend = r#"
dynamo_frontend_model_total_kv_blocks{model="org/model"} 16384
dynamo_frontend_model_kv_cache_block_size{model="org/model"} 64
dynamo_frontend_model_max_num_seqs{model="org/model"} 256
dynamo_frontend_model_max_num_seqs{model="other"} 9
dynamo_frontend_inflight_requests{model="org/model"} 5
"#;
        let look = read(frontend, 2);
        assert_eq!(look.kv_tokens, Some(2.0 * 16384.0 * 64.0));
        assert_eq!((look.max_running, look.running, look.kv_usage), (Some(512.0), Some(5.0), None));
        let worker = "dynamo_component_total_blocks{dp_rank=\"0\"} 100\n\
                      dynamo_component_gpu_cache_usage_percent{dp_rank=\"0\"} 0.5\n\
                      dynamo_component_inflight_requests{dynamo_endpoint=\"clear\"} 0\n\
                      dynamo_component_inflight_requests{dynamo_endpoint=\"generate\"} 4\n";
        let look = read(&format!("{frontend}{worker}"), 1);
        assert_eq!((look.kv_tokens, look.running, look.kv_usage), (Some(6400.0), Some(4.0), Some(0.5)));
    }

    #[test]
    fn a_page_without_these_says_nothing() {
        assert_eq!(read("process_cpu_seconds_total 3\n", 1), Look::default());
        assert_eq!(read("", 1), Look::default());
    }
}
