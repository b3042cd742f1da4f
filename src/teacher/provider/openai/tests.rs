use serde_json::{Value, json};
use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::Message;

use super::*;
use crate::provider::api::{Api as _, Unusable};
use crate::reply::Usage;
use crate::request::{Capture, Request, Sampling};

const EXCHANGES: [&str; 2] =
    [include_str!("../../tests/golden/chat_exchanges.jsonl"), include_str!("../../tests/golden/chat_cassette.jsonl")];
const STREAM: &str = include_str!("../../tests/golden/chat_stream.txt");
const COMPLETION: &str = include_str!("../../tests/golden/completions_llama_cpp.json");

fn request(prompt: &str) -> Request {
    Request {
        messages: vec![Message::user(prompt)],
        sampling: Sampling { temperature: 0.5, top_p: 1.0, top_k: None, max_tokens: 16, stop: vec![] },
        capture: None,
        sample: 0,
        attempt: 0,
        seed: Some(3),
        given: None,
    }
}

fn captured() -> Request {
    Request { capture: Some(Capture::TopK(5)), ..request("x") }
}

#[test]
fn whatever_the_dialect_knows_is_sent_and_nothing_else() {
    let names = |dialect, capture| {
        let request = Request { capture, ..request("hello") };
        let body = serde_json::to_value(chat::Body::of(&request, "m", dialect)).unwrap();
        let names: Vec<String> = body.as_object().unwrap().keys().cloned().collect();
        (names, body)
    };
    let (strict_names, strict) = names(Dialect::Strict, None);
    assert_eq!(strict_names.len(), 10, "{strict_names:?}");
    assert_eq!(strict["max_completion_tokens"], 16);
    let (common, body) = names(Dialect::Common, Some(Capture::Full));
    assert!(!common.contains(&"return_tokens_as_token_ids".to_owned()), "{common:?}");
    assert_eq!(body["top_logprobs"], 1 << 20);
    let vllm = names(Dialect::Vllm { ids: true }, Some(Capture::Full)).1;
    assert_eq!((&vllm["top_logprobs"], &vllm["return_tokens_as_token_ids"]), (&json!(-1), &json!(true)));
    for (ids, capture) in [(false, Some(Capture::TopK(5))), (true, None)] {
        assert!(names(Dialect::Vllm { ids }, capture).1["return_tokens_as_token_ids"].is_null());
    }
}

#[test]
fn recorded_replies_are_read_as_they_were_meant() {
    for line in EXCHANGES.iter().flat_map(|file| file.lines()) {
        let exchange: Value = serde_json::from_str(line).unwrap();
        let wanted = Request { capture: Some(Capture::TopK(5)), ..request("x") };
        let reply = chat::parse(exchange["response"].to_string().as_bytes(), &wanted).unwrap();
        let choice = &exchange["response"]["choices"][0];
        assert_eq!(reply.text, choice["message"]["content"].as_str().unwrap());
        assert_eq!(reply.model, "smollm2-135m-instruct");
        assert_eq!(reply.finish, choice["finish_reason"].as_str().unwrap());
        assert_eq!(reply.outcome, if reply.finish == "length" { Outcome::Cut } else { Outcome::Ok });
        assert_eq!(u64::from(reply.usage.prompt), exchange["response"]["usage"]["prompt_tokens"].as_u64().unwrap());
        let tokens = reply.tokens.unwrap();
        let first = &choice["logprobs"]["content"][0];
        assert_eq!(tokens[0].chosen.id.map(u64::from), first["id"].as_u64());
        assert_eq!(f64::from(tokens[0].top[2].log_prob), first["top_logprobs"][2]["logprob"].as_f64().unwrap());
        assert_eq!(tokens[0].chosen.bytes, first["token"].as_str().unwrap().as_bytes());
    }
}

