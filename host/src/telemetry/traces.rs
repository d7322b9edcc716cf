//! A run as a trace: the run, its phases, the engines, their launches and measurements.
//!
//! Times are those of the cluster's clock, counted from the moment when the run began in reality.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::TelemetryError;
use super::otlp::{BATCH_DEADLINE, Collector};
use crate::domain::{Candidate, CandidateId, History, Probe};
use crate::http::Origin;
use crate::run::{Event, Observer, Phase, Record, Retry};

/// Spans that are left when the run ends are tried for so long.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// Where collectors take traces, below their base (OTLP 1.0, "OTLP/HTTP request").
const PATH: &str = "/v1/traces";

/// Follows a run. What is still open when it is dropped ends then, and the last spans are sent.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    began: SystemTime,
    last_s: f64,
    run: Option<Context>,
    /// Sweeps may run side by side.
    phases: Vec<(Phase, Context)>,
    engines: BTreeMap<CandidateId, Engine>,
    candidates: Vec<Candidate>,
}

/// Spans of an engine that is there.
struct Engine {
    whole: Context,
    /// The launch, or the measurement, that is under way.
    now: Option<Context>,
}

impl Traces {
    /// To the collector whose base is `url`, `http://host:4318` for example. `OTEL_EXPORTER_OTLP_HEADERS` counts.
    ///
    /// # Errors
    /// If that is no URL.
    pub fn to(url: &str) -> Result<Self, TelemetryError> {
        let wrong = |reason: &dyn std::fmt::Display| TelemetryError::Collector(reason.to_string());
        let origin: Origin = url.trim_end_matches('/').trim_end_matches(PATH).parse().map_err(|error| wrong(&error))?;
        let endpoint = format!("{origin}{}", origin.target(PATH));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector { origin })
            .with_protocol(Protocol::HttpJson)
            .with_endpoint(endpoint)
            .with_timeout(BATCH_DEADLINE)
            .build()
            .map_err(|error| wrong(&error))?;
        let resource = Resource::builder()
            .with_service_name("sla-profiler")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Ok(Self {
            tracer: provider.tracer("sla-profiler"),
            provider,
            began: SystemTime::now(),
            last_s: 0.0,
            run: None,
            phases: Vec::new(),
            engines: BTreeMap::new(),
            candidates: Vec::new(),
        })
    }

    fn time(&self, at_s: f64) -> SystemTime {
        self.began + Duration::try_from_secs_f64(at_s).unwrap_or_default()
    }

    fn begin(&self, name: String, at_s: f64, parent: Option<&Context>, attributes: Vec<KeyValue>) -> Context {
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(self.time(at_s))
            .with_attributes(attributes);
        let root = Context::new();
        let span = self.tracer.build_with_context(builder, parent.unwrap_or(&root));
        root.with_span(span)
    }

    fn end(&self, context: Option<Context>, at_s: f64, failed: Option<&str>) {
        let Some(context) = context else { return };
        if let Some(reason) = failed {
            context.span().set_status(Status::error(reason.to_owned()));
        }
        context.span().end_with_timestamp(self.time(at_s));
    }

    fn name(&self, id: CandidateId) -> String {
        self.candidates.get(id as usize).map_or_else(|| id.to_string(), |c| format!("{} {}", c.role, c.mapping.label()))
    }

    fn launching(&mut self, id: CandidateId, at_s: f64) {
        let gpus = self.candidates.get(id as usize).map_or(0, Candidate::gpus);
        let about = vec![KeyValue::new("gpus", i64::from(gpus)), KeyValue::new("candidate", i64::from(id))];
        let whole = self.begin(format!("engine {}", self.name(id)), at_s, self.run.as_ref(), about);
        let now = self.begin("launch".to_owned(), at_s, Some(&whole), Vec::new());
        self.engines.insert(id, Engine { whole, now: Some(now) });
    }

    fn measuring(&mut self, probe: &Probe, at_s: f64) {
        let about = vec![
            KeyValue::new("isl", i64::from(probe.isl)),
            KeyValue::new("osl", i64::from(probe.osl)),
            KeyValue::new("concurrency", i64::from(probe.concurrency)),
        ];
        let home = self.home(probe.candidate);
        let parent = self.engines.get(&home).map(|engine| &engine.whole).or(self.run.as_ref());
        let span = self.begin("measure".to_owned(), at_s, parent, about);
        if let Some(engine) = self.engines.get_mut(&home) {
            engine.now = Some(span);
        }
    }

    /// Whose engine the candidate is measured on: its own, or that of the same mapping in the other role.
    fn home(&self, id: CandidateId) -> CandidateId {
        if self.engines.contains_key(&id) {
            return id;
        }
        let mapping = |id: CandidateId| self.candidates.get(id as usize).map(|candidate| candidate.mapping);
        self.engines.keys().copied().find(|other| mapping(*other) == mapping(id)).unwrap_or(id)
    }

    fn take_now(&mut self, id: CandidateId) -> Option<Context> {
        let home = self.home(id);
        self.engines.get_mut(&home)?.now.take()
    }

    fn gone(&mut self, id: CandidateId, at_s: f64, failed: Option<&str>) {
        if let Some(Engine { whole, now }) = self.engines.remove(&id) {
            self.end(now, at_s, failed);
            self.end(Some(whole), at_s, failed);
        }
    }

    fn end_all(&mut self, at_s: f64, failed: Option<&str>) {
        for id in self.engines.keys().copied().collect::<Vec<_>>() {
            self.gone(id, at_s, failed);
        }
        for (_, phase) in std::mem::take(&mut self.phases) {
            self.end(Some(phase), at_s, failed);
        }
        let run = self.run.take();
        self.end(run, at_s, failed);
    }

    fn started(&mut self, at_s: f64, started: &crate::run::RunStarted) {
        self.candidates.clone_from(&started.candidates);
        let text = |name: &'static str, value: &str| KeyValue::new(name, value.to_owned());
        let about = vec![
            text("model", &started.job.model.name),
            text("backend", started.job.backend.as_str()),
            text("cluster", &started.cluster),
            text("gpu", &started.job.hardware.gpu.name),
            KeyValue::new("gpus", i64::from(started.job.hardware.total_gpus)),
            KeyValue::new("seed", i64::from(started.job.seed)),
        ];
        self.run = Some(self.begin("profile".to_owned(), at_s, None, about));
    }
}

