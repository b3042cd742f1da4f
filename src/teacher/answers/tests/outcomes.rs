//! What becomes of replies that are no whole answers: they stay, are left out, or the prompt is asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use stillhouse_data::answer::Outcome;
use stillhouse_data::jsonl::JsonlReader;

use super::bench::{Bench, Made, prompts};
use super::server::Server;
use crate::answers::{DROPPED_FILE, Dropped};
use crate::testing::{Act, Asked, answer_with};

fn number_in(asked: &Asked) -> u64 {
    asked.last_message().rsplit(' ').next().unwrap().parse().unwrap()
}

fn cut(text: &str) -> Act {
    let Act::Answer { body, .. } = answer_with(text) else { unreachable!() };
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    body["choices"][0]["finish_reason"] = json!("length");
    Act::ok(body.to_string())
}

fn dropped(made: &Made) -> Vec<Dropped> {
    JsonlReader::open(&made.out.join(DROPPED_FILE)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Question n gets JSON from its (n % 4 + 1)th asking on. Each asking has another seed, and none is asked twice.
fn stubborn() -> Server {
    let seeds: Mutex<BTreeMap<u64, BTreeSet<u64>>> = Mutex::default();
    Server::start(move |asked| {
        let number = number_in(asked);
        let mut seeds = seeds.lock().unwrap();
        let seeds = seeds.entry(number).or_default();
        assert!(seeds.insert(asked.json()["seed"].as_u64().unwrap()), "another seed each time");
        let act =
            if seeds.len() as u64 > number % 4 { answer_with("{\"a\": 1}") } else { answer_with("well, let me think") };
        act.after(Duration::from_millis(number * 31 % 7))
    })
}

#[test]
fn what_is_dropped_is_left_out_listed_and_counted() {
    let server = Server::start(|asked| if number_in(asked) % 3 == 1 { cut("and so") } else { answer_with("done") });
    let bench = Bench::new();
    let answers = json!({ "outcomes": { "cut": "drop" } });
    let made = bench.run(&prompts(10), server.definition(json!({})), answers).unwrap();
    assert!(made.answers().iter().all(|answer| answer.outcome == Outcome::Ok));
    assert_eq!((made.metric("answers"), made.metric("asked")), (7, 10));
    assert_eq!(made.outcome.metrics["dropped"], json!({ "cut": 3 }));
    assert_eq!(made.outcome.metrics["outcomes"], json!({ "ok": 7 }));
    assert_eq!(made.outcome.metrics["tokens"], json!({ "prompt": 49, "completion": 7 }));
    assert_eq!(made.outcome.metrics["paid-tokens"], json!({ "prompt": 70, "completion": 13 }));
    let listed = dropped(&made);
    assert_eq!(listed.len(), 3);
    assert_eq!((listed[0].outcome, listed[0].text.as_str(), listed[0].attempt), (Outcome::Cut, "and so", 0));
    // The same replies, all kept: nothing is asked.
    let kept = bench.run(&prompts(10), server.definition(json!({})), json!({})).unwrap();
    assert_eq!((kept.metric("answers"), kept.metric("from-cache"), server.teacher.asked()), (10, 10, 10));
    assert!(!kept.out.join(DROPPED_FILE).exists());
}

#[test]
fn when_everything_is_dropped_the_failure_says_so() {
    let server = Server::start(|_| cut("and so"));
    let answers = json!({ "outcomes": { "cut": "drop" } });
    let failure = Bench::new().run(&prompts(3), server.definition(json!({})), answers).err().unwrap();
    assert_eq!(failure.message, "every answer of teacher t was left out (3 cut)");
}

#[test]
fn only_what_is_asked_again_is_paid_again_and_only_once() {
    let (server, bench) = (stubborn(), Bench::new());
    let ask =
        |answers: Value| bench.run(&prompts(40), server.definition(json!({ "concurrency": 16 })), answers).unwrap();
    let kept = ask(json!({ "format": "json" }));
    assert_eq!(kept.outcome.metrics["outcomes"], json!({ "ok": 10, "unparseable": 30 }));
    assert_eq!(server.teacher.asked(), 40);
    let again = json!({ "format": "json", "outcomes": { "unparseable": "ask-again" } });
    let made = ask(again.clone());
    // 30 are asked a second time, 20 of them a third.
    assert_eq!((server.teacher.asked(), made.metric("asked"), made.metric("asked-again")), (90, 50, 50));
    assert_eq!(made.metric("from-cache"), 40);
    assert_eq!(made.outcome.metrics["outcomes"], json!({ "ok": 30, "unparseable": 10 }));
    assert_eq!(made.outcome.metrics["paid-tokens"]["prompt"], json!(350));
    for (number, answer) in made.answers().iter().enumerate() {
        let wanted = if number % 4 == 3 { Outcome::Unparseable } else { Outcome::Ok };
        assert_eq!(
            (answer.messages[0].content.as_str(), answer.outcome),
            (format!("question {number}").as_str(), wanted)
        );
    }
    let once_more = ask(again.clone());
    assert_eq!((server.teacher.asked(), once_more.metric("asked"), once_more.metric("from-cache")), (90, 0, 90));
    assert_eq!(made.bytes(), once_more.bytes());
    let strict = ask(json!({ "format": "json", "outcomes": { "unparseable": "ask-again" }, "ask-again-then": "drop" }));
    assert_eq!((server.teacher.asked(), strict.metric("answers")), (90, 30));
    assert!(dropped(&strict).iter().all(|dropped| dropped.attempt == 2 && dropped.outcome == Outcome::Unparseable));
    let further = json!({ "format": "json", "outcomes": { "unparseable": "ask-again" }, "ask-again-times": 3 });
    assert_eq!(ask(further).outcome.metrics["outcomes"], json!({ "ok": 40 }));
    assert_eq!(server.teacher.asked(), 100, "the ten that were left are asked a fourth time");
}

#[test]
fn what_is_asked_again_is_asked_side_by_side_and_comes_out_in_order() {
    let answers =
        json!({ "format": { "regex": "^\\{" }, "outcomes": { "unparseable": "ask-again" }, "ask-again-times": 3 });
    let (alone, at_once) = (stubborn(), stubborn());
    let (bench, other) = (Bench::new(), Bench::new());
    let run = |bench: &Bench, server: &Server, concurrency: u32| {
        let teacher = server.definition(json!({ "concurrency": concurrency }));
        bench.run(&prompts(40), teacher, answers.clone()).unwrap()
    };
    let made = run(&bench, &at_once, 20);
    assert_eq!(made.bytes(), run(&other, &alone, 1).bytes());
    assert_eq!((made.metric("asked"), made.metric("answers")), (100, 40));
    assert!(at_once.teacher.most_at_once() > 8, "{}", at_once.teacher.most_at_once());
}

#[test]
fn equal_prompts_are_asked_again_once() {
    let server = Arc::new(stubborn());
    let twice = [prompts(8), prompts(8)].concat();
    let answers = json!({ "format": "json", "outcomes": { "unparseable": "ask-again" }, "ask-again-times": 3 });
    let made = Bench::new().run(&twice, server.definition(json!({})), answers).unwrap();
    assert_eq!(server.teacher.asked(), 20);
    assert_eq!((made.metric("answers"), made.metric("asked"), made.metric("from-cache")), (16, 20, 20));
}
