//! What re-runs after a change, and what does not.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not inside a test function")]

#[path = "../support/mod.rs"]
mod support;

mod the_store;
mod trainings;

use support::{Place, finished, text};

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
