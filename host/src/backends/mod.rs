//! What a mapping means in the flags of each engine, and back again.
//!
//! ```text
//! Worker --args--> ["--tensor-parallel-size", "4", …] --parse--> Parsed { mapping, role }
//! ```
//!
//! Flags are those of Dynamo 1.6 (`dynamo.vllm`, `dynamo.sglang`, `dynamo.trtllm`), which pass the engine's own
//! through. One file per engine; what they share is here and in `flags.rs`.

pub mod flags;
pub mod image;
pub mod log;
pub mod trouble;

mod sglang;
mod trtllm;
mod vllm;

use crate::domain::{Backend, Mapping, Role};
use flags::{FlagError, Flags};
use log::{Logged, LoggedCapacity};

/// What an engine is measured as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// One of them only, with the flags of that half of a deployment.
    One(Role),
    /// Either: prompts that share nothing time prefill, repeated ones, which are in the prefix cache, time decoding.
    Both,
}

impl Serves {
    /// Whether its prefill is timed.
    pub const fn prefill(self) -> bool {
        matches!(self, Self::One(Role::Prefill) | Self::Both)
    }

    /// Whether its decoding is timed: repeated prompts must then skip prefill.
    pub const fn decode(self) -> bool {
        matches!(self, Self::One(Role::Decode) | Self::Both)
    }
}

/// How a worker is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One half of a disaggregated deployment.
    Disaggregated {
        /// Which half.
        role: Role,
        /// Tell the router which blocks are cached; for routing by KV cache.
        kv_events: bool,
    },
    /// Alone, to be measured: no KV transfer. The prefix cache is on where decoding is timed.
    Alone {
        /// What it is measured as.
        serves: Serves,
    },
}

impl Mode {
    /// What it has to be able to do.
    pub const fn serves(self) -> Serves {
        match self {
            Self::Disaggregated { role, .. } => Serves::One(role),
            Self::Alone { serves } => serves,
        }
    }
}

/// Bounds on an engine's scheduler, for each attention-DP rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    /// Requests that run at once.
    pub max_running: u32,
    /// Tokens in one forward pass.
    pub max_batched_tokens: u32,
}

/// Batch size that decode engines are built for, before an engine's own rule.
const DECODE_BATCH: u32 = 512;

impl EngineLimits {
    /// The limits that NVIDIA's profiler gives the engines it measures (1.6.1, `rule_plugin` of its generator): a
    /// prefill engine takes one prompt at a time with room for a chat template, a decode engine as many as it can. One
    /// that serves both has the larger of each.
    pub fn of(backend: Backend, serves: Serves, isl: u32) -> Self {
        let role = match serves {
            Serves::One(role) => role,
            Serves::Both => {
                let [prefill, decode] = Role::ALL.map(|role| Self::of(backend, Serves::One(role), isl));
                return Self {
                    max_running: prefill.max_running.max(decode.max_running),
                    max_batched_tokens: prefill.max_batched_tokens.max(decode.max_batched_tokens),
                };
            }
        };
        match (role, backend) {
            (Role::Prefill, Backend::Vllm | Backend::Sglang) => {
                Self { max_running: 1, max_batched_tokens: isl.saturating_add(1500) }
            }
            (Role::Prefill, Backend::Trtllm) => {
                // TensorRT-LLM wants a multiple of 32; the clamp keeps rounding up from overflowing.
                let tokens = isl.saturating_add(500).min(u32::MAX - 31);
                Self { max_running: 1, max_batched_tokens: tokens.next_multiple_of(32) }
            }
            (Role::Decode, Backend::Vllm | Backend::Sglang) => {
                Self { max_running: 2 * DECODE_BATCH, max_batched_tokens: 2 * DECODE_BATCH }
            }
            (Role::Decode, Backend::Trtllm) => Self { max_running: DECODE_BATCH, max_batched_tokens: DECODE_BATCH },
        }
    }
}

