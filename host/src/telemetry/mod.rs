//! A run, for those who watch machines: OpenMetrics to be scraped, and traces for a collector. Both only where the user
//! asks, and neither can end a run or hold it up.
//!
//! ```text
//! Recorder --events--> Metrics (gauges, counters) <--GET /metrics-- Prometheus
//!                 '--> Traces (spans) --OTLP, JSON over HTTP--> a collector
//! ```

mod listen;
mod metrics;
mod otlp;
mod traces;

pub use listen::serve;
pub use metrics::Metrics;
pub use traces::Traces;

/// Telemetry cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The address is taken, or not ours.
    #[error("cannot listen for scrapes at {address}: {source}")]
    Listen {
        /// As it was given.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The collector's URL is none.
    #[error("--otlp: {0}")]
    Collector(String),
}
