//! The stage against a server in the same process.

mod ahead;
mod faults;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use stillhouse_data::answer::{ANSWERS_FILE, Answer, Outcome as Answered, write_answers};
use stillhouse_data::embeddings::{EMBEDDINGS_FILE, Embedded, EmbeddingReader};
use stillhouse_data::prompt::{Message, Prompt};
use stillhouse_stage::{Class, Failure, Outcome, StageKind as _};

use super::Embeddings;
use crate::answers::tests::bench::{Bench, NoModels};
use crate::answers::tests::server::Server;
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
    assert_eq!(made.metric("requests"), server.teacher.asked());
    let told = bench.spent().unwrap();
    assert_eq!((told.requests, told.texts), (server.teacher.asked(), 100));
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
fn a_body_counts_as_one_request_in_a_budget() {
    let server = Server::start(embed);
    let bench = Bench::new();
    let teacher = server.definition(json!({ "budget-requests": 2, "concurrency": 1 }));
    let failure = run_with(&bench, &answers(40), teacher, json!({ "batch": 10 })).err().unwrap();
    assert_eq!((failure.class, server.teacher.asked()), (Class::Budget, 2));
    assert_eq!(bench.notes(), ["teacher t: the vectors of 20 new texts are kept (2 requests, 60 + 0 tokens)"]);
    let told = bench.spent().unwrap();
    assert_eq!((told.requests, told.texts), (2, 20));
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
