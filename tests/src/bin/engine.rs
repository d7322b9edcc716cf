//! An engine for tests of whole runs: the server of `openai.rs` as a process that takes its time, its memory and its
//! bad ends from flags, and logs as vLLM does.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::zombie_processes,
    reason = "a program of tests: its child is to be left"
)]

use std::time::Duration;

use clap::Parser;
use sla_profiler_tests::openai::{Behaviour, Fault, OpenAi, Timing};

#[derive(Debug, Parser)]
struct Flags {
    #[arg(long)]
    port: u16,
    /// Name of the model.
    #[arg(long)]
    model: String,
    /// Capacity of the KV cache.
    #[arg(long)]
    kv_tokens: u32,
    /// The more, the faster.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    #[arg(long, default_value_t = 64)]
    max_running: usize,
    /// Until it listens.
    #[arg(long, default_value_t = 0)]
    load_ms: u64,
    /// Write no line about the capacity.
    #[arg(long)]
    silent: bool,
    /// Say this much more in the log than in the metrics.
    #[arg(long, default_value_t = 1.0)]
    log_factor: f64,
    /// End while loading.
    #[arg(long)]
    die_loading: bool,
    /// Listen, but answer nothing but 503.
    #[arg(long)]
    never_ready: bool,
    /// Answer 400 to requests with this field.
    #[arg(long)]
    refuses: Option<String>,
    /// Answer 500 to prompts of more words.
    #[arg(long, default_value_t = usize::MAX)]
    longest_prompt: usize,
    /// Answer 500 to each second completion, once so many were answered.
    #[arg(long)]
    fails_after: Option<u32>,
    /// End after so many answers.
    #[arg(long)]
    die_after: Option<usize>,
    /// Ignore SIGTERM, and start a process in a session of its own that does, too.
    #[arg(long)]
    stubborn: bool,
}

fn main() {
    let flags = Flags::parse();
    println!("engine on GPUs {:?}", std::env::var("CUDA_VISIBLE_DEVICES"));
    if flags.stubborn {
        let deaf = "trap '' TERM; while :; do sleep 1; done";
        std::process::Command::new("setsid").args(["sh", "-c", deaf]).spawn().expect("a child");
        ignore_sigterm();
    }
    std::thread::sleep(Duration::from_millis(flags.load_ms));
    if flags.die_loading {
        println!("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB");
        std::process::exit(3);
    }
    if !flags.silent {
        println!("INFO GPU KV cache size: {} tokens", (f64::from(flags.kv_tokens) * flags.log_factor).floor());
        println!("INFO non-default args: {{'max_num_seqs': {}, 'x': 1}}", flags.max_running);
    }
    let server = OpenAi::start(Behaviour {
        model: flags.model,
        timing: Timing {
            ttft_ms: 2.0 / flags.speed,
            ttft_ms_per_token: 0.02 / flags.speed,
            ttft_spread: 0.0,
            itl_ms: 3.0 / flags.speed,
            itl_ms_per_request: 0.05 / flags.speed,
        },
        fault: match (flags.never_ready, flags.fails_after) {
            (true, _) => Some(Fault::Status(503)),
            (false, after) => after.map(|_| Fault::Status(500)),
        },
        fault_after: flags.fails_after.unwrap_or(0),
        fault_every: if flags.never_ready { 1 } else { 2 },
        // Lives as long as the process.
        refuses: flags.refuses.map(|field| &*field.leak()).into_iter().collect(),
        longest_prompt: flags.longest_prompt,
        max_running: flags.max_running,
        kv_tokens: flags.kv_tokens,
        port: flags.port,
        ..Behaviour::default()
    });
    loop {
        std::thread::sleep(Duration::from_millis(5));
        if flags.die_after.is_some_and(|most| server.records().len() >= most) {
            println!("ERROR: an illegal memory access was encountered");
            std::process::exit(9);
        }
    }
}

/// On a thread of its own.
fn ignore_sigterm() {
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let kind = tokio::signal::unix::SignalKind::terminate();
            let mut terminate = tokio::signal::unix::signal(kind).expect("a signal");
            ready.send(()).expect("somebody waits");
            while terminate.recv().await.is_some() {}
        });
    });
    is_ready.recv().expect("the thread is ready");
}
