//! Errors that say what is wrong, where, and what to do about it.

use std::fmt::Write as _;

/// Where in a text something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File name, `<stdin>` or `<inline>`.
    pub source: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// Characters to underline, at least 1.
    pub width: usize,
    /// The whole line.
    pub text: String,
}

/// Which exit code an error deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A flag has a value that makes no sense.
    Usage,
    /// A file says something that makes no sense, or cannot be read.
    Config,
}

/// The input cannot be turned into a job.
///
/// `Display` gives the message alone, in one line; [`SpecError::render`] adds place, snippet and hint.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.0.message)]
pub struct SpecError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    place: Option<Place>,
    hint: Option<String>,
}

impl SpecError {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), place: None, hint: None }))
    }

    pub(super) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    pub(super) fn at(mut self, place: Option<Place>) -> Self {
        self.0.place = place;
        self
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Standard output, or whatever stands for it, cannot be written to.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        Self::config(format!("cannot write: {error}"))
    }

    /// Whether the command line or a file is to blame.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where it stands, if it stands in a text.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// Where the unknown field stands, if that is what is wrong.
    pub(super) fn unknown_field(&self) -> Option<&Place> {
        self.place().filter(|_| self.0.message.contains("unknown field `"))
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Message, place with the line and a caret, and hint; several lines without a closing newline.
    ///
    /// ```text
    /// unknown field `tfft` in `spec.sla`
    ///    --> dgdr.yaml:8:5
    ///    |
    ///  8 |     tfft: 200
    ///    |     ^^^^
    /// hint: did you mean `ttft`?
    /// ```
    pub fn render(&self) -> String {
        let mut out = self.0.message.clone();
        if let Some(place) = &self.0.place {
            // Writing to a String cannot fail.
            let _ = write!(out, "\n{}", place.snippet());
        }
        if let Some(hint) = &self.0.hint {
            let _ = write!(out, "\nhint: {hint}");
        }
        out
    }
}

/// Longest part of a line that a snippet shows, in characters: inline JSON is one line of thousands.
const SNIPPET_CHARS: usize = 100;

impl Place {
    fn snippet(&self) -> String {
        let gutter = self.line.to_string().len().max(2);
        let start = if self.column > SNIPPET_CHARS { self.column - SNIPPET_CHARS / 2 } else { 0 };
        let shown: String =
            self.text.chars().skip(start).take(SNIPPET_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let before = self.column.saturating_sub(1).saturating_sub(start);
        let room = shown.chars().count().saturating_sub(before).max(1);
        format!(
            "{blank:gutter$} --> {source}:{line}:{column}\n{blank:gutter$} |\n{line:gutter$} | {shown}\n\
             {blank:gutter$} | {blank:before$}{carets}",
            blank = "",
            source = self.source,
            line = self.line,
            column = self.column,
            shown = shown.trim_end(),
            carets = "^".repeat(self.width.clamp(1, room)),
        )
    }
}

/// The name nearest to `word`, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let word = plain(word);
    names
        .into_iter()
        .map(|name| (strsim::levenshtein(&word, &plain(name)), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_name_is_no_suggestion() {
        assert_eq!(nearest("gpu_sku", ["gpuSku", "totalGpus"]), Some("gpuSku"));
        assert_eq!(nearest("colour", ["gpuSku", "totalGpus"]), None);
    }

    #[test]
    fn a_long_line_is_shown_around_its_column() {
        let text = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let place = Place { source: "<inline>".into(), line: 1, column: 501, width: 1, text };
        let lines: Vec<String> = place.snippet().lines().map(str::to_owned).collect();
        assert_eq!(lines[2].find('X'), lines[3].find('^'));
        assert!(lines[2].len() < 120);
    }
}
