//! `planner-queueing`: replicas for traffic of several kinds, with what each was promised.
//!
//! As `planner-sla` it counts waiting and the swings of the load. Beyond it: requests of different lengths (a prefill
//! queue M/G/c instead of M/D/c; decode loads that short answers see more of than long ones), a promise for each class of
//! traffic, headroom, growth while new engines start, engines that may be down, and GPUs of two kinds for the two roles.

mod model;
mod traffic;

use sla_profiler_plugin::sizing::{DecodeEngine, MAX_UTILIZATION, PrefillEngine, Replicas};
use sla_profiler_plugin::text::{count, figure};
use sla_profiler_plugin::{
    About, Curves, Demand, Engine, Engines, Error, Job, Plan, PlannerModel, Role, Settings, Workload,
};

use model::{Expected, Model, Pools, Surge};
use traffic::{SYNTAX, Traffic};

/// The model.
#[derive(Debug)]
pub struct PlannerQueueing;

sla_profiler_plugin::export_planner!(PlannerQueueing);

impl PlannerModel for PlannerQueueing {
    fn about() -> About {
        let summary = "Replicas by role for mixed traffic with a promise for each class, headroom and start-up time.";
        About::new("planner-queueing", env!("CARGO_PKG_VERSION"), summary)
            .setting("traffic", "", &format!("classes of requests, each as {SYNTAX}; empty: all are the job's"))
            .setting("headroom", "0", "rate to be served beyond the demand, as a fraction of it, 0 to 10")
            .setting(
                "growth-per-minute",
                "0",
                "how fast the demand may grow, as a fraction of it, 0 to 10; engines serve what it grows to while others start",
            )
            .setting("spare", "0", "engines of each role that may be down, 0 to 64: what the others serve counts")
            .setting("prefill-gpus", "", "GPUs that prefill engines may use, where the roles have GPUs of their own")
            .setting("decode-gpus", "", "the same for decode engines")
            .setting("prefill-gpu-price", "1", "price of a GPU for prefill, in any unit, where the roles' GPUs differ")
            .setting("decode-gpu-price", "1", "the same for decode")
            .setting(
                "max-utilization",
                &MAX_UTILIZATION.to_string(),
                "highest load of an engine, as a fraction of what it could do at most, 0.05 to 0.99",
            )
    }

    fn plan(job: &Job, engines: &Engines, curves: &Curves, demand: &Demand) -> Result<Plan, Error> {
        let question = Question::new(job, engines, curves, demand)?;
        question.answer()
    }
}

/// What is asked, in this planner's terms.
struct Question<'a> {
    job: &'a Job,
    engines: &'a Engines,
    curves: &'a Curves,
    demand: &'a Demand,
    model: Model,
    pools: Pools,
    headroom: f64,
    growth_per_minute: f64,
    own_pools: bool,
}

/// The engines of a plan and the rate that they are for.
struct Answer {
    replicas: Replicas,
    rate: f64,
    meets_demand: bool,
}

impl<'a> Question<'a> {
    fn new(job: &'a Job, engines: &'a Engines, curves: &'a Curves, demand: &'a Demand) -> Result<Self, Error> {
        let settings = Settings::new(PlannerQueueing::about(), job)?;
        let headroom = settings.number("headroom", 0.0..=10.0)?;
        let growth_per_minute = settings.number("growth-per-minute", 0.0..=10.0)?;
        let spare = settings.number("spare", 0..=64)?;
        let max_utilization = settings.number("max-utilization", 0.05..=0.99)?;
        let traffic = Traffic::parse(settings.text("traffic")?, job)?;
        check(demand, &traffic)?;
        let total = job.hardware.total_gpus;
        let pool = |name| settings.optional_number(name, 1..=1_000_000);
        let (prefill_pool, decode_pool) = (pool("prefill-gpus")?, pool("decode-gpus")?);
        let Engines { prefill, decode } = engines;
        let pools = Pools {
            prefill_engine: prefill.gpus.max(1),
            decode_engine: decode.gpus.max(1),
            prefill: prefill_pool.unwrap_or(total).min(total),
            decode: decode_pool.unwrap_or(total).min(total),
            total,
            prefill_price: settings.number("prefill-gpu-price", 1e-6..=1e6)?,
            decode_price: settings.number("decode-gpu-price", 1e-6..=1e6)?,
        };
        let surge = |engine: &Engine| {
            let start_up_minutes = engine.launch_seconds.clamp(0.0, 86_400.0) / 60.0;
            (1.0 + headroom)
                * (1.0 + growth_per_minute * if start_up_minutes.is_nan() { 0.0 } else { start_up_minutes })
        };
        let model = Model {
            servers: prefill.attention_dp.max(1),
            services: services(engines, curves, &traffic)?,
            decode: decode_engine(engines, curves, &traffic)?,
            traffic,
            max_utilization,
            surge: Surge { prefill: surge(prefill), decode: surge(decode) },
            spare,
            out_of_reach: Vec::new(),
        };
        let model = model.within_reach(decode.concurrency);
        let own_pools = prefill_pool.is_some() || decode_pool.is_some();
        Ok(Self { job, engines, curves, demand, model, pools, headroom, growth_per_minute, own_pools })
    }

