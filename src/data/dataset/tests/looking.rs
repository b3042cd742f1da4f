use super::*;

fn dataset(fixture: &mut Fixture) -> DatasetArtifact {
    let rows: Vec<(String, String)> = (0..40).map(|row| (format!("q{row}"), format!("answer {row}"))).collect();
    let rows: Vec<(&str, &str)> = rows.iter().map(|(prompt, text)| (prompt.as_str(), text.as_str())).collect();
    let rows = fixture.jsonl(&rows);
    let filters = json!([{ "regex": { "drop": ["7$"] } }]);
    let made = fixture.run(json!({ "mix": [{ "jsonl": rows }], "holdout": 0.2, "filters": filters })).unwrap();
    fixture.bench.input("made", &made.out);
    DatasetArtifact::new(fixture.bench.artifact("made"))
}

#[test]
fn pages_and_samples_show_rows_with_their_place() {
    let mut fixture = Fixture::new();
    let dataset = dataset(&mut fixture);
    let all = dataset.page(TRAIN, 0, usize::MAX).unwrap();
    assert_eq!(all.len(), dataset.examples(TRAIN).unwrap().len());
    assert_eq!(dataset.page(TRAIN, 3, 2).unwrap(), all[3..5]);
    assert_eq!((all[3].place, all[3].part), (3, "train"));
    assert_eq!(all[3].scored_tokens + all[3].row.prompt_tokens as usize, all[3].tokens);
    let sample = dataset.sample(TRAIN, 5).unwrap();
    assert_eq!(sample.len(), 5);
    assert_eq!(sample, dataset.sample(TRAIN, 5).unwrap());
    assert!(sample.iter().all(|row| *row == all[row.place]));
    assert_ne!(sample, all[..5], "not just the first ones");
}

#[test]
fn a_row_says_what_became_of_it() {
    let mut fixture = Fixture::new();
    let dataset = dataset(&mut fixture);
    let fate = |name: &str| dataset.fate(&RowName::parse(name).unwrap()).unwrap();
    let [Fate::Dropped(row)] = &fate("0:8")[..] else { panic!("row 8 says `answer 7`") };
    assert_eq!((row.why.as_str(), row.detail.as_deref()), ("regex", Some("`7$` is found")));
    let [Fate::Kept(row)] = &fate("0:9")[..] else { panic!("row 9 stays") };
    assert_eq!(row.row.completion, "answer 8");
    let id = Prompt::id_of(&[Message::user("q8")]);
    assert_eq!(fate(&id[..8]), fate("0:9"));
    assert_eq!(fate("0:41"), []);
    assert_eq!(dataset.dropped().unwrap().count(), 4);
}

#[test]
fn what_names_no_row_is_said() {
    assert_eq!(RowName::parse("3:12").unwrap(), RowName::Line(3, 12));
    assert_eq!(RowName::parse("AB12").unwrap(), RowName::Prompt("ab12".into()));
    for text in ["", "abc", "x:1", "1:x", "hello there"] {
        assert_eq!(RowName::parse(text).unwrap_err().to_string(), format!("`{text}` names no row"));
    }
}