/// Everything that decides a worker's command line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Worker<'a> {
    /// How it spreads over GPUs.
    pub mapping: Mapping,
    /// Where the weights are: a Hugging Face id or a path in the container.
    pub model_path: &'a str,
    /// Under which name clients ask for it.
    pub served_name: &'a str,
    /// Longest sequence that it admits, in tokens.
    pub max_context_tokens: u32,
    /// Bounds on its scheduler.
    pub limits: EngineLimits,
    /// Run code that comes with the model.
    pub trust_remote_code: bool,
    /// How it is used.
    pub mode: Mode,
}

/// The engine cannot spread like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{backend} cannot run {mapping:?}: {reason}")]
pub struct UnsupportedMapping {
    /// Which engine.
    pub backend: Backend,
    /// Which mapping.
    pub mapping: Mapping,
    /// Why not.
    pub reason: String,
}

/// What a worker's flags say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// How it spreads over GPUs.
    pub mapping: Mapping,
    /// Half of the deployment; absent where the flags do not disaggregate.
    pub role: Option<Role>,
}

/// The Python module of a worker: `dynamo.vllm`.
pub const fn module(backend: Backend) -> &'static str {
    match backend {
        Backend::Vllm => "dynamo.vllm",
        Backend::Sglang => "dynamo.sglang",
        Backend::Trtllm => "dynamo.trtllm",
    }
}

/// Which engine a Python module runs, if any.
pub fn backend_of_module(name: &str) -> Option<Backend> {
    [Backend::Vllm, Backend::Sglang, Backend::Trtllm].into_iter().find(|b| module(*b) == name)
}

/// Whether the engine can spread like that, and if not why.
///
/// # Errors
/// [`UnsupportedMapping`] names the engine, the mapping and the reason.
pub fn check(backend: Backend, mapping: Mapping) -> Result<(), UnsupportedMapping> {
    let fail = |reason: String| Err(UnsupportedMapping { backend, mapping, reason });
    let Mapping { tp, pp, attention_dp, moe_tp, moe_ep } = mapping;
    if [tp, pp, attention_dp, moe_tp, moe_ep].contains(&0) {
        return fail("every size must be at least 1".to_owned());
    }
    let (attention, experts) = (u64::from(tp) * u64::from(attention_dp), u64::from(moe_tp) * u64::from(moe_ep));
    if attention != experts {
        return fail(format!("attention takes {attention} GPUs per pipeline stage, the experts {experts}"));
    }
    // Below this, sizes can be multiplied without care.
    if attention.saturating_mul(u64::from(pp)) > u64::from(flags::MAX_SIZE) {
        return fail(format!("more than {} GPUs are certainly a mistake", flags::MAX_SIZE));
    }
    match backend {
        Backend::Vllm if moe_tp > 1 && moe_ep > 1 => {
            fail("it splits experts over all GPUs or shards every one, not both".to_owned())
        }
        Backend::Trtllm if tp > 1 && attention_dp > 1 => {
            fail("attention is either tensor parallel or data parallel there".to_owned())
        }
        _ => Ok(()),
    }
}

/// The arguments that follow `python3 -m dynamo.<backend>`.
///
/// # Errors
/// As [`check`].
pub fn args(backend: Backend, worker: &Worker<'_>) -> Result<Vec<String>, UnsupportedMapping> {
    check(backend, worker.mapping)?;
    let mut args = ArgList::default();
    match backend {
        Backend::Vllm => vllm::write(worker, &mut args),
        Backend::Sglang => sglang::write(worker, &mut args),
        Backend::Trtllm => trtllm::write(worker, &mut args),
    }
    Ok(args.0)
}

/// Reads a worker's flags the way that its engine does: the last of several wins, `--flag value` and `--flag=value` are
/// the same, short and long names too. Flags without meaning for mapping or role are passed over.
///
/// # Errors
/// If a flag that matters has no value or an impossible one, or the flags together describe no mapping of one engine.
pub fn parse(backend: Backend, args: &[String]) -> Result<Parsed, FlagError> {
    let flags = Flags::new(args);
    let mapping = match backend {
        Backend::Vllm => vllm::read(&flags)?,
        Backend::Sglang => sglang::read(&flags)?,
        Backend::Trtllm => trtllm::read(&flags)?,
    };
    check(backend, mapping).map_err(|e| FlagError::new("the parallelism flags", e.to_string()))?;
    Ok(Parsed { mapping, role: flags.role()? })
}

