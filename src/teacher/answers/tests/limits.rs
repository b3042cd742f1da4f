//! What a server refuses, how it fails, and how much may be asked of it: what becomes of the stage.

use std::sync::Mutex;

use serde_json::json;
use stillhouse_data::answer::Outcome;
use stillhouse_stage::Class;

use super::bench::{Bench, prompts};
use super::server::{Server, echo, number_in};
use crate::testing::{Act, Faults};

fn too_long() -> Act {
    Act::status(400, include_str!("../../tests/golden/error_400_context.json"))
}

#[test]
fn a_rejected_prompt_is_kept_with_the_server_s_words_and_loses_nobody_else() {
    let server = Server::start(|asked| if number_in(asked) == 7 { too_long() } else { echo(asked) });
    let bench = Bench::new();
    let made = bench.run(&prompts(9), server.definition(json!({})), json!({})).unwrap();
    let answers = made.answers();
    let rejected = &answers[7];
    assert_eq!((rejected.outcome, rejected.text.as_str()), (Outcome::Rejected, ""));
    assert_eq!(
        rejected.finish,
        "400: request (9031 tokens) exceeds the available context size (4096 tokens), try increasing it \
         (exceed_context_size_error)"
    );
    assert_eq!(answers.iter().filter(|answer| answer.outcome == Outcome::Ok).count(), 8);
    assert_eq!(made.outcome.metrics["outcomes"], json!({ "ok": 8, "rejected": 1 }));
    assert_eq!(made.outcome.provenance["models-as-the-server-named-them"], json!({ "fake-1": 8 }));
    let warning = &bench.warnings()[0];
    assert!(warning.starts_with("1 of 9 requests were rejected and have no answer; prompt 8 ("), "{warning}");
    // It cost nothing, so it is no stored reply: a server with more room is asked again.
    let roomy = Server::echo();
    let made = bench.run(&prompts(9), roomy.definition(json!({})), json!({})).unwrap();
    assert_eq!((roomy.teacher.asked(), made.metric("from-cache")), (1, 8));
}

#[test]
fn a_rejected_prompt_ends_the_stage_where_that_is_wanted() {
    let server = Server::start(|asked| if number_in(asked) == 7 { too_long() } else { echo(asked) });
    let fail = json!({ "on-rejected": "fail" });
    let failure = Bench::new().run(&prompts(9), server.definition(json!({})), fail).err().unwrap();
    assert!(failure.message.starts_with("prompt 8 ("), "{failure}");
    assert!(failure.hint.unwrap().contains("longer than the teacher's context"));
}

