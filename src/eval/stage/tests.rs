use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use stillhouse_data::example::{Example, ExampleWriter};
use stillhouse_data::lm::{LanguageModel, LmError, LmErrorKind};
use stillhouse_stage::store::{Digest, Key, Store};
use stillhouse_stage::{Cancel, Class, Definition, EventSink, FileInput, Input, StageEvent, WorkOrder};

use super::*;
use crate::testing::{Scripted, example, row};

/// "Loads" a model folder whose `config.json` is the list of its logits by position.
struct ScriptLoader;

impl ModelLoader for ScriptLoader {
    fn load(&self, folder: &ModelFolder, device: &str) -> Result<Box<dyn LanguageModel>, LmError> {
        assert_eq!(device, "cpu");
        let logits: Vec<Vec<f64>> = folder
            .read_json("config.json")
            .map_err(|error| LmError::new(LmErrorKind::Input, error.to_string()).with_hint("look at it"))?;
        Ok(Box::new(Scripted::from_logits(&logits)))
    }
}

const KIND: EvalKind = EvalKind { loader: &ScriptLoader };

struct Silence;

impl EventSink for Silence {
    fn send(&self, _: StageEvent) {}
}

/// Words `a`, `b`, `c` and an end of sequence.
fn tokenizer(words: [&str; 3]) -> Value {
    let vocabulary: BTreeMap<&str, usize> = words.iter().enumerate().map(|(id, word)| (*word, id)).collect();
    let mut vocabulary = json!(vocabulary);
    vocabulary["</s>"] = json!(3);
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "decoder": null, "pre_tokenizer": { "type": "Whitespace" },
        "added_tokens": [{
            "id": 3, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false,
        }],
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": words[0] },
    })
}

