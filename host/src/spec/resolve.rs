//! Flags, file, defaults and catalog together: the job, and where each of its values came from.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::catalog::{find_gpu, find_model};
use super::check::{MAX_GPUS, Range, gpu_problem, model_problem};
use super::defaults::{ByVersion, Defaults};
use super::document::Text;
use super::engines::{EnginesSpec, LocalSpec};
use super::error::{ErrorKind, Place, SpecError};
use super::flags::Flags;
use super::model_config::read_model_config;
use super::names::{LONGEST_COMPONENT, MAX_POD_NAME, label_problem};
use super::priors;
use super::profiler::{Digest, Plugin, Setting};
use super::request::{Given, Request, Version, parse, parse_tolerant};
use super::run_spec::*;
use super::source::Source;
use super::v1beta1::{BackendChoice, SearchStrategy};
use crate::domain::prior_table::PriorTable;
use crate::domain::search_space::Limits;
use crate::domain::{Backend, Demand, GpuSku, Hardware, Job, Model, Sla, Workload};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// `defaults.yaml`.
    Default,
    /// The DGDR.
    File {
        /// Counted from 1.
        line: usize,
    },
    /// The command line.
    Flag(String),
    /// The catalog of models and GPUs, which names this source.
    Catalog(String),
    /// Worked out from other values, in these words.
    Derived(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { line } => write!(f, "line {line}"),
            Origin::Flag(flag) => f.write_str(flag),
            Origin::Catalog(source) => write!(f, "catalog: {source}"),
            Origin::Derived(how) => write!(f, "derived: {how}"),
        }
    }
}

/// One resolved value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OriginEntry {
    /// As the v1beta1 DGDR names it, without `spec.`.
    pub path: String,
    /// The value.
    pub value: serde_json::Value,
    /// Where it came from.
    pub origin: Origin,
}

/// The job and how it came about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resolved {
    /// The job.
    pub spec: RunSpec,
    /// Where its values came from, in the order of `config show`.
    pub origins: Vec<OriginEntry>,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
}

/// Reads a DGDR, lets the flags override it, fills in defaults and checks everything.
///
/// # Errors
/// The first thing that is wrong, with its place and what to do about it.
pub fn load(source: &Source, flags: &Flags) -> Result<Resolved, SpecError> {
    load_on(source, flags, None)
}

/// As [`load`], for a cluster that was found to have this hardware.
///
/// # Errors
/// As [`load`].
pub fn load_on(source: &Source, flags: &Flags, discovered: Option<&Discovered>) -> Result<Resolved, SpecError> {
    let request = read_request(source)?;
    let defaults = Defaults::load()?;
    let warnings = discovered.map(|found| found.notes.clone()).unwrap_or_default();
    Resolver { flags, source, defaults: &defaults, discovered, origins: Vec::new(), warnings }.resolve(request)
}

fn read_request(source: &Source) -> Result<Request, SpecError> {
    let text = Text { name: source.name(), text: source.read()? };
    match source {
        Source::Cluster { .. } => parse_tolerant(&text),
        _ => parse(&text),
    }
}

/// What file and flags say before defaults come in; for whoever has to find something out first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peek {
    /// Kind of GPU.
    pub gpu_sku: Option<String>,
    /// Whether kind, GPUs per node and GPU budget are all given.
    pub hardware_complete: bool,
    /// Whether Dynamo would only simulate: its `searchStrategy` is `rapid`, or not given.
    pub rapid: bool,
}

/// What file and flags say. Standard input is read for good: give it [`Source::kept`].
///
/// # Errors
/// If the file cannot be read.
pub fn peek(source: &Source, flags: &Flags) -> Result<Peek, SpecError> {
    let request = read_request(source)?;
    let figures = request.gpu_figures.is_some();
    let gpu_sku = flags.gpu_sku.clone().or(request.gpu_sku.map(|given| given.value));
    let per_node = flags.num_gpus_per_node.is_some() || request.gpus_per_node.is_some();
    let total = flags.total_gpus.is_some() || request.total_gpus.is_some();
    let hardware_complete = (figures || gpu_sku.is_some()) && per_node && total;
    // v1alpha1 knows no strategy, and its profiler measures.
    let rapid = request.version == Version::V1beta1 && request.search_strategy != Some(SearchStrategy::Thorough);
    Ok(Peek { gpu_sku, hardware_complete, rapid })
}

/// A value with its origin, so that a check can blame the right one.
#[derive(Debug, Clone)]
struct Field<T> {
    value: T,
    origin: Origin,
    /// As messages call it: path or flag.
    name: String,
    at: Option<Place>,
}

impl<T> Field<T> {
    /// The flag if it is there, else what the file says.
    fn choose(flag: &'static str, by_flag: Option<T>, given: Option<Given<T>>) -> Option<Self> {
        match (by_flag, given) {
            (Some(value), _) => {
                Some(Field { value, origin: Origin::Flag(flag.to_owned()), name: flag.to_owned(), at: None })
            }
            (None, Some(given)) => Some(Field {
                value: given.value,
                origin: Origin::File { line: given.at.as_ref().map_or(1, |at| at.line) },
                name: given.path,
                at: given.at,
            }),
            (None, None) => None,
        }
    }

    fn new(value: T, origin: Origin, name: &str) -> Self {
        Field { value, origin, name: name.to_owned(), at: None }
    }

    fn by_flag(&self) -> bool {
        matches!(self.origin, Origin::Flag(_))
    }

    /// `` `sla.ttft` must be …``
    fn error(&self, message: impl fmt::Display) -> SpecError {
        let kind = if self.by_flag() { ErrorKind::Usage } else { ErrorKind::Config };
        SpecError::new(kind, format!("`{}` {message}", self.name)).at(self.at.clone())
    }

