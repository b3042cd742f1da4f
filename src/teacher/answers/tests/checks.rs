//! What is wrong with the tables is said before anything is asked.

use std::sync::Mutex;

use serde_json::{Value, json};
use stillhouse_spec::{Config, Diagnostics, Node, Origin, Severity};

use crate::answers::AnswersConfig;
use crate::definition::TeacherConfig;

pub fn wrong<C: Config>(body: Value) -> Vec<String> {
    let mut report = Diagnostics::default();
    let decoded = C::decode(&Node::from_json(&body), &mut report);
    assert!(decoded.is_none() || report.has_errors() || report.sorted().is_empty() || only_warnings(&report));
    said(&report)
}

fn only_warnings(report: &Diagnostics) -> bool {
    report.sorted().iter().all(|diagnostic| diagnostic.severity == Severity::Warning)
}

fn said(report: &Diagnostics) -> Vec<String> {
    let line = |message: &str, hint: Option<&str>| format!("{message} | {}", hint.unwrap_or_default());
    report.sorted().iter().map(|diagnostic| line(&diagnostic.message, diagnostic.hint.as_deref())).collect()
}

pub fn teacher(change: impl FnOnce(&mut Value)) -> Value {
    let mut body = json!({ "provider": "openai", "base-url": "http://127.0.0.1:8080/v1", "model": "m" });
    change(&mut body);
    body
}

#[test]
fn a_sound_teacher_says_nothing() {
    let full = teacher(|body| {
        body["api-key-env"] = json!("TEACHER_API_KEY");
        body["terms"] = json!({ "training": "allowed", "source": "Apache-2.0" });
        body["limits"] =
            json!({ "concurrency": 16, "requests-per-minute": 600, "tokens-per-minute": 400_000, "budget-usd": 5.0 });
        body["prices"] = json!({ "input": 0.15, "output": 0.6 });
    });
    assert_eq!(wrong::<TeacherConfig>(full), [""; 0]);
}

#[test]
fn providers_are_suggested() {
    assert_eq!(
        wrong::<TeacherConfig>(json!({ "provider": "openia" })),
        ["unknown provider `openia` | did you mean `openai`?"]
    );
    let missing = wrong::<TeacherConfig>(json!({ "model": "m" }));
    assert!(missing[0].starts_with("missing `provider` | one of"), "{missing:?}");
}

#[test]
fn what_is_missing_or_misspelt_is_named() {
    let missing = wrong::<TeacherConfig>(json!({ "provider": "openai", "model": "m" }));
    assert_eq!(missing, ["missing `base-url` | add `base-url = \"…\"`"]);
    let misspelt = wrong::<TeacherConfig>(teacher(|body| body["modle"] = json!("m")));
    assert_eq!(misspelt, ["unknown key `modle` | did you mean `model`?"]);
    let secret = wrong::<TeacherConfig>(teacher(|body| body["api-key"] = json!("x")));
    assert!(secret[0].contains("unknown key `api-key`") && secret[0].contains("environment variable"), "{secret:?}");
}

#[test]
fn a_base_url_is_an_address_without_secrets() {
    let of = |url: &str| wrong::<TeacherConfig>(teacher(|body| body["base-url"] = json!(url))).concat();
    assert!(of("127.0.0.1:8080/v1").contains("`base-url`"));
    assert!(of("ftp://host/v1").contains("must begin with http:// or https://"));
    assert!(of("https://user:hunter2@host/v1").contains("must not carry a user, a password or a query"));
    assert!(!of("https://host/v1?key=hunter2").contains("hunter2"));
    assert_eq!(of("https://host/v1"), "");
}

#[test]
fn a_budget_needs_prices() {
    let body = teacher(|body| body["limits"] = json!({ "budget-usd": 5.0 }));
    assert!(wrong::<TeacherConfig>(body)[0].starts_with("`budget-usd` needs `prices` |"));
}

#[test]
fn capture_is_one_of_two() {
    let of = |capture: Value| wrong::<AnswersConfig>(json!({ "prompts": "p", "teacher": "t", "capture": capture }));
    assert_eq!(of(json!({ "top-k": 5 })), [""; 0]);
    assert_eq!(of(json!({ "full": true, "precision": "f32" })), [""; 0]);
    assert!(of(json!({}))[0].starts_with("`capture` is either `top-k` or `full`"));
    assert!(of(json!({ "full": true, "top-k": 5 }))[0].starts_with("`capture` is either"));
}

