use super::*;

/// A text of fourteen words of its own.
fn words(name: &str) -> String {
    (0..14).map(|word| format!("{name}{word} ")).collect()
}

fn contaminated(made: &Made) -> Vec<(u64, String)> {
    let rows = made.text(DROPPED_FILE);
    let rows = rows.lines().map(|line| serde_json::from_str::<DroppedRow>(line).unwrap());
    rows.filter(|row| row.why == "decontamination").map(|row| (row.line, row.detail.unwrap())).collect()
}

#[test]
fn rows_that_share_thirteen_words_with_a_file_are_listed_with_the_words() {
    let fixture = Fixture::new();
    let bench = fixture
        .bench
        .file("bench.jsonl", &format!("{}\n{}\n", json!({ "q": ["short"] }), json!({ "q": { "text": words("e") } })));
    let leak = format!("First: {}!", words("E").trim());
    let twelve: String = words("e").split_inclusive(' ').take(12).collect();
    let (c, d) = (words("c"), words("d"));
    let rows = fixture.jsonl(&[("a", &leak), ("b", &twelve), ("c", &c), ("d", &d)]);
    let config = |words: u32| json!({ "mix": [{ "jsonl": &rows }], "decontaminate": { "words": words, "against": [{ "file": &bench }] } });
    let made = fixture.run(config(13)).unwrap();
    let shown = "13 words in a row are those of row 2 of `against` 0: E0 E1 E2 E3 E4 E5 E6 E7 E8 E9 E10 E11 E12";
    assert_eq!(contaminated(&made), [(1, shown.to_owned())]);
    let figures = json!({
        "against": [{ "rows": 2, "too-short": 1, "removed": 1 }],
        "holdout": { "rows": 0, "too-short": 0, "removed": 0 },
    });
    assert_eq!(made.outcome.metrics["decontamination"], figures);
    assert_eq!(made.outcome.metrics["dropped"]["decontamination"], 1);
    assert_eq!(contaminated(&fixture.run(config(12)).unwrap()).len(), 2);
    let off = fixture.run(config(0)).unwrap();
    assert_eq!(contaminated(&off), []);
    assert_eq!(off.outcome.metrics.get("decontamination"), None);
}

#[test]
fn a_short_question_and_its_answer_are_found_though_neither_has_thirteen_words() {
    let fixture = Fixture::new();
    let eight = |name: &str| (0..8).map(|word| format!("{name}{word} ")).collect::<String>();
    let (question, answer) = (eight("question"), eight("answer"));
    let rows = fixture.jsonl(&[(&question, &answer), ("b", &eight("c")), ("d", &eight("e")), (&answer, &question)]);
    for (name, line) in [
        ("a.jsonl", format!("{{\"question\": {}, \"answer\": {}}}", json!(question), json!(answer))),
        (
            "b.jsonl",
            format!("{{\"id\": 7, \"answer\": {}, \"note\": \"x\", \"question\": {}}}", json!(answer), json!(question)),
        ),
        ("c.jsonl", format!("{{\"question\": {}, \"choices\": [\"no\", {}]}}", json!(question), json!(answer))),
    ] {
        let bench = fixture.bench.file(name, &format!("{line}\n"));
        let against = json!([{ "file": bench }]);
        let made =
            fixture.run(json!({ "mix": [{ "jsonl": &rows }], "decontaminate": { "against": against } })).unwrap();
        assert_eq!(contaminated(&made).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1], "{name}");
    }
}

