//! Sources of rows: what is read, and what becomes of rows that are not what they should be.

use super::*;

#[test]
fn csv_fills_the_templates_that_jsonl_does() {
    let bench = Bench::new();
    let path = bench.file("p.csv", "question;answer;rule\n\"2+2;\nwhy?\";4;\n3+3?;6;Be brief.\n");
    let made = bench
        .run(
            &Prompts,
            json!({ "csv": {
                "path": path, "delimiter": ";", "template": "{{ question }}", "reference": "{{ answer }}",
                "system": "{{ rule }}"
            } }),
        )
        .unwrap();
    let prompts = prompts(&made);
    assert_eq!(prompts[0], Prompt::new(vec![Message::user("2+2;\nwhy?")], Some("4".into())));
    assert_eq!(prompts[1].messages, [Message::system("Be brief."), Message::user("3+3?")]);
}

#[test]
fn csv_names_bad_rows_by_line_and_column() {
    let bench = Bench::new();
    let cases = [
        (
            "q,a\n1,2\n1\n",
            "bad.csv:3:2: the row has 1 fields, the header 2 | is `,` the `delimiter`? a field that holds `,`, a quote or a line end stands in quotes: \"…\"",
        ),
        (
            "q,a\n\"x\ny\",2,\n",
            "bad.csv:3:6: the row has 3 fields, the header 2 | a field that holds `,`, a quote or a line end stands in quotes: \"…\"",
        ),
        (
            "q,a\n1,\"2\n",
            "bad.csv:2:3: a quote opens here and is never closed | close it, or double it where it is part of the text: \"\"",
        ),
        (
            "p,a\n1,2\n",
            "bad.csv:2: the row has no field `q`, which `template` uses | the row has `a`, `p`; a field that may be missing: {{ q | default(\"\") }}",
        ),
        ("q,a\n ,2\n", "bad.csv:2: the prompt comes out empty | remove the row, or use other fields in `template`"),
    ];
    for (content, expected) in cases {
        let path = bench.file("bad.csv", content);
        let told = failure(&bench, json!({ "csv": { "path": path, "template": "{{ q }}" } }));
        // The order in which a row's fields are told depends on how the JSON library was built.
        assert_eq!(told.replace("`p`, `a`", "`a`, `p`"), expected);
    }
}

#[test]
fn bad_rows_are_skipped_where_that_is_wished_and_the_record_tells_them() {
    let bench = Bench::new();
    let content = "{\"q\": \"one\"}\n{\"q\": }\n{\"p\": \"x\"}\n{\"q\": \" \"}\n[]\n\n{\"q\": \"two\"}\n";
    let path = bench.file("p.jsonl", content);
    let table = |policy: &str| json!({ "jsonl": { "path": path, "template": "{{ q }}" }, "on-bad-row": policy });
    let made = bench.run(&Prompts, table("skip")).unwrap();
    assert_eq!(texts(&made), ["one", "two"]);
    assert_eq!(
        made.outcome.metrics,
        json!({
            "prompts": 2, "rows": 2, "dropped": { "duplicate": 0, "blank-line": 0, "bad-row": 4 },
            "bad-rows": { "count": 4, "first": [
                "p.jsonl:2:7: not valid JSON: expected value",
                "p.jsonl:3: the row has no field `q`, which `template` uses",
                "p.jsonl:4: the prompt comes out empty",
                "p.jsonl:5: expected a JSON object, found a list",
            ] },
        })
    );
    assert_eq!(
        bench.said.warnings(),
        ["4 bad rows are left out, the first: p.jsonl:2:7: not valid JSON: expected value"]
    );
    assert!(failure(&bench, table("stop")).starts_with("p.jsonl:2:7: not valid JSON"));
}

#[test]
fn of_many_bad_rows_the_first_are_told_and_a_source_of_nothing_else_fails() {
    let bench = Bench::new();
    let lines: String = (0..9).map(|_| "x\n").collect();
    let table = |path: &str| json!({ "jsonl": { "path": path, "template": "{{ q }}" }, "on-bad-row": "skip" });
    let good = bench.file("good.jsonl", &format!("{lines}{{\"q\": \"one\"}}\n"));
    let bad_rows = bench.run(&Prompts, table(&good)).unwrap().outcome.metrics["bad-rows"].clone();
    assert_eq!((&bad_rows["count"], bad_rows["first"].as_array().unwrap().len()), (&json!(9), 5));
    let bad = bench.file("bad.jsonl", &lines);
    let error = bench.run(&Prompts, table(&bad)).err().unwrap().message;
    assert_eq!(error, "no row is good: 9 were left out, the first for bad.jsonl:1:1: not valid JSON: expected value");
}

