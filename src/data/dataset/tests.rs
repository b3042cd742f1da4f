mod decontaminating;
mod embedding;
mod filtering;
mod hidden_states;
mod looking;
mod server_signals;
mod stored_signals;
mod verifying;

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::answer::{ANSWERS_FILE, Answer, AnswerTokens, Outcome as Reply, write_answers};
use crate::example::{Example, ExampleReader, Row};
use crate::prompt::{Message, Prompt};
use crate::signals::{Precision, SIGNALS_FILE, SequenceKey, SignalHeader, SignalReader, SignalWriter, TopK};
use crate::testing::{Bench, Made, faults};
use crate::tokenizer_kind::TokenizerTraining;

mod bad_rows;

const TEXT: &str = "What is the capital of France? It is Paris.\nWhat is two and two? It is four.\nthe cat sat\n";
const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A bench with a trained tokenizer under the name `tok`.
struct Fixture {
    bench: Bench,
    tokenizer: Tokenizer,
}

impl Fixture {
    fn new() -> Self {
        Self::with_template(None)
    }

    fn with_template(template: Option<&str>) -> Self {
        let mut bench = Bench::new();
        let text = bench.file("tokenizer-text.txt", &TEXT.repeat(9));
        let special = json!(["<|im_end|>", "<|im_start|>"]);
        let config = json!({ "from": [{ "text": text }], "vocab-size": 290, "special-tokens": special });
        let made = bench.run(&TokenizerTraining, config).unwrap();
        if let Some(template) = template {
            fs_err::write(made.out.join("chat_template.jinja"), template).unwrap();
        }
        bench.input("tok", &made.out);
        Self { tokenizer: Tokenizer::open(&made.out).unwrap(), bench }
    }

    fn run(&self, config: Value) -> Result<Made, Failure> {
        let mut whole = json!({ "tokenizer": "tok", "holdout": 0 });
        whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        self.bench.run(&Dataset, whole)
    }

    fn refuse(&self, config: Value) -> String {
        let failure = self.run(config).err().unwrap();
        format!("{} | {}", failure.message.rsplit('/').next().unwrap(), failure.hint.unwrap_or_default())
    }

    fn jsonl(&self, rows: &[(&str, &str)]) -> String {
        let lines = rows.iter().map(|(prompt, completion)| json!({ "prompt": prompt, "completion": completion }));
        self.bench.file("rows.jsonl", &lines.map(|line| format!("{line}\n")).collect::<String>())
    }

    fn text_of(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, true).unwrap()
    }
}

fn part(made: &Made, name: &str) -> (Vec<Example>, Vec<Row>) {
    let reader = ExampleReader::open(&made.out.join(name)).unwrap();
    let rows: Vec<Row> = reader.rows().unwrap().map(Result::unwrap).collect();
    ((0..reader.len()).map(|place| reader.get(place).unwrap()).collect(), rows)
}

fn scored(example: &Example) -> Vec<u32> {
    example.tokens.iter().zip(&example.scored).filter(|(_, scored)| **scored).map(|(id, _)| *id).collect()
}

fn answer(prompt: &str, text: &str, outcome: Reply) -> Answer {
    let messages = vec![Message::user(prompt)];
    Answer {
        prompt: Prompt::id_of(&messages),
        sample: 0,
        messages,
        reference: None,
        text: text.into(),
        finish: "stop".into(),
        outcome,
        tokens: None,
    }
}

fn answers(
    bench: &mut Bench,
    name: &str,
    answers: &[Answer],
    signals: Option<(SignalHeader, Vec<(SequenceKey, TopK)>)>,
) {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = write_answers(&folder.path().join(ANSWERS_FILE)).unwrap();
    answers.iter().for_each(|answer| writer.write(answer).unwrap());
    writer.finish().unwrap();
    if let Some((header, entries)) = signals {
        let path: PathBuf = folder.path().join(SIGNALS_FILE);
        let mut writer = SignalWriter::create(&path, header, Precision::F32).unwrap();
        entries.into_iter().for_each(|(key, top)| writer.add(key, 1, &vec![top; 40]).unwrap());
        writer.finish().unwrap();
    }
    bench.input(name, folder.path());
}