#[test]
fn every_kind_of_reply_has_its_outcome() {
    let outcome = |finish: &str, message: Value| {
        let body = json!({ "choices": [{ "finish_reason": finish, "message": message }] }).to_string();
        let reply = chat::parse(body.as_bytes(), &request("x")).unwrap();
        (reply.outcome, reply.text)
    };
    let text = |outcome, text: &str| (outcome, text.to_owned());
    assert_eq!(outcome("stop", json!({ "content": "yes" })), text(Outcome::Ok, "yes"));
    assert_eq!(outcome("length", json!({ "content": "ye" })), text(Outcome::Cut, "ye"));
    assert_eq!(outcome("content_filter", json!({ "content": null })), text(Outcome::ContentFilter, ""));
    assert_eq!(outcome("stop", json!({ "content": null, "refusal": "No." })), text(Outcome::Refusal, "No."));
    assert_eq!(outcome("stop", json!({ "content": "" })), text(Outcome::Empty, ""));
}

#[test]
fn a_repeated_prefill_is_taken_off() {
    let mut request = request("Count.");
    request.messages.push(Message::assistant("One, two,"));
    let body = br#"{"choices":[{"finish_reason":"stop","message":{"content":"One, two, three."}}]}"#;
    assert_eq!(chat::parse(body, &request).unwrap().text, " three.");
}

#[test]
fn tokens_without_ids_keep_their_bytes_and_vllm_s_id_texts_are_ids() {
    let wanted = Request { capture: Some(Capture::TopK(1)), ..request("x") };
    let body = json!({ "choices": [{ "finish_reason": "stop", "message": { "content": "é" }, "logprobs": { "content": [
        { "token": "\\xc3", "bytes": [195], "logprob": -0.5, "top_logprobs": [] },
        { "token": "token_id:77", "logprob": null, "top_logprobs": [] },
    ] } }] });
    let tokens = chat::parse(body.to_string().as_bytes(), &wanted).unwrap().tokens.unwrap();
    assert_eq!((tokens[0].chosen.id, tokens[0].chosen.bytes.as_slice()), (None, [195].as_slice()));
    assert_eq!((tokens[1].chosen.id, tokens[1].chosen.log_prob), (Some(77), f32::MIN));
    assert!(tokens[1].chosen.bytes.is_empty(), "the words `token_id:77` are not the token's");
}

#[test]
fn a_recorded_stream_is_the_reply_that_it_is_a_stream_of() {
    let reply = chat::parse(STREAM.as_bytes(), &captured()).unwrap();
    assert_eq!(reply.text, "Hello! I'm here to help with any kind of creative");
    assert_eq!((reply.finish.as_str(), reply.outcome), ("length", Outcome::Cut));
    assert_eq!((reply.model.as_str(), reply.usage), ("smollm2-135m-instruct", Usage { prompt: 33, completion: 12 }));
    let tokens = reply.tokens.unwrap();
    let text: Vec<u8> = tokens.iter().flat_map(|token| token.chosen.bytes.clone()).collect();
    assert_eq!(String::from_utf8(text).unwrap(), reply.text);
    assert_eq!((tokens[0].chosen.id, tokens[0].top[1].id), (Some(19556), Some(57)));
    let half = &STREAM[..STREAM.len() / 2];
    let half = &half[..half.rfind("\n\n").unwrap()];
    let broken = chat::parse(half.as_bytes(), &captured()).unwrap_err();
    assert_eq!(broken, Unusable::Broken("the reply is a stream that breaks off".to_owned()));
    for odd in ["data: 3\n\n", "data: {\"choices\":[]}\n\n", "data: {\"choices\":\"x\",\"model\":7}\n\n"] {
        assert_eq!(chat::parse(odd.as_bytes(), &captured()).unwrap_err(), broken);
    }
    let told = chat::parse(b"data: {\"error\":{\"message\":\"gone\"}}\n\n", &captured()).unwrap_err();
    assert_eq!(told, Unusable::Broken("the reply is an error: gone".to_owned()));
}

fn completions(dialect: Dialect) -> CompletionsApi {
    CompletionsApi { model: "m".to_owned(), dialect }
}

#[test]
fn a_recorded_completion_of_llama_cpp_has_log_probs_in_the_chat_shape() {
    let reply = completions(Dialect::Common).parse(COMPLETION.as_bytes(), &captured()).unwrap();
    assert_eq!((reply.text.as_str(), reply.outcome), (" Paris.\n\n", Outcome::Cut));
    assert_eq!(reply.usage, Usage { prompt: 5, completion: 4 });
    let tokens = reply.tokens.unwrap();
    assert_eq!((tokens.len(), tokens[0].chosen.id, tokens[1].top[2].id), (4, Some(7042), Some(284)));
}

