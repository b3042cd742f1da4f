//! Vectors of rows: the filter that reads them and the figures.

use super::*;
use crate::embeddings::{EMBEDDINGS_FILE, Embedded, EmbeddingWriter, REFUSED_FILE, TextDigest, WithoutVector};
use crate::jsonl::JsonlWriter;

/// The output of an `embeddings` stage.
fn embeddings(bench: &mut Bench, name: &str, of: Embedded, vectors: &[(&str, [f32; 3])]) {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EmbeddingWriter::create(&folder.path().join(EMBEDDINGS_FILE), of).unwrap();
    vectors.iter().for_each(|(text, vector)| writer.add(TextDigest::of(text), vector).unwrap());
    writer.finish().unwrap();
    bench.input(name, folder.path());
}

fn four(fixture: &mut Fixture) -> Value {
    let all = [
        answer("two and two?", "four", Reply::Ok),
        answer("2 + 2?", "It is four.", Reply::Ok),
        answer("capital?", "Paris", Reply::Ok),
    ];
    answers(&mut fixture.bench, "replies", &all, None);
    let vectors = [
        ("two and two?\n\nfour", [1.0, 0.0, 0.0]),
        ("2 + 2?\n\nIt is four.", [2.0, 0.3, 0.0]),
        ("capital?\n\nParis", [0.0, 1.0, 0.0]),
        ("cat?\n\nthe cat sat", [0.0, 0.0, 1.0]),
    ];
    embeddings(&mut fixture.bench, "vectors", Embedded::Both, &vectors);
    let rows = fixture.jsonl(&[("cat?", "the cat sat")]);
    json!([{ "answers": "replies" }, { "jsonl": rows }])
}

#[test]
fn rows_of_every_source_find_their_vectors_and_the_row_that_stays_is_named() {
    let mut fixture = Fixture::new();
    let mix = four(&mut fixture);
    let filters = json!([{ "semantic-duplicate": { "embeddings": "vectors" } }]);
    let made = fixture.run(json!({ "mix": mix, "filters": filters })).unwrap();
    assert_eq!(made.outcome.metrics["dropped"], json!({ "duplicate": 0, "semantic-duplicate": 1 }));
    let dropped: DroppedRow = serde_json::from_str(made.text(DROPPED_FILE).trim()).unwrap();
    assert_eq!((dropped.why.as_str(), dropped.line), ("semantic-duplicate", 2));
    assert_eq!(dropped.detail.as_deref(), Some("cosine 0.989 to row 0:1, which stays"));
    // Three vectors at right angles to each other: the filter's vectors give the figures, too.
    let diversity = &made.outcome.metrics["diversity"];
    assert_eq!((&diversity["embedding-rows"], &diversity["topic-rows"]), (&json!(3), &json!(3)));
    let near = |name: &str, expected: f64| {
        let found = diversity[name].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-6, "{name}: {found}");
    };
    near("embedding-spread", 1.0);
    near("embedding-topics", 3.0);
    near("topic-spread", 3.0);
    let loose = json!([{ "semantic-duplicate": { "embeddings": "vectors", "similarity": 0.999 } }]);
    let made = fixture.run(json!({ "mix": mix, "filters": loose })).unwrap();
    assert_eq!(made.outcome.metrics["dropped"]["semantic-duplicate"], 0);
}

#[test]
fn a_row_without_a_vector_stops_the_stage_unless_the_table_says_otherwise() {
    let mut fixture = Fixture::new();
    let mix = four(&mut fixture);
    embeddings(&mut fixture.bench, "others", Embedded::Answer, &[("four", [1.0, 0.0, 0.0])]);
    let with = |more: Value| {
        let mut filter = json!({ "embeddings": "others" });
        filter.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "mix": mix, "filters": [{ "semantic-duplicate": filter }] })
    };
    let refused = fixture.refuse(with(json!({})));
    assert!(
        refused.starts_with("embeddings.bin: there is no vector for the text of row 2 of source 0 (prompt "),
        "{refused}"
    );
    assert!(refused.ends_with("such a row is compared with no other; with `\"drop\"` it goes"), "{refused}");
    assert_eq!(fixture.run(with(json!({ "unknown": "keep" }))).unwrap().outcome.metrics["train"]["rows"], 4);
    assert_eq!(fixture.run(with(json!({ "unknown": "drop" }))).unwrap().outcome.metrics["train"]["rows"], 1);
}

