//! Tokenizers in Hugging Face's files: text to ids and back, the special tokens, the chat template.

mod pieces;

pub use pieces::Pieces;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::chat_template::ChatTemplate;
use crate::error::{DataError, DataResult};
use crate::model_folder::ModelFolder;
use crate::prompt::Message;
use pieces::Spelling;

/// A tokenizer as it lies in a model folder: `tokenizer.json`, and where they exist `tokenizer_config.json`,
/// `special_tokens_map.json`, `chat_template.jinja`.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    digest: String,
    vocabulary: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    special: Vec<(String, String)>,
    /// Tokens that were added to the vocabulary, and whether each is special.
    added: BTreeMap<u32, bool>,
    spelling: Spelling,
    template: Option<String>,
    label: String,
}

/// How conversations become text.
#[derive(Debug, Clone)]
pub enum ChatFormat {
    /// The contents of the turns, as they are, a blank line between two of them; what a tokenizer puts around any
    /// text (a beginning-of-sequence token) comes first.
    Plain,
    /// A template; it writes every special token itself.
    Template(ChatTemplate),
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder.
    ///
    /// # Errors
    /// A missing or damaged file, by name; a special token the vocabulary does not have.
    pub fn load(folder: &ModelFolder) -> DataResult<Self> {
        let text = folder.read_text("tokenizer.json")?;
        let bytes = text.as_bytes();
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| DataError::File {
            path: PathBuf::from(&folder.label).join("tokenizer.json"),
            message: format!("not a tokenizer: {error}"),
            hint: Some("was it copied whole? a Git LFS pointer is a few lines of text instead of the file".into()),
        })?;
        // A file may carry the settings of somebody's last training run; rows are cut and packed elsewhere.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| DataError::invalid(error.to_string(), "the tokenizer is damaged"))?;
        let config = Settings::read(folder)?;
        let id = |name: &str| -> DataResult<Option<u32>> {
            let Some(token) = config.token(name) else { return Ok(None) };
            inner.token_to_id(&token).map(Some).ok_or_else(|| {
                DataError::invalid(
                    format!("{}: {name} is {token:?}, which is not in the vocabulary", folder.label),
                    "tokenizer.json and tokenizer_config.json are of different models",
                )
            })
        };
        let (bos, eos, pad) = (id("bos_token")?, id("eos_token")?, id("pad_token")?);
        let names = ["bos_token", "eos_token", "pad_token", "unk_token"];
        let special = names.iter().filter_map(|name| Some(((*name).to_owned(), config.token(name)?))).collect();
        let template = config.template(folder)?;
        let digest = blake3::hash(bytes).to_hex()[..16].to_string();
        // Counted once: asking the inner tokenizer copies its whole vocabulary.
        let vocabulary = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let added = inner.get_added_tokens_decoder().into_iter().map(|(id, token)| (id, token.special)).collect();
        let spelling = Spelling::of(&inner);
        let label = folder.label.clone();
        Ok(Self { inner, digest, vocabulary, bos, eos, pad, special, added, spelling, template, label })
    }

    /// Loads the tokenizer of a folder on disk.
    pub fn open(folder: &Path) -> DataResult<Self> {
        Self::load(&ModelFolder::open(folder)?)
    }

    /// The ids of a text. `special` adds what the tokenizer puts around a text by itself, often a
    /// beginning-of-sequence token. Special tokens written in the text become their ids, as in transformers.
    pub fn encode(&self, text: &str, special: bool) -> DataResult<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, special).map_err(|error| self.encode_fault(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text with, for each, how many bytes of the text lie before its end. Nothing is added around it.
    pub fn encode_with_ends(&self, text: &str) -> DataResult<Vec<(u32, usize)>> {
        let encoding = self.inner.encode(text, false).map_err(|error| self.encode_fault(&error))?;
        Ok(encoding.get_ids().iter().copied().zip(encoding.get_offsets().iter().map(|(_, end)| *end)).collect())
    }

    /// The text of ids; `special` keeps special tokens in it. Bytes that are not whole characters become U+FFFD, so
    /// decode whole sequences, not token by token.
    pub fn decode(&self, ids: &[u32], special: bool) -> DataResult<String> {
        self.inner.decode(ids, !special).map_err(|error| {
            DataError::invalid(
                format!("{}: the ids cannot be decoded: {error}", self.label),
                "is it the right tokenizer?",
            )
        })
    }

    /// The token's own spelling in the vocabulary, if there is such an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether an id is a special token: one that no text makes.
    pub fn is_special(&self, id: u32) -> bool {
        self.added.get(&id).copied().unwrap_or(false)
    }

    /// The special tokens, ascending.
    pub fn special_ids(&self) -> impl Iterator<Item = u32> {
        self.added.iter().filter(|(_, special)| **special).map(|(id, _)| *id)
    }

    /// The same tokenizer, to which special tokens written in a text are text like any other.
    #[must_use]
    pub fn with_special_tokens_as_text(mut self) -> Self {
        self.inner.set_encode_special_tokens(true);
        self
    }

    /// The smallest vocabulary a model needs for this tokenizer: its highest id and one.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Beginning of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End of sequence: what a model says when it is done.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Where generation ends for a model of this tokenizer: its end of sequence, and what `generation_config.json` and
    /// `config.json` name (a chat model often has two). Ascending.
    pub fn stop_ids(&self, model: &ModelFolder) -> DataResult<Vec<u32>> {
        let mut ids: BTreeSet<u32> = self.eos.into_iter().collect();
        for name in ["generation_config.json", "config.json"] {
            if model.get(name).is_none() {
                continue;
            }
            let settings: Value = model.read_json(name)?;
            let named = settings.get("eos_token_id").unwrap_or(&Value::Null);
            let several = named.as_array().map_or(std::slice::from_ref(named), Vec::as_slice);
            ids.extend(several.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
        }
        Ok(ids.into_iter().collect())
    }

    /// Padding.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// What the ids mean: the first 16 hexadecimal digits of BLAKE3 of `tokenizer.json`. Ids of one tokenizer may be
    /// used with another exactly when their digests are equal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The tokenizer's own chat format: its template, or plain text when it has none.
    pub fn chat_format(&self) -> DataResult<ChatFormat> {
        match &self.template {
            Some(source) => self.chat_format_from(source),
            None => Ok(ChatFormat::Plain),
        }
    }

    /// A chat format from a template's text, with this tokenizer's special tokens.
    pub fn chat_format_from(&self, source: &str) -> DataResult<ChatFormat> {
        ChatTemplate::new(source, self.special.clone()).map(ChatFormat::Template)
    }

    /// A conversation as the text a model is to continue.
    pub fn prompt_text(&self, messages: &[Message], format: &ChatFormat) -> DataResult<String> {
        match format {
            ChatFormat::Template(template) => template.render(messages, true),
            ChatFormat::Plain => {
                let contents: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
                Ok(contents.join("\n\n"))
            }
        }
    }

    /// A conversation as the ids a model is to continue: the same for a teacher that answers, a student that learns
    /// and an evaluation that asks.
    pub fn prompt_tokens(&self, messages: &[Message], format: &ChatFormat) -> DataResult<Vec<u32>> {
        let text = self.prompt_text(messages, format)?;
        self.encode_start(&text, matches!(format, ChatFormat::Plain))
    }

    /// The ids of a text that others will follow: without the end-of-sequence token some tokenizers add.
    pub fn encode_start(&self, text: &str, special: bool) -> DataResult<Vec<u32>> {
        let mut ids = self.encode(text, special)?;
        if special && ids.last().is_some() && ids.last().copied() == self.eos && ids.len() > 1 {
            ids.pop();
        }
        Ok(ids)
    }

    /// The ids of a completion that follows `prompt_text`: ids a model would make when it goes
    /// on from exactly that prompt. Tokenising the whole and cutting it is wrong where a token spans the border;
    /// tokenising the completion alone is wrong where the tokenizer marks the start of every text.
    pub fn completion_tokens(&self, prompt_text: &str, completion: &str) -> DataResult<Vec<u32>> {
        let whole_text = format!("{prompt_text}{completion}");
        let bare = self.encode(prompt_text, false)?;
        let mut whole = self.encode(&whole_text, false)?;
        if whole.starts_with(&bare) {
            return Ok(whole.split_off(bare.len()));
        }
        let wanted = self.decode(&whole, true)?;
        let fits =
            |ids: &[u32]| -> DataResult<bool> { Ok(self.decode(&[bare.as_slice(), ids].concat(), true)? == wanted) };
        let alone = self.encode(completion, false)?;
        if fits(&alone)? {
            return Ok(alone);
        }
        // Behind a neutral character the mark of a text's start falls on that character instead.
        for anchor in ["\n", ".", "a"] {
            let before = self.encode(anchor, false)?;
            let mut both = self.encode(&format!("{anchor}{completion}"), false)?;
            if both.starts_with(&before) {
                let ids = both.split_off(before.len());
                if fits(&ids)? {
                    return Ok(ids);
                }
            }
        }
        Ok(alone)
    }

    fn encode_fault(&self, error: &tokenizers::Error) -> DataError {
        DataError::invalid(
            format!("{}: the text cannot be tokenised: {error}", self.label),
            "is it the right tokenizer?",
        )
    }

    /// Checks that a model knows every id this tokenizer can make.
    pub fn vocabulary_fits(&self, model: &str, model_vocabulary: usize) -> DataResult<()> {
        let needed = self.vocabulary();
        if needed <= model_vocabulary {
            return Ok(());
        }
        Err(DataError::invalid(
            format!("the tokenizer {} has {needed} tokens, but {model} knows only {model_vocabulary}", self.label),
            "tokenizer and model do not belong together; use the model's own tokenizer",
        ))
    }

    /// The tokenizer of the `tokenizers` crate, for what this type does not offer.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

/// `tokenizer_config.json`, then `special_tokens_map.json`: both may be missing.
struct Settings {
    config: Value,
    map: Value,
}

impl Settings {
    fn read(folder: &ModelFolder) -> DataResult<Self> {
        let read = |name: &str| match folder.get(name) {
            Some(_) => folder.read_json::<Value>(name),
            None => Ok(Value::Null),
        };
        Ok(Self { config: read("tokenizer_config.json")?, map: read("special_tokens_map.json")? })
    }

    /// A token is written as a string, or as an object with its `content`.
    fn token(&self, name: &str) -> Option<String> {
        [&self.config, &self.map].into_iter().find_map(|settings| {
            let value = settings.get(name)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
        })
    }

    /// The template lies in a file of its own, or in the configuration: one text, or a list of named ones.
    fn template(&self, folder: &ModelFolder) -> DataResult<Option<String>> {
        if folder.get("chat_template.jinja").is_some() {
            return folder.read_text("chat_template.jinja").map(Some);
        }
        let file: Value = match folder.get("chat_template.json") {
            Some(_) => folder.read_json("chat_template.json")?,
            None => Value::Null,
        };
        let value = [&file, &self.config].into_iter().find_map(|settings| settings.get("chat_template"));
        Ok(value.and_then(|value| match value {
            Value::String(template) => Some(template.clone()),
            Value::Array(named) => named
                .iter()
                .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
                .or(named.first())
                .and_then(|entry| entry.get("template")?.as_str())
                .map(str::to_owned),
            _ => None,
        }))
    }
}

#[cfg(test)]
mod tests;