#[test]
fn a_row_is_prompt_then_completion_and_only_the_completion_and_its_end_are_learned() {
    let fixture = Fixture::new();
    let rows = fixture.jsonl(&[("What is two and two? ", "It is four.")]);
    let made = fixture.run(json!({ "mix": [{ "jsonl": rows }] })).unwrap();
    let (examples, rows) = part(&made, TRAIN);
    assert_eq!(fixture.text_of(&examples[0].tokens), "<|im_end|>What is two and two? It is four.<|im_end|>");
    assert_eq!(fixture.text_of(&scored(&examples[0])), "It is four.<|im_end|>");
    assert_eq!(examples[0].bytes, "It is four.".len() as u64);
    let prompt = &examples[0].tokens[..rows[0].prompt_tokens as usize];
    let format = fixture.tokenizer.chat_format().unwrap();
    assert_eq!(prompt, fixture.tokenizer.prompt_tokens(&rows[0].messages, &format).unwrap());
}

#[test]
fn a_chat_template_surrounds_the_prompt_and_the_completion_ends_as_the_model_would_end_it() {
    let fixture = Fixture::with_template(Some(CHATML));
    let rows = fixture.jsonl(&[("two?", "four")]);
    let mix = json!([{ "jsonl": rows }]);
    let text = |config: Value| {
        let made = fixture.run(config).unwrap();
        fixture.text_of(&part(&made, TRAIN).0[0].tokens)
    };
    let chat = "<|im_start|>user\ntwo?<|im_end|>\n<|im_start|>assistant\nfour<|im_end|>";
    assert_eq!(text(json!({ "mix": mix })), chat);
    assert_eq!(text(json!({ "mix": mix, "chat-template": "none" })), "<|im_end|>two?four<|im_end|>");
    let own = fixture.bench.file("own.jinja", "Q: {{ messages[0].content }} A:");
    assert_eq!(text(json!({ "mix": mix, "chat-template": { "file": own } })), "Q: two? A:four<|im_end|>");
}

#[test]
fn loss_on_all_scores_everything_but_the_first_token() {
    let fixture = Fixture::new();
    let rows = fixture.jsonl(&[("two?", "four")]);
    let made = fixture.run(json!({ "mix": [{ "jsonl": rows }], "loss-on": "all" })).unwrap();
    let example = &part(&made, TRAIN).0[0];
    assert_eq!(fixture.text_of(&scored(example)), "two?four<|im_end|>");
    assert_eq!(example.bytes, 8);
}

#[test]
fn every_token_of_a_text_is_learned_once_and_every_byte_counted() {
    let fixture = Fixture::new();
    let text = "the cat sat na\u{ef}ve caf\u{e9} \u{1f600}\n\nWhat is Paris?\n".repeat(7);
    let path = fixture.bench.file("text.txt", &text);
    let made = fixture.run(json!({ "mix": [{ "text": path }], "max-length": 16 })).unwrap();
    let (examples, _) = part(&made, TRAIN);
    let learned: Vec<u32> = examples.iter().flat_map(scored).collect();
    assert_eq!(fixture.text_of(&learned), format!("{text}<|im_end|>"));
    assert_eq!(examples.iter().map(|example| example.bytes).sum::<u64>(), text.len() as u64);
    assert!(examples.iter().all(|example| example.tokens.len() <= 16));
    let lines = fixture.run(json!({ "mix": [{ "text": { "path": path, "document": "line" } }] })).unwrap();
    let (examples, _) = part(&lines, TRAIN);
    assert_eq!(examples.len(), 2);
    assert_eq!(fixture.text_of(&examples[1].tokens), "<|im_end|>What is Paris?<|im_end|>");
    assert_eq!(lines.outcome.metrics["dropped"]["duplicate"], 12);
}

#[test]
fn answers_keep_what_can_be_learned_and_count_the_rest() {
    let mut fixture = Fixture::new();
    let cut = Answer { outcome: Reply::Cut, finish: "length".into(), ..answer("c", "It is fo", Reply::Ok) };
    let all = [
        answer("a", "It is four.", Reply::Ok),
        cut,
        answer("d", "", Reply::Empty),
        answer("e", "x", Reply::ContentFilter),
        answer("f", "I'm sorry, but I can't help with that.", Reply::Ok),
        answer("a", "It is four.", Reply::Ok),
    ];
    answers(&mut fixture.bench, "replies", &all, None);
    let made = fixture.run(json!({ "mix": [{ "answers": "replies" }], "filters": ["refusal"] })).unwrap();
    let (examples, rows) = part(&made, TRAIN);
    let learned: Vec<String> = examples.iter().map(|example| fixture.text_of(&scored(example))).collect();
    assert_eq!(learned, ["It is four.<|im_end|>", "It is fo"], "a reply that was cut has no end to learn");
    assert_eq!(rows[0].prompt.as_deref(), Some(Prompt::id_of(&[Message::user("a")]).as_str()));
    let dropped = json!({ "content-filter": 1, "duplicate": 1, "empty": 1, "refusal": 1 });
    assert_eq!(made.outcome.metrics["dropped"], dropped);
    assert_eq!(
        made.text("dropped.jsonl").lines().next().unwrap().replace(&Prompt::id_of(&[Message::user("d")]), "…"),
        r#"{"source":0,"line":3,"why":"empty","prompt":"…"}"#
    );
}

