//! The stage against a server in the same process, and the dataset's filter that reads its scores.

use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::{Value, json};
use stillhouse_data::answer::{ANSWERS_FILE, Answer, Outcome as Answered, write_answers};
use stillhouse_data::jsonl::JsonlReader;
use stillhouse_data::prompt::{ImageUrl, Message, Part, Prompt};
use stillhouse_spec::{Config as _, Diagnostics, Node, Origin};
use stillhouse_stage::{AnyConfig, Class, Failure, Kind as _, Outcome, StageKind as _, Surroundings, View};

use super::{JUDGEMENTS_FILE, Judge, JudgeConfig, Judgement, SCORES_FILE, Scored, UNSCORED_FILE, WithoutScore};
use crate::answers::tests::bench::{Bench, NoModels};
use crate::answers::tests::server::Server;
use crate::definition::{Teacher, TeacherConfig};
use crate::testing::{Act, Asked, answer_with};

static JUDGE: Judge = Judge { loader: &NoModels };

struct Made {
    outcome: Outcome,
    out: PathBuf,
}

impl Made {
    fn lines<T: serde::de::DeserializeOwned>(&self, file: &str) -> Vec<T> {
        JsonlReader::open(&self.out.join(file)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn scores(&self) -> Vec<f64> {
        self.lines::<Scored>(SCORES_FILE).iter().map(|scored| scored.score).collect()
    }
}

fn answer(question: &str, sample: u32, text: &str) -> Answer {
    let prompt = Prompt::new(vec![Message::user(question)], None);
    Answer {
        prompt: prompt.id,
        sample,
        messages: prompt.messages,
        reference: None,
        text: text.to_owned(),
        finish: "stop".to_owned(),
        outcome: Answered::Ok,
        tokens: None,
    }
}

/// Two samples of each of so many prompts, answered with a grade from 1 to 5.
fn answers(prompts: u32) -> Vec<Answer> {
    let all = (0..prompts).flat_map(|prompt| [(prompt, 0), (prompt, 1)]);
    all.map(|(prompt, sample)| {
        answer(&format!("question {prompt}"), sample, &format!("deserves {}", (prompt * 2 + sample) % 5 + 1))
    })
    .collect()
}

fn run(bench: &Bench, answers: &[Answer], server: &Server, mut config: Value) -> Result<Made, Failure> {
    config["answers"] = json!("a");
    let folder = tempfile::tempdir_in(bench.folder.path()).unwrap();
    let mut writer = write_answers(&folder.path().join(ANSWERS_FILE)).unwrap();
    answers.iter().for_each(|answer| writer.write(answer).unwrap());
    writer.finish().unwrap();
    let digest = bench.store.put_tree(folder.path()).unwrap().0;
    let teacher = server.definition(json!({ "concurrency": 8, "attempts": 2 }));
    let context = bench.context_of("judge", ("answers", "answers.a"), digest, teacher, config);
    let outcome = JUDGE.run(&context)?;
    Ok(Made { outcome, out: context.out() })
}

/// The grade that the judged answer says that it deserves.
fn deserved(asked: &Asked) -> u64 {
    let text = asked.last_message();
    let after = text.split("deserves ").nth(1).unwrap();
    after[..1].parse().unwrap()
}

fn fair(asked: &Asked) -> Act {
    answer_with(&format!("It has 9 faults.\nScore: {}", deserved(asked)))
}

#[test]
fn every_answer_gets_the_score_that_the_judge_says_and_the_filter_reads_it() {
    let server = Server::start(|asked| fair(asked).after(std::time::Duration::from_millis(asked.number * 7919 % 13)));
    let (bench, answers) = (Bench::new(), answers(10));
    let made = run(&bench, &answers, &server, json!({})).unwrap();
    let scores: Vec<Scored> = made.lines(SCORES_FILE);
    assert_eq!(scores.len(), 20);
    for (scored, answer) in scores.iter().zip(&answers) {
        assert_eq!((&scored.prompt, scored.sample), (&answer.prompt, answer.sample));
        assert_eq!(answer.text, format!("deserves {}", scored.score));
    }
    let metrics = &made.outcome.metrics;
    assert_eq!((&metrics["scored"], &metrics["mean"]), (&json!(20), &json!(3.0)));
    assert_eq!(metrics["scores"], json!({ "1": 4, "2": 4, "3": 4, "4": 4, "5": 4 }));
    assert_eq!(
        (&metrics["asked"], &metrics["paid-tokens"]),
        (&json!(20), &json!({ "prompt": 140, "completion": 120 }))
    );
    assert!(!made.out.join(UNSCORED_FILE).exists());
    let line = fs_err::read_to_string(made.out.join(SCORES_FILE)).unwrap().lines().next().unwrap().to_owned();
    assert_eq!(line, format!("{{\"prompt\":\"{}\",\"sample\":0,\"score\":1.0}}", answers[0].prompt));
    // Another rubric asks anew, the same one nobody.
    run(&bench, &answers, &server, json!({})).unwrap();
    assert_eq!(server.teacher.asked(), 20);
    run(&bench, &answers, &server, json!({ "rubric": "it is short" })).unwrap();
    assert_eq!(server.teacher.asked(), 40);
}

#[test]
fn several_judgements_are_averaged_over_those_that_have_a_score() {
    let server = Server::start(|asked| {
        let seed = asked.json()["seed"].as_u64().unwrap();
        answer_with(&if seed % 3 == 0 { "well".to_owned() } else { format!("{{\"grade\": {}}}", seed % 3 + 1) })
    });
    let config = json!({ "samples": 6, "sampling": { "temperature": 1 }, "score": { "json": "grade" } });
    let bench = Bench::new();
    let made = run(&bench, &answers(2), &server, config).unwrap();
    let judgements: Vec<Judgement> = made.lines(JUDGEMENTS_FILE);
    assert_eq!(judgements.len(), 24);
    for (scored, judged) in made.lines::<Scored>(SCORES_FILE).iter().zip(judgements.chunks(6)) {
        let given: Vec<f64> = judged.iter().filter_map(|judgement| judgement.score).collect();
        assert!(given.iter().all(|score| [2.0, 3.0].contains(score)) && !given.is_empty());
        assert_eq!(scored.scores, given);
        assert_eq!(scored.score, given.iter().sum::<f64>() / given.len() as f64);
    }
    assert!(judgements.iter().any(|judgement| judgement.why.as_deref() == Some("unparseable")));
    assert!(made.outcome.metrics["deviation-of-judgements"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_judgement_without_a_score_is_asked_for_again_and_then_treated_as_the_table_says() {
    // An answer that deserves n gets its score at the (n % 3 + 1)th asking.
    let start = || {
        let asked_before = Mutex::new(std::collections::BTreeMap::<String, u64>::new());
        Server::start(move |asked| {
            let mut before = asked_before.lock().unwrap();
            let times = before.entry(asked.last_message()).or_default();
            *times += 1;
            if *times > deserved(asked) % 3 { fair(asked) } else { answer_with("hm, 17") }
        })
    };
    let all: Vec<Answer> =
        (1..=5).map(|grade| answer(&format!("q {grade}"), 0, &format!("deserves {grade}"))).collect();
    let config = |more: Value| {
        let mut config = json!({ "ask-again-times": 1, "sampling": { "temperature": 0.5 } });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let (server, bench) = (start(), Bench::new());
    let made = run(&bench, &all, &server, config(json!({}))).unwrap();
    assert_eq!(made.scores(), [1.0, 3.0, 4.0], "2 and 5 would have to be asked a third time");
    let without: Vec<WithoutScore> = made.lines(UNSCORED_FILE);
    assert_eq!(without.len(), 2);
    assert_eq!((without[1].prompt.as_str(), without[1].why.as_str()), (all[4].prompt.as_str(), "outside-of-scale"));
    assert_eq!(made.outcome.metrics["without-score"], json!({ "outside-of-scale": 2 }));
    assert_eq!((&made.outcome.metrics["asked"], &made.outcome.metrics["asked-again"]), (&json!(9), &json!(4)));
    assert_eq!(bench.warnings().len(), 1);
    // The same replies, treated otherwise.
    let lowest = run(&bench, &all, &server, config(json!({ "unscored": "lowest" }))).unwrap();
    assert_eq!(lowest.scores(), [1.0, 1.0, 3.0, 4.0, 1.0]);
    let failure = run(&bench, &all, &server, config(json!({ "unscored": "fail" }))).err().unwrap();
    assert_eq!(failure.class, Class::Teacher);
    assert!(failure.message.ends_with("a score (outside-of-scale)"), "{failure}");
    assert_eq!(server.teacher.asked(), 9, "nothing was asked anew");
    let more = run(&bench, &all, &server, config(json!({ "ask-again-times": 2 }))).unwrap();
    assert_eq!((more.scores().len(), server.teacher.asked()), (5, 11));
}

#[test]
fn a_judgement_that_never_comes_costs_the_others_nothing_and_is_remembered() {
    let server = Server::start(|asked| {
        if deserved(asked) == 2 {
            Act::status(500, "oops").after(std::time::Duration::from_millis(100))
        } else {
            fair(asked)
        }
    });
    let all: Vec<Answer> =
        (1..=5).map(|grade| answer(&format!("q {grade}"), 0, &format!("deserves {grade}"))).collect();
    let bench = Bench::new();
    let ask = |failed: &str, more: Value| {
        let mut config = json!({ "sampling": { "temperature": 0.5 }, "outcomes": { "failed": failed } });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        run(&bench, &all, &server, config)
    };
    let failure = ask("fail", json!({})).err().unwrap();
    assert!(
        failure.message.contains("of all requests 1 got no usable reply though others did: prompt 2 ("),
        "{failure}"
    );
    assert!(failure.hint.unwrap().ends_with("`outcomes = { failed = \"drop\" }` in `[judge.X]`"));
    assert_eq!(server.teacher.asked(), 4 + 2, "all others were answered");
    // A judgement without a score, as others are; or one that is not there at all.
    let kept = ask("keep", json!({ "unscored": "lowest" })).unwrap();
    assert_eq!(kept.scores(), [1.0, 1.0, 3.0, 4.0, 5.0]);
    let judgements: Vec<Judgement> = kept.lines(JUDGEMENTS_FILE);
    assert_eq!(
        (judgements[1].why.as_deref(), judgements[1].text.as_str()),
        (Some("failed"), "the server answered 500: oops")
    );
    let made = ask("drop", json!({ "unscored": "lowest" })).unwrap();
    assert_eq!(made.scores(), [1.0, 3.0, 4.0, 5.0]);
    let without: Vec<WithoutScore> = made.lines(UNSCORED_FILE);
    assert_eq!((without.len(), without[0].why.as_str()), (1, "failed"));
    assert_eq!(made.outcome.metrics["failed"], json!({ "prompts": 1, "requests": 1 }));
    // That others are asked again does not mean that it is.
    ask("drop", json!({ "ask-again-times": 1 })).unwrap();
    assert_eq!(server.teacher.asked(), 6, "what was found out is not paid again");
    for _ in 0..2 {
        let again = ask("ask-again", json!({ "ask-again-times": 1 })).unwrap();
        assert_eq!((server.teacher.asked(), again.scores().len()), (8, 4));
        assert_eq!(again.outcome.metrics["failed"], json!({ "prompts": 1, "requests": 2 }));
    }
}

#[test]
fn judgements_that_never_came_are_not_counted_as_scores_nor_against_them() {
    let all = [answer("q 1", 0, "deserves 1"), answer("q 2", 0, "deserves 2")];
    let config = json!({ "unscored": "lowest", "outcomes": { "failed": "drop" } });
    // The second is never answered; the first has a score, or has none.
    let judged_as = |words: &'static str| {
        let server = Server::start(move |asked| match deserved(asked) {
            2 => Act::status(500, "oops").after(std::time::Duration::from_millis(100)),
            _ => answer_with(words),
        });
        let bench = Bench::new();
        run(&bench, &all, &server, config.clone()).map(|made| made.scores())
    };
    assert_eq!(judged_as("Score: 4").unwrap(), [4.0]);
    let failure = judged_as("well").err().unwrap();
    assert_eq!(failure.message, "teacher t gives none of 2 answers a score (1 failed, 1 unparseable)");
}

#[test]
fn a_judgement_that_is_rejected_is_not_asked_for_again() {
    let server = Server::start(|asked| if deserved(asked) == 2 { Act::status(400, "too long") } else { fair(asked) });
    let all: Vec<Answer> =
        (1..=3).map(|grade| answer(&format!("q {grade}"), 0, &format!("deserves {grade}"))).collect();
    let config = json!({ "ask-again-times": 2, "sampling": { "temperature": 0.5 } });
    let bench = Bench::new();
    let made = run(&bench, &all, &server, config).unwrap();
    assert_eq!((made.scores(), server.teacher.asked()), (vec![1.0, 3.0], 3));
}

#[test]
fn answers_that_say_nothing_are_not_judged_but_listed_in_their_place() {
    let server = Server::start(|asked| if deserved(asked) == 2 { answer_with("no idea") } else { fair(asked) });
    let mut all = answers(3);
    all[0].text = "  ".to_owned();
    all[2].outcome = Answered::ContentFilter;
    all[5].outcome = Answered::Rejected;
    all[5].text = String::new();
    let bench = Bench::new();
    let made = run(&bench, &all, &server, json!({})).unwrap();
    assert_eq!((made.scores(), server.teacher.asked()), (vec![4.0, 5.0], 3));
    let why: Vec<String> = made.lines::<WithoutScore>(UNSCORED_FILE).into_iter().map(|without| without.why).collect();
    assert_eq!(why, ["empty", "unparseable", "content-filter", "rejected"]);
    assert_eq!(made.outcome.metrics["not-judged"], json!({ "empty": 1, "content-filter": 1, "rejected": 1 }));
    all.iter_mut().for_each(|answer| answer.text.clear());
    let failure = run(&Bench::new(), &all, &server, json!({})).err().unwrap();
    assert_eq!(failure.message, "there is no answer to judge (1 content-filter, 4 empty, 1 rejected)");
    let silent = Server::start(|_| answer_with("well"));
    for policy in ["drop", "lowest"] {
        let failure = run(&Bench::new(), &answers(1), &silent, json!({ "unscored": policy })).err().unwrap();
        assert_eq!(failure.message, "teacher t gives none of 2 answers a score (2 unparseable)");
    }
}

#[test]
fn the_question_shows_what_the_template_names() {
    let server = Server::start(|asked| {
        assert_eq!(
            asked.last_message(),
            "system: Be kind.\n\nuser: hi|hello|hullo|it is kind|0-10|as JSON, in this form: {\"s\": N}"
        );
        answer_with("{\"s\": 7.5}")
    });
    let messages = vec![Message::system("Be kind."), Message::user("hi")];
    let one = Answer { messages, reference: Some("hullo".to_owned()), ..answer("hi", 0, "hello") };
    let config = json!({
        "template": "{{ prompt }}|{{ answer }}|{{ reference }}|{{ rubric }}|{{ min }}-{{ max }}|{{ form }}",
        "rubric": "it is kind", "scale": { "min": 0, "max": 10 }, "score": { "json": "s" },
    });
    let bench = Bench::new();
    assert_eq!(run(&bench, &[one], &server, config).unwrap().scores(), [7.5]);
}

#[test]
fn the_images_of_a_conversation_are_shown_to_the_judge() {
    let server = Server::start(|asked| {
        let content = &asked.json()["messages"][0]["content"];
        assert!(content[0]["text"].as_str().unwrap().contains("What is it?"), "{content}");
        assert_eq!(content[1]["image_url"]["url"], "https://example.org/cat.png");
        answer_with("Score: 5")
    });
    let mut one = answer("What is it?", 0, "a cat");
    let image_url = ImageUrl { url: "https://example.org/cat.png".to_owned(), detail: None };
    one.messages[0].parts = vec![Part::Text { text: "What is it?".to_owned() }, Part::ImageUrl { image_url }];
    let bench = Bench::new();
    assert_eq!(run(&bench, &[one], &server, json!({})).unwrap().scores(), [5.0]);
}

struct Around(TeacherConfig);

impl Surroundings for Around {
    fn follow(&self, _: &str, path: &str) -> Option<View<'_>> {
        (path == "teacher").then(|| View::new("teacher.t", &Teacher, &self.0 as &dyn AnyConfig, Origin::NOWHERE, self))
    }
}

#[test]
fn what_makes_no_sense_is_said_by_check() {
    let said = |change: Value, teacher: Value| {
        let mut body = json!({ "answers": "a", "teacher": "t" });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut report = Diagnostics::default();
        if let Some(config) = JudgeConfig::decode(&Node::from_json(&body), &mut report) {
            let around = Around(TeacherConfig::decode(&Node::from_json(&teacher), &mut report).unwrap());
            JUDGE.check(&View::new("judge.j", &JUDGE, &config, Origin::NOWHERE, &around), &mut report);
        }
        report.sorted().iter().map(|diagnostic| diagnostic.message.clone()).collect::<Vec<_>>()
    };
    let openai = json!({ "provider": "openai", "base-url": "https://api.openai.com/v1", "model": "m" });
    let check = |change: Value| said(change, openai.clone());
    assert_eq!(check(json!({})), [""; 0]);
    assert_eq!(check(json!({ "scale": { "min": 5 } })), ["the `min` of `scale` is not less than its `max`"]);
    assert_eq!(
        check(json!({ "samples": 3, "ask-again-times": 1 })),
        [
            "`samples` at temperature 0: the same judgement comes each time",
            "`ask-again-times` at temperature 0: the same judgement comes each time",
        ]
    );
    assert_eq!(
        check(json!({ "outcomes": { "failed": "ask-again" } })),
        ["`failed = \"ask-again\"` needs `ask-again-times`: it is 0 if left out"]
    );
    assert_eq!(check(json!({ "template": "{{ prompt }}" })), ["the template does not show the `answer`"]);
    assert_eq!(
        check(json!({ "template": "{{ answer }} {{ score }}" })),
        [
            "`template` uses `score`, which there is not: it has `answer`, `form`, `max`, `min`, `prompt`, `reference`, `rubric`"
        ]
    );
    assert_eq!(check(json!({ "score": { "json": "" } })), ["the name of the member is empty"]);
    assert_eq!(
        check(json!({ "sampling": { "top-k": 4 } })),
        ["openai, strict (OpenAI, Azure) has no `sampling.top-k`"]
    );
    let given = json!({ "provider": "replies", "path": "given.jsonl" });
    assert_eq!(said(json!({}), given), ["a teacher of given replies cannot be asked questions of a stage's own"]);
}