#[test]
fn rows_of_another_dataset_count_in_the_part_that_is_named() {
    let mut fixture = Fixture::new();
    let lines = [words("a"), words("b"), words("c"), words("d")].join("\n");
    let text = fixture.bench.file("bench.txt", &lines);
    let source = json!([{ "text": { "path": text, "document": "line" } }]);
    let made = fixture.run(json!({ "mix": source, "holdout": 0.5, "max-length": 128 })).unwrap();
    let held: Vec<String> = part(&made, HOLDOUT).1.into_iter().map(|row| row.completion).collect();
    assert!((1..4).contains(&held.len()));
    fixture.bench.input("bench", &made.out);
    let rows: Vec<(String, String)> = lines.lines().map(|line| (line[..2].to_owned(), line.to_owned())).collect();
    let rows: Vec<(&str, &str)> = rows.iter().map(|(prompt, text)| (prompt.as_str(), text.as_str())).collect();
    let rows = fixture.jsonl(&rows);
    let removed = |split: &str| {
        let against = json!([{ "dataset": "bench", "split": split }]);
        let made =
            fixture.run(json!({ "mix": [{ "jsonl": &rows }], "decontaminate": { "against": against } })).unwrap();
        contaminated(&made).len()
    };
    assert_eq!(removed("holdout"), held.len());
    assert_eq!(removed("train"), 4 - held.len());
}

#[test]
fn training_rows_that_share_words_with_the_holdout_go() {
    let fixture = Fixture::new();
    // Every text stands under two prompts, so that some stand on both sides of the split.
    let rows: Vec<(String, String)> =
        (0..40).map(|row| (format!("prompt {row}"), format!("{}{row}", words(&format!("t{}x", row / 2))))).collect();
    let rows: Vec<(&str, &str)> = rows.iter().map(|(prompt, text)| (prompt.as_str(), text.as_str())).collect();
    let rows = fixture.jsonl(&rows);
    let run = |words: u32| {
        let config = json!({ "mix": [{ "jsonl": &rows }], "holdout": 0.3, "decontaminate": { "words": words } });
        let made = fixture.run(config).unwrap();
        let texts = |name: &str| -> Vec<String> {
            let rows = part(&made, name).1.into_iter();
            rows.map(|row| row.completion.split(' ').next().unwrap().to_owned()).collect()
        };
        let (train, holdout) = (texts(TRAIN), texts(HOLDOUT));
        let both = train.iter().filter(|text| holdout.contains(text)).count();
        (made, both)
    };
    let (_, leaks) = run(0);
    assert!(leaks > 0, "the test has something to find");
    let (made, none) = run(13);
    assert_eq!(none, 0);
    let listed = contaminated(&made);
    assert_eq!(listed.len(), leaks);
    assert!(listed[0].1.contains(" of the holdout: "), "{}", listed[0].1);
    assert_eq!(made.outcome.metrics["decontamination"]["holdout"]["removed"], leaks);
    let sides = ["train", "holdout"].map(|side| made.outcome.metrics[side]["rows"].as_u64().unwrap());
    assert_eq!(made.outcome.metrics["sources"][0]["used"], sides.iter().sum::<u64>());
    assert!(fixture.bench.said.warnings().last().unwrap().contains("rows share words with evaluation data"));
}

#[test]
fn a_template_under_most_prompts_is_no_leak_and_neither_are_instructions() {
    let fixture = Fixture::new();
    let template = words("template");
    let rows: Vec<(String, String)> =
        (0..12).map(|row| (format!("{template} {row}"), format!("answer {row}"))).collect();
    let rows: Vec<(&str, &str)> = rows.iter().map(|(prompt, text)| (prompt.as_str(), text.as_str())).collect();
    let path = fixture.jsonl(&rows);
    let source = json!([{ "jsonl": { "path": path, "system": words("system") } }]);
    let made = fixture.run(json!({ "mix": source, "holdout": 0.3 })).unwrap();
    assert!(made.outcome.metrics["holdout"]["rows"].as_u64().unwrap() > 0);
    assert_eq!(contaminated(&made), []);
}

#[test]
fn evaluation_data_is_one_thing() {
    let faults = |against: Value| {
        faults(&Dataset, &json!({ "mix": [{ "answers": "a" }], "decontaminate": { "against": against } }))
    };
    assert_eq!(faults(json!([{}])), ["evaluation data is exactly one of `dataset` and `file`"]);
}
