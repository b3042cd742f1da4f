//! The stage with a teacher that is asked in batches.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stillhouse_data::answer::Outcome;
use stillhouse_stage::{Class, Forecast};

use super::bench::{Bench, Made, prompts};
use super::checks::{teacher, wrong};
use super::forecast::forecast;
use super::server::Server;
use crate::answers::{CAPTURED_FILE, Captured};
use crate::definition::TeacherConfig;
use crate::testing::{Asked, BatchServer, Line};

struct Batched {
    batches: Arc<BatchServer>,
    server: Server,
}

impl Batched {
    fn start(batches: BatchServer) -> Self {
        let batches = Arc::new(batches);
        let script = Arc::clone(&batches);
        Self { batches, server: Server::start(move |asked| script.act(asked)) }
    }

    fn definition(&self, batch: Value) -> Value {
        let mut definition = self.server.definition(json!({ "attempts": 3 }));
        definition["strict"] = json!(true);
        definition["batch"] = json!({ "poll-seconds": 0.01 });
        definition["batch"].as_object_mut().unwrap().extend(batch.as_object().unwrap().clone());
        definition
    }
}

fn texts(made: &Made) -> Vec<String> {
    made.answers().into_iter().map(|answer| answer.text).collect()
}

fn echoes(count: usize) -> Vec<String> {
    prompts(count).iter().map(|prompt| format!("answer to: {prompt}")).collect()
}

fn number_of(prompt: &str) -> u64 {
    prompt.rsplit(' ').next().unwrap().parse().unwrap()
}

/// What is left of a batch on disk.
fn traces(bench: &Bench) -> usize {
    let teachers = fs_err::read_dir(bench.store.replies_dir()).unwrap().map(|teacher| teacher.unwrap().path());
    let files = teachers.flat_map(|teacher| fs_err::read_dir(teacher.join("batches")).unwrap());
    files.filter(|file| file.as_ref().unwrap().file_name() != "lock").count()
}

#[test]
fn prompts_go_up_in_files_and_answers_come_out_in_their_order_at_half_the_price() {
    let batched = Batched::start(BatchServer::echo());
    let bench = Bench::new();
    let mut teacher = batched.definition(json!({ "max-requests": 100, "at-once": 2 }));
    teacher["prices"] = json!({ "input": 1e6, "output": 2e6 });
    let made = bench.run(&prompts(250), teacher.clone(), json!({})).unwrap();
    assert_eq!(texts(&made), echoes(250));
    assert_eq!((batched.batches.batches(), batched.batches.paid()), (vec![100, 100, 50], 250));
    assert_eq!((made.metric("asked"), made.metric("from-cache")), (250, 0));
    // 7 tokens in and 4 out.
    assert_eq!(made.outcome.metrics["spend-usd"], 250.0 * (7.0 + 8.0) / 2.0);
    assert_eq!(traces(&bench), 0);
    let notes = bench.notes();
    assert!(notes.iter().any(|note| note == "teacher t: handed in batch batch_0 (100 requests)"), "{notes:?}");
    assert!(notes.iter().any(|note| note == "teacher t: batch batch_0 is in_progress: 0 of 100"), "{notes:?}");
    let asked = batched.server.teacher.asked();
    let again = bench.run(&prompts(250), teacher.clone(), json!({})).unwrap();
    assert_eq!((again.metric("asked"), batched.server.teacher.asked()), (0, asked), "nobody is connected to");
    assert_eq!(made.bytes(), again.bytes());
    // One by one is the same teacher at the full price, with the same replies.
    teacher["batch"] = json!(false);
    teacher["base-url"] = json!("http://127.0.0.1:9/v1");
    assert_eq!(bench.run(&prompts(250), teacher, json!({})).unwrap().bytes(), made.bytes());
}

#[test]
fn equal_prompts_are_in_a_batch_once() {
    let batched = Batched::start(BatchServer::echo());
    let twice = [prompts(8), prompts(8)].concat();
    let made = Bench::new().run(&twice, batched.definition(json!({ "max-requests": 5 })), json!({})).unwrap();
    assert_eq!((made.metric("answers"), batched.batches.batches()), (16, vec![5, 3]));
}