/// KV capacity of an engine of so many attention-DP ranks, from what it wrote to its log; `None` where no line says it.
pub fn kv_capacity_from_log(backend: Backend, log: &str, ranks: u32) -> Option<LoggedCapacity> {
    let readers: &[fn(&str) -> Option<Logged<'_>>] = match backend {
        Backend::Vllm => &[vllm::capacity, vllm::coarse_capacity],
        Backend::Sglang => &[sglang::capacity],
        Backend::Trtllm => &[trtllm::capacity],
    };
    // The better reader's lines count alone.
    readers.iter().find_map(|read| {
        let found: Vec<Logged<'_>> = log.lines().filter_map(read).collect();
        log::over_ranks(&found, ranks)
    })
}

/// Most requests that one rank runs at once, from the last line of the log that says it.
pub fn max_running_from_log(backend: Backend, log: &str) -> Option<u32> {
    let read: fn(&str) -> Option<f64> = match backend {
        Backend::Vllm => vllm::max_running,
        Backend::Sglang => sglang::max_running,
        Backend::Trtllm => trtllm::max_running,
    };
    log.lines().rev().find_map(read).filter(|n| *n >= 1.0).map(|n| n as u32)
}

/// Arguments under construction.
#[derive(Default)]
struct ArgList(Vec<String>);

impl ArgList {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn pair(&mut self, name: &str, value: impl ToString) {
        self.0.push(name.to_owned());
        self.0.push(value.to_string());
    }

    /// `--disaggregation-mode`, which all three share.
    fn disaggregation_mode(&mut self, role: Role) {
        self.pair("--disaggregation-mode", role);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKENDS: [Backend; 3] = [Backend::Vllm, Backend::Sglang, Backend::Trtllm];

    fn worker(mapping: Mapping, mode: Mode) -> Worker<'static> {
        Worker {
            mapping,
            model_path: "/cache/model",
            served_name: "org/model",
            max_context_tokens: 8192,
            limits: EngineLimits::of(Backend::Vllm, mode.serves(), 3000),
            trust_remote_code: true,
            mode,
        }
    }

    fn power() -> impl Strategy<Value = u32> {
        (0u32..7).prop_map(|e| 1 << e)
    }

    /// Mappings that hold the invariant, whether or not an engine knows them.
    fn mapping() -> impl Strategy<Value = Mapping> {
        (power(), 1u32..4, power(), 0u32..13).prop_map(|(tp, pp, attention_dp, split)| {
            let total = tp * attention_dp;
            let moe_ep = 1 << split.min(total.trailing_zeros());
            Mapping { tp, pp, attention_dp, moe_tp: total / moe_ep, moe_ep }
        })
    }

    fn mode() -> impl Strategy<Value = Mode> {
        let role = proptest::sample::select(&Role::ALL[..]);
        let serves = [Serves::One(Role::Prefill), Serves::One(Role::Decode), Serves::Both];
        prop_oneof![
            (role, any::<bool>()).prop_map(|(role, kv_events)| Mode::Disaggregated { role, kv_events }),
            proptest::sample::select(serves.to_vec()).prop_map(|serves| Mode::Alone { serves }),
        ]
    }

