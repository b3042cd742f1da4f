//! Steps that trainings share, and what `why` says of them.

use crate::support::{Place, outputs, text};

/// A tokenizer, a dataset and the students that are given.
fn trainings(students: &str) -> Place {
    let place = Place::with_experiment(&format!(
        r#"
[experiment]
name = "shared"

[tokenizer.t]
from = [{{ text = "text.txt" }}]
vocab-size = 260

[dataset.d]
mix = [{{ text = "text.txt" }}]
tokenizer = "t"
{students}"#
    ));
    place.write("text.txt", "one line\nanother line\n");
    place
}

/// A student with a schedule of so many steps.
fn student(name: &str, schedule: &str, steps: u64) -> String {
    format!(
        r#"
[student.{name}]
init = {{ llama = {{ layers = 1, hidden = 16, heads = 2 }} }}
data = "d"
loss = "cross-entropy"
optimizer = {{ adamw = {{ lr = 1e-3 }} }}
schedule = {{ {schedule} }}
steps = {steps}
"#
    )
}

/// The remarks of `why` on a stage.
fn remarks(place: &Place, stage: &str, set: &[&str]) -> Vec<String> {
    let mut arguments = vec!["why", "experiment.toml", stage, "--format", "json"];
    arguments.extend(set.iter().flat_map(|set| ["--set", set]));
    let ran = place.run(&arguments);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr));
    json["remarks"].as_array().unwrap().iter().map(text).collect()
}

#[test]
fn why_says_what_a_longer_training_could_share_and_why_not_more() {
    let place = trainings(&student("s", "cosine = { warmup = 5 }", 40));
    let ran = place.run(&["why", "experiment.toml", "student.s"]);
    let said = "with more steps it would share 6 of 40 steps: a cosine depends on the number of steps";
    assert!(ran.code == Some(0) && ran.stdout.contains(said), "{}{}", ran.stdout, ran.stderr);
    // What is stored is not known before there is data.
    let constant = remarks(&place, "student.s", &["student.s.schedule=constant"]);
    assert_eq!(constant, ["with more steps it would share 40 of 40 steps"]);
}

#[test]
fn trainings_that_share_steps_run_one_after_another_and_each_step_is_trained_once() {
    let (long, short) = (student("long", "wsd = { decay = 4 }", 24), student("short", "wsd = { decay = 4 }", 12));
    let place = trainings(&format!("{long}{short}{}", student("other", "cosine = {}", 6)));
    let run = |place: &Place, more: &[&str]| {
        let ran = place
            .run(&[&["run", "experiment.toml", "--format", "json", "--device", "cpu", "--jobs", "3"], more].concat());
        assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
        ran.json_lines()
    };
    let events = run(&place, &[]);
    let held: Vec<_> = events.iter().filter(|event| event["event"] == "stage-held-back").collect();
    let names = |event: &serde_json::Value| (text(&event["stage"]), text(&event["behind"]));
    assert_eq!(
        held.iter().map(|event| names(event)).collect::<Vec<_>>(),
        [("student.long".into(), "student.short".into())]
    );
    // The last step that both share is the ninth: the decay of the shorter one begins with the tenth.
    let from = |stage: &str| {
        let resumed = |event: &&serde_json::Value| event["stage"] == stage && event["said"]["say"] == "resumed";
        events.iter().find(resumed).map(|event| text(&event["said"]["from"]))
    };
    assert_eq!((from("student.short"), from("student.long")), (None, Some("step 9 of 24".to_owned())));
    let alone = run(&place, &["--cache", "alone", "--only", "student.long"]);
    assert_eq!(outputs(&events)["student.long"], outputs(&alone)["student.long"]);

    // Everything is there: it is compared with nothing, and nothing is left to say but what more steps would do.
    assert_eq!(remarks(&place, "student.long", &[]).len(), 1);
    let stored = |set: &str| remarks(&place, "student.long", &[set]).remove(0);
    assert_eq!(
        stored("student.long.steps=30"),
        "goes on from step 21 of 30, which is stored: `steps` makes a difference from step 22 on"
    );
    assert_eq!(
        stored("student.long.schedule.wsd.decay=6"),
        "goes on from step 9 of 24, which is stored: `schedule.wsd.decay` makes a difference from step 20 on, and no checkpoint \
         between was kept (see `checkpoint-every`, `keep.branches`)"
    );
    assert_eq!(
        stored("student.long.optimizer.adamw.lr=2e-3"),
        "none of its 24 steps is stored: `optimizer.adamw.lr` is in every one of them"
    );
    let ran = place.run(&["why", "experiment.toml", "student.long", "--set", "student.long.optimizer.adamw.lr=2e-3"]);
    assert!(ran.stdout.contains("\n  none of its 24 steps is stored: "), "{}", ran.stdout);
}
