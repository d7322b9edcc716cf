//! How real engines are brought up and measured: the block `profiler.engines`, its flags, and the templates of local
//! ones.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::error::SpecError;
use super::source::read_file;
use crate::backends::flags::split_words;
use crate::load::builtin::crowd::MOST_CLIENTS;

/// Who sends requests to real engines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LoadKind {
    /// In this process; needs the model's tokenizer for prompts of an exact length.
    #[default]
    Builtin,
    /// NVIDIA's `aiperf`, which must be installed.
    Aiperf,
}

/// How many clients of the built-in load generator send requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadClients {
    /// So many; one is this process, more are pods of a Job.
    Exactly(u32),
    /// One, and twice as many again and again while clients say that they were the bottleneck.
    Auto,
}

impl std::str::FromStr for LoadClients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse() {
            Ok(clients @ 1..=MOST_CLIENTS) => Ok(Self::Exactly(clients)),
            _ => Err(format!("want auto, or a number from 1 to {MOST_CLIENTS}")),
        }
    }
}

impl Serialize for LoadClients {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exactly(clients) => serializer.serialize_u32(*clients),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for LoadClients {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let setting = super::profiler::Setting::deserialize(deserializer)?;
        setting.0.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for LoadClients {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LoadClients".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How many clients of the built-in load generator send requests: one is this process, more are pods \
                of a Job; `auto` takes twice as many again and again while clients say that they were the bottleneck.",
            "anyOf": [{ "type": "integer", "minimum": 1, "maximum": MOST_CLIENTS }, { "const": "auto" }],
        })
    }
}

/// How real engines are brought up and measured. Paths are relative to this file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EnginesSpec {
    /// Who sends the requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadKind>,
    /// How many clients send them, on Kubernetes; absent: one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_clients: Option<LoadClients>,
    /// Image of this program for pods that send requests; absent: that of the pod in which it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_image: Option<String>,
    /// The model's `tokenizer.json`, or the folder that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Name under which the engine knows the model; absent: the model's own, or what a running engine lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served_name: Option<String>,
    /// File that holds the key which is sent as `Authorization: Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// Certificates (PEM) that are trusted in addition to the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// From the order to the first answer, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_deadline_s: Option<f64>,
    /// For one point, warming up included, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point_deadline_s: Option<f64>,
    /// KV capacity of one engine in tokens, where neither its metrics nor its log tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_tokens: Option<u64>,
    /// What is known of the KV capacity may differ by this fraction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_tolerance: Option<f64>,
    /// Most requests that one engine runs at once, where neither its metrics nor its log tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// How large the load generator's own share of a latency may be, as a fraction; a point where it is larger is no
    /// good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_client_share: Option<f64>,
    /// Measure prefill and decode of a mapping on one engine, so that it is launched once; absent: yes, where nothing
    /// speaks against it. Its scheduler has the larger limits of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_engines: Option<bool>,
    /// How many engines may be coming up at once: weights come over one network, from one storage; absent: 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_launches: Option<NonZeroU32>,
    /// How `--cluster local` starts engines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalSpec>,
}

/// Flags of real engines; each stands for the field of the same name in `profiler.engines`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Real engines")]
pub struct EngineFlags {
    /// Who sends requests to real engines
    #[arg(long, value_enum, value_name = "GENERATOR")]
    pub load: Option<LoadKind>,
    /// How many clients of the built-in load generator send requests, on Kubernetes: one is this process, more are pods
    /// of a Job; auto takes more where one is the bottleneck
    #[arg(long, value_name = "N|auto")]
    pub load_clients: Option<LoadClients>,
    /// Image of this program for those pods; where this runs in a pod itself, that pod's
    #[arg(long, value_name = "IMAGE")]
    pub load_image: Option<String>,
    /// The model's tokenizer.json, or the folder that holds it
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Name under which engines know the model
    #[arg(long, value_name = "NAME")]
    pub served_name: Option<String>,
    /// File with the key that engines ask for
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Certificates (PEM) to trust in addition to the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Longest wait for an engine's first answer
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub launch_deadline: Option<f64>,
    /// Longest time for one point
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub point_deadline: Option<f64>,
    /// KV capacity of one engine, where neither its metrics nor its log tell
    #[arg(long, value_name = "TOKENS")]
    pub kv_tokens: Option<u64>,
    /// Fraction by which sources of the KV capacity may differ
    #[arg(long, value_name = "FRACTION", allow_negative_numbers = true)]
    pub kv_tolerance: Option<f64>,
    /// Most requests that one engine runs at once, where neither its metrics nor its log tell
    #[arg(long, value_name = "REQUESTS")]
    pub max_running: Option<u32>,
    /// Largest share of the load generator itself in a latency; a point where it is larger is no good
    #[arg(long, value_name = "FRACTION", allow_negative_numbers = true)]
    pub max_client_share: Option<f64>,
    /// Measure prefill and decode of a mapping on one engine [default: true, where nothing speaks against it]
    #[arg(long, value_name = "BOOL")]
    pub share_engines: Option<bool>,
    /// How many engines may be coming up at once
    #[arg(long, value_name = "N")]
    pub max_launches: Option<NonZeroU32>,
    /// How --cluster local starts engines: a file of templates, or a bundled one of vllm, sglang, trtllm, dynamo-vllm,
    /// dynamo-mocker
    #[arg(long, value_name = "FILE|NAME")]
    pub local: Option<String>,
}

