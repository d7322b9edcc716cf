//! What is known of a server before the first point: which fields it takes, how many tokens it adds to a prompt, and
//! how prompts of an exact length are made for it.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::exchange::{Answer, Connection, Fault, Observer, exchange};
use super::options::{Api, Options};
use super::prompts::Prompter;
use crate::domain::random::Random;
use crate::http::{self, HttpError, Origin};
use crate::load::{Endpoint, LoadError};

/// Lengths of the two prompts by which a server's count is compared with ours.
const CALIBRATION_TOKENS: [u32; 2] = [32, 96];

/// Tokens of their answers: enough to see whether a server holds packets back.
const CALIBRATION_ANSWER: u32 = 8;

/// Fields beyond OpenAI's interface, or new in it, that servers may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dialect {
    ignore_eos: bool,
    min_tokens: bool,
    usage: bool,
}

/// From the most to the least; the first that is not answered with 400 is used.
const DIALECTS: [Dialect; 4] = [
    Dialect { ignore_eos: true, min_tokens: true, usage: true },
    Dialect { ignore_eos: true, min_tokens: false, usage: true },
    Dialect { ignore_eos: false, min_tokens: false, usage: true },
    Dialect { ignore_eos: false, min_tokens: false, usage: false },
];

/// A server that has answered.
#[derive(Debug)]
pub(super) struct Session {
    url: String,
    model: String,
    api: Api,
    client: http::Client,
    origin: Origin,
    /// Everything of a request's head before the length of its body.
    head: String,
    dialect: Dialect,
    pub(super) prompter: Prompter,
    /// Tokens that the server adds to a prompt.
    added_tokens: i64,
    /// Whether answers end with token counts.
    pub(super) has_usage: bool,
    deadline: Duration,
    /// Whether pieces of a stream ever came together, which may be Nagle's algorithm at the server.
    holds_back: AtomicBool,
}