#[test]
fn a_file_is_no_larger_than_is_allowed() {
    let batched = Batched::start(BatchServer::echo());
    let long: Vec<String> = (0..5).map(|number| format!("{} {number}", "x".repeat(300_000))).collect();
    let made = Bench::new().run(&long, batched.definition(json!({ "max-megabytes": 1 })), json!({})).unwrap();
    assert_eq!((made.metric("answers"), batched.batches.batches()), (5, vec![3, 2]));
}

#[test]
fn what_fails_within_a_batch_is_asked_again_or_rejected_as_single_requests_are() {
    let batched = Batched::start(BatchServer::new(|prompt, times| match (number_of(prompt), times) {
        (3, _) => Line::Status(400, json!({ "error": { "message": "too long", "code": "context_length" } })),
        (4, 1) => Line::Status(500, json!({ "error": { "message": "oops" } })),
        (5, 1) => Line::Missing,
        (6, 1) => Line::Answer(String::new()),
        (7, 1 | 2) => Line::Status(429, json!({})),
        _ => Line::Answer(format!("answer to: {prompt}")),
    }));
    let bench = Bench::new();
    let made = bench.run(&prompts(10), batched.definition(json!({})), json!({})).unwrap();
    assert_eq!(batched.batches.batches(), [10, 3, 1]);
    assert_eq!(made.outcome.metrics["outcomes"], json!({ "ok": 8, "empty": 1, "rejected": 1 }));
    let rejected = &made.answers()[3];
    assert_eq!((rejected.outcome, rejected.finish.as_str()), (Outcome::Rejected, "400: too long (context_length)"));
    assert_eq!(texts(&made)[4], "answer to: question 4");
    assert_eq!((batched.batches.paid(), batched.batches.paid_twice()), (9, vec![]));
    assert!(bench.warnings()[0].starts_with("1 of 10 requests were rejected"), "{:?}", bench.warnings());
    let fail = json!({ "on-rejected": "fail" });
    let failure = bench.run(&prompts(10), batched.definition(json!({})), fail).err().unwrap();
    assert!(failure.message.starts_with("prompt 4 ("), "{failure}");
    assert_eq!(batched.batches.batches(), [10, 3, 1, 1], "a rejection is in no store");
}

#[test]
fn a_batch_that_rejects_everything_says_so() {
    let refuse = |_: &str, _| Line::Status(422, json!({ "detail": "no" }));
    let batched = Batched::start(BatchServer::new(refuse));
    let failure = Bench::new().run(&prompts(30), batched.definition(json!({})), json!({})).err().unwrap();
    assert!(failure.message.starts_with("every request was rejected (30): prompt "), "{failure}");
    assert_eq!(batched.batches.batches(), [30]);
}

#[test]
fn what_a_batch_had_no_time_for_is_in_the_next_one() {
    let batched = Batched::start(BatchServer::new(|prompt, times| match number_of(prompt) >= 5 && times < 3 {
        true => Line::Expired,
        false => Line::Answer(format!("answer to: {prompt}")),
    }));
    let bench = Bench::new();
    let made = bench.run(&prompts(9), batched.definition(json!({})), json!({})).unwrap();
    assert_eq!((texts(&made), batched.batches.batches()), (echoes(9), vec![9, 4, 4]));
    assert_eq!(batched.batches.paid(), 9);
    let never = Batched::start(BatchServer::new(|prompt, _| match number_of(prompt) {
        0 => Line::Answer("here".to_owned()),
        _ => Line::Expired,
    }));
    let failure = Bench::new().run(&prompts(3), never.definition(json!({})), json!({})).err().unwrap();
    assert_eq!(failure.class, Class::Teacher);
    assert!(failure.message.contains("2 got no usable reply though others did: prompt 2 ("), "{failure}");
    assert!(failure.message.contains("the batch says batch_expired: "), "{failure}");
    assert_eq!((never.batches.batches(), never.batches.paid()), (vec![3, 2, 2], 1));
}

