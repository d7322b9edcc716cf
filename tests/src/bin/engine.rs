//! An engine for tests of whole runs: it computes nothing, and takes its time, its memory and its bad ends from flags. It
//! logs and shows metrics as vLLM does. Its tokens are words, as far as a prompt's length goes.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a program of tests")]

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Parser;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

#[derive(Debug, Clone, Parser)]
struct Flags {
    #[arg(long)]
    port: u16,
    /// Name of the model.
    #[arg(long)]
    model: String,
    /// Capacity of the KV cache.
    #[arg(long)]
    kv_tokens: f64,
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
    /// Show no metrics.
    #[arg(long)]
    no_metrics: bool,
    /// Say this much more in the log than in the metrics.
    #[arg(long, default_value_t = 1.0)]
    log_factor: f64,
    /// End while loading.
    #[arg(long)]
    die_loading: bool,
    /// Listen, but answer nothing but 503.
    #[arg(long)]
    never_ready: bool,
    /// End after so many requests.
    #[arg(long)]
    die_after: Option<u32>,
    /// Start a process that leaves the group and ignores SIGTERM, and ignore it, too.
    #[arg(long)]
    stubborn: bool,
    /// Passed over: what the profiler says besides.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    more: Vec<String>,
}

struct Engine {
    flags: Flags,
    /// Prompts whose KV cache is there.
    cached: Mutex<HashSet<String>>,
    slots: Semaphore,
    running: AtomicU32,
    requests: AtomicU32,
    /// Tokens of the requests that run.
    used: AtomicU32,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn answer(status: StatusCode, content_type: &str, body: String) -> Answer {
    let response = Response::builder().status(status).header("content-type", content_type);
    response.body(Full::from(body).boxed()).expect("a response")
}

/// Events as they are sent.
struct Events(mpsc::Receiver<String>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(Bytes::from(event)))))
    }
}

/// The prompt's text, whichever interface it came by.
fn prompt(request: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match request["messages"].as_array() {
        Some(messages) => messages.iter().map(|message| text(&message["content"])).collect::<Vec<_>>().join(" "),
        None => text(&request["prompt"]),
    }
}