#[test]
fn what_is_captured_and_how_must_fit() {
    let of = |capture: Value| wrong::<AnswersConfig>(json!({ "prompts": "p", "teacher": "t", "capture": capture }));
    assert_eq!(of(json!({ "top-k": 5, "encoding": "compact" })), [""; 0]);
    assert_eq!(of(json!({ "top-p": 0.9, "max-k": 64, "encoding": { "compact": { "kl": 0.01 } } })), [""; 0]);
    assert_eq!(of(json!({ "samples": 64 })), [""; 0]);
    assert_eq!(of(json!({ "hidden": "bf16" })), [""; 0]);
    assert!(of(json!({ "top-p": 0.9, "samples": 5 }))[0].starts_with("`capture` is either"));
    assert!(of(json!({ "top-p": 0.9, "min-k": 500 }))[0].starts_with("`min-k` is more than `max-k`"));
    assert!(of(json!({ "full": true, "encoding": "compact" }))[0].starts_with("`compact` keeps some tokens"));
    let exact = of(json!({ "top-k": 5, "precision": "f32", "encoding": "compact" }));
    assert!(exact[0].starts_with("`precision` is for the plain encoding"), "{exact:?}");
    let fine = of(json!({ "top-k": 5, "encoding": { "compact": { "kl": 1e-9 } } }));
    assert!(fine[0].starts_with("`kl` is 1e-9, less than 0.000001"), "{fine:?}");
    assert_eq!(of(json!({ "top-k": 5, "encoding": "compct" })), ["unknown choice `compct` | did you mean `compact`?"]);
}

#[test]
fn what_only_a_local_teacher_can_give_is_refused_of_a_server() {
    let mut report = Diagnostics::default();
    let teacher = TeacherConfig::decode(&Node::from_json(&teacher(|_| ())), &mut report).unwrap();
    for (setting, capture) in [
        ("top-p", json!({ "top-p": 0.9 })),
        ("samples", json!({ "samples": 8 })),
        ("hidden", json!({ "hidden": "f32" })),
        ("encoding", json!({ "top-k": 5, "encoding": "compact" })),
    ] {
        let answers = json!({ "prompts": "p", "teacher": "t", "capture": capture });
        let answers = AnswersConfig::decode(&Node::from_json(&answers), &mut report).unwrap();
        let mut report = Diagnostics::default();
        teacher.settings.check(&answers, &|_| Origin::NOWHERE, &mut report);
        assert!(said(&report)[0].starts_with(&format!("`capture.{setting}` is for a local teacher")));
    }
}

#[test]
fn samples_without_chance_get_a_warning() {
    let body = json!({ "prompts": "p", "teacher": "t", "samples": 4, "sampling": { "temperature": 0.0 } });
    assert!(wrong::<AnswersConfig>(body)[0].starts_with("4 samples at temperature 0 are all the same"));
}

#[test]
fn openai_s_own_limits_are_known_before_anything_is_spent() {
    let mut report = Diagnostics::default();
    let answers = json!({ "prompts": "p", "teacher": "t", "capture": { "top-k": 64 }, "sampling": { "top-k": 40 } });
    let answers = AnswersConfig::decode(&Node::from_json(&answers), &mut report).unwrap();
    let mut of = |url: &str| {
        let body = teacher(|body| body["base-url"] = json!(url));
        let teacher = TeacherConfig::decode(&Node::from_json(&body), &mut report).unwrap();
        let mut report = Diagnostics::default();
        let places = Mutex::new(Vec::new());
        teacher.settings.check(
            &answers,
            &|path| (places.lock().unwrap().push(path.to_owned()), Origin::NOWHERE).1,
            &mut report,
        );
        (places.into_inner().unwrap(), said(&report))
    };
    assert_eq!(of("http://127.0.0.1:8080/v1"), (Vec::new(), Vec::new()));
    let (places, words) = of("https://api.openai.com/v1");
    assert_eq!(places, ["capture.top-k", "sampling.top-k"]);
    assert_eq!(
        words,
        [
            "openai, strict (OpenAI, Azure) gives at most 20 log-probabilities a token | `capture = { top-k = 20 }`, or set \
             `strict = false` in the teacher if its server has it; providers that have it: `openai` (any other server), `vllm`, `local`, `replies`",
            "openai, strict (OpenAI, Azure) has no `sampling.top-k` | remove it, or set `strict = false` in the teacher if its \
             server has it; providers that have it: `openai` (any other server), `anthropic`, `vllm`, `local`",
        ]
    );
}

