//! Answers that somebody gave, scored by a teacher.

use serde_json::{Value, json};
use stillhouse_data::answer::{ANSWERS_FILE, Answer, Outcome, write_answers};
use stillhouse_data::jsonl::JsonlReader;
use stillhouse_data::prompt::{Message, Prompt};
use stillhouse_spec::{Config as _, Diagnostics, Node, Origin};
use stillhouse_stage::store::Digest;
use stillhouse_stage::{Failure, StageKind as _};

use super::bench::{Bench, Made};
use super::server::Server;
use crate::answers::{Answers, AnswersConfig, CAPTURED_FILE, Captured};
use crate::definition::TeacherConfig;
use crate::testing::{Act, Asked};

/// Puts answers into the store, as their stage would.
pub fn given(bench: &Bench, said: &[(&str, Outcome)]) -> Digest {
    let folder = tempfile::tempdir_in(bench.folder.path()).unwrap();
    let mut writer = write_answers(&folder.path().join(ANSWERS_FILE)).unwrap();
    for (number, (text, outcome)) in said.iter().enumerate() {
        let messages = vec![Message::user(format!("question {number}"))];
        let (prompt, reference) = (Prompt::id_of(&messages), Some("so".to_owned()));
        let (text, finish) = ((*text).to_owned(), "given".to_owned());
        let answer = Answer { prompt, sample: 1, messages, reference, text, finish, outcome: *outcome, tokens: None };
        writer.write(&answer).unwrap();
    }
    writer.finish().unwrap();
    bench.store.put_tree(folder.path()).unwrap().0
}

/// Runs the stage on answers that were given.
pub fn score(bench: &Bench, given: Digest, teacher: Value, mut config: Value) -> Result<Made, Failure> {
    config["score"] = json!("y");
    let context = bench.context_of("answers", ("score", "answers.y"), given, teacher, config);
    let outcome = Answers { loader: bench.loader }.run(&context)?;
    Ok(Made { outcome, out: context.out() })
}

/// A vLLM server whose tokens are words, a word's id its length; it finds every word as likely as it is the `n`th of its reply.
fn word_by_word(asked: &Asked) -> Act {
    let body = asked.json();
    assert_eq!((asked.path.as_str(), &body["max_tokens"]), ("/v1/chat/completions", &json!(1)));
    let messages = body["messages"].as_array().unwrap();
    let texts: Vec<&str> = messages.iter().map(|message| message["content"].as_str().unwrap()).collect();
    let read = texts.join(" \n ");
    let words: Vec<&str> = read.split(' ').collect();
    let told = |(place, word): (usize, &&str)| match place {
        0 => Value::Null,
        _ => json!({ (word.len().to_string()): { "logprob": -(place as f64), "rank": 1, "decoded_token": word },
                     "90": { "logprob": -20.0, "rank": 2, "decoded_token": "x" } }),
    };
    let end = json!({ "token": "token_id:0", "logprob": -0.25, "top_logprobs": [{ "token": "token_id:0", "logprob": -0.25 }] });
    Act::ok(
        json!({
            "model": "scorer-1", "usage": { "prompt_tokens": words.len(), "completion_tokens": 1 },
            "choices": [{ "message": { "content": "?" }, "finish_reason": "length", "logprobs": { "content": [end] } }],
            "prompt_token_ids": words.iter().map(|word| word.len()).collect::<Vec<_>>(),
            "prompt_logprobs": words.iter().enumerate().map(told).collect::<Vec<_>>(),
        })
        .to_string(),
    )
}

fn vllm(server: &Server) -> Value {
    json!({ "provider": "vllm", "base-url": server.teacher.base_url(), "model": "big" })
}

#[test]
fn log_probabilities_that_are_none_are_asked_for_again() {
    let server = Server::start(|asked| {
        let Act::Answer { body, .. } = word_by_word(asked) else { unreachable!() };
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        // `is`, the second word of the answer.
        let told = &mut body["prompt_logprobs"][4]["2"]["logprob"];
        *told = [json!(5.0), Value::Null].get(asked.number as usize).unwrap_or(told).clone();
        Act::ok(body.to_string())
    });
    let bench = Bench::new();
    let config = json!({ "capture": { "top-k": 1 } });
    let made = score(&bench, given(&bench, &[("It is four", Outcome::Ok)]), vllm(&server), config).unwrap();
    assert_eq!((made.metric("answers"), server.teacher.asked()), (1, 3));
}