impl Engine {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        if self.flags.never_ready {
            return answer(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "still loading".to_owned());
        }
        match path.as_str() {
            "/v1/models" => {
                let list = json!({ "object": "list", "data": [{ "id": self.flags.model, "object": "model" }] });
                answer(StatusCode::OK, "application/json", list.to_string())
            }
            "/metrics" if !self.flags.no_metrics => answer(StatusCode::OK, "text/plain", self.metrics()),
            "/v1/chat/completions" | "/v1/completions" => {
                let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                match serde_json::from_slice::<Value>(&body) {
                    Ok(request) if request["model"] == self.flags.model.as_str() => {
                        self.complete(request, path.contains("chat")).await
                    }
                    Ok(_) => answer(StatusCode::NOT_FOUND, "application/json", json!({"error": "no such model"}).to_string()),
                    Err(error) => answer(StatusCode::BAD_REQUEST, "text/plain", error.to_string()),
                }
            }
            _ => answer(StatusCode::NOT_FOUND, "text/plain", "no such path".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        let Flags { model, kv_tokens, .. } = &self.flags;
        let running = self.running.load(Ordering::Relaxed);
        let usage = f64::from(self.used.load(Ordering::Relaxed)) / kv_tokens;
        format!(
            "# TYPE vllm:cache_config_info gauge\n\
             vllm:cache_config_info{{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"{}\"}} 1.0\n\
             vllm:num_requests_running{{engine=\"0\",model_name=\"{model}\"}} {running}\n\
             vllm:kv_cache_usage_perc{{engine=\"0\",model_name=\"{model}\"}} {usage}\n",
            (kv_tokens / 16.0).floor()
        )
    }

    async fn complete(self: Arc<Self>, request: Value, chat: bool) -> Answer {
        if self.flags.die_after.is_some_and(|most| self.requests.fetch_add(1, Ordering::Relaxed) >= most) {
            println!("ERROR: an illegal memory access was encountered");
            std::process::exit(9);
        }
        let prompt = prompt(&request);
        let tokens = prompt.split_whitespace().count() as u32;
        let most = ["max_completion_tokens", "max_tokens"].iter().find_map(|key| request[*key].as_u64());
        let generate = most.unwrap_or(16) as u32;
        let stream = request["stream"] == true;
        let known = !self.cached.lock().unwrap_or_else(PoisonError::into_inner).insert(prompt);
        let (sender, events) = mpsc::channel(64);
        let usage = json!({
            "prompt_tokens": tokens, "completion_tokens": generate, "total_tokens": tokens + generate,
        });
        let model = self.flags.model.clone();
        tokio::spawn(async move {
            let _slot = self.slots.acquire().await;
            let prefill_ms = if known { 1.0 } else { 2.0 + f64::from(tokens) * 0.01 };
            let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
            self.used.fetch_add(tokens + generate, Ordering::Relaxed);
            sleep(Duration::from_secs_f64(prefill_ms / self.flags.speed / 1e3)).await;
            for index in 0..generate {
                if index > 0 {
                    let itl_ms = (4.0 + 0.05 * f64::from(running)) / self.flags.speed;
                    sleep(Duration::from_secs_f64(itl_ms / 1e3)).await;
                }
                if stream {
                    let choice = if chat {
                        json!({ "index": 0, "delta": { "content": " the" } })
                    } else {
                        json!({ "index": 0, "text": " the" })
                    };
                    let event = json!({ "object": "chunk", "model": model, "choices": [choice] });
                    if sender.send(format!("data: {event}\n\n")).await.is_err() {
                        break;
                    }
                }
            }
            let end = if stream {
                let event = json!({ "object": "chunk", "model": model, "choices": [], "usage": usage });
                format!("data: {event}\n\ndata: [DONE]\n\n")
            } else {
                let choice = json!({ "index": 0, "text": "the", "message": { "role": "assistant", "content": "the" } });
                json!({ "object": "completion", "model": model, "choices": [choice], "usage": usage }).to_string()
            };
            let _ = sender.send(end).await;
            self.used.fetch_sub(tokens + generate, Ordering::Relaxed);
            self.running.fetch_sub(1, Ordering::Relaxed);
        });
        let content_type = if stream { "text/event-stream" } else { "application/json" };
        let response = Response::builder().header("content-type", content_type);
        response.body(Events(events).boxed()).expect("a response")
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let flags = Flags::parse();
    println!("engine on GPUs {:?}, flags {:?}", std::env::var("CUDA_VISIBLE_DEVICES"), flags.more);
    if flags.stubborn {
        let mut child = std::process::Command::new("setsid");
        child.args(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]).spawn().expect("a child");
        tokio::spawn(async {
            let kind = tokio::signal::unix::SignalKind::terminate();
            let mut terminate = tokio::signal::unix::signal(kind).expect("a signal");
            while terminate.recv().await.is_some() {}
        });
    }
    sleep(Duration::from_millis(flags.load_ms)).await;
    if flags.die_loading {
        println!("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB");
        std::process::exit(3);
    }
    if !flags.silent {
        println!("INFO GPU KV cache size: {} tokens", (flags.kv_tokens * flags.log_factor).floor());
        println!("INFO non-default args: {{'max_num_seqs': {}, 'x': 1}}", flags.max_running);
    }
    let listener = match tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, flags.port)).await {
        Ok(listener) => listener,
        Err(error) => {
            println!("OSError: {error}");
            std::process::exit(1);
        }
    };
    let engine = Arc::new(Engine {
        slots: Semaphore::new(flags.max_running),
        cached: Mutex::default(),
        running: AtomicU32::new(0),
        requests: AtomicU32::new(0),
        used: AtomicU32::new(0),
        flags,
    });
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        // As a server for tokens should: no packet waits for another.
        stream.set_nodelay(true).expect("a socket");
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let engine = Arc::clone(&engine);
                async move { Ok::<_, Infallible>(engine.serve(request).await) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        });
    }
}