#[test]
fn what_a_provider_cannot_give_is_said_at_the_key_that_asks_for_it() {
    let check = |teacher: Value, change: Value| {
        let mut body = json!({ "prompts": "p", "teacher": "t" });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut report = Diagnostics::default();
        let answers = AnswersConfig::decode(&Node::from_json(&body), &mut report).unwrap();
        let teacher = TeacherConfig::decode(&Node::from_json(&teacher), &mut report).unwrap();
        let places = Mutex::new(Vec::new());
        teacher.settings.check(
            &answers,
            &|path| (places.lock().unwrap().push(path.to_owned()), Origin::NOWHERE).1,
            &mut report,
        );
        (places.into_inner().unwrap(), said(&report))
    };
    let full = json!({ "capture": { "full": true } });
    let openai = |url: &str| teacher(|body| body["base-url"] = json!(url));
    let (places, words) = check(openai("https://api.openai.com/v1"), full.clone());
    assert_eq!(places, ["capture.full"]);
    assert!(
        words[0]
            .contains("at most 20 log-probabilities a token, not the whole vocabulary | `capture = { top-k = 20 }`")
    );
    assert!(words[0].ends_with("providers that have it: `openai` (any other server), `vllm`, `local`"), "{words:?}");
    let mut completions = openai("https://api.openai.com/v1");
    completions["api"] = json!("completions");
    assert_eq!(check(completions, json!({ "capture": { "top-k": 6 } })).0, ["capture.top-k"]);
    let anthropic = json!({ "provider": "anthropic", "model": "claude-x-20260101" });
    assert_eq!(check(anthropic, full.clone()).0, ["capture"]);
    let vllm = json!({ "provider": "vllm", "base-url": "http://127.0.0.1:8000/v1", "model": "m" });
    assert_eq!(check(vllm, full.clone()).0, [""; 0]);
    let local = json!({ "provider": "local", "model": "m" });
    assert_eq!(check(local, json!({ "sampling": { "stop": ["x"] } })).0, ["sampling.stop"]);
    let replies = json!({ "provider": "replies", "path": "given.jsonl" });
    let (places, words) = check(replies, json!({ "capture": { "full": true }, "sampling": { "temperature": 0.5 } }));
    assert_eq!(places, ["capture.full", "sampling"]);
    let again = json!({ "outcomes": { "refusal": "ask-again" } });
    assert_eq!(check(json!({ "provider": "replies", "path": "given.jsonl" }), again).0, ["outcomes"]);
    assert!(words.iter().any(|words| words.starts_with("given replies are what they are")), "{words:?}");
}

#[test]
fn an_alias_that_may_move_gets_a_warning() {
    for name in ["gpt-x-latest", "qwen3:latest"] {
        let words = wrong::<TeacherConfig>(teacher(|body| body["model"] = json!(name)));
        assert!(
            words[0].starts_with(&format!("`{name}` is an alias: what it stands for may change any day |")),
            "{words:?}"
        );
    }
    assert_eq!(wrong::<TeacherConfig>(teacher(|body| body["model"] = json!("latest-2026-01-01"))), [""; 0]);
}

#[test]
fn only_what_the_teacher_is_counts_in_a_key() {
    let mut report = Diagnostics::default();
    let mut described =
        |body: Value| format!("{:?}", TeacherConfig::decode(&Node::from_json(&body), &mut report).unwrap().describe());
    let base = described(teacher(|_| ()));
    let moved = described(teacher(|body| {
        body["base-url"] = json!("https://elsewhere/v1");
        body["api-key-env"] = json!("OTHER");
        body["limits"] = json!({ "concurrency": 3, "timeout-seconds": 5.0, "max-wait-seconds": 30.0 });
        body["prices"] = json!({ "input": 1.0, "output": 1.0 });
        body["terms"] = json!({ "training": "unclear" });
        body["strict"] = json!(true);
        body["api"] = json!("chat");
    }));
    assert_eq!(base, moved);
    assert_ne!(base, described(teacher(|body| body["model"] = json!("n"))));
    assert_ne!(base, described(teacher(|body| body["revision"] = json!("q4"))));
}

