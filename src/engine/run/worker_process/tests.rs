//! Workers that run out of memory, played by shell scripts: real processes that end by real signals.

use std::collections::BTreeMap;
use std::sync::Mutex;

use stillhouse_store::Key;

use super::*;

#[derive(Default)]
struct Heard(Mutex<Vec<StageEvent>>);

impl EventSink for Heard {
    fn send(&self, event: StageEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// What the worker says of what it does.
const NOTE: &str =
    r#"printf '{"doing": "with 4 rows at once", "hint": "fewer rows", "less-is-possible": true}' > at-risk.json"#;
const LAST_NOTE: &str =
    r#"printf '{"doing": "with 2 rows at once", "hint": "fewer rows", "less-is-possible": false}' > at-risk.json"#;
const FINISHES: &str = r#"printf '{"made": {"metrics": {"rows": 2}}}' > result.json"#;
const KILLED: &str = "kill -9 $$";
const ABORTED: &str = "echo 'memory allocation of 64 bytes failed' >&2; kill -ABRT $$";

struct Played {
    result: Result<Outcome, Failure>,
    warnings: Vec<String>,
    starts: usize,
    /// Whether what the first worker left was there for the second.
    leftovers: bool,
}

/// Runs a worker that does `first`, and `second` where it is told to do less at once.
fn play(first: &str, second: &str) -> Played {
    let folder = tempfile::tempdir().unwrap();
    let attempt = folder.path().to_owned();
    let script = format!(
        "cd \"$1\"; echo x >> starts; [ -e out/half ] && touch leftovers; mkdir -p out; touch out/half; \
         if grep -q '\"less_at_once\": true' order.json; then {second}; else {first}; fi"
    );
    let order = WorkOrder {
        stage: "student.test".into(),
        kind: "student".into(),
        key: Key::of("test", b""),
        recipe: String::new(),
        config: serde_json::Value::Null,
        definitions: BTreeMap::new(),
        inputs: BTreeMap::new(),
        files: BTreeMap::new(),
        seed: 0,
        device: "cpu".into(),
        threads: 1,
        offline: true,
        less_at_once: false,
        store: attempt.clone(),
        attempt: attempt.clone(),
        run: "test".into(),
    };
    worker::write_order(&order).unwrap();
    let arguments = ["-c".into(), script, "worker".into()].into();
    let program = WorkerProgram { program: "/bin/sh".into(), arguments };
    let heard = Heard::default();
    let result = run(&program, order, &heard, &ChildSlot::default(), &Cancel::default());
    let warning = |event: StageEvent| match event {
        StageEvent::Warning { message } => Some(message),
        _ => None,
    };
    Played {
        result,
        warnings: heard.0.into_inner().unwrap().into_iter().filter_map(warning).collect(),
        starts: fs_err::read_to_string(attempt.join("starts")).unwrap().lines().count(),
        leftovers: attempt.join("leftovers").exists(),
    }
}

#[test]
fn a_worker_that_runs_out_of_memory_is_started_once_more_with_less_at_once() {
    for (dies, said) in [(KILLED, "killed (signal 9)"), (ABORTED, "memory allocation of 64 bytes failed")] {
        let played = play(&format!("{NOTE}; {dies}"), &format!("{LAST_NOTE}; {FINISHES}"));
        assert_eq!(played.result.unwrap().metrics["rows"], 2);
        assert_eq!((played.starts, played.leftovers), (2, false));
        let [warning] = played.warnings.try_into().unwrap();
        assert!(warning.starts_with(&format!("out of memory with 4 rows at once: {said}")), "{warning}");
        assert!(warning.ends_with("it is tried once more with less at once"), "{warning}");
    }
}

#[test]
fn a_second_death_is_the_failure_and_says_what_took_the_memory_and_what_helps() {
    let played = play(&format!("{NOTE}; {ABORTED}"), &format!("{LAST_NOTE}; {ABORTED}"));
    let failure = played.result.unwrap_err();
    assert_eq!(failure.message, "out of memory with 2 rows at once: memory allocation of 64 bytes failed");
    assert_eq!((failure.class, failure.hint.as_deref()), (Class::Environment, Some("fewer rows")));
    assert_eq!((played.starts, played.warnings.len()), (2, 1));
    // What the second worker notes counts for nothing more.
    let played = play(&format!("{NOTE}; {KILLED}"), &format!("{NOTE}; {KILLED}"));
    assert!(played.result.is_err() && played.starts == 2);
}

#[test]
fn without_less_to_do_there_is_no_second_try() {
    let played = play(&format!("{LAST_NOTE}; {KILLED}"), FINISHES);
    let failure = played.result.unwrap_err();
    assert!(failure.message.starts_with("out of memory with 2 rows at once: killed (signal 9)"), "{failure}");
    assert_eq!((played.starts, played.warnings.len()), (1, 0));
    let played = play(KILLED, FINISHES);
    let failure = played.result.unwrap_err();
    assert!(failure.message.starts_with("the worker process ended early: killed (signal 9)"), "{failure}");
    assert_eq!(played.starts, 1);
}

#[test]
fn another_death_is_not_taken_for_want_of_memory() {
    for dies in ["kill -ABRT $$", "kill -SEGV $$", "exit 7"] {
        let played = play(&format!("{NOTE}; {dies}"), FINISHES);
        let failure = played.result.unwrap_err();
        assert!(failure.message.starts_with("the worker process ended early"), "{failure}");
        assert_eq!((played.starts, played.warnings.len()), (1, 0));
    }
}