#[test]
fn a_vllm_server_scores_what_others_said_and_is_asked_once() {
    let server = Server::start(word_by_word);
    let bench = Bench::new();
    let said = [
        ("It is four", Outcome::Ok),
        ("", Outcome::ContentFilter),
        ("It goes on and", Outcome::Cut),
        ("No", Outcome::Refusal),
    ];
    let run = |config: Value| score(&bench, given(&bench, &said), vllm(&server), config).unwrap();
    let made = run(json!({ "capture": { "top-k": 1 } }));
    let answers = made.answers();
    let seen: Vec<_> = answers.iter().map(|answer| (answer.text.as_str(), answer.outcome, answer.sample)).collect();
    assert_eq!(
        seen,
        [("It is four", Outcome::Ok, 1), ("It goes on and", Outcome::Cut, 1), ("No", Outcome::Refusal, 1)],
        "what has no words can't be scored"
    );
    assert_eq!((answers[0].finish.as_str(), answers[0].reference.as_deref()), ("given", Some("so")));
    let lines: Vec<Captured> =
        JsonlReader::open(&made.out.join(CAPTURED_FILE)).unwrap().collect::<Result<_, _>>().unwrap();
    // `question 0 \n It is four`: of the answer's words and its end.
    let ids = |line: &Captured| line.tokens.iter().map(|token| token.chosen.id).collect::<Vec<_>>();
    assert_eq!(
        lines.iter().map(ids).collect::<Vec<_>>(),
        [vec![Some(2), Some(2), Some(4), None], vec![Some(2), Some(4), Some(2), Some(3)], vec![Some(2), None],]
    );
    let first = &lines[0].tokens[0];
    assert_eq!((first.chosen.log_prob, first.top.len(), first.top[0].id), (-3.0, 1, Some(2)));
    assert_eq!(lines[0].tokens[3].top[0].log_prob, -0.25);
    assert_eq!((server.teacher.asked(), made.metric("asked")), (3, 3));
    assert_eq!(made.outcome.provenance["models-as-the-server-named-them"], json!({ "scorer-1": 3 }));
    // Neither another policy nor another way of drawing asks anew; more alternatives do.
    let again =
        run(json!({ "capture": { "top-k": 1 }, "outcomes": { "cut": "drop" }, "sampling": { "temperature": 0.2 } }));
    assert_eq!((server.teacher.asked(), again.answers().len(), again.metric("from-cache")), (3, 2, 3));
    run(json!({ "capture": { "top-k": 2 } }));
    assert_eq!(server.teacher.asked(), 6);
}

#[test]
fn a_server_that_tells_nothing_of_what_it_read_stops_the_stage() {
    let server = Server::start(|_| {
        let choice = json!({ "message": { "content": "?" }, "finish_reason": "length", "logprobs": null });
        Act::ok(json!({ "model": "old", "choices": [choice] }).to_string())
    });
    let bench = Bench::new();
    let given = given(&bench, &[("one two", Outcome::Ok)]);
    let failure = score(&bench, given, vllm(&server), json!({ "capture": { "top-k": 1 } })).err().unwrap();
    assert!(failure.message.contains("log-probabilities"), "{failure}");
}

#[test]
fn answers_without_a_word_are_nothing_to_score() {
    let bench = Bench::new();
    let server = Server::start(word_by_word);
    let given = given(&bench, &[(" ", Outcome::Empty)]);
    let failure = score(&bench, given, vllm(&server), json!({ "capture": { "top-k": 1 } })).err().unwrap();
    assert_eq!(failure.message, "answers.y has no answer with words to score");
    assert!(failure.hint.unwrap().contains("outcomes"));
}

#[test]
fn what_scoring_takes_and_leaves_out_is_said_before_anything_is_asked() {
    let wrong = |body: Value| super::checks::wrong::<AnswersConfig>(body);
    let sound = json!({ "score": "y", "teacher": "t", "capture": { "top-k": 5 } });
    assert_eq!(wrong(sound.clone()), [""; 0]);
    let with = |key: &str, value: Value| {
        let mut body = sound.clone();
        body[key] = value;
        wrong(body).concat()
    };
    assert!(with("prompts", json!("p")).starts_with("the answers that `score` names have their prompts already"));
    assert!(
        with("samples", json!(2)).starts_with("given answers are what they are: none is asked for | leave `samples`")
    );
    let again = with("outcomes", json!({ "cut": "ask-again" }));
    assert!(again.starts_with("given answers are what they are: none is asked for | leave `outcomes`"), "{again}");
    assert!(with("sampling", json!({ "temperature": 0.5 })).contains("`sampling` changes nothing"));
    let plain = wrong(json!({ "score": "y", "teacher": "t" })).concat();
    assert!(plain.starts_with("`score` asks for log-probabilities, and none are captured | add `capture"), "{plain}");
    let neither = wrong(json!({ "teacher": "t" })).concat();
    assert!(neither.starts_with("missing `prompts` | ") && neither.contains("`score = \"…\"`"), "{neither}");

    let mut report = Diagnostics::default();
    let answers = AnswersConfig::decode(&Node::from_json(&sound), &mut report).unwrap();
    let mut said = |teacher: Value| {
        let teacher = TeacherConfig::decode(&Node::from_json(&teacher), &mut report).unwrap();
        let mut report = Diagnostics::default();
        teacher.settings.check(&answers, &|_| Origin::NOWHERE, &mut report);
        report
            .sorted()
            .iter()
            .map(|one| format!("{} | {}", one.message, one.hint.as_deref().unwrap_or("")))
            .collect::<Vec<_>>()
    };
    let server = |provider: &str| json!({ "provider": provider, "base-url": "http://127.0.0.1:1/v1", "model": "m" });
    assert_eq!(said(server("vllm")), [""; 0]);
    assert_eq!(said(json!({ "provider": "local", "model": "m" })), [""; 0]);
    let message = said(server("openai")).concat();
    assert_eq!(message, "openai, any other server can't score given answers | providers that have it: `vllm`, `local`");
}
