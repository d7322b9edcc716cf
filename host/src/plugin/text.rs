//! Text that a plugin hands over goes to terminals, logs and reports: no control characters, no endless lines.

/// One line of at most `max_chars` characters: line breaks and tabs become spaces, other control characters and those
/// that reorder text on a screen go.
pub(super) fn one_line(text: &str, max_chars: usize) -> String {
    let mut kept = text.chars().filter_map(|c| match c {
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => Some(' '),
        c if c.is_control() || is_bidi_control(c) => None,
        c => Some(c),
    });
    let mut line: String = kept.by_ref().take(max_chars).collect();
    if kept.next().is_some() && line.pop().is_some() {
        line.push('…');
    }
    line.truncate(line.trim_end().len());
    line
}

/// What a parser or compiler says of a file: it may repeat names that stand in it.
pub(super) fn reason(error: &impl std::fmt::Display) -> String {
    one_line(&format!("{error:#}"), 600)
}

/// The characters behind "Trojan Source" (CVE-2021-42574).
const fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Up to `max` names in one line, and how many more there are.
pub(super) fn list<S: AsRef<str>>(names: &[S], max: usize) -> String {
    let shown: Vec<String> = names.iter().take(max).map(|name| one_line(name.as_ref(), 120)).collect();
    match names.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}

/// The name that is closest to the one given, if it is close.
pub(super) fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_line_breaks_do_not_reach_the_terminal() {
        assert_eq!(one_line("a\x1b[2Jb\r\nc\u{202e}d\0", 80), "a[2Jb  cd");
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        assert_eq!(one_line(&"é".repeat(1000), 10), format!("{}…", "é".repeat(9)));
        assert_eq!(one_line("exactly 10", 10), "exactly 10");
        assert_eq!(one_line("x", 0), "");
    }

    #[test]
    fn a_typo_finds_its_name() {
        let names = ["coarse-points", "max-rounds"];
        assert_eq!(nearest("coarse-point", names), Some("coarse-points"));
        assert_eq!(nearest("zzz", names), None);
    }

    #[test]
    fn long_lists_say_how_much_is_left_out() {
        assert_eq!(list(&["a", "b", "c"], 2), "a, b, and 1 more");
        assert_eq!(list(&["a"], 2), "a");
    }
}
