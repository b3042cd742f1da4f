use fs_err as fs;
use serde_json::{Value, json};
use stillhouse_stage::{Class, Failure, FileInput};

use crate::answers::tests::bench::{Bench, Made, prompts};

/// A bench with a file of replies, and its teacher.
fn given(lines: &[Value], missing: &str) -> (Bench, Value) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    given_text(&text, missing)
}

fn given_text(text: &str, missing: &str) -> (Bench, Value) {
    let mut bench = Bench::new();
    let path = bench.folder.path().join("given.jsonl");
    fs::write(&path, text).unwrap();
    let (digest, _) = bench.store.digest_of(&path).unwrap();
    bench.files.insert("teacher.path".into(), FileInput { path: path.clone(), digest, members: None });
    (bench, json!({ "provider": "replies", "path": path, "missing": missing }))
}

fn run(lines: &[Value], missing: &str, answers: Value) -> Result<(Bench, Made), Failure> {
    let (bench, teacher) = given(lines, missing);
    let made = bench.run(&prompts(3), teacher, answers)?;
    Ok((bench, made))
}

fn reply(number: u32, text: &str) -> Value {
    json!({ "prompt": format!("question {number}"), "text": text })
}

#[test]
fn replies_are_found_by_their_prompts_in_whatever_order_they_stand() {
    let mut conversation = json!({ "messages": [{ "role": "user", "content": "question 1" }], "text": "one" });
    conversation["model"] = json!("old-7b");
    conversation["source"] = json!("a page");
    conversation["terms"] = json!("CC-BY-4.0");
    let lines = [reply(2, "two"), json!({ "prompt": "nobody asks", "text": "x" }), conversation, reply(0, "")];
    let (_bench, made) = run(&lines, "error", json!({})).unwrap();
    let texts: Vec<String> = made.answers().into_iter().map(|answer| answer.text).collect();
    assert_eq!(texts, ["", "one", "two"]);
    assert_eq!(made.outcome.metrics["outcomes"], json!({ "empty": 1, "ok": 2 }));
    assert_eq!((made.metric("asked"), made.metric("missing")), (0, 0));
    let provenance = &made.outcome.provenance;
    assert_eq!(provenance["models-as-the-file-names-them"]["old-7b"], 1);
    assert_eq!(provenance["sources"][1], json!({ "source": "a page", "terms": "CC-BY-4.0", "replies": 1 }));
    assert_eq!(provenance["file"].as_str().unwrap().len(), 64);
}

#[test]
fn prompts_without_a_reply_are_counted_and_named_or_left_out() {
    let failure = run(&[reply(1, "one")], "error", json!({})).err().unwrap();
    assert_eq!(failure.class, Class::Input);
    assert!(
        failure.message.starts_with("the 1 replies in ")
            && failure.message.contains("leave 2 of 3 prompts without one: prompt 1 (")
    );
    assert!(failure.message.ends_with("\"question 2\"") && failure.hint.unwrap().contains("`missing = \"drop\"`"));
    let (bench, made) = run(&[reply(1, "one")], "drop", json!({})).unwrap();
    assert_eq!((made.answers().len(), made.metric("missing")), (1, 2));
    assert_eq!(bench.warnings(), ["teacher t has no reply to 2 of 3 prompts: they are left out"]);
    let none = run(&[reply(9, "nine")], "drop", json!({})).err().unwrap();
    assert!(none.message.contains("leave 3 of 3 prompts without one"), "{none}");
}

#[test]
fn several_replies_to_one_prompt_are_its_samples() {
    let lines: Vec<Value> = (0..6).map(|number| reply(number % 3, &format!("{number}"))).collect();
    let (_bench, made) = run(&lines, "error", json!({ "samples": 2 })).unwrap();
    let texts: Vec<String> = made.answers().into_iter().map(|answer| answer.text).collect();
    assert_eq!(texts, ["0", "3", "1", "4", "2", "5"]);
    let failure = run(&lines[..5], "error", json!({ "samples": 2 })).err().unwrap();
    assert!(failure.message.contains("leave 1 of 6 prompts without one: prompt 3 ("), "{failure}");
    assert!(failure.message.contains(", sample 1) \"question 2\""), "{failure}");
}

#[test]
fn log_probs_of_the_file_are_kept_where_they_are_wanted() {
    let top = |text: &str, log_prob: f64| json!({ "b": text, "lp": log_prob });
    let mut lines: Vec<Value> = (0..3).map(|number| reply(number, "yes")).collect();
    for line in &mut lines {
        line["tokens"] = json!([{ "chosen": top("yes", -0.1), "top": [top("yes", -0.1), top("no", -2.5)] }]);
    }
    let (_bench, made) = run(&lines, "error", json!({ "capture": { "top-k": 1 } })).unwrap();
    let captured = fs::read_to_string(made.out.join(crate::answers::CAPTURED_FILE)).unwrap();
    assert_eq!(captured.lines().count(), 3);
    assert!(captured.contains(r#""top":[{"b":"yes","lp":-0.1}]"#), "{captured}");
    lines[1].as_object_mut().unwrap().remove("tokens");
    let failure = run(&lines, "error", json!({ "capture": { "top-k": 1 } })).err().unwrap();
    assert!(failure.message.ends_with("given.jsonl:2: the reply has no `tokens` with log-probabilities"), "{failure}");
}

#[test]
fn a_line_that_is_no_reply_is_named() {
    let of = |text: &str| {
        let (bench, teacher) = given_text(text, "error");
        bench.run(&prompts(1), teacher, json!({})).err().unwrap().message
    };
    let good = reply(0, "x");
    let misspelt = of(&format!("{good}\n\n{}\n", json!({ "promt": "question 0", "text": "x" })));
    assert!(
        misspelt.contains("given.jsonl:3:") && misspelt.contains("this is no reply: unknown field `promt`"),
        "{misspelt}"
    );
    assert!(of("{\"prompt\": 3}\n").contains("given.jsonl:1:12: this is no reply: invalid type"));
    assert!(of("not json").contains("given.jsonl:1:2: this is no reply: "));
    assert!(
        of(&json!({ "text": "x" }).to_string())
            .ends_with("given.jsonl:1: a reply names its prompt by one of `prompt`, `messages` and `id`")
    );
}