/// How engines are started as processes of this machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LocalSpec {
    /// A bundled template to begin with: `vllm`, `sglang`, `trtllm`, `dynamo-vllm`, `dynamo-mocker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Numbers of the GPUs that engines may use, as `CUDA_VISIBLE_DEVICES` counts them; absent: from 0 to the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<u32>>,
    /// Where the weights are: an id, or a path; absent: the model's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_path: Option<String>,
    /// Between asking a process to end and ending it, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<f64>,
    /// Most output that is kept of one process, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_mb: Option<u32>,
    /// Values for placeholders of your own: `{name}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// An engine of either role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any: Option<EngineTemplate>,
    /// An engine that prefills, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill: Option<EngineTemplate>,
    /// An engine that decodes, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decode: Option<EngineTemplate>,
}

/// One engine.
///
/// All texts may hold placeholders. `{port}` and `{port.NAME}` are ports of this engine, each a free one unless `ports`
/// says otherwise. Of the candidate: `{role}` (where it stands, no engine is measured as both), `{label}`, `{gpus}` (how many), `{devices}` (`0,1`), `{tp}`, `{pp}`,
/// `{dp}`, `{moe_tp}`, `{moe_ep}`. Of the job: `{model}`, `{model_path}`, `{served_name}`, `{isl}`, `{osl}`,
/// `{max_context}`. Of the scheduler: `{max_running}` and `{max_batched_tokens}` (per attention-DP rank),
/// `{prefix_caching_flag}` (`--enable-prefix-caching`, or `--no-…` for prefill alone), and by the memory formula
/// `{kv_tokens}` (of one rank) and `{kv_blocks}` (the same in blocks of 16). `{dir}` is a folder for the engine's
/// files. `{flags}` are the backend's flags for the mapping, as in the generated deployment, without those that name
/// the model. Names under `values` may hold placeholders themselves. `{flags}` and names under `values`, where they are
/// a word of their own, become as many words as they hold. `{{` and `}}` are braces.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EngineTemplate {
    /// What is started, in this order. The engine is gone when one of them is.
    pub processes: Vec<ProcessTemplate>,
    /// Where it answers completions.
    pub url: String,
    /// Servers with a `/metrics` page; absent: the one that answers completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Vec<String>>,
    /// Ports that must be these, by name. `{port}` is the one called `http`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
}

/// One process of an engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessTemplate {
    /// Names its log file: `worker` writes `worker.log`.
    pub name: String,
    /// Program and arguments; one text is split as a shell would, but nothing is expanded.
    pub command: Words,
    /// Added to the profiler's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where it runs; absent: where the profiler runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Whether it sees the engine's GPUs; a frontend need not.
    #[serde(default = "yes")]
    pub gpus: bool,
}

const fn yes() -> bool {
    true
}

/// A command line: a text, or a list of words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Words(pub Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordsVisitor)
    }
}

struct WordsVisitor;

impl<'de> Visitor<'de> for WordsVisitor {
    type Value = Words;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command line or a list of words")
    }

    fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Words, E> {
        split_words(line).map(Words).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Words, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = items.next_element::<super::profiler::Setting>()? {
            words.push(word.0);
        }
        Ok(Words(words))
    }
}

impl JsonSchema for Words {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Words".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A command line, or a list of words.",
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": ["string", "number", "boolean"] } }],
        })
    }
}

/// Name and text of each bundled template.
const BUNDLED: [(&str, &str); 5] = [
    ("vllm", include_str!("templates/vllm.yaml")),
    ("sglang", include_str!("templates/sglang.yaml")),
    ("trtllm", include_str!("templates/trtllm.yaml")),
    ("dynamo-vllm", include_str!("templates/dynamo-vllm.yaml")),
    ("dynamo-mocker", include_str!("templates/dynamo-mocker.yaml")),
];

