//! What is known before anything is asked: by `check`, in the key, in a plan.

use stillhouse_spec::{Config as _, Diagnostics, Node, Origin};
use stillhouse_stage::store::{Key, Record};
use stillhouse_stage::{Ahead, AnyConfig, Forecast, Kind as _, Surroundings, View};

use super::*;
use crate::definition::{Teacher, TeacherConfig};
use crate::embeddings::EmbeddingsConfig;

struct Around(TeacherConfig);

impl Surroundings for Around {
    fn follow(&self, _: &str, path: &str) -> Option<View<'_>> {
        (path == "teacher").then(|| View::new("teacher.t", &Teacher, &self.0 as &dyn AnyConfig, Origin::NOWHERE, self))
    }
}

#[test]
fn what_makes_no_sense_is_said_by_check() {
    let said = |body: Value, teacher: Value| {
        let mut report = Diagnostics::default();
        if let Some(config) = EmbeddingsConfig::decode(&Node::from_json(&body), &mut report) {
            let around = Around(TeacherConfig::decode(&Node::from_json(&teacher), &mut report).unwrap());
            EMBEDDINGS.check(&View::new("embeddings.e", &EMBEDDINGS, &config, Origin::NOWHERE, &around), &mut report);
        }
        report.sorted().iter().map(|diagnostic| diagnostic.message.clone()).collect::<Vec<_>>()
    };
    let openai = json!({ "provider": "openai", "base-url": "https://api.openai.com/v1", "model": "m" });
    let check = |body: Value| said(body, openai.clone());
    assert_eq!(check(json!({ "answers": "a", "teacher": "t" })), [""; 0]);
    let both = ["texts come from exactly one of `answers` and `prompts`"];
    assert_eq!(check(json!({ "teacher": "t" })), both);
    assert_eq!(check(json!({ "answers": "a", "prompts": "p", "teacher": "t" })), both);
    assert_eq!(check(json!({ "prompts": "p", "of": "both", "teacher": "t" })), ["prompts have no answers"]);
    for (name, teacher) in [
        ("anthropic", json!({ "provider": "anthropic", "model": "claude-x-20260101" })),
        ("local", json!({ "provider": "local", "model": "m" })),
        ("replies", json!({ "provider": "replies", "path": "given.jsonl" })),
    ] {
        let words = said(json!({ "answers": "a", "teacher": "t" }), teacher);
        assert_eq!(words, [format!("{name} makes no embeddings")]);
    }
}

#[test]
fn only_how_many_go_together_is_in_no_key() {
    let key = |change: Value| {
        let mut body = json!({ "answers": "a", "teacher": "t" });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        format!(
            "{:?}",
            EmbeddingsConfig::decode(&Node::from_json(&body), &mut Diagnostics::default()).unwrap().describe()
        )
    };
    assert_eq!(key(json!({})), key(json!({ "batch": 7, "on-rejected": "keep", "prefix": "" })));
    assert_ne!(key(json!({})), key(json!({ "of": "answer" })));
    assert_ne!(key(json!({})), key(json!({ "prefix": "x" })));
}

#[test]
fn a_plan_counts_bodies_and_what_is_in_no_store() {
    let server = Server::start(embed);
    let bench = Bench::new();
    let mut teacher = server.definition(json!({}));
    teacher["prices"] = json!({ "input": 1e6, "output": 2e6 });
    let forecast = |answers: &[Answer]| -> Option<Forecast> {
        let mut report = Diagnostics::default();
        let around = Around(TeacherConfig::decode(&Node::from_json(&teacher), &mut report).unwrap());
        let body = json!({ "answers": "a", "teacher": "t", "of": "answer", "batch": 8 });
        let config = EmbeddingsConfig::decode(&Node::from_json(&body), &mut report).unwrap();
        let record = Record {
            format: 1,
            key: Key::of("test", b""),
            kind: "answers".into(),
            revision: 1,
            stage: "answers.a".into(),
            recipe: String::new(),
            output: stored(&bench, answers),
            metrics: Value::Null,
            provenance: Value::Null,
            created: String::new(),
            seconds: 0.0,
            run: String::new(),
        };
        let view = View::new("embeddings.e", &EMBEDDINGS, &config, Origin::NOWHERE, &around);
        EMBEDDINGS.forecast(&Ahead {
            view,
            inputs: BTreeMap::from([("answers", &record)]),
            mentioned: BTreeMap::new(),
            files: &BTreeMap::new(),
            store: &bench.store,
            seed: 17,
        })
    };
    // `text 0` is 6 bytes: 2 tokens, and 4 for the turn.
    assert_eq!(
        forecast(&answers(10)),
        Some(Forecast { requests: 2, texts: 10, tokens: Some(60), usd: Some(60.0), ..Default::default() })
    );
    run_with(&bench, &answers(4), teacher.clone(), json!({ "of": "answer" })).unwrap();
    assert_eq!(
        forecast(&answers(10)),
        Some(Forecast { requests: 1, texts: 6, tokens: Some(36), usd: Some(36.0), ..Default::default() })
    );
    run_with(&bench, &answers(10), teacher.clone(), json!({ "of": "answer" })).unwrap();
    assert_eq!(forecast(&answers(10)).unwrap().requests, 0);
}
