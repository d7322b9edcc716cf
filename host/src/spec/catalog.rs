//! Models and GPUs whose figures come with the program, each with its source.

use std::sync::OnceLock;

use serde::Deserialize;

use super::error::SpecError;
use crate::domain::{Dtype, GpuSku, Model};

/// Models and GPUs whose figures come with the program.
#[derive(Debug)]
pub struct Catalog {
    models: Vec<ModelEntry>,
    gpus: Vec<GpuEntry>,
}

/// Checkpoints of one shape.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    /// Shape, and the name of the first checkpoint.
    model: Model,
    /// Checkpoints of the same shape and format.
    #[serde(default)]
    also: Vec<String>,
    /// The same shape in other formats.
    #[serde(default)]
    variants: Vec<Variant>,
    /// As published, in billions; tests compare it with the shape's.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests read it"))]
    published_parameters: f64,
}

/// A checkpoint in another format.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    name: String,
    #[serde(default)]
    also: Vec<String>,
    weight_dtype: Dtype,
    kv_dtype: Dtype,
    quant_block: Option<u32>,
    source: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GpuEntry {
    gpu: GpuSku,
    /// Other spellings, among them what NVIDIA's GPU feature discovery calls it.
    #[serde(default)]
    also: Vec<String>,
}

impl Catalog {
    /// The catalog that comes with the program.
    ///
    /// # Errors
    /// Only if the embedded files are broken, which a test rules out.
    pub fn embedded() -> Result<&'static Self, SpecError> {
        static CATALOG: OnceLock<Result<Catalog, String>> = OnceLock::new();
        let parsed = CATALOG.get_or_init(|| {
            let models = serde_yaml::from_str(include_str!("../../catalog/models.yaml"))
                .map_err(|error| format!("the embedded models.yaml is broken: {error}"))?;
            let gpus = serde_yaml::from_str(include_str!("../../catalog/gpus.yaml"))
                .map_err(|error| format!("the embedded gpus.yaml is broken: {error}"))?;
            Ok(Catalog { models, gpus })
        });
        parsed.as_ref().map_err(|message| SpecError::config(message.clone()))
    }

    /// All checkpoints.
    pub fn models(&self) -> impl Iterator<Item = Model> {
        self.models.iter().flat_map(ModelEntry::checkpoints)
    }

    /// All GPUs.
    pub fn gpus(&self) -> impl Iterator<Item = &GpuSku> {
        self.gpus.iter().map(|entry| &entry.gpu)
    }
}

