use serde_json::json;

use super::*;
use crate::testing::{Bench, faults};

const TEXT: &str = "the cat sat on the mat; the dog sat on the log.\nThe Cats and the dogs: naïve café, 東京!\n";

fn trained(bench: &Bench, vocab_size: usize) -> crate::testing::Made {
    let path = bench.file("text.txt", &TEXT.repeat(20));
    bench.run(&TokenizerTraining, json!({ "from": [{ "text": path }], "vocab-size": vocab_size })).unwrap()
}

#[test]
fn it_joins_what_comes_often_and_loses_no_byte() {
    let bench = Bench::new();
    let made = trained(&bench, 290);
    let tokenizer = Tokenizer::open(&made.out).unwrap();
    assert_eq!(tokenizer.vocabulary(), 290);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(0), Some(0), Some(0)));
    for text in [TEXT, "\u{0}\u{1f600} quite new\r\n\tbytes", "  the  cat", ""] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    assert_eq!(tokenizer.encode("the", true).unwrap()[0], 0);
    assert_eq!(tokenizer.encode(" the", false).unwrap().len(), 1);
    assert!(made.outcome.metrics["bytes-per-token"].as_f64().unwrap() > 1.5);
}

#[test]
fn five_trainings_give_the_same_bytes() {
    let bench = Bench::new();
    let first = trained(&bench, 290);
    for _ in 0..4 {
        let again = trained(&bench, 290);
        assert_eq!(first.text("tokenizer.json"), again.text("tokenizer.json"));
        assert_eq!(first.text("tokenizer_config.json"), again.text("tokenizer_config.json"));
    }
    // Pinned: another process hashes in another order, and a new version of a dependency may change the algorithm.
    let digest = blake3::hash(first.text("tokenizer.json").as_bytes()).to_hex();
    assert_eq!(&digest[..16], "d49ffdd5f12ec652");
}

#[test]
fn a_text_that_is_too_small_gives_a_smaller_vocabulary_and_says_so() {
    let bench = Bench::new();
    let made = trained(&bench, 5_000);
    assert!(made.outcome.metrics["vocabulary"].as_u64().unwrap() < 400);
    assert!(bench.said.warnings()[0].starts_with("the texts are too small for 5000 tokens: the vocabulary has 29"));
}

#[test]
fn blank_lines_teach_nothing() {
    let bench = Bench::new();
    let path = bench.file("blank.txt", "\n \n");
    let failure = bench.run(&TokenizerTraining, json!({ "from": [{ "text": path }] })).err().unwrap();
    assert!(failure.message.ends_with("blank.txt: the file has no text, only blank lines"), "{failure}");
}

#[test]
fn a_special_token_may_be_spelled_with_anything() {
    for token in ["<end of text>", "$A", "end:1", "$", "a\"b\\", "end $B:1"] {
        let bench = Bench::new();
        let path = bench.file("text.txt", TEXT);
        let config = json!({ "from": [{ "text": path }], "vocab-size": 260, "special-tokens": [token, "<|user|>"] });
        let made = bench.run(&TokenizerTraining, config).unwrap();
        let tokenizer = Tokenizer::open(&made.out).unwrap();
        let end = tokenizer.eos().unwrap();
        assert_eq!(tokenizer.encode(&format!("x{token}"), false).unwrap().last(), Some(&end), "{token}");
        let with_beginning = tokenizer.encode("the cat", true).unwrap();
        assert_eq!((with_beginning[0], &with_beginning[1..]), (end, &*tokenizer.encode("the cat", false).unwrap()));
    }
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let base = |extra: serde_json::Value| {
        let mut config = json!({ "from": [{ "text": "a.txt" }] });
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        faults(&TokenizerTraining, &config)
    };
    assert_eq!(base(json!({})), Vec::<String>::new());
    assert_eq!(
        base(json!({ "vocab-size": 200 })),
        ["`vocab-size` must be at least 257: 256 bytes and the special tokens"]
    );
    assert_eq!(base(json!({ "special-tokens": [] })), ["`special-tokens` is empty"]);
    assert_eq!(base(json!({ "special-tokens": ["<s>", ""] })), ["a token of `special-tokens` has no letters"]);
    assert_eq!(base(json!({ "from": [] })), ["`from` is empty"]);
}
