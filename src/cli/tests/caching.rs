//! What re-runs after a change, and what does not.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not inside a test function")]

mod support;

use support::{Place, finished, outputs, text};

/// a → b → c, and d beside them.
const CHAIN: &str = r#"
[experiment]
name = "chain"

[command.a]
run = ["cp", "{files.input}", "{out}/x"]
files = { input = "input.txt" }

[command.b]
run = "tr a-z A-Z < {inputs.from}/x > {out}/x"
inputs = { from = "a" }
timeout = 60

[command.c]
run = "wc -c < {inputs.from}/x > {out}/x"
inputs = { from = "command.b" }

[command.d]
run = "echo d > {out}/x"
"#;

fn chain() -> Place {
    let place = Place::with_experiment(CHAIN);
    place.write("input.txt", "hello\n");
    place
}

mod the_second_run {
    use super::*;

    #[test]
    fn executes_nothing() {
        let place = chain();
        assert_eq!(place.built(), ["command.a", "command.b", "command.c", "command.d"]);
        let events = place.run_events();
        assert_eq!(finished(&events, "reused").len(), 4);
        let last = events.last().unwrap();
        assert_eq!(last["event"], "run-finished");
        for (field, count) in [("built", 0), ("reused", 4), ("resumed", 0), ("failed", 0), ("skipped", 0)] {
            assert_eq!(last[field], count, "{field}");
        }
        assert!(last["seconds"].is_number());
    }

    #[test]
    fn executes_nothing_after_changes_that_mean_nothing() {
        let place = chain();
        place.built();
        type Change<'a> = (&'a str, &'a dyn Fn(&str) -> String);
        let changes: [Change<'_>; 5] = [
            ("comments and white space", &|text| text.replace("[command.b]", "\n# a comment\n\n[command.b] # here")),
            ("another order of tables", &|text| {
                let mut parts: Vec<&str> = text.split("\n[").collect();
                parts[1..].reverse();
                parts.join("\n[")
            }),
            ("another experiment name", &|text| text.replace("\"chain\"", "\"renamed\"")),
            ("an execution field", &|text| text.replace("timeout = 60", "timeout = 61")),
            ("a renamed stage", &|text| {
                text.replace("[command.a]", "[command.first]").replace("= \"a\"", "= \"first\"")
            }),
        ];
        for (what, change) in changes {
            place.write("experiment.toml", &change(CHAIN));
            assert_eq!(place.built(), Vec::<String>::new(), "after {what}");
        }
    }

    #[test]
    fn executes_nothing_after_the_folder_moved() {
        let place = chain();
        place.built();
        let moved = place.join("elsewhere/deeper");
        std::fs::create_dir_all(&moved).unwrap();
        for file in ["experiment.toml", "input.txt"] {
            std::fs::copy(place.join(file), moved.join(file)).unwrap();
        }
        let file = moved.join("experiment.toml");
        let ran = place.run(&["run", file.to_str().unwrap(), "--format", "json"]);
        assert_eq!(finished(&ran.json_lines(), "built"), Vec::<String>::new(), "{}", ran.stderr);
    }
}

mod a_changed_value {
    use super::*;

    #[test]
    fn runs_its_stage_and_what_depends_on_its_output() {
        let place = chain();
        place.built();
        place.write("experiment.toml", &CHAIN.replace("tr a-z A-Z", "tr a-y A-Y"));
        assert_eq!(
            place.decisions().iter().map(|(_, decision)| decision.as_str()).collect::<Vec<_>>(),
            ["reuse", "run", "maybe", "reuse"]
        );
        // `hello` has no z: b comes out as before, so c is not touched (early cut-off).
        assert_eq!(place.built(), ["command.b"]);
        place.write("experiment.toml", &CHAIN.replace("tr a-z A-Z", "tr -d l"));
        assert_eq!(place.built(), ["command.b", "command.c"]);
        // Going back costs nothing.
        place.write("experiment.toml", CHAIN);
        assert_eq!(place.built(), Vec::<String>::new());
    }