#[test]
fn answers_that_say_nothing_make_no_dataset() {
    let mut fixture = Fixture::new();
    let silent = [answer("a", "", Reply::Empty), answer("b", " ", Reply::Ok), answer("c", "\n", Reply::Cut)];
    answers(&mut fixture.bench, "silent", &silent, None);
    assert_eq!(
        fixture.refuse(json!({ "mix": [{ "answers": "silent" }] })),
        "no row is left to train on: all 3 were dropped (3 empty) | the teacher said nothing: change the prompts or \
         `sampling` of the answers, or add sources"
    );
    let failed = [answer("a", "", Reply::Failed), answer("b", "", Reply::Failed)];
    answers(&mut fixture.bench, "failed", &failed, None);
    assert_eq!(
        fixture.refuse(json!({ "mix": [{ "answers": "failed" }] })),
        "no row is left to train on: all 2 were dropped (2 failed) | nobody answered these prompts: `outcomes = { failed = \
         \"ask-again\" }` of the answers asks them anew; or add sources"
    );
    let mixed = [answer("a", "", Reply::Failed), answer("b", "", Reply::Empty), answer("c", "", Reply::Rejected)];
    answers(&mut fixture.bench, "mixed", &mixed, None);
    assert_eq!(
        fixture.refuse(json!({ "mix": [{ "answers": "mixed" }] })),
        "no row is left to train on: all 3 were dropped (1 empty, 1 failed, 1 rejected) | the teacher said nothing: change \
         the prompts or `sampling` of the answers, or add sources"
    );
    answers(&mut fixture.bench, "none", &[], None);
    assert_eq!(
        fixture.refuse(json!({ "mix": [{ "answers": "none" }] })),
        "no row is left to train on: the sources of `mix` gave none | look at what made them"
    );
    let rows = fixture.jsonl(&[("two?", "four")]);
    let made = fixture.run(json!({ "mix": [{ "jsonl": rows }, { "answers": "silent" }] })).unwrap();
    assert_eq!(made.outcome.metrics["train"]["rows"], 1);
    assert_eq!(
        fixture.bench.said.warnings().last().unwrap(),
        "source 1 (from 0) of `mix` gives nothing: of its 3 rows none is left (`dropped.jsonl` of the dataset says why)"
    );
}

#[test]
fn long_rows_are_dropped_or_cut_and_counted() {
    let fixture = Fixture::new();
    let long = "It is four. ".repeat(20);
    let rows = fixture.jsonl(&[("two?", "four"), ("q", &long), (&long, "x")]);
    let mix = json!([{ "jsonl": rows }]);
    let dropped = fixture.run(json!({ "mix": mix, "max-length": 24 })).unwrap();
    assert_eq!(dropped.outcome.metrics["dropped"], json!({ "duplicate": 0, "too-long": 2 }));
    let cut = fixture.run(json!({ "mix": mix, "max-length": 24, "long-rows": "cut" })).unwrap();
    let (examples, _) = part(&cut, TRAIN);
    assert_eq!((examples.len(), examples[1].tokens.len()), (2, 24));
    let learned = fixture.text_of(&scored(&examples[1]));
    assert!(long.starts_with(&learned) && examples[1].bytes == learned.len() as u64);
}

#[test]
fn samples_of_a_prompt_fall_on_one_side_and_neither_side_is_empty() {
    let mut fixture = Fixture::new();
    let all: Vec<Answer> = (0..40)
        .flat_map(|prompt| (0..3).map(move |sample| (prompt, sample)))
        .map(|(prompt, sample)| Answer {
            sample,
            ..answer(&format!("question {prompt}"), &format!("answer {prompt} {sample}"), Reply::Ok)
        })
        .collect();
    answers(&mut fixture.bench, "replies", &all, None);
    let made = fixture.run(json!({ "mix": [{ "answers": "replies" }], "holdout": 0.2 })).unwrap();
    let prompts = |name: &str| part(&made, name).1.into_iter().filter_map(|row| row.prompt).collect::<Vec<_>>();
    let (train, holdout) = (prompts(TRAIN), prompts(HOLDOUT));
    assert_eq!(train.len() + holdout.len(), 120);
    assert!(!holdout.is_empty() && holdout.iter().all(|prompt| !train.contains(prompt)));
    let tiny = fixture.jsonl(&[("a", "b"), ("c", "d")]);
    let made = fixture.run(json!({ "mix": [{ "jsonl": tiny }], "holdout": 0.01 })).unwrap();
    assert_eq!((part(&made, TRAIN).0.len(), part(&made, HOLDOUT).0.len()), (1, 1));
}

