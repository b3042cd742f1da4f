use serde_json::{Value, json};

use super::*;
use crate::testing::tokenizers::byte_level;

/// A tokenizer in SentencePiece's manner: every text begins with a mark, bytes stand in for what is unknown.
fn marked() -> Value {
    let pieces = ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "\u{2581}a", "\u{2581}b", "ab"];
    let vocabulary: serde_json::Map<String, Value> =
        pieces.iter().zip(0..).map(|(piece, id)| ((*piece).to_owned(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "\u{2581}" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" }
        ] },
        "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 }
        ] },
        "model": {
            "type": "BPE", "unk_token": "<unk>", "vocab": vocabulary,
            "merges": ["\u{2581} a", "\u{2581} b", "a b"]
        },
    })
}

fn load(files: &[(&str, String)]) -> DataResult<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs_err::write(folder.path().join(name), text).unwrap();
    }
    Tokenizer::open(folder.path())
}

fn with_config(tokenizer: &Value, config: &Value) -> DataResult<Tokenizer> {
    load(&[("tokenizer.json", tokenizer.to_string()), ("tokenizer_config.json", config.to_string())])
}

#[test]
fn special_tokens_are_read_as_strings_and_as_objects_and_from_either_file() {
    let config = json!({ "bos_token": "<s>", "eos_token": { "content": "</s>", "lstrip": false }, "pad_token": null });
    let tokenizer = with_config(&byte_level(&[]), &config).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(256), Some(257), None));
    let map = ("special_tokens_map.json", json!({ "eos_token": "</s>" }).to_string());
    assert_eq!(load(&[("tokenizer.json", byte_level(&[]).to_string()), map]).unwrap().eos(), Some(257));
}

#[test]
fn the_vocabulary_counts_added_tokens() {
    let tokenizer = with_config(&byte_level(&[]), &json!({})).unwrap();
    assert_eq!(tokenizer.vocabulary(), 258);
    assert!(tokenizer.vocabulary_fits("the model", 258).is_ok());
    let error = tokenizer.vocabulary_fits("the model", 257).unwrap_err();
    assert!(error.to_string().ends_with("has 258 tokens, but the model knows only 257"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_files_own_truncation_is_not_applied_and_an_end_it_adds_is_no_part_of_a_prompt() {
    let tokenizer = with_config(&byte_level(&[]), &json!({ "eos_token": "</s>" })).unwrap();
    let ids = tokenizer.encode("abcdef", true).unwrap();
    assert_eq!((ids.len(), ids[0], ids[7]), (8, 256, 257));
    assert_eq!(tokenizer.encode_start("abcdef", true).unwrap(), ids[..7]);
}

#[test]
fn whole_sequences_decode_to_the_bytes_they_came_from() {
    let tokenizer = with_config(&byte_level(&["h e"]), &json!({})).unwrap();
    for text in ["he said \u{1f600} na\u{ef}ve \u{6771}\u{4eac}", "\u{0}\t\r\n  ", ""] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap(), true).unwrap(), text);
    }
    let ends = tokenizer.encode_with_ends("he \u{e9}").unwrap();
    assert_eq!(ends.last().map(|(_, end)| *end), Some(5));
}

#[test]
fn a_token_that_would_span_the_border_does_not() {
    let tokenizer = with_config(&byte_level(&["a b", "\u{120} 4"]), &json!({})).unwrap();
    let text = |ids: &[u32]| ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect::<Vec<_>>();
    assert_eq!(text(&tokenizer.encode("ab", false).unwrap()), ["ab"]);
    assert_eq!(text(&tokenizer.completion_tokens("a", "b").unwrap()), ["b"]);
    assert_eq!(text(&tokenizer.completion_tokens("x: ", "4").unwrap()), ["4"]);
    assert_eq!(text(&tokenizer.completion_tokens("x:", " 4").unwrap()), ["\u{120}4"]);
}

#[test]
fn a_mark_of_the_start_of_a_text_is_not_put_inside_it() {
    let tokenizer = with_config(&marked(), &json!({})).unwrap();
    for (prompt, completion) in [("a", "b"), ("a", " b"), ("b a", "b a"), ("a ", "b")] {
        let both = [tokenizer.encode(prompt, false).unwrap(), tokenizer.completion_tokens(prompt, completion).unwrap()];
        assert_eq!(tokenizer.decode(&both.concat(), true).unwrap(), format!("{prompt}{completion}"));
    }
}

#[test]
fn a_template_is_found_wherever_a_tokenizer_keeps_it() {
    let chat = |files: &[(&str, String)]| {
        let tokenizer = [&[("tokenizer.json", byte_level(&[]).to_string())], files].concat();
        let tokenizer = load(&tokenizer).unwrap();
        tokenizer.prompt_text(&[Message::system("s"), Message::user("u")], &tokenizer.chat_format().unwrap()).unwrap()
    };
    let config = |template: Value| {
        ("tokenizer_config.json", json!({ "chat_template": template, "eos_token": "</s>" }).to_string())
    };
    assert_eq!(chat(&[]), "s\n\nu");
    assert_eq!(chat(&[config(json!("{{ messages[1].content + eos_token }}"))]), "u</s>");
    let named = json!([{ "name": "tool_use", "template": "t" }, { "name": "default", "template": "d" }]);
    assert_eq!(chat(&[config(named)]), "d");
    assert_eq!(chat(&[config(json!("old")), ("chat_template.jinja", "new".into())]), "new");
    assert_eq!(chat(&[("chat_template.json", json!({ "chat_template": "j" }).to_string())]), "j");
}

#[test]
fn what_is_wrong_with_a_tokenizer_is_said_with_the_file() {
    let fault = |files: &[(&str, String)]| {
        let error = load(files).err().unwrap().to_string();
        error.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let good = ("tokenizer.json", byte_level(&[]).to_string());
    assert!(fault(&[("config.json", "{}".into())]).ends_with(" has no tokenizer.json"));
    assert!(
        fault(&[("tokenizer.json", "version https://git-lfs".into())]).starts_with("tokenizer.json: not a tokenizer: ")
    );
    assert!(
        fault(&[good.clone(), ("tokenizer_config.json", "{".into())])
            .starts_with("tokenizer_config.json: not valid: EOF")
    );
    let unknown = ("tokenizer_config.json", json!({ "eos_token": "<|end|>" }).to_string());
    assert!(fault(&[good, unknown]).ends_with(": eos_token is \"<|end|>\", which is not in the vocabulary"));
}

#[test]
fn generation_stops_at_every_end_the_model_names() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("tokenizer.json", byte_level(&[]).to_string()),
        ("tokenizer_config.json", json!({ "eos_token": "</s>" }).to_string()),
        ("generation_config.json", json!({ "eos_token_id": [7, 300] }).to_string()),
        ("config.json", json!({ "eos_token_id": 9 }).to_string()),
    ];
    files.iter().for_each(|(name, text)| fs_err::write(folder.path().join(name), text).unwrap());
    let folder = ModelFolder::open(folder.path()).unwrap();
    assert_eq!(Tokenizer::load(&folder).unwrap().stop_ids(&folder).unwrap(), [7, 9, 257, 300]);
}
