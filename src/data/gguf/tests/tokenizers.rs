//! The tokenizer of a file cuts and joins text as the one that the model was trained with.

use std::collections::BTreeMap;

use ::tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::*;
use crate::model_folder::ModelFolder;
use crate::prompt::Message;
use crate::tokenizer::{ChatFormat, Tokenizer};

/// A byte-level vocabulary that joins digits, two letters and a letter with the mark before it, wherever the cuts allow.
fn byte_level(pre: &str) -> GgufWriter {
    let mut tokens: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    tokens.sort();
    let mut merges = Vec::new();
    for (left, right) in [("0", "0"), ("00", "0"), ("Ġ", "0"), ("a", "b"), ("Ġ", "ab"), (".", "ab")] {
        tokens.push(format!("{left}{right}"));
        merges.push(format!("{left} {right}"));
    }
    let special = tokens.len();
    tokens.extend(["<|end|>".into(), "<think>".into(), "[PAD1]".into()]);
    let mut kinds = vec![1; tokens.len()];
    kinds[special..].copy_from_slice(&[3, 4, 5]);
    model("llama")
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .texts("tokenizer.ggml.merges", &merges)
        .u32("tokenizer.ggml.bos_token_id", special as u32)
        .u32("tokenizer.ggml.eos_token_id", special as u32)
}

/// SentencePiece's kind: bytes, letters, and pieces with scores.
fn sentence_piece() -> GgufWriter {
    let pieces = ["▁", "a", "b", "c", "ab", "▁a", "bc", "▁ab", "▁abc", "abc"];
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let kinds = [vec![2, 3, 3], vec![6; 256], vec![1; pieces.len()]].concat();
    tokens.extend(pieces.map(str::to_owned));
    // The earlier of the longer pieces is joined first.
    let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id.saturating_sub(262) as f32)).collect();
    model("llama")
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
}

fn load(writer: &GgufWriter) -> DataResult<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    writer.write(&path);
    Tokenizer::open(&path)
}

fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text, false).unwrap().into_iter().map(|id| tokenizer.token(id).unwrap()).collect()
}

#[test]
fn every_pre_tokenizer_cuts_in_its_own_way() {
    type Pieces = &'static [&'static str];
    let cases: [(&str, Pieces, Pieces, Pieces); 5] = [
        ("smollm", &["Ġ", "0", "0", "0", "0"], &["Ġab"], &[".", "ab"]),
        ("gpt-2", &["Ġ", "00", "00"], &["Ġab"], &[".", "ab"]),
        ("llama-bpe", &["Ġ", "000", "0"], &["Ġab"], &[".ab"]),
        ("qwen2", &["Ġ", "0", "0", "0", "0"], &["Ġab"], &[".ab"]),
        ("default", &["Ġ", "000", "0"], &["Ġab"], &[".", "ab"]),
    ];
    for (pre, digits, word, point) in cases {
        let tokenizer = load(&byte_level(pre)).unwrap();
        assert_eq!(pieces(&tokenizer, " 0000"), digits, "{pre}");
        assert_eq!(pieces(&tokenizer, " ab"), word, "{pre}");
        assert_eq!(pieces(&tokenizer, ".ab"), point, "{pre}");
        for text in ["", "  two\r\n\tlines ", "ün\u{301}ïcode 👩‍🚀 ٣", "fn f(x: &[u8]) -> 0b1;"] {
            let ids = tokenizer.encode(text, false).unwrap();
            let same = tokenizer.decode(&ids, false).unwrap();
            // Qwen's text is composed first.
            assert_eq!(same.replace('ń', "n\u{301}"), text, "{pre}");
        }
    }
}

#[test]
fn marks_are_found_in_text_and_holes_are_not_there() {
    let tokenizer = load(&byte_level("gpt-2")).unwrap();
    assert_eq!(pieces(&tokenizer, "a<|end|><think>[PAD1]")[..3], ["a", "<|end|>", "<think>"]);
    let ids = tokenizer.encode("a<|end|><think>", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "a<think>");
    assert_eq!(tokenizer.vocabulary(), 256 + 6 + 2);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(262), Some(262), None));
}

#[test]
fn a_text_begins_as_the_file_says() {
    let begins = |writer: GgufWriter| load(&writer).unwrap().encode("ab", true).unwrap().first() == Some(&262);
    assert!(!begins(byte_level("gpt-2")));
    assert!(begins(byte_level("gpt-2").bool("tokenizer.ggml.add_bos_token", true)));
    assert!(begins(byte_level("llama-bpe")));
    assert!(!begins(byte_level("llama-bpe").bool("tokenizer.ggml.add_bos_token", false)));
}

#[test]
fn sentence_piece_joins_the_best_pieces_and_falls_back_to_bytes() {
    let tokenizer = load(&sentence_piece()).unwrap();
    assert_eq!(pieces(&tokenizer, "abc"), ["▁abc"]);
    assert_eq!(pieces(&tokenizer, "b  ab"), ["▁", "b", "▁", "▁ab"]);
    assert_eq!(pieces(&tokenizer, "cé"), ["▁", "c", "<0xC3>", "<0xA9>"]);
    assert_eq!(pieces(&tokenizer, "</s>a"), ["</s>", "▁a"]);
    for text in ["abc  cab", "né\n", " a"] {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!((ids[0], tokenizer.decode(&ids, false).unwrap().as_str()), (1, text));
    }
    let bare = load(&sentence_piece().bool("tokenizer.ggml.add_space_prefix", false)).unwrap();
    assert_eq!(pieces(&bare, "ab"), ["ab"]);
}