    proptest! {
        #[test]
        fn flags_say_the_mapping_that_wrote_them(m in mapping(), mode in mode()) {
            let disaggregated = match mode {
                Mode::Disaggregated { role, .. } => Some(role),
                Mode::Alone { .. } => None,
            };
            for backend in BACKENDS {
                let Ok(args) = args(backend, &worker(m, mode)) else { continue };
                let parsed = parse(backend, &args).unwrap();
                prop_assert_eq!(parsed.mapping, m, "{} {:?}", backend, args);
                prop_assert_eq!(parsed.role, disaggregated);
            }
        }

        #[test]
        fn any_arguments_are_read_or_refused_without_a_panic(words in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(vec![
                    "--tp", "--dp", "--ep", "--pp-size", "--tensor-parallel-size", "--enable-dp-attention",
                    "--data-parallel-size=4", "--enable-expert-parallel", "--disaggregation-mode",
                    "--override-engine-args", "{\"tensor_parallel_size\": 4}", "{", "0", "4", "-1", "4294967295",
                    "--expert-parallel-size", "--enable-attention-dp", "--is-prefill-worker",
                ]).prop_map(str::to_owned),
                ".{0,8}",
            ], 0..12)) {
            for backend in BACKENDS {
                if let Ok(parsed) = parse(backend, &words) {
                    prop_assert!(check(backend, parsed.mapping).is_ok());
                }
            }
        }
    }

    #[test]
    fn tep_and_dep_are_known_to_every_engine() {
        for backend in BACKENDS {
            for m in [Mapping::tensor(8), Mapping::tensor_expert(8), Mapping::data_expert(16)] {
                assert_eq!(check(backend, m), Ok(()), "{backend} {m}");
            }
        }
    }

    #[test]
    fn an_engine_refuses_what_it_cannot_run_and_says_why() {
        let both = Mapping { tp: 4, pp: 1, attention_dp: 1, moe_tp: 2, moe_ep: 2 };
        assert!(check(Backend::Vllm, both).unwrap_err().to_string().contains("not both"));
        assert_eq!(check(Backend::Sglang, both), Ok(()));
        let mixed = Mapping { tp: 2, pp: 1, attention_dp: 2, moe_tp: 1, moe_ep: 4 };
        assert!(check(Backend::Trtllm, mixed).unwrap_err().to_string().contains("data parallel"));
        let torn = Mapping { tp: 4, pp: 1, attention_dp: 1, moe_tp: 1, moe_ep: 2 };
        for backend in BACKENDS {
            assert!(check(backend, torn).unwrap_err().to_string().contains("4 GPUs per pipeline stage"));
        }
    }

    #[test]
    fn aliases_and_equal_signs_mean_the_same() {
        let words = |s: &str| s.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let cases = [
            (Backend::Vllm, "-tp 4", Mapping::tensor(4)),
            (Backend::Vllm, "--tensor-parallel-size=2 --tensor-parallel-size 4", Mapping::tensor(4)),
            (Backend::Vllm, "--enable-expert-parallel -dp=8", Mapping::data_expert(8)),
            (
                Backend::Vllm,
                "--enable-expert-parallel -dp 8 --no-enable-expert-parallel -tp 1",
                Mapping { tp: 1, pp: 1, attention_dp: 8, moe_tp: 8, moe_ep: 1 },
            ),
            (Backend::Sglang, "--tp-size 8 --ep-size=8", Mapping::tensor_expert(8)),
            (
                Backend::Sglang,
                "--tensor-parallel-size 8 --data-parallel-size 8 --expert-parallel-size 8 --enable-dp-attention",
                Mapping::data_expert(8),
            ),
            (
                Backend::Trtllm,
                "--tensor-parallel-size 8 --expert-parallel-size 8 --enable-attention-dp",
                Mapping::data_expert(8),
            ),
            (Backend::Trtllm, "", Mapping::tensor(1)),
        ];
        for (backend, line, mapping) in cases {
            assert_eq!(parse(backend, &words(line)).unwrap().mapping, mapping, "{line}");
        }
    }

    #[test]
    fn sglang_replicas_behind_one_server_are_no_mapping() {
        let args = ["--tp", "2", "--dp", "4"].map(str::to_owned);
        assert!(parse(Backend::Sglang, &args).unwrap_err().to_string().contains("--enable-dp-attention"));
    }

    #[test]
    fn limits_follow_nvidias_rules() {
        let of = |b, r| EngineLimits::of(b, Serves::One(r), 3000);
        let is = |max_running, max_batched_tokens| EngineLimits { max_running, max_batched_tokens };
        assert_eq!(of(Backend::Vllm, Role::Prefill), is(1, 4500));
        assert_eq!(of(Backend::Sglang, Role::Prefill), is(1, 4500));
        assert_eq!(of(Backend::Trtllm, Role::Prefill), is(1, 3520));
        assert_eq!(of(Backend::Vllm, Role::Decode), is(1024, 1024));
        assert_eq!(of(Backend::Trtllm, Role::Decode), is(512, 512));
        let longest = EngineLimits::of(Backend::Trtllm, Serves::One(Role::Prefill), u32::MAX);
        assert_eq!(longest.max_batched_tokens % 32, 0);
        assert_eq!(EngineLimits::of(Backend::Vllm, Serves::Both, 3000), is(1024, 4500));
        assert_eq!(EngineLimits::of(Backend::Trtllm, Serves::Both, 10), is(512, 512));
    }

    #[test]
    fn capacity_is_read_from_each_engines_log() {
        let read = |backend, ranks, log: &str| kv_capacity_from_log(backend, log, ranks).map(|c| c.kv_tokens);
        let vllm = "INFO [kv_cache_utils.py:1] GPU KV cache size: 643,891 tokens\n\
                    INFO Maximum concurrency for 40,960 tokens per request: 15.70x\n";
        assert_eq!(read(Backend::Vllm, 1, vllm), Some(643_891), "the exact line");
        assert_eq!(read(Backend::Vllm, 1, "Maximum concurrency for 40,960 tokens per request: 15.72x"), Some(643_891));
        let sglang = "[2025-11-04 05:27:13 TP0] KV Cache is allocated. #tokens: 524288, KV size: 17.16 GB";
        assert_eq!(read(Backend::Sglang, 1, sglang), Some(524_288));
        let trtllm = "[TensorRT-LLM][INFO] [MemUsageChange] Allocated 1.00 GiB for max tokens in paged KV cache (8192).\n\
                      [TensorRT-LLM][INFO] [MemUsageChange] Allocated 43.87 GiB for max tokens in paged KV cache (229984).";
        assert_eq!(read(Backend::Trtllm, 1, trtllm), Some(229_984), "the last one, not the trial");
        for backend in BACKENDS {
            assert_eq!(read(backend, 1, "Application startup complete.\n"), None, "no default");
            assert_eq!(read(backend, 1, "GPU KV cache size: none tokens"), None);
        }
    }

    #[test]
    fn capacity_is_over_all_ranks_whether_all_or_one_of_them_writes() {
        let read = |backend, log: &str| kv_capacity_from_log(backend, log, 4).map(|c| c.kv_tokens);
        let each: String =
            (0..4).map(|r| format!("(EngineCore_DP{r} pid=7) GPU KV cache size: 10{r} tokens\n")).collect();
        assert_eq!(read(Backend::Vllm, &each), Some(100 + 101 + 102 + 103));
        assert_eq!(read(Backend::Vllm, "(EngineCore_DP0 pid=7) GPU KV cache size: 100 tokens"), Some(400));
        let gpus: String = (0..4)
            .flat_map(|dp| (0..2).map(move |tp| format!("[DP{dp} TP{tp}] KV Cache is allocated. #tokens: 50\n")))
            .collect();
        assert_eq!(read(Backend::Sglang, &gpus), Some(200), "two GPUs of a rank hold the same tokens");
        assert_eq!(read(Backend::Trtllm, "for max tokens in paged KV cache (25)."), Some(100));
    }

    #[test]
    fn the_batch_limit_is_read_from_each_engines_log() {
        let cases = [
            (Backend::Vllm, "non-default args: {'model': 'm', 'max_num_seqs': 256, 'max_model_len': 4096}", 256),
            (Backend::Sglang, "max_total_num_tokens=350257, max_running_requests=12, context_len=262144", 12),
            (Backend::Trtllm, "max_seq_len=131072, max_num_requests=2048, max_num_tokens=8192", 2048),
        ];
        for (backend, line, expected) in cases {
            assert_eq!(max_running_from_log(backend, line), Some(expected));
            assert_eq!(max_running_from_log(backend, "nothing"), None);
        }
    }
}