impl Session {
    /// Connects, finds out what the server takes, and compares token counts.
    pub(super) async fn open(endpoint: &Endpoint, options: &Options) -> Result<Self, LoadError> {
        let setup = |reason: String| LoadError::Setup(reason);
        let origin: Origin = endpoint.url.parse().map_err(|e: HttpError| setup(e.to_string()))?;
        let prompter = match &endpoint.tokenizer {
            Some(path) => Prompter::from_file(path).map_err(setup)?,
            None => Prompter::of_common_words(),
        };
        let key = endpoint.api_key.as_ref().map(|k| k.expose());
        if key.is_some_and(|k| k.is_empty() || k.bytes().any(|b| !b.is_ascii_graphic())) {
            return Err(setup("the API key is empty or has characters that no header can hold".to_owned()));
        }
        let authorization = key.map(|k| format!("authorization: Bearer {k}\r\n")).unwrap_or_default();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: text/event-stream\r\n\
             user-agent: sla-profiler/{}\r\n{authorization}",
            origin.target(options.api.path()),
            origin.authority(),
            env!("CARGO_PKG_VERSION"),
        );
        let http = http::Options { connect_deadline: options.connect_deadline, ca_file: options.ca_file.clone() };
        let mut session = Self {
            url: endpoint.url.clone(),
            model: endpoint.model.clone(),
            api: options.api,
            client: http::Client::new(http),
            origin,
            head,
            dialect: DIALECTS[0],
            prompter,
            added_tokens: 0,
            has_usage: false,
            deadline: options.request_deadline,
            holds_back: AtomicBool::new(false),
        };
        session.calibrate(key).await?;
        Ok(session)
    }

    async fn calibrate(&mut self, key: Option<&str>) -> Result<(), LoadError> {
        let mut counts: Vec<(u32, u32)> = Vec::new();
        let mut random = Random::new(&[1]);
        let mut dialects = DIALECTS.into_iter().skip(1);
        let mut connection = None;
        let [first, second] = CALIBRATION_TOKENS;
        let mut tokens = first;
        loop {
            let prompt = self.prompter.prompt(tokens, &mut random).map_err(LoadError::Setup)?;
            let body = self.body(&prompt, CALIBRATION_ANSWER);
            let mut kept = match connection.take() {
                Some(connection) => connection,
                None => self.connect().await.map_err(|e| self.unreachable(&e.to_string()))?,
            };
            match self.ask(&mut kept, &body, "calibration", self.deadline, &mut ()).await {
                Ok(answer) => {
                    connection = answer.keep_alive.then_some(kept);
                    let Some(usage) = answer.usage.filter(|u| u.prompt_tokens > 0) else { break };
                    counts.push((tokens, usage.prompt_tokens));
                    if tokens == second {
                        break;
                    }
                    tokens = second;
                }
                Err(Fault::Stale(_)) => {}
                Err(fault @ Fault::Status { status: 400 | 422, .. }) => match dialects.next() {
                    Some(dialect) => {
                        tracing::info!("{}: {fault}; trying {dialect:?}", self.url);
                        self.dialect = dialect;
                    }
                    None => return Err(self.refused(fault, key).await),
                },
                Err(fault) => return Err(self.refused(fault, key).await),
            }
        }
        self.compare(&counts)
    }

    /// Whether the server counts as we do, but for what it adds to each prompt.
    fn compare(&mut self, counts: &[(u32, u32)]) -> Result<(), LoadError> {
        let url = &self.url;
        match counts {
            [(a, server_a), (b, server_b)] => {
                let added = i64::from(*server_a) - i64::from(*a);
                if i64::from(*server_b) - i64::from(*b) == added {
                    self.added_tokens = added;
                    self.has_usage = true;
                    return Ok(());
                }
                let counts = format!("{server_a} and {server_b} tokens for prompts of {a} and {b}");
                Err(LoadError::Setup(match self.prompter.counts() {
                    true => format!("{url} counts {counts}: the tokenizer is not that of its model"),
                    false => format!("{url} counts {counts} words: give the model's tokenizer.json"),
                }))
            }
            _ if self.prompter.counts() => Ok(()),
            _ => Err(LoadError::Setup(format!(
                "{url} does not say how many tokens a prompt has (`usage`): give the model's tokenizer.json"
            ))),
        }
    }

    /// Tokens of the prompt's own text, so that the server counts `isl` with what it adds.
    pub(super) fn text_tokens(&self, isl: u32) -> Result<u32, LoadError> {
        u32::try_from(i64::from(isl) - self.added_tokens).ok().filter(|tokens| *tokens > 0).ok_or_else(|| {
            LoadError::Setup(format!(
                "{} adds {} tokens to each prompt, so none has {isl}",
                self.url, self.added_tokens
            ))
        })
    }

    pub(super) async fn connect(&self) -> Result<Connection, HttpError> {
        Ok(Connection::new(self.client.connect(&self.origin).await?))
    }

    /// The body of a request.
    pub(super) fn body(&self, prompt: &str, osl: u32) -> Vec<u8> {
        let mut body = Map::new();
        body.insert("model".to_owned(), json!(self.model));
        match self.api {
            Api::Completions => body.insert("prompt".to_owned(), json!(prompt)),
            Api::Chat => body.insert("messages".to_owned(), json!([{"role": "user", "content": prompt}])),
        };
        body.insert("max_tokens".to_owned(), json!(osl));
        body.insert("stream".to_owned(), json!(true));
        let Dialect { ignore_eos, min_tokens, usage } = self.dialect;
        if ignore_eos {
            body.insert("ignore_eos".to_owned(), json!(true));
        }
        if min_tokens {
            body.insert("min_tokens".to_owned(), json!(osl));
        }
        if usage {
            body.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        Value::Object(body).to_string().into_bytes()
    }

    /// Sends a body under the given name and reads the answer.
    pub(super) async fn ask(
        &self,
        connection: &mut Connection,
        body: &[u8],
        id: &str,
        deadline: Duration,
        observer: &mut impl Observer,
    ) -> Result<Answer, Fault> {
        let mut request = Vec::with_capacity(self.head.len() + body.len() + 96);
        request.extend_from_slice(self.head.as_bytes());
        request.extend_from_slice(format!("x-request-id: {id}\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(body);
        match timeout(deadline, exchange(connection, &request, observer, &self.holds_back)).await {
            Ok(result) => result,
            Err(_) => Err(Fault::Deadline(format!("no complete answer within {} s", deadline.as_secs_f64()))),
        }
    }

    pub(super) fn unreachable(&self, reason: &str) -> LoadError {
        LoadError::Unreachable { url: self.url.clone(), reason: reason.to_owned() }
    }

    /// A fault that every request will meet, as an error of the point.
    async fn refused(&self, fault: Fault, key: Option<&str>) -> LoadError {
        match fault {
            Fault::Status { status, body } => {
                let hint = match status {
                    401 | 403 if key.is_none() => "; no API key was given".to_owned(),
                    401 | 403 => "; the API key may be wrong".to_owned(),
                    404 => self.models(key).await,
                    _ => String::new(),
                };
                LoadError::Refused { url: self.url.clone(), status, body: format!("{body}{hint}") }
            }
            other => self.unreachable(&other.to_string()),
        }
    }

    /// What the server has instead of the model that it does not have.
    async fn models(&self, key: Option<&str>) -> String {
        let answer = self.client.get(&self.origin, "/v1/models", key, Duration::from_secs(5)).await;
        let list: Option<Value> = answer.ok().and_then(|a| serde_json::from_slice(&a.body).ok());
        let names: Vec<&str> = list
            .as_ref()
            .and_then(|list| list.get("data")?.as_array())
            .map(|models| models.iter().filter_map(|m| m.get("id")?.as_str()).collect())
            .unwrap_or_default();
        if names.is_empty() { String::new() } else { format!("; the server has {}", names.join(", ")) }
    }
}
