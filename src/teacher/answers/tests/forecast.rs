//! What a plan says of the stage, before anything is asked.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use stillhouse_data::model::{Model, ModelConfig};
use stillhouse_spec::{Config as _, Diagnostics, Node, Origin};
use stillhouse_stage::store::{Key, Record};
use stillhouse_stage::{Ahead, AnyConfig, CountedBy, Forecast, StageKind as _, Surroundings, View};

use super::bench::{Bench, NoModels, prompts};
use super::server::{Server, echo};
use crate::answers::{Answers, AnswersConfig};
use crate::definition::{Teacher, TeacherConfig};
use crate::testing::Act;

static ANSWERS: Answers = Answers { loader: &NoModels };

struct Around {
    teacher: TeacherConfig,
    /// What the teacher names as its tokenizer, or as its model.
    tokenizer: Option<ModelConfig>,
}

impl Surroundings for Around {
    fn follow(&self, label: &str, path: &str) -> Option<View<'_>> {
        match (label, path) {
            ("answers.a", "teacher") => {
                Some(View::new("teacher.t", &Teacher, &self.teacher as &dyn AnyConfig, Origin::NOWHERE, self))
            }
            ("teacher.t", "tokenizer" | "model") => {
                let model = self.tokenizer.as_ref()?;
                Some(View::new("model.m", &Model, model as &dyn AnyConfig, Origin::NOWHERE, self))
            }
            _ => None,
        }
    }
}

pub fn forecast(bench: &Bench, made: Option<&[String]>, teacher: &Value, answers: Value) -> Option<Forecast> {
    forecast_with(bench, made, teacher, answers, None)
}

pub fn forecast_with(
    bench: &Bench,
    made: Option<&[String]>,
    teacher: &Value,
    answers: Value,
    tokenizer: Option<&Path>,
) -> Option<Forecast> {
    let mut report = Diagnostics::default();
    let model =
        |path: &Path| ModelConfig::decode(&Node::from_json(&json!({ "path": path })), &mut Diagnostics::default());
    let around = Around {
        teacher: TeacherConfig::decode(&Node::from_json(teacher), &mut report).unwrap(),
        tokenizer: tokenizer.map(|path| model(path).unwrap()),
    };
    let mut body = json!({ "prompts": "p", "teacher": "t" });
    body.as_object_mut().unwrap().extend(answers.as_object().unwrap().clone());
    let config = AnswersConfig::decode(&Node::from_json(&body), &mut report).unwrap();
    let record = made.map(|prompts| Record {
        format: 1,
        key: Key::of("test", b""),
        kind: "prompts".into(),
        revision: 1,
        stage: "prompts.p".into(),
        recipe: String::new(),
        output: bench.prompts(prompts),
        metrics: Value::Null,
        provenance: Value::Null,
        created: String::new(),
        seconds: 0.0,
        run: String::new(),
    });
    let inputs: BTreeMap<&str, &Record> = record.iter().map(|record| ("prompts", record)).collect();
    let view = View::new("answers.a", &ANSWERS, &config, Origin::NOWHERE, &around);
    let files = bench.model.iter().map(|model| ("teacher.model.path".to_owned(), model.clone())).collect();
    let (mentioned, store) = (BTreeMap::new(), &bench.store);
    ANSWERS.forecast(&Ahead { view, inputs, mentioned, files: &files, store, seed: 17 })
}

#[test]
fn only_what_is_in_no_store_is_counted() {
    let server = Server::echo();
    let bench = Bench::new();
    let mut teacher = server.definition(json!({}));
    teacher["prices"] = json!({ "input": 1e6, "output": 2e6 });
    let answers = json!({ "sampling": { "max-tokens": 8 } });
    let of = |made: Option<&[String]>, answers: &Value| forecast(&bench, made, &teacher, answers.clone());
    assert_eq!(of(None, &answers), None, "nobody knows how many prompts there will be");
    // `question 0` is 10 bytes: 3 tokens, and 4 for the turn.
    let all = Forecast { requests: 10, tokens: Some(150), usd: Some(70.0 + 160.0), ..Forecast::default() };
    assert_eq!(of(Some(&prompts(10)), &answers), Some(all));
    let equal = [prompts(10), prompts(10)].concat();
    assert_eq!(of(Some(&equal), &answers), Some(all), "equal prompts are asked once");
    bench.run(&prompts(4), teacher.clone(), answers.clone()).unwrap();
    let rest = of(Some(&prompts(10)), &answers).unwrap();
    assert_eq!((rest.requests, rest.tokens), (6, Some(90)));
    let other = of(Some(&prompts(10)), &json!({ "sampling": { "max-tokens": 8, "temperature": 0.5 } })).unwrap();
    assert_eq!(other.requests, 10);
    bench.run(&prompts(10), teacher.clone(), answers.clone()).unwrap();
    assert_eq!(of(Some(&prompts(10)), &answers).unwrap().requests, 0);
}

