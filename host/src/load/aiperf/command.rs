//! The command line of a run.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::json;
use tokio::process::Command;

use crate::load::{Endpoint, Point, Prompts, Traffic};

/// Requests before measuring starts, as many as NVIDIA's profiler sends: connections, code paths and caches of the
/// server warm up.
const WARM_UP: u32 = 3;

/// Longest time for one request, in seconds, as NVIDIA's profiler sets it; the point's deadline may be shorter.
const REQUEST_TIMEOUT_S: f64 = 1800.0;

/// The variable that carries the key. On the command line every user of the machine could read it, and AIPerf copies
/// its command line into its files.
const KEY_VARIABLE: &str = "SLA_PROFILER_AIPERF_KEY";

/// One `aiperf profile`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a> {
    pub endpoint: &'a Endpoint,
    pub point: &'a Point,
    /// Empty; takes its files.
    pub folder: &'a Path,
    /// Requests to measure.
    pub requests: u32,
    /// Which run of the point this is, from 0.
    pub look: u32,
    /// Without fields that not every server knows.
    pub plain: bool,
}

impl Run<'_> {
    /// The flags of NVIDIA's profiler (`dynamo.profiler.utils.aiperf`), with these differences:
    ///
    /// - Decode points of theirs are two processes, the first of which fills the prefix cache. Here the warm-up does: it
    ///   sends each prompt once, and prompts are taken in turn, so that a wave goes the way of the one before.
    /// - Prompts of prefill points are as many as requests: theirs measures the prompt that it has warmed up with.
    /// - `--use-server-token-count`: else AIPerf tokenizes the answer's text again and divides by what it gets, which
    ///   made ITL 5 % too low on an answer of 20 tokens.
    /// - No metrics of server and GPU, and no display: not looked at, and not free.
    ///
    /// # Errors
    /// In words, if there is no tokenizer or the file for the key cannot be written.
    pub fn command(&self, program: &Path) -> Result<Command, String> {
        let mut command = Command::new(program);
        command.arg("profile").args(self.flags(&tokenizer(self.endpoint)?));
        command.arg("--artifact-dir").arg(self.folder).current_dir(self.folder);
        // With either of them set, AIPerf takes the tokenizer's path for the name of a repository.
        command.env_remove("HF_HUB_OFFLINE").env_remove("TRANSFORMERS_OFFLINE");
        if let Some(key) = &self.endpoint.api_key {
            let config = self.write_config().map_err(|error| format!("{}: {error}", self.folder.display()))?;
            command.arg("--config").arg(config).env(KEY_VARIABLE, key.expose());
        }
        Ok(command)
    }

    fn flags(&self, tokenizer: &Path) -> Vec<String> {
        let Self { endpoint, point, requests, .. } = self;
        let mut flags = Vec::new();
        let mut add = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
        add("--model", endpoint.model.clone());
        add("--tokenizer", tokenizer.display().to_string());
        add("--endpoint-type", "chat".to_owned());
        add("--endpoint", "/v1/chat/completions".to_owned());
        add("--url", endpoint.url.clone());
        add("--random-seed", self.seed().to_string());
        let timeout_s = point.deadline.as_secs_f64().min(REQUEST_TIMEOUT_S);
        add("--request-timeout-seconds", format!("{timeout_s:.0}"));
        add("--synthetic-input-tokens-mean", point.isl.to_string());
        add("--synthetic-input-tokens-stddev", "0".to_owned());
        add("--output-tokens-mean", point.osl.to_string());
        add("--output-tokens-stddev", "0".to_owned());
        add("--extra-inputs", format!("max_tokens:{}", point.osl));
        if !self.plain {
            add("--extra-inputs", format!("min_tokens:{}", point.osl));
            add("--extra-inputs", "ignore_eos:true".to_owned());
        }
        let (warm_up, prompts) = match point.prompts {
            Prompts::Unique => (WARM_UP, requests.saturating_add(WARM_UP)),
            Prompts::Shared => {
                let in_flight = self.in_flight();
                (in_flight, in_flight)
            }
        };
        add("--warmup-request-count", warm_up.to_string());
        add("--num-dataset-entries", prompts.to_string());
        add("--dataset-sampling-strategy", "sequential".to_owned());
        add("--request-count", requests.to_string());
        match point.traffic {
            Traffic::Closed { concurrency } => add("--concurrency", concurrency.to_string()),
            Traffic::Poisson { requests_per_second } => {
                add("--request-rate", requests_per_second.to_string());
                add("--request-rate-mode", "poisson".to_owned());
            }
            Traffic::Constant { requests_per_second } => {
                add("--request-rate", requests_per_second.to_string());
                add("--request-rate-mode", "constant".to_owned());
            }
        }
        add("--ui", "none".to_owned());
        flags.extend(
            ["--streaming", "--use-server-token-count", "--no-server-metrics", "--no-gpu-telemetry"].map(str::to_owned),
        );
        flags
    }

    fn in_flight(&self) -> u32 {
        match self.point.traffic {
            Traffic::Closed { concurrency } => concurrency,
            Traffic::Poisson { .. } | Traffic::Constant { .. } => self.requests,
        }
    }

    /// Every run has prompts of its own, or a second one would find them in the cache. AIPerf takes 32 bits.
    fn seed(&self) -> u32 {
        let mixed = self.point.seed ^ (self.point.seed >> 32);
        (mixed as u32).wrapping_add(self.look.wrapping_mul(0x9e37_79b9)) & 0x7fff_ffff
    }

    /// A configuration whose key AIPerf reads from the environment. It has to be complete; the flags override the rest.
    fn write_config(&self) -> io::Result<PathBuf> {
        let config = json!({ "benchmark": {
            "models": [self.endpoint.model],
            "endpoint": { "urls": [self.endpoint.url], "api_key": format!("${{{KEY_VARIABLE}}}") },
            "datasets": [{ "name": "main", "type": "synthetic" }],
            "phases": [{ "name": "profiling", "type": "concurrency", "concurrency": 1, "requests": 1 }],
        }});
        let path = self.folder.join("aiperf_key.yaml");
        // JSON is YAML.
        fs::write(&path, config.to_string())?;
        Ok(path)
    }
}

