//! Prompts of an exact number of tokens.
//!
//! A prompt is a random row of words that are one token each. With the model's tokenizer they are found in its
//! vocabulary, and every prompt is encoded again and counted. Without it, common English words are used, which are one
//! token each in the vocabularies of all large models; whether they are in this one, the server's own count says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::Tokenizer;

use super::random::Random;

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

/// Makes prompts. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Prompter {
    words: Arc<[String]>,
    tokenizer: Option<Arc<Tokenizer>>,
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
        Ok(Self { words: words.into(), tokenizer: Some(Arc::new(tokenizer)) })
    }

    /// Without a tokenizer: as many words as tokens.
    pub(super) fn of_common_words() -> Self {
        let words: Vec<String> = COMMON.split_whitespace().map(str::to_owned).collect();
        Self { words: words.into(), tokenizer: None }
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
        let mut words: Vec<&str> = (0..tokens).map(|_| word()).collect();
        let Some(tokenizer) = &self.tokenizer else { return Ok(words.join(" ")) };
        for _ in 0..MAX_CORRECTIONS {
            let text = words.join(" ");
            let count = count(tokenizer, &text)?;
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

fn count(tokenizer: &Tokenizer, text: &str) -> Result<usize, String> {
    Ok(tokenizer.encode_fast(text, true).map_err(|e| format!("the tokenizer fails: {e}"))?.len())
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