#[test]
fn what_was_given_up_is_counted_only_where_it_would_be_asked_again() {
    let server = Server::start(|asked| {
        if asked.last_message().ends_with(" 2") {
            Act::status(500, "").after(std::time::Duration::from_millis(200))
        } else {
            echo(asked)
        }
    });
    let (bench, teacher) = (Bench::new(), server.definition(json!({ "attempts": 1 })));
    let drop = json!({ "outcomes": { "failed": "drop" } });
    bench.run(&prompts(4), teacher.clone(), drop.clone()).unwrap();
    let of = |answers: Value| forecast(&bench, Some(&prompts(5)), &teacher, answers).unwrap().requests;
    assert_eq!((of(drop), of(json!({}))), (1, 2));
}

#[test]
fn who_asks_nobody_forecasts_nothing() {
    let bench = Bench::new();
    let replies = json!({ "provider": "replies", "path": "given.jsonl" });
    assert_eq!(forecast(&bench, Some(&prompts(3)), &replies, json!({})), None);
}

/// A tokenizer of words, with a chat template that puts one in front of a turn and one behind the conversation.
fn tokenizer() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": { "<unk>": 0, "question": 1 }, "unk_token": "<unk>" },
    });
    fs_err::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for message in messages %}user {{ message.content }} {% endfor %}assistant";
    fs_err::write(folder.path().join("tokenizer_config.json"), json!({ "chat_template": template }).to_string())
        .unwrap();
    folder
}

#[test]
fn prompts_are_counted_with_the_tokenizer_that_the_teacher_names() {
    let (server, bench, folder) = (Server::echo(), Bench::new(), tokenizer());
    let answers = json!({ "sampling": { "max-tokens": 8 } });
    let of = |count: usize, definition: Value, path: &Path| {
        forecast_with(&bench, Some(&prompts(count)), &definition, answers.clone(), Some(path)).unwrap()
    };
    let chat = of(10, server.definition(json!({})), folder.path());
    // `user question 0 assistant`
    assert_eq!((chat.tokens, chat.counted_by), (Some(10 * (4 + 8)), CountedBy::Tokenizer));
    let mut completions = server.definition(json!({}));
    completions["api"] = json!("completions");
    let bare = of(10, completions, folder.path());
    assert_eq!((bare.tokens, bare.counted_by), (Some(10 * (2 + 8)), CountedBy::Tokenizer));
    // Of very many, a part stands for all: prompts of 8 to 13 bytes that are two words each.
    let many = of(9000, server.definition(json!({})), folder.path());
    let prompt_tokens = many.tokens.unwrap() - 9000 * 8;
    assert!(prompt_tokens.abs_diff(9000 * 4) < 9000 * 4 / 50, "{prompt_tokens}");
    let none = of(10, server.definition(json!({})), &folder.path().join("elsewhere"));
    assert_eq!((none.tokens, none.counted_by), (Some(150), CountedBy::Bytes), "what cannot be opened is estimated");
    fs_err::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    fs_err::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    let damaged = of(10, server.definition(json!({})), folder.path());
    assert_eq!(damaged.counted_by, CountedBy::Bytes);
}

#[test]
fn images_count_and_are_told() {
    let (server, bench) = (Server::echo(), Bench::new());
    let answers = json!({ "sampling": { "max-tokens": 8 } });
    let of =
        |prompts: &[String]| forecast(&bench, Some(prompts), &server.definition(json!({})), answers.clone()).unwrap();
    // 100 pixels square: one tile.
    let small = "data:image/gif;base64,R0lGODlhZABkAA==".to_owned();
    // Of a size that nobody can read.
    let unknown = "data:image/png;base64,AAAA".to_owned();
    let text = |prompt: &String| (prompt.len() as u64).div_ceil(4) + 4 + 8;
    let one = of(std::slice::from_ref(&small));
    assert_eq!((one.images, one.tokens), (1, Some(text(&small) + 85 + 170)));
    let both = of(&[small.clone(), unknown.clone()]);
    let expected = text(&small) + 85 + 170 + text(&unknown) + 85 + 8 * 170;
    assert_eq!((both.images, both.tokens), (2, Some(expected)));
}
