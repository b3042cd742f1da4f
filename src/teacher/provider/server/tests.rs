use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use stillhouse_data::prompt::Message;
use stillhouse_stage::{Class, Failure};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::provider::api::Auth;
use crate::provider::openai::{ChatApi, CompletionsApi, Dialect};
use crate::reply::{Reply, Usage};
use crate::request::{Capture, Request, Sampling};
use crate::testing::{Act, Asked, FakeTeacher, answer_with};
use crate::transport::endpoint::Address;
use crate::transport::{Endpoint, Estimate, Governor, Limits, Prices};

mod faults;

const BAD: &str = include_str!("../../tests/golden/error_400_bad.json");
const CONTEXT: &str = include_str!("../../tests/golden/error_400_context.json");
const KEY: &str = "sk-very-secret-0123456789";

fn limits() -> Limits {
    Limits {
        concurrency: 4,
        timeout: Duration::from_secs(5),
        attempts: 3,
        max_wait: Duration::from_secs(60),
        ..Limits::default()
    }
}

fn chat_with(base_url: &str, key: Option<&str>, limits: Limits) -> Client {
    let address = Address {
        teacher: "smollm2".to_owned(),
        base_url: base_url.parse().unwrap(),
        key_variable: key.map(|_| "TEACHER_API_KEY".to_owned()),
        auth: Auth::Bearer,
    };
    let endpoint = Endpoint::new(address, key.map(str::to_owned), &limits).unwrap();
    let api = ChatApi { model: "m".to_owned(), dialect: Dialect::Common };
    Client::new(endpoint, Arc::new(Governor::new(&limits)), Arc::new(api), &limits)
}

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

