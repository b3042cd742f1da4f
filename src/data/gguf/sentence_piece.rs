//! SentencePiece's BPE, as Llama 1 and 2, TinyLlama and Mistral use it: spaces are written `▁`, what the vocabulary
//! lacks becomes bytes, and merges follow from the tokens' scores.

use std::collections::BTreeMap;

use super::container::GgufFile;
use super::tokenizer::{TokenKind, Vocabulary, around};
use super::tokenizer_json::{Decoder, Ids, Model, Normalizer, Pattern, TokenizerFile};
use crate::error::DataResult;

/// How SentencePiece writes a space.
const SPACE: &str = "▁";

/// The tokenizer.
pub(super) fn tokenizer<'a>(file: &'a GgufFile, vocabulary: &Vocabulary<'a>) -> DataResult<TokenizerFile<'a>> {
    let key = "tokenizer.ggml.scores";
    let scores = file.required(key, file.numbers(key)?)?;
    if scores.len() != vocabulary.tokens.len() {
        let message = format!("`{key}` has {} entries for {} tokens", scores.len(), vocabulary.tokens.len());
        return Err(file.fault(message, None));
    }
    let prefix = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let marked = Normalizer::Replace { pattern: Pattern::String(" "), content: SPACE };
    let unmarked = Decoder::Replace { pattern: Pattern::String(SPACE), content: " " };
    let mut decoders = vec![unmarked, Decoder::ByteFallback, Decoder::Fuse];
    if prefix {
        decoders.push(Decoder::Strip { content: " ", start: 1, stop: 0 });
    }
    let unknown = vocabulary.kinds.iter().position(|kind| *kind == TokenKind::Unknown);
    Ok(TokenizerFile {
        added_tokens: vocabulary.added(),
        normalizer: Some(Normalizer::Sequence {
            normalizers: prefix.then_some(Normalizer::Prepend { prepend: SPACE }).into_iter().chain([marked]).collect(),
        }),
        pre_tokenizer: None,
        post_processor: around(file, vocabulary, true)?,
        decoder: Decoder::Sequence { decoders },
        model: Model {
            unk_token: unknown.map(|id| vocabulary.tokens[id].as_str()),
            fuse_unk: true,
            byte_fallback: vocabulary.kinds.contains(&TokenKind::Byte),
            vocab: Ids(vocabulary.used().collect()),
            merges: merges(vocabulary, &scores).into_iter().map(Into::into).collect(),
            ..Model::default()
        },
        ..TokenizerFile::default()
    })
}

/// Every way to make a token of two others, the best token first.
///
/// SentencePiece joins the neighbours whose joint token has the highest score. Among the ways to the same token the
/// order is that of transformers' conversion (`generate_merges` in `convert_slow_tokenizer.py`): the longer left part
/// first, so that ids are equal to those of its tokenizers.
fn merges(vocabulary: &Vocabulary<'_>, scores: &[f64]) -> Vec<String> {
    let normal = |id: &usize| vocabulary.kinds[*id] == TokenKind::Normal;
    let ids: BTreeMap<&str, usize> = vocabulary.used().filter(|(_, id)| normal(id)).collect();
    let mut found = Vec::new();
    for (token, id) in vocabulary.used().filter(|(_, id)| normal(id)) {
        let first = found.len();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                found.push((scores[id], left, right, *left_id, *right_id));
            }
        }
        found[first..].sort_by_key(|(.., left, right)| (*left, *right));
    }
    let length = |text: &str| text.chars().count();
    // Stable, as transformers' sort is.
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (length(b.1), length(b.2)).cmp(&(length(a.1), length(a.2)))));
    found.into_iter().map(|(_, left, right, ..)| format!("{left} {right}")).collect()
}
