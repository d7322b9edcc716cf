//! DynamoGraphDeployments: generated from a decision, and read back.
//!
//! ```text
//! mappings, plan, curves --component--> Vec<Component> --render--> v1beta1 or v1alpha1 --overrides--> DGD
//!                                             planner ----> ConfigMaps with planner settings and profile data
//! DGD of either version --read--> Vec<Worker>
//! ```
//!
//! Order of the steps, each of which sees the result of those before it:
//!
//! 1. components for the chosen mappings, with features: KV router, planner with scaling adapters, mocker, profile data;
//! 2. labels, annotations and `runtimeVersionOverride`, which an override may therefore change;
//! 3. the user's overrides ([`overrides`] has the rules);
//! 4. tolerations, on every component, those that came with an override too;
//! 5. checks of names.
//!
//! Each step applied twice gives what it gives once.

mod component;
mod measured;
mod names;
pub mod overrides;
mod planner;
mod profile_data;
mod read;
mod render;
mod yaml;

use serde_json::Value;

use crate::{
    backends::{EngineLimits, Serves, UnsupportedMapping, image::DigestError},
    domain::{Backend, Candidate, Job, Mapping, Plan, Role, memory::reserve_bytes_per_gpu},
    spec::{DgdApi, RunSpec, Wanted},
};

pub use profile_data::{DecodePoint, DecodeTable, PLANNER_MIN_POINTS, PrefillPoint, PrefillTable, ProfileData};
pub use read::{ReadError, component_args, component_env, workers};
pub use yaml::{deployment_in, documents, to_yaml};

/// One worker component of a deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Name of the component.
    pub component: String,
    /// What it does.
    pub role: Role,
    /// Which engine; for a mocker, the one that it stands for.
    pub backend: Backend,
    /// How one replica spreads over GPUs, as its flags say.
    pub mapping: Mapping,
    /// How many.
    pub replicas: u32,
}

/// What a deployment is made from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The question, and the user's wishes for the deployment.
    pub spec: Wanted<'a>,
    /// How prefill workers spread over GPUs.
    pub prefill: Mapping,
    /// How decode workers spread over GPUs.
    pub decode: Mapping,
    /// Replicas of both; a plan of none is deployed as one, since the deployment would answer nothing otherwise.
    pub plan: &'a Plan,
    /// What was measured of both, for planner and mocker.
    pub profile: Option<&'a ProfileData>,
}

/// Which of the deployments that one decision gives rise to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Mockers, which replay the profile data, instead of engines.
    pub mocker: bool,
    /// With Dynamo's planner.
    pub planner: bool,
}

/// A deployment with what it needs beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The DynamoGraphDeployment.
    pub dgd: Value,
    /// ConfigMaps that it mounts.
    pub config_maps: Vec<Value>,
}

impl Generated {
    /// All objects as one YAML stream, ConfigMaps first, so that they exist when the deployment mounts them.
    ///
    /// # Errors
    /// If an object cannot be written as YAML.
    pub fn to_yaml(&self) -> Result<String, DgdError> {
        documents(self.config_maps.iter().chain([&self.dgd]))
    }

    /// The same as a file, with a comment above that says what it promises.
    ///
    /// # Errors
    /// If an object cannot be written as YAML.
    pub fn to_file(&self, summary: &str, feasible: bool) -> Result<String, DgdError> {
        let warning =
            if feasible { "" } else { "# WARNING: this does NOT meet the SLA; it is the least bad answer.\n" };
        Ok(format!("# sla-profiler {}: {summary}\n{warning}{}", env!("CARGO_PKG_VERSION"), self.to_yaml()?))
    }
}

/// The three files of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Files {
    /// `config_with_planner.yaml`: engines and planner.
    pub config_with_planner: Generated,
    /// `mocker_config_with_planner.yaml`: mockers and planner. Absent without profile data, which mockers live on.
    pub mocker_config_with_planner: Option<Generated>,
    /// `final_config.yaml`: what the user asked for, and what is applied.
    pub final_config: Generated,
}

/// `3 x tp1 prefill + 2 x tp1 decode, 43.14 requests/s`
pub fn summary(prefill: Mapping, decode: Mapping, plan: &Plan) -> String {
    format!(
        "{} x {} prefill + {} x {} decode, {:.2} requests/s",
        plan.prefill_replicas,
        prefill.label(),
        plan.decode_replicas,
        decode.label(),
        plan.capacity_requests_per_second
    )
}

