//! The figures of a model from its Hugging Face `config.json`.

use std::path::Path;

use super::check::model_problem;
use super::document::{Node, Text, Value};
use super::error::SpecError;
use super::source::read_file;
use crate::domain::model::LatentAttention;
use crate::domain::{Dtype, Model, MoeShape};

/// Reads a `config.json`, or the one in a folder, and `hf_quant_config.json` beside it if there is one.
///
/// Knows decoder-only transformers with (grouped) multi-head or latent attention and dense or expert feed-forward blocks,
/// as Llama, Qwen, Mistral, Mixtral, DeepSeek and gpt-oss are; of a multimodal model it takes the language part. Only what
/// every such configuration leaves out by custom is filled in: heads not grouped, `head_dim` = hidden / heads.
///
/// # Errors
/// If the file cannot be read, or an essential figure is missing or senseless: names the key.
pub fn read_model_config(path: &Path, name: &str) -> Result<Model, SpecError> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let text = Text { name: path.display().to_string(), text: read_file(&path)? };
    let quantisation = path.parent().map(|folder| folder.join("hf_quant_config.json")).filter(|file| file.is_file());
    let quantisation = match quantisation {
        Some(file) => Some(Text { name: file.display().to_string(), text: read_file(&file)? }),
        None => None,
    };
    model_from(&text, quantisation.as_ref(), name)
}

fn model_from(text: &Text, quantisation: Option<&Text>, name: &str) -> Result<Model, SpecError> {
    let root = text.single()?;
    let root = Keys { node: &root, text };
    // Multimodal models keep the language model's figures apart.
    let keys = match root.child("text_config") {
        Some(inner) if root.find(&["hidden_size"]).is_none() => inner,
        _ => root,
    };
    let architecture = architecture(&root)?;
    let layers = keys.whole(&["num_hidden_layers"])?;
    let hidden = keys.whole(&["hidden_size"])?;
    let heads = keys.whole(&["num_attention_heads"])?;
    let head_dim = match keys.optional(&["head_dim"])? {
        Some(dim) => dim,
        None if heads > 0 && hidden % heads == 0 => hidden / heads,
        None => return Err(keys.missing(&["head_dim"], "and hidden_size is no multiple of num_attention_heads")),
    };
    let moe = moe(&keys, layers)?;
    let latent_attention = match keys.optional(&["kv_lora_rank"])? {
        None | Some(0) => None,
        Some(kv_lora_rank) => Some(LatentAttention {
            kv_lora_rank,
            q_lora_rank: keys.optional(&["q_lora_rank"])?.unwrap_or(0),
            rope_head_dim: keys.whole(&["qk_rope_head_dim"])?,
            nope_head_dim: keys.whole(&["qk_nope_head_dim"])?,
            v_head_dim: keys.whole(&["v_head_dim"])?,
        }),
    };
    let format = match quantisation {
        Some(text) => {
            let root = text.single()?;
            let keys = Keys { node: &root, text };
            format_of(&keys.child("quantization").unwrap_or(keys))?
        }
        None => match root.child("quantization_config").or_else(|| keys.child("quantization_config")) {
            Some(config) => format_of(&config)?,
            None => Format { weights: unquantised(&keys)?, kv: Dtype::Bf16, block: None },
        },
    };
    let model = Model {
        name: name.to_owned(),
        layers,
        hidden,
        heads,
        kv_heads: keys.optional(&["num_key_value_heads"])?.unwrap_or(heads),
        head_dim: if latent_attention.is_some() { keys.whole(&["qk_nope_head_dim"])? } else { head_dim },
        intermediate: match &moe {
            Some(moe) => keys.optional(&["intermediate_size"])?.unwrap_or(moe.expert_intermediate),
            None => keys.whole(&["intermediate_size"])?,
        },
        vocabulary: keys.whole(&["vocab_size"])?,
        // Left out where it is the architecture's default, which is true for Gemma alone.
        tied_embeddings: match keys.boolean("tie_word_embeddings")? {
            Some(tied) => tied,
            None => root.boolean("tie_word_embeddings")?.unwrap_or_else(|| architecture.starts_with("Gemma")),
        },
        max_context_tokens: keys.whole(&["max_position_embeddings", "max_sequence_length", "seq_length"])?,
        weight_dtype: format.weights,
        kv_dtype: format.kv,
        quant_block: format.block,
        moe,
        latent_attention,
        source: text.name.clone(),
        architecture,
    };
    match model_problem(&model) {
        None => Ok(model),
        Some(problem) => Err(SpecError::config(format!("{}: {problem}", text.name))),
    }
}

