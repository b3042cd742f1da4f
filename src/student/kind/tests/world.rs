//! A store with a small dataset, and students that train on it.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use stillhouse_data::example::{Example, ExampleWriter, Row};
use stillhouse_data::signals::{Precision, SIGNALS_FILE, SequenceKey, SignalHeader, SignalWriter, TopK};
use stillhouse_stage::{Cancel, Definition, EventSink, FileInput, Input, StageEvent, WorkOrder};
use stillhouse_store::{Key, Store};

use super::super::*;

pub(super) const VOCABULARY: u32 = 6;

#[derive(Default)]
pub(in crate::kind) struct Heard(pub(in crate::kind) Mutex<Vec<StageEvent>>);

impl EventSink for Heard {
    fn send(&self, event: StageEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// A store with a dataset of twelve examples.
pub(in crate::kind) struct World {
    pub(in crate::kind) folder: tempfile::TempDir,
    pub(in crate::kind) store: Store,
    pub(in crate::kind) data: Input,
    pub(in crate::kind) definitions: BTreeMap<String, Definition>,
    pub(in crate::kind) files: BTreeMap<String, FileInput>,
    pub(in crate::kind) heard: Arc<Heard>,
    /// The GGUF file that `init.pretrained` names.
    pub(in crate::kind) pretrained: Option<std::path::PathBuf>,
}

impl World {
    pub(in crate::kind) fn new(with_signals: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let dataset = folder.path().join("dataset");
        write_tokenizer(&dataset.join("tokenizer"));
        write_examples(&dataset, with_signals);
        let (output, _) = store.put_tree(&dataset).unwrap();
        let data = Input { stage: "dataset.train".into(), output };
        let (definitions, files) = Default::default();
        Self { folder, store, data, definitions, files, heard: Arc::default(), pretrained: None }
    }

    /// Holds out one example that is a token longer than any that is trained on.
    pub(in crate::kind) fn hold_out_longer(&mut self) {
        self.hold_out_scored_from(2);
    }

    /// The same, of which only the tokens from a place on are scored.
    pub(in crate::kind) fn hold_out_scored_from(&mut self, first: usize) {
        let folder = self.folder.path().join("longer");
        write_tokenizer(&folder.join("tokenizer"));
        write_examples(&folder, false);
        fs_err::remove_dir_all(folder.join("holdout")).unwrap();
        let mut writer = ExampleWriter::create(&folder.join("holdout")).unwrap();
        let tokens: Vec<u32> = (0..9).map(|place| place % VOCABULARY).collect();
        let scored = (0..9).map(|place| place >= first).collect();
        writer.add(&Example { tokens, scored, bytes: 4, source: 0 }, &row(0)).unwrap();
        writer.finish().unwrap();
        self.data.output = self.store.put_tree(&folder).unwrap().0;
    }

    /// Stores a copy of what a stage made, as another stage's input.
    pub(in crate::kind) fn output_of_another(&self, out: &Path) -> Input {
        let copy = tempfile::tempdir_in(self.folder.path()).unwrap();
        for file in fs_err::read_dir(out).unwrap() {
            let file = file.unwrap();
            fs_err::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let (output, _) = self.store.put_tree(copy.path()).unwrap();
        Input { stage: "student.other".into(), output }
    }

    /// What was warned of so far.
    pub(in crate::kind) fn warnings(&self) -> Vec<String> {
        let warning = |event: &StageEvent| match event {
            StageEvent::Warning { message } => Some(message.clone()),
            _ => None,
        };
        self.heard.0.lock().unwrap().iter().filter_map(warning).collect()
    }

    pub(in crate::kind) fn run(&self, config: &Value) -> Result<(Outcome, std::path::PathBuf), Failure> {
        self.run_with(config, [])
    }

    /// Runs with the outputs of other stages as inputs, by field.
    pub(in crate::kind) fn run_with(
        &self,
        config: &Value,
        others: impl IntoIterator<Item = (&'static str, Input)>,
    ) -> Result<(Outcome, std::path::PathBuf), Failure> {
        let context = self.context(config, others);
        Student.run(&context).map(|outcome| (outcome, context.out()))
    }

    /// A student that is about to run.
    pub(in crate::kind) fn context(
        &self,
        config: &Value,
        others: impl IntoIterator<Item = (&'static str, Input)>,
    ) -> Context {
        let mut inputs = BTreeMap::from([("data".to_owned(), self.data.clone())]);
        inputs.extend(others.into_iter().map(|(field, input)| (field.to_owned(), input)));
        let attempt = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        fs_err::create_dir_all(attempt.join("out")).unwrap();
        let mut order = WorkOrder {
            stage: "student.test".into(),
            kind: "student".into(),
            key: Key::of("test", b""),
            recipe: String::new(),
            config: config.clone(),
            definitions: self.definitions.clone(),
            inputs,
            files: self.files.clone(),
            seed: 17,
            device: "cpu".into(),
            threads: 2,
            offline: true,
            less_at_once: false,
            store: self.store.root().to_owned(),
            attempt,
            run: "test".into(),
        };
        if let Some(path) = &self.pretrained {
            let (field, name) = ("init.pretrained".to_owned(), "tiny".to_owned());
            order.definitions.insert(field, Definition { kind: "model".into(), name, config: json!({ "path": path }) });
            let digest = self.store.digest_of(path).unwrap().0;
            order.files.insert("init.pretrained.path".into(), FileInput { path: path.clone(), digest, members: None });
        }
        Context::new(order, self.store.clone(), self.heard.clone(), Cancel::default())
    }
}

pub(in crate::kind) fn write_tokenizer(folder: &Path) {
    fs_err::create_dir_all(folder).unwrap();
    let words: BTreeMap<String, u32> = (0..VOCABULARY).map(|id| (format!("w{id}"), id)).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "decoder": null, "pre_tokenizer": { "type": "Whitespace" }, "added_tokens": [],
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" },
    });
    fs_err::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs_err::write(folder.join("tokenizer_config.json"), r#"{ "eos_token": "w5" }"#).unwrap();
}

pub(in crate::kind) fn write_examples(dataset: &Path, with_signals: bool) {
    let mut writer = ExampleWriter::create(&dataset.join("train")).unwrap();
    let mut held_out = ExampleWriter::create(&dataset.join("holdout")).unwrap();
    let signals = dataset.join(SIGNALS_FILE);
    fs_err::create_dir_all(signals.parent().unwrap()).unwrap();
    let header = SignalHeader { teachers: vec!["t".into()], tokenizer: "x".into(), vocabulary: VOCABULARY };
    let mut teacher = SignalWriter::create(&signals, header, Precision::F32).unwrap();
    for number in 0..12u32 {
        let tokens: Vec<u32> = (0..5 + number % 4).map(|place| (number + place) % VOCABULARY).collect();
        let scored = (0..tokens.len()).map(|place| place > 1).collect();
        let said: Vec<TopK> = tokens[2..].iter().map(|token| certain_of(*token)).collect();
        teacher.add(SequenceKey::of("t", &tokens), 2, &said).unwrap();
        let example = Example { tokens, scored, bytes: 4, source: 0 };
        writer.add(&example, &row(number)).unwrap();
        if number % 5 == 0 {
            held_out.add(&example, &row(number)).unwrap();
        }
    }
    writer.finish().unwrap();
    held_out.finish().unwrap();
    teacher.finish().unwrap();
    if !with_signals {
        fs_err::remove_file(signals).unwrap();
    }
}

pub(super) fn certain_of(token: u32) -> TopK {
    TopK { ids: vec![token, (token + 1) % VOCABULARY], log_probs: vec![0.9f32.ln(), 0.05f32.ln()] }
}

pub(super) fn row(number: u32) -> Row {
    Row {
        source: 0,
        line: u64::from(number) + 1,
        prompt: None,
        sample: 0,
        messages: vec![],
        completion: "x".into(),
        reference: None,
        prompt_tokens: 0,
    }
}

pub(in crate::kind) fn table(steps: u64, loss: Value) -> Value {
    json!({
        "init": { "llama": { "layers": 1, "hidden": 32, "heads": 4, "kv-heads": 2 } },
        "data": "train",
        "loss": loss,
        "optimizer": { "adamw": { "lr": 1e-2 } },
        "schedule": "constant",
        "steps": steps,
        "batch": { "rows": 4 },
        "log-every": 5,
    })
}

pub(in crate::kind) fn both() -> Value {
    json!({ "cross-entropy": { "weight": 0.5 }, "forward-kl": { "weight": 0.5, "tail": "bucket" } })
}

pub(in crate::kind) fn weights(out: &Path) -> Vec<u8> {
    fs_err::read(out.join("model.safetensors")).unwrap()
}
