use serde_json::{Value, json};
use stillhouse_data::prompt::Message;
use stillhouse_spec::{Config as _, Node};

use super::*;
use crate::provider::api::{Api as _, Unusable};
use crate::reply::Usage;
use crate::request::{Request, Sampling};
use stillhouse_data::answer::Outcome as Answered;

fn api() -> MessagesApi {
    MessagesApi { model: "claude-x-20260101".to_owned() }
}

fn request() -> Request {
    Request {
        messages: vec![Message::system("Be short."), Message::user("Hi"), Message::system("In French.")],
        sampling: Sampling { temperature: 0.5, top_p: 1.0, top_k: Some(40), max_tokens: 16, stop: vec!["\n\n".into()] },
        capture: None,
        sample: 0,
        attempt: 0,
        seed: Some(3),
        given: None,
    }
}

fn body(change: impl FnOnce(&mut Request)) -> Value {
    let mut request = request();
    change(&mut request);
    serde_json::from_slice(&api().body(&request).unwrap()).unwrap()
}

#[test]
fn the_system_s_words_stand_apart_and_no_seed_is_sent() {
    assert_eq!(
        body(|_| ()),
        json!({
            "model": "claude-x-20260101", "max_tokens": 16, "system": "Be short.\n\nIn French.",
            "messages": [{ "role": "user", "content": "Hi" }], "temperature": 0.5, "top_k": 40,
            "stop_sequences": ["\n\n"], "stream": false,
        })
    );
    let nucleus = body(|request| {
        request.sampling.temperature = 1.0;
        request.sampling.top_p = 0.9;
    });
    assert_eq!((nucleus["top_p"].as_f64(), &nucleus["temperature"]), (Some(0.9), &Value::Null), "only one of the two");
}

#[test]
fn every_way_to_stop_has_its_outcome() {
    let read = |stop: &str, text: &str| {
        let body = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x-20260101",
            "content": [{ "type": "text", "text": text }, { "type": "tool_use", "id": "t", "name": "n", "input": {} }],
            "stop_reason": stop, "stop_sequence": null,
            "usage": { "input_tokens": 5, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 7 },
        });
        api().parse(body.to_string().as_bytes(), &request()).unwrap()
    };
    let whole = read("end_turn", "yes");
    assert_eq!((whole.outcome, whole.text.as_str(), whole.finish.as_str()), (Answered::Ok, "yes", "end_turn"));
    assert_eq!((whole.model.as_str(), whole.usage), ("claude-x-20260101", Usage { prompt: 10, completion: 7 }));
    let outcomes =
        ["stop_sequence", "max_tokens", "refusal", "model_context_window_exceeded"].map(|stop| read(stop, "x").outcome);
    assert_eq!(outcomes, [Answered::Ok, Answered::Cut, Answered::Refusal, Answered::Cut]);
    assert_eq!(read("end_turn", "").outcome, Answered::Empty);
}

#[test]
fn what_is_no_reply_is_broken() {
    let broken = |body: &str| match api().parse(body.as_bytes(), &request()) {
        Err(Unusable::Broken(what)) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(broken(""), "the reply is empty");
    assert_eq!(
        broken(r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#),
        "the reply is an error: Overloaded"
    );
    assert_eq!(broken(r#"{"content":[]}"#), "the reply has no `stop_reason`");
    assert_eq!(
        api().usage(br#"{"usage":{"input_tokens":5,"output_tokens":1}}"#),
        Some(Usage { prompt: 5, completion: 1 })
    );
}

fn said(teacher: Value, answers: Value) -> Vec<(String, bool)> {
    let mut report = Diagnostics::default();
    let teacher = Anthropic::decode(&Node::from_json(&teacher), &mut report).unwrap();
    let mut whole = json!({ "prompts": "p", "teacher": "t" });
    whole.as_object_mut().unwrap().extend(answers.as_object().unwrap().clone());
    let answers = AnswersConfig::decode(&Node::from_json(&whole), &mut report).unwrap();
    teacher.check(&answers, &|_| Origin::NOWHERE, &mut report);
    let error = |severity| severity == stillhouse_spec::Severity::Error;
    report.sorted().iter().map(|said| (said.message.clone(), error(said.severity))).collect()
}

#[test]
fn what_the_api_does_not_have_is_known_before_anything_is_spent() {
    let model = |name: &str| json!({ "model": name });
    assert_eq!(said(model("claude-x-20260101"), json!({ "sampling": { "stop": ["END"], "top-k": 5 } })), []);
    let of = |answers: Value| said(model("claude-x-20260101"), answers);
    assert_eq!(of(json!({ "capture": { "top-k": 5 } })), [("anthropic gives no log-probabilities".to_owned(), true)]);
    assert_eq!(of(json!({ "sampling": { "seed": 5 } })), [("anthropic takes no seed".to_owned(), false)]);
    assert!(of(json!({ "sampling": { "temperature": 1.5 } }))[0].1);
    assert!(of(json!({ "sampling": { "stop": ["\n"] } }))[0].1);
    let alias = said(model("claude-x-latest"), json!({}));
    assert_eq!(alias, [("`claude-x-latest` is an alias: what it stands for may change any day".to_owned(), false)]);
}

#[test]
fn odd_counts_and_empty_blocks_lose_no_reply() {
    let body = json!({
        "model": "c", "stop_reason": "end_turn", "usage": { "input_tokens": 12.0, "output_tokens": 5.0 },
        "content": [null, { "type": "text", "text": null }, { "type": "text", "text": "yes" }],
    });
    let reply = api().parse(body.to_string().as_bytes(), &request()).unwrap();
    assert_eq!((reply.text.as_str(), reply.usage), ("yes", Usage { prompt: 12, completion: 5 }));
    let nothing = json!({ "content": null, "stop_reason": "end_turn", "usage": { "input_tokens": null } });
    let reply = api().parse(nothing.to_string().as_bytes(), &request()).unwrap();
    assert_eq!((reply.outcome, reply.usage), (Answered::Empty, Usage::default()));
}