fn architecture(root: &Keys<'_>) -> Result<String, SpecError> {
    let first = match root.node.get("architectures").map(|node| &node.value) {
        Some(Value::List(items)) => items.first().and_then(Node::text),
        _ => None,
    };
    first.map(str::to_owned).ok_or_else(|| root.missing(&["architectures"], ""))
}

fn moe(keys: &Keys<'_>, layers: u32) -> Result<Option<MoeShape>, SpecError> {
    let experts = keys.optional(&["num_experts", "num_local_experts", "n_routed_experts"])?.unwrap_or(0);
    if experts < 2 {
        return Ok(None);
    }
    let expert_intermediate = keys.whole(&["moe_intermediate_size", "intermediate_size"])?;
    let shared_experts = match keys.optional(&["n_shared_experts", "num_shared_experts"])? {
        Some(shared) => shared,
        // One wide shared expert counts as several of the usual size (Qwen2-MoE).
        None => keys
            .optional(&["shared_expert_intermediate_size"])?
            .map_or(0, |wide| if expert_intermediate == 0 { 0 } else { wide.div_ceil(expert_intermediate) }),
    };
    // Only the number of dense layers matters here, not which ones they are.
    let dense_layers = match keys.optional(&["first_k_dense_replace"])? {
        Some(first) => first,
        None => {
            let step = keys.optional(&["decoder_sparse_step"])?.unwrap_or(1).max(1);
            let named = match keys.node.get("mlp_only_layers").map(|node| &node.value) {
                Some(Value::List(items)) => u32::try_from(items.len()).unwrap_or(u32::MAX),
                _ => 0,
            };
            (layers - layers / step).saturating_add(named).min(layers)
        }
    };
    Ok(Some(MoeShape {
        experts,
        experts_per_token: keys.whole(&["num_experts_per_tok", "experts_per_token", "moe_topk"])?,
        expert_intermediate,
        shared_experts,
        dense_layers,
    }))
}

struct Format {
    weights: Dtype,
    kv: Dtype,
    block: Option<u32>,
}

fn unquantised(keys: &Keys<'_>) -> Result<Dtype, SpecError> {
    let dtype = keys.node.get("torch_dtype").or_else(|| keys.node.get("dtype"));
    match dtype.and_then(Node::text) {
        // Engines run 32-bit checkpoints in 16 bits.
        None | Some("bfloat16" | "float16" | "half" | "float32" | "float" | "auto") => Ok(Dtype::Bf16),
        Some("float8_e4m3fn" | "float8_e5m2") => Ok(Dtype::Fp8),
        Some(other) => Err(SpecError::config(format!("{}: the torch_dtype `{other}` is not known", keys.text.name))
            .at(dtype.and_then(|node| keys.text.place(node.at)))
            .with_hint("known: bfloat16, float16, float32, float8_e4m3fn")),
    }
}

