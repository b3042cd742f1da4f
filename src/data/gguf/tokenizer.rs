//! The vocabulary of a GGUF file as `tokenizer.json` and `tokenizer_config.json`.
//!
//! Two models of tokenisation are known: `gpt2`, byte-level BPE with its merges in the file, and `llama`, SentencePiece's
//! BPE, whose merges follow from the scores. The texts are written by structs whose order is fixed, because their
//! digests say what ids mean.

use std::collections::BTreeMap;

use serde::Serialize;

use super::container::GgufFile;
use super::tokenizer_json::{
    AddedToken, Decoder, Ids, Model, Normalizer, Piece, PostProcessor, SpecialToken, TokenizerFile,
};
use super::{pre_tokenizer, sentence_piece};
use crate::error::DataResult;

/// `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// An ordinary piece of text.
    Normal,
    /// What stands for text that can't be written.
    Unknown,
    /// A mark that no text makes by itself.
    Control,
    /// A piece that is found in text before anything else.
    UserDefined,
    /// A hole in the vocabulary.
    Unused,
    /// A single byte: `<0x0A>`.
    Byte,
}

/// The tokens of a file.
pub(super) struct Vocabulary<'a> {
    file: &'a GgufFile,
    /// By id.
    pub(super) tokens: &'a [String],
    /// By id.
    pub(super) kinds: Vec<TokenKind>,
}

impl<'a> Vocabulary<'a> {
    fn of(file: &'a GgufFile) -> DataResult<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens = file.required(key, file.texts(key)?)?;
        let kinds = match file.numbers("tokenizer.ggml.token_type")? {
            None => vec![TokenKind::Normal; tokens.len()],
            Some(numbers) => numbers.into_iter().map(TokenKind::numbered).collect(),
        };
        if kinds.len() != tokens.len() {
            let message =
                format!("`tokenizer.ggml.token_type` has {} entries for {} tokens", kinds.len(), tokens.len());
            return Err(file.fault(message, None));
        }
        let vocabulary = Self { file, tokens, kinds };
        let mut seen = BTreeMap::new();
        for (token, id) in vocabulary.used() {
            if let Some(other) = seen.insert(token, id) {
                return Err(file.fault(format!("the tokens {other} and {id} are both {token:?}"), None));
            }
        }
        Ok(vocabulary)
    }

    /// Every token that means something, by id.
    pub(super) fn used(&self) -> impl Iterator<Item = (&'a str, usize)> {
        let used = |id: &usize| self.kinds[*id] != TokenKind::Unused;
        (0..self.tokens.len()).filter(used).map(|id| (self.tokens[id].as_str(), id))
    }

    /// The token that `tokenizer.ggml.<name>_token_id` names.
    pub(super) fn special(&self, name: &str) -> DataResult<Option<&'a str>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = self.file.size(&key)?;
        let token = |id: usize| {
            let token = self.tokens.get(id).map(String::as_str);
            token.ok_or_else(|| {
                self.file.fault(format!("metadata `{key}` is {id}, but there are {} tokens", self.tokens.len()), None)
            })
        };
        id.map(token).transpose()
    }

    /// The tokens that are found in text before anything else: marks and the user's own.
    pub(super) fn added(&self) -> Vec<AddedToken<'a>> {
        let added = self.used().filter_map(|(content, id)| {
            let special = match self.kinds[id] {
                TokenKind::Control | TokenKind::Unknown => true,
                TokenKind::UserDefined => false,
                TokenKind::Normal | TokenKind::Byte | TokenKind::Unused => return None,
            };
            Some(AddedToken {
                id,
                content,
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: false,
                special,
            })
        });
        added.collect()
    }
}

