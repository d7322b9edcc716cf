//! Flags for those who watch machines: metrics to scrape, traces for a collector.

use std::net::SocketAddr;

use crate::output::error::AppError;
use crate::output::printer::Printer;
use crate::run::Observer;
use crate::run::forecast::Forecast;
use crate::telemetry::{self, Metrics, TelemetryError, Traces};

/// Who is told besides, while the run goes on.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Monitoring")]
pub struct WatchArgs {
    /// Serve OpenMetrics at http://ADDRESS/metrics while the run goes on; port 0 takes any
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
    /// Send traces to an OpenTelemetry collector: the base of its OTLP/HTTP address, http://localhost:4318 for example
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
}

/// What was asked for, ready.
#[derive(Default)]
pub(super) struct Watching {
    metrics: Option<Metrics>,
    traces: Option<Traces>,
}

impl WatchArgs {
    /// Begins to listen, and says where.
    ///
    /// # Errors
    /// If the address is taken, or the URL is none.
    pub(super) fn start(&self, printer: &Printer) -> Result<Watching, AppError> {
        let metrics = match self.metrics_listen {
            None => None,
            Some(address) => {
                let metrics = Metrics::default();
                let bound = telemetry::serve(address, metrics.clone())?;
                printer.note(&format!("metrics at http://{bound}/metrics"));
                Some(metrics)
            }
        };
        Ok(Watching { metrics, traces: self.otlp.as_deref().map(Traces::to).transpose()? })
    }
}

impl Watching {
    /// As observers of a run.
    pub(super) fn observers(self, forecast: Forecast) -> impl Iterator<Item = Box<dyn Observer>> {
        let metrics = self.metrics.map(|metrics| Box::new(metrics.expecting(forecast)) as Box<dyn Observer>);
        let traces = self.traces.map(|traces| Box::new(traces) as Box<dyn Observer>);
        [metrics, traces].into_iter().flatten()
    }
}

impl From<TelemetryError> for AppError {
    fn from(error: TelemetryError) -> Self {
        let hint = match &error {
            TelemetryError::Listen { .. } => {
                "--metrics-listen takes an address of this machine and a free port, or port 0"
            }
            TelemetryError::Collector(_) => "--otlp takes http://HOST:PORT or https://HOST:PORT",
        };
        AppError::Usage { message: error.to_string(), hint: Some(hint.to_owned()) }
    }
}
