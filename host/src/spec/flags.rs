//! Flags that override the file.

use std::path::PathBuf;

use super::engines::EngineFlags;
use super::run_spec::DgdApi;
use super::v1beta1::BackendChoice;

/// Flags that override the file; each stands for the field of the same name.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Overrides of the file")]
pub struct Flags {
    /// Whether engines of one role only are asked for, so that one GPU is enough. Not a flag of its own: `--role` says it.
    #[arg(skip)]
    pub one_role: bool,
    /// Hugging Face id of the model
    #[arg(long)]
    pub model: Option<String>,
    /// Hugging Face config.json of the model, or a folder that holds one
    #[arg(long, value_name = "PATH")]
    pub model_config: Option<PathBuf>,
    /// Inference engine
    #[arg(long, value_enum)]
    pub backend: Option<BackendChoice>,
    /// Input length in tokens
    #[arg(long, value_name = "TOKENS")]
    pub isl: Option<u32>,
    /// Output length in tokens
    #[arg(long, value_name = "TOKENS")]
    pub osl: Option<u32>,
    /// Target for the time to first token
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    pub ttft: Option<f64>,
    /// Target for the inter-token latency
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    pub itl: Option<f64>,
    /// Target for the whole answer, instead of --ttft and --itl
    #[arg(long, value_name = "MS", allow_negative_numbers = true, conflicts_with_all = ["ttft", "itl"])]
    pub e2e_latency: Option<f64>,
    /// Quantile that must meet the targets, between 0 and 1; without it the mean
    #[arg(long, value_name = "Q", allow_negative_numbers = true)]
    pub sla_quantile: Option<f64>,
    /// Requests per second that the deployment must serve
    #[arg(long, value_name = "PER_SECOND", allow_negative_numbers = true)]
    pub request_rate: Option<f64>,
    /// Requests in flight that the deployment must serve
    #[arg(long, value_name = "REQUESTS", conflicts_with = "request_rate", allow_negative_numbers = true)]
    pub concurrency: Option<f64>,
    /// Kind of GPU, for example h200_sxm
    #[arg(long, value_name = "SKU")]
    pub gpu_sku: Option<String>,
    /// GPUs in one node
    #[arg(long, value_name = "N")]
    pub num_gpus_per_node: Option<u32>,
    /// GPU budget over all nodes
    #[arg(long, value_name = "N")]
    pub total_gpus: Option<u32>,
    /// Fewest GPUs of one engine
    #[arg(long, value_name = "N")]
    pub min_num_gpus_per_engine: Option<u32>,
    /// Most GPUs of one engine
    #[arg(long, value_name = "N")]
    pub max_num_gpus_per_engine: Option<u32>,
    /// Longest sequence that the deployment admits
    #[arg(long, value_name = "TOKENS")]
    pub max_context_length: Option<u32>,
    /// Shortest input of the curves
    #[arg(long, value_name = "TOKENS")]
    pub min_isl: Option<u32>,
    /// Longest input of the curves
    #[arg(long, value_name = "TOKENS")]
    pub max_isl: Option<u32>,
    /// Sweep strategy: name from `plugin list` or path of a .wasm file
    #[arg(long, value_name = "PLUGIN")]
    pub sweep: Option<String>,
    /// Setting of the sweep strategy
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    pub sweep_setting: Vec<(String, String)>,
    /// Folder that the sweep strategy may read, and the name under which it asks for it
    #[arg(long, value_name = "NAME=DIR", value_parser = key_value)]
    pub sweep_grant: Vec<(String, String)>,
    /// Selection policy: name from `plugin list` or path of a .wasm file
    #[arg(long, value_name = "PLUGIN")]
    pub selection: Option<String>,
    /// Setting of the selection policy
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    pub selection_setting: Vec<(String, String)>,
    /// Folder that the selection policy may read, and the name under which it asks for it
    #[arg(long, value_name = "NAME=DIR", value_parser = key_value)]
    pub selection_grant: Vec<(String, String)>,
    /// Planner model: name from `plugin list` or path of a .wasm file
    #[arg(long, value_name = "PLUGIN")]
    pub planner: Option<String>,
    /// Setting of the planner model
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    pub planner_setting: Vec<(String, String)>,
    /// Folder that the planner model may read, and the name under which it asks for it
    #[arg(long, value_name = "NAME=DIR", value_parser = key_value)]
    pub planner_grant: Vec<(String, String)>,
    /// CSV file of latencies that are known beforehand: role, mapping, latency_ms; a run's measurements.csv will do
    #[arg(long, value_name = "FILE")]
    pub priors: Option<PathBuf>,
    /// End with the best answer so far before engines have held this many GPUs times hours
    #[arg(long, value_name = "HOURS", allow_negative_numbers = true)]
    pub max_gpu_hours: Option<f64>,
    /// End with the best answer so far within this time, such as 40m, 1.5h or 90s
    #[arg(long, value_name = "TIME")]
    pub max_wall: Option<String>,
    /// End with the best answer so far before this much money is spent; needs --gpu-hour-price
    #[arg(long, value_name = "MONEY", allow_negative_numbers = true)]
    pub max_cost: Option<f64>,
    /// Price of one GPU for one hour, in the currency of --max-cost
    #[arg(long, value_name = "MONEY", allow_negative_numbers = true)]
    pub gpu_hour_price: Option<f64>,
    /// Stop when a plugin fails, instead of falling back to the bundled one
    #[arg(long)]
    pub strict_plugins: bool,
    /// Seed of the simulated cluster
    #[arg(long)]
    pub seed: Option<u32>,
    /// Image of frontend and planner
    #[arg(long)]
    pub image: Option<String>,
    /// Name of the request; the deployment is called NAME-dgd
    #[arg(long)]
    pub name: Option<String>,
    /// Namespace of the deployment
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Form of the generated DynamoGraphDeployment
    #[arg(long, value_enum)]
    pub dgd_api: Option<DgdApi>,
    /// Deploy the result
    #[arg(long, conflicts_with = "no_auto_apply")]
    pub auto_apply: bool,
    /// Do not deploy the result
    #[arg(long)]
    pub no_auto_apply: bool,
    /// Coefficient of variation of a simulated forward pass
    #[arg(long, value_name = "CV", allow_negative_numbers = true)]
    pub noise: Option<f64>,
    /// How far a candidate's simulated speed may lie from the roofline, as a fraction
    #[arg(long, value_name = "FRACTION", allow_negative_numbers = true)]
    pub model_error: Option<f64>,
    /// Probability that a simulated launch fails for good
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub fault_rate: Option<f64>,
    /// Probability that a simulated engine's first launch fails of something that passes
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub passing_fault_rate: Option<f64>,
    /// Of real engines.
    #[command(flatten)]
    pub engines: EngineFlags,
}

/// `NAME=VALUE`, the form of every setting on the command line.
///
/// # Errors
/// If it is not of that form.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("want NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn settings_may_hold_an_equals_sign_and_repeat() {
        let cli = Cli::try_parse_from(["x", "--sweep-setting", "a=1=2", "--sweep-setting", "b="]).unwrap();
        assert_eq!(cli.flags.sweep_setting, [("a".into(), "1=2".into()), ("b".into(), String::new())]);
        assert!(Cli::try_parse_from(["x", "--sweep-setting", "a"]).is_err());
    }

    #[test]
    fn alternatives_exclude_each_other() {
        assert!(Cli::try_parse_from(["x", "--e2e-latency", "5", "--ttft", "1"]).is_err());
        assert!(Cli::try_parse_from(["x", "--concurrency", "5", "--request-rate", "1"]).is_err());
        assert!(Cli::try_parse_from(["x", "--auto-apply", "--no-auto-apply"]).is_err());
    }

    #[test]
    fn a_negative_target_is_a_value_and_not_a_flag() {
        assert_eq!(Cli::try_parse_from(["x", "--ttft", "-5"]).unwrap().flags.ttft, Some(-5.0));
    }
}