#[test]
fn log_probabilities_come_with_a_batch() {
    let batched = Batched::start(BatchServer::echo());
    let capture = json!({ "capture": { "top-k": 3 } });
    let bench = Bench::new();
    let made = bench.run(&prompts(4), batched.definition(json!({})), capture).unwrap();
    let captured = stillhouse_data::jsonl::JsonlReader::<Captured>::open(&made.out.join(CAPTURED_FILE));
    let captured: Vec<Captured> = captured.unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(captured.len(), 4);
    assert_eq!(captured[2].tokens[0].chosen.log_prob, -0.25);
}

#[test]
fn replies_that_are_not_wanted_are_asked_again_in_the_next_batch() {
    let batched =
        Batched::start(BatchServer::new(|prompt, times| match number_of(prompt).is_multiple_of(2) || times > 2 {
            true => Line::Answer("{}".to_owned()),
            false => Line::Answer("no".to_owned()),
        }));
    let answers = json!({ "format": "json", "outcomes": { "unparseable": "ask-again" }, "ask-again-times": 3 });
    let made = Bench::new().run(&prompts(8), batched.definition(json!({})), answers).unwrap();
    assert_eq!(batched.batches.batches(), [8, 4, 4]);
    assert_eq!(made.outcome.metrics["outcomes"], json!({ "ok": 8 }));
    assert_eq!((made.metric("asked"), made.metric("asked-again"), batched.batches.paid()), (16, 8, 16));
}

#[test]
fn a_budget_cuts_the_batch_and_the_next_run_goes_on() {
    let batched = Batched::start(BatchServer::echo());
    let bench = Bench::new();
    let mut teacher = batched.definition(json!({ "max-requests": 20, "at-once": 8 }));
    teacher["limits"]["budget-requests"] = json!(50);
    let failure = bench.run(&prompts(80), teacher, json!({})).err().unwrap();
    assert_eq!(failure.class, Class::Budget);
    assert!(failure.message.contains("the budget of 50 requests is used up"), "{failure}");
    assert_eq!((batched.batches.batches(), batched.batches.paid()), (vec![20, 20, 10], 50));
    let made = bench.run(&prompts(80), batched.definition(json!({})), json!({})).unwrap();
    assert_eq!((made.metric("asked"), made.metric("from-cache"), batched.batches.paid()), (30, 50, 80));
}

#[test]
fn money_that_is_not_spent_goes_into_the_next_batch() {
    let batched = Batched::start(BatchServer::echo());
    let mut teacher = batched.definition(json!({}));
    // At half the price a request takes 11 / 2 dollars and may take about (45 + 8) / 2.
    teacher["prices"] = json!({ "input": 1e6, "output": 1e6 });
    teacher["limits"]["budget-usd"] = json!(200.0);
    let sampling = json!({ "sampling": { "max-tokens": 8 } });
    let made = Bench::new().run(&prompts(20), teacher.clone(), sampling.clone()).unwrap();
    let batches = batched.batches.batches();
    assert!(batches.len() > 1 && batches.iter().sum::<usize>() == 20, "{batches:?}");
    assert_eq!(made.outcome.metrics["spend-usd"], 110.0);
    teacher["limits"]["budget-usd"] = json!(200.5);
    let failure = Bench::new().run(&prompts(200), teacher, sampling).err().unwrap();
    assert!(failure.message.contains("the budget of $200.5 has no room for the next request"), "{failure}");
}

#[test]
fn what_a_batch_is_billed_beyond_the_limit_is_expected_of_the_next_one() {
    let long = vec!["word"; 100].join(" ");
    let batched = Batched::start(BatchServer::new(move |_, _| Line::Answer(long.clone())));
    let mut teacher = batched.definition(json!({ "max-requests": 1, "at-once": 1 }));
    teacher["limits"]["budget-tokens"] = json!(300);
    let sampling = json!({ "sampling": { "max-tokens": 4 } });
    let failure = Bench::new().run(&prompts(9), teacher, sampling).err().unwrap();
    // Each is billed 107 tokens and may take about 50 by its limit: a third one would have had room by that.
    let stopped = "the budget of 300 tokens has no room for the next request (214 spent; one more can take 14";
    assert!(failure.message.contains(stopped), "{failure}");
    assert!(failure.message.ends_with(", as replies took more than `max-tokens` before)"), "{failure}");
    assert_eq!(batched.batches.paid(), 2);
}

