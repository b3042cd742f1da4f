//! The stage against a server in the same process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use stillhouse_data::answer::{ANSWERS_FILE, Answer, Outcome as Answered, write_answers};
use stillhouse_data::embeddings::{EMBEDDINGS_FILE, Embedded, EmbeddingReader};
use stillhouse_data::jsonl::JsonlReader;
use stillhouse_data::prompt::{Message, Prompt};
use stillhouse_spec::{Config as _, Diagnostics, Node, Origin};
use stillhouse_stage::store::{Key, Record};
use stillhouse_stage::{
    Ahead, AnyConfig, Class, Failure, Forecast, Kind as _, Outcome, StageKind as _, Surroundings, View,
};

use super::{Embeddings, EmbeddingsConfig, REFUSED_FILE, WithoutVector};
use crate::answers::tests::bench::{Bench, NoModels};
use crate::answers::tests::server::Server;
use crate::definition::{Teacher, TeacherConfig};
use crate::testing::{Act, Asked};

static EMBEDDINGS: Embeddings = Embeddings { loader: &NoModels };

struct Made {
    outcome: Outcome,
    out: PathBuf,
}

impl Made {
    fn reader(&self) -> EmbeddingReader {
        EmbeddingReader::open(&self.out.join(EMBEDDINGS_FILE)).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs_err::read(self.out.join(EMBEDDINGS_FILE)).unwrap()
    }

    fn metric(&self, name: &str) -> u64 {
        self.outcome.metrics[name].as_u64().unwrap()
    }
}

fn answer(question: &str, sample: u32, text: &str) -> Answer {
    let prompt = Prompt::new(vec![Message::system("Be short."), Message::user(question)], None);
    Answer {
        prompt: prompt.id,
        sample,
        messages: prompt.messages,
        reference: None,
        text: text.to_owned(),
        finish: "stop".to_owned(),
        outcome: Answered::Ok,
        tokens: None,
    }
}

fn answers(count: u32) -> Vec<Answer> {
    (0..count).map(|number| answer(&format!("q{number}"), 0, &format!("text {number}"))).collect()
}

fn stored(bench: &Bench, answers: &[Answer]) -> stillhouse_stage::store::Digest {
    let folder = tempfile::tempdir_in(bench.folder.path()).unwrap();
    let mut writer = write_answers(&folder.path().join(ANSWERS_FILE)).unwrap();
    answers.iter().for_each(|answer| writer.write(answer).unwrap());
    writer.finish().unwrap();
    bench.store.put_tree(folder.path()).unwrap().0
}

fn run_with(bench: &Bench, answers: &[Answer], teacher: Value, mut config: Value) -> Result<Made, Failure> {
    config["answers"] = json!("a");
    let context = bench.context_of("embeddings", ("answers", "answers.a"), stored(bench, answers), teacher, config);
    let outcome = EMBEDDINGS.run(&context)?;
    Ok(Made { outcome, out: context.out() })
}

fn run(bench: &Bench, answers: &[Answer], server: &Server, config: Value) -> Result<Made, Failure> {
    run_with(bench, answers, server.definition(json!({ "concurrency": 3 })), config)
}

fn inputs(asked: &Asked) -> Vec<String> {
    serde_json::from_value(asked.json()["input"].clone()).unwrap()
}

/// A vector that tells its text.
fn vector(text: &str) -> Vec<f32> {
    let hash = blake3::hash(text.as_bytes());
    hash.as_bytes()[..5].iter().map(|byte| f32::from(*byte) / 8.0 + 0.125).collect()
}

fn vectors_of(texts: &[String]) -> Value {
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| json!({ "object": "embedding", "index": index, "embedding": vector(text) }))
        .collect();
    let tokens = 3 * texts.len();
    json!({ "object": "list", "model": "fake-embed", "data": data, "usage": { "prompt_tokens": tokens, "total_tokens": tokens } })
}

