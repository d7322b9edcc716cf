//! Waiting until an engine answers: not a health check, which engines pass before they can serve, but one real
//! completion.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Ended, Served, Stop};
use crate::domain::{FailureCause, FailureClass};
use crate::http::{HttpError, Origin, Response};
use crate::load::Endpoint;

/// Between two tries: short at first, since a mocker is up in half a second, longer as time goes by.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The first completion of an engine may compile kernels.
const ONE_TRY: Duration = Duration::from_secs(300);

/// A server that refuses the request itself (400, 422) for so long will not change its mind.
const REFUSED_FOR_GOOD: Duration = Duration::from_secs(60);

/// How a try ended.
enum Try {
    Ready,
    /// Perhaps later.
    NotYet(String),
    /// It understood the request and does not want it.
    Refused(String),
    /// Never.
    Never(String),
}

/// Why an engine never answered.
pub(super) struct NotReady {
    pub class: FailureClass,
    pub cause: Option<FailureCause>,
    pub reason: String,
}

impl NotReady {
    /// It ended before it answered.
    fn of_launch(ended: Ended) -> Self {
        let class = match ended.cause {
            Some(FailureCause::GpuMemory) => FailureClass::DoesNotFit,
            _ => FailureClass::Launch,
        };
        Self { class, cause: ended.cause, reason: ended.reason }
    }
}

impl Served {
    /// Waits until the engine has answered a completion. A dead engine, a refusal for good and a stop by the user end
    /// the wait at once.
    pub(super) async fn first_answer(&self, deadline: Duration, stop: &Stop) -> Result<(), NotReady> {
        let since = Instant::now();
        let end = since + deadline;
        let mut said = "nothing yet".to_owned();
        let outcome = tokio::select! {
            biased;
            ended = self.liveness.ended() => Err(NotReady::of_launch(ended)),
            () = stop.requested() => {
                let reason = "given up: the run was asked to stop".to_owned();
                Err(NotReady { class: FailureClass::Other, cause: None, reason })
            }
            outcome = timeout_at(end, self.try_until_ready(&mut said)) => outcome.unwrap_or_else(|_| {
                let cause = Some(FailureCause::NotReady);
                Err(NotReady { class: FailureClass::Timeout, cause, reason: String::new() })
            }),
        };
        outcome.map_err(|not_ready| match not_ready.class {
            FailureClass::Timeout => NotReady {
                reason: format!(
                    "no completion from {} within {} s (--launch-deadline); the last try said: {said}",
                    self.site.endpoint.url,
                    self.settings.launch_deadline.as_secs_f64()
                ),
                ..not_ready
            },
            _ => not_ready,
        })
    }

    async fn try_until_ready(&self, said: &mut String) -> Result<(), NotReady> {
        let never = |reason: String| Err(NotReady { class: FailureClass::Launch, cause: None, reason });
        let origin: Origin = match self.site.endpoint.url.parse() {
            Ok(origin) => origin,
            Err(error) => return never(HttpError::to_string(&error)),
        };
        let mut pause = FIRST_PAUSE;
        let mut refused_since: Option<Instant> = None;
        loop {
            match self.complete(&origin, &self.site.endpoint).await {
                Try::Ready => return Ok(()),
                Try::Never(reason) => return never(reason),
                Try::NotYet(reason) => {
                    *said = reason;
                    refused_since = None;
                }
                Try::Refused(reason) => {
                    if refused_since.get_or_insert_with(Instant::now).elapsed() >= REFUSED_FOR_GOOD {
                        return never(reason);
                    }
                    *said = reason;
                }
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    /// A chat completion of one token, or a plain one where the server has no chat.
    async fn complete(&self, origin: &Origin, endpoint: &Endpoint) -> Try {
        let chat = serde_json::json!({
            "model": endpoint.model, "max_tokens": 1, "messages": [{ "role": "user", "content": "Hello" }],
        });
        let plain = serde_json::json!({ "model": endpoint.model, "max_tokens": 1, "prompt": "Hello" });
        let mut last = Try::NotYet("nothing".to_owned());
        for (path, body) in [("/v1/chat/completions", chat), ("/v1/completions", plain)] {
            let key = endpoint.api_key.as_ref().map(crate::load::ApiKey::expose);
            let answer = self.http.post_json(origin, path, key, body.to_string().into_bytes(), ONE_TRY).await;
            last = match answer {
                Ok(response) => judge(&endpoint.url, path, &response),
                Err(error @ (HttpError::Url { .. } | HttpError::Certificates { .. })) => Try::Never(error.to_string()),
                // Also TLS: a server in a pod may speak plain text until its proxy is up.
                Err(error) => Try::NotYet(error.to_string()),
            };
            if !matches!(last, Try::Refused(_)) {
                break;
            }
        }
        last
    }
}

fn judge(url: &str, path: &str, response: &Response) -> Try {
    let text = response.text();
    let said = || {
        let start: String = text.chars().take(300).collect();
        format!("{url}{path} answers {}: {}", response.status, start.trim())
    };
    match response.status {
        200..300 => {
            if is_completion(&text) {
                Try::Ready
            } else {
                Try::Refused(format!("{}: that is no completion", said()))
            }
        }
        401 | 403 => Try::Never(format!("{}; --api-key-file gives the key", said())),
        // Also 404: Dynamo's frontend knows the model only once a worker has registered, and some servers have no chat.
        400 | 404 | 405 | 415 | 422 => Try::Refused(said()),
        _ => Try::NotYet(said()),
    }
}

/// Whether the text is a completion, or the events of one: some servers stream to whoever has not asked for it.
fn is_completion(text: &str) -> bool {
    let has_choice = |json: &str| {
        let answer: Option<serde_json::Value> = serde_json::from_str(json).ok();
        answer.and_then(|answer| answer.get("choices")?.as_array().map(|choices| !choices.is_empty())).unwrap_or(false)
    };
    has_choice(text) || text.lines().filter_map(|line| line.strip_prefix("data:")).any(has_choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_completion_streamed_or_not() {
        assert!(is_completion(r#"{"choices": [{"text": "Hi"}]}"#));
        assert!(is_completion("data: {\"choices\": [{\"text\": \"Hi\"}]}\n\ndata: [DONE]\n\n"));
        for other in ["", "<html></html>", r#"{"choices": []}"#, r#"{"error": "no"}"#, "data: {\"error\": 1}\n\n"] {
            assert!(!is_completion(other), "{other}");
        }
    }
}
