//! The commented file of defaults, embedded in the binary.

use serde::Deserialize;

use super::error::SpecError;
use super::run_spec::SimulationSpec;
use crate::domain::Backend;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Defaults {
    pub v1beta1: ByVersion,
    pub v1alpha1: ByVersion,
    pub dgdr_name: String,
    pub backend: Backend,
    pub model_cache_mount_path: String,
    pub min_isl: u32,
    pub curve_isl_factor: u32,
    pub curve_isl_floor: u32,
    pub sweep: String,
    pub selection: String,
    pub planner: String,
    pub strict_plugins: bool,
    pub seed: u32,
    pub simulation: SimulationSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ByVersion {
    pub isl: u32,
    pub osl: u32,
    pub ttft_ms: f64,
    pub itl_ms: f64,
    pub auto_apply: bool,
}

impl Defaults {
    pub fn load() -> Result<Self, SpecError> {
        serde_yaml::from_str(include_str!("defaults.yaml"))
            .map_err(|error| SpecError::config(format!("the embedded defaults.yaml is broken: {error}")))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_embedded_file_holds_dynamos_defaults() {
        let defaults = super::Defaults::load().unwrap();
        // Dynamo 1.6.1 `dgdr_v1beta1_types.py` and the seed's `profile_sla` flags.
        let beta = &defaults.v1beta1;
        assert_eq!((beta.isl, beta.osl, beta.ttft_ms, beta.itl_ms), (4000, 1000, 2000.0, 30.0));
        let alpha = &defaults.v1alpha1;
        assert_eq!((alpha.isl, alpha.osl, alpha.ttft_ms, alpha.itl_ms), (3000, 500, 50.0, 10.0));
    }
}