    /// The same blame for an error that came from elsewhere.
    fn blame(&self, error: &SpecError) -> SpecError {
        let kind = if self.by_flag() { ErrorKind::Usage } else { ErrorKind::Config };
        let blamed = SpecError::new(kind, error.to_string()).at(self.at.clone());
        match error.hint() {
            Some(hint) => blamed.with_hint(hint),
            None => blamed,
        }
    }
}

impl Field<f64> {
    fn within(self, range: Range) -> Result<Self, SpecError> {
        match range.problem(self.value) {
            None => Ok(self),
            Some(wanted) => Err(self.error(format_args!("must be {wanted}, not {}", self.value))),
        }
    }
}

impl Field<u32> {
    fn within(self, min: u32, max: u32) -> Result<Self, SpecError> {
        if (min..=max).contains(&self.value) {
            Ok(self)
        } else if max == u32::MAX {
            Err(self.error(format_args!("must be at least {min}, not {}", self.value)))
        } else {
            Err(self.error(format_args!("must be from {min} to {max}, not {}", self.value)))
        }
    }
}

impl Field<String> {
    fn label(self) -> Result<Self, SpecError> {
        match label_problem(&self.value) {
            None => Ok(self),
            Some(problem) => {
                Err(self.error(format_args!("is no name that Kubernetes accepts: {problem} ({:?})", self.value)))
            }
        }
    }
}

struct Resolver<'a> {
    flags: &'a Flags,
    source: &'a Source,
    defaults: &'a Defaults,
    discovered: Option<&'a Discovered>,
    origins: Vec<OriginEntry>,
    warnings: Vec<String>,
}

/// What repeated flags `NAME=VALUE` say.
type Pairs<'a> = &'a [(String, String)];

/// Names and places of what is generated.
struct Naming {
    dgdr: String,
    dgd: String,
    namespace: Option<String>,
}