    #[test]
    fn is_named_by_why_with_old_and_new() {
        let place = chain();
        place.built();
        place.write("experiment.toml", &CHAIN.replace("tr a-z A-Z", "tr -d l"));
        let ran = place.run(&["why", "experiment.toml", "command.c"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.contains("inputs.from"), "{}", ran.stdout);
        assert!(ran.stdout.contains("tr a-z A-Z") && ran.stdout.contains("tr -d l"), "{}", ran.stdout);
        let ran = place.run(&["why", "experiment.toml", "command.a"]);
        assert!(ran.stdout.contains("reuse"), "{}", ran.stdout);
        let ran = place.run(&["why", "experiment.toml", "command.bb"]);
        assert_eq!(ran.code, Some(64));
        assert!(ran.stderr.contains("did you mean `command.b`?"), "{}", ran.stderr);
    }

    #[test]
    fn of_a_file_that_is_named_runs_its_readers() {
        let place = chain();
        place.built();
        place.write("input.txt", "another text\n");
        assert_eq!(place.built(), ["command.a", "command.b", "command.c"]);
    }

    #[test]
    fn may_come_from_the_command_line() {
        let place = chain();
        place.built();
        let ran = place.run(&["run", "experiment.toml", "--format", "json", "--set", "command.d.version=\"two\""]);
        assert_eq!(finished(&ran.json_lines(), "built"), ["command.d"], "{}", ran.stderr);
        let ran = place.run(&["plan", "experiment.toml", "--set", "command.e.version=2"]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains("--set #1"), "{}", ran.stderr);
    }
}

mod plan {
    use super::*;

    #[test]
    fn says_by_its_exit_code_whether_there_is_work() {
        let place = chain();
        assert_eq!(place.run(&["plan", "experiment.toml", "--exit-code"]).code, Some(2));
        place.built();
        assert_eq!(place.run(&["plan", "experiment.toml", "--exit-code"]).code, Some(0));
    }

    #[test]
    fn counts_in_its_summary_what_its_stages_say() {
        let place = chain();
        let ran = place.run(&["plan", "experiment.toml", "--format", "json"]);
        let plan: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(plan["summary"], serde_json::json!({ "reuse": 0, "run": 2, "maybe": 2 }));
        assert_eq!(text(&plan["stages"][0]["why"]["summary"]), "never made before");
    }
}

mod a_damaged_store {
    use super::*;

    #[test]
    fn is_noticed_and_mended() {
        let place = chain();
        let events = place.run_events();
        let before = support::outputs(&events);
        // Lose every blob: the records stay behind without what they promise.
        std::fs::remove_dir_all(place.join("cache/blobs")).unwrap();
        let ran = place.run(&["plan", "experiment.toml"]);
        assert!(ran.stdout.contains("damaged"), "{}", ran.stdout);
        let events = place.run_events();
        assert_eq!(support::outputs(&events), before);
        assert_eq!(place.run(&["cache", "verify"]).code, Some(0));
    }

    #[test]
    fn is_verified_with_its_replies() {
        let place = chain();
        place.built();
        place.write("cache/replies/a-teacher/00000000.replies", "not what a teacher said");
        let ran = place.run(&["cache", "verify"]);
        assert_eq!(ran.code, Some(4));
        let damage =
            "cache/replies/a-teacher/00000000.replies, 23 bytes from byte 0 on: it is not a segment of replies";
        assert!(ran.stdout.contains(damage), "{}", ran.stdout);
        let ran = place.run(&["cache", "verify", "--format", "json"]);
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&report["ok"], &report["replies"]["damaged"][0]["bytes"]), (&false.into(), &23.into()));
    }
}

mod replies {
    use super::*;

    const LINE: &str = r#"{"teacher":"one","key":"0101010101010101010101010101010101010101010101010101010101010101","max-tokens":16,"reply":{"outcome":"ok","text":"a","finish":"stop","model":"m","usage":{"prompt":1,"completion":3}},"check":"cd58acc43cd3b965"}"#;

