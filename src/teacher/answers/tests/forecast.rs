//! What a plan says of the stage, before anything is asked.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stillhouse_spec::{Config as _, Diagnostics, Node, Origin};
use stillhouse_stage::store::{Key, Record};
use stillhouse_stage::{Ahead, AnyConfig, Forecast, StageKind as _, Surroundings, View};

use super::bench::{Bench, NoModels, prompts};
use super::server::Server;
use crate::answers::{Answers, AnswersConfig};
use crate::definition::{Teacher, TeacherConfig};

static ANSWERS: Answers = Answers { loader: &NoModels };

struct Around(TeacherConfig);

impl Surroundings for Around {
    fn follow(&self, _: &str, path: &str) -> Option<View<'_>> {
        (path == "teacher").then(|| View::new("teacher.t", &Teacher, &self.0 as &dyn AnyConfig, Origin::NOWHERE, self))
    }
}

pub fn forecast(bench: &Bench, made: Option<&[String]>, teacher: &Value, answers: Value) -> Option<Forecast> {
    let mut report = Diagnostics::default();
    let around = Around(TeacherConfig::decode(&Node::from_json(teacher), &mut report).unwrap());
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
    ANSWERS.forecast(&Ahead { view, inputs, store: &bench.store, seed: 17 })
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
    let all = Forecast { requests: 10, tokens: Some(150), usd: Some(70.0 + 160.0) };
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
fn who_asks_nobody_forecasts_nothing() {
    let bench = Bench::new();
    let replies = json!({ "provider": "replies", "path": "given.jsonl" });
    assert_eq!(forecast(&bench, Some(&prompts(3)), &replies, json!({})), None);
}