/// What `quantization_config`, or the `quantization` of a ModelOpt checkpoint, says.
fn format_of(keys: &Keys<'_>) -> Result<Format, SpecError> {
    let method = keys.name(&["quant_method"]).unwrap_or_default();
    let algorithm = keys.name(&["quant_algo"]).unwrap_or_default();
    // compressed-tensors: a group of layers that share a format.
    let group = keys.child("config_groups").and_then(|groups| match &groups.node.value {
        Value::Map(entries) => entries.first().map(|entry| Keys { node: &entry.node, text: groups.text }),
        _ => None,
    });
    let weights_of_group = group.as_ref().and_then(|group| group.child("weights"));
    let bits = match &weights_of_group {
        Some(weights) => weights.optional(&["num_bits"])?,
        None => keys.optional(&["bits", "w_bit"])?,
    };
    let floating = weights_of_group.as_ref().and_then(|weights| weights.name(&["type"])).as_deref() != Some("int");
    let yes = |key: &str| keys.boolean(key).map(|value| value == Some(true));

    let weights = match (method.as_str(), algorithm.as_str()) {
        (_, "fp8" | "fp8_pb_wo" | "fp8_per_channel_per_token" | "fp8_block_scales") => Dtype::Fp8,
        (_, "nvfp4" | "mxfp4" | "w4a16_awq" | "w4a8_awq" | "w4a16" | "w4a8_nvfp4_fp8") => Dtype::Fp4,
        (_, "int8_sq" | "w8a16" | "w8a8_sq_per_channel") => Dtype::Int8,
        ("fp8" | "fbgemm_fp8", _) => Dtype::Fp8,
        ("mxfp4", _) => Dtype::Fp4,
        ("bitsandbytes", _) if yes("load_in_4bit")? => Dtype::Fp4,
        ("bitsandbytes", _) if yes("load_in_8bit")? => Dtype::Int8,
        ("awq" | "gptq" | "auto-round" | "compressed-tensors" | "modelopt" | "quark", _) => match (bits, floating) {
            // Four bits and a scale per group, integer or not, take the same room.
            (Some(4), _) => Dtype::Fp4,
            (Some(8), true) if weights_of_group.is_some() => Dtype::Fp8,
            (Some(8), _) => Dtype::Int8,
            _ => return Err(keys.unknown_format(&method, &algorithm)),
        },
        _ => return Err(keys.unknown_format(&method, &algorithm)),
    };
    let cache = keys.name(&["kv_cache_quant_algo"]).or_else(|| keys.name(&["kv_cache_scheme"]));
    let cache_bits = keys.child("kv_cache_scheme").map(|scheme| scheme.optional(&["num_bits"])).transpose()?.flatten();
    let kv = if cache.as_deref() == Some("fp8") || cache_bits == Some(8) { Dtype::Fp8 } else { Dtype::Bf16 };
    let group_size = match &weights_of_group {
        Some(weights) => weights.largest(&["block_structure", "group_size"])?,
        None => None,
    };
    let block = keys.largest(&["weight_block_size", "block_size", "group_size", "q_group_size"])?.or(group_size);
    Ok(Format { weights, kv, block })
}

/// A map of the configuration.
#[derive(Clone, Copy)]
struct Keys<'a> {
    node: &'a Node,
    text: &'a Text,
}