/// A deployment cannot be generated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DgdError {
    /// Not a name that Kubernetes takes.
    #[error(
        "'{name}' is no name for {what}: it must be lower case letters, digits and '-', begin with a letter and end with a letter or digit"
    )]
    Name {
        /// `the deployment`, `a component`, …
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Pods would get names that Grove, which starts them, cuts off.
    #[error(
        "the names of deployment '{dgd}' and component '{component}' have {length} characters together; at most {max} \
         fit into the names of pods. Give the deployment a shorter name (overrides.dgd.metadata.name)"
    )]
    NamesTooLong {
        /// Name of the DGD.
        dgd: String,
        /// Name of the component.
        component: String,
        /// Both together.
        length: usize,
        /// Most that fits.
        max: usize,
    },
    /// The engine cannot spread like that.
    #[error(transparent)]
    Mapping(#[from] UnsupportedMapping),
    /// An image cannot be derived.
    #[error(transparent)]
    Image(#[from] DigestError),
    /// v1alpha1 has no such field.
    #[error("runtimeVersionOverride '{0}' has no place in a v1alpha1 deployment; use --dgd-api v1beta1")]
    RuntimeVersion(String),
    /// The user's partial DGD does not fit.
    #[error("overrides.dgd: {0}")]
    Override(#[from] overrides::OverrideError),
    /// Nothing for mockers to replay.
    #[error("a mocker deployment replays measured curves, and there are none; phases 4 and 5 must have succeeded")]
    MockerWithoutProfile,
    /// YAML cannot hold it.
    #[error("cannot write the deployment as YAML: {0}")]
    Yaml(String),
}

/// What the user asked for.
///
/// # Errors
/// [`DgdError`] names the thing and the next step.
pub fn generate(request: &Request<'_>) -> Result<Generated, DgdError> {
    let wishes = &request.spec.deployment;
    generate_shape(request, Shape { mocker: wishes.mocker, planner: wishes.planner })
}

/// A given shape of the same decision.
///
/// # Errors
/// [`DgdError`] names the thing and the next step.
pub fn generate_shape(request: &Request<'_>, shape: Shape) -> Result<Generated, DgdError> {
    let spec = request.spec;
    let mut components = component::disaggregated(request, shape)?;
    let mut config_maps = Vec::new();
    if shape.planner {
        let settings = planner::settings(request, shape);
        config_maps.push(planner::add(spec, &settings, &mut components)?);
    }
    if (shape.planner || shape.mocker)
        && let Some(profile) = request.profile
    {
        config_maps.push(planner::add_profile(spec, profile, &mut components));
    }
    let framework = (!shape.mocker).then_some(spec.job.backend);
    let dgd = finish(spec, &spec.deployment.name, framework, &components, spec.deployment.overrides.as_ref())?;
    Ok(Generated { dgd, config_maps })
}

/// All three files of a run.
///
/// # Errors
/// [`DgdError`] names the thing and the next step.
pub fn generate_files(request: &Request<'_>) -> Result<Files, DgdError> {
    let mocker = Shape { mocker: true, planner: true };
    Ok(Files {
        config_with_planner: generate_shape(request, Shape { mocker: false, planner: true })?,
        mocker_config_with_planner: request.profile.map(|_| generate_shape(request, mocker)).transpose()?,
        final_config: generate(request)?,
    })
}

/// The deployment that measures one candidate, or both of its mapping where they share an engine ([`shares_engines`]):
/// one aggregated worker, with the prefix cache on where decoding is timed. Of the user's overrides that holds which
/// says where pods run and what they need (`measured.rs`).
///
/// # Errors
/// [`DgdError`] names the thing and the next step.
pub fn generate_candidate(spec: &RunSpec, candidate: &Candidate) -> Result<Value, DgdError> {
    let backend = spec.job.backend;
    let (name, serves) = if shares_engines(spec) {
        (format!("{backend}-{}", candidate.mapping), Serves::Both)
    } else {
        (format!("{backend}-{}-{}", candidate.role, candidate.mapping), Serves::One(candidate.role))
    };
    let user = spec.deployment.overrides.as_ref().map(|user| measured::overrides(user, candidate.role));
    let spec = Wanted::from(spec);
    finish(spec, &name, Some(backend), &component::alone(spec, candidate.mapping, serves)?, user.as_ref())
}

/// Whether one engine is measured as both candidates of its mapping: unless the user does not want it, or the overrides
/// send prefill and decode to different places, or passes that hold a whole prompt would take memory that a decode
/// engine has for its KV cache.
pub fn shares_engines(spec: &RunSpec) -> bool {
    let Job { model, hardware, backend, workload, .. } = &spec.job;
    let user = spec.deployment.overrides.as_ref();
    let [prefill, decode] = Role::ALL.map(|role| user.map(|user| measured::overrides(user, role)));
    // Of one GPU: the larger an engine, the less of it is on each.
    let reserve = |serves| {
        let tokens = EngineLimits::of(*backend, serves, workload.isl).max_batched_tokens;
        reserve_bytes_per_gpu(model, &Mapping::tensor(1), tokens)
    };
    let taken = (reserve(Serves::Both) - reserve(Serves::One(Role::Decode))) / hardware.gpu.memory_bytes;
    spec.engines.share_engines.unwrap_or(true) && prefill == decode && taken <= LARGEST_SHARED_PASS
}

/// Fraction of a GPU's memory that activations of a shared engine may take from the KV cache. Capacities that engines
/// themselves report vary by as much.
const LARGEST_SHARED_PASS: f64 = 0.02;

/// Steps 2 to 5.
fn finish(
    spec: Wanted<'_>,
    name: &str,
    framework: Option<Backend>,
    components: &[component::Component],
    user: Option<&Value>,
) -> Result<Value, DgdError> {
    let wishes = &spec.deployment;
    if let (DgdApi::V1alpha1, Some(version)) = (wishes.api, &wishes.runtime_version_override) {
        return Err(DgdError::RuntimeVersion(version.clone()));
    }
    let mut dgd = render::dgd(wishes, name, framework, components);
    if let Some(user) = user {
        overrides::apply(&mut dgd, user)?;
    }
    render::tolerate(&mut dgd, &wishes.tolerations);
    names::check(&dgd)?;
    Ok(dgd)
}
