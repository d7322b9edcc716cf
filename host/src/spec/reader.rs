//! The tree to typed fields, with an error that names path and place.
//!
//! A serde deserialiser over [`Node`]. Where asked to, it accepts the other spelling of a key (`max_context_length`
//! for `maxContextLength`), as Dynamo's v1alpha1 profiler does.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::document::{Entry, Node, Position, Text, Value};
use super::error::{SpecError, nearest};

/// Which spellings of a key count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As the schema has it; our own `profiler` block accepts both.
    Exact,
    /// camelCase and snake_case.
    Both,
}

/// Reads `node`, which stands at `path` of `text`.
pub(super) fn read<'de, T: Deserialize<'de>>(
    node: &'de Node,
    path: &str,
    spelling: Spelling,
    text: &Text,
) -> Result<T, SpecError> {
    T::deserialize(Reader { node, path: path.to_owned(), spelling }).map_err(|error| {
        let mut out = SpecError::config(error.message).at(error.at.and_then(|at| text.place(at)));
        if let Some(hint) = error.hint {
            out = out.with_hint(hint);
        }
        out
    })
}

/// A free-form part as JSON.
pub(super) fn read_json(node: &Node, path: &str, text: &Text) -> Result<serde_json::Value, SpecError> {
    read(node, path, Spelling::Exact, text)
}

#[derive(Debug)]
struct ReadError {
    message: String,
    hint: Option<String>,
    at: Option<Position>,
    /// Set once the message names the path.
    named: bool,
}

impl ReadError {
    /// Completes an error that a type raised without knowing where it is.
    fn or_at(mut self, at: Position, path: &str) -> Self {
        if self.at.is_none() {
            self.at = Some(at);
        }
        if !self.named {
            self.named = true;
            if !path.is_empty() {
                let colon = if self.message.starts_with("must be") { "" } else { ":" };
                self.message = format!("`{path}`{colon} {}", self.message);
            }
        }
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        ReadError { message: message.to_string(), hint: None, at: None, named: false }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Seq => "a list".to_owned(),
            de::Unexpected::Map => "a map".to_owned(),
            de::Unexpected::Unit => "nothing".to_owned(),
            other => other.to_string(),
        };
        Self::custom(format!("must be {expected}, not {found}"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let hint = match nearest(field, expected.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if expected.is_empty() => "nothing is expected here".to_owned(),
            None => format!("known here: {}", expected.join(", ")),
        };
        ReadError { hint: Some(hint), ..Self::custom(format!("unknown field `{field}`")) }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = nearest(variant, expected.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        ReadError { hint, ..Self::custom(format!("must be one of {}, not `{variant}`", expected.join(", "))) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("`{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::custom(format!("`{field}` is given twice"))
    }
}

struct Reader<'de> {
    node: &'de Node,
    path: String,
    spelling: Spelling,
}

impl<'de> Reader<'de> {
    fn wrong(&self, wanted: &str) -> ReadError {
        let what = if self.path.is_empty() { "the document".to_owned() } else { format!("`{}`", self.path) };
        ReadError {
            message: format!("{what} must be {wanted}, not {}", self.node.describe()),
            hint: None,
            at: Some(self.node.at),
            named: true,
        }
    }

    fn whole(&self, min: i128, max: i128) -> Result<i128, ReadError> {
        match self.node.value {
            Value::Int(n) if (min..=max).contains(&n) => Ok(n),
            _ => Err(self.wrong(&format!("a whole number from {min} to {max}"))),
        }
    }

    fn place<T>(at: Position, path: &str, result: Result<T, ReadError>) -> Result<T, ReadError> {
        result.map_err(|error| error.or_at(at, path))
    }

    fn map(self, fields: Option<&'static [&'static str]>) -> Result<Fields<'de>, ReadError> {
        match &self.node.value {
            Value::Map(entries) => {
                Ok(Fields { entries: entries.iter(), value: None, path: self.path, spelling: self.spelling, fields })
            }
            _ => Err(self.wrong("a map")),
        }
    }

    fn list(self) -> Result<Items<'de>, ReadError> {
        match &self.node.value {
            Value::List(items) => {
                Ok(Items { items: items.iter().enumerate(), path: self.path, spelling: self.spelling })
            }
            _ => Err(self.wrong("a list")),
        }
    }
}

