//! What a person sees while a run goes on: one line per finished phase and a bar with the current candidate, the best
//! so far and the time to go.

use std::fmt;
use std::io::{self, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::OwoColorize as _;
use tracing_subscriber::fmt::MakeWriter;

use super::printer::Printer;
use crate::domain::{Candidate, History, Job, Measurement, Role};
use crate::render::table::wrapped;
use crate::run::forecast::{Forecast, Tracker};
use crate::run::timeline::clock;
use crate::run::{Event, Observer, Phase, Record, Retry};

/// Standard error, shared by the progress bar and everything else that writes there, so that they do not overwrite
/// each other.
#[derive(Clone)]
pub struct Terminal {
    bars: MultiProgress,
}

impl Terminal {
    /// Draws bars only where the printer wants them.
    pub fn new(printer: &Printer) -> Self {
        let target = if printer.shows_progress() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target) }
    }

    fn line(&self, line: &str) {
        self.bars.suspend(|| {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(anstream::stderr(), "{line}");
        });
    }
}

impl<'a> MakeWriter<'a> for Terminal {
    type Writer = TerminalWriter;

    fn make_writer(&'a self) -> Self::Writer {
        TerminalWriter(self.clone())
    }
}

/// One log line's way to the terminal.
pub struct TerminalWriter(Terminal);

impl Write for TerminalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.bars.suspend(|| anstream::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Draws a run's progress.
pub struct Progress {
    terminal: Terminal,
    bar: ProgressBar,
    tracker: Tracker,
    forecast_s: f64,
    job: Job,
    candidates: Vec<Candidate>,
    current: String,
    phase_started_s: f64,
}

const BAR_STEPS: u64 = 1000;

/// Longest line, as in the summary below them.
const WIDTH: usize = 119;

/// Where a finished phase's own words begin: after mark, title and time.
const INDENT: usize = 37;

impl Progress {
    /// Starts with an empty bar.
    pub fn new(terminal: Terminal, forecast: Forecast, job: Job, candidates: Vec<Candidate>) -> Self {
        let bar = terminal.bars.add(ProgressBar::new(BAR_STEPS));
        // The template is constant; the fallback is indicatif's own.
        let style = ProgressStyle::with_template("{bar:24.cyan/dim} {percent:>3} %  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━━─");
        bar.set_style(style);
        Self {
            terminal,
            bar,
            tracker: Tracker::new(forecast),
            forecast_s: forecast.total_s(),
            job,
            candidates,
            current: String::new(),
            phase_started_s: 0.0,
        }
    }

    fn phase_line(&self, mark: &dyn fmt::Display, title: &str, took: &str, text: &str) {
        let mut lines = wrapped(text, "", "", WIDTH - INDENT).into_iter();
        let first = lines.next().unwrap_or_default();
        self.terminal.line(&format!("{mark} {:<24} {:>8}  {first}", title.bold(), took.dimmed()));
        lines.for_each(|line| self.terminal.line(&format!("{:INDENT$}{line}", "")));
    }

    fn name(&self, id: u32) -> String {
        self.candidates.get(id as usize).map(Candidate::name).unwrap_or_default()
    }

    /// The highest throughput per GPU within the SLA, of the role that is being swept.
    fn best(&self, history: &History) -> Option<String> {
        let role = match self.tracker.phase()? {
            Phase::PrefillSweep | Phase::PrefillInterpolation => Role::Prefill,
            Phase::DecodeSweep | Phase::DecodeInterpolation => Role::Decode,
            _ => return None,
        };
        let figures = |m: &Measurement| {
            let (stat, target_ms, rate) = match role {
                Role::Prefill => (m.ttft_ms?, self.job.sla.ttft_ms, m.input_tokens_per_second_per_gpu),
                Role::Decode => (m.itl_ms?, self.job.sla.itl_ms, m.output_tokens_per_second_per_gpu),
            };
            let limit_ms = target_ms.or(self.job.sla.e2e_ms)?;
            (stat.target <= limit_ms).then_some((m.candidate, stat.target, rate))
        };
        let (candidate, latency_ms, rate) = history
            .measurements
            .iter()
            .filter(|m| self.candidates.get(m.candidate as usize).is_some_and(|c| c.role == role))
            .filter(|m| m.isl == self.job.workload.isl)
            .filter_map(figures)
            .max_by(|a, b| a.2.total_cmp(&b.2))?;
        let mapping = self.candidates.get(candidate as usize)?.mapping;
        Some(format!("best {mapping} {rate:.0} tok/s/GPU at {latency_ms:.1} ms"))
    }
}

impl Observer for Progress {
    fn on(&mut self, record: &Record, history: &History) {
        let standing = self.tracker.on(record);
        match &record.event {
            Event::PhaseStarted { .. } => {
                self.phase_started_s = record.at_s;
                self.current.clear();
            }
            Event::Launching { candidate } => self.current = format!("launching {}", self.name(*candidate)),
            Event::Retrying { retry, .. } => {
                let Retry { failure, tried, pause_s, .. } = retry;
                let what = failure.cause.map_or_else(|| failure.class.to_string(), |cause| cause.to_string());
                self.current = format!("{}: {what}, try {} in {pause_s:.0} s", self.name(failure.candidate), tried + 1);
            }
            Event::Measuring { probe } => {
                self.current =
                    format!("{} isl {} concurrency {}", self.name(probe.candidate), probe.isl, probe.concurrency);
            }
            Event::PhaseFinished { phase, summary } => {
                let took = clock(record.at_s - self.phase_started_s);
                let title = format!("{} {}", phase.number(), phase.title());
                self.phase_line(&"✓".green(), &title, &took, summary);
            }
            Event::PhaseSkipped { phase, reason } => {
                let title = format!("{} {}", phase.number(), phase.title());
                self.phase_line(&"–".yellow(), &title, "", &format!("skipped: {reason}"));
            }
            Event::Infeasible { .. } | Event::Decided { .. } | Event::Wrote { .. } => return,
            Event::RunFinished { .. } => {
                self.bar.finish_and_clear();
                return;
            }
            _ => {}
        }
        let phase = self.tracker.phase().map_or(String::new(), |p| format!("{}/7 {}", p.number(), p.title()));
        let eta = standing.eta_s.map(|s| format!("ETA {} of {}", clock(s), clock(self.forecast_s)));
        let parts = [Some(phase), Some(self.current.clone()), self.best(history), eta];
        let message: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        self.bar.set_message(message.join(" · "));
        self.bar.set_position((standing.fraction * BAR_STEPS as f64) as u64);
    }
}
