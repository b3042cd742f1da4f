//! The stage against a server in the same process.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use stillhouse_data::answer::Outcome;
use stillhouse_stage::Class;

use super::bench::{Bench, prompts};
use crate::answers::{CAPTURED_FILE, Captured};
use crate::testing::{Act, Asked, FakeTeacher, answer_with};

/// A server on threads of its own, because the stage blocks the test's.
pub struct Server {
    pub teacher: FakeTeacher,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub fn start(script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let teacher = runtime.block_on(FakeTeacher::start(script)).unwrap();
        Self { teacher, _runtime: runtime }
    }

    pub fn echo() -> Self {
        Self::start(echo)
    }

    pub fn definition(&self, limits: Value) -> Value {
        let base_url = self.teacher.base_url();
        json!({ "provider": "openai", "base-url": base_url, "model": "fake-1", "limits": limits })
    }
}

pub fn echo(asked: &Asked) -> Act {
    answer_with(&format!("answer to: {}", asked.last_message()))
}

pub fn number_in(asked: &Asked) -> u64 {
    asked.last_message().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn answers_stand_in_the_order_of_the_prompts_whatever_order_they_came_in() {
    let server = Server::start(|asked| echo(asked).after(Duration::from_millis(number_in(asked) * 7919 % 23)));
    let (bench, again) = (Bench::new(), Bench::new());
    let made = bench.run(&prompts(100), server.definition(json!({ "concurrency": 32 })), json!({})).unwrap();
    for (number, answer) in made.answers().iter().enumerate() {
        assert_eq!(answer.text, format!("answer to: question {number}"));
        assert_eq!((answer.sample, answer.outcome, answer.finish.as_str()), (0, Outcome::Ok, "stop"));
    }
    let other = again.run(&prompts(100), server.definition(json!({ "concurrency": 3 })), json!({})).unwrap();
    assert_eq!(made.bytes(), other.bytes());
    assert_eq!(server.teacher.asked(), 200);
}

#[test]
fn what_was_answered_is_not_asked_again_and_needs_neither_key_nor_network() {
    let server = Server::echo();
    let mut bench = Bench::new();
    let made = bench.run(&prompts(20), server.definition(json!({})), json!({ "samples": 2 })).unwrap();
    assert_eq!((made.metric("answers"), made.metric("asked"), made.metric("from-cache")), (40, 40, 0));
    bench.offline = true;
    let mut elsewhere = server.definition(json!({}));
    elsewhere["base-url"] = json!("http://127.0.0.1:9/v1");
    elsewhere["api-key-env"] = json!("A_VARIABLE_THAT_NOBODY_SETS");
    let again = bench.run(&prompts(20), elsewhere.clone(), json!({ "samples": 2 })).unwrap();
    assert_eq!((again.metric("asked"), again.metric("from-cache")), (0, 40));
    assert_eq!(made.bytes(), again.bytes());
    let failure = bench.run(&prompts(21), elsewhere, json!({})).err().unwrap();
    assert_eq!(failure.message, "teacher t would have to be asked, but the run is offline");
    assert_eq!(server.teacher.asked(), 40);
}

#[test]
fn only_new_prompts_are_asked_and_equal_ones_once() {
    let server = Server::start(|asked| echo(asked).after(Duration::from_millis(5)));
    let bench = Bench::new();
    bench.run(&prompts(10), server.definition(json!({})), json!({})).unwrap();
    let more = [prompts(13), prompts(13)].concat();
    let made = bench.run(&more, server.definition(json!({})), json!({})).unwrap();
    assert_eq!(server.teacher.asked(), 13);
    assert_eq!((made.metric("answers"), made.metric("asked")), (26, 3));
}

#[test]
fn raising_max_tokens_asks_again_only_what_was_cut() {
    // Question n wants n words.
    let server = Server::start(|asked| {
        let (wanted, limit) = (number_in(asked), asked.json()["max_tokens"].as_u64().unwrap());
        let said = vec!["word"; wanted.min(limit) as usize].join(" ");
        let Act::Answer { body, .. } = answer_with(&said) else { unreachable!() };
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        if wanted > limit {
            body["choices"][0]["finish_reason"] = json!("length");
        }
        Act::ok(body.to_string())
    });
    let bench = Bench::new();
    let prompts: Vec<String> = prompts(11).split_off(1);
    let ask = |limit: u32| {
        let before = server.teacher.asked();
        let answers = json!({ "sampling": { "max-tokens": limit } });
        let made = bench.run(&prompts, server.definition(json!({})), answers).unwrap();
        (server.teacher.asked() - before, made.outcome.metrics["outcomes"]["cut"].as_u64().unwrap_or(0))
    };
    assert_eq!(ask(4), (10, 6));
    assert_eq!(ask(8), (6, 2), "the six that were cut");
    assert_eq!(ask(100), (2, 0), "the two that were cut again");
    assert_eq!(ask(9), (1, 1), "one is longer than this limit, the others ended by themselves");
    assert_eq!(ask(4), (0, 6), "all of it was asked before");
}

#[test]
fn a_run_that_broke_off_pays_nothing_twice() {
    let server = Server::start(|asked| if asked.number < 50 { echo(asked) } else { Act::status(401, "{}") });
    let bench = Bench::new();
    let failure = bench.run(&prompts(100), server.definition(json!({})), json!({})).err().unwrap();
    assert_eq!(failure.class, Class::Teacher);
    assert!(failure.message.contains("wants a key (401)"), "{failure}");
    assert!(server.teacher.asked() < 100, "after a refusal no more are sent");
    let well = Server::echo();
    let made = bench.run(&prompts(100), well.definition(json!({})), json!({})).unwrap();
    assert_eq!((well.teacher.asked(), made.metric("from-cache")), (50, 50));
}

#[test]
fn a_used_up_budget_stops_cleanly_and_the_next_run_goes_on() {
    // A process is one run: the next run is one with another address, which has spent nothing.
    let (server, next) = (Server::echo(), Server::echo());
    let bench = Bench::new();
    let run = |server: &Server| {
        let mut teacher = server.definition(json!({ "budget-usd": 1500.0, "concurrency": 4 }));
        teacher["prices"] = json!({ "input": 1e6, "output": 1e6 });
        bench.run(&prompts(200), teacher, json!({ "sampling": { "max-tokens": 64 } }))
    };
    let failure = run(&server).err().unwrap();
    assert_eq!(failure.class, Class::Budget);
    let first = server.teacher.asked();
    let kept =
        format!("teacher t: {first} new replies are kept ({} + {} tokens, ${}.0000)", 7 * first, 4 * first, 11 * first);
    assert_eq!(bench.notes(), [kept]);
    // A reply costs 7 + 4 = 11 dollars.
    assert!((100..=136).contains(&first), "{first}");
    assert_eq!(
        run(&server).err().unwrap().class,
        Class::Budget,
        "a later stage of the same run spends of the same budget"
    );
    let paid = server.teacher.asked();
    assert!((first..=136).contains(&paid), "{paid}");
    let made = run(&next).unwrap();
    assert_eq!((next.teacher.asked(), made.metric("from-cache")), (200 - paid, paid));
    assert_eq!(made.outcome.metrics["spend-usd"].as_f64().unwrap(), (200 - paid) as f64 * 11.0);
}

#[test]
fn every_prompt_is_answered_exactly_once_though_a_fifth_of_the_requests_fail() {
    let failed = Mutex::new(std::collections::BTreeSet::new());
    let server = Server::start(move |asked| {
        let number = number_in(asked);
        if !number.is_multiple_of(5) || !failed.lock().unwrap().insert(number) {
            return echo(asked);
        }
        match number / 5 % 7 {
            0 => Act::status(429, "{}").with_header("retry-after", "0"),
            1 => Act::status(500, "oops"),
            2 => Act::ok("<html>"),
            3 => Act::ok(""),
            4 => Act::Reset,
            5 => Act::HalfBody(vec![b'{'; 64]),
            _ => Act::ok(r#"{"choices":[]}"#),
        }
    });
    let bench = Bench::new();
    let made = bench.run(&prompts(300), server.definition(json!({})), json!({})).unwrap();
    let texts: Vec<String> = made.answers().into_iter().map(|answer| answer.text).collect();
    let wanted: Vec<String> = prompts(300).iter().map(|prompt| format!("answer to: {prompt}")).collect();
    assert_eq!(texts, wanted);
    assert_eq!(server.teacher.asked(), 360);
}

#[test]
fn log_probs_are_kept_beside_the_answers() {
    let exchange: Value =
        serde_json::from_str(include_str!("../../tests/golden/chat_exchanges.jsonl").lines().next().unwrap()).unwrap();
    let body = exchange["response"].to_string();
    let server = Server::start(move |asked| {
        assert_eq!(asked.json()["top_logprobs"], 5);
        Act::ok(body.clone())
    });
    let bench = Bench::new();
    let answers = json!({ "capture": { "top-k": 5 } });
    let made = bench.run(&prompts(2), server.definition(json!({})), answers).unwrap();
    let text = fs_err::read_to_string(made.out.join(CAPTURED_FILE)).unwrap();
    let captured: Vec<Captured> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(captured.len(), 2);
    assert_eq!((captured[1].tokens[0].chosen.id, captured[1].tokens[0].top.len()), (Some(504), 3));
    assert_eq!(captured[1].prompt, made.answers()[1].prompt);
}

#[test]
fn stopping_keeps_what_was_answered() {
    let server = Server::start(|asked| echo(asked).after(Duration::from_millis(10)));
    let mut bench = Bench::new();
    let cancel = bench.cancel.clone();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400));
        cancel.cancel();
    });
    let limits = json!({ "concurrency": 2 });
    let failure = bench.run(&prompts(1000), server.definition(limits), json!({})).err().unwrap();
    stopper.join().unwrap();
    assert_eq!(failure.class, Class::Interrupted);
    let asked = server.teacher.asked();
    assert!((10..200).contains(&asked), "{asked}");
    bench.cancel = stillhouse_stage::Cancel::default();
    let quick = Server::echo();
    let made = bench.run(&prompts(1000), quick.definition(json!({})), json!({})).unwrap();
    assert_eq!(made.metric("from-cache"), asked, "all that was sent was brought home");
}