#[test]
fn of_a_text_that_the_server_refused_the_row_the_servers_words_and_the_way_out_are_told() {
    let mut fixture = Fixture::new();
    let mix = four(&mut fixture);
    let paris = answer("capital?", "Paris", Reply::Ok);
    let with_refusals = |fixture: &mut Fixture, name: &str, says_the_text: bool| {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EmbeddingWriter::create(&folder.path().join(EMBEDDINGS_FILE), Embedded::Answer).unwrap();
        ["four", "It is four."].iter().for_each(|text| writer.add(TextDigest::of(text), &[1.0, 0.0]).unwrap());
        writer.finish().unwrap();
        let mut refused = JsonlWriter::create(&folder.path().join(REFUSED_FILE)).unwrap();
        for (text, words) in [("else", "400: no"), ("Paris", "400: at most 512 tokens")] {
            let line =
                WithoutVector::new(TextDigest::of(text), paris.prompt.clone(), u32::from(text == "else"), words.into());
            refused.write(&WithoutVector { text: line.text.filter(|_| says_the_text), ..line }).unwrap();
        }
        refused.finish().unwrap();
        fixture.bench.input(name, folder.path());
    };
    for (name, says_the_text) in [("new", true), ("old", false)] {
        with_refusals(&mut fixture, name, says_the_text);
        let filters = json!([{ "semantic-duplicate": { "embeddings": name } }]);
        let refused = fixture.refuse(json!({ "mix": mix, "filters": filters }));
        assert_eq!(
            refused,
            format!(
                "embeddings.bin: the server refused the text of row 3 of source 0 (prompt {}, sample 0), one of 2, so there is no \
                 vector for it: 400: at most 512 tokens | set `unknown = \"keep\"` in `semantic-duplicate`: such a row is compared \
                 with no other; with `\"drop\"` it goes; `dropped.jsonl` of {name} lists all of them",
                paris.prompt
            )
        );
    }
}

#[test]
fn a_filter_that_covers_texts_before_they_are_found_is_told_by_check() {
    let found = |filters: Value| faults(&Dataset, &json!({ "mix": [{ "answers": "a" }], "filters": filters }));
    let duplicate = |unknown: &str| json!({ "semantic-duplicate": { "embeddings": "e", "unknown": unknown } });
    let covering = "a row whose text it covers is not the one that a vector was made of, and";
    for (unknown, what) in
        [("error", "stops the dataset"), ("keep", "is compared with no other"), ("drop", "is dropped")]
    {
        assert_eq!(
            found(json!(["secrets", "length", duplicate(unknown)])),
            [format!("`secrets` stands before `semantic-duplicate`: {covering} {what}")]
        );
    }
    assert_eq!(found(json!(["secrets", "personal-data", duplicate("keep")])).len(), 2);
    let harmless = json!([{ "secrets": { "action": "drop" } }, duplicate("error"), "personal-data"]);
    assert_eq!(found(harmless), [""; 0]);
}

#[test]
fn rows_whose_texts_are_covered_keep_their_vectors_in_the_figures() {
    let mut fixture = Fixture::new();
    let texts = ["Ask eve@mail.ch", "Ask bob@mail.ch, or call +41 44 668 18 00", "Paris"];
    let all = ["who?", "who else?", "capital?"].iter().zip(texts).map(|(prompt, text)| answer(prompt, text, Reply::Ok));
    answers(&mut fixture.bench, "replies", &all.collect::<Vec<_>>(), None);
    let vectors = [(texts[0], [1.0, 0.0, 0.0]), (texts[1], [0.0, 1.0, 0.0]), (texts[2], [0.0, 0.0, 1.0])];
    embeddings(&mut fixture.bench, "vectors", Embedded::Answer, &vectors);
    let duplicate = json!({ "semantic-duplicate": { "embeddings": "vectors" } });
    let filters = json!([duplicate, "personal-data", "secrets"]);
    let made = fixture.run(json!({ "mix": [{ "answers": "replies" }], "filters": filters })).unwrap();
    assert_eq!(made.outcome.metrics["changed"], json!({ "personal-data": 2 }));
    let diversity = &made.outcome.metrics["diversity"];
    assert_eq!((&diversity["rows"], &diversity["embedding-rows"]), (&json!(3), &json!(3)), "{diversity}");
    assert!((diversity["embedding-spread"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{diversity}");
    // In any order: the figures are of the texts that were embedded.
    let filters = json!(["personal-data", "secrets"]);
    let table = json!({ "mix": [{ "answers": "replies" }], "filters": filters, "embeddings": "vectors" });
    assert_eq!(&fixture.run(table).unwrap().outcome.metrics["diversity"], diversity);
    assert!(fixture.bench.said.warnings().iter().all(|warning| !warning.contains("embeddings have a vector for none")));
}

#[test]
fn a_dataset_names_vectors_for_its_figures_alone() {
    let mut fixture = Fixture::new();
    let mix = four(&mut fixture);
    let without = fixture.run(json!({ "mix": mix })).unwrap();
    let diversity = without.outcome.metrics["diversity"].as_object().unwrap();
    assert!(diversity.contains_key("topic-spread") && !diversity.contains_key("embedding-rows"), "{diversity:?}");
    let made = fixture.run(json!({ "mix": mix, "embeddings": "vectors" })).unwrap();
    let diversity = &made.outcome.metrics["diversity"];
    assert_eq!(diversity["embedding-rows"], 4);
    // Of six pairs one has a cosine of 2 / √4.09, one of 0.3 / √4.09, and four of 0.
    let cosines = (2.0 + 0.3) / 4.09f64.sqrt();
    assert!((diversity["embedding-spread"].as_f64().unwrap() - (1.0 - cosines / 6.0)).abs() < 1e-6, "{diversity}");
    embeddings(&mut fixture.bench, "others", Embedded::Both, &[("else", [1.0, 0.0, 0.0])]);
    fixture.run(json!({ "mix": mix, "embeddings": "others" })).unwrap();
    assert!(
        fixture
            .bench
            .said
            .warnings()
            .iter()
            .any(|warning| warning.starts_with("the embeddings have a vector for none"))
    );
}