impl LocalSpec {
    /// The bundled template of that name.
    ///
    /// # Errors
    /// If there is none; names those that there are.
    pub fn bundled(name: &str) -> Result<Self, SpecError> {
        let known = || BUNDLED.map(|(name, _)| name).join(", ");
        let (_, text) = BUNDLED.iter().find(|(bundled, _)| *bundled == name).ok_or_else(|| {
            SpecError::config(format!("there is no bundled template `{name}`; there are {}", known()))
        })?;
        Self::parse(text, name)
    }

    fn parse(text: &str, name: &str) -> Result<Self, SpecError> {
        serde_yaml::from_str(text).map_err(|error| SpecError::config(format!("{name}: {error}")))
    }

    /// Whether engines of the two roles are started in different ways.
    pub fn tells_roles_apart(&self) -> bool {
        let texts = serde_json::to_string(&(&self.any, &self.values)).unwrap_or_default();
        self.prefill.is_some() || self.decode.is_some() || texts.contains("{role}")
    }

    /// What `--local` names: a bundled template or a file.
    ///
    /// # Errors
    /// If it is neither, or makes no sense.
    pub(super) fn named(argument: &str) -> Result<Self, SpecError> {
        if BUNDLED.iter().any(|(name, _)| *name == argument) {
            return Self::bundled(argument);
        }
        let path = Path::new(argument);
        let text = read_file(path).map_err(|error| {
            let known = BUNDLED.map(|(name, _)| name).join(", ");
            error.with_hint(format!("--local takes a file, or the name of a bundled template: {known}"))
        })?;
        Self::parse(&text, argument)?.complete(path.parent())
    }

    /// With what its bundled template gives, and paths that do not depend on where the profiler runs.
    pub(super) fn complete(self, folder: Option<&Path>) -> Result<Self, SpecError> {
        let mut own = self;
        if let Some(name) = &own.template {
            let base = Self::bundled(name)?;
            own.any = own.any.or(base.any);
            own.prefill = own.prefill.or(base.prefill);
            own.decode = own.decode.or(base.decode);
            for (key, value) in base.values {
                own.values.entry(key).or_insert(value);
            }
        }
        let templates = [&mut own.any, &mut own.prefill, &mut own.decode];
        for process in templates.into_iter().flatten().flat_map(|template| &mut template.processes) {
            if let (Some(dir), Some(folder)) = (&process.working_dir, folder)
                && !dir.starts_with(['/', '{'])
            {
                process.working_dir = Some(folder.join(dir).display().to_string());
            }
        }
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bundled_template_is_one() {
        for (name, _) in BUNDLED {
            let template = LocalSpec::bundled(name).unwrap();
            let any = template.any.unwrap();
            assert!(!any.processes.is_empty() && any.url.contains("{port}"), "{name}");
        }
        assert!(LocalSpec::bundled("ollama").unwrap_err().to_string().contains("dynamo-mocker"));
    }

    #[test]
    fn a_command_is_a_line_or_a_list() {
        let read = |yaml: &str| serde_yaml::from_str::<ProcessTemplate>(yaml).map(|p| p.command.0);
        assert_eq!(
            read("{name: w, command: \"serve 'a b' --port {port}\"}").unwrap(),
            ["serve", "a b", "--port", "{port}"]
        );
        assert_eq!(read("{name: w, command: [serve, 7, true]}").unwrap(), ["serve", "7", "true"]);
        assert!(read("{name: w, command: \"serve 'a\"}").unwrap_err().to_string().contains("never closed"));
        assert!(read("{name: w}").is_err());
    }

    #[test]
    fn a_template_of_ones_own_begins_with_a_bundled_one() {
        let own: LocalSpec = serde_yaml::from_str("{template: dynamo-mocker, values: {speedup: '8'}}").unwrap();
        let own = own.complete(None).unwrap();
        assert_eq!(own.values["speedup"], "8");
        assert_eq!(own.any, LocalSpec::bundled("dynamo-mocker").unwrap().any);
    }

    #[test]
    fn a_template_that_names_the_role_is_not_one_for_both() {
        for (name, _) in BUNDLED {
            assert!(!LocalSpec::bundled(name).unwrap().tells_roles_apart(), "{name}");
        }
        for text in ["values: {x: 'a {role}'}", "prefill: {url: 'http://localhost:{port}'}"] {
            let own: LocalSpec = serde_yaml::from_str(text).unwrap();
            assert!(own.tells_roles_apart(), "{text}");
        }
    }
}
