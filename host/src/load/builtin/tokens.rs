//! What the events of a completion mean: which carry generated text, how it ended, what the server counted.
//!
//! The events of one stream differ in little but their text. So the first event that carries text is parsed as JSON,
//! and what surrounds its text is remembered; an event with the same surroundings and something between them carries
//! text and nothing else of interest, which two comparisons of bytes show. All others are parsed.

use std::borrow::Cow;

use serde::Deserialize;

/// What an event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Generated text.
    Text,
    /// Nothing that counts: a role, a finish reason without text, usage.
    Other,
    /// The stream's end marker, `[DONE]`.
    End,
    /// The server reports an error.
    Error(String),
    /// No JSON, or not that of a completion.
    Malformed(String),
}

/// Token counts as the server reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Usage {
    /// Of the prompt.
    #[serde(default)]
    pub(super) prompt_tokens: u32,
    /// Generated.
    #[serde(default)]
    pub(super) completion_tokens: u32,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning: Option<Cow<'a, str>>,
    #[serde(default)]
    tool_calls: Option<Vec<serde::de::IgnoredAny>>,
}

impl Choice<'_> {
    /// The text, if the event has but one.
    fn text(&self) -> Option<&str> {
        let some = |text: &Option<Cow<'_, str>>| text.as_deref().is_some_and(|t| !t.is_empty());
        let delta = self.delta.as_ref();
        self.text.as_deref().filter(|t| !t.is_empty()).or_else(|| {
            let delta = delta?;
            [&delta.content, &delta.reasoning_content, &delta.reasoning].into_iter().find(|t| some(t))?.as_deref()
        })
    }

    fn calls_tools(&self) -> bool {
        self.delta.as_ref().and_then(|d| d.tool_calls.as_ref()).is_some_and(|calls| !calls.is_empty())
    }
}

/// Reads the events of one stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// What precedes and follows the text of this stream's events.
    surroundings: Option<(Vec<u8>, Vec<u8>)>,
    /// What the server counted, once it said so.
    pub(super) usage: Option<Usage>,
    /// Why generating ended, once the server said so.
    pub(super) finish_reason: Option<String>,
}

impl Stream {
    /// What the event is; remembers usage and finish reason.
    pub(super) fn read(&mut self, data: &[u8], is_error: bool) -> Event {
        if let (false, Some((before, after))) = (is_error, &self.surroundings) {
            let text = data.strip_prefix(before.as_slice()).and_then(|rest| rest.strip_suffix(after.as_slice()));
            // A quote ends the text, so that more may lie between; if it is an escaped one, parsing says the same.
            if text.is_some_and(|text| !text.is_empty() && memchr::memchr(b'"', text).is_none()) {
                return Event::Text;
            }
        }
        if data.trim_ascii() == b"[DONE]" {
            return Event::End;
        }
        let start = || String::from_utf8_lossy(data).chars().take(200).collect::<String>();
        if is_error {
            return Event::Error(start());
        }
        let chunk: Chunk<'_> = match serde_json::from_slice(data) {
            Ok(chunk) => chunk,
            Err(e) => return Event::Malformed(format!("`{}` is no event of a completion: {e}", start())),
        };
        if let Some(error) = chunk.error.filter(|e| !e.is_null()) {
            return Event::Error(
                error.get("message").and_then(|m| m.as_str()).map_or(error.to_string(), str::to_owned),
            );
        }
        let has_usage = chunk.usage.is_some();
        self.usage = chunk.usage.or(self.usage);
        let Some(choices) = chunk.choices else {
            return if has_usage { Event::Other } else { Event::Malformed(format!("`{}` has no choices", start())) };
        };
        let finished = choices.iter().find_map(|c| c.finish_reason.as_deref());
        if let Some(reason) = finished {
            self.finish_reason = Some(reason.to_owned());
        }
        let carries_text = choices.iter().any(|c| c.text().is_some() || c.calls_tools());
        // Only an event that says nothing else may be the pattern.
        if let ([choice], None, false) = (choices.as_slice(), finished, has_usage)
            && let Some(text) = choice.text().filter(|_| !choice.calls_tools())
        {
            self.surroundings = surroundings(data, text);
        }
        if carries_text { Event::Text } else { Event::Other }
    }
}