#[test]
fn completions_in_openai_s_own_shape_are_read_too() {
    let body = json!({ "model": "base-1", "choices": [{ "text": " a é", "finish_reason": "stop", "logprobs": {
        "tokens": [" a", "bytes: \\xc3", "bytes:\\xc3\\xa9"],
        "token_logprobs": [-0.5, null, -0.25],
        "top_logprobs": [{ " b": -1.5, " a": -0.5 }, null, { "token_id:9": -0.25 }],
        "text_offset": [0, 2, 3],
    } }], "usage": { "prompt_tokens": 3, "completion_tokens": 3 } });
    let reply = completions(Dialect::Strict).parse(body.to_string().as_bytes(), &captured()).unwrap();
    let tokens = reply.tokens.unwrap();
    assert_eq!(tokens[0].top.iter().map(|one| one.bytes.as_slice()).collect::<Vec<_>>(), [b" a", b" b"]);
    assert_eq!((tokens[1].chosen.log_prob, tokens[1].top.len()), (f32::MIN, 0));
    assert_eq!(tokens[1].chosen.bytes, b"bytes: \\xc3", "what is no escape is text");
    assert_eq!((tokens[2].chosen.bytes.as_slice(), tokens[2].top[0].id), ([0xc3, 0xa9].as_slice(), Some(9)));
    let mut uneven = body;
    uneven["choices"][0]["logprobs"]["token_logprobs"] = json!([-0.5]);
    let refused = completions(Dialect::Strict).parse(uneven.to_string().as_bytes(), &captured());
    assert_eq!(refused, Err(Unusable::NoLogProbs));
}

#[test]
fn a_conversation_is_sent_as_its_text() {
    let messages = vec![Message::system("Once"), Message::user("upon a time")];
    let request = Request { messages, capture: Some(Capture::TopK(5)), ..request("x") };
    let api = completions(Dialect::Strict);
    let body: Value = serde_json::from_slice(&api.body(&request).unwrap()).unwrap();
    assert_eq!(api.path(), "completions");
    assert_eq!(
        body,
        json!({
            "model": "m", "prompt": "Once\n\nupon a time", "temperature": 0.5, "top_p": 1.0, "max_tokens": 16, "seed": 3,
            "n": 1, "stream": false, "echo": false, "frequency_penalty": 0.0, "presence_penalty": 0.0, "logprobs": 5,
        })
    );
    let common: Value = serde_json::from_slice(&completions(Dialect::Common).body(&request).unwrap()).unwrap();
    assert_eq!((&common["top_k"], &common["repeat_penalty"]), (&json!(-1), &json!(1.0)));
}

#[test]
fn vllm_tells_the_reply_s_ids() {
    let body = json!({ "choices": [{ "finish_reason": "stop", "message": { "content": "é" }, "token_ids": [7, 9],
        "logprobs": { "content": [
            { "token": "token_id:7", "bytes": [116, 111], "logprob": -0.5, "top_logprobs": [
                { "token": "token_id:7", "bytes": [116], "logprob": -0.5 },
                { "token": "token_id:8", "bytes": [116], "logprob": -9999.0 },
            ] },
            { "token": "token_id:9", "logprob": -1e39, "top_logprobs": [] },
        ] } }] });
    let reply = chat::parse(body.to_string().as_bytes(), &captured()).unwrap();
    assert_eq!(reply.token_ids, None, "a list without probabilities is of no use to anybody");
    let tokens = reply.tokens.unwrap();
    assert_eq!((tokens[0].chosen.id, tokens[0].chosen.bytes.len(), tokens[0].top[1].id), (Some(7), 0, Some(8)));
    assert_eq!(tokens[1].chosen.log_prob, f32::MIN, "minus infinity has no place in JSON");
}

#[test]
fn a_number_that_is_none_is_a_broken_reply() {
    let body = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"},"logprobs":{"content":[{"token":"x","logprob":NaN,"top_logprobs":[]}]}}]}"#;
    let broken = chat::parse(body.as_bytes(), &captured()).unwrap_err();
    assert!(matches!(broken, Unusable::Broken(what) if what.starts_with("the reply is not valid: ")));
}