impl Resolver<'_> {
    fn resolve(mut self, mut request: Request) -> Result<Resolved, SpecError> {
        self.warnings.append(&mut request.warnings);
        let by_version = match request.version {
            Version::V1alpha1 => &self.defaults.v1alpha1,
            Version::V1beta1 => &self.defaults.v1beta1,
        };
        let backend = self.backend(&mut request);
        let naming = self.naming(&mut request)?;
        let model_cache = self.model_cache(&mut request)?;
        let model = self.model(&mut request, model_cache.as_ref())?;
        let hardware = self.hardware(&mut request)?;
        let limits = self.limits(&mut request, &hardware)?;
        let (workload, max_context_tokens, curve) = self.lengths(&mut request, by_version, &model)?;
        let sla = self.sla(&mut request, by_version)?;
        let demand = self.demand(&mut request)?;
        let plugins = self.plugins(&mut request)?;
        let seed = self.pick("profiler.seed", "--seed", self.flags.seed, request.seed.take(), self.defaults.seed).value;
        let priors = self.priors(&mut request)?;
        let budget = self.budget(&mut request)?;
        let simulation = self.simulation(&mut request)?;
        let engines = self.engines(&mut request)?;
        let by_flag = match (self.flags.auto_apply, self.flags.no_auto_apply) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        let name = if by_flag == Some(false) { "--no-auto-apply" } else { "--auto-apply" };
        let auto_apply = self.pick("autoApply", name, by_flag, request.auto_apply.take(), by_version.auto_apply).value;
        let output_dir = self.optional("outputDir", Field::choose("", None, request.output_dir.take()));
        let deployment = self.deployment(request, naming, model_cache)?;
        let job = Job { model, hardware, backend, workload, sla, demand, max_context_tokens, seed };
        let spec = RunSpec {
            job,
            limits,
            curve,
            priors,
            plugins,
            deployment,
            auto_apply,
            budget,
            simulation,
            engines,
            output_dir: output_dir.map(PathBuf::from),
        };
        self.origins.sort_by_key(|entry| rank(&entry.path));
        Ok(Resolved { spec, origins: self.origins, warnings: self.warnings })
    }

    fn record(&mut self, path: &str, value: &impl Serialize, origin: Origin) {
        let value = serde_json::to_value(value).unwrap_or(serde_json::Value::Null);
        self.origins.push(OriginEntry { path: path.to_owned(), value, origin });
    }

    /// Flag, file or default; recorded.
    fn pick<T: Serialize>(
        &mut self,
        path: &str,
        flag: &'static str,
        by_flag: Option<T>,
        given: Option<Given<T>>,
        default: T,
    ) -> Field<T> {
        let field = Field::choose(flag, by_flag, given).unwrap_or_else(|| Field::new(default, Origin::Default, path));
        self.record(path, &field.value, field.origin.clone());
        field
    }

    /// A value that may be absent; recorded if it is there.
    fn optional<T: Serialize>(&mut self, path: &str, field: Option<Field<T>>) -> Option<T> {
        let field = field?;
        self.record(path, &field.value, field.origin);
        Some(field.value)
    }

    fn backend(&mut self, request: &mut Request) -> Backend {
        let chosen = Field::choose("--backend", self.flags.backend, request.backend.take());
        let default = self.defaults.backend;
        let (backend, origin) = match chosen {
            None => (default, Origin::Default),
            Some(Field { value: BackendChoice::Auto, .. }) => {
                (default, Origin::Derived(format!("`auto` picks {default}")))
            }
            Some(Field { value, origin, .. }) => (value.backend().unwrap_or(default), origin),
        };
        self.record("backend", &backend, origin);
        backend
    }

    fn naming(&mut self, request: &mut Request) -> Result<Naming, SpecError> {
        let stem = match self.source {
            Source::File(path) => {
                path.file_stem().and_then(|stem| stem.to_str()).filter(|s| label_problem(s).is_none())
            }
            Source::Stdin | Source::Read(_) | Source::Inline(_) | Source::Cluster { .. } => None,
        };
        let dgdr = match Field::choose("--name", self.flags.name.clone(), request.name.take()) {
            Some(field) => field,
            None => match stem {
                Some(stem) => Field::new(stem.to_owned(), Origin::Derived("name of the file".to_owned()), "name"),
                None => Field::new(self.defaults.dgdr_name.clone(), Origin::Default, "name"),
            },
        };
        self.record("metadata.name", &dgdr.value, dgdr.origin.clone());
        let dgdr = dgdr.label()?;
        let dgd = match Field::choose("", None, request.dgd_name.take()) {
            Some(field) => field,
            // Blamed on the name of the request, which is what the user can change.
            None => Field {
                value: format!("{}-dgd", dgdr.value),
                origin: Origin::Derived(format!("{} and `-dgd`", dgdr.value)),
                name: dgdr.name.clone(),
                at: dgdr.at.clone(),
            },
        };
        self.record("deployment.name", &dgd.value, dgd.origin.clone());
        let dgd = dgd.label()?;
        if !dgd.value.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(dgd.error(format_args!(
                "makes the deployment's name `{}`, which must begin with a letter: its services are called after it",
                dgd.value
            )));
        }
        let length = dgd.value.len() + LONGEST_COMPONENT.len();
        if length > MAX_POD_NAME {
            return Err(dgd
                .error(format_args!(
                    "is too long: the deployment's name `{}` and the component name `{LONGEST_COMPONENT}` have {length} \
                     characters together, and pods may have {MAX_POD_NAME}",
                    dgd.value
                ))
                .with_hint(format!("shorten it by {}, or override the deployment's name", length - MAX_POD_NAME)));
        }
        let namespace = Field::choose("--namespace", self.flags.namespace.clone(), request.namespace.take())
            .map(Field::label)
            .transpose()?;
        let namespace = self.optional("metadata.namespace", namespace);
        Ok(Naming { dgdr: dgdr.value, dgd: dgd.value, namespace })
    }

    fn model_cache(&mut self, request: &mut Request) -> Result<Option<ModelCache>, SpecError> {
        let Some(field) = Field::choose("", None, request.model_cache.take()) else { return Ok(None) };
        let complete = field.value.clone().complete(&self.defaults.model_cache_mount_path);
        let Some(cache) = complete else {
            return Err(field.error("has no `pvcName`").with_hint("name the PVC that holds the weights"));
        };
        self.record("modelCache", &cache, field.origin);
        Ok(Some(cache))
    }

    fn model(&mut self, request: &mut Request, cache: Option<&ModelCache>) -> Result<Model, SpecError> {
        let figures = Field::choose("", None, request.model_figures.take());
        let name = Field::choose("--model", self.flags.model.clone(), request.model.take());
        let name = match (name, &figures) {
            (Some(name), _) => name,
            (None, Some(figures)) => Field {
                value: figures.value.name.clone(),
                origin: figures.origin.clone(),
                name: figures.name.clone(),
                at: figures.at.clone(),
            },
            (None, None) => {
                return Err(SpecError::config("no model is given").with_hint("give `spec.model` or `--model`"));
            }
        };
        if name.value.trim().is_empty() {
            return Err(name.error("is empty"));
        }
        let (model, origin) = self.model_figures(&name, figures, cache)?;
        self.record("model", &model.name, name.origin);
        let dtype = format!("{:?}", model.weight_dtype).to_lowercase();
        let summary = format!("{:.1} B parameters, {dtype} weights", model.parameters() / 1e9);
        self.record("modelFigures", &summary, origin);
        Ok(model)
    }

    fn model_figures(
        &mut self,
        name: &Field<String>,
        figures: Option<Field<Model>>,
        cache: Option<&ModelCache>,
    ) -> Result<(Model, Origin), SpecError> {
        if let Some(path) = &self.flags.model_config {
            return Ok((read_model_config(path, &name.value)?, Origin::Flag("--model-config".to_owned())));
        }
        if let Some(figures) = figures {
            // Figures in the file are of the file's model, not of one that a flag names.
            if !name.by_flag() || name.value == figures.value.name {
                if let Some(problem) = model_problem(&figures.value) {
                    return Err(figures.error(format_args!("makes no sense: {problem}")));
                }
                let model = Model { name: name.value.clone(), source: "explicit figures".to_owned(), ..figures.value };
                return Ok((model, figures.origin));
            }
            self.warnings.push(format!("`{}` is left aside: it is not of the model that --model names", figures.name));
        }
        let local = Path::new(&name.value);
        if local.is_absolute() && local.join("config.json").is_file() {
            return Ok((
                read_model_config(local, &name.value)?,
                Origin::Derived(format!("config.json in {}", name.value)),
            ));
        }
        let error = match find_model(&name.value) {
            Ok(mut model) => {
                if name.value.contains('/') && !model.name.eq_ignore_ascii_case(&name.value) {
                    self.warnings.push(format!("`{}` is taken to have the shape of `{}`", name.value, model.name));
                    model.name.clone_from(&name.value);
                }
                let source = model.source.clone();
                return Ok((model, Origin::Catalog(source)));
            }
            Err(error) => error,
        };
        if let Some(cache) = cache {
            let folder = Path::new(&cache.mount_path).join(cache.pvc_model_path.trim_start_matches('/'));
            if folder.join("config.json").is_file() {
                let how = format!("config.json in {}", folder.display());
                return Ok((read_model_config(&folder, &name.value)?, Origin::Derived(how)));
            }
        }
        Err(name.blame(&error))
    }

    fn hardware(&mut self, request: &mut Request) -> Result<Hardware, SpecError> {
        let figures = Field::choose("", None, request.gpu_figures.take());
        let discovered = |found: &Discovered| Origin::Derived(format!("labels of nodes: {}", found.from));
        let sku = Field::choose("--gpu-sku", self.flags.gpu_sku.clone(), request.gpu_sku.take()).or_else(|| {
            let found = self.discovered.filter(|_| figures.is_none())?;
            Some(Field::new(found.gpu_sku.clone(), discovered(found), "hardware.gpuSku"))
        });
        let (gpu, origin, figures_origin) = self.gpu(sku, figures)?;
        self.record("hardware.gpuSku", &gpu.name, origin);
        let summary = format!(
            "{:.0} GiB, {:.0} TFLOP/s in 16 bits, {:.2} TB/s",
            gpu.memory_bytes / f64::from(1 << 30),
            gpu.bf16_flops / 1e12,
            gpu.memory_bytes_per_second / 1e12
        );
        self.record("hardware.gpuFigures", &summary, figures_origin.clone());

        let per_node = Field::choose("--num-gpus-per-node", self.flags.num_gpus_per_node, request.gpus_per_node.take())
            .unwrap_or_else(|| match self.discovered {
                Some(found) => Field::new(found.gpus_per_node, discovered(found), "hardware.numGpusPerNode"),
                None => Field::new(gpu.gpus_per_node, figures_origin, "hardware.numGpusPerNode"),
            });
        self.record("hardware.numGpusPerNode", &per_node.value, per_node.origin.clone());
        let per_node = per_node.within(1, MAX_GPUS)?.value;
        let total = Field::choose("--total-gpus", self.flags.total_gpus, request.total_gpus.take()).unwrap_or_else(
            || match self.discovered {
                Some(found) => Field::new(found.total_gpus, discovered(found), "hardware.totalGpus"),
                None => Field::new(per_node, Origin::Derived("one node".to_owned()), "hardware.totalGpus"),
            },
        );
        self.record("hardware.totalGpus", &total.value, total.origin.clone());
        let total = total.within(1, MAX_GPUS)?;
        if total.value < 2 && !self.flags.one_role {
            return Err(total
                .error("must be at least 2: a prefill and a decode engine run on GPUs of their own")
                .with_hint("raise the GPU budget"));
        }
        Ok(Hardware { gpu, gpus_per_node: per_node, total_gpus: total.value })
    }

    fn gpu(
        &mut self,
        sku: Option<Field<String>>,
        figures: Option<Field<GpuSku>>,
    ) -> Result<(GpuSku, Origin, Origin), SpecError> {
        if let Some(figures) = figures {
            let other = sku.as_ref().filter(|sku| sku.by_flag() && sku.value != figures.value.name);
            if other.is_none() {
                if let Some(problem) = gpu_problem(&figures.value) {
                    return Err(figures.error(format_args!("makes no sense: {problem}")));
                }
                let (name, origin) = match sku {
                    Some(sku) => (sku.value, sku.origin),
                    None => (figures.value.name.clone(), figures.origin.clone()),
                };
                let gpu = GpuSku { name, source: "explicit figures".to_owned(), ..figures.value };
                return Ok((gpu, origin, figures.origin));
            }
            self.warnings.push(format!("`{}` is left aside: it is not of the GPU that --gpu-sku names", figures.name));
        }
        let Some(sku) = sku else {
            return Err(SpecError::config("no GPU is given")
                .with_hint("give `spec.hardware.gpuSku` or `--gpu-sku`, for example h200_sxm"));
        };
        let gpu = find_gpu(&sku.value).map_err(|error| sku.blame(&error))?;
        let source = Origin::Catalog(gpu.source.clone());
        Ok((gpu, sku.origin, source))
    }

    fn limits(&mut self, request: &mut Request, hardware: &Hardware) -> Result<Limits, SpecError> {
        let min = Field::choose(
            "--min-num-gpus-per-engine",
            self.flags.min_num_gpus_per_engine,
            request.min_gpus_per_engine.take(),
        );
        let max = Field::choose(
            "--max-num-gpus-per-engine",
            self.flags.max_num_gpus_per_engine,
            request.max_gpus_per_engine.take(),
        );
        let min = min.map(|field| field.within(1, MAX_GPUS)).transpose()?;
        let max = max.map(|field| field.within(1, MAX_GPUS)).transpose()?;
        if let (Some(min), Some(max)) = (&min, &max)
            && min.value > max.value
        {
            return Err(min.error(format_args!("is {}, above `{}`, which is {}", min.value, max.name, max.value)));
        }
        if let Some(min) = &min
            && min.value >= hardware.total_gpus
        {
            return Err(min.error(format_args!(
                "is {}, but of {} GPUs one engine may take {} at most, since the other role needs some too",
                min.value,
                hardware.total_gpus,
                hardware.total_gpus - 1
            )));
        }
        Ok(Limits {
            min_gpus_per_engine: self.optional("profiler.minNumGpusPerEngine", min),
            max_gpus_per_engine: self.optional("profiler.maxNumGpusPerEngine", max),
        })
    }

    fn lengths(
        &mut self,
        request: &mut Request,
        defaults: &ByVersion,
        model: &Model,
    ) -> Result<(Workload, u32, CurveRange), SpecError> {
        let isl = self.pick("workload.isl", "--isl", self.flags.isl, request.isl.take(), defaults.isl);
        let isl = isl.within(1, u32::MAX)?;
        let osl = self.pick("workload.osl", "--osl", self.flags.osl, request.osl.take(), defaults.osl);
        let osl = osl.within(1, u32::MAX)?;

        let asked = Field::choose("--max-context-length", self.flags.max_context_length, request.max_context.take());
        let asked = asked.map(|field| field.within(1, u32::MAX)).transpose()?;
        let limited = asked.is_some();
        let context = match asked {
            Some(field) if field.value > model.max_context_tokens => {
                self.warnings.push(format!(
                    "`{}` is {}, above the {} tokens of the model, which hold",
                    field.name, field.value, model.max_context_tokens
                ));
                Field { value: model.max_context_tokens, ..field }
            }
            Some(field) => field,
            None => {
                let origin = Origin::Derived("what the model admits".to_owned());
                Field::new(model.max_context_tokens, origin, "profiler.maxContextLength")
            }
        };
        self.record("profiler.maxContextLength", &context.value, context.origin.clone());
        let context = context.value;
        let longest = u64::from(isl.value) + u64::from(osl.value);
        if longest > u64::from(context) {
            let blamed = if isl.origin == Origin::Default { &osl } else { &isl };
            return Err(blamed
                .error(format_args!(
                    "does not fit: {} tokens in and {} out make {longest}, and the deployment admits {context}",
                    isl.value, osl.value
                ))
                .with_hint("shorten the requests, or take a model with a longer context"));
        }
        let curve = self.curve(request, isl.value, context - osl.value, limited)?;
        Ok((Workload { isl: isl.value, osl: osl.value }, context, curve))
    }

    /// `longest`: prompt that leaves room for the answer.
    fn curve(&mut self, request: &mut Request, isl: u32, longest: u32, limited: bool) -> Result<CurveRange, SpecError> {
        let max = match Field::choose("--max-isl", self.flags.max_isl, request.max_isl.take()) {
            Some(field) => field.within(1, longest)?,
            None if limited => {
                let origin = Origin::Derived("maxContextLength without the answer".to_owned());
                Field::new(longest, origin, "profiler.maxIsl")
            }
            None => {
                let (factor, floor) = (self.defaults.curve_isl_factor, self.defaults.curve_isl_floor);
                let origin = Origin::Derived(format!("{factor} times isl, at least {floor}, within the context"));
                Field::new(isl.saturating_mul(factor).max(floor).min(longest), origin, "profiler.maxIsl")
            }
        };
        let min = match Field::choose("--min-isl", self.flags.min_isl, request.min_isl.take()) {
            Some(field) => field.within(1, max.value)?,
            None if self.defaults.min_isl > max.value => {
                Field::new(1, Origin::Derived("the curve is short".to_owned()), "profiler.minIsl")
            }
            None => Field::new(self.defaults.min_isl, Origin::Default, "profiler.minIsl"),
        };
        self.record("profiler.minIsl", &min.value, min.origin);
        self.record("profiler.maxIsl", &max.value, max.origin);
        Ok(CurveRange { min_isl: min.value, max_isl: max.value })
    }

    fn sla(&mut self, request: &mut Request, defaults: &ByVersion) -> Result<Sla, SpecError> {
        let (ttft, itl, e2e) = (request.ttft.take(), request.itl.take(), request.e2e.take());
        if let (Some(e2e), Some(other)) = (&e2e, ttft.as_ref().or(itl.as_ref())) {
            return Err(SpecError::config(format!("`{}` and `{}` exclude each other", e2e.path, other.path))
                .at(e2e.at.clone())
                .with_hint("keep `e2eLatency`, or `ttft` and `itl`"));
        }
        let quantile = Field::choose("--sla-quantile", self.flags.sla_quantile, request.quantile.take());
        let quantile = quantile.map(|field| field.within(Range::Quantile)).transpose()?;
        let parts_by_flag = self.flags.ttft.is_some() || self.flags.itl.is_some();
        let e2e = if parts_by_flag { None } else { Field::choose("--e2e-latency", self.flags.e2e_latency, e2e) };
        let sla = match e2e {
            Some(field) => {
                let e2e_ms = self.optional("sla.e2eLatency", Some(field.within(Range::Positive)?));
                Sla { ttft_ms: None, itl_ms: None, e2e_ms, quantile: None }
            }
            None => {
                let ttft = self.pick("sla.ttft", "--ttft", self.flags.ttft, ttft, defaults.ttft_ms);
                let ttft = ttft.within(Range::Positive)?;
                let itl = self.pick("sla.itl", "--itl", self.flags.itl, itl, defaults.itl_ms);
                let itl = itl.within(Range::Positive)?;
                Sla { ttft_ms: Some(ttft.value), itl_ms: Some(itl.value), e2e_ms: None, quantile: None }
            }
        };
        Ok(Sla { quantile: self.optional("sla.quantile", quantile), ..sla })
    }

    fn demand(&mut self, request: &mut Request) -> Result<Demand, SpecError> {
        let (rate, concurrency) = (request.request_rate.take(), request.concurrency.take());
        if let (Some(rate), Some(concurrency)) = (&rate, &concurrency) {
            return Err(SpecError::config(format!("`{}` and `{}` exclude each other", rate.path, concurrency.path))
                .at(rate.at.clone())
                .with_hint("say how many requests arrive per second, or how many are in flight"));
        }
        // A flag for one replaces the file's other.
        let rate = rate.filter(|_| self.flags.concurrency.is_none());
        let concurrency = concurrency.filter(|_| self.flags.request_rate.is_none());
        if let Some(rate) = Field::choose("--request-rate", self.flags.request_rate, rate) {
            let rate = self.optional("workload.requestRate", Some(rate.within(Range::Positive)?));
            return Ok(rate.map_or(Demand::Budget, Demand::RequestsPerSecond));
        }
        if let Some(field) = Field::choose("--concurrency", self.flags.concurrency, concurrency) {
            let value = field.value;
            if !(value.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(&value)) {
                return Err(field.error(format_args!("must be a whole number, at least 1, not {value}")));
            }
            // Checked just above.
            let whole = value as u32;
            self.record("workload.concurrency", &whole, field.origin);
            return Ok(Demand::Concurrency(whole));
        }
        let origin = Origin::Derived("neither requestRate nor concurrency is given".to_owned());
        self.record("workload.demand", &"what the GPU budget serves", origin);
        Ok(Demand::Budget)
    }

    fn plugins(&mut self, request: &mut Request) -> Result<Plugins, SpecError> {
        let (flags, defaults) = (self.flags, self.defaults);
        let sweep = self.plugin(
            ("profiler.sweep", "--sweep"),
            (flags.sweep.as_deref(), &flags.sweep_setting, &flags.sweep_grant),
            request.sweep.take(),
            &defaults.sweep,
        )?;
        let selection = self.plugin(
            ("profiler.selection", "--selection"),
            (flags.selection.as_deref(), &flags.selection_setting, &flags.selection_grant),
            request.selection.take(),
            &defaults.selection,
        )?;
        let planner = self.plugin(
            ("profiler.planner", "--planner"),
            (flags.planner.as_deref(), &flags.planner_setting, &flags.planner_grant),
            request.planner_plugin.take(),
            &defaults.planner,
        )?;
        let strict = flags.strict_plugins.then_some(true);
        let given = request.strict_plugins.take();
        let strict = self.pick("profiler.strictPlugins", "--strict-plugins", strict, given, defaults.strict_plugins);
        Ok(Plugins { sweep, selection, planner, strict: strict.value })
    }

    fn plugin(
        &mut self,
        (path, flag): (&str, &'static str),
        (by_flag, by_setting_flag, by_grant_flag): (Option<&str>, Pairs<'_>, Pairs<'_>),
        given: Option<Given<Plugin>>,
        default: &str,
    ) -> Result<PluginChoice, SpecError> {
        let given = Field::choose("", None, given);
        let from_file = given.as_ref().and_then(|field| {
            let origin = field.origin.clone();
            field.value.plugin.clone().map(|value| Field {
                value,
                origin,
                name: field.name.clone(),
                at: field.at.clone(),
            })
        });
        let chosen = match by_flag {
            Some(name) => Field::new(name.to_owned(), Origin::Flag(flag.to_owned()), flag),
            None => from_file.unwrap_or_else(|| Field::new(default.to_owned(), Origin::Default, path)),
        };
        if chosen.value.trim().is_empty() {
            return Err(chosen.error("names no plugin"));
        }
        let folder = if chosen.by_flag() { None } else { self.source.folder() };
        let source = plugin_source(&chosen.value, folder);
        self.record(&format!("{path}.plugin"), &chosen.value, chosen.origin.clone());

        let mut choice = PluginChoice::new(source);
        if let Some(field) = given {
            let other = chosen.by_flag() && field.value.plugin.as_ref().is_none_or(|plugin| *plugin != chosen.value);
            self.plugin_details(path, &chosen.value, other, field, &mut choice);
        }
        for (name, value) in by_setting_flag {
            let origin = Origin::Flag(format!("{flag}-setting"));
            let full = format!("{path}.settings.{name}");
            choice.settings.retain(|(known, _)| known != name);
            self.origins.retain(|entry| entry.path != full);
            choice.settings.push((name.clone(), value.clone()));
            self.origins.push(entry(&full, value, origin));
        }
        for (name, folder) in by_grant_flag {
            let origin = Origin::Flag(format!("{flag}-grant"));
            let full = format!("{path}.grants.{name}");
            choice.grants.retain(|(known, _)| known != name);
            self.origins.retain(|entry| entry.path != full);
            choice.grants.push((name.clone(), PathBuf::from(folder)));
            self.origins.push(entry(&full, folder, origin));
        }
        Ok(choice)
    }

    /// What the file says of a plugin besides which it is. It is of that plugin: where a flag names an `other` one, it
    /// gets neither its settings nor its grants.
    fn plugin_details(
        &mut self,
        path: &str,
        plugin: &str,
        other: bool,
        field: Field<Plugin>,
        choice: &mut PluginChoice,
    ) {
        let Plugin { plugin: _, settings, limits, sha256, grants } = field.value;
        if other {
            let given = [
                ("settings", !settings.is_empty()),
                ("limits", limits != PluginLimits::default()),
                ("sha256", sha256.is_some()),
                ("grants", !grants.is_empty()),
            ];
            let given: Vec<&str> = given.into_iter().filter_map(|(key, given)| given.then_some(key)).collect();
            if !given.is_empty() {
                let (are, they) = if given == ["sha256"] { ("is", "it is") } else { ("are", "they are") };
                let what = given.join(", ");
                self.warnings.push(format!("the {what} in `{}` {are} left aside: {they} not of {plugin}", field.name));
            }
            return;
        }
        for (name, Setting(value)) in settings {
            self.origins.push(entry(&format!("{path}.settings.{name}"), &value, field.origin.clone()));
            choice.settings.push((name, value));
        }
        if let Ok(serde_json::Value::Object(limits)) = serde_json::to_value(&limits) {
            for (name, value) in limits.into_iter().filter(|(_, value)| !value.is_null()) {
                self.record(&format!("{path}.limits.{name}"), &value, field.origin.clone());
            }
        }
        choice.limits = limits;
        if let Some(Digest(hex)) = sha256 {
            self.origins.push(entry(&format!("{path}.sha256"), &hex, field.origin.clone()));
            choice.sha256 = Some(hex);
        }
        for (name, folder) in grants {
            let folder = self.source.folder().map_or(folder.clone(), |base| base.join(&folder));
            let shown = folder.display().to_string();
            self.origins.push(entry(&format!("{path}.grants.{name}"), &shown, field.origin.clone()));
            choice.grants.push((name, folder));
        }
    }

    /// A flag's path is relative to where the user is, a file's to the file.
    fn priors(&mut self, request: &mut Request) -> Result<Option<PriorTable>, SpecError> {
        let folder = self.source.folder();
        let given = request.priors.take().map(|mut given| {
            if let Some(folder) = folder {
                given.value = folder.join(&given.value);
            }
            given
        });
        let path = self.optional("profiler.priors", Field::choose("--priors", self.flags.priors.clone(), given));
        path.map(|path| priors::read(&path)).transpose()
    }

    fn budget(&mut self, request: &mut Request) -> Result<BudgetSpec, SpecError> {
        let (flags, given) = (self.flags, std::mem::take(&mut request.budget));
        let mut amount = |key: &str, flag: &'static str, by_flag: Option<f64>, given| {
            let field: Option<Field<f64>> = Field::choose(flag, by_flag, given);
            let field = field.map(|field| field.within(Range::Positive)).transpose()?;
            Ok::<_, SpecError>(self.optional(&format!("profiler.budget.{key}"), field))
        };
        let max_gpu_hours = amount("maxGpuHours", "--max-gpu-hours", flags.max_gpu_hours, given.max_gpu_hours)?;
        let gpu_hour_price = amount("gpuHourPrice", "--gpu-hour-price", flags.gpu_hour_price, given.gpu_hour_price)?;
        let max_cost = Field::choose("--max-cost", flags.max_cost, given.max_cost);
        if let Some(cost) = max_cost.as_ref().filter(|_| gpu_hour_price.is_none()) {
            return Err(cost.error("needs the price of a GPU: --gpu-hour-price or profiler.budget.gpuHourPrice"));
        }
        let max_cost = max_cost.map(|field| field.within(Range::Positive)).transpose()?;
        let max_cost = self.optional("profiler.budget.maxCost", max_cost);
        let wall = Field::choose("--max-wall", flags.max_wall.clone(), given.max_wall);
        let max_wall_s = wall
            .as_ref()
            .map(|wall| {
                let wrong =
                    || wall.error(format_args!("is {:?}; a time above 0 is written 40m, 1.5h or 90s", wall.value));
                seconds(&wall.value).ok_or_else(wrong)
            })
            .transpose()?;
        self.optional("profiler.budget.maxWall", wall);
        Ok(BudgetSpec { max_gpu_hours, max_wall_s, max_cost, gpu_hour_price })
    }

    fn simulation(&mut self, request: &mut Request) -> Result<SimulationSpec, SpecError> {
        let (flags, defaults, given) = (self.flags, &self.defaults.simulation, std::mem::take(&mut request.simulation));
        let mut part = |key: &str, flag: &'static str, by_flag: Option<f64>, given, default: f64, range: Range| {
            let field = self.pick(&format!("profiler.simulation.{key}"), flag, by_flag, given, default);
            field.within(range).map(|field| field.value)
        };
        Ok(SimulationSpec {
            noise_cv: part("noiseCv", "--noise", flags.noise, given.noise_cv, defaults.noise_cv, Range::Fraction)?,
            model_error: part(
                "modelError",
                "--model-error",
                flags.model_error,
                given.model_error,
                defaults.model_error,
                Range::BelowOne,
            )?,
            fault_rate: part(
                "faultRate",
                "--fault-rate",
                flags.fault_rate,
                given.fault_rate,
                defaults.fault_rate,
                Range::Fraction,
            )?,
            passing_fault_rate: part(
                "passingFaultRate",
                "--passing-fault-rate",
                flags.passing_fault_rate,
                given.passing_fault_rate,
                defaults.passing_fault_rate,
                Range::Fraction,
            )?,
            load_bytes_per_second: part(
                "loadBytesPerSecond",
                "",
                None,
                given.load_bytes_per_second,
                defaults.load_bytes_per_second,
                Range::Positive,
            )?,
            compile_s: part("compileS", "", None, given.compile_s, defaults.compile_s, Range::NotNegative)?,
            warmup_s: part("warmupS", "", None, given.warmup_s, defaults.warmup_s, Range::NotNegative)?,
        })
    }

    /// The block as a whole, with each flag over the field of its name. Only what is given is recorded: the defaults are
    /// those of whoever brings engines up.
    fn engines(&mut self, request: &mut Request) -> Result<EnginesSpec, SpecError> {
        let given = Field::choose("", None, request.engines.take());
        let mut engines = given.as_ref().map(|field| field.value.clone()).unwrap_or_default();
        let folder = self.source.folder();
        for path in [&mut engines.tokenizer, &mut engines.api_key_file, &mut engines.ca_file].into_iter().flatten() {
            if let Some(folder) = folder {
                *path = folder.join(&*path);
            }
        }
        engines.local =
            engines.local.map(|local| local.complete(folder)).transpose().map_err(|error| match &given {
                Some(field) => field.blame(&error),
                None => error,
            })?;
        let by_file: Map<String, Value> = as_map(&engines);
        let flags = &self.flags.engines;
        macro_rules! over {
            ($($field:ident),*) => {
                $(if flags.$field.is_some() { engines.$field.clone_from(&flags.$field); })*
            };
        }
        over!(
            share_engines,
            max_launches,
            load,
            load_clients,
            load_image,
            tokenizer,
            served_name,
            api_key_file,
            ca_file,
            kv_tokens,
            kv_tolerance,
            max_running,
            max_client_share
        );
        engines.launch_deadline_s = flags.launch_deadline.or(engines.launch_deadline_s);
        engines.point_deadline_s = flags.point_deadline.or(engines.point_deadline_s);
        if let Some(argument) = &flags.local {
            engines.local = Some(LocalSpec::named(argument)?);
        }
        for (key, value) in as_map(&engines) {
            let path = format!("profiler.engines.{key}");
            let flag = format!("--{}", kebab(key.strip_suffix('S').unwrap_or(&key)));
            let origin = match (&given, by_file.get(&key) == Some(&value)) {
                (Some(field), true) => field.origin.clone(),
                _ => Origin::Flag(flag.clone()),
            };
            let name = if matches!(origin, Origin::Flag(_)) { flag } else { path.clone() };
            let field = Field { value: value.as_f64(), origin: origin.clone(), name, at: None };
            let range = match key.as_str() {
                "launchDeadlineS" | "pointDeadlineS" | "kvTokens" | "maxRunning" | "maxClientShare" => {
                    Some(Range::Positive)
                }
                "kvTolerance" => Some(Range::BelowOne),
                _ => None,
            };
            if let (Some(range), Some(number)) = (range, field.value)
                && let Some(wanted) = range.problem(number)
            {
                return Err(field.error(format_args!("must be {wanted}, not {number}")));
            }
            self.record(&path, &value, origin);
        }
        Ok(engines)
    }

    fn deployment(
        &mut self,
        request: Request,
        naming: Naming,
        model_cache: Option<ModelCache>,
    ) -> Result<DeploymentSpec, SpecError> {
        let image = Field::choose("--image", self.flags.image.clone(), request.image);
        let workers_image = Field::choose("", None, request.workers_image);
        for field in [&image, &workers_image].into_iter().flatten() {
            if field.value.is_empty() || field.value.contains(char::is_whitespace) {
                return Err(field.error(format_args!("is no image reference: {:?}", field.value)));
            }
        }
        let image = self.optional("image", image);
        let workers_image = self.optional("deployment.workersImage", workers_image);
        let api =
            self.pick("profiler.dgdApi", "--dgd-api", self.flags.dgd_api, request.dgd_api, DgdApi::default()).value;
        let planner_config = Field::choose("", None, request.planner_config);
        // The older profiler always adds its planner.
        let planner = planner_config.is_some() || request.version == Version::V1alpha1;
        let mocker = self.pick("features.mocker", "", None, request.mocker, false).value;
        let without_data = |config: &Field<serde_json::Map<String, serde_json::Value>>| {
            config.value.get("pre_deployment_sweeping_mode").and_then(serde_json::Value::as_str) == Some("none")
        };
        if let Some(config) = planner_config.as_ref().filter(|config| mocker && without_data(config)) {
            return Err(config
                .error("has `pre_deployment_sweeping_mode: none`, but the mocker lives on profile data")
                .with_hint("take `thorough`, or switch the mocker off"));
        }
        let planner_origin = match &planner_config {
            Some(field) => field.origin.clone(),
            None if planner => Origin::Derived("v1alpha1 always has one".to_owned()),
            None => Origin::Default,
        };
        self.record("features.planner.enabled", &planner, planner_origin);
        let planner_config = self.optional("features.planner.config", planner_config.filter(|c| !c.value.is_empty()));
        let file = |given| Field::choose("", None, given);
        let labels = self.optional("deployment.labels", Field::choose("", None, request.labels));
        let annotations = self.optional("deployment.annotations", Field::choose("", None, request.annotations));
        Ok(DeploymentSpec {
            dgdr_name: naming.dgdr,
            name: naming.dgd,
            namespace: naming.namespace,
            api,
            image,
            workers_image,
            model_cache,
            planner,
            planner_config: planner_config.unwrap_or_default(),
            kv_router: self.pick("features.kvRouter", "", None, request.kv_router, false).value,
            mocker,
            trust_remote_code: self.pick("overrides.trustRemoteCode", "", None, request.trust_remote_code, false).value,
            runtime_version_override: self.optional("runtimeVersionOverride", file(request.runtime_version_override)),
            labels: labels.unwrap_or_default(),
            annotations: annotations.unwrap_or_default(),
            overrides: self.optional("overrides.dgd", Field::choose("", None, request.dgd_override)),
            tolerations: self
                .optional("overrides.profilingJob.tolerations", Field::choose("", None, request.tolerations))
                .unwrap_or_default(),
        })
    }
}

