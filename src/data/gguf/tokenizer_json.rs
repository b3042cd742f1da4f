//! The parts of `tokenizer.json` that are written here, as the `tokenizers` crate reads them.
//!
//! Structs and no JSON maps: the order of a map's members depends on other crates' features, and the text's digest says
//! what ids mean.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// The whole file.
#[derive(Serialize, Default)]
pub(super) struct TokenizerFile<'a> {
    pub(super) version: Version,
    pub(super) truncation: (),
    pub(super) padding: (),
    pub(super) added_tokens: Vec<AddedToken<'a>>,
    pub(super) normalizer: Option<Normalizer>,
    pub(super) pre_tokenizer: Option<Step>,
    pub(super) post_processor: Option<PostProcessor<'a>>,
    pub(super) decoder: Decoder,
    pub(super) model: Model<'a>,
}

/// The only version there is.
#[derive(Default)]
pub(super) struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("1.0")
    }
}

/// A token that is found in text before anything is cut.
#[derive(Serialize)]
pub(super) struct AddedToken<'a> {
    pub(super) id: usize,
    pub(super) content: &'a str,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

/// What is done to text before it is cut.
#[derive(Serialize)]
#[serde(tag = "type")]
pub(super) enum Normalizer {
    #[serde(rename = "NFC")]
    Nfc,
    Prepend {
        prepend: &'static str,
    },
    Replace {
        pattern: Pattern,
        content: &'static str,
    },
    Sequence {
        normalizers: Vec<Normalizer>,
    },
}

/// What is looked for.
#[derive(Serialize)]
pub(super) enum Pattern {
    String(&'static str),
    Regex(&'static str),
}

/// A step of cutting.
#[derive(Serialize)]
#[serde(tag = "type")]
pub(super) enum Step {
    Digits { individual_digits: bool },
    Split { pattern: Pattern, behavior: &'static str, invert: bool },
    ByteLevel { add_prefix_space: bool, trim_offsets: bool, use_regex: bool },
    Sequence { pretokenizers: Vec<Step> },
}

/// How tokens become text again.
#[derive(Serialize)]
#[serde(tag = "type")]
pub(super) enum Decoder {
    ByteLevel { add_prefix_space: bool, trim_offsets: bool, use_regex: bool },
    Replace { pattern: Pattern, content: &'static str },
    ByteFallback,
    Fuse,
    Strip { content: &'static str, start: usize, stop: usize },
    Sequence { decoders: Vec<Decoder> },
}

impl Default for Decoder {
    fn default() -> Self {
        Self::Sequence { decoders: Vec::new() }
    }
}

/// What is put around the ids of a text.
#[derive(Serialize)]
#[serde(tag = "type")]
pub(super) enum PostProcessor<'a> {
    TemplateProcessing {
        single: Vec<Piece<'a>>,
        pair: Vec<Piece<'a>>,
        special_tokens: BTreeMap<&'a str, SpecialToken<'a>>,
    },
}

/// A part of what goes out: a text's ids, or a token.
#[derive(Serialize)]
pub(super) enum Piece<'a> {
    SpecialToken { id: &'a str, type_id: usize },
    Sequence { id: &'a str, type_id: usize },
}

/// A token that is put around a text.
#[derive(Serialize)]
pub(super) struct SpecialToken<'a> {
    pub(super) id: &'a str,
    pub(super) ids: Vec<usize>,
    pub(super) tokens: [&'a str; 1],
}

/// Byte-pair encoding.
#[derive(Serialize, Default)]
#[serde(tag = "type", rename = "BPE")]
pub(super) struct Model<'a> {
    pub(super) dropout: (),
    pub(super) unk_token: Option<&'a str>,
    pub(super) continuing_subword_prefix: (),
    pub(super) end_of_word_suffix: (),
    pub(super) fuse_unk: bool,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
    pub(super) vocab: Ids<'a>,
    pub(super) merges: Vec<Cow<'a, str>>,
}

/// Tokens and their ids, written in this order.
#[derive(Default)]
pub(super) struct Ids<'a>(pub(super) Vec<(&'a str, usize)>);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}
