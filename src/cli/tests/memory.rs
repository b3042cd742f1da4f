//! A student that has no room for its rows, under a limit that the system keeps.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not inside a test function")]

mod support;

use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Place, Ran, text};

/// Rows at once take about 400 MB, half of them 200 MB.
const EXPERIMENT: &str = r#"
[experiment]
name = "narrow"

[tokenizer.t]
from = [{ text = "text.txt" }]
vocab-size = 300

[dataset.d]
mix = [{ text = "text.txt" }]
tokenizer = "t"
max-length = 129
holdout = 0

[student.s]
init = { llama = { layers = 4, hidden = 128, heads = 4 } }
data = "d"
loss = "cross-entropy"
optimizer = { adamw = { lr = 1e-3 } }
schedule = "constant"
steps = 2
batch = { rows = 64 }
"#;

/// A run in whose processes no more than so many MiB have an address.
fn run_within(place: &Place, mebibytes: usize, cache: &str) -> Ran {
    let run = place.command(&["run", "experiment.toml", "--format", "json", "--device", "cpu", "--cache", cache]);
    let mut limited = Command::new("/bin/sh");
    limited.arg("-c").arg(format!("ulimit -v {}; exec \"$@\"", mebibytes * 1024)).arg("sh");
    limited.arg(run.get_program()).args(run.get_args()).current_dir(place.path()).stdin(Stdio::null());
    Ran::of(limited.output().unwrap())
}

fn warnings(events: &[Value]) -> Vec<String> {
    let said = events.iter().filter(|event| event["said"]["say"] == "warning");
    said.map(|event| text(&event["said"]["message"])).collect()
}

#[test]
fn a_student_whose_worker_runs_out_of_memory_goes_on_with_half_the_rows() {
    let place = Place::with_experiment(EXPERIMENT);
    let line = |number: usize| format!("the {number}th sparrow sang of {} crumbs by the river\n", number * 7 % 101);
    place.write("text.txt", &(0..4000).map(line).collect::<String>());
    // How much the program itself takes depends on the machine, so the limit is lowered until the rows have no room.
    for mebibytes in (400..=1200).rev().step_by(100) {
        let ran = run_within(&place, mebibytes, &format!("cache-{mebibytes}"));
        let events = ran.json_lines();
        let said = warnings(&events);
        if said.is_empty() && ran.code == Some(0) {
            continue;
        }
        assert_eq!(ran.code, Some(0), "{mebibytes} MiB: {said:?} {}{}", ran.stdout, ran.stderr);
        let [died, goes_on] = &said[..] else { panic!("{said:?}") };
        assert!(
            died.starts_with("out of memory with 64 rows of 128 positions at once: memory allocation of"),
            "{died}"
        );
        assert!(died.ends_with("it is tried once more with less at once"), "{died}");
        assert!(goes_on.starts_with("goes on with 32 rows at once in place of 64; `micro-batch` sets"), "{goes_on}");
        return;
    }
    panic!("nothing ever had no room");
}