#[test]
fn a_server_that_rejects_everything_is_not_asked_everything() {
    let server = Server::start(|_| Act::status(422, r#"{"detail":"unknown field `min_p`"}"#));
    let limits = json!({ "concurrency": 4 });
    let failure = Bench::new().run(&prompts(500), server.definition(limits), json!({})).err().unwrap();
    assert!(failure.message.starts_with("the first 20 requests were all rejected: prompt "), "{failure}");
    assert!(failure.message.ends_with("rejected a request (422): unknown field `min_p`"), "{failure}");
    assert!(failure.hint.unwrap().contains("`strict = true`"));
    assert!((20..30).contains(&server.teacher.asked()), "{}", server.teacher.asked());
    let failure = Bench::new().run(&prompts(3), server.definition(json!({})), json!({})).err().unwrap();
    assert!(failure.message.starts_with("every request was rejected (3): prompt "), "{failure}");
}

#[test]
fn a_teacher_that_is_down_stops_the_stage_and_not_one_request_after_the_other() {
    let server = Server::start(|asked| if asked.number < 30 { echo(asked) } else { Act::status(500, "oops") });
    let bench = Bench::new();
    let limits = json!({ "attempts": 2, "concurrency": 8 });
    let failure = bench.run(&prompts(2000), server.definition(limits), json!({})).err().unwrap();
    assert_eq!(failure.class, Class::Teacher);
    assert!(failure.message.contains(" is down: "), "{failure}");
    assert!(
        failure.message.ends_with("requests in a row failed, the last: the server answered 500: oops"),
        "{failure}"
    );
    assert_eq!(failure.hint.as_deref(), Some("what was answered is kept: run again when the server is well"));
    assert!(server.teacher.asked() < 80, "{}", server.teacher.asked());
    let well = Server::echo();
    let made = bench.run(&prompts(2000), well.definition(json!({})), json!({})).unwrap();
    assert_eq!((well.teacher.asked(), made.metric("from-cache")), (1970, 30));
}

#[test]
fn what_went_to_requests_without_a_reply_is_not_told_as_kept() {
    for (poison, lost) in [
        // A broken reply that is counted, twice; and no reply at all, of which nobody says what it took.
        (Act::ok(r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#), "10 + 2 tokens, $12.0000"),
        (Act::status(500, "oops"), "not reported"),
    ] {
        let server = Server::start(move |asked| if number_in(asked) == 3 { poison.clone() } else { echo(asked) });
        let bench = Bench::new();
        let mut teacher = server.definition(json!({ "attempts": 2 }));
        teacher["prices"] = json!({ "input": 1e6, "output": 1e6 });
        bench.run(&prompts(10), teacher, json!({ "sampling": { "max-tokens": 64 } })).err().unwrap();
        let notes = bench.notes();
        let (kept, in_vain) = notes[0].split_once("; requests that brought none took ").unwrap();
        assert_eq!(kept, "teacher t: 9 new replies are kept (63 + 36 tokens, $99.0000)");
        match lost {
            "not reported" => {
                assert!(
                    in_vain.contains(" + 128 tokens, $") && in_vain.ends_with(", at most: 2 not reported"),
                    "{notes:?}"
                );
            }
            counted => assert_eq!(in_vain, counted),
        }
    }
}

#[test]
fn a_prompt_that_is_never_answered_costs_the_others_nothing_and_is_remembered() {
    let poison = || {
        Server::start(|asked| match number_in(asked) {
            7 => Act::ok(r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#),
            3 => Act::status(500, "oops"),
            _ => echo(asked),
        })
    };
    let (server, bench) = (poison(), Bench::new());
    let run =
        |answers: serde_json::Value| bench.run(&prompts(30), server.definition(json!({ "attempts": 2 })), answers);
    let failure = run(json!({})).err().unwrap();
    assert_eq!(failure.class, Class::Teacher);
    assert!(failure.message.contains("2 got no usable reply though others did: "), "{failure}");
    assert!(
        failure.message.contains("prompt 8 (") && failure.message.contains("the reply has no choices"),
        "{failure}"
    );
    assert!(failure.message.contains("prompt 4 (") && failure.message.contains("answered 500: oops"), "{failure}");
    assert!(failure.hint.unwrap().contains("`outcomes = { failed = \"drop\" }`"));
    assert_eq!(server.teacher.asked(), 28 + 4, "all others were answered");
    // What was found out is not paid again.
    let made = run(json!({ "outcomes": { "failed": "drop" } })).unwrap();
    assert_eq!((server.teacher.asked(), made.metric("asked"), made.metric("answers")), (32, 0, 28));
    assert_eq!(made.outcome.metrics["dropped"], json!({ "failed": 2 }));
    let kept = run(json!({ "outcomes": { "failed": "keep" } })).unwrap().answers();
    assert_eq!((kept[7].outcome, kept[7].finish.as_str()), (Outcome::Failed, "the reply has no choices"));
    assert_eq!(server.teacher.asked(), 32);
    // Unless it is wished.
    run(json!({})).err().unwrap();
    assert_eq!(server.teacher.asked(), 36);
    let again =
        run(json!({ "outcomes": { "failed": "ask-again" }, "ask-again-times": 1, "ask-again-then": "drop" })).unwrap();
    assert_eq!((server.teacher.asked(), again.metric("answers")), (40, 28));
    // A prompt that failed twice is one that failed.
    assert_eq!(again.outcome.metrics["failed"], json!({ "prompts": 2, "requests": 4 }));
    let words = "of 30 requests 2 got no usable reply though others did, asked 4 times in all: prompt 4 (";
    assert!(bench.warnings().last().unwrap().contains(words), "{:?}", bench.warnings());
    run(json!({ "outcomes": { "failed": "ask-again" }, "ask-again-times": 1, "ask-again-then": "drop" })).unwrap();
    assert_eq!(server.teacher.asked(), 40);
    // With a server that is well, the replies come.
    let well = Server::echo();
    let healed = bench.run(&prompts(30), well.definition(json!({})), json!({})).unwrap();
    assert_eq!((well.teacher.asked(), healed.metric("answers")), (2, 30));
}

#[test]
fn a_few_prompts_that_are_never_answered_put_no_teacher_in_doubt() {
    // The last ones, so that nobody is answered after they failed; and the first ones, among all others.
    for bad in [27..30_u64, 0..12] {
        let poison = bad.clone();
        let server = Server::start(move |asked| {
            let number = number_in(asked);
            if poison.contains(&number) { Act::status(500, "oops") } else { echo(asked) }
        });
        let bench = Bench::new();
        let limits = json!({ "failures-in-a-row": 3, "attempts": 3, "concurrency": 16 });
        let drop = json!({ "outcomes": { "failed": "drop" } });
        let made = bench.run(&prompts(30), server.definition(limits.clone()), drop.clone()).unwrap();
        assert_eq!(made.outcome.metrics["dropped"], json!({ "failed": bad.end - bad.start }));
        let asked = server.teacher.asked();
        bench.run(&prompts(30), server.definition(limits.clone()), drop).unwrap();
        assert_eq!(server.teacher.asked(), asked);
        // A run that asks only them again says so too, and does not say that the teacher is down.
        let failure = bench.run(&prompts(30), server.definition(limits), json!({})).err().unwrap();
        assert!(failure.message.contains("got no usable reply though others did: prompt "), "{failure}");
    }
}

#[test]
fn a_teacher_that_comes_back_is_asked_on() {
    // Forty failures in a row, whoever asks.
    let server = Server::start(|asked| if (30..70).contains(&asked.number) { Act::Reset } else { echo(asked) });
    let limits = json!({ "concurrency": 32 });
    let made = Bench::new().run(&prompts(200), server.definition(limits), json!({})).unwrap();
    assert_eq!((made.metric("answers"), server.teacher.asked()), (200, 240));
}

#[test]
fn caps_on_tokens_and_requests_stop_cleanly_and_the_next_run_goes_on() {
    for (limits, words) in [
        (json!({ "budget-requests": 50, "concurrency": 4 }), "the budget of 50 requests is used up"),
        (
            json!({ "budget-tokens": 550, "concurrency": 4 }),
            "the budget of 550 tokens has no room for the next request (",
        ),
    ] {
        let (server, next) = (Server::echo(), Server::echo());
        let bench = Bench::new();
        let sampling = json!({ "sampling": { "max-tokens": 8 } });
        let failure = bench.run(&prompts(100), server.definition(limits), sampling.clone()).err().unwrap();
        assert_eq!(failure.class, Class::Budget);
        assert!(failure.message.contains(words), "{failure}");
        let first = server.teacher.asked();
        assert!((40..=50).contains(&first), "a reply takes 11 tokens: {first}");
        // The stage has no record, so its events say what it paid for.
        let spent = bench.spent().unwrap();
        assert_eq!((spent.teacher.as_str(), spent.requests, spent.usd), ("teacher.t", first, None));
        assert_eq!(spent.prompt_tokens + spent.completion_tokens, 11 * first);
        let made = bench.run(&prompts(100), next.definition(json!({})), sampling).unwrap();
        assert_eq!((next.teacher.asked(), made.metric("from-cache")), (100 - first, first));
        assert_eq!(bench.spent().unwrap().requests, made.metric("asked"));
    }
}

#[test]
fn a_server_s_own_count_of_what_is_left_is_kept_to() {
    // Three a second, and a refusal for whoever comes too early.
    let taken = Mutex::new((std::time::Instant::now(), 3.0_f64, 0_u32));
    let server = Server::start(move |asked| {
        let mut taken = taken.lock().unwrap();
        let (since, left, _) = *taken;
        taken.0 = std::time::Instant::now();
        taken.1 = (left + since.elapsed().as_secs_f64() * 3.0).min(3.0);
        if taken.1 < 1.0 {
            taken.2 += 1;
            assert!(taken.2 < 4, "refused {} times", taken.2);
            return Act::status(429, "").with_header("retry-after", "1");
        }
        taken.1 -= 1.0;
        let reset = format!("{}ms", ((3.0 - taken.1) / 3.0 * 1000.0).ceil());
        echo(asked)
            .with_header("x-ratelimit-limit-requests", "3")
            .with_header("x-ratelimit-remaining-requests", &format!("{}", taken.1.floor()))
            .with_header("x-ratelimit-reset-requests", &reset)
    });
    let made = Bench::new().run(&prompts(9), server.definition(json!({ "concurrency": 1 })), json!({})).unwrap();
    assert_eq!(made.metric("answers"), 9);
}

#[test]
fn two_thousand_prompts_to_a_server_with_every_fault_are_answered_once_each() {
    let faults = std::sync::Arc::new(Faults::new(0.2));
    let script = std::sync::Arc::clone(&faults);
    let server = Server::start(move |asked| script.act(asked));
    let bench = Bench::new();
    let limits = json!({ "concurrency": 64, "attempts": 12 });
    let made = bench.run(&prompts(2000), server.definition(limits), json!({ "capture": { "top-k": 1 } })).unwrap();
    let texts: Vec<String> = made.answers().into_iter().map(|answer| answer.text).collect();
    let wanted: Vec<String> = prompts(2000).iter().map(|prompt| format!("answer to: {prompt}")).collect();
    assert_eq!(texts, wanted);
    assert_eq!((faults.good(), made.metric("asked")), (2000, 2000), "a good answer is not asked for again");
    let broken = faults.broken();
    assert_eq!(broken.len(), 11, "every fault came up: {broken:?}");
    let bad = broken.iter().filter(|(name, _)| **name != "slow").map(|(_, count)| count).sum::<u64>();
    assert_eq!(server.teacher.asked(), 2000 + bad);
    assert!((300..700).contains(&bad), "{bad}");
}