    fn answer(&self) -> Result<Plan, Error> {
        let demand = self.demand;
        let beyond = || Error::Unsupported(format!("{demand:?} is beyond any cluster of these engines"));
        let wanted = match demand {
            Demand::RequestsPerSecond(rate) => Some(*rate),
            Demand::Concurrency(n) => Some(self.model.rate_of(*n, &self.pools).ok_or_else(beyond)?),
            Demand::Budget => None,
        };
        if let Some(rate) = wanted {
            let replicas = self.model.replicas(rate, &self.pools).ok_or_else(beyond)?;
            if self.pools.hold(replicas) {
                return Ok(self.plan(&Answer { replicas, rate, meets_demand: true }));
            }
        }
        let (replicas, rate) = self.model.within(&self.pools).unwrap_or_else(|| {
            // The least there is, even if the budget is smaller.
            let least = Replicas { prefill: 1, decode: 1 };
            (least, self.model.capacity(least))
        });
        let meets_demand = wanted.is_none() && self.pools.hold(replicas) && replicas.prefill > self.model.spare;
        Ok(self.plan(&Answer { replicas, rate, meets_demand }))
    }

    fn plan(&self, answer: &Answer) -> Plan {
        let Answer { replicas, rate, meets_demand } = *answer;
        let capacity = self.model.capacity(replicas);
        let expected = self.model.expected(replicas, rate);
        let (ttft_ms, itl_ms) = self.hardest(&expected);
        Plan {
            prefill_replicas: replicas.prefill,
            decode_replicas: replicas.decode,
            // Bisection may stop a hair below the rate that the count was chosen for.
            capacity_requests_per_second: if meets_demand { capacity.max(rate) } else { capacity },
            prefill_requests_per_second: self.model.role_capacity(Role::Prefill, replicas.prefill).max(capacity),
            decode_requests_per_second: self.model.role_capacity(Role::Decode, replicas.decode).max(capacity),
            decode_concurrency: (expected.decode_requests.ceil() as u32).max(1),
            expected_ttft_ms: ttft_ms,
            expected_itl_ms: itl_ms,
            meets_sla: self.model.out_of_reach.is_empty(),
            meets_demand,
            assumptions: self.assumptions(answer, &expected),
            extra: vec![],
        }
    }

    /// TTFT and ITL of the objective that is nearest to its targets.
    fn hardest(&self, expected: &Expected) -> (f64, f64) {
        let part = |limit: Option<f64>, ms: f64| limit.map_or(0.0, |limit| ms / limit);
        let both = self.model.traffic.objectives.iter().zip(&expected.objectives);
        let nearness = |(objective, (ttft, itl)): &(&traffic::Objective, &(f64, f64))| {
            part(objective.sla.ttft_ms, *ttft).max(part(objective.sla.itl_ms, *itl))
        };
        both.max_by(|a, b| nearness(a).total_cmp(&nearness(b))).map_or((f64::NAN, f64::NAN), |(_, figures)| *figures)
    }

