//! `select-power`: lowest cost per million tokens among the engines that stay below a power cap.
//!
//! What a GPU draws rises linearly from `idle-watts` to `full-watts` with its throughput, relative to the highest that
//! any engine of its role reached: the usual first model of a server's power (Fan et al., ISCA 2007). The energy comes on
//! top of the price of the GPU's time.

use sla_profiler_plugin::text::figure;
use sla_profiler_plugin::{
    About, Candidates, Choice, Demand, Error, History, Job, Measurement, Role, Selection, SelectionPolicy, Settings,
    best_per_candidate,
};

/// The policy.
#[derive(Debug)]
pub struct SelectPower;

sla_profiler_plugin::export_selection!(SelectPower);

impl SelectionPolicy for SelectPower {
    fn about() -> About {
        About::new("select-power", env!("CARGO_PKG_VERSION"), "Lowest cost per million tokens under a power cap.")
            .setting("gpu-hour-price", "2.5", "price of one GPU for one hour, 0.001 to 1000")
            .setting("kwh-price", "0.2", "price of one kWh in the same currency, 0 to 100")
            .setting("idle-watts", "150", "what an idle GPU draws, 0 to 10000")
            .setting("full-watts", "700", "what a GPU draws at the highest throughput measured, 1 to 10000")
            .setting("engine-watts", "5600", "power cap of one engine, 1 to 10000000")
    }

    fn select(job: &Job, _: &Demand, candidates: &Candidates, history: &History) -> Result<Selection, Error> {
        let settings = Settings::new(Self::about(), job)?;
        if job.sla.e2e_ms.is_some() {
            let reason = "select-power ranks by TTFT and ITL, not by an end-to-end target";
            return Err(Error::Unsupported(reason.to_owned()));
        }
        let power = Power {
            gpu_hour_price: settings.number("gpu-hour-price", 0.001..=1e3)?,
            kwh_price: settings.number("kwh-price", 0.0..=100.0)?,
            idle_watts: settings.number("idle-watts", 0.0..=1e4)?,
            full_watts: settings.number("full-watts", 1.0..=1e4)?,
            engine_watts: settings.number("engine-watts", 1.0..=1e7)?,
        };
        if power.idle_watts > power.full_watts {
            return Err(Error::BadSetting("idle-watts is above full-watts".to_owned()));
        }
        let mut notes = Vec::new();
        let mut rank = |role| {
            let ranking = power.rank(job, role, candidates, history);
            if ranking.is_empty() {
                let role = if role == Role::Prefill { "prefill" } else { "decode" };
                notes.push(format!("no measured {role} engine stays below {} W", figure(power.engine_watts)));
            }
            ranking
        };
        let (prefill, decode) = (rank(Role::Prefill), rank(Role::Decode));
        Ok(Selection { prefill, decode, notes })
    }
}

struct Power {
    gpu_hour_price: f64,
    kwh_price: f64,
    idle_watts: f64,
    full_watts: f64,
    engine_watts: f64,
}

impl Power {
    fn rank(&self, job: &Job, role: Role, candidates: &Candidates, history: &History) -> Vec<Choice> {
        let at_the_jobs_lengths = |m: &Measurement| {
            candidates.role_of(m.candidate) == Some(role)
                && m.isl == job.workload.isl
                && (role == Role::Prefill || m.osl == job.workload.osl)
                && m.tokens_per_second_per_gpu(role) > 0.0
        };
        let mut points: Vec<_> = history.measurements.rows().filter(at_the_jobs_lengths).collect();
        // Of equally good points the first wins, whatever the order of the input.
        points.sort_by_key(|m| m.concurrency);
        let highest = points.iter().map(|m| m.tokens_per_second_per_gpu(role)).fold(0.0, f64::max);
        let limit_ms = job.sla.limit_ms(role);
        best_per_candidate(points.iter().filter_map(|m| {
            let rate = m.tokens_per_second_per_gpu(role);
            let latency_ms = m.latency_ms(role)?.target;
            let gpu_watts = self.idle_watts + (self.full_watts - self.idle_watts) * rate / highest;
            let watts = gpu_watts * f64::from(candidates.get(m.candidate)?.gpus);
            if watts > self.engine_watts {
                return None;
            }
            let per_hour = self.gpu_hour_price + self.kwh_price * gpu_watts / 1e3;
            let cost = per_hour / (rate * 3600.0) * 1e6;
            let meets_sla = limit_ms.is_none_or(|limit| latency_ms <= limit);
            Some(Choice {
                candidate: m.candidate,
                concurrency: m.concurrency,
                meets_sla,
                score: if meets_sla { -cost } else { -latency_ms },
                reason: format!("{} per million tokens, {} W, {} ms", figure(cost), figure(watts), figure(latency_ms)),
                binding: match (meets_sla, role) {
                    (true, _) => "",
                    (false, Role::Prefill) => "ttft",
                    (false, Role::Decode) => "itl",
                }
                .to_owned(),
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sla_profiler_plugin::testing::{candidate, decode_point, job, prefill_point};

    fn select(settings: &[(&str, &str)]) -> Result<Selection, Error> {
        let mut candidates = Candidates::empty();
        candidates.push(candidate(Role::Prefill, "tp1", 1));
        candidates.push(candidate(Role::Decode, "tp1", 1));
        candidates.push(candidate(Role::Decode, "tp8", 8));
        let mut history = History::empty();
        history.measurements.push(prefill_point(0, 3000, 1, 100.0));
        for (id, load, itl_ms) in [(1, 8, 10.0), (1, 16, 15.0), (1, 64, 30.0), (2, 32, 12.0)] {
            history.measurements.push(decode_point(id, 3000, 150, load, itl_ms));
        }
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        SelectPower::select(&Job { settings, ..job() }, &Demand::Budget, &candidates, &history)
    }

    #[test]
    fn the_cheapest_point_within_the_sla_wins() {
        let decode = select(&[]).unwrap().decode;
        assert_eq!(decode.iter().map(|c| (c.candidate, c.concurrency)).collect::<Vec<_>>(), [(2, 32), (1, 16)]);
        assert!(decode.iter().all(|c| c.meets_sla));
    }

    #[test]
    fn an_engine_above_the_cap_is_left_out() {
        let selection = select(&[("engine-watts", "1000")]).unwrap();
        assert_eq!(selection.decode.iter().map(|c| c.candidate).collect::<Vec<_>>(), [1]);
        let none = select(&[("engine-watts", "10")]).unwrap();
        assert!(none.decode.is_empty() && none.notes.len() == 2);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        assert!(select(&[("idle-watts", "800")]).is_err());
        assert!(select(&[("kwh-price", "cheap")]).is_err());
    }
}