fn write_tokenizer(folder: &Path, tokenizer: &Value) {
    fs_err::create_dir_all(folder).unwrap();
    fs_err::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs_err::write(folder.join("tokenizer_config.json"), r#"{ "eos_token": "</s>" }"#).unwrap();
}

/// A store with a student, a dataset and a teacher's folder.
struct World {
    folder: tempfile::TempDir,
    store: Store,
    order: WorkOrder,
    cancel: Cancel,
}

impl World {
    /// The student is sure of `b`, then `c`, then the end; held out are `holdout`.
    fn new(suite: Value, holdout: &[Example]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let attempt = folder.path().join("attempt");
        let order = WorkOrder {
            stage: "eval.test".into(),
            kind: "eval".into(),
            key: Key::of("test", b""),
            recipe: String::new(),
            config: json!({ "model": "small", "suites": ["held-out"] }),
            definitions: BTreeMap::from([("suites.0".into(), definition("suite", "held-out", suite))]),
            inputs: BTreeMap::new(),
            files: BTreeMap::new(),
            seed: 17,
            device: "cpu".into(),
            threads: 2,
            offline: true,
            less_at_once: false,
            store: store.root().to_owned(),
            attempt,
            run: "test".into(),
        };
        let mut world = Self { folder, store, order, cancel: Cancel::default() };
        let words = tokenizer(["a", "b", "c"]);
        world.model("student", json!([[0, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 3]]), &words);
        world.put("model", "student.small", "student");
        world.dataset(holdout, &words);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn model(&self, name: &str, logits: Value, tokenizer: &Value) {
        write_tokenizer(&self.path(name), tokenizer);
        fs_err::write(self.path(name).join("config.json"), logits.to_string()).unwrap();
    }

    fn put(&mut self, port: &str, stage: &str, folder: &str) {
        let (output, _) = self.store.put_tree(&self.path(folder)).unwrap();
        self.order.inputs.insert(port.to_owned(), Input { stage: stage.to_owned(), output });
    }

    /// All rows but the second have the reference `b c`.
    fn dataset(&mut self, holdout: &[Example], tokenizer: &Value) {
        self.dataset_with(holdout, tokenizer, |place| (place != 1).then_some("b c"));
    }

    fn dataset_with(&mut self, holdout: &[Example], tokenizer: &Value, reference: fn(usize) -> Option<&'static str>) {
        let data = tempfile::tempdir_in(self.folder.path()).unwrap();
        for (part, examples) in [("train", &[][..]), ("holdout", holdout)] {
            let mut writer = ExampleWriter::create(&data.path().join(part)).unwrap();
            for (place, example) in examples.iter().enumerate() {
                writer.add(example, &row(place as u64 + 1, "b c", reference(place))).unwrap();
            }
            writer.finish().unwrap();
        }
        write_tokenizer(&data.path().join("tokenizer"), tokenizer);
        let (output, _) = self.store.put_tree(data.path()).unwrap();
        for metric in ["perplexity", "agreement", "exact-match"] {
            let input = Input { stage: "dataset.train".into(), output };
            self.order.inputs.insert(format!("suites.0.{metric}.data"), input);
        }
    }

    fn suite(&mut self, suite: Value) {
        self.order.definitions.insert("suites.0".into(), definition("suite", "held-out", suite));
    }

    fn teacher(&mut self, logits: Value, tokenizer: &Value) {
        self.model("teacher", logits, tokenizer);
        let at = "suites.0.agreement.teacher.model";
        let names = ["config.json", "tokenizer.json", "tokenizer_config.json"];
        let members: BTreeMap<String, Digest> = names
            .iter()
            .map(|name| ((*name).to_owned(), Digest::of_file(&self.path("teacher").join(name)).unwrap()))
            .collect();
        let file = FileInput { path: self.path("teacher"), digest: members["config.json"], members: Some(members) };
        self.order.files.insert(format!("{at}.path"), file);
        self.order.definitions.insert(at.to_owned(), definition("model", "big", json!({ "path": "teacher" })));
    }

    fn run(&self) -> Result<(Outcome, PathBuf), Failure> {
        let attempt = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let order = WorkOrder { attempt, ..self.order.clone() };
        let context = Context::new(order, self.store.clone(), Arc::new(Silence), self.cancel.clone());
        Ok((KIND.run(&context)?, context.out()))
    }

    fn failure(&self) -> Failure {
        self.run().unwrap_err()
    }
}

fn definition(kind: &str, name: &str, config: Value) -> Definition {
    Definition { kind: kind.into(), name: name.into(), config }
}

fn everything() -> Value {
    json!({
        "perplexity": { "data": "train" },
        "agreement": { "data": "train", "teacher": "big" },
        "exact-match": { "data": "train", "max-tokens": 8 },
    })
}

fn rows() -> [Example; 3] {
    [example(&[0, 1, 2, 3]), example(&[0, 1]), example(&[0, 2, 2])]
}

#[test]
fn every_metric_of_a_suite_is_measured_and_written_with_its_items() {
    let mut world = World::new(everything(), &rows());
    world.teacher(json!([[0, 3, 0, 0], [3, 0, 0, 0]]), &tokenizer(["a", "b", "c"]));
    let (outcome, out) = world.run().unwrap();
    let scores = &outcome.metrics["scores"]["suites.0"];
    let names: Vec<&String> = scores.as_object().unwrap().keys().collect();
    assert_eq!(names.len(), 6, "{names:?}");
    assert_eq!(outcome.provenance["device"], "cpu");
    // ln(3 + e³) − 3 where the student is right (5 of 6 tokens), 3 more where it is not.
    let right = (3.0 + 3.0_f64.exp()).ln() - 3.0;
    let nll = scores["nll"]["value"].as_f64().unwrap();
    assert!((nll - (6.0 * right + 3.0) / 6.0).abs() < 1e-6, "{nll}");
    // They agree on every first token, three of six.
    assert_eq!(scores["top-1"]["value"], 0.5);
    // Rows 0 and 2 have a reference, and the student answers "b c" to both.
    assert_eq!((&scores["exact-match"]["value"], &scores["exact-match"]["n"]), (&json!(1.0), &json!(2)));
    assert_eq!(scores["exact-match"]["note"], "every example scored the same");
    let items = fs_err::read_to_string(out.join("items.jsonl")).unwrap();
    assert_eq!(items.lines().count(), 3 + 3 + 2);
    assert!(items.contains(r#""texts":{"answer":"b c","wanted":"b c"}"#), "{items}");
    let written: Value = serde_json::from_str(&fs_err::read_to_string(out.join("scores.json")).unwrap()).unwrap();
    assert_eq!(written["scores"], outcome.metrics["scores"]);
}

#[test]
fn running_again_gives_the_same_bytes() {
    let mut world = World::new(everything(), &rows());
    world.teacher(json!([[0, 1, 2, 3]]), &tokenizer(["a", "b", "c"]));
    let bytes = || {
        let (outcome, out) = world.run().unwrap();
        (outcome, fs_err::read(out.join("scores.json")).unwrap(), fs_err::read(out.join("items.jsonl")).unwrap())
    };
    assert_eq!(bytes(), bytes());
}

#[test]
fn no_name_of_a_table_gets_into_what_is_kept() {
    let kept = |names: [&str; 4]| {
        let [student, dataset, suite, teacher] = names;
        let mut world = World::new(everything(), &rows());
        world.teacher(json!([[0, 1, 2, 3]]), &tokenizer(["a", "b", "c"]));
        for (port, input) in &mut world.order.inputs {
            input.stage = if port == "model" { student } else { dataset }.to_owned();
        }
        for (path, definition) in &mut world.order.definitions {
            definition.name = if path == "suites.0" { suite } else { teacher }.to_owned();
        }
        let (outcome, out) = world.run().unwrap();
        let file = |name: &str| fs_err::read_to_string(out.join(name)).unwrap();
        (outcome.metrics, file("scores.json"), file("items.jsonl"))
    };
    let kept_once = kept(["student.small", "dataset.train", "held-out", "big"]);
    assert_eq!(kept_once, kept(["student.other", "dataset.rows", "unseen", "giant"]));
    assert!(kept_once.2.lines().all(|line| line.starts_with(r#"{"suite":"suites.0","metric":""#)), "{}", kept_once.2);
}

#[test]
fn generation_ends_at_a_stop_token_that_only_the_model_folder_names() {
    let mut world = World::new(json!({ "exact-match": { "data": "train", "max-tokens": 8 } }), &rows());
    // The student says `b`, then `c` for ever; its folder names `c` beside the tokenizer's end of sequence.
    world.model("student", json!([[0, 3, 0, 0], [0, 0, 3, 0]]), &tokenizer(["a", "b", "c"]));
    let stops = json!({ "eos_token_id": [2, 3] }).to_string();
    fs_err::write(world.path("student").join("generation_config.json"), stops).unwrap();
    world.put("model", "student.small", "student");
    let (_, out) = world.run().unwrap();
    let items = fs_err::read_to_string(out.join("items.jsonl")).unwrap();
    assert!(items.contains(r#""texts":{"answer":"b","wanted":"b c"}"#), "{items}");
}

#[test]
fn a_teacher_with_a_padded_vocabulary_is_compared_over_the_tokens_that_both_have() {
    let mut world = World::new(json!({ "agreement": { "data": "train", "teacher": "big" } }), &rows());
    let kl = |world: &World| world.run().unwrap().0.metrics["scores"]["suites.0"]["kl"]["value"].as_f64().unwrap();
    world.teacher(json!([[0, 1, 0, 2]]), &tokenizer(["a", "b", "c"]));
    let expected = kl(&world);
    world.teacher(json!([[0, 1, 0, 2, 5, 7]]), &tokenizer(["a", "b", "c"]));
    let padded = kl(&world);
    assert!(expected > 0.1 && (padded - expected).abs() < 1e-5, "{padded} is not {expected}");
}

#[test]
fn a_teacher_whose_ids_mean_other_words_is_refused() {
    let mut world = World::new(json!({ "agreement": { "data": "train", "teacher": "big" } }), &rows());
    world.teacher(json!([[0, 0, 0, 0]]), &tokenizer(["c", "b", "a"]));
    let failure = world.failure();
    assert_eq!(
        failure.message,
        "held-out.agreement: student.small and model.big have different tokenizers: their distributions cannot be compared \
         token by token"
    );
    assert_eq!((failure.class, failure.hint.is_some()), (Class::Input, true));
}

#[test]
fn data_of_another_tokenizer_is_refused() {
    let mut world = World::new(json!({ "perplexity": { "data": "train" } }), &rows());
    world.dataset(&rows(), &tokenizer(["b", "a", "c"]));
    assert_eq!(
        world.failure().message,
        "held-out.perplexity: dataset.train is tokenised with another tokenizer than that of student.small"
    );
}

#[test]
fn an_empty_split_is_an_error_that_says_what_to_do() {
    let failure = World::new(json!({ "perplexity": { "data": "train" } }), &[]).failure();
    assert_eq!(failure.message, "held-out.perplexity: dataset.train has no holdout rows to measure on");
    assert!(failure.hint.is_some_and(|hint| hint.contains("holdout")));
}

#[test]
fn exact_match_without_a_single_reference_names_the_alternative_which_works() {
    let mut world = World::new(json!({ "exact-match": { "data": "train" } }), &rows());
    world.dataset_with(&rows(), &tokenizer(["a", "b", "c"]), |_| None);
    let failure = world.failure();
    assert_eq!(failure.message, "held-out.exact-match: no holdout row of dataset.train has a prompt and a reference");
    assert!(failure.hint.is_some_and(|hint| hint.contains("against = \"answer\"")));
    world.suite(json!({ "exact-match": { "data": "train", "against": "answer" } }));
    let (outcome, _) = world.run().unwrap();
    assert_eq!(outcome.metrics["scores"]["suites.0"]["exact-match"]["n"], 3);
}

#[test]
fn a_request_to_stop_is_heard() {
    let world = World::new(json!({ "perplexity": { "data": "train" } }), &rows());
    world.cancel.cancel();
    assert_eq!(world.failure().class, Class::Interrupted);
}

#[test]
fn a_model_that_does_not_load_keeps_its_message_and_hint() {
    let mut world = World::new(json!({ "perplexity": { "data": "train" } }), &rows());
    fs_err::create_dir_all(world.path("broken")).unwrap();
    write_tokenizer(&world.path("broken"), &tokenizer(["a", "b", "c"]));
    world.put("model", "student.small", "broken");
    let failure = world.failure();
    assert_eq!(
        (failure.message.as_str(), failure.hint.as_deref()),
        ("student.small has no config.json", Some("look at it"))
    );
}

fn faults(config: &Value) -> Vec<String> {
    let mut report = Diagnostics::default();
    KIND.decode(&Node::from_json(config), &mut report);
    report.sorted().iter().map(|diagnostic| diagnostic.message.clone()).collect()
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    assert_eq!(faults(&json!({ "model": "a", "suites": [] })), ["there is no suite to measure on"]);
    assert_eq!(faults(&json!({ "model": "a", "suites": ["s", "s"] })), ["the suite `s` is named twice"]);
    let bad = json!({ "model": "a", "suites": ["s"], "confidence": 95, "resamples": 3 });
    let messages = faults(&bad);
    assert!(messages.iter().any(|message| message.contains("`resamples` must be at least 100")), "{messages:?}");
    let percent = json!({ "model": "a", "suites": ["s"], "confidence": 95 });
    assert_eq!(faults(&percent), ["`confidence` must be less than 1"]);
}
