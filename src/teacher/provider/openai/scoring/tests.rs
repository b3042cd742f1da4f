use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::Message;

use super::*;
use crate::request::Sampling;

#[test]
fn an_answer_begins_with_the_token_that_begins_it() {
    let template = ["<|im_start|>", "user", "\n", "one?", "<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"];
    let of = |answer: &[&str], text: &str| {
        let pieces: Vec<&str> = template.iter().chain(answer).copied().collect();
        start_of(text, &pieces).map(|start| start - template.len())
    };
    assert_eq!(of(&["It", " is", " one", "."], "It is one."), Some(0));
    // As some tokenizers decode tokens alone.
    assert_eq!(of(&["It", "is", "one", "."], "It is one."), Some(0));
    assert_eq!(of(&["\u{fffd}", "\u{fffd}", " naïve"], "😀 naïve"), None, "it may begin anywhere");
    assert_eq!(of(&["a ", "\u{fffd}", "\u{fffd}", "b"], "a 😀b"), Some(0));
    assert_eq!(of(&["It", " is"], "It was"), None);
    assert_eq!(start_of("one", &["no", "ne"]), None, "one token holds its beginning and more");
    assert_eq!((start_of("", &["a"]), start_of("x", &[])), (None, None));
}

fn api(api: ApiConfig, ids: bool) -> ScoringApi {
    #[derive(Debug)]
    struct Nobody;
    impl Api for Nobody {
        fn path(&self) -> &'static str {
            "chat/completions"
        }
        fn body(&self, _: &Request) -> serde_json::Result<Vec<u8>> {
            Ok(b"asked".to_vec())
        }
        fn parse(&self, _: &[u8], _: &Request) -> Result<Reply, Unusable> {
            Err(Unusable::NoLogProbs)
        }
        fn usage(&self, _: &[u8]) -> Option<Usage> {
            None
        }
    }
    ScoringApi { answering: Arc::new(Nobody), model: "m".to_owned(), api, dialect: Dialect::Vllm { ids } }
}

fn request(text: &str) -> Request {
    Request {
        messages: vec![Message::user("one?")],
        sampling: Sampling { temperature: 0.0, top_p: 1.0, top_k: None, max_tokens: 1, stop: vec![] },
        capture: Some(Capture::TopK(2)),
        sample: 0,
        attempt: 0,
        seed: None,
        given: Some(Given { text: text.to_owned(), finish: "given".to_owned(), outcome: Outcome::Ok }),
    }
}

#[test]
fn an_answer_is_sent_as_the_end_of_what_is_read() {
    let body =
        |config| -> Value { serde_json::from_slice(&api(config, true).body(&request("It is one.")).unwrap()).unwrap() };
    let chat = body(ApiConfig::Chat);
    assert_eq!(chat["messages"][1], json!({ "role": "assistant", "content": "It is one." }));
    assert_eq!(
        (&chat["prompt_logprobs"], &chat["top_logprobs"], &chat["max_tokens"]),
        (&json!(2), &json!(2), &json!(1))
    );
    assert_eq!((&chat["continue_final_message"], &chat["add_generation_prompt"]), (&json!(true), &json!(false)));
    assert_eq!(body(ApiConfig::Completions)["prompt"], "one?It is one.");
    let mut prefilled = request(" is one.");
    prefilled.messages.push(Message { role: "assistant".into(), ..Message::user("It") });
    let sent: Value = serde_json::from_slice(&api(ApiConfig::Chat, true).body(&prefilled).unwrap()).unwrap();
    assert_eq!(sent["messages"].as_array().unwrap().len(), 2);
    assert_eq!(sent["messages"][1]["content"], "It is one.");
    let asked = Request { given: None, ..request("") };
    assert_eq!(api(ApiConfig::Chat, true).body(&asked).unwrap(), b"asked");
}

/// What the server says of `user: one? assistant: It is`, and that it would go on with token 9.
fn said() -> Value {
    let told = |log_prob: f64, text: &str| json!({ "logprob": log_prob, "rank": 1, "decoded_token": text });
    json!({
        "model": "m-1",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "!" }, "finish_reason": "length",
            "logprobs": { "content": [{ "token": "token_id:9", "logprob": -0.5, "bytes": [],
                "top_logprobs": [{ "token": "token_id:9", "logprob": -0.5 }, { "token": "token_id:0", "logprob": -1.0 }] }] } }],
        "usage": { "prompt_tokens": 4, "completion_tokens": 1 },
        "prompt_logprobs": [
            null,
            { "2": told(-0.1, "one?") },
            { "5": told(-2.0, "It"), "6": told(-0.3, "One"), "7": told(-1.5, "Ah") },
            { "8": told(-0.2, " is"), "3": told(-9.0, "x") },
        ],
        "prompt_token_ids": [1, 2, 5, 8],
    })
}