#[test]
fn the_chat_template_is_the_files_own() {
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}";
    let tokenizer = load(&byte_level("gpt-2").text("tokenizer.chat_template", template)).unwrap();
    let format = tokenizer.chat_format().unwrap();
    assert_eq!(tokenizer.prompt_text(&[Message::user("ab")], &format).unwrap(), "user: ab<|end|>");
    let without = load(&byte_level("gpt-2")).unwrap();
    assert!(matches!(without.chat_format().unwrap(), ChatFormat::Plain));
}

#[test]
fn equal_files_give_equal_texts_and_a_copied_folder_is_the_same_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    byte_level("smollm").text("tokenizer.chat_template", "{{ bos_token }}").write(&path);
    let model = ModelFolder::open(&path).unwrap().tokenizer_files();
    let copy = folder.path().join("copy");
    fs_err::create_dir(&copy).unwrap();
    model.copy_to(&copy).unwrap();
    let names: BTreeMap<_, _> =
        fs_err::read_dir(&copy).unwrap().map(|entry| (entry.unwrap().file_name(), ())).collect();
    assert!(names.into_keys().eq(["tokenizer.json", "tokenizer_config.json"]));
    let (made, copied) = (Tokenizer::load(&model).unwrap(), Tokenizer::open(&copy).unwrap());
    assert_eq!(made.digest(), copied.digest());
    // What ids mean is in teachers' signals and datasets: the text must not change by accident.
    assert_eq!(made.digest(), "2ef8dec7b5d06549");
    assert!(matches!(copied.chat_format().unwrap(), ChatFormat::Template(_)) && copied.eos() == made.eos());
}

#[test]
fn the_original_is_taken_where_the_file_has_it() {
    let words = r#"{ "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "decoder": null, "pre_tokenizer": { "type": "Whitespace" }, "added_tokens": [],
        "model": { "type": "WordLevel", "vocab": { "w": 0, "<|end|>": 1 }, "unk_token": "w" } }"#;
    let tokenizer = load(&byte_level("gpt-2").text("tokenizer.huggingface.json", words)).unwrap();
    assert_eq!(tokenizer.vocabulary(), 2);
}

#[test]
fn a_tokenizer_that_can_not_be_rebuilt_is_refused_and_named() {
    let cases = [
        (byte_level("viking"), "the pre-tokenizer `viking` (metadata `tokenizer.ggml.pre`) is unknown"),
        (byte_level("gpt-2").without("tokenizer.ggml.pre"), "`tokenizer.ggml.pre` is missing, so it is unknown how"),
        (byte_level("gpt-2").text("tokenizer.ggml.model", "t5"), "the tokenizer model `t5` is not supported"),
        (byte_level("gpt-2").without("tokenizer.ggml.merges"), "metadata `tokenizer.ggml.merges` is missing"),
        (
            byte_level("gpt-2").texts("tokenizer.ggml.merges", &["a b c"]),
            "merge 0 is \"a b c\", where two tokens belong",
        ),
        (
            byte_level("gpt-2").i32s("tokenizer.ggml.token_type", &[1]),
            "`tokenizer.ggml.token_type` has 1 entries for 265 tokens",
        ),
        (
            byte_level("gpt-2").texts("tokenizer.ggml.tokens", &["a", "a"]).without("tokenizer.ggml.token_type"),
            "the tokens 0 and 1 are both \"a\"",
        ),
        (sentence_piece().without("tokenizer.ggml.scores"), "metadata `tokenizer.ggml.scores` is missing"),
        (
            sentence_piece().f32s("tokenizer.ggml.scores", &[0.0]),
            "`tokenizer.ggml.scores` has 1 entries for 269 tokens",
        ),
        (
            byte_level("gpt-2").without("tokenizer.ggml.bos_token_id").bool("tokenizer.ggml.add_bos_token", true),
            "`tokenizer.ggml.add_bos_token` is true, but `tokenizer.ggml.bos_token_id` is missing",
        ),
    ];
    for (writer, words) in cases {
        let text = complaint(&writer, "tokenizer.json");
        assert!(text.contains(words), "{text} has no {words}");
    }
    let far = byte_level("gpt-2").u32("tokenizer.ggml.eos_token_id", 999);
    let text = complaint(&far, "tokenizer_config.json");
    assert_eq!(text, "metadata `tokenizer.ggml.eos_token_id` is 999, but there are 265 tokens");
    let hint = load(&byte_level("viking")).err().unwrap().hint().unwrap();
    assert!(hint.contains("known are smollm, gpt-2, llama-bpe, qwen2, default"), "{hint}");
}

#[test]
fn a_file_without_a_tokenizer_has_none() {
    let error = load(&model("llama")).err().unwrap();
    assert!(error.to_string().ends_with("tiny.gguf has no tokenizer.json"), "{error}");
    assert_eq!(error.hint().unwrap(), "it has: config.json, generation_config.json");
}