fn embed(asked: &Asked) -> Act {
    assert_eq!(asked.path, "/v1/embeddings");
    Act::ok(vectors_of(&inputs(asked)).to_string())
}

#[test]
fn every_text_gets_its_vector_though_several_go_in_one_request_and_is_paid_once() {
    let server = Server::start(|asked| {
        assert!(inputs(asked).len() <= 16);
        assert_eq!((&asked.json()["model"], &asked.json()["encoding_format"]), (&json!("fake-1"), &json!("float")));
        embed(asked).after(std::time::Duration::from_millis(asked.number * 7919 % 23))
    });
    let mut bench = Bench::new();
    let all = [answers(100), answers(3), vec![answer("q", 1, " ")]].concat();
    let config = json!({ "of": "answer", "batch": 16 });
    let made = run(&bench, &all, &server, config.clone()).unwrap();
    let reader = made.reader();
    assert_eq!((reader.len(), reader.width(), reader.of()), (100, 5, Embedded::Answer));
    for number in 0..100 {
        let text = format!("text {number}");
        assert_eq!(reader.vector(&text).unwrap().unwrap(), vector(&text));
    }
    assert!((7..=12).contains(&server.teacher.asked()), "{} requests for 100 texts", server.teacher.asked());
    let metrics = &made.outcome.metrics;
    assert_eq!(
        (&metrics["rows"], &metrics["vectors"], &metrics["width"], &metrics["repeated"], &metrics["blank"]),
        (&json!(104), &json!(100), &json!(5), &json!(3), &json!(1))
    );
    assert_eq!((made.metric("asked"), &metrics["paid-tokens"]), (100, &json!({ "prompt": 300, "completion": 0 })));
    assert_eq!(made.outcome.provenance["models-as-the-server-named-them"], json!({ "fake-embed": 100 }));

    // Whatever goes together: nothing is asked again, and nobody has to be there.
    let before = server.teacher.asked();
    bench.offline = true;
    let again = run(&bench, &all, &server, json!({ "of": "answer", "batch": 5 })).unwrap();
    assert_eq!((again.metric("asked"), again.metric("from-cache"), server.teacher.asked()), (0, 100, before));
    assert_eq!(again.bytes(), made.bytes());
    bench.offline = false;
    let more = run(&bench, &answers(103), &server, config).unwrap();
    assert_eq!((more.metric("asked"), more.metric("from-cache"), server.teacher.asked()), (3, 100, before + 1));
    let other = run(&bench, &answers(1), &server, json!({ "of": "answer", "prefix": "clustering: " })).unwrap();
    assert_eq!(other.reader().vector("text 0").unwrap().unwrap(), vector("clustering: text 0"));
}

#[test]
fn which_texts_are_embedded_is_said_by_the_table() {
    let server = Server::start(embed);
    let bench = Bench::new();
    let all = [answer("q", 0, "a"), answer("q", 1, "b"), answer("p", 0, "a")];
    let count = |config: Value| {
        let made = run(&bench, &all, &server, config).unwrap();
        let reader = made.reader();
        let messages = &all[0].messages;
        assert!(reader.vector(&reader.of().text(messages, "a").unwrap()).unwrap().is_some());
        (reader.len(), reader.of())
    };
    assert_eq!(count(json!({})), (3, Embedded::Both));
    assert_eq!(count(json!({ "of": "answer" })), (2, Embedded::Answer));
    assert_eq!(count(json!({ "of": "prompt" })), (2, Embedded::Prompt));
    let prompts = bench.prompts(&["q", "r", "q"].map(str::to_owned));
    let config = json!({ "prompts": "p" });
    let teacher = server.definition(json!({}));
    let context = bench.context_of("embeddings", ("prompts", "prompts.p"), prompts, teacher, config);
    let outcome = EMBEDDINGS.run(&context).unwrap();
    assert_eq!((&outcome.metrics["vectors"], &outcome.metrics["asked"]), (&json!(2), &json!(1)), "q is known");
    let failure = run(&bench, &[answer("q", 0, " ")], &server, json!({ "of": "answer" })).err().unwrap();
    assert_eq!(failure.message, "there is no text to make a vector of: answers.a has 1 rows, all blank");
}