#[test]
fn the_key_is_sent_and_left_nowhere() {
    // A variable that cargo sets for every test: nothing here may change the environment.
    let (variable, key) = ("CARGO_PKG_LICENSE", std::env::var("CARGO_PKG_LICENSE").unwrap());
    let expected = format!("Bearer {key}");
    let words = json!({ "error": { "message": format!("bad key {key}") } }).to_string();
    let server = Server::start(move |asked| {
        assert_eq!(asked.authorization.as_deref(), Some(expected.as_str()));
        if asked.number < 3 { echo(asked) } else { Act::status(403, words.clone()) }
    });
    let bench = Bench::new();
    let mut teacher = server.definition(json!({ "concurrency": 1 }));
    teacher["api-key-env"] = json!(variable);
    let failure = bench.run(&prompts(5), teacher, json!({})).err().unwrap();
    let told = format!("{failure:?}");
    assert!(told.contains("refused the key in CARGO_PKG_LICENSE (403): bad key ***"), "{told}");
    assert!(!told.contains(&key));
    assert!(!bench.leaves_a_trace_of(&key));
}

#[test]
fn a_key_that_a_server_repeats_in_a_reply_is_stored_as_stars() {
    let (variable, key) = ("CARGO_PKG_LICENSE", std::env::var("CARGO_PKG_LICENSE").unwrap());
    let words = key.clone();
    let server = Server::start(move |asked| {
        let Act::Answer { body, .. } = answer_with(&format!("{} {words}", asked.last_message())) else {
            unreachable!()
        };
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        let token = |text: &str| json!({ "token": text, "logprob": -0.1, "top_logprobs": [{ "token": text, "logprob": -0.1 }] });
        let (start, end) = words.split_at(4);
        body["choices"][0]["logprobs"] = json!({ "content": [token("question"), token(start), token(end)] });
        Act::ok(body.to_string())
    });
    let bench = Bench::new();
    let mut teacher = server.definition(json!({}));
    teacher["api-key-env"] = json!(variable);
    let made = bench.run(&prompts(3), teacher, json!({ "capture": { "top-k": 1 } })).unwrap();
    assert_eq!(made.answers()[2].text, "question 2 ***");
    assert!(!bench.leaves_a_trace_of(&key) && !bench.leaves_a_trace_of(key.split_at(4).1));
    assert_eq!(
        bench.warnings(),
        [format!(
            "teacher t repeated the key in {variable} in 3 of its replies: it is stored as *** (if the server wants no \
             key, remove `api-key-env`)"
        )]
    );
}

