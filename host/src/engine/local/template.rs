//! Templates of engines to the command lines of one engine. What the placeholders are is documented at
//! [`EngineTemplate`].

use std::collections::{BTreeMap, BTreeSet};

use crate::backends::flags::split_words;
use crate::spec::{EngineTemplate, ProcessTemplate};

/// The name of the port that completions are asked at: `{port}`.
pub(super) const HTTP: &str = "http";

/// One process, ready to start.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Process {
    pub name: String,
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub working_dir: Option<String>,
    pub gpus: bool,
}

/// One engine, ready to start.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub processes: Vec<Process>,
    pub url: String,
    pub metrics: Vec<String>,
}

/// What placeholders stand for.
#[derive(Debug, Clone, Default)]
pub(super) struct Values {
    /// One word each; `port.NAME` among them.
    pub texts: BTreeMap<String, String>,
    /// The backend's flags.
    pub flags: Vec<String>,
    /// The user's own, which may hold placeholders and several words.
    pub own: BTreeMap<String, String>,
}

/// A piece of a text.
enum Piece<'a> {
    Text(&'a str),
    /// `{name}`
    Placeholder(&'a str),
    /// `{{name}}`, to be written as `{name}`
    Escaped(&'a str),
}

/// Splits at placeholders. A brace that begins none, as in JSON, stands for itself.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let name_of = |rest: &str| {
        let end = rest.find('}')?;
        let name = rest.get(..end)?;
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        (starts && name.chars().all(is_name)).then_some(end)
    };
    let mut found = Vec::new();
    let (mut plain, mut at) = (0, 0);
    while let Some(open) = text.get(at..).and_then(|rest| rest.find('{')).map(|offset| at + offset) {
        let after = text.get(open + 1..).unwrap_or_default();
        let escaped = after.strip_prefix('{').and_then(|inner| {
            let end = name_of(inner)?;
            inner.get(end..)?.starts_with("}}").then_some((inner.get(..end)?, open + 2 + end + 2))
        });
        let placeholder = || name_of(after).and_then(|end| Some((after.get(..end)?, open + 1 + end + 1)));
        let (piece, next) = match (escaped, placeholder()) {
            (Some((name, next)), _) => (Piece::Escaped(name), next),
            (None, Some((name, next))) => (Piece::Placeholder(name), next),
            (None, None) => {
                at = open + 1;
                continue;
            }
        };
        found.extend(text.get(plain..open).filter(|text| !text.is_empty()).map(Piece::Text));
        found.push(piece);
        (plain, at) = (next, next);
    }
    found.extend(text.get(plain..).filter(|text| !text.is_empty()).map(Piece::Text));
    found
}

/// A user's value that holds a placeholder that holds a placeholder …
const DEEPEST: u8 = 8;

impl Values {
    /// The text with all placeholders replaced.
    fn text(&self, text: &str, depth: u8) -> Result<String, String> {
        let mut out = String::new();
        for piece in pieces(text) {
            match piece {
                Piece::Text(plain) => out.push_str(plain),
                Piece::Escaped(name) => out.extend(["{", name, "}"]),
                Piece::Placeholder("port") => out.push_str(&self.known(&format!("port.{HTTP}"), depth)?),
                Piece::Placeholder("flags") => out.push_str(&self.flags.join(" ")),
                Piece::Placeholder(name) => out.push_str(&self.known(name, depth)?),
            }
        }
        Ok(out)
    }

    fn known(&self, name: &str, depth: u8) -> Result<String, String> {
        if let Some(own) = self.own.get(name) {
            if depth == 0 {
                return Err(format!("the value of `{{{name}}}` leads back to itself"));
            }
            return self.text(own, depth - 1);
        }
        self.texts.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.texts.keys().chain(self.own.keys()).map(String::as_str).collect();
            format!("`{{{name}}}` is none of the placeholders: flags, port, {}", known.join(", "))
        })
    }

    /// A command line. A word that is nothing but `{flags}` or a value of the user's becomes as many words as it holds.
    fn words(&self, template: &[String]) -> Result<Vec<String>, String> {
        let mut words = Vec::new();
        for word in template {
            match pieces(word).as_slice() {
                [Piece::Placeholder("flags")] => words.extend(self.flags.iter().cloned()),
                [Piece::Placeholder(name)] if self.own.contains_key(*name) => {
                    words.extend(split_words(&self.text(word, DEEPEST)?).map_err(|error| error.to_string())?);
                }
                _ => words.push(self.text(word, DEEPEST)?),
            }
        }
        Ok(words)
    }

    /// The engine that the template describes.
    ///
    /// # Errors
    /// If a placeholder is unknown, or a command is empty.
    pub fn fill(&self, template: &EngineTemplate) -> Result<Plan, String> {
        let text = |text: &str| self.text(text, DEEPEST);
        let process = |process: &ProcessTemplate| {
            let command = self.words(&process.command.0)?;
            if command.is_empty() {
                return Err(format!("the command of `{}` is empty", process.name));
            }
            let env = process.env.iter().map(|(key, value)| Ok((key.clone(), text(value)?)));
            Ok(Process {
                name: process.name.clone(),
                command,
                env: env.collect::<Result<_, String>>()?,
                working_dir: process.working_dir.as_deref().map(text).transpose()?,
                gpus: process.gpus,
            })
        };
        let url = text(&template.url)?.trim_end_matches('/').to_owned();
        let metrics = match &template.metrics {
            Some(urls) => urls.iter().map(|url| text(url)).collect::<Result<_, String>>()?,
            None => vec![url.clone()],
        };
        Ok(Plan { processes: template.processes.iter().map(process).collect::<Result<_, String>>()?, url, metrics })
    }
}

