//! Broken answers, and texts that are refused.

use stillhouse_data::embeddings::{REFUSED_FILE, TextDigest, WithoutVector};
use stillhouse_data::jsonl::JsonlReader;

use super::*;

#[test]
fn bad_answers_are_asked_again_and_never_stored() {
    // Each fault hits the first request of its server.
    let faults: Vec<fn(Value) -> Act> = vec![
        |_| Act::status(429, "{}").with_header("retry-after", "0"),
        |_| Act::status(503, ""),
        |_| Act::Reset,
        |good| Act::HalfBody(good.to_string().into_bytes()),
        |mut good| {
            good["data"].as_array_mut().unwrap().pop();
            Act::ok(good.to_string())
        },
        |mut good| {
            good["data"][1]["index"] = json!(0);
            Act::ok(good.to_string())
        },
        |mut good| {
            good["data"][1]["embedding"].as_array_mut().unwrap().pop();
            Act::ok(good.to_string())
        },
        |mut good| {
            good["data"][1]["embedding"][2] = json!(null);
            Act::ok(good.to_string())
        },
        |good| Act::ok(good.to_string().replacen(&json!(vector("text 0")).to_string(), "[NaN,1,2,3,4]", 1)),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let server = Server::start(move |asked| match asked.number {
            0 => fault(vectors_of(&inputs(asked))),
            _ => embed(asked),
        });
        let bench = Bench::new();
        let made = run(&bench, &answers(20), &server, json!({ "of": "answer", "batch": 20 })).unwrap();
        assert_eq!((made.metric("asked"), server.teacher.asked()), (20, 2), "fault {number}");
        assert_eq!(made.reader().vector("text 1").unwrap().unwrap(), vector("text 1"), "fault {number}");
    }
    let always = Server::start(|asked| {
        let mut good = vectors_of(&inputs(asked));
        good["data"].as_array_mut().unwrap().pop();
        Act::ok(good.to_string())
    });
    let bench = Bench::new();
    let teacher = always.definition(json!({ "attempts": 2 }));
    let failure = run_with(&bench, &answers(20), teacher, json!({ "of": "answer", "batch": 20 })).err().unwrap();
    assert!(
        failure.message.ends_with("gave no reply in 2 attempts: the reply has 19 vectors for 20 texts"),
        "{failure}"
    );
}

#[test]
fn of_texts_that_are_refused_only_those_have_no_vector() {
    let refused = |text: &str| text == "text 3" || text == "text 17";
    for (status, body) in [
        (400, r#"{"error":{"message":"maximum context length is 512 tokens"}}"#),
        (
            500,
            r#"{"error":{"code":500,"message":"input is too large to process. increase the physical batch size","type":"server_error"}}"#,
        ),
    ] {
        let server = Server::start(move |asked| {
            if inputs(asked).iter().any(|text| refused(text)) { Act::status(status, body) } else { embed(asked) }
        });
        let bench = Bench::new();
        let made = run(&bench, &answers(30), &server, json!({ "of": "answer", "batch": 30 })).unwrap();
        assert_eq!((made.metric("vectors"), made.metric("rejected")), (28, 2));
        let lines: Vec<WithoutVector> =
            JsonlReader::open(&made.out.join(REFUSED_FILE)).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(
            lines.iter().map(|line| line.prompt.clone()).collect::<Vec<_>>(),
            [answers(30)[3].prompt.clone(), answers(30)[17].prompt.clone()]
        );
        assert!(lines[0].why.starts_with(&status.to_string()), "{lines:?}");
        assert_eq!(lines[0].text, Some(TextDigest::of("text 3").in_digits()));
        let warnings = bench.warnings();
        assert!(warnings[0].starts_with("2 of 30 texts were rejected and have no vector; "), "{warnings:?}");
        assert!(warnings[1].ends_with("`unknown = \"keep\"` or `\"drop\"`"), "{warnings:?}");
        let failure = run(&Bench::new(), &answers(30), &server, json!({ "on-rejected": "fail" })).err();
        assert!(failure.is_none(), "the question is part of the text, and is not refused");
    }
    // One that breaks the server is known by the others, which are answered without it.
    let server = Server::start(|asked| match inputs(asked).iter().any(|text| text == "text 3") {
        true => Act::status(500, r#"{"error":{"message":"CUDA error"}}"#),
        false => embed(asked),
    });
    let teacher = server.definition(json!({ "attempts": 2 }));
    let made = run_with(&Bench::new(), &answers(30), teacher, json!({ "of": "answer", "batch": 10 })).unwrap();
    assert_eq!((made.metric("vectors"), made.metric("rejected")), (29, 1));
    let server =
        Server::start(|_| Act::status(501, r#"{"error":{"message":"This server does not support embeddings."}}"#));
    let failure = run(&Bench::new(), &answers(30), &server, json!({})).err().unwrap();
    assert!(failure.message.ends_with("does not do this (501): This server does not support embeddings."), "{failure}");
    assert!(server.teacher.asked() <= 3);
}
