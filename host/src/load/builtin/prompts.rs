//! Prompts of an exact number of tokens.
//!
//! A prompt is a random row of words that are one token each. With the model's tokenizer they are found in its
//! vocabulary, and prompts are encoded again and counted. Without it, common English words are used, which are one
//! token each in the vocabularies of all large models; whether they are in this one, the server's own count says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokenizers::Tokenizer;

use crate::domain::random::Random;

/// Words that begin with a letter and are one token with the space before them, in GPT-2's vocabulary and since.
const COMMON: &str = "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they \
    which one you were her all she there would their we him been has when who will more no if out so said what up its \
    about into than them can only other new some could time these two may then do first any my now such like our over man \
    me even most made after also did many before must through back years where much your way well down should because each \
    just those people how too little state good very make world still own see men work long get here between both life \
    being under never day same another know while last might us great old year off come since against go came right used \
    take three";

/// Words of a vocabulary that are tried; more make prompts no more different.
const MAX_WORDS: usize = 2000;

/// Fewest words of which prompts are made that do not resemble each other.
const MIN_WORDS: usize = 16;

/// Corrections of a prompt's length before it is given up.
const MAX_CORRECTIONS: usize = 24;

/// After so many prompts in a row that had the right length at once …
const TRUSTED_AFTER: u32 = 32;

/// … each so-manieth is counted: counting costs as much as reading the whole answer. The server counts them all.
const THEN_EACH: u32 = 16;

/// Makes prompts. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Prompter {
    words: Arc<[String]>,
    tokenizer: Option<Arc<Tokenizer>>,
    /// Tokens around every text (begin of sequence).
    around: u32,
    /// Prompts in a row that had the right length at once.
    right_at_once: Arc<AtomicU32>,
}

impl Prompter {
    /// From a `tokenizer.json`, or the folder that holds it.
    pub(super) fn from_file(path: &Path) -> Result<Self, String> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let tokenizer = load(&file)?;
        let words = single_tokens(&tokenizer);
        if words.len() < MIN_WORDS {
            return Err(format!("{}: only {} words of its vocabulary are one token each", file.display(), words.len()));
        }
        let (bare, whole) = (encode(&tokenizer, "the", false)?, encode(&tokenizer, "the", true)?);
        let around = u32::try_from(whole - bare.min(whole)).unwrap_or(0);
        let right_at_once = Arc::default();
        Ok(Self { words: words.into(), tokenizer: Some(Arc::new(tokenizer)), around, right_at_once })
    }

    /// Without a tokenizer: as many words as tokens.
    pub(super) fn of_common_words() -> Self {
        let words: Vec<String> = COMMON.split_whitespace().map(str::to_owned).collect();
        Self { words: words.into(), tokenizer: None, around: 0, right_at_once: Arc::default() }
    }

    /// Whether prompts are counted here.
    pub(super) const fn counts(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// A prompt of so many tokens, with those that the tokenizer puts around every text (begin of sequence).
    pub(super) fn prompt(&self, tokens: u32, random: &mut Random) -> Result<String, String> {
        let mut word = || {
            let at = random.next() as usize % self.words.len().max(1);
            self.words.get(at).map_or("the", String::as_str)
        };
        let mut words: Vec<&str> = (0..tokens.saturating_sub(self.around)).map(|_| word()).collect();
        let Some(tokenizer) = &self.tokenizer else { return Ok(words.join(" ")) };
        let right = self.right_at_once.fetch_add(1, Ordering::Relaxed);
        if right >= TRUSTED_AFTER && !right.is_multiple_of(THEN_EACH) {
            return Ok(words.join(" "));
        }
        for _ in 0..MAX_CORRECTIONS {
            let text = words.join(" ");
            let count = encode(tokenizer, &text, true)?;
            if count != tokens as usize {
                self.right_at_once.store(0, Ordering::Relaxed);
            }
            match (tokens as usize).checked_sub(count) {
                Some(0) => return Ok(text),
                Some(missing) => words.extend((0..missing).map(|_| word())),
                None => words.truncate(words.len().saturating_sub(count - tokens as usize)),
            }
        }
        Err(format!("the tokenizer makes no prompt of exactly {tokens} tokens from whole words"))
    }
}