/// Names of all ports that the template speaks of.
pub(super) fn port_names(template: &EngineTemplate, own: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = template.ports.keys().cloned().collect();
    let commands = template
        .processes
        .iter()
        .flat_map(|process| process.command.0.iter().chain(process.env.values()).chain(process.working_dir.as_ref()));
    let texts = commands.chain([&template.url]).chain(template.metrics.iter().flatten()).chain(own.values());
    for piece in texts.flat_map(|text| pieces(text)) {
        match piece {
            Piece::Placeholder("port") => names.extend([HTTP.to_owned()]),
            Piece::Placeholder(name) => names.extend(name.strip_prefix("port.").map(str::to_owned)),
            Piece::Text(_) | Piece::Escaped(_) => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::Words;

    fn values() -> Values {
        let texts = [("port.http", "8000"), ("port.system", "9000"), ("role", "decode"), ("gpus", "2")];
        Values {
            texts: texts.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            flags: vec!["--tp".to_owned(), "2".to_owned(), "--json".to_owned(), r#"{"a": {"b": 1}}"#.to_owned()],
            own: [("speed", "{gpus}"), ("plane", "--plane tcp --x 'a b'"), ("loop", "{loop}")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    fn text(template: &str) -> Result<String, String> {
        values().text(template, DEEPEST)
    }

    fn template(words: &[&str]) -> EngineTemplate {
        let process = ProcessTemplate {
            name: "w".to_owned(),
            command: Words(words.iter().map(|word| (*word).to_owned()).collect()),
            env: [("P".to_owned(), "{port.system}".to_owned())].into(),
            working_dir: None,
            gpus: true,
        };
        EngineTemplate { processes: vec![process], url: "http://127.0.0.1:{port}/".to_owned(), ..Default::default() }
    }

    #[test]
    fn placeholders_are_replaced_and_other_braces_left_alone() {
        assert_eq!(text("{role}:{port} at {speed}x").unwrap(), "decode:8000 at 2x");
        assert_eq!(text(r#"{"a": {"b": {}}}"#).unwrap(), r#"{"a": {"b": {}}}"#);
        assert_eq!(text("{{role}} {").unwrap(), "{role} {");
    }

    #[test]
    fn an_unknown_placeholder_is_an_error_that_names_the_known_ones() {
        let error = text("{prot}").unwrap_err();
        assert!(error.contains("`{prot}`") && error.contains("role") && error.contains("speed"), "{error}");
        assert!(text("{loop}").unwrap_err().contains("leads back"));
    }

    #[test]
    fn a_template_becomes_an_engine() {
        let template = template(&["serve", "{flags}", "{plane}", "--port={port}"]);
        let plan = values().fill(&template).unwrap();
        let words =
            ["serve", "--tp", "2", "--json", r#"{"a": {"b": 1}}"#, "--plane", "tcp", "--x", "a b", "--port=8000"];
        assert_eq!(plan.processes[0].command, words);
        assert_eq!(plan.processes[0].env["P"], "9000");
        assert_eq!((plan.url.as_str(), plan.metrics.len()), ("http://127.0.0.1:8000", 1));
        assert!(values().fill(&self::template(&[])).unwrap_err().contains("`w` is empty"));
    }

    #[test]
    fn ports_are_known_from_where_they_are_spoken_of() {
        let own = [("x".to_owned(), "{port.own}".to_owned())].into();
        let names: Vec<String> =
            port_names(&template(&["a", "{port.rpc}", "{{port.not}}"]), &own).into_iter().collect();
        assert_eq!(names, ["http", "own", "rpc", "system"]);
    }

    proptest! {
        #[test]
        fn any_text_is_filled_or_refused_without_a_panic(template in "[a-z{}.\"é ]{0,40}") {
            let _ = text(&template);
        }
    }
}