impl Observer for Traces {
    fn on(&mut self, record: &Record, _: &History) {
        let at_s = record.at_s;
        self.last_s = at_s;
        match &record.event {
            Event::RunStarted(started) => self.started(at_s, started),
            Event::PhaseStarted { phase } => {
                let about = vec![KeyValue::new("number", i64::from(Phase::number(*phase)))];
                let span = self.begin(phase.title().to_owned(), at_s, self.run.as_ref(), about);
                self.phases.push((*phase, span));
            }
            Event::PhaseFinished { phase, .. } => {
                for (_, span) in self.phases.extract_if(.., |(open, _)| open == phase).collect::<Vec<_>>() {
                    self.end(Some(span), at_s, None);
                }
            }
            Event::Launching { candidate } => self.launching(*candidate, at_s),
            Event::Launched { facts } => {
                let launch = self.take_now(facts.candidate);
                self.end(launch, at_s, None);
            }
            Event::Measuring { probe } => self.measuring(probe, at_s),
            Event::Measured { measurement, .. } => {
                let span = self.take_now(measurement.candidate);
                if let Some(span) = &span {
                    let stat = |name: &'static str, stat: Option<crate::domain::Stat>| {
                        stat.map(|stat| KeyValue::new(name, stat.target))
                    };
                    let found = [stat("ttft_ms", measurement.ttft_ms), stat("itl_ms", measurement.itl_ms)];
                    span.span().set_attributes(found.into_iter().flatten());
                    span.span().set_attribute(KeyValue::new("samples", i64::from(measurement.samples)));
                }
                self.end(span, at_s, None);
            }
            Event::Failed { failure, .. } | Event::Retrying { retry: Retry { failure, .. }, .. } => {
                let reason = format!("{}: {}", failure.class, failure.reason);
                let now = self.take_now(failure.candidate);
                self.end(now, at_s, Some(&reason));
                if failure.probe.is_none() {
                    let home = self.home(failure.candidate);
                    self.gone(home, at_s, Some(&reason));
                }
            }
            Event::Released { candidate } => self.gone(*candidate, at_s, None),
            Event::RunFinished { feasible } => {
                if let Some(run) = &self.run {
                    run.span().set_attribute(KeyValue::new("feasible", *feasible));
                }
                self.end_all(at_s, None);
            }
            _ => {}
        }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // Nothing is open any more unless the run broke off.
        self.end_all(self.last_s, Some("the run did not come to its end"));
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_SPANS) {
            tracing::warn!("not all spans reached the collector: {error}");
        }
    }
}