    fn assumptions(&self, answer: &Answer, expected: &Expected) -> Vec<String> {
        let Answer { replicas, rate, meets_demand } = *answer;
        let (model, pools) = (&self.model, &self.pools);
        let mut said = Vec::new();
        match model.traffic.classes.as_slice() {
            [only] => said.push(format!(
                "Requests arrive at random (Poisson), each with {} input and {} output tokens.",
                only.isl, only.osl
            )),
            several => said.push(format!(
                "Requests arrive at random (Poisson): {}.",
                several
                    .iter()
                    .map(|c| format!(
                        "{} % {} with {} input and {} output tokens",
                        figure(c.share * 100.0),
                        c.name,
                        c.isl,
                        c.osl
                    ))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
        }
        said.push(format!(
            "Prompts of all kinds wait in one line before {}, each of which takes the measured time of its length (M/G/c).",
            count(replicas.prefill, "prefill engine")
        ));
        said.push(format!(
            "Each request goes to the least busy of {}; ITL at the load that this brings about, swings included.",
            count(replicas.decode, "decode engine")
        ));
        if model.traffic.objectives.len() > 1 {
            for (objective, (ttft, itl)) in model.traffic.objectives.iter().zip(&expected.objectives) {
                let statistic = objective.sla.quantile.map_or("mean".to_owned(), |q| format!("p{}", figure(q * 100.0)));
                said.push(format!(
                    "{}: TTFT {} ms, ITL {} ms ({statistic}).",
                    objective.name,
                    figure(*ttft),
                    figure(*itl)
                ));
            }
        }
        let surge = model.surge.prefill.max(model.surge.decode);
        if surge > 1.0 {
            let launch = self.engines.prefill.launch_seconds.max(self.engines.decode.launch_seconds);
            said.push(format!(
                "{} % more than the demand is served: headroom of {} %, and growth of {} % per minute while engines start ({} s).",
                figure((surge - 1.0) * 100.0),
                figure(self.headroom * 100.0),
                figure(self.growth_per_minute * 100.0),
                figure(launch),
            ));
        }
        if model.spare > 0 {
            said.push(format!("{} of each role may be down at any time.", count(model.spare, "engine")));
        }
        said.push(format!(
            "No engine is loaded beyond {} % of what it could do.",
            figure(model.max_utilization * 100.0)
        ));
        said.push("Sending the KV cache from prefill to decode engines costs nothing.".to_owned());
        match self.demand {
            Demand::Concurrency(n) => {
                said.push(format!("{n} requests in flight are {} requests/s, by Little's law.", figure(rate)));
            }
            Demand::Budget if meets_demand => said.push(format!(
                "No demand was given: this is what {} serve, {} of them used.",
                count(pools.total, "GPU"),
                pools.gpus(replicas)
            )),
            Demand::RequestsPerSecond(_) | Demand::Budget => {}
        }
        if !meets_demand {
            let of_which = if self.own_pools {
                format!(" ({} for prefill, {} for decode)", pools.prefill, pools.decode)
            } else {
                String::new()
            };
            said.push(if pools.hold(replicas) {
                format!(
                    "The demand needs more than {}{of_which}; this is the best within them.",
                    count(pools.total, "GPU")
                )
            } else {
                format!(
                    "One prefill {} and one decode {} do not fit the {}{of_which} that may be used.",
                    self.engines.prefill.label,
                    self.engines.decode.label,
                    count(pools.total, "GPU")
                )
            });
        }
        for target in &model.out_of_reach {
            said.push(format!(
                "These engines miss the {target} target even without load; they are sized to keep up, not to meet it."
            ));
        }
        let isls = || self.curves.prefill.rows().map(|m| m.isl);
        if let (Some(least), Some(most)) = (isls().min(), isls().max()) {
            for class in model.traffic.classes.iter().filter(|class| !(least..=most).contains(&class.isl)) {
                said.push(format!(
                    "Prefill {} was measured at {least} to {most} input tokens; {} lie outside.",
                    self.engines.prefill.label, class.isl
                ));
            }
        }
        if self.own_pools || pools.prefill_price != pools.decode_price {
            said.push(format!(
                "The roles' GPUs are told apart by number and price only; both engines were measured on {}.",
                self.job.hardware.gpu
            ));
        }
        said
    }
}

fn check(demand: &Demand, traffic: &Traffic) -> Result<(), Error> {
    let bad_demand = match demand {
        Demand::RequestsPerSecond(rate) => !(rate.is_finite() && *rate > 0.0 && *rate < 1e6),
        Demand::Concurrency(n) => *n == 0,
        Demand::Budget => false,
    };
    if bad_demand {
        return Err(Error::Unsupported(format!(
            "there is no deployment for {demand:?}: it has to be a number above 0"
        )));
    }
    let quantiles = traffic.objectives.iter().filter_map(|objective| objective.sla.quantile);
    if quantiles.into_iter().any(|q| !(q > 0.0 && q < 1.0)) {
        return Err(Error::Unsupported("the SLA's quantile has to lie between 0 and 1".to_owned()));
    }
    Ok(())
}

fn missing(role: &str, engine: &Engine) -> Error {
    Error::Other(format!("nothing was measured of {role} {}, so there is no curve to plan with", engine.label))
}

/// TTFT of each class's prompt.
fn services(
    engines: &Engines,
    curves: &Curves,
    traffic: &Traffic,
) -> Result<Vec<sla_profiler_plugin::sizing::Latency>, Error> {
    let engine = &engines.prefill;
    let of = |class: &traffic::Class| {
        let (dp, gpus) = (engine.attention_dp.max(1), engine.gpus.max(1));
        let measured = PrefillEngine::from_measurements(curves.prefill.rows(), class.isl, dp, gpus);
        measured.map(|engine| engine.service).ok_or_else(|| missing("prefill", engine))
    };
    traffic.classes.iter().map(of).collect()
}

/// The engine for requests of the traffic's mean length and context.
fn decode_engine(engines: &Engines, curves: &Curves, traffic: &Traffic) -> Result<DecodeEngine, Error> {
    let engine = &engines.decode;
    let osl = (traffic.osl().round() as u32).max(1);
    let isl = (traffic.context() - f64::from(osl) / 2.0).round().max(0.0) as u32;
    DecodeEngine::from_measurements(
        curves.decode.rows(),
        Workload { isl, osl },
        engine.gpus.max(1),
        engine.kv_tokens,
        engine.max_running,
    )
    .ok_or_else(|| missing("decode", engine))
}

#[cfg(test)]
mod tests;
