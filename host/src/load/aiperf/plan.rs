//! How many requests a run of AIPerf sends, and where its files go. Pure.

use super::records::Export;
use super::report::{samples, verdict};
use crate::domain::stats::MIN_SAMPLES;
use crate::load::stopping::{fewest_samples, figure};
use crate::load::{Point, Prompts, Traffic, Watch};

/// Runs of one point. Each costs seconds; the second is sized by what the first found, so a third is rare.
pub(super) const MOST_RUNS: u32 = 3;

/// The second run is this much longer than the first one's spread says: spread, too, is an estimate.
const RESERVE: f64 = 1.2;

/// Folder of a point's files below the candidate's, named as NVIDIA's profiler does.
pub(super) fn folder(point: &Point) -> String {
    let Point { isl, osl, .. } = point;
    match (point.traffic, point.prompts) {
        (Traffic::Closed { concurrency: 1 }, Prompts::Unique) => format!("aiperf_isl{isl}"),
        (Traffic::Closed { concurrency: n }, Prompts::Unique) => format!("aiperf_isl{isl}_n{n}"),
        (Traffic::Closed { concurrency: n }, Prompts::Shared) => format!("aiperf_request{n}_isl{isl}_osl{osl}_n{n}"),
        (Traffic::Poisson { requests_per_second }, _) => {
            format!("aiperf_isl{isl}_osl{osl}_poisson{requests_per_second}")
        }
        (Traffic::Constant { requests_per_second }, _) => format!("aiperf_isl{isl}_osl{osl}_rate{requests_per_second}"),
    }
}

/// Requests of the next run, after what is known; none when that is enough.
///
/// A run of a closed loop has whole waves, so that no wave is thinner than asked for, and one wave if that gives enough
/// samples: AIPerf then sends all at once and does not wait between requests. An open loop is one run: its queue has to
/// grow as it grows for users.
pub(super) fn next(point: &Point, known: &Export) -> Option<u32> {
    let have = u32::try_from(known.requests.len() + known.failures.len()).unwrap_or(u32::MAX);
    let most = point.max_requests.saturating_sub(have);
    let Traffic::Closed { concurrency } = point.traffic else {
        return (have == 0).then_some(point.max_requests);
    };
    let fewest = u32::try_from(fewest_samples(point.quantile).max(MIN_SAMPLES)).unwrap_or(u32::MAX);
    let wanted = if have == 0 {
        fewest
    } else if most == 0 || verdict(point, known).is_some() {
        return None;
    } else {
        needed(point, known).unwrap_or(fewest)
    };
    let waves = wanted.min(most).div_ceil(concurrency).max(1);
    let requests = waves.saturating_mul(concurrency);
    if requests <= most {
        return Some(requests);
    }
    // Less than a wave is left over: the first run takes what it may, a later one would only thin the load.
    match most / concurrency {
        0 => (have == 0).then_some(most),
        whole => Some(whole * concurrency),
    }
}

/// More requests that should bring the watched interval to the width that is asked for: it falls with their root.
fn needed(point: &Point, known: &Export) -> Option<u32> {
    let watched: &[Watch] = match point.watch {
        Watch::Both => &[Watch::Ttft, Watch::Itl],
        Watch::Ttft => &[Watch::Ttft],
        Watch::Itl => &[Watch::Itl],
    };
    let wanted = watched.iter().filter_map(|watch| {
        let figure = figure(&samples(point, known, *watch), point.quantile, None)?;
        let ratio = figure.target.relative_half_width() / point.relative_precision;
        let total = f64::from(figure.samples) * ratio * ratio * RESERVE;
        Some((total - f64::from(figure.samples)).clamp(1.0, f64::from(u32::MAX)).ceil() as u32)
    });
    wanted.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Probe, Role, Sla};
    use crate::load::aiperf::records::tests::exported;

    fn sla() -> Sla {
        Sla { ttft_ms: None, itl_ms: None, e2e_ms: None, quantile: None }
    }

    fn point(role: Role, concurrency: u32, max_samples: u32) -> Point {
        let probe = Probe { candidate: 0, isl: 3000, osl: 150, concurrency, relative_precision: 0.05, max_samples };
        Point::of(role, &probe, crate::domain::Aim::Compare, &sla(), 1)
    }

    #[test]
    fn files_lie_under_the_names_of_the_seed_document() {
        assert_eq!(folder(&point(Role::Prefill, 1, 50)), "aiperf_isl3000");
        assert_eq!(folder(&point(Role::Decode, 64, 1000)), "aiperf_request64_isl3000_osl150_n64");
        assert_eq!(folder(&Point::open_loop(3000, 150, 2.5, 100, &sla(), 1)), "aiperf_isl3000_osl150_poisson2.5");
    }

    #[test]
    fn the_first_run_is_one_wave_where_that_is_enough() {
        let first = |point: &Point| next(point, &Export::default());
        assert_eq!(first(&point(Role::Decode, 64, 150 * 4)), Some(64));
        assert_eq!(first(&point(Role::Prefill, 1, 50)), Some(8), "the fewest samples for a mean");
        assert_eq!(first(&point(Role::Prefill, 3, 50)), Some(9), "whole waves");
        assert_eq!(first(&point(Role::Prefill, 1, 5)), Some(5), "no more than allowed");
        assert_eq!(first(&point(Role::Prefill, 4, 7)), Some(4), "whole waves below the cap");
        assert_eq!(first(&point(Role::Prefill, 16, 7)), Some(7));
        assert_eq!(first(&Point { quantile: Some(0.95), ..point(Role::Prefill, 1, 500) }), Some(72));
        assert_eq!(first(&Point::open_loop(3000, 150, 2.5, 100, &sla(), 1)), Some(100));
    }

    #[test]
    fn the_second_run_is_as_long_as_the_spread_asks() {
        let steady = exported(&[100.0, 101.0, 99.0, 100.0, 101.0, 99.0, 100.0, 100.0], 150);
        assert_eq!(next(&point(Role::Prefill, 1, 500), &steady), None, "precise enough");
        let spread = exported(&[100.0, 150.0, 60.0, 130.0, 80.0, 120.0, 90.0, 100.0], 150);
        let more = next(&point(Role::Prefill, 1, 500), &spread).unwrap();
        assert!((100..400).contains(&more), "{more}");
        assert_eq!(next(&point(Role::Prefill, 1, 20), &spread), Some(12), "up to the cap");
        assert_eq!(next(&point(Role::Prefill, 1, 8), &spread), None, "the cap is met");
        assert_eq!(next(&point(Role::Prefill, 16, 20), &spread), None, "less than a wave is left");
        assert_eq!(next(&Point::open_loop(3000, 150, 2.5, 100, &sla(), 1), &spread), None, "one run");
    }
}
