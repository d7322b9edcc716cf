//! `raw_data.npz`: the curves as Dynamo's planner, mocker and profiler read them.
//!
//! Keys, types and shapes of Dynamo (1.6.1), which hold for every point:
//!
//! | file | key | type | shape | unit |
//! | --- | --- | --- | --- | --- |
//! | prefill | `prefill_isl` | int64 | N | tokens |
//! | | `prefill_ttft` | float64 | N | ms, mean |
//! | | `prefill_thpt_per_gpu` | float64 | N | input tokens/s/GPU |
//! | decode | `x_kv_usage` | float64 | M | 0 to 1, **as the engine reported it** |
//! | | `y_context_length` | float64 | M | tokens, ISL + OSL/2 |
//! | | `z_itl` | float64 | M | ms, mean |
//! | | `z_thpt_per_gpu` | float64 | M | output tokens/s/GPU |
//! | | `max_kv_tokens` | int64 | 1 | tokens |
//!
//! Keys beside them, which Dynamo's loaders pass over, begin like the column that they explain: `prefill_ttft_…` and
//! `z_itl_…` with `ci_low`, `ci_high` (95 % confidence interval of the mean), `p50`, `p90`, `p99`; `…_samples`,
//! `…_concurrency` (asked for) and `…_concurrency_seen`; `x_kv_usage_nominal`, by arithmetic from the concurrency asked
//! for; `y_isl` and `y_osl`.

use std::io::Cursor;

use ndarray::Array1;
use ndarray_npy::{NpzWriter, WritableElement, WriteNpzError};

use crate::{
    dgd::{DecodeTable, PrefillTable},
    domain::Stat,
};

/// An array cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode raw_data.npz: {0}")]
pub struct NpzError(#[from] WriteNpzError);

/// What is kept of a statistic beside its mean.
const STATISTICS: [(&str, Pick); 5] =
    [("ci_low", |s| s.ci_low), ("ci_high", |s| s.ci_high), ("p50", |s| s.p50), ("p90", |s| s.p90), ("p99", |s| s.p99)];

type Pick = fn(&Stat) -> f64;

/// Contents of `selected_prefill_interpolation/raw_data.npz`.
///
/// # Errors
/// If an array cannot be encoded, which would be a fault of the encoder.
pub fn prefill(table: &PrefillTable) -> Result<Vec<u8>, NpzError> {
    let mut file = File::new();
    let points = &table.points;
    file.column("prefill_isl", points, |p| i64::from(p.isl))?;
    file.column("prefill_ttft", points, |p| p.ttft_ms.mean)?;
    file.column("prefill_thpt_per_gpu", points, |p| p.tokens_per_second_per_gpu)?;
    for (name, of) in STATISTICS {
        file.column(&format!("prefill_ttft_{name}"), points, |p| of(&p.ttft_ms))?;
    }
    file.column("prefill_samples", points, |p| i64::from(p.samples))?;
    file.column("prefill_concurrency", points, |p| i64::from(p.concurrency))?;
    file.column("prefill_concurrency_seen", points, |p| p.concurrency_seen)?;
    file.finish()
}

/// Contents of `selected_decode_interpolation/raw_data.npz`.
///
/// # Errors
/// If an array cannot be encoded, which would be a fault of the encoder.
pub fn decode(table: &DecodeTable) -> Result<Vec<u8>, NpzError> {
    let mut file = File::new();
    let points = &table.points;
    file.column("x_kv_usage", points, |p| p.kv_usage)?;
    file.column("y_context_length", points, |p| p.context_tokens())?;
    file.column("z_itl", points, |p| p.itl_ms.mean)?;
    file.column("z_thpt_per_gpu", points, |p| p.tokens_per_second_per_gpu)?;
    // Shape (1,), not (): Dynamo's planner takes element 0.
    file.column("max_kv_tokens", &[table.max_kv_tokens], |n| i64::from(*n))?;
    file.column("x_kv_usage_nominal", points, |p| p.kv_usage_nominal)?;
    for (name, of) in STATISTICS {
        file.column(&format!("z_itl_{name}"), points, |p| of(&p.itl_ms))?;
    }
    file.column("z_samples", points, |p| i64::from(p.samples))?;
    file.column("z_concurrency", points, |p| i64::from(p.concurrency))?;
    file.column("z_concurrency_seen", points, |p| p.concurrency_seen)?;
    file.column("y_isl", points, |p| i64::from(p.isl))?;
    file.column("y_osl", points, |p| i64::from(p.osl))?;
    file.finish()
}

struct File(NpzWriter<Cursor<Vec<u8>>>);

impl File {
    fn new() -> Self {
        Self(NpzWriter::new(Cursor::new(Vec::new())))
    }

    fn column<P, T: WritableElement>(
        &mut self,
        name: &str,
        points: &[P],
        of: impl Fn(&P) -> T,
    ) -> Result<(), NpzError> {
        let column: Array1<T> = points.iter().map(of).collect();
        Ok(self.0.add_array(name, &column)?)
    }

    fn finish(self) -> Result<Vec<u8>, NpzError> {
        Ok(self.0.finish()?.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_table_gives_the_same_bytes() {
        let table = DecodeTable { points: Vec::new(), max_kv_tokens: 7 };
        assert_eq!(decode(&table).unwrap(), decode(&table).unwrap());
    }
}