impl<'a> Keys<'a> {
    fn child(&self, key: &str) -> Option<Keys<'a>> {
        let node = self.node.get(key)?;
        matches!(node.value, Value::Map(_)).then_some(Keys { node, text: self.text })
    }

    /// The first of `keys` that is there and not null.
    fn find<'k>(&self, keys: &[&'k str]) -> Option<(&'k str, &'a Node)> {
        keys.iter().find_map(|key| self.node.get(key).filter(|node| !node.is_null()).map(|node| (*key, node)))
    }

    fn optional(&self, keys: &[&str]) -> Result<Option<u32>, SpecError> {
        let Some((key, node)) = self.find(keys) else { return Ok(None) };
        match node.value {
            Value::Int(n) => u32::try_from(n).ok(),
            _ => None,
        }
        .map(Some)
        .ok_or_else(|| {
            let message = format!("{}: `{key}` must be a whole number, not {}", self.text.name, node.describe());
            SpecError::config(message).at(self.text.place(node.at))
        })
    }

    fn whole(&self, keys: &[&str]) -> Result<u32, SpecError> {
        self.optional(keys)?.ok_or_else(|| self.missing(keys, ""))
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, SpecError> {
        match self.find(&[key]) {
            None => Ok(None),
            Some((_, Node { value: Value::Bool(value), .. })) => Ok(Some(*value)),
            Some((_, node)) => {
                let message = format!("{}: `{key}` must be true or false, not {}", self.text.name, node.describe());
                Err(SpecError::config(message).at(self.text.place(node.at)))
            }
        }
    }

    /// A text in lower case.
    fn name(&self, keys: &[&str]) -> Option<String> {
        self.find(keys).and_then(|(_, node)| node.text()).map(str::to_ascii_lowercase)
    }

    /// The largest positive number under the first of `keys`, which may be a list.
    fn largest(&self, keys: &[&str]) -> Result<Option<u32>, SpecError> {
        let Some((key, node)) = self.find(keys) else { return Ok(None) };
        let number = |node: &Node| match node.value {
            // -1 stands for "no groups".
            Value::Int(-1) => Some(0),
            Value::Int(n) => u32::try_from(n).ok(),
            _ => None,
        };
        let largest = match &node.value {
            Value::List(items) => {
                items.iter().map(number).collect::<Option<Vec<u32>>>().and_then(|n| n.into_iter().max())
            }
            _ => number(node),
        };
        largest.map(|n| (n > 0).then_some(n)).ok_or_else(|| {
            let message = format!(
                "{}: `{key}` must be a whole number or a list of them, not {}",
                self.text.name,
                node.describe()
            );
            SpecError::config(message).at(self.text.place(node.at))
        })
    }

    fn missing(&self, keys: &[&str], why: &str) -> SpecError {
        let names = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" or ");
        let why = if why.is_empty() { String::new() } else { format!(", {why}") };
        SpecError::config(format!("{}: {names} is missing{why}", self.text.name))
            .with_hint("a Hugging Face config.json of a decoder-only model is wanted")
    }

    fn unknown_format(&self, method: &str, algorithm: &str) -> SpecError {
        let what = [method, algorithm].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join(" ");
        let what = if what.is_empty() { "without a quant_method".to_owned() } else { format!("`{what}`") };
        SpecError::config(format!("{}: the quantisation {what} is not known", self.text.name))
            .at(self.text.place(self.node.at))
            .with_hint("give the model's figures in `profiler.model`")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn with(base: &Json, changes: Json) -> Json {
        let mut out = base.clone();
        for (key, value) in changes.as_object().unwrap() {
            if value.is_null() {
                out.as_object_mut().unwrap().remove(key);
            } else {
                out[key] = value.clone();
            }
        }
        out
    }

    fn read(config: &Json) -> Result<Model, SpecError> {
        let text = Text { name: "config.json".into(), text: serde_json::to_string_pretty(config).unwrap() };
        model_from(&text, None, "acme/test")
    }

    /// Of Llama-3.1-8B, shortened to what matters.
    fn llama() -> Json {
        json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
            "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 128256,
            "rope_scaling": { "factor": 8.0, "rope_type": "llama3" }
        })
    }

    /// Asserts that a configuration gives what the catalog says of the model.
    fn same_as_catalog(config: &Json, name: &str) {
        let mut read = read(config).unwrap();
        let catalog = super::super::find_model(name).unwrap();
        read.name = catalog.name.clone();
        read.source = catalog.source.clone();
        assert_eq!(read, catalog);
    }

    #[test]
    fn a_dense_model_is_what_the_catalog_says() {
        same_as_catalog(&llama(), "meta-llama/Llama-3.1-8B-Instruct");
    }

    #[test]
    fn a_moe_model_is_what_the_catalog_says() {
        let qwen = json!({
            "architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 4096,
            "intermediate_size": 12288, "max_position_embeddings": 40960, "mlp_only_layers": [],
            "moe_intermediate_size": 1536, "num_attention_heads": 64, "num_experts": 128, "num_experts_per_tok": 8,
            "num_hidden_layers": 94, "num_key_value_heads": 4, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
            "vocab_size": 151936, "sliding_window": null,
            "quantization_config": { "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128] }
        });
        same_as_catalog(&qwen, "Qwen/Qwen3-235B-A22B-FP8");
        let mixtral = json!({
            "architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "num_attention_heads": 32, "num_experts_per_tok": 2,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "vocab_size": 32000
        });
        same_as_catalog(&mixtral, "mistralai/Mixtral-8x7B-v0.1");
        let gpt_oss = json!({
            "architectures": ["GptOssForCausalLM"], "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880,
            "max_position_embeddings": 131072, "num_attention_heads": 64, "num_experts_per_tok": 4,
            "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32, "tie_word_embeddings": false,
            "vocab_size": 201088,
            "quantization_config": { "quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"] }
        });
        same_as_catalog(&gpt_oss, "openai/gpt-oss-20b");
    }

    #[test]
    fn latent_attention_is_what_the_catalog_says() {
        let deepseek = json!({
            "architectures": ["DeepseekV3ForCausalLM"], "first_k_dense_replace": 3, "hidden_size": 7168,
            "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
            "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_routed_experts": 256, "n_shared_experts": 1,
            "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
            "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 129280,
            "quantization_config": { "quant_method": "fp8", "weight_block_size": [128, 128] }
        });
        same_as_catalog(&deepseek, "deepseek-ai/DeepSeek-V3");
    }

    #[test]
    fn formats_of_weights_and_cache() {
        let format = |config: Json| {
            let model = read(&with(&llama(), json!({ "quantization_config": config }))).unwrap();
            (model.weight_dtype, model.kv_dtype, model.quant_block)
        };
        let (fp4, fp8, int8, bf16) = (Dtype::Fp4, Dtype::Fp8, Dtype::Int8, Dtype::Bf16);
        assert_eq!(format(json!({"quant_method": "gptq", "bits": 4, "group_size": 128})), (fp4, bf16, Some(128)));
        assert_eq!(format(json!({"quant_method": "awq", "bits": 4, "group_size": 64})), (fp4, bf16, Some(64)));
        assert_eq!(format(json!({"quant_method": "gptq", "bits": 8, "group_size": -1})), (int8, bf16, None));
        assert_eq!(format(json!({"quant_method": "fbgemm_fp8"})), (fp8, bf16, None));
        assert_eq!(
            format(json!({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": "FP8"})),
            (fp8, fp8, None)
        );
        let compressed = |weights: Json| json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}});
        assert_eq!(format(compressed(json!({"num_bits": 8, "type": "float", "group_size": null}))), (fp8, bf16, None));
        assert_eq!(format(compressed(json!({"num_bits": 8, "type": "int"}))), (int8, bf16, None));
        assert_eq!(
            format(compressed(json!({"num_bits": 4, "type": "int", "group_size": 128}))),
            (fp4, bf16, Some(128))
        );
    }

    #[test]
    fn modelopt_keeps_its_formats_in_a_file_beside() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), llama().to_string()).unwrap();
        let quantisation = json!({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}});
        std::fs::write(folder.path().join("hf_quant_config.json"), quantisation.to_string()).unwrap();
        let model = read_model_config(folder.path(), "acme/x").unwrap();
        assert_eq!((model.weight_dtype, model.kv_dtype), (Dtype::Fp8, Dtype::Fp8));
        assert_eq!(model.name, "acme/x");
    }

    #[test]
    fn every_essential_figure_is_named_when_it_is_missing() {
        for key in [
            "architectures",
            "hidden_size",
            "intermediate_size",
            "max_position_embeddings",
            "num_attention_heads",
            "num_hidden_layers",
            "vocab_size",
        ] {
            let error = read(&with(&llama(), json!({ key: null }))).unwrap_err();
            assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        }
    }

    #[test]
    fn senseless_figures_are_errors() {
        for (key, value) in [
            ("num_hidden_layers", json!(0)),
            ("num_hidden_layers", json!(-1)),
            ("num_key_value_heads", json!(3)),
            ("num_key_value_heads", json!(0)),
            ("vocab_size", json!("many")),
            ("hidden_size", json!(4_000_000_000_u32)),
            ("torch_dtype", json!("ternary")),
            ("quantization_config", json!({"quant_method": "magic"})),
            ("num_attention_heads", json!(0)),
        ] {
            assert!(read(&with(&llama(), json!({ key: value }))).is_err(), "{key}: {value}");
        }
    }

    #[test]
    fn the_language_part_of_a_multimodal_model_counts() {
        let mut inner = llama();
        inner.as_object_mut().unwrap().remove("architectures");
        let outer = json!({ "architectures": ["SomethingForConditionalGeneration"], "text_config": inner });
        assert_eq!(read(&outer).unwrap().layers, 32);
    }
}
