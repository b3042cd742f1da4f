use stillhouse_stage::Class;

use super::*;

/// Runs a dataset of three rows through a verifier that is a shell script.
fn verify(fixture: &Fixture, script: &str, more: Value) -> Result<Made, Failure> {
    let rows = fixture.jsonl(&[("a", "one"), ("b", "two"), ("c", "three")]);
    let file = fixture.bench.file("check.sh", script);
    let mut verifier = json!({ "run": ["sh", "{files.script}"], "files": { "script": file } });
    verifier.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fixture.run(json!({ "mix": [{ "jsonl": rows }], "filters": [{ "verifier": verifier }] }))
}

fn fault(script: &str, more: Value) -> String {
    let failure = verify(&Fixture::new(), script, more).err().unwrap();
    assert_eq!(failure.class, Class::Command);
    let message = failure.message.split_once("check.sh` ").unwrap().1.to_owned();
    format!("{message} | {}", failure.hint.unwrap())
}

#[test]
fn a_program_keeps_and_drops_rows_with_its_reasons() {
    let script = r#"while read -r line; do
        case "$line" in
            *'"completion":"two"'*) echo '{"keep": false, "reason": "two is wrong"}' ;;
            *) echo '{"keep": true, "score": 0.5, "more": 1}' ;;
        esac
    done"#;
    let fixture = Fixture::new();
    let made = verify(&fixture, script, json!({})).unwrap();
    let (_, rows) = part(&made, TRAIN);
    assert_eq!(rows.iter().map(|row| row.completion.as_str()).collect::<Vec<_>>(), ["one", "three"]);
    let row: DroppedRow = serde_json::from_str(made.text(DROPPED_FILE).trim()).unwrap();
    assert_eq!((row.why.as_str(), row.line, row.detail.as_deref()), ("verifier", 2, Some("two is wrong")));
}

#[test]
fn a_program_sees_the_declared_variables_and_none_else() {
    let script = r#"test "$MODE" = strict && test -z "$CARGO_MANIFEST_DIR" && sed 's/.*/{"keep": true}/'"#;
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "a variable that must not be passed on");
    let fixture = Fixture::new();
    assert!(verify(&fixture, script, json!({ "env": { "MODE": "strict" } })).is_ok());
    assert!(verify(&fixture, script, json!({})).is_err());
}

#[test]
fn a_program_may_have_more_seconds_than_can_be_counted() {
    let script = r#"sed 's/.*/{"keep": true}/'"#;
    assert!(verify(&Fixture::new(), script, json!({ "timeout": 1e20 })).is_ok());
}

#[test]
fn what_a_program_does_wrong_is_said() {
    let one = r#"echo '{"keep": true}'"#;
    assert_eq!(
        fault(one, json!({})),
        "answered 1 of 3 rows | it must write one line for each line it reads, and nothing else, to standard output"
    );
    assert_eq!(
        fault("cat > /dev/null; echo hello", json!({})),
        "wrote what is no answer in line 1: expected value at line 1 column 1 | the line is `hello`; wanted is \
         `{\"keep\": true}` or `{\"keep\": false, \"reason\": \"…\"}`"
    );
    assert_eq!(fault("echo no solver >&2; exit 3", json!({})), "failed: exit code 3 | its last line was: no solver");
    assert_eq!(
        fault("sleep 60", json!({ "timeout": 0.2 })),
        "ran longer than its timeout of 0.2 s | raise `timeout`: it is in no key"
    );
    let fixture = Fixture::new();
    let rows = fixture.jsonl(&[("a", "one")]);
    let filters = json!([{ "verifier": { "run": ["no-such-program-anywhere"] } }]);
    let failure = fixture.run(json!({ "mix": [{ "jsonl": rows }], "filters": filters })).err().unwrap();
    assert!(failure.message.starts_with("the verifier `no-such-program-anywhere` cannot be started: "));
}

#[test]
fn a_program_may_stop_reading_early() {
    let mut fixture = Fixture::new();
    // More than a pipe holds: a program that answers without reading must not hang the stage.
    let all: Vec<Answer> =
        (0..3_000).map(|i| answer(&format!("q{i}"), &format!("{i} {}", "x".repeat(60)), Reply::Ok)).collect();
    answers(&mut fixture.bench, "replies", &all, None);
    let file = fixture.bench.file("check.sh", r#"yes '{"keep": true}' | head -n 3000"#);
    let verifier = json!({ "run": ["sh", "{files.script}"], "files": { "script": file }, "timeout": 60 });
    let made =
        fixture.run(json!({ "mix": [{ "answers": "replies" }], "filters": [{ "verifier": verifier }] })).unwrap();
    assert_eq!(made.outcome.metrics["train"]["rows"], 3_000);
}

#[test]
fn a_file_that_is_not_declared_is_found_when_the_table_is_read() {
    let verifier = json!({ "run": ["sh", "{files.scrip}"], "files": { "script": "check.sh" } });
    let faults = |verifier: Value| {
        faults(&Dataset, &json!({ "mix": [{ "answers": "a" }], "filters": [{ "verifier": verifier }] }))
    };
    assert_eq!(faults(verifier), ["`{files.scrip}` is not declared in `files`"]);
    assert_eq!(faults(json!({ "run": [] })), ["the command is empty"]);
}
