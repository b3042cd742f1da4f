//! Runs the stage as the engine would: prompts in a store, definitions resolved, a folder for the output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use stillhouse_data::answer::{ANSWERS_FILE, Answer, read_answers};
use stillhouse_data::lm::{LanguageModel, LmError, LmErrorKind, ModelLoader};
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::prompt::{ImageUrl, Message, PROMPTS_FILE, Part, Prompt, write_prompts};
use stillhouse_stage::store::{Key, Store};
use stillhouse_stage::{
    Cancel, Context, Definition, EventSink, Failure, FileInput, Input, Outcome, Spent, StageEvent, StageKind as _,
    WorkOrder,
};

use crate::answers::Answers;

/// A machine without models.
pub struct NoModels;

impl ModelLoader for NoModels {
    fn load(&self, _: &ModelFolder, _: &str) -> Result<Box<dyn LanguageModel>, LmError> {
        Err(LmError::new(LmErrorKind::Internal, "no model is needed"))
    }
}

#[derive(Default)]
struct Said(Mutex<Vec<StageEvent>>);

impl EventSink for Said {
    fn send(&self, event: StageEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// A store and what the stage's table says.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub store: Store,
    pub loader: &'static dyn ModelLoader,
    pub offline: bool,
    pub cancel: Cancel,
    pub model: Option<FileInput>,
    /// Files that the definition names, by the paths of their keys.
    pub files: BTreeMap<String, FileInput>,
    said: Arc<Said>,
}

/// What a run left.
pub struct Made {
    pub outcome: Outcome,
    pub out: PathBuf,
}

impl Made {
    pub fn answers(&self) -> Vec<Answer> {
        read_answers(&self.out.join(ANSWERS_FILE)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs_err::read(self.out.join(ANSWERS_FILE)).unwrap()
    }

    pub fn metric(&self, name: &str) -> u64 {
        self.outcome.metrics[name].as_u64().unwrap()
    }
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let said = Arc::default();
        Self {
            folder,
            store,
            loader: &NoModels,
            offline: false,
            cancel: Cancel::default(),
            model: None,
            files: BTreeMap::new(),
            said,
        }
    }

    pub fn warnings(&self) -> Vec<String> {
        let said = self.said.0.lock().unwrap();
        said.iter()
            .filter_map(|event| match event {
                StageEvent::Warning { message } => Some(message.clone()),
                _ => None,
            })
            .collect()
    }

    /// Where what stages say goes.
    pub fn sink(&self) -> Arc<dyn EventSink> {
        self.said.clone()
    }

    pub fn notes(&self) -> Vec<String> {
        let said = self.said.0.lock().unwrap();
        let notes = said.iter().filter_map(|event| match event {
            StageEvent::Note { message } => Some(message.clone()),
            _ => None,
        });
        notes.collect()
    }

    /// What stages said last of what they paid for.
    pub fn spent(&self) -> Option<Spent> {
        let said = self.said.0.lock().unwrap();
        said.iter().rev().find_map(|event| match event {
            StageEvent::Spent(spent) => Some(spent.clone()),
            _ => None,
        })
    }

    pub fn run(&self, prompts: &[String], teacher: Value, answers: Value) -> Result<Made, Failure> {
        let context = self.context(prompts, teacher, answers);
        let outcome = Answers { loader: self.loader }.run(&context)?;
        Ok(Made { outcome, out: context.out() })
    }

    fn context(&self, prompts: &[String], teacher: Value, mut config: Value) -> Context {
        config["prompts"] = json!("p");
        self.context_of("answers", ("prompts", "prompts.p"), self.prompts(prompts), teacher, config)
    }

    /// The context of a stage of any kind that reads one input and asks the teacher `t`.
    pub fn context_of(
        &self,
        kind: &str,
        (port, stage): (&str, &str),
        output: stillhouse_stage::store::Digest,
        teacher: Value,
        mut config: Value,
    ) -> Context {
        let attempt = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        fs_err::create_dir_all(attempt.join("out")).unwrap();
        config["teacher"] = json!("t");
        let definition = Definition { kind: "teacher".into(), name: "t".into(), config: teacher };
        let order = WorkOrder {
            stage: format!("{kind}.test"),
            kind: kind.into(),
            key: Key::of("test", b""),
            recipe: String::new(),
            config,
            definitions: BTreeMap::from([("teacher".into(), definition)]),
            inputs: BTreeMap::from([(port.into(), Input { stage: stage.into(), output })]),
            files: self
                .model
                .iter()
                .map(|model| ("teacher.model.path".to_owned(), model.clone()))
                .chain(self.files.clone())
                .collect(),
            seed: 17,
            device: "cpu".into(),
            threads: 2,
            offline: self.offline,
            less_at_once: false,
            store: self.store.root().to_owned(),
            attempt,
            run: "test".into(),
        };
        Context::new(order, self.store.clone(), self.said.clone(), self.cancel.clone())
    }

    /// Puts prompts into the store, as their stage would.
    pub fn prompts(&self, prompts: &[String]) -> stillhouse_stage::store::Digest {
        let folder = tempfile::tempdir_in(self.folder.path()).unwrap();
        let mut writer = write_prompts(&folder.path().join(PROMPTS_FILE)).unwrap();
        for prompt in prompts {
            // A line that is an address of an image shows it.
            let image = prompt.starts_with("data:image/").then(|| ImageUrl { url: prompt.clone(), detail: None });
            let parts = image.map(|image_url| Part::ImageUrl { image_url }).into_iter().collect();
            writer.write(&Prompt::new(vec![Message { parts, ..Message::user(prompt.as_str()) }], None)).unwrap();
        }
        writer.finish().unwrap();
        self.store.put_tree(folder.path()).unwrap().0
    }

    /// Whether any file below the cache and the attempts holds these bytes.
    pub fn leaves_a_trace_of(&self, secret: &str) -> bool {
        fn any(folder: &Path, found: &dyn Fn(&[u8]) -> bool) -> bool {
            fs_err::read_dir(folder).unwrap().any(|entry| {
                let path = entry.unwrap().path();
                if path.is_dir() { any(&path, found) } else { found(&fs_err::read(&path).unwrap()) }
            })
        }
        any(self.folder.path(), &|bytes| bytes.windows(secret.len()).any(|some| some == secret.as_bytes()))
    }
}

/// `count` different prompts.
pub fn prompts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("question {number}")).collect()
}
