//! How long engines take to come up, which of them never do, and what they log.

use super::core::EngineShape;
use crate::domain::memory::weight_bytes_per_gpu;
use crate::domain::random::{self, Random};
use crate::domain::{Backend, FailureCause, FailureClass, Job, Mapping};
use crate::spec::SimulationSpec;

/// Launch times vary by this fraction: image caches, disks and neighbours.
const LAUNCH_JITTER: f64 = 0.1;

/// A deployment that never becomes ready is given up after this long, as NVIDIA's profiler does by default (v0.9), in
/// seconds.
const READY_TIMEOUT_S: f64 = 1800.0;

/// Ending an engine and freeing its GPUs, in seconds.
pub(super) const SHUTDOWN_S: f64 = 5.0;

/// Modelled time from the order to the first answer, in seconds.
pub(super) fn expected_s(job: &Job, mapping: &Mapping, simulation: &SimulationSpec) -> f64 {
    let gpus_in_node = mapping.gpus().min(job.hardware.gpus_per_node.max(1));
    // What several GPUs of a node share is read from disk once.
    let node_bytes =
        (weight_bytes_per_gpu(&job.model, mapping) * f64::from(gpus_in_node)).min(job.model.weight_bytes());
    let load_s = node_bytes / simulation.load_bytes_per_second.max(1.0);
    load_s + simulation.compile_s.max(0.0) + simulation.warmup_s.max(0.0)
}

/// What becomes of a launch: decided by seed, mapping and how often it failed before, never by when it is tried. Not by the
/// role: one engine serves both, and who has it launched first may be another one once a run is resumed.
pub(super) struct Fate {
    /// Time until it is known.
    pub(super) after_s: f64,
    /// Absent: the engine comes up.
    pub(super) fault: Option<Fault>,
}

/// Why it does not come up.
pub(super) struct Fault {
    pub(super) class: FailureClass,
    /// Only of what passes.
    pub(super) cause: Option<FailureCause>,
    pub(super) reason: String,
}

/// Draws it.
pub(super) fn fate(job: &Job, mapping: &Mapping, simulation: &SimulationSpec, failed: u32) -> Fate {
    match passing(job, mapping, simulation) {
        Some(fate) if failed == 0 => fate,
        _ => lasting(job, mapping, simulation),
    }
}

/// A fault of the first launch.
fn passing(job: &Job, mapping: &Mapping, simulation: &SimulationSpec) -> Option<Fate> {
    let mut random = Random::new(&[u64::from(job.seed), random::text("passing"), random::text(&mapping.label())]);
    if random.uniform() >= simulation.passing_fault_rate {
        return None;
    }
    let after_s = expected_s(job, mapping, simulation) * random.uniform();
    let (cause, what) = match random.next() % 4 {
        0 => (FailureCause::Evicted, "the pod was evicted: its node ran low on ephemeral storage"),
        1 => (FailureCause::NodeLost, "the pod's node is gone"),
        2 => (FailureCause::Registry, "the image cannot be pulled: 503 Service Unavailable"),
        _ => (FailureCause::Connection, "connection reset by peer while downloading weights"),
    };
    let reason = format!("simulated fault that passes: {what}");
    Some(Fate { after_s, fault: Some(Fault { class: FailureClass::Launch, cause: Some(cause), reason }) })
}

fn lasting(job: &Job, mapping: &Mapping, simulation: &SimulationSpec) -> Fate {
    let mut random = Random::new(&[u64::from(job.seed), random::text("launch"), random::text(&mapping.label())]);
    let expected_s = expected_s(job, mapping, simulation) * random.around_one(LAUNCH_JITTER);
    if random.uniform() >= simulation.fault_rate {
        return Fate { after_s: expected_s, fault: None };
    }
    let load_s = (expected_s - simulation.compile_s - simulation.warmup_s).max(0.0);
    let gpus = mapping.gpus();
    let (after_s, class, reason) = match random.next() % 4 {
        0 => (
            load_s + 0.8 * simulation.compile_s,
            FailureClass::Launch,
            format!(
                "simulated fault: CUDA out of memory while capturing graphs on rank {}; lower the memory fraction or \
                 the largest captured batch",
                random.next() % u64::from(gpus.max(1))
            ),
        ),
        1 => (
            load_s + simulation.compile_s,
            FailureClass::Launch,
            "simulated fault: the worker is in CrashLoopBackOff (exit code 139, 3 restarts); see the worker's log"
                .to_owned(),
        ),
        2 => (
            0.2 * load_s,
            FailureClass::Launch,
            format!(
                "simulated fault: NCCL initialisation failed among {gpus} GPUs (unhandled system error); check the interconnect"
            ),
        ),
        _ => (
            READY_TIMEOUT_S,
            FailureClass::Timeout,
            format!("simulated fault: not ready after {READY_TIMEOUT_S} s; the last event is FailedScheduling"),
        ),
    };
    Fate { after_s, fault: Some(Fault { class, cause: None, reason }) }
}

