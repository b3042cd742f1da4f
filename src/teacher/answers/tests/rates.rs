//! Servers that take only so many requests at a time: everybody is answered, and hardly anybody is refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use stillhouse_stage::Class;

use super::bench::{Bench, prompts};
use super::server::{Server, echo};
use crate::testing::Act;

/// A server that takes `rate` requests a second and `burst` at once, and what it refused.
fn bucket(rate: f64, burst: f64, named: bool) -> (Server, Arc<AtomicU64>) {
    let (level, refused) = (Mutex::new((burst, Instant::now())), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&refused);
    let server = Server::start(move |asked| {
        let mut level = level.lock().unwrap();
        level.0 = (level.0 + level.1.elapsed().as_secs_f64() * rate).min(burst);
        level.1 = Instant::now();
        if level.0 >= 1.0 {
            level.0 -= 1.0;
            return echo(asked);
        }
        counted.fetch_add(1, Ordering::Relaxed);
        let busy = Act::status(429, r#"{"error":{"message":"Rate limit reached"}}"#);
        if named { busy.with_header("retry-after", "1") } else { busy }
    });
    (server, refused)
}

#[test]
fn a_server_that_takes_few_requests_a_second_answers_all_and_refuses_a_handful() {
    for (rate, burst, named, concurrency, count) in [(8.0, 1.0, true, 16, 20), (20.0, 5.0, false, 64, 120)] {
        let (server, refused) = bucket(rate, burst, named);
        let limits = json!({ "concurrency": concurrency, "attempts": 3 });
        let made = Bench::new().run(&prompts(count), server.definition(limits), json!({})).unwrap();
        let refused = refused.load(Ordering::Relaxed);
        assert_eq!(made.metric("answers"), count as u64);
        assert!(refused <= 3 * concurrency, "{refused} of {count} refused at {rate} a second");
    }
}

#[test]
fn what_is_billed_and_refused_by_us_is_spent() {
    // Every third request is answered without choices, with log-probabilities that are no numbers, or without any.
    let sum = Arc::new(Mutex::new([0_u64; 2]));
    let counted = Arc::clone(&sum);
    let server = Server::start(move |asked| {
        let mut body = json!({
            "model": "fake-1", "usage": { "prompt_tokens": 7, "completion_tokens": 3 },
            "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": "yes" },
                "logprobs": { "content": [{ "token": "yes", "logprob": -0.25, "top_logprobs": [] }] } }],
        });
        let mut sum = counted.lock().unwrap();
        sum[0] += 7;
        sum[1] += 3;
        match asked.number % 9 {
            1 => body["choices"] = json!([]),
            4 => body["choices"][0]["logprobs"] = json!(null),
            7 => return Act::ok(body.to_string().replace("-0.25", "NaN")),
            _ => {}
        }
        Act::ok(body.to_string())
    });
    let mut teacher = server.definition(json!({ "concurrency": 4 }));
    teacher["prices"] = json!({ "input": 1e6, "output": 2e6 });
    let made = Bench::new().run(&prompts(60), teacher, json!({ "capture": { "top-k": 1 } })).unwrap();
    let [prompt, completion] = *sum.lock().unwrap();
    assert!(server.teacher.asked() > 75);
    assert_eq!(made.outcome.metrics["paid-tokens"], json!({ "prompt": prompt, "completion": completion }));
    assert_eq!(made.outcome.metrics["spend-usd"], json!((prompt + 2 * completion) as f64));
    assert_eq!((made.metric("answers"), &made.outcome.metrics["not-reported"]), (60, &json!(null)));
}

#[test]
fn a_server_that_does_not_count_is_not_free() {
    let server = Server::start(|_| {
        let message = json!({ "role": "assistant", "content": "yes" });
        Act::ok(json!({ "choices": [{ "finish_reason": "stop", "message": message }] }).to_string())
    });
    let mut teacher = server.definition(json!({}));
    teacher["prices"] = json!({ "input": 1e6, "output": 1e6 });
    let bench = Bench::new();
    let made = bench.run(&prompts(5), teacher, json!({ "sampling": { "max-tokens": 8 } })).unwrap();
    let metrics = &made.outcome.metrics;
    // A byte a token: role and content, 16 for the turn and 16 more.
    let assumed = json!({ "prompt": 5 * (4 + 10 + 32), "completion": 40 });
    assert_eq!((&metrics["paid-tokens"], &metrics["spend-usd"]), (&assumed, &json!(270.0)));
    assert_eq!(metrics["not-reported"], json!({ "requests": 5, "assumed-tokens": assumed }));
    let warnings = bench.warnings();
    assert!(warnings[0].starts_with("teacher t did not say what 5 of 5 requests took"), "{warnings:?}");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn a_server_that_is_always_busy_is_given_up_after_the_longest_wait() {
    let server = Server::start(|_| Act::status(429, "busy").with_header("retry-after", "0.5"));
    let limits = json!({ "max-wait-seconds": 2.0, "attempts": 2 });
    let start = Instant::now();
    let failure = Bench::new().run(&prompts(3), server.definition(limits), json!({})).err().unwrap();
    assert_eq!(failure.class, Class::Teacher);
    assert!(failure.message.contains("was too busy for a request for "), "{failure}");
    assert!(failure.message.ends_with("the server answered 429: busy"), "{failure}");
    assert!(start.elapsed() < Duration::from_secs(20) && server.teacher.asked() > 3);
}

#[test]
fn a_server_that_says_it_takes_nothing_for_a_day_is_not_waited_for() {
    let server = Server::start(|asked| {
        echo(asked)
            .with_header("x-ratelimit-remaining-requests", "0")
            .with_header("x-ratelimit-reset-requests", "24h0m0s")
    });
    let bench = Bench::new();
    let start = Instant::now();
    let limits = json!({ "concurrency": 2 });
    let failure = bench.run(&prompts(20), server.definition(limits), json!({})).err().unwrap();
    assert!(
        failure.message.contains("asks to be left alone for 86400 s, more than the 600 s that are waited"),
        "{failure}"
    );
    assert!(failure.message.ends_with("it has 0 requests left, all of them again in 86400 s"), "{failure}");
    assert!(start.elapsed() < Duration::from_secs(10) && server.teacher.asked() < 6, "{}", server.teacher.asked());
}

#[test]
fn a_reset_that_makes_no_sense_holds_nothing_up() {
    let server = Server::start(|asked| {
        echo(asked)
            .with_header("x-ratelimit-remaining-requests", "0")
            .with_header("x-ratelimit-reset-requests", "9999999999")
    });
    let made = Bench::new().run(&prompts(9), server.definition(json!({})), json!({})).unwrap();
    assert_eq!(made.metric("answers"), 9);
}

#[test]
fn a_pause_that_the_server_s_count_makes_is_told_once() {
    let server = Server::start(|asked| {
        let answer = echo(asked);
        if asked.number > 0 {
            return answer;
        }
        answer.with_header("x-ratelimit-remaining-requests", "0").with_header("x-ratelimit-reset-requests", "4s")
    });
    let bench = Bench::new();
    bench.run(&prompts(3), server.definition(json!({ "concurrency": 1 })), json!({})).unwrap();
    let told: Vec<String> = bench.notes().into_iter().filter(|note| note.contains("nothing is sent for ")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("the server says that it has 0 requests left, all of them again in 4 s: "), "{told:?}");
}