#[test]
fn skipping_does_not_go_past_what_ends_a_file() {
    let bench = Bench::new();
    let table = |path: String| json!({ "csv": { "path": path, "template": "{{ q }}" }, "on-bad-row": "skip" });
    let open = bench.file("open.csv", "q\none\n\"two\nthree\n");
    assert!(failure(&bench, table(open)).starts_with("open.csv:3:1: a quote opens here and is never closed"));
    let wide = bench.file("wide.csv", "q\none\ntwo,too\nthree\n\"four\"x\nfive\n");
    let made = bench.run(&Prompts, table(wide)).unwrap();
    assert_eq!(texts(&made), ["one", "three", "five"]);
    assert_eq!(
        made.outcome.metrics["bad-rows"]["first"],
        json!(["wide.csv:3:5: the row has 2 fields, the header 1", "wide.csv:5:6: text follows the closing quote"])
    );
}

#[test]
fn a_file_that_is_no_parquet_says_so() {
    let bench = Bench::new();
    let path = bench.file("p.parquet", "q,a\n1,2\n");
    let told = failure(&bench, json!({ "parquet": { "path": path, "template": "{{ q }}" } }));
    assert!(told.starts_with("p.parquet: cannot be read as Parquet: "), "{told}");
    assert!(told.ends_with(" | is it a Parquet file, and complete?"), "{told}");
}

#[test]
fn parquet_rows_fill_templates_and_bad_ones_are_named_by_their_number() {
    let bench = Bench::new();
    let path = bench.bytes("p.parquet", &crate::source::conversations_in_parquet());
    let table = |template: &str| json!({ "parquet": { "path": path, "template": template, "reference": "{{ n }}" } });
    let made = bench.run(&Prompts, table("{{ q }}")).unwrap();
    let read: Vec<_> = prompts(&made).into_iter().map(|it| (it.messages[0].content.clone(), it.reference)).collect();
    assert_eq!(read, [("one".into(), Some("1".into())), ("zwölf".into(), Some("12".into()))]);
    let told = failure(&bench, table("{{ q if n == 1 else '' }}"));
    assert!(told.starts_with("p.parquet:2: the prompt comes out empty"), "{told}");
}

#[test]
fn a_field_that_is_null_is_empty_text_and_a_prompt_of_nothing_else_is_a_bad_row() {
    let bench = Bench::new();
    let rows = "{\"q\": \"one\", \"s\": null, \"r\": null}\n{\"q\": \"two\", \"s\": \"Be brief.\", \"r\": {\"a\": null}}\n{\"q\": null, \"s\": \"\", \"r\": 1}\n";
    let path = bench.file("p.jsonl", rows);
    let table = |policy: &str| {
        json!({
            "jsonl": { "path": path, "template": "{{ q }}", "system": "{{ s }}", "reference": "{{ r }}" }, "on-bad-row": policy,
        })
    };
    let made = bench.run(&Prompts, table("skip")).unwrap();
    let two = Prompt::new(vec![Message::system("Be brief."), Message::user("two")], Some("{\"a\": null}".into()));
    assert_eq!(prompts(&made), [Prompt::new(vec![Message::user("one")], None), two]);
    assert_eq!(made.outcome.metrics["bad-rows"]["first"], json!(["p.jsonl:3: the prompt comes out empty"]));
    assert!(failure(&bench, table("stop")).starts_with("p.jsonl:3: the prompt comes out empty | "));
    let path = bench.bytes("p.parquet", &crate::source::conversations_in_parquet());
    let made = bench.run(&Prompts, json!({ "parquet": { "path": path, "template": "{{ q }} {{ x }}" } })).unwrap();
    assert_eq!(texts(&made), ["one 0.1", "zw\u{f6}lf "]);
}

#[test]
fn a_header_of_one_field_says_which_delimiter_would_fit() {
    let bench = Bench::new();
    for (content, expected) in [
        (
            "id;question\n1;one\n",
            "bad.csv:2: the row has no field `question`, which `template` uses | the row has one field, `id;question`: is `;` the `delimiter`?",
        ),
        (
            "id\tquestion\n1\tone, or two\n",
            "bad.csv:2:7: the row has 2 fields, the header 1 | the header has one field, `id\tquestion`: is `\\t` the `delimiter`?",
        ),
    ] {
        let path = bench.file("bad.csv", content);
        assert_eq!(failure(&bench, json!({ "csv": { "path": path, "template": "{{ question }}" } })), expected);
    }
}