#[test]
fn who_stops_leaves_the_batch_at_the_server_and_the_next_run_fetches_it() {
    let batched = Batched::start(BatchServer::echo());
    let bench = Bench::new();
    // Looked at once a minute after the first second: there is time to stop.
    let slowly = batched.definition(json!({ "poll-seconds": 60.0 }));
    let failure = std::thread::scope(|scope| {
        scope.spawn(|| {
            while batched.batches.batches().is_empty() || bench.notes().is_empty() {
                std::thread::sleep(Duration::from_millis(5));
            }
            bench.cancel.cancel();
        });
        bench.run(&prompts(10), slowly, json!({})).err().unwrap()
    });
    assert_eq!(failure.class, Class::Interrupted);
    let notes = bench.notes();
    let told = "teacher t: batch batch_0 goes on at the server: the next run fetches its replies";
    assert!(notes.iter().any(|note| note == told), "{notes:?}");
    let mut next = bench;
    next.cancel = stillhouse_stage::Cancel::default();
    let teacher = batched.definition(json!({}));
    let sum = forecast(&next, Some(&prompts(12)), &teacher, json!({})).unwrap();
    assert_eq!(
        sum,
        Forecast { requests: 2, tokens: Some(2 * (3 + 4 + 512)), ..Forecast::default() },
        "what is handed in is paid for"
    );
    let made = next.run(&prompts(12), teacher, json!({})).unwrap();
    assert_eq!((texts(&made), batched.batches.batches()), (echoes(12), vec![10, 2]));
    assert_eq!((made.metric("asked"), batched.batches.paid_twice()), (12, vec![]));
    let went_on = "teacher t: going on with batch batch_0 of an earlier run (10 requests)";
    assert!(next.notes().iter().any(|note| note == went_on), "{:?}", next.notes());
}

#[test]
fn a_server_without_room_is_given_time() {
    let full = ("token_limit_exceeded", "Enqueued token limit reached for fake-1");
    let batched = Batched::start(BatchServer::echo().failing(&[full, full]));
    let bench = Bench::new();
    let made = bench.run(&prompts(6), batched.definition(json!({})), json!({})).unwrap();
    assert_eq!((texts(&made), batched.batches.batches()), (echoes(6), vec![6, 6, 6]));
    assert_eq!(made.metric("asked"), 6);
    let (never, bench) = (Batched::start(BatchServer::echo().failing(&[full; 3])), Bench::new());
    let failure = bench.run(&prompts(6), never.definition(json!({})), json!({})).err().unwrap();
    assert!(failure.message.contains(" had no room for a batch 3 times: token_limit_exceeded: Enqueued"), "{failure}");
    assert_eq!((never.batches.paid(), traces(&bench)), (0, 0));
}

#[test]
fn a_batch_that_is_not_taken_says_why() {
    let batched = Batched::start(BatchServer::echo().failing(&[("model_not_found", "The model `fake-1` …")]));
    let bench = Bench::new();
    let failure = bench.run(&prompts(6), batched.definition(json!({})), json!({})).err().unwrap();
    assert!(failure.message.ends_with("takes no batch batch_0: model_not_found: The model `fake-1` …"), "{failure}");
    assert_eq!((failure.class, traces(&bench)), (Class::Teacher, 0));
    let made = bench.run(&prompts(6), batched.definition(json!({})), json!({})).unwrap();
    assert_eq!(made.metric("asked"), 6, "nothing of it was begun");
}

#[test]
fn a_server_without_batches_is_named() {
    let server = Server::start(|_: &Asked| crate::testing::Act::status(404, "Not Found"));
    let mut teacher = server.definition(json!({}));
    teacher["strict"] = json!(true);
    teacher["batch"] = json!(true);
    let failure = Bench::new().run(&prompts(2), teacher.clone(), json!({})).err().unwrap();
    assert!(failure.message.contains("knows no such path or model (404)"), "{failure}");
    let mut bench = Bench::new();
    bench.offline = true;
    let failure = bench.run(&prompts(2), teacher, json!({})).err().unwrap();
    assert_eq!(failure.message, "teacher t would have to be asked, but the run is offline");
}

