//! An OpenAI-compatible server that is not an engine: it emits tokens on a schedule that is known, notes when it really
//! did, and misbehaves on demand. A token is a word.
//!
//! It writes HTTP/1.1 by hand: faults are of its own making, and what it costs must not hide what clients cost.

#![allow(clippy::indexing_slicing, reason = "a helper of tests: a failure is the message")]

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

/// When tokens are emitted: an engine's law in a few numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// To the first token of a prompt that is in the prefix cache.
    pub ttft_ms: f64,
    /// More for each prompt token that is not.
    pub ttft_ms_per_token: f64,
    /// TTFT of each request is a factor from 1 − this to 1 + this longer, by its number: requests that start together do
    /// not stay together.
    pub ttft_spread: f64,
    /// Between tokens, with one request in flight.
    pub itl_ms: f64,
    /// More for each other request in flight.
    pub itl_ms_per_request: f64,
}

impl Timing {
    /// The same for all requests.
    pub const fn fixed(ttft_ms: f64, itl_ms: f64) -> Self {
        Self { ttft_ms, ttft_ms_per_token: 0.0, ttft_spread: 0.0, itl_ms, itl_ms_per_request: 0.0 }
    }
}

/// What goes wrong with a completion.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// This status instead of an answer.
    Status(u16),
    /// No byte of an answer, ever.
    NeverAnswers,
    /// Nothing more after so many tokens, with the connection open.
    Stalls(u32),
    /// The connection ends after so many tokens.
    Cut(u32),
    /// The writing side ends after so many tokens, in good order but for the answer.
    HalfClosed(u32),
    /// Something else than JSON after so many tokens.
    Malformed(u32),
    /// Not even an event stream.
    Html,
    /// An error as an event, after so many tokens.
    ErrorEvent(u32),
    /// No token at all, and `[DONE]`.
    NoTokens,
    /// Counts so many more generated tokens than there were.
    WrongUsage(i64),
    /// Counts no token.
    ZeroUsage,
    /// The answer stops after so many tokens, as if the model had ended it.
    EndsEarly(u32),
}

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// The name of its one model; others get 404.
    pub model: String,
    /// The schedule.
    pub timing: Timing,
    /// What goes wrong …
    pub fault: Option<Fault>,
    /// … with each so-manieth completion …
    pub fault_every: u32,
    /// … after so many good ones.
    pub fault_after: u32,
    /// Whoever has not got it is answered with 401.
    pub api_key: Option<String>,
    /// Fields that are answered with 400.
    pub refuses: Vec<&'static str>,
    /// Longer prompts than so many words are answered with 500.
    pub longest_prompt: usize,
    /// Tokens that it adds to each prompt.
    pub added_tokens: u32,
    /// Tokens for each word: above 1, its tokenizer is not the client's.
    pub tokens_per_word: u32,
    /// Whether it answers `stream_options.include_usage`.
    pub usage: bool,
    /// Tokens that are written together.
    pub coalesce: u32,
    /// Whether small packets wait for the acknowledgement of the one before.
    pub nagle: bool,
    /// Whether it closes each connection after one answer.
    pub closes: bool,
    /// Requests that run at once; others wait.
    pub max_running: usize,
    /// KV capacity that `/metrics` reports.
    pub kv_tokens: u32,
    /// All emission stops at the first and goes on at the second, counted from the start of the server.
    pub pause: Option<(Duration, Duration)>,
    /// Whether it watches how late its own event loop is, for `/truth`.
    pub watches_itself: bool,
    /// Speaks TLS with a certificate of its own.
    pub tls: bool,
    /// Port; 0 for any.
    pub port: u16,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            model: "tiny".to_owned(),
            timing: Timing::fixed(2.0, 0.5),
            fault: None,
            fault_every: 1,
            fault_after: 0,
            api_key: None,
            refuses: Vec::new(),
            longest_prompt: usize::MAX,
            added_tokens: 3,
            tokens_per_word: 1,
            usage: true,
            coalesce: 1,
            nagle: false,
            closes: false,
            max_running: 100_000,
            kv_tokens: 1 << 20,
            pause: None,
            watches_itself: false,
            tls: false,
            port: 0,
        }
    }
}

