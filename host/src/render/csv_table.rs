//! `measurements.csv`: every measurement of a run, one a line, with interval and number of samples.

use std::fmt::Display;

use crate::domain::{Candidate, Measurement, Stat};

/// A measurement with what it belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// For which phase it was measured.
    pub phase: &'a str,
    /// Whose.
    pub candidate: &'a Candidate,
    /// What.
    pub measurement: &'a Measurement,
    /// The earlier run from which it was taken over, if it was.
    pub reused_from: Option<&'a str>,
}

/// The table cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write measurements.csv: {0}")]
pub struct CsvError(String);

const COLUMNS: [&str; 35] = [
    "phase",
    "candidate",
    "role",
    "mapping",
    "gpus",
    "isl_tokens",
    "osl_tokens",
    "concurrency_asked",
    "concurrency_seen",
    "ttft_ms_mean",
    "ttft_ms_ci95_low",
    "ttft_ms_ci95_high",
    "ttft_ms_p50",
    "ttft_ms_p90",
    "ttft_ms_p99",
    "ttft_ms_sla_statistic",
    "itl_ms_mean",
    "itl_ms_ci95_low",
    "itl_ms_ci95_high",
    "itl_ms_p50",
    "itl_ms_p90",
    "itl_ms_p99",
    "itl_ms_sla_statistic",
    "samples",
    "failed_requests",
    "input_tokens_per_second_per_gpu",
    "output_tokens_per_second_per_gpu",
    "kv_usage_measured",
    "kv_usage_nominal",
    "duration_s",
    "tp",
    "pp",
    "attention_dp",
    "moe_ep",
    "reused_from",
];

/// The table with a heading. What was not measured is an empty cell.
///
/// # Errors
/// If a row cannot be written, which would be a fault of the writer.
pub fn measurements<'a>(rows: impl IntoIterator<Item = Row<'a>>) -> Result<String, CsvError> {
    let failed = |e: &dyn Display| CsvError(e.to_string());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).map_err(|e| failed(&e))?;
    for row in rows {
        writer.write_record(record(&row)).map_err(|e| failed(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|e| failed(&e))
}

fn record(row: &Row<'_>) -> Vec<String> {
    let (c, m) = (row.candidate, row.measurement);
    let mut cells = vec![
        row.phase.to_owned(),
        m.candidate.to_string(),
        c.role.to_string(),
        c.mapping.label(),
        c.gpus().to_string(),
        m.isl.to_string(),
        m.osl.to_string(),
        m.concurrency.to_string(),
        figure(m.concurrency_seen),
    ];
    cells.extend(stat(m.ttft_ms.as_ref()));
    cells.extend(stat(m.itl_ms.as_ref()));
    cells.extend([m.samples.to_string(), m.failed_requests.to_string()]);
    let figures = [
        m.input_tokens_per_second_per_gpu,
        m.output_tokens_per_second_per_gpu,
        m.kv_usage,
        m.kv_usage_nominal,
        m.duration_s,
    ];
    cells.extend(figures.map(figure));
    let map = c.mapping;
    cells.extend([map.tp, map.pp, map.attention_dp, map.moe_ep].map(|n| n.to_string()));
    cells.push(row.reused_from.unwrap_or_default().to_owned());
    cells
}

fn stat(stat: Option<&Stat>) -> [String; 7] {
    stat.map_or_else(Default::default, |s| [s.mean, s.ci_low, s.ci_high, s.p50, s.p90, s.p99, s.target].map(figure))
}

fn figure(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Mapping, Role, candidate::Prior};

    #[test]
    fn every_column_has_a_cell_and_what_is_missing_is_empty() {
        let prior = Prior { latency_ms: 1.0, tokens_per_second_per_gpu: 1.0, relative_error: 0.0, kv_tokens: 1.0 };
        let candidate = Candidate { role: Role::Decode, mapping: Mapping::tensor(4), prior };
        let itl = Stat { mean: 10.5, p50: 10.0, p90: 11.0, p99: f64::NAN, ci_low: 10.4, ci_high: 10.6, target: 10.5 };
        let measurement = Measurement {
            candidate: 3,
            isl: 3000,
            osl: 150,
            concurrency: 64,
            concurrency_seen: 61.5,
            ttft_ms: None,
            itl_ms: Some(itl),
            samples: 500,
            failed_requests: 0,
            input_tokens_per_second_per_gpu: 0.0,
            output_tokens_per_second_per_gpu: 1500.25,
            kv_usage: 0.5,
            kv_usage_nominal: 0.6,
            duration_s: 12.0,
        };
        let row = Row { phase: "decode, sweep", candidate: &candidate, measurement: &measurement, reused_from: None };
        let text = measurements([row]).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap().len(), COLUMNS.len());
        let line = reader.records().next().unwrap().unwrap();
        let cell = |name: &str| line.get(COLUMNS.iter().position(|c| *c == name).unwrap()).unwrap();
        assert_eq!(cell("phase"), "decode, sweep");
        assert_eq!(cell("ttft_ms_mean"), "");
        assert_eq!((cell("itl_ms_mean"), cell("itl_ms_p99")), ("10.5", ""));
        assert_eq!((cell("samples"), cell("kv_usage_measured"), cell("moe_ep")), ("500", "0.5", "1"));
    }
}
