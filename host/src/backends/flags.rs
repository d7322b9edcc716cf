//! Reading command lines that argparse would read.

use crate::domain::Role;

/// Largest size of any kind: more GPUs than an engine spreads over, and few enough to multiply without care.
pub const MAX_SIZE: u32 = 0xffff;

/// A command line cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {reason}")]
pub struct FlagError {
    /// Which flag, or what.
    pub flag: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FlagError {
    pub(crate) fn new(flag: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { flag: flag.into(), reason: reason.into() }
    }
}

/// Arguments with lookups by name.
#[derive(Debug, Clone, Copy)]
pub struct Flags<'a>(&'a [String]);

impl<'a> Flags<'a> {
    /// Over arguments that are split already.
    pub const fn new(args: &'a [String]) -> Self {
        Self(args)
    }

    /// Value of the last of these flags.
    ///
    /// # Errors
    /// If it stands at the end, without a value.
    pub fn value(&self, names: &[&str]) -> Result<Option<&'a str>, FlagError> {
        let mut found = None;
        let mut words = self.0.iter();
        while let Some(word) = words.next() {
            if names.contains(&word.as_str()) {
                let value = words.next().ok_or_else(|| FlagError::new(word, "has no value"))?;
                found = Some(value.as_str());
            } else if let Some((name, value)) = word.split_once('=')
                && names.contains(&name)
            {
                found = Some(value);
            }
        }
        Ok(found)
    }

    /// Value of the last of these flags as a size of at least 1; absent: 1.
    ///
    /// # Errors
    /// If it is not such a number.
    pub fn size(&self, names: &[&str]) -> Result<u32, FlagError> {
        self.optional_size(names).map(|n| n.unwrap_or(1))
    }

    /// Like [`Flags::size`] where absence matters.
    ///
    /// # Errors
    /// If it is not such a number.
    pub fn optional_size(&self, names: &[&str]) -> Result<Option<u32>, FlagError> {
        let Some(text) = self.value(names)? else { return Ok(None) };
        match text.parse::<u32>() {
            Ok(n @ 1..=MAX_SIZE) => Ok(Some(n)),
            _ => Err(FlagError::new(names.join("/"), format!("'{text}' is not a number from 1 to {MAX_SIZE}"))),
        }
    }

    /// Whether a switch is on; `--no-…` turns it off again.
    pub fn is_set(&self, name: &str) -> bool {
        let off = name.strip_prefix("--").map(|n| format!("--no-{n}"));
        self.0.iter().fold(false, |on, word| match word {
            w if w == name => true,
            w if Some(w) == off.as_ref() => false,
            _ => on,
        })
    }

    /// What `--disaggregation-mode`, or one of the switches before it, says.
    ///
    /// # Errors
    /// If it says something else than a role or `agg`.
    pub fn role(&self) -> Result<Option<Role>, FlagError> {
        match self.value(&["--disaggregation-mode"])? {
            Some("prefill") => Ok(Some(Role::Prefill)),
            Some("decode") => Ok(Some(Role::Decode)),
            Some("agg" | "null" | "prefill_and_decode") => Ok(None),
            Some(other) => {
                Err(FlagError::new("--disaggregation-mode", format!("'{other}' is neither prefill nor decode")))
            }
            None if self.is_set("--is-prefill-worker") => Ok(Some(Role::Prefill)),
            None if self.is_set("--is-decode-worker") => Ok(Some(Role::Decode)),
            None => Ok(None),
        }
    }
}

/// Splits a line into words as a POSIX shell does with quotes and backslashes; nothing is expanded.
///
/// # Errors
/// If a quote is left open.
pub fn split_words(line: &str) -> Result<Vec<String>, FlagError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let text = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err(FlagError::new("the command line", format!("a {c} is never closed"))),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => match chars.next() {
                            Some('\n') => {}
                            Some(e @ ('"' | '\\' | '$' | '`')) => text.push(e),
                            Some(e) => text.extend(['\\', e]),
                            None => text.push('\\'),
                        },
                        Some(inner) => text.push(inner),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(e) => word.get_or_insert_default().push(e),
            },
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_would() {
        let line = "python3 -m dynamo.vllm \\\n  --kv-transfer-config '{\"a\": \"b c\"}' --x=\"q \\\"r\\\"\" ''";
        let words = split_words(line).unwrap();
        assert_eq!(
            words,
            ["python3", "-m", "dynamo.vllm", "--kv-transfer-config", "{\"a\": \"b c\"}", "--x=q \"r\"", ""]
        );
        assert!(split_words("a 'b").unwrap_err().to_string().contains("never closed"));
    }

    #[test]
    fn a_flag_without_its_value_is_an_error() {
        let args = ["--tp".to_owned()];
        assert_eq!(Flags::new(&args).size(&["--tp"]).unwrap_err().to_string(), "--tp: has no value");
    }

    #[test]
    fn older_switches_still_say_the_role() {
        let args = ["--is-prefill-worker".to_owned()];
        assert_eq!(Flags::new(&args).role(), Ok(Some(Role::Prefill)));
    }
}