/// One completion as the server saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// `X-Request-ID`.
    pub id: String,
    /// Path of the request.
    pub path: String,
    /// Prompt text.
    pub prompt: String,
    /// Prompt tokens, with those that it added.
    pub isl: u32,
    /// Tokens that were asked for.
    pub osl: u32,
    /// Tokens that were written.
    pub tokens: u32,
    /// When the request was there, since the start of the server.
    pub received_s: f64,
    /// When the first token was handed to the system.
    pub first_s: f64,
    /// When the last one was.
    pub last_s: f64,
    /// Other requests in flight when it came.
    pub running: u32,
    /// How late the server's event loop was when it came; 0 unless it watches itself.
    pub lag_ms: f64,
}

impl Record {
    /// Time to first token, as the server knows it.
    pub fn ttft_ms(&self) -> f64 {
        (self.first_s - self.received_s) * 1e3
    }

    /// Inter-token latency, as the server knows it.
    pub fn itl_ms(&self) -> f64 {
        (self.last_s - self.first_s) * 1e3 / f64::from(self.tokens.saturating_sub(1).max(1))
    }
}

struct Shared {
    behaviour: Behaviour,
    start: Instant,
    records: Mutex<Vec<Record>>,
    running: AtomicU32,
    waiting: AtomicU32,
    completions: AtomicU32,
    /// Prompts that were seen.
    cache: Mutex<HashSet<u64>>,
    slots: Semaphore,
    connections: AtomicU32,
    /// Of the last signal.
    lag_ms: Mutex<f64>,
}

/// A server that runs; ends when it is dropped.
pub struct OpenAi {
    /// `http://127.0.0.1:port`
    pub url: String,
    /// Its certificate, where it speaks TLS.
    pub ca_file: Option<PathBuf>,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Drop for OpenAi {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server's thread ends well");
        }
    }
}

impl OpenAi {
    /// Starts one on a thread of its own.
    pub fn start(behaviour: Behaviour) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut ca_file = None;
        let acceptor = behaviour.tls.then(|| {
            let path = dir.path().join("ca.pem");
            let (acceptor, pem) = certificate();
            std::fs::write(&path, pem).expect("the certificate can be written");
            ca_file = Some(path);
            acceptor
        });
        let listener = std::net::TcpListener::bind(("127.0.0.1", behaviour.port)).expect("a port is free");
        let address: SocketAddr = listener.local_addr().expect("a listener has an address");
        let scheme = if behaviour.tls { "https" } else { "http" };
        let shared = Arc::new(Shared {
            slots: Semaphore::new(behaviour.max_running),
            behaviour,
            start: Instant::now(),
            records: Mutex::default(),
            running: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            completions: AtomicU32::new(0),
            cache: Mutex::default(),
            connections: AtomicU32::new(0),
            lag_ms: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let on_thread = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                listener.set_nonblocking(true).expect("the listener can be made asynchronous");
                let listener = TcpListener::from_std(listener).expect("the listener can be used");
                if on_thread.behaviour.watches_itself {
                    tokio::spawn(watch(on_thread.clone()));
                }
                tokio::select! {
                    () = accept(listener, acceptor, on_thread) => {}
                    _ = stopped => {}
                }
            });
        });
        let url = format!("{scheme}://localhost:{}", address.port());
        let url = if ca_file.is_some() { url } else { url.replace("localhost", "127.0.0.1") };
        Self { url, ca_file, shared, stop: Some(stop), thread: Some(thread), _dir: dir }
    }

    /// What it noted so far, in the order of ending; requests that it did not answer well are missing.
    pub fn records(&self) -> Vec<Record> {
        self.shared.records.lock().expect("no thread has failed").clone()
    }

    /// Completions that were asked for, good or bad.
    pub fn completions(&self) -> u32 {
        self.shared.completions.load(Ordering::Relaxed)
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> u32 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Requests that are being answered now.
    pub fn running(&self) -> u32 {
        self.shared.running.load(Ordering::Relaxed)
    }
}

/// For `localhost`, signed by itself.
fn certificate() -> (TlsAcceptor, String) {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], der)
        .expect("the certificate fits its key");
    (TlsAcceptor::from(Arc::new(config)), key.cert.pem())
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        // Out of files: others will close theirs.
        let Ok((tcp, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        tcp.set_nodelay(!shared.behaviour.nagle).expect("the option can be set");
        let (shared, acceptor) = (shared.clone(), acceptor.clone());
        tokio::spawn(async move {
            match acceptor {
                None => serve::<TcpStream>(tcp, &shared).await,
                Some(acceptor) => match acceptor.accept(tcp).await {
                    Ok(tls) => serve(tls, &shared).await,
                    Err(_) => None,
                },
            }
        });
    }
}

