//! What is printed at the end.

use std::time::Duration;

use super::error::AppError;
use super::printer::Printer;
use crate::domain::search_space::SearchSpace;
use crate::phases::dry_run::Prediction;
use crate::run::RunDir;
use crate::spec::RunSpec;

/// x
pub fn dry_run(_p: &Printer, _s: &RunSpec, _space: &SearchSpace, prediction: &Prediction) -> Result<String, AppError> {
    Ok(format!("{prediction:#?}"))
}

/// x
pub fn result(_p: &Printer, result: &[u8], _dir: &RunDir, simulated_s: f64, real: Duration) -> Result<String, AppError> {
    Ok(format!("{}\n{simulated_s} {real:?}", String::from_utf8_lossy(result)))
}