/// What the engine writes to its log on the way up: the lines from which NVIDIA's profiler reads the KV capacity,
/// framed so that nobody takes them for a real engine's.
pub(super) fn log(job: &Job, backend: Backend, mapping: &Mapping, shape: &EngineShape, launch_s: f64) -> String {
    let per_rank = shape.kv_tokens_per_rank();
    let weights_gb = weight_bytes_per_gpu(&job.model, mapping) / 1e9;
    let mut lines = vec![format!("# simulated {backend} engine, no GPU was used: {} {mapping}", job.model.name)];
    lines.push(format!("Model loading took {weights_gb:.2} GB per GPU"));
    match backend {
        Backend::Vllm => {
            let context = job.max_context_tokens.max(1);
            lines.push(format!("GPU KV cache size: {} tokens", grouped(per_rank)));
            lines.push(format!(
                "Maximum concurrency for {} tokens per request: {:.2}x",
                grouped(context),
                f64::from(per_rank) / f64::from(context)
            ));
        }
        Backend::Sglang => lines.push(format!("KV Cache is allocated. #tokens: {per_rank}")),
        Backend::Trtllm => {
            let bytes = f64::from(per_rank) * job.model.kv_bytes_per_token() / f64::from(mapping.tp.max(1));
            lines.push(format!(
                "[MemUsageChange] Allocated {:.2} GiB for max tokens in paged KV cache ({per_rank}).",
                bytes / f64::from(1 << 30)
            ));
        }
    }
    lines.push(format!("Application startup complete after {launch_s:.1} s"));
    lines.join("\n") + "\n"
}

/// `945029` as `945,029`.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::samples::{h100, h200, hardware, job, llama_8b_fp8, llama_70b_fp8};

    fn simulation(fault_rate: f64) -> SimulationSpec {
        SimulationSpec {
            noise_cv: 0.03,
            model_error: 0.1,
            fault_rate,
            passing_fault_rate: 0.0,
            load_bytes_per_second: 2e9,
            compile_s: 40.0,
            warmup_s: 10.0,
        }
    }

    #[test]
    fn larger_models_take_longer_to_load() {
        let small = job(llama_8b_fp8(), hardware(h100(), 8));
        let large = job(llama_70b_fp8(), hardware(h100(), 8));
        let time = |job: &Job| expected_s(job, &Mapping::tensor(2), &simulation(0.0));
        assert!((time(&small) - (50.0 + 9.1 / 2.0)).abs() < 0.5, "{}", time(&small));
        assert!(time(&large) > time(&small) + 25.0);
    }

    #[test]
    fn faults_come_as_often_as_asked_for_and_name_a_next_step() {
        let mut job = job(llama_8b_fp8(), hardware(h100(), 8));
        let mut classes = std::collections::BTreeMap::new();
        for seed in 0..1000 {
            job.seed = seed;
            if let Some(Fault { class, reason, .. }) = fate(&job, &Mapping::tensor(2), &simulation(0.3), 0).fault {
                assert!(reason.starts_with("simulated fault: "), "{reason}");
                *classes.entry(class.to_string()).or_insert(0) += 1;
            }
        }
        let faults: i32 = classes.values().sum();
        assert!((250..350).contains(&faults), "{classes:?}");
        assert_eq!(classes.len(), 2, "{classes:?}");
        assert!(fate(&job, &Mapping::tensor(2), &simulation(0.0), 0).fault.is_none());
        assert!(fate(&job, &Mapping::tensor(2), &simulation(1.0), 9).fault.is_some());
    }

    #[test]
    fn a_fault_that_passes_is_one_of_the_first_launch_and_changes_nothing_of_the_next() {
        let mut job = job(llama_8b_fp8(), hardware(h100(), 8));
        let passing = SimulationSpec { passing_fault_rate: 0.3, ..simulation(0.0) };
        let mut faults = 0;
        for seed in 0..1000 {
            job.seed = seed;
            let mapping = Mapping::tensor(2);
            if let Some(fault) = fate(&job, &mapping, &passing, 0).fault {
                assert!(fault.cause.is_some() && fault.reason.starts_with("simulated fault that passes"));
                faults += 1;
            }
            let (again, without) = (fate(&job, &mapping, &passing, 1), fate(&job, &mapping, &simulation(0.0), 0));
            assert!(again.fault.is_none() && again.after_s.to_bits() == without.after_s.to_bits());
        }
        assert!((250..350).contains(&faults), "{faults}");
    }

    #[test]
    fn logs_carry_the_lines_from_which_capacity_is_read() {
        let job = job(llama_8b_fp8(), hardware(h200(), 8));
        let mapping = Mapping::tensor(1);
        let shape = EngineShape::new(&job, Backend::Vllm, &mapping).unwrap();
        let vllm = log(&job, Backend::Vllm, &mapping, &shape, 61.5);
        assert!(vllm.starts_with("# simulated vllm engine"), "{vllm}");
        assert!(vllm.contains("Maximum concurrency for 131,072 tokens per request: 7."), "{vllm}");
        assert!(vllm.contains("GPU KV cache size: 9"), "{vllm}");
        assert!(log(&job, Backend::Sglang, &mapping, &shape, 1.0).contains("KV Cache is allocated. #tokens: 9"));
        assert!(log(&job, Backend::Trtllm, &mapping, &shape, 1.0).contains("GiB for max tokens in paged KV cache (9"));
        assert_eq!((grouped(7), grouped(1000), grouped(1_234_567)), ("7".into(), "1,000".into(), "1,234,567".into()));
    }
}