/// Signals from another thread, each with the moment at which it was due.
async fn watch(shared: Arc<Shared>) {
    let (sender, mut signals) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut due = Instant::now();
        while sender.send(due).is_ok() {
            due += Duration::from_micros(7300);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    });
    while let Some(due) = signals.recv().await {
        let lag_ms = Instant::now().saturating_duration_since(due).as_secs_f64() * 1e3;
        *shared.lag_ms.lock().expect("no thread has failed") = lag_ms;
    }
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// `None` at the end of the connection.
async fn read_request(io: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, piece: &mut [u8]) -> Option<Request> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        let n = io.read(piece).await.ok().filter(|n| *n > 0)?;
        buffer.extend_from_slice(&piece[..n]);
    };
    let head = String::from_utf8(buffer[..end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect();
    let mut request = Request { method, path, headers, body: Vec::new() };
    let length: usize = request.header("content-length").map_or(Some(0), |l| l.parse().ok())?;
    buffer.drain(..end + 4);
    while buffer.len() < length {
        let n = io.read(piece).await.ok().filter(|n| *n > 0)?;
        buffer.extend_from_slice(&piece[..n]);
    }
    request.body = buffer.drain(..length).collect();
    Some(request)
}

/// Answers until the connection ends, which `None` says.
async fn serve<Io: AsyncRead + AsyncWrite + Unpin>(mut io: Io, shared: &Shared) -> Option<()> {
    let (mut buffer, mut piece) = (Vec::new(), vec![0; 8 << 10]);
    loop {
        let request = read_request(&mut io, &mut buffer, &mut piece).await?;
        let received = Instant::now();
        let behaviour = &shared.behaviour;
        if behaviour.api_key.as_ref().is_some_and(|k| request.header("authorization") != Some(&format!("Bearer {k}"))) {
            respond(&mut io, 401, "application/json", &error("no such key")).await?;
            continue;
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/v1/models") => {
                let list = json!({"object": "list", "data": [{"id": behaviour.model, "object": "model"}]});
                respond(&mut io, 200, "application/json", &list.to_string()).await?;
            }
            ("GET", "/health") => respond(&mut io, 200, "text/plain", "").await?,
            ("GET", "/metrics") => respond(&mut io, 200, "text/plain; version=0.0.4", &metrics(shared)).await?,
            // Of this server alone: what it noted, for a client in another process.
            ("GET", "/truth") => respond(&mut io, 200, "application/json", &truth(shared)).await?,
            ("POST", "/v1/completions" | "/v1/chat/completions") => {
                let running = shared.running.fetch_add(1, Ordering::Relaxed);
                let done = complete(&mut io, shared, &request, received, running).await;
                shared.running.fetch_sub(1, Ordering::Relaxed);
                done?;
            }
            _ => respond(&mut io, 404, "application/json", &error("no such path")).await?,
        }
        if behaviour.closes {
            return io.shutdown().await.ok();
        }
    }
}

fn error(message: &str) -> String {
    json!({"error": {"message": message, "type": "invalid_request_error"}}).to_string()
}

async fn respond(io: &mut (impl AsyncWrite + Unpin), status: u16, kind: &str, body: &str) -> Option<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Whatever\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
    io.write_all(format!("{head}{body}").as_bytes()).await.ok()
}

/// In vLLM's form.
fn metrics(shared: &Shared) -> String {
    let model = &shared.behaviour.model;
    let blocks = shared.behaviour.kv_tokens / 16;
    let running = shared.running.load(Ordering::Relaxed);
    let waiting = shared.waiting.load(Ordering::Relaxed);
    let in_use = shared.cache.lock().expect("no thread has failed").len();
    let usage = (in_use as f64 / f64::from(blocks.max(1))).min(1.0);
    format!(
        "# HELP vllm:num_requests_running Number of requests in model execution batches.\n\
         # TYPE vllm:num_requests_running gauge\n\
         vllm:num_requests_running{{engine=\"0\",model_name=\"{model}\"}} {}.0\n\
         # HELP vllm:num_requests_waiting Number of requests waiting to be processed.\n\
         # TYPE vllm:num_requests_waiting gauge\n\
         vllm:num_requests_waiting{{engine=\"0\",model_name=\"{model}\"}} {waiting}.0\n\
         # HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.\n\
         # TYPE vllm:kv_cache_usage_perc gauge\n\
         vllm:kv_cache_usage_perc{{engine=\"0\",model_name=\"{model}\"}} {usage}\n\
         # HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n\
         # TYPE vllm:cache_config_info gauge\n\
         vllm:cache_config_info{{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"{blocks}\"}} 1.0\n",
        running - waiting.min(running),
    )
}