fn load(file: &PathBuf) -> Result<Tokenizer, String> {
    if !file.exists() {
        return Err(format!(
            "{} does not exist; name the model's tokenizer.json, or leave it away to count words by the server's usage",
            file.display()
        ));
    }
    let mut tokenizer = Tokenizer::from_file(file).map_err(|e| format!("{}: {e}", file.display()))?;
    // Files carry the settings of training: a maximum length, or padding to one.
    tokenizer.with_truncation(None).map_err(|e| format!("{}: {e}", file.display()))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// How many tokens.
fn encode(tokenizer: &Tokenizer, text: &str, with_those_around: bool) -> Result<usize, String> {
    Ok(tokenizer.encode_fast(text, with_those_around).map_err(|e| format!("the tokenizer fails: {e}"))?.len())
}

/// Lower-case words that add exactly one token to a text, in the order of the vocabulary, which is mostly by frequency.
fn single_tokens(tokenizer: &Tokenizer) -> Vec<String> {
    let bare = |text: &str| tokenizer.encode_fast(text, false).map_or(0, |e| e.len());
    let vocabulary = tokenizer.get_vocab(false);
    let mut tokens: Vec<(u32, String)> = vocabulary
        .into_iter()
        .filter_map(|(token, id)| {
            // How vocabularies write the space before a word.
            let word = token.trim_start_matches(['Ġ', '▁', ' ']).trim_end_matches("</w>");
            let plain = (2..=12).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase());
            plain.then(|| (id, word.to_owned()))
        })
        .collect();
    tokens.sort_unstable();
    let mut words: Vec<String> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (_, word) in tokens {
        if words.len() == MAX_WORDS {
            break;
        }
        // Twice in a row: the word must be one token after itself as after others.
        if seen.insert(word.clone())
            && bare(&format!("{word} {word} {word}")) == bare(&format!("{word} {word}")) + 1
            && bare(&format!("{word} {word}")) == bare(&word) + 1
        {
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Words of three letters are one token each; `post` is what is put around every text.
    fn tokenizer(dir: &Path, post: serde_json::Value) -> PathBuf {
        let mut vocabulary = serde_json::Map::new();
        vocabulary.insert("[BOS]".to_owned(), json!(0));
        for letter in b'a'..=b'z' {
            vocabulary.insert(format!("{}ab", char::from(letter)), json!(vocabulary.len()));
        }
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
            "added_tokens": [{"id": 0, "content": "[BOS]", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": post,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[BOS]"},
        });
        let path = dir.join("tokenizer.json");
        std::fs::write(&path, file.to_string()).unwrap();
        path
    }

    fn begin_of_sequence() -> serde_json::Value {
        json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[BOS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[BOS]": {"id": "[BOS]", "ids": [0], "tokens": ["[BOS]"]}},
        })
    }

    #[test]
    fn prompts_have_the_length_that_was_asked_for_with_what_is_put_around_them() {
        let dir = tempfile::tempdir().unwrap();
        for post in [json!(null), begin_of_sequence()] {
            let prompter = Prompter::from_file(&tokenizer(dir.path(), post)).unwrap();
            let counting = prompter.tokenizer.clone().unwrap();
            // Beyond the number from which not each is counted.
            for index in 0..100 {
                let tokens = 1 + u32::try_from(index).unwrap() * 7 + 1;
                let prompt = prompter.prompt(tokens, &mut Random::new(&[index])).unwrap();
                assert_eq!(encode(&counting, &prompt, true).unwrap(), tokens as usize);
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_prompt_again() {
        let prompter = Prompter::of_common_words();
        let prompt = |seed| prompter.prompt(50, &mut Random::new(&[seed])).unwrap();
        assert_eq!(prompt(1), prompt(1));
        assert_ne!(prompt(1), prompt(2));
        assert_eq!(prompt(1).split(' ').count(), 50);
    }

    #[test]
    fn a_vocabulary_without_words_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        let empty = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
            "added_tokens": [], "pre_tokenizer": null, "post_processor": null,
            "model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"},
        });
        std::fs::write(&path, empty.to_string()).unwrap();
        assert!(Prompter::from_file(&path).unwrap_err().contains("only 0 words"));
    }
}