#[test]
fn what_is_waited_for_is_said_once_and_not_once_a_request() {
    let server = Server::start(|asked| match asked.number {
        0..16 => Act::status(503, r#"{"error":"loading the model"}"#).with_header("retry-after", "3"),
        _ => echo(asked),
    });
    let bench = Bench::new();
    let made = bench.run(&prompts(50), server.definition(json!({})), json!({})).unwrap();
    assert_eq!(made.metric("answers"), 50);
    let notes = bench.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].starts_with("teacher t: the server answered 503: loading the model (1 of 8 tries), next try in "),
        "{notes:?}"
    );
    assert!(notes[0].ends_with(" requests wait"), "{notes:?}");
}

#[test]
fn a_server_that_wants_a_day_of_rest_ends_the_run_and_what_it_answered_is_kept() {
    let server = Server::start(|asked| match asked.number {
        0..30 => echo(asked),
        _ => Act::status(429, "enough for today").with_header("retry-after", "86400"),
    });
    let bench = Bench::new();
    let failure = bench.run(&prompts(100), server.definition(json!({})), json!({})).err().unwrap();
    assert_eq!((failure.class, failure.class.exit_code()), (Class::Teacher, 5));
    assert!(
        failure.message.contains("asks to be left alone for 86400 s, more than the 600 s that are waited"),
        "{failure}"
    );
    let well = Server::echo();
    let made = bench.run(&prompts(100), well.definition(json!({})), json!({})).unwrap();
    assert_eq!((well.teacher.asked(), made.metric("from-cache")), (70, 30));
}