#[test]
fn what_costs_nothing_to_understand_is_understood() {
    let reply = |change: &dyn Fn(&mut Value)| {
        let mut body = json!({
            "model": "m", "usage": { "prompt_tokens": 7, "completion_tokens": 2 },
            "choices": [{ "index": 0, "finish_reason": "stop", "message": { "content": "yes" } }],
        });
        change(&mut body);
        body.to_string()
    };
    let parse = |body: &str| chat::parse(body.as_bytes(), &request("x")).unwrap();
    let counts = [
        (json!({ "prompt_tokens": null, "completion_tokens": null }), Usage::default()),
        (json!({ "prompt_tokens": 12.0, "completion_tokens": 5.0 }), Usage { prompt: 12, completion: 5 }),
        (json!({ "prompt_tokens": -1, "completion_tokens": 5 }), Usage::default()),
        (json!({ "prompt_tokens": "many" }), Usage::default()),
    ];
    for (counted, usage) in counts {
        assert_eq!(parse(&reply(&|body| body["usage"] = counted.clone())).usage, usage, "{counted}");
    }
    let parts = json!([{ "type": "text", "text": "hello " }, { "type": "image" }, { "type": "text", "text": "parts" }]);
    assert_eq!(parse(&reply(&|body| body["choices"][0]["message"]["content"] = parts.clone())).text, "hello parts");
    assert_eq!(parse(&format!("\u{feff}{}", reply(&|_| ()))).text, "yes");
    let twice = reply(&|_| ()).replacen('{', r#"{"model":"first","#, 1);
    assert_eq!((parse(&twice).text.as_str(), parse(&twice).model.as_str()), ("yes", "m"));
    let two = reply(&|body| {
        let first = body["choices"][0].clone();
        body["choices"][0]["index"] = json!(1);
        body["choices"][0]["message"]["content"] = json!("second");
        body["choices"].as_array_mut().unwrap().push(first);
    });
    assert_eq!(parse(&two).text, "yes");
    let broken = reply(&|_| ()).replace("\"stop\"", "NaN");
    assert_eq!(chat::usage(broken.as_bytes()), Some(Usage { prompt: 7, completion: 2 }));
}

#[test]
fn a_stream_may_begin_with_a_comment_or_an_event_and_completions_stream_as_well() {
    let event =
        |delta: &str, finish: Value| json!({ "choices": [{ "delta": { "content": delta }, "finish_reason": finish }] });
    let stream =
        format!("data: {}\n\ndata: {}\n\ndata: [DONE]\n\n", event("hel", Value::Null), event("lo", json!("stop")));
    for before in [": PROCESSING\n\n", "event: message\n", "\u{feff}", "id: 1\n"] {
        let reply = chat::parse(format!("{before}{stream}").as_bytes(), &request("x")).unwrap();
        assert_eq!((reply.text.as_str(), reply.outcome), ("hello", Outcome::Ok), "{before}");
    }
    let text = |text: &str, finish: Value| {
        let log_probs = json!({ "tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [{ text: -0.5 }] });
        json!({ "choices": [{ "index": 0, "text": text, "finish_reason": finish, "logprobs": log_probs }] })
    };
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 1, "completion_tokens": 2 } });
    let pieces = [text("hel", Value::Null), text("lo", json!("stop")), usage];
    let stream: String = pieces.iter().map(|event| format!("data: {event}\n\n")).collect();
    let api = CompletionsApi { model: "m".to_owned(), dialect: Dialect::Common };
    let reply = api.parse(stream.as_bytes(), &captured()).unwrap();
    assert_eq!(
        (reply.text.as_str(), reply.usage, reply.tokens.unwrap().len()),
        ("hello", Usage { prompt: 1, completion: 2 }, 2)
    );
    assert_eq!(api.usage(stream.as_bytes()), Some(Usage { prompt: 1, completion: 2 }));
}

#[test]
fn a_reply_that_ends_with_an_error_is_none() {
    let choice = json!({ "finish_reason": "error", "message": { "content": "partial" }, "error": { "message": "upstream died" } });
    let body = json!({ "choices": [choice] }).to_string();
    let unusable = chat::parse(body.as_bytes(), &request("x")).unwrap_err();
    assert_eq!(unusable, Unusable::Broken("the reply is an error: upstream died".to_owned()));
}