/// What precedes and follows the text, where it is certain which of the event's strings it is: it occurs once, and
/// nothing in it is escaped.
fn surroundings(data: &[u8], text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let quoted = format!("\"{text}\"");
    let mut places = memchr::memmem::find_iter(data, quoted.as_bytes());
    let (first, None) = (places.next()?, places.next()) else { return None };
    let before = data.get(..=first)?;
    // After the colon of its name: a name itself would be followed by one.
    if !before.strip_suffix(b"\"").is_some_and(|b| b.trim_ascii_end().ends_with(b":")) {
        return None;
    }
    let after = data.get(first + quoted.len() - 1..)?;
    Some((before.to_vec(), after.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn chat(delta: serde_json::Value, finish: Option<&str>) -> Vec<u8> {
        json!({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]})
        .to_string()
        .into_bytes()
    }

    fn completion(text: &str, finish: Option<&str>) -> Vec<u8> {
        json!({"id": "c-1", "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": finish}], "usage": null})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn only_events_with_text_count() {
        let mut stream = Stream::default();
        let expected = [
            (chat(json!({"role": "assistant", "content": ""}), None), Event::Other),
            (chat(json!({"content": " a"}), None), Event::Text),
            (chat(json!({"content": " b"}), None), Event::Text),
            (chat(json!({"content": ""}), None), Event::Other),
            (chat(json!({"content": "\""}), None), Event::Text),
            (chat(json!({"reasoning_content": "x"}), None), Event::Text),
            (chat(json!({"reasoning": "x"}), None), Event::Text),
            (chat(json!({"content": null, "tool_calls": [{"index": 0}]}), None), Event::Text),
            (chat(json!({"content": "last"}), Some("length")), Event::Text),
            (chat(json!({}), Some("stop")), Event::Other),
            (b"[DONE]".to_vec(), Event::End),
        ];
        for (data, event) in expected {
            assert_eq!(stream.read(&data, false), event, "{}", String::from_utf8_lossy(&data));
        }
    }

    #[test]
    fn usage_and_finish_reason_are_kept() {
        let mut stream = Stream::default();
        stream.read(&completion(" a", None), false);
        assert_eq!((stream.usage, stream.finish_reason.clone()), (None, None));
        stream.read(&completion(" b", Some("length")), false);
        let usage = br#"{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}"#;
        assert_eq!(stream.read(usage, false), Event::Other);
        assert_eq!(stream.usage, Some(Usage { prompt_tokens: 7, completion_tokens: 2 }));
        assert_eq!(stream.finish_reason.as_deref(), Some("length"));
    }

    #[test]
    fn usage_beside_the_last_text_is_not_overlooked() {
        let mut stream = Stream::default();
        let event = |usage: serde_json::Value| {
            json!({"choices": [{"text": " a", "finish_reason": null}], "usage": usage}).to_string().into_bytes()
        };
        stream.read(&event(json!(null)), false);
        assert!(stream.surroundings.is_some());
        assert_eq!(stream.read(&event(json!({"prompt_tokens": 1, "completion_tokens": 5})), false), Event::Text);
        assert_eq!(stream.usage.map(|u| u.completion_tokens), Some(5));
    }

    #[test]
    fn a_field_between_the_text_and_the_rest_is_not_taken_for_text() {
        let mut stream = Stream::default();
        stream.read(br#"{"choices": [{"text": "a", "finish_reason": null}]}"#, false);
        let event = br#"{"choices": [{"text": "", "stop": "a", "finish_reason": null}]}"#;
        assert_eq!(stream.read(event, false), Event::Other);
    }

    #[test]
    fn errors_within_the_stream_are_seen() {
        let mut stream = Stream::default();
        stream.read(&completion(" a", None), false);
        let error = br#"{"error": {"message": "out of memory", "code": 500}}"#;
        assert_eq!(stream.read(error, false), Event::Error("out of memory".into()));
        assert_eq!(stream.read(b"whatever", true), Event::Error("whatever".into()));
    }

    #[test]
    fn what_is_no_completion_is_malformed() {
        for data in [&b"{"[..], b"", b"[]", b"{}", b"null", br#"{"choices": 3}"#, b"\xff"] {
            assert!(matches!(Stream::default().read(data, false), Event::Malformed(_)), "{data:?}");
        }
    }

    #[test]
    fn a_text_that_occurs_twice_is_no_pattern() {
        assert_eq!(surroundings(br#"{"model":"m","text":"m"}"#, "m"), None);
        assert_eq!(surroundings(br#"{"a":"text","text":1}"#, "text"), None);
        let (before, after) = surroundings(br#"{"text": "m", "x": 1}"#, "m").unwrap();
        assert_eq!((before.as_slice(), after.as_slice()), (&br#"{"text": ""#[..], &br#"", "x": 1}"#[..]));
    }

    proptest! {
        /// The short way and the long way agree, whatever the texts are.
        #[test]
        fn the_pattern_changes_nothing(texts in prop::collection::vec("[ a\"\\\\{}:,é\n]{0,4}", 1..12)) {
            let mut stream = Stream::default();
            for text in &texts {
                let finish = text.contains('{').then_some("length");
                for data in [completion(text, finish), chat(json!({"content": text}), finish)] {
                    let alone = Stream::default().read(&data, false);
                    prop_assert_eq!(stream.read(&data, false), alone);
                }
            }
        }
    }
}