/// The folder of the model's tokenizer.
fn tokenizer(endpoint: &Endpoint) -> Result<PathBuf, String> {
    let path = endpoint.tokenizer.as_ref().ok_or_else(|| {
        format!("aiperf needs the tokenizer of {}, a folder with tokenizer.json: --tokenizer names it", endpoint.model)
    })?;
    let folder = if path.is_file() { path.parent() } else { Some(path.as_path()) };
    let folder = folder.filter(|folder| folder.join("tokenizer.json").is_file());
    let folder = folder.ok_or_else(|| format!("{} holds no tokenizer.json", path.display()))?;
    std::path::absolute(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Probe, Role, Sla};
    use crate::load::ApiKey;

    fn run<T>(role: Role, traffic: Option<Traffic>, look: impl FnOnce(&mut Endpoint, Run<'_>) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        let mut endpoint = Endpoint { tokenizer: Some(folder.path().into()), ..Endpoint::new("http://h:1", "m") };
        let probe = Probe { candidate: 0, isl: 3000, osl: 5, concurrency: 4, relative_precision: 0.05, max_samples: 8 };
        let sla = Sla { ttft_ms: None, itl_ms: None, e2e_ms: None, quantile: None };
        let mut point = Point::of(role, &probe, crate::domain::Aim::Compare, &sla, 100);
        point.traffic = traffic.unwrap_or(point.traffic);
        let copy = endpoint.clone();
        let run = Run { endpoint: &copy, point: &point, folder: folder.path(), requests: 8, look: 0, plain: false };
        look(&mut endpoint, run)
    }

    fn line(run: &Run<'_>) -> String {
        let command = run.command(Path::new("aiperf")).unwrap();
        let words: Vec<_> = command.as_std().get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    #[test]
    fn flags_are_those_of_nvidias_profiler() {
        let prefill = run(Role::Prefill, None, |_, run| line(&run));
        for part in [
            "profile --model m --tokenizer /",
            "--endpoint-type chat --endpoint /v1/chat/completions --url http://h:1 --random-seed 100",
            "--synthetic-input-tokens-mean 3000 --synthetic-input-tokens-stddev 0",
            "--output-tokens-mean 5 --output-tokens-stddev 0",
            "--extra-inputs max_tokens:5 --extra-inputs min_tokens:5 --extra-inputs ignore_eos:true",
            "--warmup-request-count 3 --num-dataset-entries 11",
            "--request-count 8 --concurrency 4",
            "--request-timeout-seconds 1800",
            "--streaming",
        ] {
            assert!(prefill.contains(part), "{part}: {prefill}");
        }
    }

    #[test]
    fn decode_warms_the_prompts_that_it_measures() {
        let decode = run(Role::Decode, None, |_, run| line(&run));
        assert!(decode.contains("--warmup-request-count 4 --num-dataset-entries 4"), "{decode}");
        assert!(decode.contains("--dataset-sampling-strategy sequential"), "{decode}");
    }

    #[test]
    fn an_open_loop_has_a_rate_and_no_bound_in_flight() {
        let rate = Traffic::Poisson { requests_per_second: 2.5 };
        let open = run(Role::Prefill, Some(rate), |_, run| line(&run));
        assert!(open.contains("--request-rate 2.5 --request-rate-mode poisson"), "{open}");
        assert!(!open.contains("--concurrency"), "{open}");
        let rate = Traffic::Constant { requests_per_second: 1e-3 };
        assert!(
            run(Role::Prefill, Some(rate), |_, run| line(&run))
                .contains("--request-rate 0.001 --request-rate-mode constant")
        );
    }

    #[test]
    fn a_plain_run_has_no_field_that_a_server_may_not_know() {
        let plain = run(Role::Decode, None, |_, run| line(&Run { plain: true, ..run }));
        assert!(plain.contains("max_tokens:5") && !plain.contains("ignore_eos") && !plain.contains("min_tokens"));
    }

    #[test]
    fn runs_of_one_point_differ_in_their_prompts() {
        let seeds = run(Role::Prefill, None, |_, run| [0, 1, 2].map(|look| Run { look, ..run }.seed()));
        assert!(seeds[0] == 100 && seeds[0] != seeds[1] && seeds[1] != seeds[2], "{seeds:?}");
    }

    #[test]
    fn the_key_is_neither_on_the_command_line_nor_in_a_file() {
        run(Role::Prefill, None, |endpoint, run| {
            endpoint.api_key = Some(ApiKey::new("secret-42"));
            let run = Run { endpoint, ..run };
            let words = line(&run);
            assert!(words.contains("--config") && !words.contains("secret"), "{words}");
            let command = run.command(Path::new("aiperf")).unwrap();
            let carried = command.as_std().get_envs().any(|(_, value)| value.is_some_and(|v| v == "secret-42"));
            assert!(carried, "AIPerf gets it from the environment");
            let config = fs::read_to_string(run.folder.join("aiperf_key.yaml")).unwrap();
            assert!(config.contains("${SLA_PROFILER_AIPERF_KEY}") && !config.contains("secret"), "{config}");
        });
    }

    #[test]
    fn a_tokenizer_is_needed_and_may_be_named_by_its_file() {
        run(Role::Prefill, None, |endpoint, run| {
            let folder = endpoint.tokenizer.clone().unwrap();
            endpoint.tokenizer = Some(folder.join("tokenizer.json"));
            assert!(line(&Run { endpoint, ..run }).contains(&format!("--tokenizer {} ", folder.display())));
            endpoint.tokenizer = Some(folder.join("none"));
            let error = Run { endpoint, ..run }.command(Path::new("aiperf")).unwrap_err();
            assert!(error.contains("holds no tokenizer.json"), "{error}");
            endpoint.tokenizer = None;
            let error = Run { endpoint, ..run }.command(Path::new("aiperf")).unwrap_err();
            assert!(error.contains("--tokenizer"), "{error}");
        });
    }
}