#[test]
fn a_policy_that_makes_no_sense_is_told() {
    let answers = |change: serde_json::Value| {
        let mut body = json!({ "prompts": "p", "teacher": "t" });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        wrong::<AnswersConfig>(body)
    };
    assert_eq!(
        answers(json!({ "format": { "regex": "(" } })),
        ["`format.regex` is no regular expression: unclosed group | in TOML's 'single quotes' a backslash stands for \
          itself: format = { regex = '^\\d+$' }"]
    );
    assert_eq!(
        answers(json!({ "outcomes": { "unparseable": "drop" } })),
        ["nothing is `unparseable` without a `format` | set `format = \"json\"` or `format = { regex = \"…\" }`"]
    );
    assert_eq!(
        answers(json!({ "outcomes": { "cut": "ask-again" }, "sampling": { "temperature": 0.0 } })),
        [
            "`cut = \"ask-again\"` at temperature 0 brings the same | set `sampling = { temperature = 0.7 }`, or `\"drop\"`"
        ]
    );
    assert_eq!(
        answers(json!({ "outcomes": { "refusal": "forget" } })),
        ["unknown choice `forget` | one of `keep`, `drop`, `ask-again`"]
    );
    assert_eq!(
        answers(json!({ "format": "json", "outcomes": { "unparseable": "ask-again" }, "ask-again-times": 1 })),
        [""; 0]
    );
}

#[test]
fn a_policy_at_its_defaults_moves_no_key() {
    let key = |change: serde_json::Value| {
        let mut body = json!({ "prompts": "p", "teacher": "t" });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let decoded = AnswersConfig::decode(&Node::from_json(&body), &mut Diagnostics::default()).unwrap();
        format!("{:?}", decoded.describe())
    };
    let bare = key(json!({}));
    assert!(!bare.contains("outcomes") && !bare.contains("again") && !bare.contains("format"), "{bare}");
    let defaults = json!({ "outcomes": { "cut": "keep" }, "ask-again-times": 2, "ask-again-then": "keep" });
    assert_eq!(key(defaults), bare);
    assert_ne!(key(json!({ "outcomes": { "cut": "drop" } })), bare);
    assert_ne!(key(json!({ "format": "json" })), bare);
    assert_eq!(key(json!({ "outcomes": { "failed": "fail" } })), bare);
    let cut = key(json!({ "outcomes": { "cut": "drop" } }));
    assert_eq!(key(json!({ "outcomes": { "cut": "drop", "failed": "fail" } })), cut);
    assert_ne!(key(json!({ "outcomes": { "failed": "drop" } })), bare);
}

#[test]
fn openai_takes_four_stop_texts_and_others_as_many_as_one_likes() {
    let said_of = |url: &str, stops: &[&str]| {
        let mut report = Diagnostics::default();
        let answers = json!({ "prompts": "p", "teacher": "t", "sampling": { "stop": stops } });
        let answers = AnswersConfig::decode(&Node::from_json(&answers), &mut report).unwrap();
        let body = teacher(|body| body["base-url"] = json!(url));
        let teacher = TeacherConfig::decode(&Node::from_json(&body), &mut report).unwrap();
        teacher.settings.check(&answers, &|_| Origin::NOWHERE, &mut report);
        said(&report)
    };
    let five = ["a", "b", "c", "d", "e"];
    assert_eq!(said_of("http://127.0.0.1:8080/v1", &five), [""; 0]);
    assert_eq!(said_of("https://api.openai.com/v1", &five[..4]), [""; 0]);
    let told = said_of("https://api.openai.com/v1", &five);
    assert!(
        told[0].starts_with("openai, strict (OpenAI, Azure) takes 4 stop texts at the most | remove some"),
        "{told:?}"
    );
}
