//! Source code as prompts.

use super::*;

const RUST: &str =
    "use std::fmt;\n\n/// Adds.\n#[inline]\nfn add(left: i32, right: i32) -> i32 {\n    left + right\n}\n\nfn f() {}\n";
const PYTHON: &str =
    "import os\n\n@cache\ndef double(value):\n    \"\"\"Twice the value.\"\"\"\n    return 2 * value\n";

#[test]
fn definitions_fill_the_template_in_the_order_of_the_files() {
    let bench = Bench::new();
    bench.file("tree/src/b.rs", RUST);
    bench.file("tree/a.py", PYTHON);
    bench.file("tree/notes.txt", "no code");
    let tree = format!("{}/tree", bench.folder());
    let code = json!({
        "files": { "path": tree, "include": ["*.rs", "*.py"] },
        "template": "{{ path }}:{{ line }} {{ language }} {{ name }}\n{{ code }}",
    });
    let made = bench.run(&Prompts, json!({ "code": code, "system": "Be brief." })).unwrap();
    assert_eq!(
        texts(&made),
        [
            "a.py:3 python double\n@cache\ndef double(value):\n    \"\"\"Twice the value.\"\"\"\n    return 2 * value",
            "src/b.rs:3 rust add\n/// Adds.\n#[inline]\nfn add(left: i32, right: i32) -> i32 {\n    left + right\n}",
        ]
    );
    assert_eq!(prompts(&made)[0].messages[0], Message::system("Be brief."));
    assert_eq!(
        made.outcome.metrics["dropped"],
        json!({ "duplicate": 0, "blank-line": 0, "short-piece": 1, "long-line": 0 })
    );
}

#[test]
fn every_task_asks_with_the_code() {
    let bench = Bench::new();
    bench.file("tree/a.py", PYTHON);
    let tree = format!("{}/tree", bench.folder());
    let asked = ["explain", "refactor", "document", "test"].map(|task| {
        let code = json!({ "files": { "path": tree, "include": ["*.py"] }, "task": task });
        let made = bench.run(&Prompts, json!({ "code": code })).unwrap();
        let text = texts(&made).remove(0);
        assert!(text.ends_with(
            "a.py:\n```python\n@cache\ndef double(value):\n    \"\"\"Twice the value.\"\"\"\n    return 2 * value\n```"
        ));
        text
    });
    assert_eq!(asked[0].lines().next(), Some("Explain what this python code does, and how."));
    assert!(asked.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn a_file_that_is_not_utf_8_is_a_bad_row() {
    let bench = Bench::new();
    bench.bytes("tree/a.py", b"# \xc3\xa4\nx = '\xff'\n");
    bench.file("tree/b.py", PYTHON);
    let tree = format!("{}/tree", bench.folder());
    let table = |policy: &str| {
        json!({
            "code": { "files": { "path": tree, "include": ["*.py"] }, "task": "test" }, "on-bad-row": policy
        })
    };
    assert_eq!(failure(&bench, table("stop")), "a.py:2:6: not valid UTF-8 | list it in `exclude`, or save it as UTF-8");
    let made = bench.run(&Prompts, table("skip")).unwrap();
    assert_eq!(texts(&made).len(), 1);
    assert_eq!(made.outcome.metrics["bad-rows"]["first"], json!(["a.py:2:6: not valid UTF-8"]));
}

#[test]
fn a_tree_without_a_piece_that_is_long_enough_is_an_error() {
    let bench = Bench::new();
    bench.file("tree/a.py", "x = 1\n");
    let code = json!({ "files": { "path": format!("{}/tree", bench.folder()), "include": ["*.py"] }, "task": "test" });
    let error = bench.run(&Prompts, json!({ "code": code })).err().unwrap();
    assert_eq!(error.message, "no file of the tree holds a piece of code that is long enough");
}