    #[test]
    fn are_taken_from_store_to_store() {
        let place = chain();
        place.write("given.jsonl", &format!("{LINE}\n"));
        let import = ["cache", "replies", "import", "given.jsonl"];
        let ran = place.run(&import);
        assert_eq!(
            (ran.code, ran.stdout.trim()),
            (Some(0), "imported 1 replies; 0 were there already"),
            "{}",
            ran.stderr
        );
        assert_eq!(place.run(&import).stdout.trim(), "imported 0 replies; 1 were there already");
        let ran = place.run(&["cache", "replies", "export"]);
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), LINE));
        assert_eq!(ran.stderr.trim(), "exported 1 replies of 1 teachers");
        let ran = place.run(&["cache", "replies", "export", "--teacher", "two"]);
        assert_eq!(ran.code, Some(3));
        assert!(ran.stderr.contains("there is no teacher `two` among the stored replies"), "{}", ran.stderr);
    }

    #[test]
    fn that_were_changed_on_the_way_are_named_by_their_line() {
        let place = chain();
        let changed = LINE.replace("\"text\":\"a\"", "\"text\":\"b\"");
        place.write("given.jsonl", &format!("{changed}\n{LINE}\n"));
        let ran = place.run(&["cache", "replies", "import", "given.jsonl"]);
        assert_eq!((ran.code, ran.stdout.trim()), (Some(3), "imported 1 replies; 0 were there already"));
        assert!(ran.stderr.contains("given.jsonl, line 1: the reply does not match its checksum"), "{}", ran.stderr);
        let ran = place.run(&["cache", "replies", "import", "none.jsonl"]);
        assert_eq!(ran.code, Some(3));
        assert!(ran.stderr.contains("the exported replies cannot be read"), "{}", ran.stderr);
    }
}

mod a_sweep {
    use super::*;

    const SWEEP: &str = r#"
[command.base]
run = "echo base > {out}/x"

[command.one]
run = "cat {inputs.base}/x > {out}/x; echo $A $B >> {out}/x"
inputs = { base = "base" }
env = { A = "0", B = "0" }

[sweep]
grid = { "command.one.env.A" = ["1", "2"], "command.one.env.B" = ["3", "4", "5"] }
"#;

    #[test]
    fn shares_equal_stages_of_its_cells() {
        let place = Place::with_experiment(SWEEP);
        let ran = place.run(&["plan", "experiment.toml"]);
        assert!(
            ran.stdout.contains("sweep: 6 cells, 7 stages; 12 would be needed if cells shared nothing (5 saved)"),
            "{}",
            ran.stdout
        );
        assert!(ran.stdout.contains("command.one[A=2,B=5]"), "{}", ran.stdout);
        assert_eq!(place.built().len(), 7);
    }

    #[test]
    fn grown_by_a_value_runs_only_the_new_cells() {
        let place = Place::with_experiment(SWEEP);
        place.built();
        place.write("experiment.toml", &SWEEP.replace("[\"1\", \"2\"]", "[\"2\", \"7\", \"1\"]"));
        assert_eq!(place.built(), ["command.one[A=7,B=3]", "command.one[A=7,B=4]", "command.one[A=7,B=5]"]);
    }
}

mod include {
    use super::*;

    #[test]
    fn brings_tables_that_the_including_file_overrides() {
        let place = Place::with_experiment("include = [\"base/base.toml\"]\n[command.a]\nversion = \"2\"\n");
        place.write(
            "base/base.toml",
            "[command.a]\nrun = [\"cp\", \"{files.f}\", \"{out}/x\"]\nfiles = { f = \"here.txt\" }\n",
        );
        place.write("base/here.txt", "found relative to the file that names it\n");
        assert_eq!(place.built(), ["command.a"]);
    }
}

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

#[test]
fn a_change_far_upstream_is_named_once_however_many_ways_lead_from_it() {
    let mut text = String::from("[experiment]\nname = \"diamonds\"\n[command.s]\nrun = \"echo s > {out}/f\"\n");
    let (mut a, mut b) = ("s".to_owned(), "s".to_owned());
    for level in 0..16 {
        for side in ["a", "b"] {
            let inputs = format!("inputs = {{ x = \"command.{a}\", y = \"command.{b}\" }}");
            text.push_str(&format!(
                "[command.{side}{level}]\nrun = \"cat {{inputs.x}}/f {{inputs.y}}/f | head -1 > {{out}}/f\"\n{inputs}\n"
            ));
        }
        (a, b) = (format!("a{level}"), format!("b{level}"));
    }
    let place = Place::with_experiment(&text);
    assert_eq!(place.run(&["run", "experiment.toml"]).code, Some(0));
    let plan = place.run(&["plan", "experiment.toml", "--set", "command.s.run=echo t > {out}/f"]);
    let last = plan.stdout.lines().find(|line| line.contains("command.b15")).unwrap();
    assert!(last.contains("(command.s: run: ") && last.len() < 500, "{last}");
    assert!(plan.stdout.len() < 20_000, "{} bytes", plan.stdout.len());
}