#[test]
fn what_costs_nothing_to_understand_is_understood() {
    let api = api(ApiConfig::Chat, true);
    let twice = said().to_string().replacen('{', r#"{"model":"first","#, 1);
    for body in [format!("\u{feff}{}", said()), twice] {
        let reply = api.parse(body.as_bytes(), &request("It is")).unwrap();
        assert_eq!((reply.model.as_str(), reply.tokens.unwrap().len()), ("m-1", 3), "{body}");
    }
    let passed_on = api.parse(br#"{"choices":null,"error":{"message":"busy"}}"#, &request("It is"));
    assert_eq!(passed_on, Err(Unusable::Broken("the reply is an error: busy".to_owned())));
}

#[test]
fn every_token_of_the_answer_and_its_end_have_log_probabilities() {
    let reply = api(ApiConfig::Chat, true).parse(said().to_string().as_bytes(), &request("It is")).unwrap();
    assert_eq!((reply.text.as_str(), reply.finish.as_str(), reply.outcome), ("It is", "given", Outcome::Ok));
    assert_eq!((reply.model.as_str(), reply.usage), ("m-1", Usage { prompt: 4, completion: 1 }));
    let tokens = reply.tokens.unwrap();
    let ids = |candidates: &[Candidate]| candidates.iter().map(|one| one.id.unwrap()).collect::<Vec<_>>();
    assert_eq!(tokens.iter().map(|token| token.chosen.id).collect::<Vec<_>>(), [Some(5), Some(8), None]);
    // The two most probable ones were asked for; the token of the text may be none of them.
    assert_eq!((ids(&tokens[0].top), tokens[0].chosen.log_prob), (vec![6, 7], -2.0));
    assert_eq!((ids(&tokens[1].top), tokens[1].top[1].log_prob), (vec![8, 3], -9.0));
    assert_eq!((ids(&tokens[2].top), tokens[2].chosen.bytes.len()), (vec![9, 0], 0));
    let texts = api(ApiConfig::Chat, false).parse(said().to_string().as_bytes(), &request("It is")).unwrap();
    assert_eq!(texts.tokens.unwrap()[1].chosen, Candidate { id: None, bytes: b" is".to_vec(), log_prob: -0.2 });
    // The end of a text that was cut is no end.
    let mut cut = request("It is");
    cut.given.as_mut().unwrap().outcome = Outcome::Cut;
    let reply = api(ApiConfig::Chat, true).parse(said().to_string().as_bytes(), &cut).unwrap();
    assert_eq!(reply.tokens.unwrap().len(), 2);
    // Another text than the server read: nothing is known of its tokens.
    let other = api(ApiConfig::Chat, true).parse(said().to_string().as_bytes(), &request("It was")).unwrap();
    assert_eq!(other.tokens, Some(Vec::new()));
}

#[test]
fn what_can_be_no_log_probability_breaks_the_reply_and_its_place_is_named() {
    let parse = |change: &dyn Fn(&mut Value)| {
        let mut body = said();
        change(&mut body);
        api(ApiConfig::Chat, true).parse(body.to_string().as_bytes(), &request("It is"))
    };
    let broken = |change: &dyn Fn(&mut Value)| match parse(change) {
        Err(Unusable::Broken(what)) => what,
        other => panic!("{other:?}"),
    };
    let place = "at token 4 of 4 that were read, 2 of the answer";
    assert_eq!(
        broken(&|body| body["prompt_logprobs"][3]["8"]["logprob"] = json!(0.5)),
        format!("a log-probability is positive (0.5, of the token with id 8) {place}")
    );
    assert_eq!(
        broken(&|body| body["prompt_logprobs"][3]["3"]["logprob"] = Value::Null),
        format!("a log-probability is null (of the token with id 3) {place}")
    );
    assert_eq!(
        broken(&|body| body["prompt_logprobs"][3] = json!({ "3": { "logprob": -0.5, "decoded_token": " is" } })),
        "there is no log-probability of the token that stands there (id 8) at token 4 of 4 that were read"
    );
    assert_eq!(
        broken(&|body| body["prompt_logprobs"][2] = Value::Null),
        "there is null in place of log-probabilities at token 3 of 4 that were read"
    );
    assert_eq!(
        broken(&|body| body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] = json!(2.0)),
        "a positive log-probability (2) stands where the answer ends"
    );
    // Rounding, and what is no part of the answer.
    let well: [&dyn Fn(&mut Value); 3] = [
        &|body| body["prompt_logprobs"][3]["8"]["logprob"] = json!(1e-4),
        &|body| body["prompt_logprobs"][1]["2"]["logprob"] = json!(7.0),
        &|body| body["prompt_logprobs"][1]["2"]["logprob"] = Value::Null,
    ];
    for well in well {
        assert_eq!(parse(well).unwrap().tokens.unwrap().len(), 3);
    }
    // Of the first token of all nobody can say anything.
    let mut body = said();
    body["prompt_logprobs"] = json!([null, { "8": { "logprob": -0.2, "decoded_token": " is" } }]);
    body["prompt_token_ids"] = json!([5, 8]);
    let reply = api(ApiConfig::Completions, true).parse(body.to_string().as_bytes(), &request(" is")).unwrap();
    assert_eq!(reply.tokens.unwrap().len(), 2);
}

#[test]
fn completions_tell_of_what_they_read_within_the_choice() {
    let mut body = said();
    for member in ["prompt_logprobs", "prompt_token_ids"] {
        let value = body[member].take();
        body["choices"][0][member] = value;
    }
    let reply = api(ApiConfig::Completions, true).parse(body.to_string().as_bytes(), &request("It is")).unwrap();
    assert_eq!(reply.tokens.unwrap().len(), 3);
}

#[test]
fn a_server_that_scores_nothing_or_something_else_is_told() {
    let parse = |body: &Value| api(ApiConfig::Chat, true).parse(body.to_string().as_bytes(), &request("It is"));
    for member in ["prompt_logprobs", "prompt_token_ids"] {
        let mut without = said();
        without[member] = Value::Null;
        assert_eq!(parse(&without), Err(Unusable::NoLogProbs));
    }
    let mut short = said();
    short["prompt_token_ids"] = json!([1, 2]);
    assert_eq!(parse(&short), Err(Unusable::Broken("4 log-probabilities of 2 tokens".to_owned())));
    let error = parse(&json!({ "error": { "message": "no" } }));
    assert_eq!(error, Err(Unusable::Broken("the reply is an error: no".to_owned())));
    assert_eq!(parse(&json!({})), Err(Unusable::Broken("the reply has no choices".to_owned())));
}
