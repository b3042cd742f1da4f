use super::*;

fn dropped(made: &Made) -> Vec<DroppedRow> {
    made.text(DROPPED_FILE).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_dropped_row_is_listed_with_its_filter_and_the_reason_in_words() {
    let fixture = Fixture::new();
    let rows = fixture.jsonl(&[("two?", "four"), ("three?", "it is forbidden"), ("one?", "two")]);
    let filters = json!([{ "regex": { "drop": ["forbid"] } }, { "length": { "max-tokens": 100 } }]);
    let made = fixture.run(json!({ "mix": [{ "jsonl": rows }], "filters": filters })).unwrap();
    let dropped = dropped(&made);
    assert_eq!(dropped.len(), 1);
    assert_eq!((dropped[0].why.as_str(), dropped[0].line), ("regex", 2));
    assert_eq!(dropped[0].detail.as_deref(), Some("`forbid` is found"));
    assert_eq!(made.outcome.metrics["dropped"], json!({ "duplicate": 0, "length": 0, "regex": 1 }));
    assert_eq!(made.outcome.metrics.get("changed"), None);
}

#[test]
fn a_redacted_row_is_tokenised_again_and_later_filters_see_the_new_text() {
    let fixture = Fixture::new();
    let rows = fixture.jsonl(&[("who?", "ask a@b.de"), ("who?", "ask c@d.de"), ("two?", "four")]);
    let filters = json!(["personal-data", "exact-duplicate"]);
    let made = fixture.run(json!({ "mix": [{ "jsonl": rows }], "filters": filters })).unwrap();
    let (examples, rows) = part(&made, TRAIN);
    assert_eq!(examples.len(), 2);
    assert_eq!(fixture.text_of(&scored(&examples[0])), "ask [email]<|im_end|>");
    assert_eq!((rows[0].completion.as_str(), rows[0].reference.as_deref()), ("ask [email]", Some("ask [email]")));
    assert_eq!(examples[0].bytes, "ask [email]".len() as u64);
    assert_eq!(made.outcome.metrics["changed"], json!({ "personal-data": 2 }));
    assert_eq!(dropped(&made)[0].why, "exact-duplicate");
}

#[test]
fn plain_text_is_redacted_window_by_window() {
    let fixture = Fixture::new();
    let text = fixture.bench.file("text.txt", "the cat sat with ann@uni-kiel.de\nthe cat sat alone\n");
    let source = json!([{ "text": { "path": text, "document": "line" } }]);
    let made = fixture.run(json!({ "mix": source, "filters": ["personal-data"] })).unwrap();
    let (examples, _) = part(&made, TRAIN);
    let texts: Vec<String> = examples.iter().map(|example| fixture.text_of(&example.tokens)).collect();
    assert_eq!(texts, ["<|im_end|>the cat sat with [email]<|im_end|>", "<|im_end|>the cat sat alone<|im_end|>"]);
}

#[test]
fn a_redacted_answer_has_no_signal_and_its_neighbour_keeps_its_own() {
    let mut fixture = Fixture::new();
    let tokens = |prompt: &str, text: &str| AnswerTokens {
        tokenizer: fixture.tokenizer.digest().to_owned(),
        prompt: fixture.tokenizer.encode_start(prompt, true).unwrap(),
        completion: fixture.tokenizer.encode(text, false).unwrap(),
    };
    let make =
        |prompt: &str, text: &str| Answer { tokens: Some(tokens(prompt, text)), ..answer(prompt, text, Reply::Ok) };
    let all = [make("a", "ask a@b.de"), make("b", "It is four.")];
    let top = TopK { ids: vec![1], log_probs: vec![-0.5] };
    let key = |answer: &Answer| SequenceKey::of("w", &answer.tokens.as_ref().unwrap().sequence());
    let entries = all.iter().map(|answer| (key(answer), top.clone())).collect();
    let header =
        SignalHeader { teachers: vec!["w".into()], tokenizer: fixture.tokenizer.digest().into(), vocabulary: 290 };
    answers(&mut fixture.bench, "replies", &all, Some((header, entries)));
    let made = fixture.run(json!({ "mix": [{ "answers": "replies" }], "filters": ["personal-data"] })).unwrap();
    assert_eq!(made.outcome.metrics["train"]["rows"], 2);
    assert_eq!(made.outcome.metrics["train"]["rows-with-signal"], 1);
}

#[test]
fn samples_of_a_prompt_are_judged_together_however_many_rows_there_are() {
    let mut fixture = Fixture::new();
    let all: Vec<Answer> = (0..1_500)
        .flat_map(|prompt| (0..3).map(move |sample| (prompt, sample)))
        .map(|(prompt, sample)| Answer {
            sample,
            ..answer(&format!("q{prompt}"), &format!("{sample} so {}", sample / 2), Reply::Ok)
        })
        .collect();
    answers(&mut fixture.bench, "replies", &all, None);
    let filters = json!([{ "agreement": { "answer": "last-number" } }, { "best-of": { "by": "longest" } }]);
    let made = fixture.run(json!({ "mix": [{ "answers": "replies" }], "filters": filters })).unwrap();
    let counts = json!({ "agreement": 1_500, "best-of": 1_500, "duplicate": 0 });
    assert_eq!(made.outcome.metrics["dropped"], counts);
    let (_, rows) = part(&made, TRAIN);
    assert!(rows.iter().all(|row| row.completion == "0 so 0"));
}

#[test]
fn scores_of_a_file_drop_rows_and_choose_the_best() {
    let mut fixture = Fixture::new();
    let all: Vec<Answer> =
        (0..3).map(|sample| Answer { sample, ..answer("a", &format!("say {sample}"), Reply::Ok) }).collect();
    answers(&mut fixture.bench, "replies", &all, None);
    let id = Prompt::id_of(&[Message::user("a")]);
    let line = |sample: u32, score: f64| format!("{}\n", json!({ "prompt": id, "sample": sample, "score": score }));
    let run = |lines: String, more: Value| {
        let file = fixture.bench.file("scores.jsonl", &lines);
        let mut score = json!({ "file": file, "min": 0.5 });
        score.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let filters = json!([{ "score": score }, { "best-of": { "by": "score" } }]);
        fixture.run(json!({ "mix": [{ "answers": "replies" }], "filters": filters }))
    };
    let made = run(line(0, 0.6) + &line(1, 0.9) + &line(2, 0.1), json!({})).unwrap();
    assert_eq!(part(&made, TRAIN).1[0].completion, "say 1");
    let why: Vec<_> = dropped(&made).into_iter().map(|row| (row.sample, row.detail.unwrap())).collect();
    let reasons = [(0, "1 better samples of its prompt stay"), (2, "its score is 0.1, 0.5 is needed")];
    assert_eq!(why, reasons.map(|(sample, why)| (sample, why.to_owned())));
    let failure = |lines: String| run(lines, json!({})).err().unwrap().message;
    let message = failure(line(0, 0.6));
    assert!(message.ends_with(&format!("there is no score for prompt {id}, sample 1")), "{message}");
    let message = failure(line(0, 0.6) + &line(0, 0.7));
    assert!(message.ends_with("scores.jsonl:2: this row has a score already"), "{message}");
    let message = failure("{\"prompt\": 1}\n".into());
    assert!(message.contains("scores.jsonl:1: line 1 cannot be read: "), "{message}");
    let kept = run(line(0, 0.6), json!({ "unknown": "drop" })).unwrap();
    assert_eq!(kept.outcome.metrics["dropped"]["score"], 2);
}

#[test]
fn a_dataset_of_answers_alone_is_warned_of() {
    let mut fixture = Fixture::new();
    answers(&mut fixture.bench, "replies", &[answer("a", "It is four.", Reply::Ok)], None);
    let warned = |fixture: &Fixture| {
        fixture.bench.said.warnings().iter().any(|warning| warning.starts_with("every row is a teacher's answer"))
    };
    let rows = fixture.jsonl(&[("two?", "four")]);
    fixture.run(json!({ "mix": [{ "answers": "replies" }, { "jsonl": rows }] })).unwrap();
    assert!(!warned(&fixture));
    fixture.run(json!({ "mix": [{ "answers": "replies" }] })).unwrap();
    assert!(warned(&fixture));
}

#[test]
fn varied_completions_have_other_figures_than_equal_ones() {
    let fixture = Fixture::new();
    let figures = |completion: &dyn Fn(usize) -> String| {
        let lines = (0..60).map(|i| json!({ "prompt": format!("q{i}"), "completion": completion(i) }));
        let rows = fixture.bench.file("rows.jsonl", &lines.map(|line| format!("{line}\n")).collect::<String>());
        fixture.run(json!({ "mix": [{ "jsonl": rows }] })).unwrap().outcome.metrics["diversity"].clone()
    };
    let varied = figures(&|i| format!("a{i} b{i} c{i} d{i} e{i}"));
    let equal = figures(&|_| "one two three four five".to_owned());
    let (one, all) = (1.0, 60.0);
    for (figure, varied_value, equal_value) in [
        ("distinct-1", one, one / all),
        ("distinct-2", one, one / all),
        ("distinct-3", one, one / all),
        ("near-duplicates", 0.0, (all - one) / all),
    ] {
        assert_eq!(varied[figure], varied_value, "{figure}");
        assert_eq!(equal[figure], equal_value, "{figure}");
    }
    let number = |figures: &Value, name: &str| figures[name].as_f64().unwrap();
    assert!((number(&equal, "self-bleu") - 1.0).abs() < 1e-12);
    assert_eq!(number(&varied, "self-bleu"), 0.0);
    assert!(number(&equal, "compression-ratio") > 5.0 * number(&varied, "compression-ratio"));
    assert_eq!(equal["words"], json!({ "p5": 5, "p25": 5, "median": 5, "p75": 5, "p95": 5 }));
}
