//! The prior, and how wrong it was so far. It may order and prune, never decide.
//!
//! Whatever was measured has a residual: the logarithm of measured over expected. Their mean corrects the prior of the
//! candidates that were not measured; the band around it is the smaller of what the prior claims and what the residuals
//! say of the next one (Student's t), once some residuals keep to the claim. Before that, and if they do not, it is wider.

use std::collections::BTreeMap;

use sla_profiler_plugin::{Candidate, Role};

use crate::{Loads, Sweep};

/// The band is never narrower: engines differ by so much from run to run.
const NARROWEST: f64 = 0.05;

/// Residuals after which a claim that they bear out is believed.
const TRUSTED: usize = 4;

/// 0.975 quantiles of Student's t for 1, 2, … degrees of freedom.
const STUDENT: [f64; 10] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23];

/// How the prior is to be read for a role.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Belief {
    /// True time is the prior's times this, ...
    pub(crate) factor: f64,
    /// ... times or divided by this at most.
    pub(crate) band: f64,
    /// Candidates that this was learnt from.
    pub(crate) learnt_from: usize,
}

impl Belief {
    /// For a person.
    pub(crate) fn text(&self) -> String {
        let (off, band) = ((self.factor - 1.0) * 100.0, (self.band - 1.0) * 100.0);
        format!("prior off by {off:+.0} %, ± {band:.0} %, learnt from {}", self.learnt_from)
    }
}

/// `tp1:1=5.1,64=9;tp2:1=3.4,64=6`
pub(crate) fn table(text: &str) -> Result<BTreeMap<&str, Loads>, String> {
    let mut table = BTreeMap::new();
    for row in text.split(';').map(str::trim).filter(|row| !row.is_empty()) {
        let wrong = || format!("prior-table: `{row}` is not LABEL:REQUESTS=ITL,...");
        let (label, points) = row.split_once(':').ok_or_else(wrong)?;
        let mut loads = Loads::new();
        for point in points.split(',') {
            let (requests, itl_ms) = point.split_once('=').ok_or_else(wrong)?;
            let requests: f64 = requests.trim().parse().map_err(|_| wrong())?;
            let itl_ms: f64 = itl_ms.trim().parse().map_err(|_| wrong())?;
            if !(requests >= 1.0 && requests.is_finite() && itl_ms > 0.0 && itl_ms.is_finite()) {
                return Err(wrong());
            }
            loads.push((requests, itl_ms));
        }
        loads.sort_by(|a, b| a.0.total_cmp(&b.0));
        loads.dedup_by(|later, kept| later.0 == kept.0);
        table.insert(label.trim(), loads);
    }
    Ok(table)
}

/// By a power law between neighbours; beyond the ends, that of the last two.
fn at(loads: &Loads, requests: f64) -> Option<f64> {
    let above = loads.partition_point(|p| p.0 < requests).clamp(1, loads.len().max(2) - 1);
    match (loads.get(above - 1), loads.get(above)) {
        (Some(a), Some(b)) => {
            let slope = (b.1 / a.1).ln() / (b.0 / a.0).ln();
            Some(a.1 * (requests / a.0).powf(slope.max(0.0)))
        }
        (Some(only), None) => Some(only.1),
        _ => None,
    }
}

impl Sweep<'_> {
    /// What the prior expects of a decode candidate at this load.
    pub(crate) fn expected_itl_ms(&self, candidate: &Candidate<'_>, requests: f64) -> Option<f64> {
        at(self.table.get(candidate.label)?, requests)
    }

    /// The most requests at which the prior times `factor` is within the limit, by bisection; less than one per rank where
    /// there are none.
    pub(crate) fn expected_crossing(
        &self,
        candidate: &Candidate<'_>,
        factor: f64,
        limit_ms: f64,
        most: f64,
    ) -> Option<f64> {
        let loads = self.table.get(candidate.label)?;
        let meets = |n: f64| at(loads, n).is_some_and(|itl_ms| itl_ms * factor <= limit_ms);
        let (mut low, mut high) = (f64::from(candidate.attention_dp), most);
        if meets(high) {
            return Some(high);
        }
        if !meets(low) {
            return Some(0.0);
        }
        while high / low > 1.001 {
            let middle = (low * high).sqrt();
            if meets(middle) { low = middle } else { high = middle }
        }
        Some(low)
    }

    /// Measured over expected, as a logarithm; none where one of the two is missing.
    pub(crate) fn residual(&self, candidate: &Candidate<'_>) -> Option<f64> {
        let (isl, osl) = (self.job.workload.isl, self.job.workload.osl);
        let rows = self.history.measurements.of(candidate.id).filter(|m| m.isl == isl);
        let all: Vec<f64> = match candidate.role {
            Role::Prefill => {
                let expected = candidate.prior_latency_ms?;
                rows.filter_map(|m| Some((m.ttft_ms?.mean / expected).ln())).collect()
            }
            Role::Decode => rows
                .filter(|m| m.osl == osl)
                .filter_map(|m| {
                    let running = m.concurrency_seen.max(f64::from(candidate.attention_dp));
                    Some((m.itl_ms?.mean / self.expected_itl_ms(candidate, running)?).ln())
                })
                .collect(),
        };
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        mean.is_finite().then_some(mean)
    }

    /// What the residuals of the role make of the candidate's prior.
    pub(crate) fn belief(&self, candidate: &Candidate<'_>) -> Belief {
        let [prefill, decode] = self.residuals.get_or_init(|| {
            [Role::Prefill, Role::Decode].map(|r| self.candidates.of(r).filter_map(|c| self.residual(&c)).collect())
        });
        let residuals = if candidate.role == Role::Prefill { prefill } else { decode };
        let claimed = (1.0 + candidate.prior_relative_error.filter(|e| *e >= 0.0).unwrap_or(f64::INFINITY)).ln();
        let n = residuals.len() as f64;
        let learnt_from = residuals.len();
        if residuals.is_empty() {
            return Belief { factor: 1.0, band: claimed.exp(), learnt_from };
        }
        let mean = residuals.iter().sum::<f64>() / n;
        let worst = residuals.iter().map(|r| (r - mean).abs()).fold(0.0, f64::max);
        let predicted = match STUDENT.get(learnt_from.saturating_sub(2).min(STUDENT.len() - 1)) {
            Some(t) if learnt_from > 1 => {
                let variance = residuals.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0);
                t * (variance * (1.0 + 1.0 / n)).sqrt()
            }
            _ => f64::INFINITY,
        };
        // A prior may claim too much; what it claims counts for more with each residual that bears it out.
        let keeps_word = worst <= claimed && (learnt_from > 1 || mean.abs() <= claimed);
        let band = match (keeps_word, learnt_from) {
            (true, 1..TRUSTED) => claimed * (1.0 + 1.0 / n),
            (true, _) => predicted.min(claimed),
            (false, 1) => (2.0 * claimed).max(2.0 * mean.abs()),
            (false, _) => predicted.max(2.0 * claimed),
        };
        Belief { factor: mean.exp(), band: band.max(NARROWEST.ln_1p()).exp(), learnt_from }
    }
}