#[test]
fn faults_of_a_teacher_have_its_exit_code_and_leave_no_answers_behind() {
    let faults: [fn() -> Act; 7] = [
        || Act::status(401, "{}"),
        || Act::status(404, "{}"),
        || Act::status(429, "{}").with_header("retry-after", "0"),
        || Act::status(500, "{}"),
        || Act::ok("garbage"),
        || Act::HalfBody(vec![b'{'; 64]),
        || Act::Reset,
    ];
    for fault in faults {
        let server = Server::start(move |_| fault());
        let bench = Bench::new();
        let limits = json!({ "attempts": 2, "concurrency": 2 });
        let failure = bench.run(&prompts(5), server.definition(limits), json!({})).err().unwrap();
        assert_eq!((failure.class, failure.class.exit_code()), (Class::Teacher, 5), "{failure}");
        let place = format!("teacher t at {} ", server.teacher.base_url());
        assert!(failure.message.starts_with(&place) && failure.hint.is_some(), "{failure}");
        let well = Server::echo();
        let made = bench.run(&prompts(5), well.definition(json!({})), json!({})).unwrap();
        assert_eq!(made.metric("from-cache"), 0, "a fault is no reply: {failure}");
    }
}

#[test]
fn answers_that_all_say_nothing_are_one_error() {
    let bench = Bench::new();
    let of = |number: u64| {
        let (finish, message) = match number % 3 {
            0 => ("content_filter", json!({ "content": null })),
            1 => ("stop", json!({ "content": null, "refusal": "No." })),
            _ => ("stop", json!({ "content": " \n" })),
        };
        Act::ok(json!({ "choices": [{ "finish_reason": finish, "message": message }] }).to_string())
    };
    let server = Server::start(move |asked| of(number_in(asked)));
    let failure = bench.run(&prompts(6), server.definition(json!({})), json!({})).err().unwrap();
    assert_eq!(failure.class, Class::Input);
    assert_eq!(failure.message, "none of the 6 answers of teacher t says anything (2 content-filter, 2 ok, 2 refusal)");
    assert!(failure.hint.unwrap().contains("change the prompts"));
    let thinking = Server::start(|_| {
        Act::ok(json!({ "choices": [{ "finish_reason": "length", "message": { "content": "" } }] }).to_string())
    });
    let failure = Bench::new().run(&prompts(1), thinking.definition(json!({})), json!({})).err().unwrap();
    assert_eq!(failure.message, "the only answer of teacher t says nothing (1 cut)");
    assert!(failure.hint.unwrap().contains("raise `sampling.max-tokens`"));
    // One that says something is enough.
    let server = Server::start(move |asked| if number_in(asked) == 4 { echo(asked) } else { of(number_in(asked)) });
    assert_eq!(Bench::new().run(&prompts(6), server.definition(json!({})), json!({})).unwrap().metric("answers"), 6);
}

#[test]
fn prompts_of_which_there_are_none_are_named() {
    let failure = Bench::new().run(&[], Server::echo().definition(json!({})), json!({})).err().unwrap();
    assert_eq!(failure.message, "prompts.p has no prompts: there is nothing to ask");
}

#[test]
fn a_model_that_changes_its_name_on_the_way_is_reported() {
    let server = Server::start(|asked| {
        let Act::Answer { body, .. } = echo(asked) else { unreachable!() };
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        body["model"] = json!(if number_in(asked) < 5 { "fake-2026-01" } else { "fake-2026-02" });
        Act::ok(body.to_string())
    });
    let bench = Bench::new();
    let made = bench.run(&prompts(8), server.definition(json!({})), json!({})).unwrap();
    assert_eq!(
        bench.warnings(),
        ["teacher t answered as fake-2026-01 and fake-2026-02: `model = \"fake-1\"` has moved between replies"]
    );
    assert_eq!(made.outcome.provenance["models-as-the-server-named-them"]["fake-2026-02"], 3);
}

#[test]
fn a_model_with_a_name_a_reply_does_not_fill_the_record() {
    let server = Server::start(|asked| {
        let Act::Answer { body, .. } = echo(asked) else { unreachable!() };
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        body["model"] = json!(format!("fake-{}", number_in(asked)));
        Act::ok(body.to_string())
    });
    let made = Bench::new().run(&prompts(50), server.definition(json!({})), json!({})).unwrap();
    let models = made.outcome.provenance["models-as-the-server-named-them"].clone();
    assert_eq!((models.as_object().unwrap().len(), &models["others"]), (17, &json!(34)));
}