#[test]
fn batches_are_refused_where_nobody_takes_them() {
    let batch = |change: Value| {
        wrong::<TeacherConfig>(teacher(|body| {
            body["batch"] = json!(true);
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        }))
    };
    assert_eq!(
        batch(json!({})),
        [
            "openai, any other server takes no batches | remove `batch`, or set `strict = true` if its server has OpenAI's \
          Batch API; providers that have it: `openai` (strict (OpenAI, Azure))"
        ]
    );
    assert!(batch(json!({ "strict": true, "api": "completions" }))[0].contains("takes no batches | remove `batch`; "));
    assert_eq!(batch(json!({ "strict": true })), [""; 0]);
    assert_eq!(batch(json!({ "batch": false })), [""; 0]);
    let table = json!({ "strict": true, "batch": { "max-requests": 50_001 } });
    assert!(batch(table)[0].contains("50000"), "{:?}", batch(json!({ "batch": { "max-requests": 50_001 } })));
    assert!(batch(json!({ "strict": true, "batch": { "polls": 1 } }))[0].starts_with("unknown key `polls`"));
}

#[test]
fn a_prompt_that_no_batch_answers_costs_the_others_nothing_and_is_remembered() {
    let batched = Batched::start(BatchServer::new(|prompt, _| match number_of(prompt) {
        2 | 5 => Line::Status(500, json!({ "error": { "message": "oops" } })),
        _ => Line::Answer(format!("answer to: {prompt}")),
    }));
    let bench = Bench::new();
    let run = |answers: Value| bench.run(&prompts(8), batched.definition(json!({})), answers);
    let failure = run(json!({})).err().unwrap();
    assert!(
        failure.message.contains("of all requests 2 got no usable reply though others did: prompt 3 ("),
        "{failure}"
    );
    assert!(failure.message.contains("oops") && failure.hint.unwrap().ends_with("in `[answers.X]`"));
    assert_eq!(batched.batches.batches(), [8, 2, 2], "all others were answered");
    // What was found out is not paid again.
    let made = run(json!({ "outcomes": { "failed": "drop" } })).unwrap();
    assert_eq!((made.metric("asked"), made.metric("answers"), batched.batches.batches().len()), (0, 6, 3));
    assert_eq!(made.outcome.metrics["dropped"], json!({ "failed": 2 }));
    assert_eq!(made.outcome.metrics["failed"], json!({ "prompts": 2, "requests": 2 }));
    let kept = run(json!({ "outcomes": { "failed": "keep" } })).unwrap().answers();
    assert_eq!((kept.len(), kept[5].outcome, batched.batches.batches().len()), (8, Outcome::Failed, 3));
    // Unless it is wished.
    run(json!({})).err().unwrap();
    assert_eq!(batched.batches.batches()[3..], [2, 2, 2]);
    let again = json!({ "outcomes": { "failed": "ask-again" }, "ask-again-times": 1, "ask-again-then": "drop" });
    for asked in [2, 0] {
        let made = run(again.clone()).unwrap();
        assert_eq!((made.metric("asked"), made.metric("answers"), batched.batches.batches().len()), (asked, 6, 9));
        assert_eq!(made.outcome.metrics["failed"], json!({ "prompts": 2, "requests": 4 }));
    }
    assert_eq!((batched.batches.paid(), batched.batches.paid_twice()), (6, vec![]));
}

#[test]
fn a_batch_that_answers_nobody_is_the_teacher_s_failure() {
    let batched = Batched::start(BatchServer::new(|_, _| Line::Status(500, json!({ "error": { "message": "oops" } }))));
    let drop = json!({ "outcomes": { "failed": "drop" } });
    let failure = Bench::new().run(&prompts(4), batched.definition(json!({})), drop).err().unwrap();
    assert!(failure.message.contains(" gave no reply in 3 attempts: "), "{failure}");
    assert_eq!((failure.class, batched.batches.batches()), (Class::Teacher, vec![4, 4, 4]));
}