impl ModelEntry {
    fn checkpoints(&self) -> impl Iterator<Item = Model> + '_ {
        let named = |name: &String| Model { name: name.clone(), ..self.model.clone() };
        let same = std::iter::once(&self.model.name).chain(&self.also).map(named);
        let others = self.variants.iter().flat_map(move |variant| {
            std::iter::once(&variant.name).chain(&variant.also).map(move |name| Model {
                name: name.clone(),
                weight_dtype: variant.weight_dtype,
                kv_dtype: variant.kv_dtype,
                quant_block: variant.quant_block,
                source: format!("{}; shape: {}", variant.source, self.model.source),
                ..self.model.clone()
            })
        });
        same.chain(others)
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The model of that name. Letter case does not matter; nor does the organisation before the `/`, as long as only one
/// model has the rest of the name.
///
/// # Errors
/// If none or more than one fits: lists the nearest names and says what to give instead.
pub fn find_model(name: &str) -> Result<Model, SpecError> {
    let catalog = Catalog::embedded()?;
    if let Some(model) = catalog.models().find(|model| model.name.eq_ignore_ascii_case(name)) {
        return Ok(model);
    }
    let same: Vec<Model> =
        catalog.models().filter(|model| last_part(&model.name).eq_ignore_ascii_case(last_part(name))).collect();
    match same.as_slice() {
        [model] => Ok(model.clone()),
        [] => Err(SpecError::config(format!("the model `{name}` is not in the catalog"))
            .with_hint(unknown_hint(name, catalog))),
        several => Err(SpecError::config(format!("`{name}` may be one of several models")).with_hint(format!(
            "write one of {} in full",
            several.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ")
        ))),
    }
}

fn unknown_hint(name: &str, catalog: &Catalog) -> String {
    let wanted = last_part(name).to_ascii_lowercase();
    let distance = |model: &Model| strsim::levenshtein(&wanted, &last_part(&model.name).to_ascii_lowercase());
    let mut near: Vec<(usize, String)> = catalog.models().map(|model| (distance(&model), model.name)).collect();
    near.sort();
    let near: Vec<String> =
        near.into_iter().filter(|(distance, _)| *distance <= wanted.len() / 2).take(3).map(|(_, name)| name).collect();
    let instead = "give its Hugging Face config.json with `--model-config PATH`, or its figures in `profiler.model`";
    if near.is_empty() { instead.to_owned() } else { format!("near names: {}; else {instead}", near.join(", ")) }
}

/// The GPU of that name. Letter case, `-` and `_` do not matter.
///
/// # Errors
/// If none fits: lists the known ones and says what to give instead.
pub fn find_gpu(name: &str) -> Result<GpuSku, SpecError> {
    let plain = |s: &str| s.to_ascii_lowercase().replace(['-', ' '], "_");
    let catalog = Catalog::embedded()?;
    let wanted = plain(name);
    let entry = catalog
        .gpus
        .iter()
        .find(|entry| plain(&entry.gpu.name) == wanted || entry.also.iter().any(|also| plain(also) == wanted));
    entry.map(|entry| entry.gpu.clone()).ok_or_else(|| {
        let known: Vec<&str> = catalog.gpus().map(|gpu| gpu.name.as_str()).collect();
        SpecError::config(format!("the GPU `{name}` is not in the catalog"))
            .with_hint(format!("known: {}; else give its figures in `profiler.gpu`", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_published_number_of_parameters() {
        for entry in &Catalog::embedded().unwrap().models {
            let ours = entry.model.parameters() / 1e9;
            let off = (ours / entry.published_parameters - 1.0).abs();
            assert!(off < 0.02, "{}: {ours:.2} against {}", entry.model.name, entry.published_parameters);
        }
    }

    #[test]
    fn names_are_unique_and_every_entry_has_a_source() {
        let catalog = Catalog::embedded().unwrap();
        let mut names: Vec<String> = catalog.models().map(|model| model.name.to_ascii_lowercase()).collect();
        names.extend(
            catalog
                .gpus
                .iter()
                .flat_map(|entry| entry.also.iter().chain([&entry.gpu.name]).map(|name| name.to_ascii_lowercase())),
        );
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(catalog.models().all(|model| model.source.len() > 10));
        assert!(catalog.gpus().all(|gpu| gpu.source.len() > 10));
    }

    #[test]
    fn every_entry_passes_the_checks_for_explicit_figures() {
        let catalog = Catalog::embedded().unwrap();
        for model in catalog.models() {
            assert_eq!(crate::spec::check::model_problem(&model), None, "{}", model.name);
        }
        for gpu in catalog.gpus() {
            assert_eq!(crate::spec::check::gpu_problem(gpu), None, "{}", gpu.name);
        }
    }

    #[test]
    fn eight_bit_is_twice_as_fast_as_sixteen_where_a_gpu_has_it() {
        // True of every generation since Hopper and Ada; catches figures with sparsity counted in.
        for gpu in Catalog::embedded().unwrap().gpus() {
            if let Some(fp8) = gpu.fp8_flops {
                let ratio = fp8 / gpu.bf16_flops;
                assert!((1.98..2.05).contains(&ratio), "{}: {ratio}", gpu.name);
            }
            if let (Some(fp4), Some(fp8)) = (gpu.fp4_flops, gpu.fp8_flops) {
                assert!((fp4 / fp8 - 2.0).abs() < 0.01, "{}", gpu.name);
            }
        }
    }

    #[test]
    fn case_and_organisation_do_not_matter_while_unambiguous() {
        assert_eq!(find_model("QWEN/qwen3-8b").unwrap().name, "Qwen/Qwen3-8B");
        assert_eq!(find_model("qwen3-8b").unwrap().name, "Qwen/Qwen3-8B");
        assert_eq!(find_model("unsloth/Qwen3-8B").unwrap().name, "Qwen/Qwen3-8B");
        let error = find_model("Meta-Llama-3.1-8B-Instruct-FP8").unwrap_err();
        assert!(error.to_string().contains("several"), "{error}");
        assert!(error.hint().unwrap().contains("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8"));
    }

    #[test]
    fn an_unknown_model_names_its_neighbours_and_the_way_out() {
        let error = find_model("Qwen/Qwen3-9B").unwrap_err();
        let hint = error.hint().unwrap();
        assert!(hint.contains("Qwen/Qwen3-8B") && hint.contains("--model-config"), "{hint}");
        let hint = find_model("acme/quite-another-thing").unwrap_err().hint().unwrap().to_owned();
        assert!(hint.starts_with("give its"), "{hint}");
    }

    #[test]
    fn gpus_are_found_by_any_spelling() {
        assert_eq!(find_gpu("H200-SXM").unwrap().name, "h200_sxm");
        assert_eq!(find_gpu("NVIDIA-H100-80GB-HBM3").unwrap().name, "h100_sxm");
        assert!(find_gpu("a40").unwrap_err().hint().unwrap().contains("profiler.gpu"));
    }
}