async fn ask(script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> (Result<Reply, Failure>, u64) {
    let teacher = FakeTeacher::start(script).await.unwrap();
    let reply =
        chat_with(&teacher.base_url(), Some(KEY), limits()).ask(&request("hello"), &CancellationToken::new()).await;
    (reply.map_err(|unanswered| unanswered.failure), teacher.asked())
}

async fn failure(script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> (String, u64) {
    let (reply, asked) = ask(script).await;
    let failure = reply.unwrap_err();
    assert_eq!(failure.class, Class::Teacher);
    let text = format!("{failure}\nhint: {}", failure.hint.clone().unwrap_or_default());
    assert!(!text.contains("ery-secret") && !format!("{failure:?}").contains("ery-secret"), "{text}");
    (text, asked)
}

#[tokio::test]
async fn every_field_that_matters_is_sent() {
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let (reply, _) = ask(move |asked| {
        sender.send((asked.path.clone(), asked.authorization.clone(), asked.json())).unwrap();
        answer_with("hi there")
    })
    .await;
    let reply = reply.unwrap();
    assert_eq!((reply.text.as_str(), reply.usage), ("hi there", Usage { prompt: 7, completion: 2 }));
    let (path, authorization, body) = bodies.recv().await.unwrap();
    assert_eq!(path, "/v1/chat/completions");
    assert_eq!(authorization, Some(format!("Bearer {KEY}")));
    assert_eq!(
        body,
        json!({
            "model": "m", "messages": [{ "role": "user", "content": "hello" }], "temperature": 0.5, "top_p": 1.0,
            "max_tokens": 16, "seed": 3, "n": 1, "stream": false, "frequency_penalty": 0.0, "presence_penalty": 0.0,
            "top_k": -1, "min_p": 0.0, "repeat_penalty": 1.0, "repetition_penalty": 1.0,
        })
    );
}

#[tokio::test]
async fn a_refused_key_is_named_by_its_variable_and_not_tried_again() {
    let body = json!({ "error": { "message": format!("Incorrect API key provided: {KEY}.") } }).to_string();
    let (text, asked) = failure(move |_| Act::status(401, body.clone())).await;
    assert!(text.starts_with("teacher smollm2 at http://127.0.0.1:"), "{text}");
    assert!(text.contains("/v1 refused the key in TEACHER_API_KEY (401): Incorrect API key provided: ***."), "{text}");
    assert!(text.contains("hint: is TEACHER_API_KEY set"), "{text}");
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn an_unknown_path_or_model_says_what_base_url_looks_like() {
    let (text, asked) = failure(|_| Act::status(404, "Not Found")).await;
    assert!(
        text.contains("knows no such path or model (404): Not Found\nhint: `base-url` usually ends in `/v1`"),
        "{text}"
    );
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn recorded_400s_are_explained() {
    let (text, _) = failure(|_| Act::status(400, CONTEXT)).await;
    assert!(text.contains("(400): request (9031 tokens) exceeds the available context size (4096 tokens)"), "{text}");
    assert!(text.contains("hint: the prompt is longer than the teacher's context"), "{text}");
    let (text, asked) = failure(|_| Act::status(400, BAD)).await;
    assert!(text.contains("Expected 'messages' to be an array (invalid_request_error)"), "{text}");
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_at_once() {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let base_url = format!("http://{free}/v1");
    let failure =
        chat_with(&base_url, None, limits()).ask(&request("x"), &CancellationToken::new()).await.unwrap_err().failure;
    assert!(failure.message.ends_with("/v1 cannot be reached (Connection refused (os error 111))"), "{failure}");
    assert_eq!(failure.hint.as_deref(), Some("is the server running, and is `base-url` its address?"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (text, asked) = failure(|_| Act::status(308, "").with_header("location", "http://127.0.0.1:1/steal")).await;
    assert!(text.contains("has moved (308)"), "{text}");
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn what_passes_is_tried_again_until_it_works() {
    let faults: Vec<fn() -> Act> = vec![
        || Act::status(429, "{}").with_header("retry-after", "0"),
        || Act::status(500, "oops"),
        || Act::status(503, ""),
        || Act::ok("<html>busy</html>"),
        || Act::ok(""),
        || Act::ok(r#"{"choices":[]}"#),
        || Act::HalfBody(br#"{"choices":[{"message":{"content":"half"}}]}"#.to_vec()),
        || Act::Reset,
    ];
    let asked_once = faults.into_iter().map(|fault| async move {
        ask(move |asked| if asked.number == 0 { fault() } else { answer_with("at last") }).await
    });
    for (reply, asked) in futures_util::future::join_all(asked_once).await {
        assert_eq!((reply.unwrap().text.as_str(), asked), ("at last", 2));
    }
}

#[tokio::test]
async fn a_slow_server_runs_into_the_timeout() {
    let teacher = FakeTeacher::start(|_| answer_with("late").after(Duration::from_secs(60))).await.unwrap();
    let limits = Limits { timeout: Duration::from_millis(100), attempts: 2, ..limits() };
    let failure = chat_with(&teacher.base_url(), None, limits)
        .ask(&request("x"), &CancellationToken::new())
        .await
        .unwrap_err()
        .failure;
    assert!(failure.message.ends_with("gave no reply in 2 attempts: no answer within the timeout"), "{failure}");
}

#[tokio::test]
async fn retry_after_holds_back_every_request() {
    let teacher = FakeTeacher::start(|asked| match asked.number {
        0 => Act::status(429, "").with_header("retry-after", "1"),
        _ => answer_with("ok"),
    })
    .await
    .unwrap();
    let chat = chat_with(&teacher.base_url(), None, limits());
    let start = Instant::now();
    let open = CancellationToken::new();
    let (first, second) = (request("a"), request("b"));
    let (first, second) = tokio::join!(chat.ask(&first, &open), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let reply = chat.ask(&second, &open).await;
        (reply, start.elapsed())
    });
    assert!(first.is_ok() && second.0.is_ok());
    assert!(second.1 >= Duration::from_millis(900), "{:?}", second.1);
}

#[tokio::test]
async fn no_more_requests_are_on_their_way_than_the_limit() {
    let teacher = FakeTeacher::start(|_| answer_with("ok").after(Duration::from_millis(20))).await.unwrap();
    let chat = chat_with(&teacher.base_url(), None, limits());
    let open = CancellationToken::new();
    let requests: Vec<_> = (0..40).map(|number| request(&number.to_string())).collect();
    futures_util::future::try_join_all(requests.iter().map(|request| chat.ask(request, &open))).await.unwrap();
    assert_eq!(teacher.most_at_once(), 4);
}

#[tokio::test]
async fn a_used_up_budget_is_a_failure_of_its_own() {
    let teacher = FakeTeacher::start(|_| answer_with("one two")).await.unwrap();
    // A reply costs 7 + 2 = 9 dollars here, and at most 41 + 16 are set aside for it.
    let prices = Prices { input: 1e6, output: 1e6 };
    let limits = Limits { budget_usd: Some(70.0), prices: Some(prices), ..limits() };
    let chat = chat_with(&teacher.base_url(), None, limits);
    let mut answered = 0;
    let failure = loop {
        match chat.ask(&request("hello"), &CancellationToken::new()).await {
            Ok(_) => answered += 1,
            Err(unanswered) => break unanswered.failure,
        }
    };
    assert_eq!(failure.class, Class::Budget);
    assert!(
        failure.message.contains("the budget of $70")
            && failure.message.contains("($18.0000 spent; one more can take $57.0000)"),
        "{failure}"
    );
    assert_eq!((answered, teacher.asked()), (2, 2));
}

/// Dollars spent after one request (7 + 2 where they are counted, 41 + 16 at most), told by what is refused next.
async fn spent_after(act: Option<fn() -> Act>) -> f64 {
    let teacher = FakeTeacher::start(move |_| act.unwrap_or(|| answer_with("one two"))()).await.unwrap();
    let prices = Prices { input: 1e6, output: 1e6 };
    let limits = Limits {
        budget_usd: Some(60.0),
        prices: Some(prices),
        attempts: 1,
        timeout: Duration::from_millis(300),
        ..limits()
    };
    // Nobody listens at port 1.
    let base_url = act.map_or_else(|| "http://127.0.0.1:1/v1".to_owned(), |_| teacher.base_url());
    let chat = chat_with(&base_url, None, limits);
    chat.ask(&request("hello"), &CancellationToken::new()).await.unwrap_err();
    let too_much = Estimate { prompt: 61, completion: 0 };
    chat.governor.enter(too_much).await.unwrap_err().spent
}

#[tokio::test]
async fn a_request_that_left_is_charged_unless_the_server_refused_it() {
    type Case = (Option<fn() -> Act>, f64);
    let cases: [Case; 13] = [
        (Some(|| answer_with("late").after(Duration::from_secs(2))), 57.0),
        (Some(|| Act::Reset), 57.0),
        (Some(|| Act::HalfBody(vec![b'{'; 100])), 57.0),
        (Some(|| Act::ok("<html>")), 57.0),
        (Some(|| Act::ok(r#"{"choices":[]}"#)), 57.0),
        (Some(|| Act::ok(r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#)), 9.0),
        (Some(|| Act::status(500, "")), 57.0),
        (Some(|| Act::status(504, "")), 57.0),
        (Some(|| Act::status(503, "")), 0.0),
        (Some(|| Act::status(429, "")), 0.0),
        (Some(|| Act::status(400, "")), 0.0),
        (Some(|| Act::status(401, "")), 0.0),
        (None, 0.0),
    ];
    for (number, (act, spent)) in cases.into_iter().enumerate() {
        assert_eq!(spent_after(act).await, spent, "case {number}");
    }
}

#[tokio::test]
async fn only_a_refused_request_is_told_by_its_prompt() {
    for (status, rejected) in [(400, true), (422, true), (401, false), (404, false), (503, false)] {
        // The words of the server are no sign of it.
        let teacher = FakeTeacher::start(move |_| Act::status(status, "rejected a request")).await.unwrap();
        let chat = chat_with(&teacher.base_url(), None, Limits { attempts: 1, ..limits() });
        let unanswered = chat.ask(&request("hello"), &CancellationToken::new()).await.unwrap_err();
        let words = format!("{status}: rejected a request");
        assert_eq!(unanswered.fault == At::Rejected(words), rejected, "{status}");
    }
}

#[tokio::test]
async fn images_go_where_they_can_be_seen_and_nowhere_else() {
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let teacher = FakeTeacher::start(move |asked| {
        sender.send(asked.json()).unwrap();
        answer_with("a cat")
    })
    .await
    .unwrap();
    let mut request = request("What is this?");
    let parts = json!([
        { "type": "text", "text": "What is this?" },
        { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } },
    ]);
    request.messages[0].parts = serde_json::from_value(parts.clone()).unwrap();
    let chat = chat_with(&teacher.base_url(), None, limits());
    assert_eq!(chat.ask(&request, &CancellationToken::new()).await.unwrap().text, "a cat");
    assert_eq!(bodies.recv().await.unwrap()["messages"], json!([{ "role": "user", "content": parts }]));

    let endpoint = chat_with(&teacher.base_url(), None, limits()).endpoint;
    let api = CompletionsApi { model: "m".to_owned(), dialect: Dialect::Common };
    let plain = Client::new(endpoint, Arc::new(Governor::new(&limits())), Arc::new(api), &limits());
    let failure = plain.ask(&request, &CancellationToken::new()).await.unwrap_err().failure;
    assert_eq!(failure.class, Class::Input);
    assert!(failure.message.ends_with("is asked in a way that shows no images"), "{failure}");
    assert_eq!(teacher.asked(), 1);
}

#[test]
fn a_missing_key_and_one_that_cannot_be_sent_are_named_by_the_variable() {
    let address = |variable: &str| Address {
        teacher: "t".to_owned(),
        base_url: "http://user:pass@host/v1?token=x".parse().unwrap(),
        key_variable: Some(variable.to_owned()),
        auth: Auth::Bearer,
    };
    let missing = Endpoint::new(address("NOWHERE"), None, &limits()).unwrap_err();
    assert_eq!(
        missing.message,
        "teacher t at http://host/v1 needs a key, but the environment variable NOWHERE is not set"
    );
    let broken = Endpoint::new(address("BROKEN"), Some("a\nb".to_owned()), &limits()).unwrap_err();
    assert_eq!(broken.message, "the key in BROKEN holds characters that cannot be sent");
}

#[tokio::test]
async fn missing_log_probs_are_believed_to_be_missing_after_a_few_replies() {
    let teacher = FakeTeacher::start(|_| answer_with("ok")).await.unwrap();
    let chat = chat_with(&teacher.base_url(), None, limits());
    let request = Request { capture: Some(Capture::TopK(5)), ..request("x") };
    let failure = chat.ask(&request, &CancellationToken::new()).await.unwrap_err().failure;
    assert!(failure.message.ends_with("gives no log-probabilities"), "{failure}");
    assert_eq!(teacher.asked(), 3);
    // Now it is known.
    chat.ask(&request, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(teacher.asked(), 4);
}
