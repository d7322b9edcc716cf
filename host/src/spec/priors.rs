//! `profiler.priors`, `--priors`: a CSV file of known latencies. A run's `measurements.csv` is one.

use std::path::Path;

use super::error::SpecError;
use super::source::read_file;
use crate::domain::Role;
use crate::domain::prior_table::{KnownLatency, PriorTable};

/// Columns by their names, `measurements.csv`'s among them.
struct Columns {
    role: usize,
    mapping: usize,
    /// For both roles, ...
    latency_ms: Option<usize>,
    /// ... or for each.
    ttft_ms: Option<usize>,
    itl_ms: Option<usize>,
    isl: Option<usize>,
    osl: Option<usize>,
    concurrency: Option<usize>,
    relative_error: Option<usize>,
    kv_tokens: Option<usize>,
}

impl Columns {
    fn of(header: &csv::StringRecord, name: &str) -> Result<Self, SpecError> {
        let find = |names: &[&str]| header.iter().position(|column| names.contains(&column.trim()));
        let needed = |names: &[&str]| {
            let wanted = names.join(" or ");
            find(names).ok_or_else(|| {
                SpecError::config(format!("{name} has no column {wanted}")).with_hint(
                    "its first line names the columns: role, mapping and latency_ms (or ttft_ms_mean and itl_ms_mean); \
                     where known isl_tokens, osl_tokens, concurrency, relative_error, kv_tokens",
                )
            })
        };
        let columns = Self {
            role: needed(&["role"])?,
            mapping: needed(&["mapping"])?,
            latency_ms: find(&["latency_ms"]),
            ttft_ms: find(&["ttft_ms_mean", "ttft_ms"]),
            itl_ms: find(&["itl_ms_mean", "itl_ms"]),
            isl: find(&["isl_tokens"]),
            osl: find(&["osl_tokens"]),
            concurrency: find(&["concurrency", "concurrency_asked"]),
            relative_error: find(&["relative_error"]),
            kv_tokens: find(&["kv_tokens"]),
        };
        if columns.ttft_ms.is_none() && columns.itl_ms.is_none() {
            needed(&["latency_ms"])?;
        }
        Ok(columns)
    }

    fn latency(&self, role: Role) -> Option<usize> {
        let own = match role {
            Role::Prefill => self.ttft_ms,
            Role::Decode => self.itl_ms,
        };
        self.latency_ms.or(own)
    }
}

/// Reads the table.
///
/// # Errors
/// If the file cannot be read, a column is missing, or a line makes no sense: names file and line.
pub(super) fn read(path: &Path) -> Result<PriorTable, SpecError> {
    let name = path.display().to_string();
    parse(&read_file(path)?, &name)
}

fn parse(text: &str, name: &str) -> Result<PriorTable, SpecError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(text.as_bytes());
    let broken = |error: csv::Error| SpecError::config(format!("{name}: {error}"));
    let columns = Columns::of(&reader.headers().map_err(broken)?.clone(), name)?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let line = record.position().map_or(0, csv::Position::line);
        let wrong = |what: String| SpecError::config(format!("{name}, line {line}: {what}"));
        let text = |column: Option<usize>| column.and_then(|column| record.get(column)).filter(|text| !text.is_empty());
        let number = |column: Option<usize>, what: &str| match text(column) {
            None => Ok(None),
            Some(text) => match text.parse::<f64>() {
                Ok(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
                _ => Err(wrong(format!("{what} is no number above 0: {text:?}"))),
            },
        };
        let count = |column: Option<usize>, what: &str| match number(column, what)? {
            Some(number) if number > f64::from(u32::MAX) => Err(wrong(format!("{what} is too large: {number}"))),
            number => Ok(number.map(|number| number.round() as u32)),
        };
        let role = match text(Some(columns.role)) {
            Some("prefill") => Role::Prefill,
            Some("decode") => Role::Decode,
            other => return Err(wrong(format!("role is prefill or decode, not {:?}", other.unwrap_or_default()))),
        };
        let Some(mapping) = text(Some(columns.mapping)) else {
            return Err(wrong("mapping is missing; it is a label such as tp4".to_owned()));
        };
        // A row of the other role's curve may have none.
        let Some(latency_ms) = number(columns.latency(role), "the latency")? else { continue };
        let relative_error = number(columns.relative_error, "relative_error")?;
        if relative_error.is_some_and(|error| error >= 1.0) {
            return Err(wrong("relative_error is a fraction below 1".to_owned()));
        }
        rows.push(KnownLatency {
            role,
            mapping: mapping.to_owned(),
            latency_ms,
            isl: count(columns.isl, "isl_tokens")?,
            osl: count(columns.osl, "osl_tokens")?,
            concurrency: count(columns.concurrency, "concurrency")?,
            relative_error,
            kv_tokens: number(columns.kv_tokens, "kv_tokens")?,
        });
    }
    if rows.is_empty() {
        return Err(SpecError::config(format!("{name} says no latency of any candidate")));
    }
    Ok(PriorTable { rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_needs_three_columns_and_may_have_more() {
        let table = parse("role,mapping,latency_ms\nprefill,tp1,60\n# a note\ndecode, tp2 ,5.5\n", "t.csv").unwrap();
        assert_eq!(table.rows.len(), 2);
        assert_eq!((table.rows[1].mapping.as_str(), table.rows[1].latency_ms), ("tp2", 5.5));
        let table = parse("mapping,role,latency_ms,isl_tokens,kv_tokens\ntp1,decode,6,3000,1e6\n", "t.csv").unwrap();
        assert_eq!((table.rows[0].isl, table.rows[0].kv_tokens), (Some(3000), Some(1e6)));
    }

    #[test]
    fn measurements_of_a_run_are_a_table() {
        let text = "phase,role,mapping,isl_tokens,osl_tokens,concurrency_asked,ttft_ms_mean,itl_ms_mean\n\
                    prefill sweep,prefill,tp1,3000,5,1,63.8,\ndecode sweep,decode,tp1,3000,300,64,,9.9\n";
        let rows = parse(text, "measurements.csv").unwrap().rows;
        assert_eq!((rows[0].latency_ms, rows[1].latency_ms, rows[1].concurrency), (63.8, 9.9, Some(64)));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let error = |text: &str| parse(text, "t.csv").unwrap_err().render();
        assert!(error("role,latency_ms\n").contains("no column mapping"), "{}", error("role,latency_ms\n"));
        assert!(error("role,mapping\n").contains("latency_ms"));
        assert!(error("role,mapping,latency_ms\nboth,tp1,3\n").contains("line 2: role is prefill or decode"));
        assert!(error("role,mapping,latency_ms\ndecode,tp1,fast\n").contains("\"fast\""));
        assert!(error("role,mapping,latency_ms\ndecode,tp1,-3\n").contains("no number above 0"));
        assert!(error("role,mapping,latency_ms\n").contains("says no latency"));
    }
}