#[test]
fn equal_work_gives_equal_bytes() {
    let fixture = Fixture::new();
    let rows: Vec<(String, String)> = (0..600).map(|i| (format!("q {i}"), format!("a {}", i % 50))).collect();
    let rows: Vec<(&str, &str)> = rows.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let path = fixture.jsonl(&rows);
    let config = json!({ "mix": [{ "jsonl": path }], "holdout": 0.1, "filters": ["near-duplicate"] });
    let (first, second) = (fixture.run(config.clone()).unwrap(), fixture.run(config).unwrap());
    for file in ["train/examples.bin", "train/rows.jsonl", "holdout/examples.bin", "stats.json", "dropped.jsonl"] {
        let read = |made: &Made| fs_err::read(made.out.join(file)).unwrap();
        assert_eq!(read(&first), read(&second), "{file}");
    }
}

#[test]
fn the_record_has_the_figures() {
    let fixture = Fixture::new();
    let rows = fixture.jsonl(&[("two?", "four"), ("a", "b"), ("c", "d d"), ("two?", "four")]);
    let made = fixture.run(json!({ "mix": [{ "jsonl": rows, "weight": 1.0 }] })).unwrap();
    let expected = json!({
        "train": {
            "rows": 3, "tokens": 17, "scored-tokens": 9, "scored-bytes": 8, "rows-with-signal": 0,
            "length": { "min": 4, "median": 6, "p95": 7, "max": 7 }, "packing": 14.0 / 512.0,
        },
        "holdout": {
            "rows": 0, "tokens": 0, "scored-tokens": 0, "scored-bytes": 0, "rows-with-signal": 0,
            "length": { "min": 0, "median": 0, "p95": 0, "max": 0 }, "packing": 0.0,
        },
        "sources": [{ "kind": "jsonl", "read": 4, "kept": 3, "used": 3 }],
        "dropped": { "duplicate": 1 },
        "max-length": 512,
        "vocabulary": 290,
        "tokenizer": fixture.tokenizer.digest(),
    });
    let mut metrics = made.outcome.metrics.clone();
    let diversity = metrics.as_object_mut().unwrap().remove("diversity").unwrap();
    assert_eq!(metrics, expected);
    assert_eq!((&diversity["rows"], &diversity["distinct-1"]), (&json!(3), &json!(0.75)));
    let statistics: Statistics = serde_json::from_str(&made.text("stats.json")).unwrap();
    assert_eq!(serde_json::to_value(statistics).unwrap(), made.outcome.metrics);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let fixture = Fixture::new();
    let silent = fixture.jsonl(&[("a", "b"), ("c", " ")]);
    assert_eq!(
        fixture.refuse(json!({ "mix": [{ "jsonl": silent }] })),
        "rows.jsonl:2: the completion is empty: there is nothing to learn | remove the row, or use another field in `completion`"
    );
    let short = fixture.jsonl(&[("a", "b"), ("c", "d")]);
    assert_eq!(
        fixture.refuse(json!({ "mix": [{ "jsonl": short }], "filters": [{ "length": { "min-tokens": 50 } }] })),
        "no row is left to train on: all 2 were dropped (2 length) | loosen the filters, raise `max-length`, or add sources"
    );
    for document in ["line", "whole"] {
        let blank = fixture.bench.file("blank.txt", "\n \n\n");
        assert_eq!(
            fixture.refuse(json!({ "mix": [{ "text": { "path": blank, "document": document } }] })),
            "blank.txt: the file has no text, only blank lines | it must have at least one row"
        );
    }
    let failure = fixture.bench.run(&Dataset, json!({ "mix": [{ "jsonl": short }] })).err().unwrap();
    assert_eq!(failure.message, "the dataset has no tokenizer, and no student that trains on it names one");
}

#[test]
fn a_table_that_cannot_be_is_refused() {
    let faults = |mix: Value| faults(&Dataset, &json!({ "mix": mix }));
    assert_eq!(faults(json!([])), ["`mix` is empty"]);
    assert_eq!(faults(json!([{}])), ["a source is exactly one of `answers`, `jsonl` and `text`"]);
    assert_eq!(
        faults(json!([{ "answers": "a", "weight": 0.5 }, { "answers": "b" }])),
        ["some sources of `mix` have a weight and some have none"]
    );
    assert_eq!(faults(json!([{ "answers": "a", "weight": 0.0 }])), ["`weight` must be more than 0, not 0"]);
}