impl TokenKind {
    fn numbered(number: f64) -> Self {
        match number as i64 {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// Whether the file has a tokenizer at all.
pub(super) fn is_there(file: &GgufFile) -> bool {
    file.value("tokenizer.ggml.model").is_some()
}

/// The text of `tokenizer.json`.
pub(super) fn tokenizer(file: &GgufFile) -> DataResult<String> {
    // Some converters put the original beside the vocabulary: nothing can be truer.
    if let Some(original) = file.text("tokenizer.huggingface.json")? {
        return Ok(original.to_owned());
    }
    let model = file.required("tokenizer.ggml.model", file.text("tokenizer.ggml.model")?)?;
    let vocabulary = Vocabulary::of(file)?;
    let tokenizer = match model {
        "gpt2" => byte_level(file, &vocabulary)?,
        "llama" => sentence_piece::tokenizer(file, &vocabulary)?,
        other => {
            let hint = "known are `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE); a model folder with its own \
                        tokenizer.json works too";
            return Err(file.fault(format!("the tokenizer model `{other}` is not supported"), Some(hint)));
        }
    };
    serde_json::to_string(&tokenizer)
        .map_err(|error| file.fault(format!("the tokenizer can't be written: {error}"), None))
}

fn byte_level<'a>(file: &'a GgufFile, vocabulary: &Vocabulary<'a>) -> DataResult<TokenizerFile<'a>> {
    let pre_tokenizer = pre_tokenizer::of(file)?;
    let key = "tokenizer.ggml.merges";
    let merges = file.required(key, file.texts(key)?)?;
    if let Some(odd) = merges.iter().position(|merge| merge.split(' ').count() != 2) {
        return Err(file.fault(format!("merge {odd} is {:?}, where two tokens belong", merges[odd]), None));
    }
    Ok(TokenizerFile {
        added_tokens: vocabulary.added(),
        normalizer: pre_tokenizer.composed.then_some(Normalizer::Nfc),
        pre_tokenizer: Some(pre_tokenizer.step()),
        post_processor: around(file, vocabulary, pre_tokenizer.begins)?,
        decoder: Decoder::ByteLevel { add_prefix_space: true, trim_offsets: true, use_regex: true },
        model: Model {
            ignore_merges: pre_tokenizer.whole_pieces,
            vocab: Ids(vocabulary.used().collect()),
            merges: merges.iter().map(|merge| merge.as_str().into()).collect(),
            ..Model::default()
        },
        ..TokenizerFile::default()
    })
}

/// What the tokenizer puts around a text by itself; `begins` where the file does not say whether it begins with
/// something.
pub(super) fn around<'a>(
    file: &GgufFile,
    vocabulary: &Vocabulary<'a>,
    begins: bool,
) -> DataResult<Option<PostProcessor<'a>>> {
    let wanted = |name: &str, default: bool| -> DataResult<Option<&'a str>> {
        let key = format!("tokenizer.ggml.add_{name}_token");
        let asked = file.flag(&key)?;
        if !asked.unwrap_or(default) {
            return Ok(None);
        }
        let token = vocabulary.special(name)?;
        if token.is_none() && asked.is_some() {
            return Err(
                file.fault(format!("metadata `{key}` is true, but `tokenizer.ggml.{name}_token_id` is missing"), None)
            );
        }
        Ok(token)
    };
    let (bos, eos) = (wanted("bos", begins)?, wanted("eos", false)?);
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let ids = |token: &str| vocabulary.tokens.iter().position(|other| other == token).into_iter().collect();
    let special = |id| Piece::SpecialToken { id, type_id: 0 };
    let text = |id| {
        let text = std::iter::once(Piece::Sequence { id, type_id: 0 });
        bos.map(special).into_iter().chain(text).chain(eos.map(special)).collect::<Vec<_>>()
    };
    let tokens = [bos, eos].into_iter().flatten();
    Ok(Some(PostProcessor::TemplateProcessing {
        single: text("A"),
        pair: text("A").into_iter().chain(text("B")).collect(),
        special_tokens: tokens
            .map(|token| (token, SpecialToken { id: token, ids: ids(token), tokens: [token] }))
            .collect(),
    }))
}

/// The text of `tokenizer_config.json`.
pub(super) fn tokenizer_config(file: &GgufFile) -> DataResult<String> {
    let vocabulary = Vocabulary::of(file)?;
    let settings = TokenizerConfig {
        // A class of its own would bring its own cuts with it: `GPT2Tokenizer` drops the cutting of digits.
        tokenizer_class: "PreTrainedTokenizerFast",
        bos_token: vocabulary.special("bos")?,
        eos_token: vocabulary.special("eos")?,
        pad_token: vocabulary.special("padding")?,
        unk_token: vocabulary.special("unknown")?,
        chat_template: file.text("tokenizer.chat_template")?,
        clean_up_tokenization_spaces: false,
    };
    let text = serde_json::to_string_pretty(&settings);
    text.map(|text| format!("{text}\n"))
        .map_err(|error| file.fault(format!("the tokenizer can't be written: {error}"), None))
}

#[derive(Serialize)]
struct TokenizerConfig<'a> {
    tokenizer_class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eos_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pad_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unk_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_template: Option<&'a str>,
    clean_up_tokenization_spaces: bool,
}
