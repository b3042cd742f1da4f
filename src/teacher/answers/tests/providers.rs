//! The stage with providers that are not `openai`'s chat.

use serde_json::json;

use super::bench::{Bench, prompts};
use super::server::Server;
use crate::testing::Act;

#[test]
fn anthropic_is_asked_in_its_own_words() {
    let key = std::env::var("CARGO_PKG_LICENSE").unwrap();
    let server = Server::start(move |asked| {
        assert_eq!((asked.path.as_str(), asked.header("x-api-key")), ("/v1/messages", Some(key.as_str())));
        assert_eq!((asked.header("anthropic-version"), asked.authorization.as_deref()), (Some("2023-06-01"), None));
        if asked.number == 0 {
            let body = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
            return Act::status(529, body).with_header("retry-after", "0");
        }
        let body = json!({
            "type": "message", "role": "assistant", "model": "claude-x-20260101", "stop_reason": "end_turn",
            "content": [{ "type": "text", "text": format!("answer to: {}", asked.last_message()) }],
            "usage": { "input_tokens": 7, "output_tokens": 4 },
        });
        Act::ok(body.to_string())
    });
    let teacher = json!({
        "provider": "anthropic", "base-url": server.teacher.base_url(), "model": "claude-x-20260101",
        "api-key-env": "CARGO_PKG_LICENSE", "prices": { "input": 1e6, "output": 1e6 },
    });
    let bench = Bench::new();
    let made = bench.run(&prompts(20), teacher, json!({})).unwrap();
    assert_eq!(made.answers()[3].text, "answer to: question 3");
    assert_eq!((server.teacher.asked(), made.metric("asked")), (21, 20));
    assert_eq!(made.outcome.metrics["spend-usd"], 220.0);
    assert_eq!(made.outcome.provenance["provider"], "anthropic");
}

#[test]
fn completions_and_vllm_go_the_same_way() {
    let server = Server::start(|asked| {
        assert_eq!(asked.path, "/v1/completions");
        let body = asked.json();
        let text = format!(" then {}", body["prompt"].as_str().unwrap());
        let choice = json!({ "text": text, "finish_reason": "stop" });
        Act::ok(json!({ "choices": [choice], "model": "base-1" }).to_string())
    });
    let bench = Bench::new();
    for provider in ["openai", "vllm"] {
        let mut teacher = server.definition(json!({}));
        teacher["provider"] = json!(provider);
        teacher["api"] = json!("completions");
        let made = bench.run(&prompts(3), teacher, json!({})).unwrap();
        assert_eq!(made.answers()[2].text, " then question 2");
    }
    assert_eq!(server.teacher.asked(), 6, "what one provider was told is not taken for another's");
}