#[test]
fn a_run_that_broke_off_pays_nothing_twice() {
    let paid: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let start = |good: u64| {
        let paid = Arc::clone(&paid);
        Server::start(move |asked| {
            if asked.number >= good {
                return Act::status(401, "{}");
            }
            inputs(asked).into_iter().for_each(|text| *paid.lock().unwrap().entry(text).or_default() += 1);
            embed(asked)
        })
    };
    let bench = Bench::new();
    let config = json!({ "of": "answer", "batch": 8 });
    let failure = run(&bench, &answers(200), &start(9), config.clone()).err().unwrap();
    assert_eq!(failure.class, Class::Teacher);
    let first = paid.lock().unwrap().len() as u64;
    assert!((9..=72).contains(&first), "{first}");
    let made = run(&bench, &answers(200), &start(u64::MAX), config).unwrap();
    assert_eq!((made.metric("from-cache"), made.metric("asked")), (first, 200 - first));
    let paid = paid.lock().unwrap();
    assert!(paid.len() == 200 && paid.values().all(|times| *times == 1), "{paid:?}");
}

#[test]
fn bad_answers_are_asked_again_and_never_stored() {
    // Each fault hits the first request of its server.
    let faults: Vec<fn(Value) -> Act> = vec![
        |_| Act::status(429, "{}").with_header("retry-after", "0"),
        |_| Act::status(503, ""),
        |_| Act::Reset,
        |good| Act::HalfBody(good.to_string().into_bytes()),
        |mut good| {
            good["data"].as_array_mut().unwrap().pop();
            Act::ok(good.to_string())
        },
        |mut good| {
            good["data"][1]["index"] = json!(0);
            Act::ok(good.to_string())
        },
        |mut good| {
            good["data"][1]["embedding"].as_array_mut().unwrap().pop();
            Act::ok(good.to_string())
        },
        |mut good| {
            good["data"][1]["embedding"][2] = json!(null);
            Act::ok(good.to_string())
        },
        |good| Act::ok(good.to_string().replacen(&json!(vector("text 0")).to_string(), "[NaN,1,2,3,4]", 1)),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let server = Server::start(move |asked| match asked.number {
            0 => fault(vectors_of(&inputs(asked))),
            _ => embed(asked),
        });
        let bench = Bench::new();
        let made = run(&bench, &answers(20), &server, json!({ "of": "answer", "batch": 20 })).unwrap();
        assert_eq!((made.metric("asked"), server.teacher.asked()), (20, 2), "fault {number}");
        assert_eq!(made.reader().vector("text 1").unwrap().unwrap(), vector("text 1"), "fault {number}");
    }
    let always = Server::start(|asked| {
        let mut good = vectors_of(&inputs(asked));
        good["data"].as_array_mut().unwrap().pop();
        Act::ok(good.to_string())
    });
    let bench = Bench::new();
    let teacher = always.definition(json!({ "attempts": 2 }));
    let failure = run_with(&bench, &answers(20), teacher, json!({ "of": "answer", "batch": 20 })).err().unwrap();
    assert!(
        failure.message.ends_with("gave no reply in 2 attempts: the reply has 19 vectors for 20 texts"),
        "{failure}"
    );
}

