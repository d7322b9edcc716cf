//! Secrets in what engines write. A log line may repeat a token that the engine got by its environment; whatever is kept
//! of it (journal, log, report, what plugins see) has it masked.
//!
//! Masked are the values of this process's own variables that are named like secrets, which local engines inherit, and
//! whatever looks like a token of a known kind, since pods have secrets of their own.

use std::borrow::Cow;
use std::sync::OnceLock;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// Shorter values are words that could stand anywhere.
const SHORTEST: usize = 8;

/// How names of variables end or what they hold, in capitals.
const NAMES: [&str; 6] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "ACCESS_KEY"];

/// How tokens begin: Hugging Face, NVIDIA, OpenAI and those that follow it, GitHub, and whatever a header carries.
const PREFIXES: [&str; 7] = ["hf_", "nvapi-", "sk-", "ghp_", "github_pat_", "Bearer ", "bearer "];

/// A token has at least so many characters after its prefix.
const TOKEN_CHARS: usize = 16;

/// Values of this process's environment that are secrets, longest first.
fn own() -> &'static [String] {
    static OWN: OnceLock<Vec<String>> = OnceLock::new();
    OWN.get_or_init(|| {
        values(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
    })
}

fn values(variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let is_secret = |name: &str| NAMES.iter().any(|part| name.to_ascii_uppercase().contains(part));
    let mut values: Vec<String> = variables
        .filter(|(name, value)| is_secret(name) && value.trim().len() >= SHORTEST)
        .map(|(_, value)| value.trim().to_owned())
        // A path is no secret, what lies there is.
        .filter(|value| !value.starts_with('/'))
        .collect();
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values.dedup();
    values
}

/// The text without secrets.
pub(crate) fn masked(text: &str) -> Cow<'_, str> {
    masked_of(own(), text)
}

fn masked_of<'a>(secrets: &[String], text: &'a str) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    for secret in secrets {
        if text.contains(secret.as_str()) {
            text = Cow::Owned(text.replace(secret.as_str(), MASK));
        }
    }
    for prefix in PREFIXES {
        if text.contains(prefix) {
            text = Cow::Owned(without_tokens(&text, prefix));
        }
    }
    text
}

fn without_tokens(text: &str, prefix: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(prefix) {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '/' | '=');
        let end = after.find(|c| !is_part(c)).unwrap_or(after.len());
        let (token, later) = after.split_at(end);
        result.push_str(before);
        result.push_str(prefix);
        result.push_str(if token.len() >= TOKEN_CHARS { MASK } else { token });
        rest = later;
    }
    result.push_str(rest);
    result
}

/// Masks what comes in pieces: a line is let through once it is whole, or too long to be one.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
}

/// Longest line that is kept back.
const LONGEST_LINE: usize = 64 << 10;

impl Lines {
    /// What may be written now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(bytes);
        let whole = match self.pending.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if self.pending.len() >= LONGEST_LINE => self.pending.len(),
            None => 0,
        };
        let rest = self.pending.split_off(whole);
        mask(std::mem::replace(&mut self.pending, rest))
    }

    /// The rest.
    pub fn end(&mut self) -> Vec<u8> {
        mask(std::mem::take(&mut self.pending))
    }
}

fn mask(bytes: Vec<u8>) -> Vec<u8> {
    match std::str::from_utf8(&bytes) {
        Ok(text) => match masked(text) {
            Cow::Borrowed(_) => bytes,
            Cow::Owned(text) => text.into_bytes(),
        },
        Err(_) => masked(&String::from_utf8_lossy(&bytes)).into_owned().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_environment_are_those_that_are_named_so() {
        let of = |pairs: &[(&str, &str)]| values(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let found = of(&[
            ("HF_TOKEN", "canary-of-the-hub"),
            ("registry_password", "  canary-of-a-registry\n"),
            ("OPENAI_API_KEY", "short"),
            ("TOKEN_FILE", "/var/run/secrets/token"),
            ("PATH", "/usr/bin:/usr/local/bin"),
        ]);
        assert_eq!(found, ["canary-of-a-registry", "canary-of-the-hub"]);
        assert_eq!(masked_of(&found, "login with canary-of-the-hub failed"), "login with *** failed");
    }

    #[test]
    fn tokens_of_known_kinds_are_masked_wherever_they_stand() {
        let token = "hf_abcdefghijklmnopqrstuvwxyz012345";
        assert_eq!(masked_of(&[], &format!("GET x?t={token}&u=1")), "GET x?t=hf_***&u=1");
        assert_eq!(masked_of(&[], "Authorization: Bearer abc.def-0123456789abcdef"), "Authorization: Bearer ***");
        for plain in ["hf_transfer is on", "risk-free", "Bearer token missing", "nothing"] {
            assert_eq!(masked_of(&[], plain), plain);
        }
    }

    #[test]
    fn a_token_that_comes_in_pieces_is_masked_too() {
        let mut lines = Lines::default();
        let mut written = lines.push(b"first\nkey hf_abcdefghijklm");
        assert_eq!(written, b"first\n");
        written.extend(lines.push(b"nopqrstuvwxyz012345 end\nlast"));
        written.extend(lines.end());
        assert_eq!(String::from_utf8(written).unwrap(), "first\nkey hf_*** end\nlast");
        assert_eq!(lines.push(&[b'x'; LONGEST_LINE]).len(), LONGEST_LINE, "nothing is kept back for ever");
    }
}
