use serde_json::{Value, json};

use super::*;
use crate::prompt::{Message, PROMPTS_FILE, Prompt};
use crate::testing::{Bench, Made, decode, faults};

mod code;
mod conversations;
mod rows;

fn prompts(made: &Made) -> Vec<Prompt> {
    crate::prompt::read_prompts(&made.out.join(PROMPTS_FILE)).unwrap().map(Result::unwrap).collect()
}

fn texts(made: &Made) -> Vec<String> {
    prompts(made).iter().map(|prompt| prompt.messages.last().unwrap().content.clone()).collect()
}

fn failure(bench: &Bench, config: Value) -> String {
    let failure = bench.run(&Prompts, config).err().unwrap();
    let place = failure.message.rsplit('/').next().unwrap();
    format!("{place} | {}", failure.hint.unwrap_or_default())
}

#[test]
fn a_list_keeps_its_order_and_loses_repetitions() {
    let bench = Bench::new();
    let made = bench.run(&Prompts, json!({ "list": ["b", "a", "b"], "system": "Be brief." })).unwrap();
    assert_eq!(texts(&made), ["b", "a"]);
    assert_eq!(prompts(&made)[0].messages[0], Message::system("Be brief."));
    assert_eq!(
        made.outcome.metrics,
        json!({
            "prompts": 2, "rows": 3, "dropped": { "duplicate": 1, "blank-line": 0 }
        })
    );
}

#[test]
fn a_text_file_gives_a_prompt_a_line() {
    let bench = Bench::new();
    let path = bench.file("p.txt", "one\r\n\n two \n");
    let made = bench.run(&Prompts, json!({ "text": path })).unwrap();
    assert_eq!(texts(&made), ["one", " two "]);
    assert_eq!(made.outcome.metrics["dropped"]["blank-line"], 1);
}

#[test]
fn rows_fill_templates() {
    let bench = Bench::new();
    let path = bench.file(
        "p.jsonl",
        "{\"q\": \"2+2?\", \"a\": \"4\", \"s\": \"\"}\n{\"q\": \"3+3?\", \"a\": \"6\", \"s\": \"x\"}\n",
    );
    let made = bench
        .run(
            &Prompts,
            json!({ "jsonl": {
            "path": path, "template": "{{ q }}\nAnswer:", "reference": "{{ a }}", "system": "{{ s }}"
        } }),
        )
        .unwrap();
    let prompts = prompts(&made);
    assert_eq!(prompts[0], Prompt::new(vec![Message::user("2+2?\nAnswer:")], Some("4".into())));
    assert_eq!(prompts[1].messages, [Message::system("x"), Message::user("3+3?\nAnswer:")]);
}

#[test]
fn a_limit_stops_reading_and_a_shuffle_is_the_same_every_time() {
    let bench = Bench::new();
    let lines: String = (0..50).map(|i| format!("{i}\n")).collect();
    let path = bench.file("p.txt", &lines);
    let first = bench.run(&Prompts, json!({ "text": path, "limit": 2 })).unwrap();
    assert_eq!((texts(&first), &first.outcome.metrics["rows"]), (vec!["0".into(), "1".into()], &json!(2)));
    let sample = || texts(&bench.run(&Prompts, json!({ "text": path, "limit": 5, "shuffle": true })).unwrap());
    assert_eq!(sample(), sample());
    assert_eq!(sample().len(), 5);
    assert_ne!(sample(), ["0", "1", "2", "3", "4"]);
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    let bench = Bench::new();
    let cases = [
        ("empty.jsonl", "", "empty.jsonl: the file is empty | it must have at least one row"),
        (
            "bad.jsonl",
            "{\"q\": \"x\"}\n{\"q\": }\n",
            "bad.jsonl:2:7: not valid JSON: expected value | every line must be one JSON object: {\"question\": \"…\"}",
        ),
        (
            "field.jsonl",
            "{\"prompt\": \"x\"}\n",
            "field.jsonl:1: the row has no field `q`, which `template` uses | the row has `prompt`; a field that may be missing: {{ q | default(\"\") }}",
        ),
        (
            "blank.jsonl",
            "{\"q\": \" \"}\n",
            "blank.jsonl:1: the prompt comes out empty | remove the row, or use other fields in `template`",
        ),
    ];
    let blank = bench.file("blank.txt", "\n  \n\t\r\n");
    assert_eq!(
        failure(&bench, json!({ "text": blank })),
        "blank.txt: the file has no prompts, only blank lines | it must have at least one row"
    );
    for (name, content, expected) in cases {
        let path = bench.file(name, content);
        assert_eq!(failure(&bench, json!({ "jsonl": { "path": path, "template": "{{ q }}" } })), expected);
    }
}