#[test]
fn of_texts_that_are_refused_only_those_have_no_vector() {
    let refused = |text: &str| text == "text 3" || text == "text 17";
    for (status, body) in [
        (400, r#"{"error":{"message":"maximum context length is 512 tokens"}}"#),
        (
            500,
            r#"{"error":{"code":500,"message":"input is too large to process. increase the physical batch size","type":"server_error"}}"#,
        ),
    ] {
        let server = Server::start(move |asked| {
            if inputs(asked).iter().any(|text| refused(text)) { Act::status(status, body) } else { embed(asked) }
        });
        let bench = Bench::new();
        let made = run(&bench, &answers(30), &server, json!({ "of": "answer", "batch": 30 })).unwrap();
        assert_eq!((made.metric("vectors"), made.metric("rejected")), (28, 2));
        let lines: Vec<WithoutVector> =
            JsonlReader::open(&made.out.join(REFUSED_FILE)).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(
            lines.iter().map(|line| line.prompt.clone()).collect::<Vec<_>>(),
            [answers(30)[3].prompt.clone(), answers(30)[17].prompt.clone()]
        );
        assert!(lines[0].why.starts_with(&status.to_string()), "{lines:?}");
        assert!(bench.warnings()[0].starts_with("2 of 30 requests were rejected"), "{:?}", bench.warnings());
        let failure = run(&Bench::new(), &answers(30), &server, json!({ "on-rejected": "fail" })).err();
        assert!(failure.is_none(), "the question is part of the text, and is not refused");
    }
    // One that breaks the server is known by the others, which are answered without it.
    let server = Server::start(|asked| match inputs(asked).iter().any(|text| text == "text 3") {
        true => Act::status(500, r#"{"error":{"message":"CUDA error"}}"#),
        false => embed(asked),
    });
    let teacher = server.definition(json!({ "attempts": 2 }));
    let made = run_with(&Bench::new(), &answers(30), teacher, json!({ "of": "answer", "batch": 10 })).unwrap();
    assert_eq!((made.metric("vectors"), made.metric("rejected")), (29, 1));
    let server =
        Server::start(|_| Act::status(501, r#"{"error":{"message":"This server does not support embeddings."}}"#));
    let failure = run(&Bench::new(), &answers(30), &server, json!({})).err().unwrap();
    assert!(failure.message.ends_with("does not do this (501): This server does not support embeddings."), "{failure}");
    assert!(server.teacher.asked() <= 3);
}

#[test]
fn a_body_counts_as_one_request_in_a_budget() {
    let server = Server::start(embed);
    let bench = Bench::new();
    let teacher = server.definition(json!({ "budget-requests": 2, "concurrency": 1 }));
    let failure = run_with(&bench, &answers(40), teacher, json!({ "batch": 10 })).err().unwrap();
    assert_eq!((failure.class, server.teacher.asked()), (Class::Budget, 2));
    assert_eq!(bench.notes(), ["teacher t: 20 new replies are kept (60 + 0 tokens)"]);
}

#[test]
fn vectors_of_two_models_under_one_name_are_told() {
    let (server, wider) = (
        Server::start(embed),
        Server::start(|asked| {
            let mut good = vectors_of(&inputs(asked));
            for one in good["data"].as_array_mut().unwrap() {
                one["embedding"].as_array_mut().unwrap().push(json!(1.0));
            }
            Act::ok(good.to_string())
        }),
    );
    let bench = Bench::new();
    run(&bench, &answers(3), &server, json!({})).unwrap();
    let failure = run(&bench, &answers(5), &wider, json!({})).err().unwrap();
    assert_eq!(failure.message, "teacher t gave vectors of 5 numbers and of 6: they are of different models");
    assert!(failure.hint.unwrap().contains("revision"));
    let mut anew = wider.definition(json!({}));
    anew["revision"] = json!("2");
    assert_eq!(run_with(&bench, &answers(5), anew, json!({})).unwrap().metric("width"), 6);
}

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
        Some(Forecast { requests: 2, tokens: Some(60), usd: Some(60.0), ..Default::default() })
    );
    run_with(&bench, &answers(4), teacher.clone(), json!({ "of": "answer" })).unwrap();
    assert_eq!(
        forecast(&answers(10)),
        Some(Forecast { requests: 1, tokens: Some(36), usd: Some(36.0), ..Default::default() })
    );
    run_with(&bench, &answers(10), teacher.clone(), json!({ "of": "answer" })).unwrap();
    assert_eq!(forecast(&answers(10)).unwrap().requests, 0);
}
