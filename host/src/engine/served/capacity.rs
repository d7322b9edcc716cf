//! How large an engine's KV cache is, from everybody who knows.
//!
//! The metrics endpoint and the log are the engine's own word, and the memory formula is ours. Whoever is first in that
//! order wins; all others must agree with it. The formula alone is a guess and not enough, and there is no default:
//! NVIDIA's profiler takes 100 000 tokens where it finds no log line.

use crate::domain::KvSource;

/// Sources may differ by this fraction of the larger one.
pub const TOLERANCE: f64 = 0.1;

/// What each of them says.
#[derive(Debug, Clone, PartialEq)]
pub struct Words {
    /// The user vouches for it (`--kv-tokens`).
    pub given: Option<u64>,
    /// Tokens, or why there are none.
    pub metrics: Result<u64, String>,
    /// Tokens and the line that says them, or why there are none.
    pub log: Result<(u64, String), String>,
    /// The memory formula's result.
    pub formula: u64,
}

impl Words {
    /// Everybody's word, the most trusted first.
    fn sources(&self) -> Vec<KvSource> {
        let source = |source: &str, kv_tokens: Option<u64>, detail: String| KvSource {
            source: source.to_owned(),
            detail: if kv_tokens == Some(0) { format!("{detail}, which says 0") } else { detail },
            // An engine without a cache does not serve; a figure of 0 is one that is not known yet.
            kv_tokens: kv_tokens.filter(|tokens| *tokens > 0),
        };
        let given = self.given.map(|tokens| source("given", Some(tokens), "--kv-tokens".to_owned()));
        let metrics = match &self.metrics {
            Ok(tokens) => source("metrics", Some(*tokens), "the engine's metrics endpoint".to_owned()),
            Err(reason) => source("metrics", None, reason.clone()),
        };
        let log = match &self.log {
            Ok((tokens, line)) => source("log", Some(*tokens), line.clone()),
            Err(reason) => source("log", None, reason.clone()),
        };
        // Who is given the number need not estimate it.
        let formula = self.given.is_none().then(|| {
            source("formula", Some(self.formula), "weights, activations and KV cache by the model's shape".to_owned())
        });
        // What the engine says comes before what the user believes.
        [Some(metrics), Some(log), given, formula].into_iter().flatten().collect()
    }

    /// The capacity in tokens, and everybody's word; the first that has a number is whose number it is.
    ///
    /// # Errors
    /// If nobody but the formula knows, or two differ by more than `tolerance`; with all that was said.
    pub fn settle(&self, tolerance: f64) -> Result<(u64, Vec<KvSource>), String> {
        let sources = self.sources();
        let numbers: Vec<(&KvSource, u64)> = sources.iter().filter_map(|s| Some((s, s.kv_tokens?))).collect();
        let all = || {
            let line = |s: &KvSource| match s.kv_tokens {
                Some(tokens) => format!("{} {tokens} tokens ({})", s.source, s.detail),
                None => format!("{} nothing ({})", s.source, s.detail),
            };
            sources.iter().map(line).collect::<Vec<_>>().join("; ")
        };
        let Some((winner, tokens)) = numbers.first().copied().filter(|(winner, _)| winner.source != "formula") else {
            return Err(format!(
                "nobody says how large the KV cache is: {}. --kv-tokens gives it; the formula alone is a guess",
                all()
            ));
        };
        let apart = |a: u64, b: u64| a.abs_diff(b) as f64 / a.max(b) as f64;
        if let Some((other, second)) = numbers.iter().find(|(_, other)| apart(tokens, *other) > tolerance) {
            return Err(format!(
                "the KV cache is {tokens} tokens by the {} and {second} by the {}, {:.0} % apart: {}. Mend whichever is \
                 wrong; --kv-tolerance allows more than {:.0} %",
                winner.source,
                other.source,
                apart(tokens, *second) * 100.0,
                all(),
                tolerance * 100.0
            ));
        }
        Ok((tokens, sources))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(metrics: Option<u64>, log: Option<u64>, formula: u64) -> Words {
        Words {
            given: None,
            metrics: metrics.ok_or_else(|| "no such series".to_owned()),
            log: log.map(|n| (n, "a line".to_owned())).ok_or_else(|| "no such line".to_owned()),
            formula,
        }
    }

    fn settled(words: &Words) -> Result<(u64, String), String> {
        words
            .settle(TOLERANCE)
            .map(|(tokens, sources)| (tokens, sources.iter().find(|s| s.kv_tokens.is_some()).unwrap().source.clone()))
    }

    #[test]
    fn the_engines_own_word_wins_and_absent_ones_are_recorded() {
        assert_eq!(settled(&words(Some(1000), Some(1001), 1050)), Ok((1000, "metrics".to_owned())));
        assert_eq!(settled(&words(None, Some(1001), 1050)), Ok((1001, "log".to_owned())));
        let (_, sources) = words(None, Some(1001), 1050).settle(TOLERANCE).unwrap();
        assert_eq!(sources[0].kv_tokens, None);
        assert!(sources[0].detail.contains("no such series"));
    }

    #[test]
    fn the_formula_alone_is_not_enough_unless_the_user_vouches_for_a_number() {
        let error = settled(&words(None, None, 1050)).unwrap_err();
        for said in ["no such series", "no such line", "1050", "--kv-tokens"] {
            assert!(error.contains(said), "{error}");
        }
        let given = Words { given: Some(7777), ..words(None, None, 1050) };
        assert_eq!(settled(&given), Ok((7777, "given".to_owned())));
        let contradicted = Words { given: Some(7777), ..words(Some(1000), None, 1050) };
        assert!(settled(&contradicted).unwrap_err().contains("7777"));
    }

    #[test]
    fn sources_that_are_further_apart_than_a_tenth_are_an_error_with_all_values() {
        for words in [words(Some(1000), Some(1120), 1000), words(Some(1000), None, 880), words(None, Some(880), 1000)] {
            let error = settled(&words).unwrap_err();
            assert!(error.contains("% apart") && error.contains("1000") && error.contains("formula"), "{error}");
            assert!(words.settle(0.2).is_ok());
        }
        assert!(settled(&words(Some(1000), Some(900), 1100)).is_ok(), "a tenth apart is not more than a tenth");
    }

    #[test]
    fn zero_is_no_capacity() {
        assert!(settled(&words(Some(0), None, 1050)).is_err());
        assert_eq!(settled(&words(Some(0), Some(1000), 1050)), Ok((1000, "log".to_owned())));
    }
}
