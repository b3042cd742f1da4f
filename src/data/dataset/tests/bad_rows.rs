//! Rows of a file that are not what they should be.

use super::*;

#[test]
fn bad_rows_are_left_out_where_that_is_wished_and_the_record_tells_them() {
    let fixture = Fixture::new();
    let path = fixture.bench.file(
        "rows.jsonl",
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\"}\n{\"prompt\": \"d\", \"completion\": \" \"}\n{\n{\"prompt\": \"e\", \"completion\": \"f\"}\n",
    );
    let made = fixture.run(json!({ "mix": [{ "jsonl": { "path": path, "on-bad-row": "skip" } }] })).unwrap();
    let (_, rows) = part(&made, TRAIN);
    assert_eq!(rows.iter().map(|row| row.completion.as_str()).collect::<Vec<_>>(), ["b", "f"]);
    assert_eq!(
        made.outcome.metrics["bad-rows"],
        json!([{ "count": 3, "first": [
            "rows.jsonl:2: the row has no field `completion`, which `completion` uses",
            "rows.jsonl:4:1: not valid JSON: EOF while parsing an object",
            "rows.jsonl:3: the completion is empty: there is nothing to learn",
        ] }])
    );
    assert!(fixture.bench.said.warnings().iter().any(|warning| warning.starts_with("3 bad rows are left out")));
    assert_eq!(
        fixture.refuse(json!({ "mix": [{ "jsonl": path }] })).split(" | ").next(),
        Some("rows.jsonl:2: the row has no field `completion`, which `completion` uses")
    );
}

#[test]
fn a_row_whose_prompt_or_completion_is_null_is_a_bad_row() {
    let fixture = Fixture::new();
    let path = fixture.bench.file(
        "rows.jsonl",
        "{\"prompt\": \"a\", \"completion\": null}\n{\"prompt\": null, \"completion\": \"b\"}\n{\"prompt\": \"c\", \"completion\": \"d\", \"s\": null}\n",
    );
    let made = fixture.run(json!({ "mix": [{ "jsonl": { "path": path, "on-bad-row": "skip" } }] })).unwrap();
    let (_, rows) = part(&made, TRAIN);
    assert_eq!(rows.iter().map(|row| row.completion.as_str()).collect::<Vec<_>>(), ["d"]);
    assert_eq!(
        made.outcome.metrics["bad-rows"][0]["first"],
        json!([
            "rows.jsonl:2: the prompt comes out empty",
            "rows.jsonl:1: the completion is empty: there is nothing to learn"
        ])
    );
    let told = fixture.refuse(json!({ "mix": [{ "jsonl": path }] }));
    assert!(told.contains("rows.jsonl:"), "{told}");
}