/// The fields that are given.
fn as_map(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// `launchDeadline` as `launch-deadline`.
fn kebab(camel: &str) -> String {
    let mut kebab = String::new();
    for c in camel.chars() {
        if c.is_ascii_uppercase() {
            kebab.push('-');
        }
        kebab.push(c.to_ascii_lowercase());
    }
    kebab
}

/// Place of a value in the listing: the order of a DGDR.
/// `40m`, `1.5h`, `90s` or `90`: seconds above 0.
fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let (number, unit_s) = match text.char_indices().last()? {
        (at, 'h') => (text.get(..at)?, 3600.0),
        (at, 'm') => (text.get(..at)?, 60.0),
        (at, 's') => (text.get(..at)?, 1.0),
        _ => (text, 1.0),
    };
    number.trim_end().parse::<f64>().ok().map(|n| n * unit_s).filter(|s| s.is_finite() && *s > 0.0)
}

fn rank(path: &str) -> usize {
    const ORDER: [&str; 15] = [
        "metadata",
        "model",
        "modelFigures",
        "modelCache",
        "backend",
        "image",
        "runtimeVersionOverride",
        "hardware",
        "workload",
        "sla",
        "features",
        "overrides",
        "deployment",
        "autoApply",
        "outputDir",
    ];
    let first = path.split('.').next().unwrap_or(path);
    // What is left is ours and comes last.
    ORDER.iter().position(|key| *key == first).unwrap_or(ORDER.len())
}

fn entry(path: &str, value: &str, origin: Origin) -> OriginEntry {
    OriginEntry { path: path.to_owned(), value: value.into(), origin }
}

/// A file if it looks like one, else a name. A path in a file is relative to that file.
pub fn plugin_source(text: &str, folder: Option<&Path>) -> PluginSource {
    if !(text.contains(['/', '\\']) || text.ends_with(".wasm")) {
        return PluginSource::Named(text.to_owned());
    }
    PluginSource::File(folder.map_or_else(|| PathBuf::from(text), |folder| folder.join(text)))
}

#[cfg(test)]
mod tests;