fn truth(shared: &Shared) -> String {
    let records = shared.records.lock().expect("no thread has failed");
    let rows: Vec<Value> =
        records.iter().map(|r| json!([r.id, r.received_s, r.first_s, r.last_s, r.tokens, r.lag_ms])).collect();
    Value::Array(rows).to_string()
}

/// Takes part in the count of those who wait, however waiting ends.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn complete<Io: AsyncWrite + Unpin>(
    io: &mut Io,
    shared: &Shared,
    request: &Request,
    received: Instant,
    running: u32,
) -> Option<()> {
    let behaviour = &shared.behaviour;
    let lag_ms = *shared.lag_ms.lock().expect("no thread has failed");
    let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
        return respond(io, 400, "application/json", &error("no JSON")).await;
    };
    if let Some(field) = behaviour.refuses.iter().find(|f| body.get(**f).is_some()) {
        let message = error(&format!("Unsupported parameter: {field}"));
        return respond(io, 400, "application/json", &message).await;
    }
    if body["model"] != behaviour.model.as_str() {
        let message = error(&format!("The model `{}` does not exist.", body["model"].as_str().unwrap_or_default()));
        return respond(io, 404, "application/json", &message).await;
    }
    let number = shared.completions.fetch_add(1, Ordering::Relaxed);
    let fault = behaviour.fault.as_ref().filter(|_| {
        number >= behaviour.fault_after && (number - behaviour.fault_after + 1).is_multiple_of(behaviour.fault_every)
    });
    match fault {
        Some(Fault::Status(status)) => return respond(io, *status, "application/json", &error("on demand")).await,
        Some(Fault::NeverAnswers) => std::future::pending().await,
        Some(Fault::Html) => return respond(io, 200, "text/html", "<html>Welcome</html>").await,
        _ => {}
    }
    let slot = {
        let _waiting = Waiting::new(&shared.waiting);
        shared.slots.acquire().await.ok()?
    };
    let is_chat = request.path.ends_with("/chat/completions");
    let prompt = if is_chat { &body["messages"][0]["content"] } else { &body["prompt"] }.as_str().unwrap_or_default();
    let words = u32::try_from(prompt.split_whitespace().count()).unwrap_or(u32::MAX);
    if words as usize > behaviour.longest_prompt {
        return respond(io, 500, "application/json", &error("EngineCore encountered an issue")).await;
    }
    let isl = words * behaviour.tokens_per_word + behaviour.added_tokens;
    let osl = u32::try_from(body["max_tokens"].as_u64().unwrap_or(16)).unwrap_or(16);
    let mut hasher = DefaultHasher::new();
    prompt.hash(&mut hasher);
    let is_new = shared.cache.lock().expect("no thread has failed").insert(hasher.finish());
    let timing = behaviour.timing;
    let ttft_ms = timing.ttft_ms + if is_new { timing.ttft_ms_per_token * f64::from(isl) } else { 0.0 };
    // Weyl's sequence of the golden ratio: evenly spread, whatever the count.
    let place = (f64::from(number) * 0.618_033_988_749_895).fract();
    let ttft_ms = ttft_ms * (1.0 + timing.ttft_spread * (2.0 * place - 1.0));
    let itl_ms = timing.itl_ms + timing.itl_ms_per_request * f64::from(running);

    let id = request.header("x-request-id").unwrap_or_default().to_owned();
    let frame = |text: &str| -> Vec<u8> { format!("{:x}\r\n{text}\r\n", text.len()).into_bytes() };
    let event = |event: &Value| frame(&format!("data: {event}\n\n"));
    // Clients may look: AIPerf does not read chunks of another kind.
    let object = if is_chat { "chat.completion.chunk" } else { "text_completion" };
    let choice = |text: Option<&str>, finish: Option<&str>| {
        let mut choice = json!({"index": 0, "logprobs": null, "finish_reason": finish});
        if is_chat {
            choice["delta"] = text.map_or(json!({}), |text| json!({"content": text}));
        } else {
            choice["text"] = json!(text.unwrap_or_default());
        }
        json!({"id": id, "object": object, "created": 1_700_000_000, "model": behaviour.model, "choices": [choice]})
    };
    // One token's frame, made once: making it anew for each would cost more than writing it.
    let token = event(&choice(Some(" word"), None));
    io.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await
    .ok()?;
    if is_chat {
        io.write_all(&event(
            &json!({"id": id, "object": object, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
        ))
        .await
        .ok()?;
    }
    let (mut tokens, end) = match fault {
        Some(Fault::NoTokens) => (0, 0),
        Some(Fault::EndsEarly(n)) => (0, *n),
        _ => (0, osl),
    };
    let (mut first, mut last) = (None, received);
    while tokens < end {
        let here = behaviour.coalesce.min(end - tokens);
        tokens += here;
        let due_ms = ttft_ms + itl_ms * f64::from(tokens - 1);
        sleep_until((received + Duration::from_secs_f64(due_ms / 1e3)).into()).await;
        if let Some((from, to)) = behaviour.pause {
            let now = shared.start.elapsed();
            if (from..to).contains(&now) {
                sleep(to - now).await;
            }
        }
        match fault {
            Some(Fault::Stalls(n)) if tokens > *n => std::future::pending().await,
            Some(Fault::Cut(n)) if tokens > *n => return None,
            Some(Fault::HalfClosed(n)) if tokens > *n => {
                io.shutdown().await.ok()?;
                // The reading side stays open, as long as the client does.
                std::future::pending().await
            }
            Some(Fault::Malformed(n)) if tokens > *n => io.write_all(&frame("data: {\"choices\": [\n\n")).await.ok()?,
            Some(Fault::ErrorEvent(n)) if tokens > *n => {
                io.write_all(&frame("data: {\"error\": {\"message\": \"CUDA out of memory\"}}\n\n")).await.ok()?;
            }
            _ => {}
        }
        last = Instant::now();
        first.get_or_insert(last);
        if here == 1 {
            io.write_all(&token).await.ok()?;
        } else {
            io.write_all(&token.repeat(here as usize)).await.ok()?;
        }
    }
    let finish = if tokens < osl { "stop" } else { "length" };
    let mut tail = event(&choice(None, Some(finish)));
    if behaviour.usage && body["stream_options"]["include_usage"] == true {
        let completion = match fault {
            Some(Fault::WrongUsage(more)) => i64::from(tokens) + more,
            Some(Fault::ZeroUsage) => 0,
            _ => i64::from(tokens),
        };
        let usage =
            json!({"prompt_tokens": isl, "completion_tokens": completion, "total_tokens": i64::from(isl) + completion});
        tail.extend(event(&json!({"id": id, "object": object, "choices": [], "usage": usage})));
    }
    tail.extend(frame("data: [DONE]\n\n"));
    drop(slot);
    let since = |at: Instant| at.saturating_duration_since(shared.start).as_secs_f64();
    shared.records.lock().expect("no thread has failed").push(Record {
        id,
        path: request.path.clone(),
        prompt: prompt.to_owned(),
        isl,
        osl,
        tokens,
        received_s: since(received),
        first_s: since(first.unwrap_or(received)),
        last_s: since(last),
        running,
        lag_ms,
    });
    io.write_all(&tail).await.ok()?;
    // As servers do, whose frameworks end the body in a write of its own.
    io.write_all(b"0\r\n\r\n").await.ok()
}

/// A tokenizer whose tokens are words, as the server's are, in the file format of Hugging Face.
pub fn word_tokenizer() -> &'static PathBuf {
    static FILE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &FILE
        .get_or_init(|| {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let letters = b'a'..=b'z';
            let mut vocabulary = serde_json::Map::new();
            vocabulary.insert("[UNK]".to_owned(), json!(0));
            for (a, b) in letters.clone().flat_map(|a| letters.clone().map(move |b| (a, b))) {
                let word = format!("{}{}{}", char::from(a), char::from(b), "x");
                vocabulary.insert(word, json!(vocabulary.len()));
            }
            let tokenizer = json!({
                "version": "1.0", "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
                "padding": null, "added_tokens": [], "normalizer": null,
                "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
                "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
            });
            let path = dir.path().join("tokenizer.json");
            std::fs::write(&path, tokenizer.to_string()).expect("the tokenizer can be written");
            (dir, path)
        })
        .1
}
