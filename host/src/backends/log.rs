//! What engines write to their logs about the size of their KV cache and their scheduler. Which line says it is in each
//! engine's file; reading numbers and ranks out of lines is here.

/// KV capacity, as a log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedCapacity {
    /// Tokens, over all attention-DP ranks of the engine.
    pub kv_tokens: u64,
    /// The line that says it (the first, where every rank writes one).
    pub line: String,
}

/// One number that a rank wrote.
pub(super) struct Logged<'a> {
    /// Number of the attention-DP rank, where the line names it.
    pub rank: Option<u32>,
    pub value: f64,
    pub line: &'a str,
}

/// The engine's capacity from what its ranks wrote.
///
/// Lines that name their rank are taken one per rank; lines that name none are taken to be of one rank. Where fewer
/// ranks wrote than there are (some engines let only the first one speak), the smallest stands for those that did not:
/// ranks are built alike, and the smallest is what an even load finds.
pub(super) fn over_ranks(logged: &[Logged<'_>], ranks: u32) -> Option<LoggedCapacity> {
    let first = logged.first()?;
    let mut by_rank: Vec<(Option<u32>, f64)> = Vec::new();
    for entry in logged {
        match by_rank.iter_mut().find(|(rank, _)| *rank == entry.rank) {
            // The engine was started again, or each of a rank's GPUs speaks: the last word counts.
            Some((_, value)) => *value = entry.value,
            None => by_rank.push((entry.rank, entry.value)),
        }
    }
    let ranks = ranks.max(1) as usize;
    let smallest = by_rank.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let spoken = by_rank.len().min(ranks);
    let sum: f64 = by_rank.iter().take(spoken).map(|(_, value)| *value).sum();
    let total = sum + smallest * (ranks - spoken) as f64;
    (total >= 1.0).then(|| LoggedCapacity { kv_tokens: total as u64, line: first.line.trim().to_owned() })
}

/// The number that begins the text, with or without separators of thousands: `40,960 tokens` is 40960.
pub(super) fn number(text: &str) -> Option<f64> {
    let digits: String =
        text.trim_start().chars().take_while(|c| c.is_ascii_digit() || matches!(c, ',' | '.')).collect();
    digits.trim_end_matches(['.', ',']).replace(',', "").parse().ok()
}

/// The number after a marker.
pub(super) fn number_after(line: &str, marker: &str) -> Option<f64> {
    number(line.split_once(marker)?.1)
}

/// The rank in a tag like `DP3`, where the line has one: `(EngineCore_DP3 pid=17)`, `[DP3 TP0]`.
pub(super) fn dp_rank(line: &str) -> Option<u32> {
    line.match_indices("DP").find_map(|(at, tag)| {
        let starts_a_tag = line.get(..at)?.chars().next_back().is_none_or(|c| !c.is_ascii_alphanumeric());
        let digits: String = line.get(at + tag.len()..)?.chars().take_while(char::is_ascii_digit).collect();
        starts_a_tag.then(|| digits.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_with_and_without_thousands() {
        assert_eq!(number(" 40,960 tokens"), Some(40960.0));
        assert_eq!(number("15.72x"), Some(15.72));
        assert_eq!(number("229984)."), Some(229_984.0));
        assert_eq!(number("x"), None);
        assert_eq!(number_after("#tokens: 7, K size", "#tokens: "), Some(7.0));
    }

    #[test]
    fn ranks_are_read_from_tags_and_not_from_words() {
        assert_eq!(dp_rank("(EngineCore_DP3 pid=17) INFO"), Some(3));
        assert_eq!(dp_rank("[2026-01-01 DP12 TP0] KV Cache"), Some(12));
        assert_eq!(dp_rank("UDP4 packets"), None);
        assert_eq!(dp_rank("DP attention"), None);
    }
}
