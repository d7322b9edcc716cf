//! The report: one HTML file that needs nothing else. Texts and tables are in it as HTML; the charts, the filters and
//! the picker are drawn by its script from the data that it carries.
//!
//! Whatever comes from the run (names, reasons, lines of logs) goes through [`Html`] or [`json_in_script`], and the
//! page's own policy lets nothing run or load but the style and the script that are in it.

mod data;
mod tables;
mod text;

use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::replay::{Explanation, Picks, Recording, Tenancy};

/// The page, with places for what is put in.
const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
/// In the order in which they need each other.
const SCRIPTS: [&str; 5] = [
    include_str!("svg.js"),
    include_str!("charts.js"),
    include_str!("picker.js"),
    include_str!("tables.js"),
    include_str!("main.js"),
];

/// What the report is about.
#[derive(Clone, Copy)]
pub struct Report<'a> {
    /// The run.
    pub recording: &'a Recording,
    /// Its candidates, explained; or why they cannot be.
    pub explanation: Result<&'a Explanation, &'a str>,
    /// Answers under other SLAs; or why there are none.
    pub picks: Result<&'a Picks, &'a str>,
    /// Who held which GPUs when.
    pub tenancy: &'a Tenancy,
    /// What to keep in mind, for a person.
    pub notes: &'a [String],
}

/// The whole page.
///
/// # Errors
/// If the data cannot be written as JSON.
pub fn html(report: &Report<'_>) -> serde_json::Result<String> {
    let script = format!(
        "\"use strict\";\nconst DATA = JSON.parse(document.getElementById(\"data\").textContent);\n{}",
        SCRIPTS.concat()
    );
    let answer = text::answer(report);
    let escaped = |text: &str| Html::default().text(text).0;
    let places: [(&str, String); 24] = [
        ("style_hash", hash(STYLE)),
        ("script_hash", hash(&script)),
        ("title", escaped(&format!("{}: {}", report.recording.started().job.model.name, answer.headline))),
        ("style", STYLE.to_owned()),
        ("job", escaped(&text::job(report))),
        ("answer_class", if answer.good { String::new() } else { "missed".to_owned() }),
        ("badge", escaped(answer.badge)),
        ("answer", escaped(&answer.headline)),
        ("under", escaped(&text::question(report))),
        ("figures", text::figures(report).0),
        ("notes", text::notes(report).0),
        ("pick", text::picker(report).0),
        ("verdicts", tables::verdicts(report).0),
        ("candidates", tables::candidates(report).0),
        ("front", tables::front(report).0),
        ("rejected", tables::rejected(report).0),
        ("failures", tables::failures(report).0),
        ("totals", tables::totals(report).0),
        ("tenures", tables::tenures(report).0),
        ("points_summary", escaped(&text::points_summary(report))),
        ("provenance", text::provenance(report).0),
        ("version", escaped(env!("CARGO_PKG_VERSION"))),
        ("data", json_in_script(&data::data(report))?),
        ("script", script),
    ];
    Ok(filled(PAGE, &places))
}

/// The template with its places filled. What is put in is not looked at again, so that no name of the run can be taken
/// for a place.
fn filled(template: &str, places: &[(&str, String)]) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        out.extend(places.iter().find(|(place, _)| *place == name).map(|(_, text)| text.as_str()));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// JSON that may stand in a `<script>`: nothing in it ends the element or begins a comment, and it is plain ASCII where
/// old JavaScript wants line ends escaped.
fn json_in_script(value: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    let escaped = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    Ok(escaped.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029"))
}

/// A source of the page's content security policy: `sha256-…`.
fn hash(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = "sha256-".to_owned();
    for chunk in Sha256::digest(text).chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS.get((bits >> (18 - 6 * place)) as usize & 63).copied().unwrap_or(b'=');
            out.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// HTML being written: text is escaped, tags are the program's own.
#[derive(Debug, Default, Clone, PartialEq)]
struct Html(String);

impl Html {
    /// Markup of ours; never anything from a run.
    fn raw(mut self, markup: &str) -> Self {
        self.0.push_str(markup);
        self
    }

    /// Text from anywhere, for an element's content or a quoted attribute. Control characters, which HTML does not
    /// allow, become U+FFFD.
    fn text(mut self, text: &str) -> Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(c),
                c if c.is_control() => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        self
    }

    /// `<tag>text</tag>`; the tag may have attributes of ours.
    fn element(self, tag: &str, text: &str) -> Self {
        let name = tag.split(' ').next().unwrap_or(tag);
        let mut made = self.raw("<").raw(tag).raw(">").text(text);
        // Writing to a string cannot fail.
        let _ = write!(made.0, "</{name}>");
        made
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_an_element_an_attribute_or_a_script() {
        let evil = "</script><img src=x onerror=\"alert(1)\">'&\u{1b}[31m";
        let text = Html::default().text(evil).0;
        assert_eq!(text, "&lt;/script&gt;&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&#39;&amp;\u{fffd}[31m");
        let json = json_in_script(&[evil, "<!--\u{2028}"]).unwrap();
        assert!(!json.contains(['<', '>', '&', '\u{2028}']), "{json}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [evil, "<!--\u{2028}"]);
    }

    #[test]
    fn what_is_put_in_is_not_taken_for_a_place() {
        let places = [("a", "{{b}}".to_owned()), ("b", "secret".to_owned())];
        assert_eq!(filled("1 {{a}} 2 {{unknown}} 3", &places), "1 {{b}} 2  3");
    }

    #[test]
    fn every_place_of_the_page_is_filled_and_nothing_is_loaded_from_elsewhere() {
        let names = PAGE.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(name, _)| name);
        assert_eq!(names.count(), 24);
        for source in [&[PAGE, STYLE][..], &SCRIPTS].concat() {
            for outside in
                ["http:", "https:", "//cdn", "url(", "@import", "fetch(", "XMLHttpRequest", "innerHTML", "eval("]
            {
                let found =
                    source.lines().find(|line| line.contains(outside) && !line.contains("http://www.w3.org/2000/svg"));
                assert_eq!(found, None, "{outside}");
            }
        }
    }

    #[test]
    fn a_digest_is_base64_with_padding() {
        // printf '' | openssl dgst -sha256 -binary | base64
        assert_eq!(hash(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(hash("abc"), "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }
}