#[test]
fn a_table_names_exactly_one_source() {
    let wrong = "prompts come from exactly one of `list`, `text`, `jsonl`, `csv`, `parquet` and `code`";
    assert_eq!(faults(&Prompts, &json!({})), [wrong]);
    assert_eq!(faults(&Prompts, &json!({ "list": ["a"], "text": "b" })), [wrong]);
    assert_eq!(faults(&Prompts, &json!({ "list": [] })), ["`list` is empty"]);
    assert_eq!(faults(&Prompts, &json!({ "list": ["a", " \n"] })), ["prompt 2 of `list` is blank"]);
}

#[test]
fn what_was_written_before_there_were_other_sources_has_the_key_it_had() {
    let table = json!({ "jsonl": { "path": "a.jsonl", "template": "{{ q }}" }, "limit": 3, "shuffle": false });
    let Described::Table(members) = decode(&Prompts, &table) else { panic!("no table") };
    assert_eq!(members.keys().collect::<Vec<_>>(), ["jsonl", "limit"]);
    let Described::Table(jsonl) = &members["jsonl"] else { panic!("no table") };
    let named: Vec<&String> =
        jsonl.iter().filter(|(_, value)| **value != Described::Nothing).map(|(name, _)| name).collect();
    assert_eq!(named, ["path", "template"]);
    assert!(matches!(members["limit"], Described::Value(_)));
}

#[test]
fn keys_that_do_not_exist_or_do_not_fit_are_told() {
    assert_eq!(faults(&Prompts, &json!({ "list": ["a"], "limits": 3 })), ["unknown key `limits`"]);
    let row = |more: Value| {
        let mut table = json!({ "path": "a.csv" });
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        faults(&Prompts, &json!({ "csv": table }))
    };
    assert_eq!(row(json!({})), ["missing `template`"]);
    assert_eq!(row(json!({ "template": "a", "messages": "b" })), ["`template` stands beside `messages`"]);
    assert_eq!(row(json!({ "template": "a", "images": "b" })), ["`images` stands without `messages`"]);
    let wrong = "`delimiter` must be one ASCII character, neither a quote nor a line end";
    for delimiter in ["", "::", "\"", "ä"] {
        assert_eq!(row(json!({ "template": "a", "delimiter": delimiter })), [wrong]);
    }
    assert_eq!(
        faults(&Prompts, &json!({ "jsonl": { "path": "a", "template": "b" }, "system": "c" })),
        ["`system` stands beside `jsonl`"]
    );
    let files = json!({ "path": "src", "include": ["*.rs"] });
    let needs = "`code` needs exactly one of `task` and `template`";
    assert_eq!(faults(&Prompts, &json!({ "code": { "files": files } })), [needs]);
    assert_eq!(faults(&Prompts, &json!({ "code": { "files": files, "task": "test", "template": "x" } })), [needs]);
    let none = json!({ "path": "src", "include": [] });
    assert_eq!(
        faults(&Prompts, &json!({ "code": { "files": none, "task": "test" } })),
        ["`include` is empty: no file is chosen"]
    );
}

#[test]
fn the_schema_lists_every_source_and_every_setting() {
    let schema = PromptsConfig::schema();
    let keys: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    for key in SOURCES.iter().map(|entry| entry.name).chain(["system", "limit", "shuffle", "on-bad-row"]) {
        assert!(keys.iter().any(|known| *known == key), "{key}");
        let about = schema["properties"][key]["description"].as_str().unwrap_or_default();
        assert!(!about.is_empty(), "{key}");
    }
}

#[test]
fn both_ways_of_writing_a_path_have_one_key() {
    let short = decode(&Prompts, &json!({ "text": "a.txt" }));
    assert_eq!(short, decode(&Prompts, &json!({ "text": { "path": "a.txt" } })));
}
