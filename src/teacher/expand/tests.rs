//! The stage against a server in the same process.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use stillhouse_data::jsonl::JsonlReader;
use stillhouse_data::prompt::{PROMPTS_FILE, Prompt, read_prompts};
use stillhouse_spec::{Config as _, Diagnostics, Node, Origin};
use stillhouse_stage::store::{Key, Record};
use stillhouse_stage::{Ahead, AnyConfig, Failure, Outcome, StageKind as _, Surroundings, View};

use super::{Expand, ExpandConfig, LEFT_OUT_FILE, LeftOut, ORIGINS_FILE, Written};
use crate::answers::tests::bench::{Bench, NoModels};
use crate::answers::tests::server::Server;
use crate::definition::{Teacher, TeacherConfig};
use crate::testing::{Act, Asked, answer_with};

static EXPAND: Expand = Expand { loader: &NoModels };

struct Made {
    outcome: Outcome,
    out: PathBuf,
}

impl Made {
    fn prompts(&self) -> Vec<Prompt> {
        read_prompts(&self.out.join(PROMPTS_FILE)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn texts(&self) -> Vec<String> {
        self.prompts().into_iter().map(|prompt| prompt.messages.last().unwrap().content.clone()).collect()
    }

    fn lines<T: serde::de::DeserializeOwned>(&self, file: &str) -> Vec<T> {
        JsonlReader::open(&self.out.join(file)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn bytes(&self) -> Vec<Vec<u8>> {
        [PROMPTS_FILE, ORIGINS_FILE, LEFT_OUT_FILE].map(|file| fs_err::read(self.out.join(file)).unwrap()).into()
    }
}

fn run(bench: &Bench, seeds: &[String], server: &Server, mut config: Value) -> Result<Made, Failure> {
    config["seeds"] = json!("p");
    let teacher = server.definition(json!({ "concurrency": 8, "attempts": 2 }));
    let context = bench.context_of("expand", ("seeds", "prompts.p"), bench.prompts(seeds), teacher, config);
    let outcome = EXPAND.run(&context)?;
    Ok(Made { outcome, out: context.out() })
}

fn seeds(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("Explain the habits of animal number {number} to me")).collect()
}

/// Two words that depend on the request, its seed and a number.
fn words(asked: &Asked, number: u64) -> String {
    let seed = asked.json()["seed"].as_u64().unwrap();
    let hash = blake3::hash(format!("{seed} {number} {}", asked.last_message()).as_bytes()).to_hex();
    format!("{} {}", &hash[..8], &hash[8..16])
}

/// A teacher that writes three new prompts a request, the last of them too short.
fn writer(asked: &Asked) -> Act {
    let (one, two) = (words(asked, 1), words(asked, 2));
    answer_with(&format!("Here:\n1. Describe the {one} in words\n2. Compare the {two} with it\n3. Why?"))
}

#[test]
fn new_prompts_stand_in_the_order_of_their_requests_with_where_they_are_from() {
    let server = Server::start(|asked| writer(asked).after(std::time::Duration::from_millis(asked.number * 7919 % 11)));
    let config = json!({ "rounds": 3, "per-round": 10, "examples": 4, "system": "Be short." });
    let (bench, elsewhere) = (Bench::new(), Bench::new());
    let made = run(&bench, &seeds(6), &server, config.clone()).unwrap();
    let prompts = made.prompts();
    assert_eq!(prompts.len(), 60);
    assert!(prompts.iter().all(|prompt| prompt.messages.len() == 2 && prompt.messages[0].content == "Be short."));
    let ids: BTreeSet<&str> = prompts.iter().map(|prompt| prompt.id.as_str()).collect();
    assert_eq!(ids.len(), 60);
    let origins: Vec<Written> = made.lines(ORIGINS_FILE);
    assert!(origins.is_sorted_by_key(|origin| origin.request));
    assert!(origins.iter().zip(&prompts).all(|(origin, prompt)| origin.prompt == prompt.id));
    assert!(origins.iter().all(|origin| origin.from.len() == 4));
    let shows_new = |round: u32| {
        let of = origins.iter().filter(|origin| origin.round == round);
        of.map(|origin| origin.from.iter().filter(|id| ids.contains(id.as_str())).count()).collect::<BTreeSet<_>>()
    };
    assert_eq!((shows_new(1), shows_new(2), shows_new(3)), ([0].into(), [1].into(), [1].into()), "a quarter is new");
    let dropped: Vec<LeftOut> = made.lines(LEFT_OUT_FILE);
    assert!(dropped.len() == 30 && dropped.iter().all(|out| out.why == "too-short" && out.text == "Why?"));
    let metrics = &made.outcome.metrics;
    assert_eq!((&metrics["prompts"], &metrics["seeds"], &metrics["new"]), (&json!(60), &json!(6), &json!(60)));
    assert_eq!(metrics["dropped"], json!({ "too-short": 30 }));
    assert_eq!(metrics["rounds"][2], json!({ "requests": 10, "candidates": 30, "accepted": 20 }));
    assert_eq!((&metrics["asked"], &metrics["from-cache"]), (&json!(30), &json!(0)));
    assert_eq!(made.outcome.provenance["models-as-the-server-named-them"], json!({ "fake-1": 30 }));
    // Elsewhere, with nothing stored, the same comes out.
    let again = run(&elsewhere, &seeds(6), &Server::start(writer), config).unwrap();
    assert_eq!(made.bytes(), again.bytes());
}

#[test]
fn a_run_that_broke_off_goes_on_with_the_same_requests_and_pays_none_twice() {
    let config = json!({ "rounds": 3, "per-round": 10 });
    let whole = Server::start(writer);
    let (bench, elsewhere) = (Bench::new(), Bench::new());
    let undisturbed = run(&elsewhere, &seeds(9), &whole, config.clone()).unwrap();
    let breaking = Server::start(|asked| if asked.number < 14 { writer(asked) } else { Act::status(401, "{}") });
    run(&bench, &seeds(9), &breaking, config.clone()).err().unwrap();
    let well = Server::start(writer);
    let resumed = run(&bench, &seeds(9), &well, config.clone()).unwrap();
    assert_eq!(undisturbed.bytes(), resumed.bytes());
    assert_eq!((well.teacher.asked(), &resumed.outcome.metrics["from-cache"]), (16, &json!(14)));
    // A further round asks its own requests only, another filter none.
    let more = run(&bench, &seeds(9), &well, json!({ "rounds": 4, "per-round": 10 })).unwrap();
    assert_eq!(more.outcome.metrics["asked"], json!(10));
    assert_eq!(more.texts()[..60], resumed.texts());
    run(&bench, &seeds(9), &well, json!({ "rounds": 1, "per-round": 10, "max-words": 4 })).err().unwrap();
    assert_eq!(well.teacher.asked(), 26);
}

#[test]
fn what_is_there_already_is_left_out_and_the_reason_is_told() {
    let long = "Write a letter to the owner of a small bakery and ask her for the recipe of the rye bread she sells on";
    let server = Server::start(move |asked| match asked.number {
        0 => answer_with(&format!(
            "1. EXPLAIN the habits of animal number 0 to me!\n2. {long} Sundays\n3. {long} Mondays"
        )),
        1 => answer_with("I cannot think of any."),
        2 => answer_with("I'm sorry, but I cannot help with that."),
        _ => {
            let Act::Answer { body, .. } = answer_with("1. Name four rivers of Asia\n2. Write a po") else {
                unreachable!()
            };
            let mut body: Value = serde_json::from_slice(&body).unwrap();
            body["choices"][0]["finish_reason"] = json!("length");
            Act::ok(body.to_string())
        }
    });
    let bench = Bench::new();
    let config = json!({ "per-round": 4, "keep-seeds": true });
    let mut teacher = server.definition(json!({ "concurrency": 1 }));
    teacher["revision"] = json!("one after the other");
    let mut body = config;
    body["seeds"] = json!("p");
    let context = bench.context_of("expand", ("seeds", "prompts.p"), bench.prompts(&seeds(3)), teacher, body);
    let outcome = EXPAND.run(&context).unwrap();
    let made = Made { outcome, out: context.out() };
    assert_eq!(
        made.texts(),
        [seeds(3), vec![format!("{long} Sundays"), "Name four rivers of Asia".to_owned()]].concat()
    );
    let expected = json!({ "duplicate": 1, "near-duplicate": 1, "unparseable": 1, "refusal": 1, "cut": 1 });
    assert_eq!(made.outcome.metrics["dropped"], expected);
    let near: Vec<LeftOut> =
        made.lines::<LeftOut>(LEFT_OUT_FILE).into_iter().filter(|out| out.detail.is_some()).collect();
    assert_eq!((near.len(), near[0].why.as_str()), (1, "near-duplicate"));
    assert_eq!(made.outcome.metrics["prompts"], json!(5));
}

#[test]
fn evolving_changes_one_prompt_a_request_and_goes_on_with_what_came_out() {
    let server =
        Server::start(|asked| answer_with(&format!("**New request:** \"Describe {} in words\"", words(asked, 0))));
    let bench = Bench::new();
    let made = run(&bench, &seeds(5), &server, json!({ "style": "evolve", "rounds": 2, "per-round": 7 })).unwrap();
    assert_eq!(made.prompts().len(), 14);
    assert!(made.texts().iter().all(|text| text.starts_with("Describe ") && text.ends_with(" in words")));
    let origins: Vec<Written> = made.lines(ORIGINS_FILE);
    let first: BTreeSet<&String> = origins[..7].iter().map(|origin| &origin.prompt).collect();
    let parents = |origins: &[Written]| origins.iter().map(|origin| origin.from[0].clone()).collect::<BTreeSet<_>>();
    assert_eq!(parents(&origins[..7]).len(), 5, "each seed, two of them twice");
    assert!(parents(&origins[7..]).iter().eq(first), "each prompt of the first round");
    assert!(origins.iter().all(|origin| origin.from.len() == 1));
}

#[test]
fn a_request_that_is_never_answered_costs_the_others_nothing_and_is_remembered() {
    let server = Server::start(|asked| match asked.last_message().contains("animal number 3 ") {
        true => Act::status(500, "oops").after(std::time::Duration::from_millis(100)),
        false => answer_with(&format!("Describe {} in words", words(asked, 0))),
    });
    let bench = Bench::new();
    let ask = |more: Value| {
        let mut config = json!({ "style": "evolve", "per-round": 6 });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        run(&bench, &seeds(6), &server, config)
    };
    let failure = ask(json!({})).err().unwrap();
    assert!(failure.message.contains("of all requests 1 got no usable reply though others did: prompt "), "{failure}");
    assert!(failure.hint.unwrap().ends_with("`outcomes = { failed = \"drop\" }` in `[expand.X]`"));
    assert_eq!(server.teacher.asked(), 5 + 2, "all others were answered");
    for word in ["drop", "keep"] {
        let made = ask(json!({ "outcomes": { "failed": word } })).unwrap();
        assert_eq!((server.teacher.asked(), made.prompts().len()), (7, 5), "what was found out is not paid again");
        assert_eq!(made.outcome.metrics["failed"], json!({ "prompts": 1, "requests": 1 }));
        assert_eq!(made.outcome.metrics["dropped"], json!({ "failed": 1 }));
        let left_out: Vec<LeftOut> = made.lines(LEFT_OUT_FILE);
        assert_eq!(left_out[0].detail.as_deref(), Some("the server answered 500: oops"));
    }
    assert!(bench.warnings()[0].starts_with("teacher t: of 6 requests 1 got no usable reply though others did: "));
    let again = json!({ "outcomes": { "failed": "ask-again" }, "ask-again-times": 1 });
    let made = ask(again.clone()).unwrap();
    assert_eq!((server.teacher.asked(), made.prompts().len()), (9, 5));
    assert_eq!(made.outcome.metrics["failed"], json!({ "prompts": 1, "requests": 2 }));
    ask(again).unwrap();
    assert_eq!(server.teacher.asked(), 9);
    ask(json!({})).err().unwrap();
    assert_eq!(server.teacher.asked(), 11, "the default asks once more in each run");
}

#[test]
fn a_request_that_is_answered_when_it_is_asked_again_brings_its_prompt_in_its_place() {
    let first = std::sync::Mutex::new(None);
    let server = Server::start(move |asked| {
        let seed = asked.json()["seed"].clone();
        let poison = asked.last_message().contains("animal number 3 ");
        if poison && *first.lock().unwrap().get_or_insert_with(|| seed.clone()) == seed {
            return Act::status(500, "oops").after(std::time::Duration::from_millis(100));
        }
        answer_with(&format!("Describe {} in words", words(asked, 0)))
    });
    let config = json!({ "style": "evolve", "per-round": 6, "outcomes": { "failed": "ask-again" } });
    let bench = Bench::new();
    let made = run(&bench, &seeds(6), &server, config).unwrap();
    let origins: Vec<Written> = made.lines(ORIGINS_FILE);
    assert!(origins.iter().map(|origin| origin.request).eq(1..=6));
    assert_eq!(made.outcome.metrics["failed"], json!({ "prompts": 0, "requests": 1 }));
    assert_eq!((&made.outcome.metrics["asked"], &made.outcome.metrics["asked-again"]), (&json!(7), &json!(1)));
    assert_eq!(bench.warnings(), [""; 0]);
}

#[test]
fn own_words_and_a_limit_are_kept_to() {
    let server = Server::start(|asked| {
        assert!(asked.last_message().starts_with("5 like: Explain"), "{}", asked.last_message());
        writer(asked)
    });
    let style = json!({ "template": { "text": "{{ wanted }} like: {{ examples | join(' / ') }}" } });
    let config = json!({ "style": style, "wanted": 5, "rounds": 9, "per-round": 2, "limit": 3, "examples": 2 });
    let bench = Bench::new();
    let made = run(&bench, &seeds(2), &server, config).unwrap();
    assert_eq!(made.prompts().len(), 3);
    assert_eq!(server.teacher.asked(), 2, "no further round begins");
    assert_eq!(made.outcome.metrics["dropped"], json!({ "limit": 1, "too-short": 2 }));
}

#[test]
fn a_teacher_that_brings_nothing_new_and_seeds_of_nothing_are_failures() {
    let server = Server::start(|_| answer_with("no list"));
    let failure = run(&Bench::new(), &seeds(2), &server, json!({ "per-round": 3 })).err().unwrap();
    assert_eq!(failure.message, "teacher t wrote no new prompt in 3 replies (3 unparseable)");
    let failure = run(&Bench::new(), &[], &server, json!({ "per-round": 3 })).err().unwrap();
    assert_eq!(failure.message, "prompts.p has no prompts: there is no example to show");
}

struct Around(TeacherConfig);

impl Surroundings for Around {
    fn follow(&self, _: &str, path: &str) -> Option<View<'_>> {
        (path == "teacher").then(|| View::new("teacher.t", &Teacher, &self.0 as &dyn AnyConfig, Origin::NOWHERE, self))
    }
}

#[test]
fn a_plan_counts_the_first_round_by_what_is_stored_and_later_ones_in_full() {
    let (server, bench) = (Server::start(writer), Bench::new());
    let forecast = |config: Value| {
        let mut report = Diagnostics::default();
        let teacher = TeacherConfig::decode(&Node::from_json(&server.definition(json!({}))), &mut report).unwrap();
        let config = ExpandConfig::decode(&Node::from_json(&config), &mut report).unwrap();
        let record = Record {
            format: 1,
            key: Key::of("test", b""),
            kind: "prompts".into(),
            revision: 1,
            stage: "prompts.p".into(),
            recipe: String::new(),
            output: bench.prompts(&seeds(9)),
            metrics: Value::Null,
            provenance: Value::Null,
            created: String::new(),
            seconds: 0.0,
            run: String::new(),
        };
        let around = Around(teacher);
        let view = View::new("expand.e", &EXPAND, &config, Origin::NOWHERE, &around);
        EXPAND
            .forecast(&Ahead {
                view,
                inputs: [("seeds", &record)].into(),
                mentioned: [].into(),
                files: &[].into(),
                store: &bench.store,
                seed: 17,
            })
            .unwrap()
    };
    let config = |rounds: u32| json!({ "seeds": "p", "teacher": "t", "rounds": rounds, "per-round": 10 });
    assert_eq!(forecast(config(3)).requests, 30);
    run(&bench, &seeds(9), &server, json!({ "rounds": 1, "per-round": 10 })).unwrap();
    assert_eq!((forecast(config(1)).requests, forecast(config(3)).requests), (0, 20));
    assert!(forecast(config(3)).tokens.unwrap() > 20 * 512);
}

#[test]
fn what_makes_no_sense_is_said_by_check() {
    let said = |change: Value| {
        let mut body = json!({ "seeds": "p", "teacher": "t", "per-round": 1 });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut report = Diagnostics::default();
        ExpandConfig::decode(&Node::from_json(&body), &mut report);
        report.sorted().iter().map(|diagnostic| diagnostic.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(said(json!({})), [""; 0]);
    assert_eq!(
        said(json!({ "min-words": 9, "max-words": 8 })),
        ["`min-words` is more than `max-words`: no prompt would stay"]
    );
    assert_eq!(
        said(json!({ "sampling": { "temperature": 0 } })),
        ["at temperature 0 a request with the same examples brings the same"]
    );
    assert_eq!(
        said(json!({ "outcomes": { "failed": "ask-again" }, "sampling": { "temperature": 0 } }))[0],
        "`failed = \"ask-again\"` at temperature 0 brings the same"
    );
    let template = |text: &str| said(json!({ "style": { "template": { "text": text } } }));
    assert_eq!(
        template("{{ examples }} {{ wnted }}"),
        ["`style.template.text` uses `wnted`, which there is not: it has `examples`, `wanted`"]
    );
    assert_eq!(template("{% for e in examples %}{{ loop.index }}{{ e }}{% endfor %}"), [""; 0]);
    assert_eq!(template("more!"), ["the template shows no `examples`: every request would be the same"]);
    assert!(template("{{ examples")[0].starts_with("`style.template.text` is not a valid template: "));
}
