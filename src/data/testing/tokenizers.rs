//! Small tokenizers of the two common kinds.

use serde_json::{Value, json};

use crate::tokenizer::Tokenizer;

/// A tokenizer that spells bytes: GPT-2's byte alphabet, and the merges given.
pub(crate) fn byte_level(merges: &[&str]) -> Value {
    let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let joined = merges.iter().map(|merge| merge.replace(' ', ""));
    let tokens = alphabet.iter().map(char::to_string).chain(joined);
    let (begin, end) = (256 + merges.len(), 257 + merges.len());
    let vocabulary: serde_json::Map<String, Value> = tokens.zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let special = |id: usize, token: &str| {
        json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true
        })
    };
    json!({
        "version": "1.0", "truncation": { "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 },
        "padding": null, "added_tokens": [special(begin, "<s>"), special(end, "</s>")],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "</s>", "type_id": 0 } }
            ],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": {
                "<s>": { "id": "<s>", "ids": [begin], "tokens": ["<s>"] },
                "</s>": { "id": "</s>", "ids": [end], "tokens": ["</s>"] }
            }
        },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocabulary, "merges": merges },
    })
}

/// A tokenizer in SentencePiece's manner: a mark stands for a space and begins every text, what no word covers is spelled in
/// bytes.
pub(crate) fn sentence_piece(words: &[&str]) -> Value {
    let special = ["<unk>", "<s>", "</s>"];
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let letters = ('a'..='z').chain(['<', '/', '>', '\u{2581}']).map(String::from);
    let mut vocabulary: Vec<(String, f64)> = special.iter().map(|token| ((*token).to_owned(), -1000.0)).collect();
    vocabulary.extend(bytes.map(|token| (token, 0.0)));
    vocabulary.extend(letters.map(|token| (token, -10.0)));
    vocabulary.extend(words.iter().map(|word| ((*word).to_owned(), -5.0)));
    let added = |id: usize| {
        json!({
            "id": id, "content": special[id], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true
        })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added(0), added(1), added(2)],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "\u{2581}" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" }
        ] },
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } }
        },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 }
        ] },
        "model": { "type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": true },
    })
}

/// A tokenizer from its two files.
pub(crate) fn tokenizer(tokenizer: &Value, config: &Value) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs_err::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::open(folder.path()).unwrap()
}
