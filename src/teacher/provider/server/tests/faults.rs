//! Whatever a server does instead of answering, a user is told whose fault it is, where, and what to do.

use super::*;

#[tokio::test]
async fn every_fault_that_stays_names_the_teacher_the_address_and_a_way_out() {
    const WELL: &str = "what was answered is kept: run again when the server is well, or raise `limits.attempts`";
    const ADDRESS: &str = "is `base-url` the address of an API like OpenAI's";
    type Case = (fn() -> Act, &'static str, &'static str, u64);
    let cases: [Case; 17] = [
        (|| Act::status(401, "{}"), "refused the key in TEACHER_API_KEY (401): {}", "is TEACHER_API_KEY set", 1),
        (|| Act::status(403, ""), "refused the key in TEACHER_API_KEY (403)", "is TEACHER_API_KEY set", 1),
        (|| Act::status(402, "{}"), "wants to be paid first (402)", "add credit", 1),
        (|| Act::status(404, ""), "knows no such path or model (404)", "`base-url` usually ends in `/v1`", 1),
        (|| Act::status(301, ""), "has moved (301)", "set `base-url`", 1),
        (|| Act::status(422, "{}"), "rejected a request (422)", "`strict = true`", 1),
        (|| Act::status(429, r#"{"error":{"message":"slow down"}}"#), "the server answered 429: slow down", WELL, 3),
        (
            || Act::status(429, r#"{"error":{"code":"insufficient_quota","message":"none left"}}"#),
            "quota is used up (429)",
            "add credit",
            1,
        ),
        (|| Act::status(500, "oops"), "the server answered 500: oops", WELL, 3),
        (|| Act::status(503, ""), "the server answered 503", WELL, 3),
        (|| Act::Reset, "gave no reply in 3 attempts", WELL, 3),
        (|| Act::HalfBody(vec![b'{'; 100]), "the reply broke off", WELL, 3),
        (|| Act::status(503, r#"{"error":"overloaded"}"#), "the server answered 503: overloaded", WELL, 3),
        (|| Act::ok(r#"{"choices":[]}"#), "the reply has no choices", ADDRESS, 3),
        (|| Act::ok(""), "the reply is empty", ADDRESS, 3),
        (|| Act::ok("<html>a portal</html>"), "line 1 column 1: <html>a portal</html>", ADDRESS, 3),
        (
            || Act::ok(r#"{"error":{"message":"upstream is gone"}}"#),
            "the reply is an error: upstream is gone",
            ADDRESS,
            3,
        ),
    ];
    let all = cases.map(|(fault, words, way_out, times)| async move {
        let (text, asked) = failure(move |_| fault()).await;
        let (message, hint) = text.split_once("\nhint: ").unwrap();
        assert!(message.starts_with("teacher smollm2 at http://127.0.0.1:") && message.contains("/v1 "), "{text}");
        assert!(message.contains(words) && hint.contains(way_out), "{text}");
        assert_eq!((message.lines().count(), asked), (1, times), "{text}");
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn a_refusal_is_told_by_all_that_the_server_says_whatever_is_shown_of_it() {
    let long = "word ".repeat(100);
    let says = |key: &'static str, status: u16, error: serde_json::Value| async move {
        let body = json!({ "error": error }).to_string();
        let teacher = FakeTeacher::start(move |_| Act::status(status, body.clone())).await.unwrap();
        let chat = chat_with(&teacher.base_url(), Some(key), limits());
        let failure = chat.ask(&request("hello"), &CancellationToken::new()).await.unwrap_err().failure;
        (failure.message.split_once("/v1 ").unwrap().1.to_owned(), failure.hint.unwrap(), teacher.asked())
    };
    let quota = "You exceeded your current quota";
    for (key, error) in [
        // As given to servers that want none, and one that is a word of the refusal.
        ("x", json!({ "message": quota })),
        ("exceeded", json!({ "message": quota })),
        (KEY, json!({ "message": long, "code": "insufficient_quota" })),
        (KEY, json!({ "message": "no", "code": "429", "type": "insufficient_quota" })),
    ] {
        let (message, hint, asked) = says(key, 429, error).await;
        assert!(
            message.starts_with("says that the quota is used up (429): ") && hint.contains("add credit"),
            "{message}"
        );
        assert_eq!((message.contains("e***ceeded"), asked), (false, 1), "it is not asked again");
    }
    for error in
        [json!({ "message": "exceeds the context" }), json!({ "message": long, "code": "context_length_exceeded" })]
    {
        let (_, hint, _) = says("x", 400, error).await;
        assert!(hint.starts_with("the prompt is longer than the teacher's context"), "{hint}");
    }
}

#[tokio::test]
async fn a_reply_without_an_end_is_not_read_to_the_end() {
    let (text, _) = failure(|_| Act::ok(vec![b'x'; (64 << 20) + 1])).await;
    assert!(text.contains("the reply is longer than 64 MiB"), "{text}");
}

#[tokio::test]
async fn a_server_that_wants_to_be_left_alone_for_too_long_is_a_failure_at_once() {
    for (asked, told) in [("86400", "86400 s"), ("61", "61 s"), ("1e18", "1000000000000000000 s")] {
        let start = Instant::now();
        let (text, times) = failure(move |_| Act::status(429, "busy").with_header("retry-after", asked)).await;
        assert!(
            text.contains(&format!("asks to be left alone for {told}, more than the 60 s that are waited: ")),
            "{text}"
        );
        assert!(text.contains("the server answered 429: busy\nhint: what was answered is kept"), "{text}");
        assert!(text.contains("raise `limits.max-wait-seconds`"), "{text}");
        assert_eq!(times, 1);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_key_is_taken_out_of_a_reply_and_out_of_what_is_none() {
    let said = format!("You sent {KEY}.");
    let reply = ask(move |_| answer_with(&said)).await.0.unwrap();
    assert_eq!(reply.text, "You sent ***.");
    // `failure` looks for the key in whatever is told.
    let odd = [
        format!("<p>{KEY}</p>"),
        json!({ "choices": KEY }).to_string(),
        json!({ "error": { "message": KEY } }).to_string(),
        json!({ "error": KEY }).to_string().replace("very", "\\u0076ery"),
        json!({ "choices": KEY }).to_string().replace("very", "\\u0076ery"),
        json!({ "odd": KEY }).to_string().replace("very", "\\u0076ery"),
        format!("{}{KEY}", " ".repeat(70_000)),
    ];
    let all = odd.into_iter().flat_map(|body| [(200, body.clone()), (403, body.clone()), (500, body)]);
    let all = all.map(|(status, body)| failure(move |_| Act::status(status, body.clone())));
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn a_reply_without_a_reason_is_asked_again_unless_the_server_never_gives_one() {
    let without = || {
        let message = json!({ "role": "assistant", "content": "partial" });
        Act::ok(json!({ "choices": [{ "finish_reason": null, "message": message }] }).to_string())
    };
    let (reply, asked) = ask(move |asked| if asked.number == 0 { without() } else { answer_with("whole") }).await;
    assert_eq!((reply.unwrap().text.as_str(), asked), ("whole", 2));
    let (reply, asked) = ask(move |_| without()).await;
    assert_eq!((reply.unwrap().text.as_str(), asked), ("partial", 3), "it has no word for it");
}

#[tokio::test]
async fn azure_s_refusal_by_its_content_filter_is_a_reply_of_that_kind() {
    let body =
        json!({ "error": { "message": "the prompt triggered the policy", "code": "content_filter", "status": 400 } });
    let (reply, asked) = ask(move |_| Act::status(400, body.to_string())).await;
    let reply = reply.unwrap();
    assert_eq!((reply.outcome, asked), (stillhouse_data::answer::Outcome::ContentFilter, 1));
    assert_eq!(reply.finish, "400: the prompt triggered the policy (content_filter)");
}

#[tokio::test]
async fn a_compressed_reply_is_read() {
    // `{"choices":[{"finish_reason":"stop","message":{"content":"packed"}}]}`
    const PACKED: &str = "1f8b08000000000002030dc9410a80300c04c0bfecd917f42b2252e26a8b9814935be8df75ae9390665de8286be2ecdabded2fab9ba2c0c306163c74af175112621ad4f86f54b97960ce6d7e21c73c8d45000000";
    let bytes: Vec<u8> =
        (0..PACKED.len()).step_by(2).map(|at| u8::from_str_radix(&PACKED[at..at + 2], 16).unwrap()).collect();
    let (reply, _) = ask(move |_| Act::ok(bytes.clone()).with_header("content-encoding", "gzip")).await;
    assert_eq!(reply.unwrap().text, "packed");
}

#[tokio::test]
async fn a_budget_in_which_no_request_has_room_says_so() {
    let limits = Limits { budget_tokens: Some(20), ..limits() };
    let teacher = FakeTeacher::start(|_| answer_with("x")).await.unwrap();
    let chat = chat_with(&teacher.base_url(), None, limits);
    let failure = chat.ask(&request("hello"), &CancellationToken::new()).await.unwrap_err().failure;
    assert!(failure.hint.as_ref().unwrap().starts_with("one request alone can take more than that"), "{failure}");
    assert_eq!(teacher.asked(), 0);
}

#[tokio::test]
async fn a_model_that_thinks_beyond_its_limit_overruns_a_cap_once() {
    let thinks = || {
        let message = json!({ "role": "assistant", "content": "yes" });
        let usage = json!({ "prompt_tokens": 10, "completion_tokens": 400 });
        Act::ok(json!({ "choices": [{ "finish_reason": "stop", "message": message }], "usage": usage }).to_string())
    };
    let limits = Limits { budget_tokens: Some(1000), ..limits() };
    let teacher = FakeTeacher::start(move |_| thinks()).await.unwrap();
    let chat = chat_with(&teacher.base_url(), None, limits);
    let mut failure = None;
    while failure.is_none() {
        failure = chat.ask(&request("hello"), &CancellationToken::new()).await.err();
    }
    assert_eq!(teacher.asked(), 2, "820 of 1000, and a third may take 400");
    let told = "the budget of 1000 tokens has no room for the next request (820 spent; one more can take 441, as replies took more than \
                `max-tokens` before)";
    assert!(failure.as_ref().unwrap().failure.message.contains(told), "{failure:?}");
}

#[tokio::test]
async fn a_model_whose_thinking_is_known_overruns_no_cap() {
    let thinks = || {
        let message = json!({ "role": "assistant", "content": "yes" });
        let usage = json!({ "prompt_tokens": 10, "completion_tokens": 400 });
        Act::ok(json!({ "choices": [{ "finish_reason": "stop", "message": message }], "usage": usage }).to_string())
    };
    // 41 + 16 by its limits.
    let ask = async |cap: u64, thinking: u64| {
        let limits = Limits { budget_tokens: Some(cap), ..limits() };
        let teacher = FakeTeacher::start(move |_| thinks()).await.unwrap();
        let chat = chat_with(&teacher.base_url(), None, limits).with_thinking(thinking);
        let mut failure = None;
        while failure.is_none() {
            failure = chat.ask(&request("hello"), &CancellationToken::new()).await.err();
        }
        (teacher.asked(), failure.unwrap().failure)
    };
    let (asked, failure) = ask(400, 0).await;
    assert_eq!(asked, 1, "nobody knew");
    assert!(failure.message.ends_with("(410 spent; one more can take 441, as replies took more than `max-tokens` before): the server bills more than `max-tokens` allow"), "{failure}");
    assert!(failure.hint.unwrap().contains("`limits.thinking-tokens`"));
    let (asked, failure) = ask(400, 400).await;
    assert_eq!(asked, 0, "41 + 16 + 400 are more");
    assert!(
        failure
            .message
            .ends_with("the budget of 400 tokens has no room for the next request (0 spent; one more can take 457)"),
        "{failure}"
    );
    let (asked, failure) = ask(900, 400).await;
    assert_eq!(asked, 2, "457 have room beside 410");
    assert!(failure.message.contains("(820 spent; one more can take 457)"), "{failure}");
}