macro_rules! whole_number {
    ($($method:ident $visit:ident $type:ty),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            let number = self.whole(<$type>::MIN.into(), <$type>::MAX.into())?;
            // `whole` has checked the range.
            let number = <$type>::try_from(number).map_err(de::Error::custom)?;
            Self::place(self.node.at, &self.path, visitor.$visit(number))
        })*
    };
}

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let (at, path) = (self.node.at, self.path.clone());
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (_, Ok(value)) => visitor.visit_u64(value),
                (Ok(value), _) => visitor.visit_i64(value),
                _ => visitor.visit_f64(*value as f64),
            },
            Value::Float(value) if value.is_finite() => visitor.visit_f64(*value),
            // JSON, where free-form parts go, knows no such number.
            Value::Float(_) => Err(self.wrong("a finite number")),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(_) => self.list().and_then(|items| visitor.visit_seq(items)),
            Value::Map(_) => self.map(None).and_then(|fields| visitor.visit_map(fields)),
        };
        Self::place(at, &path, result)
    }

    whole_number! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.node.value {
            Value::Bool(value) => Self::place(self.node.at, &self.path, visitor.visit_bool(value)),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let number = match self.node.value {
            Value::Int(value) => value as f64,
            Value::Float(value) => value,
            _ => return Err(self.wrong("a number")),
        };
        Self::place(self.node.at, &self.path, visitor.visit_f64(number))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Text(text) => Self::place(self.node.at, &self.path, visitor.visit_borrowed_str(text)),
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                Err(ReadError { hint: Some("put it in quotes".to_owned()), ..self.wrong("text") })
            }
            _ => Err(self.wrong("text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let (at, path) = (self.node.at, self.path.clone());
        let items = self.list()?;
        Self::place(at, &path, visitor.visit_seq(items))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let (at, path) = (self.node.at, self.path.clone());
        let fields = self.map(None)?;
        Self::place(at, &path, visitor.visit_map(fields))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let (at, path) = (self.node.at, self.path.clone());
        let fields = self.map(Some(fields))?;
        Self::place(at, &path, visitor.visit_map(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Text(text) => {
                let variant = text.as_str().into_deserializer();
                let result = visitor.visit_enum(variant).map_err(|error: ReadError| ReadError {
                    message: format!("`{}` {}", self.path, error.message),
                    named: true,
                    ..error
                });
                Self::place(self.node.at, &self.path, result)
            }
            _ => Err(self.wrong("text")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier }
}

struct Items<'de> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
    path: String,
    spelling: Spelling,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let reader = Reader { node, path: format!("{}[{index}]", self.path), spelling: self.spelling };
        seed.deserialize(reader).map(Some)
    }
}

struct Fields<'de> {
    entries: std::slice::Iter<'de, Entry>,
    value: Option<&'de Entry>,
    path: String,
    spelling: Spelling,
    /// Of a structure; a plain map has none.
    fields: Option<&'static [&'static str]>,
}

impl Fields<'_> {
    /// The field that a key means.
    fn field(&self, key: &str) -> Option<&'static str> {
        let fields = self.fields?;
        let same = |spelled: &str| fields.iter().copied().find(|field| *field == spelled);
        match self.spelling {
            Spelling::Exact => None,
            Spelling::Both => same(key).or_else(|| same(&camel_case(key))).or_else(|| same(&snake_case(key))),
        }
    }
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(entry);
        let key = self.field(&entry.key).unwrap_or(&entry.key);
        let result = seed.deserialize(de::value::BorrowedStrDeserializer::new(key));
        let result = result.map_err(|error: ReadError| {
            let place = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
            ReadError { message: format!("{}{place}", error.message), named: true, ..error }
        });
        Reader::place(entry.key_at, &self.path, result).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some(entry) = self.value.take() else { return Err(de::Error::custom("value asked for before its key")) };
        let spelling = if entry.key == super::profiler::BLOCK { Spelling::Both } else { self.spelling };
        seed.deserialize(Reader { node: &entry.node, path: join(&self.path, &entry.key), spelling })
    }
}

/// `a.b`, or `a["b.c"]` where the key is not plain.
pub(super) fn join(path: &str, key: &str) -> String {
    if !key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
        format!("{path}[{key:?}]")
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

pub(super) fn camel_case(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut upper = false;
    for c in key.chars() {
        if c == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

pub(super) fn snake_case(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_uppercase() {
            out.push('_');
            out.extend(c.to_lowercase());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Sample {
        max_length: Option<u32>,
        rate: Option<f64>,
        flag: Option<bool>,
        names: Option<Vec<String>>,
    }

    fn sample(yaml: &str, spelling: Spelling) -> Result<Sample, SpecError> {
        let text = Text { name: "t.yaml".into(), text: yaml.into() };
        let node = text.single().unwrap();
        read(&node, "s", spelling, &text)
    }

    #[test]
    fn both_spellings_of_a_key_are_the_same_field_where_allowed() {
        assert_eq!(sample("max_length: 3", Spelling::Both).unwrap().max_length, Some(3));
        assert_eq!(sample("maxLength: 3", Spelling::Both).unwrap().max_length, Some(3));
        let error = sample("max_length: 3", Spelling::Exact).unwrap_err();
        assert_eq!(error.to_string(), "unknown field `max_length` in `s`");
        assert_eq!(error.hint(), Some("did you mean `maxLength`?"));
        let error = sample("max_length: 3\nmaxLength: 4", Spelling::Both).unwrap_err();
        assert!(error.to_string().contains("`maxLength` is given twice"), "{error}");
    }

    #[test]
    fn a_wrong_type_names_path_value_and_place() {
        let error = sample("rate: 1\nnames: [a, 7]", Spelling::Exact).unwrap_err();
        assert_eq!(error.to_string(), "`s.names[1]` must be text, not 7");
        let place = error.place().unwrap();
        assert_eq!((place.line, place.column), (2, 12));
        let error = sample("flag: yes", Spelling::Exact).unwrap_err();
        assert_eq!(error.to_string(), "`s.flag` must be true or false, not the text \"yes\"");
        let error = sample("maxLength: -1", Spelling::Exact).unwrap_err();
        assert_eq!(error.to_string(), "`s.maxLength` must be a whole number from 0 to 4294967295, not -1");
    }

    #[test]
    fn not_a_number_reaches_the_checks() {
        assert!(sample("rate: .nan", Spelling::Exact).unwrap().rate.unwrap().is_nan());
    }

    #[test]
    fn spellings_convert_both_ways() {
        assert_eq!(camel_case("max_context_length"), "maxContextLength");
        assert_eq!(snake_case("maxContextLength"), "max_context_length");
    }
}
