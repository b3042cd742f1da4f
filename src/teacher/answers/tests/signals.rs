//! From a server's log-probabilities to signals that a student finds: the stage, and a dataset made of what it left.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use stillhouse_data::dataset::{Dataset, DatasetArtifact, TRAIN};
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_stage::store::Key;
use stillhouse_stage::{Artifact, Cancel, Context, Input, StageKind as _, WorkOrder};

use super::bench::{Bench, Made, prompts};
use super::server::{Server, number_in};
use crate::testing::Act;

/// A tokenizer of letters, digits and the word `hello`, which is what the server's model has.
fn write_tokenizer(folder: &Path) {
    fs_err::create_dir_all(folder).unwrap();
    let letters = ('a'..='z').chain('0'..='9').map(String::from);
    let words = ["\u{120}", "he", "ll", "hell", "hello"].map(str::to_owned);
    let vocabulary: Map<String, Value> = letters.chain(words).zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let end = json!({
        "id": vocabulary.len(), "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true
    });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [end], "pre_tokenizer": bytes, "decoder": bytes,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": ["h e", "l l", "he ll", "hell o"] },
    });
    fs_err::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs_err::write(folder.join("tokenizer_config.json"), r#"{ "eos_token": "<|end|>" }"#).unwrap();
}

/// What a server says of a text in its own tokens, as llama.cpp writes it: the end has no text.
fn spoken(tokenizer: &Tokenizer, text: &str, ids: bool) -> Value {
    let said = |id: u32, log_prob: f64| {
        let special = tokenizer.is_special(id);
        let bytes = if special { Vec::new() } else { tokenizer.token_bytes(id).unwrap() };
        let mut said = json!({ "token": String::from_utf8_lossy(&bytes), "bytes": bytes, "logprob": log_prob });
        if ids {
            said["id"] = json!(id);
        }
        said
    };
    let tokens = tokenizer.encode(text, false).unwrap().into_iter().chain(tokenizer.eos());
    let content: Vec<Value> = tokens
        .map(|id| {
            let mut position = said(id, -0.25);
            position["top_logprobs"] = json!([said(id, -0.25), said(25, -2.0)]);
            position
        })
        .collect();
    json!({
        "model": "fake-1", "usage": { "prompt_tokens": 3, "completion_tokens": content.len() },
        "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": text },
                      "logprobs": { "content": content } }],
    })
}

/// The dataset of the answers.
fn dataset(bench: &Bench, answers: &Made, tokenizer: &Path) -> (DatasetArtifact, Value) {
    let stored = |folder: &Path| {
        let copy = tempfile::tempdir_in(bench.folder.path()).unwrap();
        for entry in fs_err::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            fs_err::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        Input { stage: "upstream".into(), output: bench.store.put_tree(copy.path()).unwrap().0 }
    };
    let attempt = tempfile::tempdir_in(bench.folder.path()).unwrap().keep();
    for name in ["out", "scratch"] {
        fs_err::create_dir_all(attempt.join(name)).unwrap();
    }
    let inputs = [("mix.0.answers", answers.out.as_path()), ("tokenizer", tokenizer)];
    let order = WorkOrder {
        stage: "dataset.test".into(),
        kind: "dataset".into(),
        key: Key::of("test", b""),
        recipe: String::new(),
        config: json!({ "mix": [{ "answers": "a" }], "tokenizer": "tok", "holdout": 0 }),
        definitions: BTreeMap::new(),
        inputs: inputs.into_iter().map(|(field, folder)| (field.to_owned(), stored(folder))).collect(),
        files: BTreeMap::new(),
        seed: 17,
        device: "cpu".into(),
        threads: 2,
        offline: true,
        less_at_once: false,
        store: bench.store.root().to_owned(),
        attempt,
        run: "test".into(),
    };
    let context = Context::new(order, bench.store.clone(), bench.sink(), Cancel::default());
    let outcome = Dataset.run(&context).unwrap();
    let (output, tree) = bench.store.put_tree(&context.out()).unwrap();
    let artifact = Artifact::new("dataset.test".into(), output, tree, bench.store.clone());
    (DatasetArtifact::new(artifact), outcome.metrics)
}

#[test]
fn what_a_server_says_of_its_tokens_is_a_signal_of_the_rows_that_a_student_trains_on() {
    let folder = tempfile::tempdir().unwrap();
    write_tokenizer(folder.path());
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    for ids in [true, false] {
        let (speaks, of_server) = (tokenizer.clone(), ids);
        let server = Server::start(move |asked| {
            assert_eq!(asked.json()["top_logprobs"], 2);
            Act::ok(spoken(&speaks, &format!("hello {}", number_in(asked)), of_server).to_string())
        });
        let bench = Bench::new();
        let made = bench.run(&prompts(12), server.definition(json!({})), json!({ "capture": { "top-k": 2 } })).unwrap();
        let (data, metrics) = dataset(&bench, &made, folder.path());
        let figures = &metrics["sources"][0]["log-probs"];
        // Without an id nobody knows that the token without a text is the end but where it is the one that came.
        assert_eq!(
            (&figures["matched"], &figures["mass"], &figures["left-out"]),
            (&json!(1.0), &json!(1.0), &json!(0))
        );
        assert_eq!(metrics["train"]["rows-with-signal"], 12);
        let (examples, signals) = (data.examples(TRAIN).unwrap(), data.signals().unwrap().unwrap());
        for place in 0..examples.len() {
            let example = examples.get(place).unwrap();
            let signal = signals.find(&example.tokens).unwrap().unwrap();
            let first = signal.first_position() as usize;
            assert_eq!((first + signal.len(), example.scored[first]), (example.tokens.len(), true));
            for (token, position) in example.tokens[first..].iter().zip((0..).map(|place| signal.position(place))) {
                assert_eq!((position.ids, position.log_probs), (vec![*token, 25], vec![-0.25, -2.0]));
            }
        }
        assert!(bench.warnings().iter().all(|warning| !warning.starts_with("only")), "{:?}", bench.warnings());
    }
}
