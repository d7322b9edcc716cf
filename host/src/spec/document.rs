//! Text to a tree in which every value knows where it stands.
//!
//! A tree of our own, because serde's types lose positions: with it any later check can point at its line, the same
//! typed structures serve both spellings of a key, and `config show` can name the line of each value.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;

use super::error::{Place, SpecError};

/// Line and column from 1; both 0 where unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub line: usize,
    pub column: usize,
    pub width: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub value: Value,
    pub at: Position,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_at: Position,
    pub node: Node,
}

impl Node {
    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Map(entries) => entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// What it is, for "must be …, not …".
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(b) => format!("`{b}`"),
            Value::Int(i) => i.to_string(),
            Value::Float(f) => f.to_string(),
            Value::Text(text) if text.chars().count() > 40 => "a text".to_owned(),
            Value::Text(text) => format!("the text {text:?}"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }

    /// Moves this value and all within it: a text within a text is pointed at in the outer one.
    pub fn relocate(&mut self, to: &impl Fn(Position) -> Position) {
        self.at = to(self.at);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.relocate(to)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.key_at = to(entry.key_at);
                    entry.node.relocate(to);
                }
            }
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let mut at = position(&spanned.referenced);
        if matches!(spanned.value, Value::List(_) | Value::Map(_)) {
            at.width = 1;
        }
        Ok(Node { value: spanned.value, at })
    }
}

fn position(location: &serde_yaml::Location) -> Position {
    let to_usize = |n: u64| usize::try_from(n).unwrap_or(0);
    let width = u32::try_from(location.span().len()).unwrap_or(1).max(1);
    Position { line: to_usize(location.line()), column: to_usize(location.column()), width: width as usize }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i128::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let key_at = position(&key.referenced);
            entries.push(Entry { key: key.value, key_at, node: access.next_value()? });
        }
        Ok(Value::Map(entries))
    }
}

/// A text and what it is called.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub name: String,
    pub text: String,
}

impl Text {
    /// The place of a position in this text.
    pub fn place(&self, at: Position) -> Option<Place> {
        let line = self.text.lines().nth(at.line.checked_sub(1)?)?;
        Some(Place {
            source: self.name.clone(),
            line: at.line,
            column: at.column,
            width: at.width.max(1),
            text: line.to_owned(),
        })
    }

    /// Where a position within `inner`, a text that stands at `outer` of this one, is in this one. The whole inner text,
    /// where its lines are not found again (folded or escaped).
    pub fn within(&self, outer: Position, inner: &Text, at: Position) -> Position {
        let line = (outer.line + at.line).saturating_sub(1);
        let found = || {
            let content = inner.text.lines().nth(at.line.checked_sub(1)?)?.trim_end();
            let ours = self.text.lines().nth(line.checked_sub(1)?)?;
            let byte = ours.find(content).filter(|_| !content.is_empty())?;
            Some(ours.get(..byte)?.chars().count())
        };
        found().map_or(outer, |before| Position { line, column: before + at.column, width: at.width })
    }

    /// All documents of a YAML stream that hold anything; JSON is YAML here.
    pub fn documents(&self) -> Result<Vec<Node>, SpecError> {
        let options = serde_yaml::options! {
            // YAML 1.2: `on` and `yes` are text.
            strict_booleans: true,
            with_snippet: false,
            // A NaN shall reach the check that names the field.
            non_finite_float_policy: serde_yaml::NonFiniteFloatPolicy::PassThrough,
        };
        serde_yaml::from_multiple_with_options::<Node>(&self.text, options).map_err(|error| {
            let at = error.location().map(|location| Position { width: 1, ..position(&location) });
            let message = error.render_with_formatter(&serde_yaml::UserMessageFormatter);
            // The place is shown apart.
            let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            SpecError::config(format!("{} is not valid YAML or JSON: {message}", self.name))
                .at(at.and_then(|at| self.place(at)))
        })
    }

    /// The one document.
    pub fn single(&self) -> Result<Node, SpecError> {
        let mut documents = self.documents()?;
        match documents.len() {
            1 => documents.pop().ok_or_else(|| self.empty()),
            0 => Err(self.empty()),
            n => Err(SpecError::config(format!("{} holds {n} documents; one is wanted", self.name))),
        }
    }

    fn empty(&self) -> SpecError {
        SpecError::config(format!("{} is empty", self.name))
            .with_hint("give a DynamoGraphDeploymentRequest; `sla-profiler config schema` prints its fields")
    }

    /// The one DGDR among the documents, or the only document, which may be a bare spec.
    pub fn dgdr(&self) -> Result<Node, SpecError> {
        let mut documents = self.documents()?;
        if documents.len() <= 1 {
            return documents.pop().ok_or_else(|| self.empty());
        }
        let kinds: Vec<&str> =
            documents.iter().map(|d| d.get("kind").and_then(Node::text).unwrap_or("no kind")).collect();
        let kinds = kinds.join(", ");
        let mut found =
            documents.into_iter().filter(|d| d.get("kind").and_then(Node::text) == Some(super::request::KIND));
        match (found.next(), found.next()) {
            (Some(dgdr), None) => Ok(dgdr),
            (None, _) => Err(SpecError::config(format!("{} holds no {}", self.name, super::request::KIND))
                .with_hint(format!("it holds: {kinds}"))),
            (Some(_), Some(second)) => {
                Err(SpecError::config(format!("{} holds more than one {}", self.name, super::request::KIND))
                    .at(self.place(second.at))
                    .with_hint("one run answers one request; split the file"))
            }
        }
    }
}
