//! What a run does when stages fail, are killed, are stopped, or run twice at once.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not inside a test function")]

#[path = "../support/mod.rs"]
mod support;

mod a_command;
mod stopped;
mod the_store;

use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Place, Ran, finished, text};

fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn two_runs_at_once_do_each_stage_once() {
    let mut experiment = String::new();
    for index in 0..6 {
        experiment.push_str(&format!("[command.s{index}]\nrun = \"echo x >> $COUNT/s{index}; sleep 0.2; echo {index} > {{out}}/x\"\npass-env = [\"COUNT\"]\n"));
    }
    let place = Place::with_experiment(&experiment);
    let count = place.join("count");
    std::fs::create_dir(&count).unwrap();
    let start = || {
        let mut command = place.command(&["run", "experiment.toml", "--format", "json"]);
        command.env("COUNT", &count).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (first, second) = (start(), start());
    let (first, second) = (Ran::of(first.wait_with_output().unwrap()), Ran::of(second.wait_with_output().unwrap()));
    assert_eq!((first.code, second.code), (Some(0), Some(0)), "{}{}", first.stderr, second.stderr);
    for index in 0..6 {
        let starts = std::fs::read_to_string(count.join(format!("s{index}"))).unwrap();
        assert_eq!(starts, "x\n", "stage {index} ran more than once");
    }
    let built = finished(&first.json_lines(), "built").len() + finished(&second.json_lines(), "built").len();
    assert_eq!(built, 6);
}

const FAILING: &str = r#"
[command.bad]
run = "echo to the log; echo this is why >&2; exit 7"

[command.after]
run = "true"
inputs = { x = "bad" }

[command.good]
run = "sleep 0.3; echo good > {out}/x"

[command.later]
run = "cp {inputs.x}/x {out}/x"
inputs = { x = "good" }
"#;

#[test]
fn a_failed_stage_is_told_with_its_reason_and_never_cached() {
    let place = Place::with_experiment(FAILING);
    let ran = place.run(&["run", "experiment.toml", "--format", "json"]);
    assert_eq!(ran.code, Some(3));
    let events = ran.json_lines();
    let failed = events.iter().find(|event| event["event"] == "stage-failed").unwrap();
    assert_eq!(text(&failed["stage"]), "command.bad");
    assert!(text(&failed["failure"]["message"]).contains("exit code 7"), "{failed}");
    assert!(text(&failed["failure"]["hint"]).contains("this is why"), "{failed}");
    let last = events.last().unwrap();
    assert_eq!((last["failed"].as_u64(), last["skipped"].as_u64()), (Some(1), Some(2)), "{last}");
    let log = place.run(&["log", "command.bad"]);
    assert!(log.stdout.starts_with("to the log\nthis is why\nerror: "), "{}", log.stdout);
    // The next run tries it again.
    assert_eq!(place.run(&["run", "experiment.toml"]).code, Some(3));
}

/// How often a text holds another.
fn times(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn a_failure_is_told_once_with_the_end_of_its_log() {
    let script = r"for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; printf 'a\rlast \033[31mwords\n'; exit 7";
    let experiment =
        format!("[command.bad]\nrun = '''{script}'''\n[command.after]\nrun = \"true\"\ninputs = {{ x = \"bad\" }}\n");
    let place = Place::with_experiment(&experiment);
    let ran = place.run(&["run", "experiment.toml"]);
    assert_eq!(ran.code, Some(3));
    assert_eq!(times(&ran.stderr, "exit code 7"), 1, "{}", ran.stderr);
    assert_eq!(times(&ran.stderr, "last [31mwords"), 1, "{}", ran.stderr);
    assert_eq!(times(&ran.stderr, "command.after"), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("  | line 3\n") && !ran.stderr.contains("  | line 2\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: the whole log: stillhouse log 'command.bad'"), "{}", ran.stderr);
    assert!(place.run(&["log", "command.bad"]).stdout.starts_with("line 1\n"));
}

#[test]
fn keep_going_does_all_that_does_not_depend_on_the_failure() {
    let place = Place::with_experiment(FAILING);
    let ran = place.run(&["run", "experiment.toml", "--format", "json", "--keep-going"]);
    assert_eq!(ran.code, Some(3));
    let events = ran.json_lines();
    assert_eq!(finished(&events, "built"), ["command.good", "command.later"]);
    assert_eq!(events.last().unwrap()["skipped"], 1);
}

#[test]
fn only_runs_a_stage_and_what_it_needs() {
    let place = Place::with_experiment(FAILING);
    let ran = place.run(&["run", "experiment.toml", "--format", "json", "--only", "command.later"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(finished(&ran.json_lines(), "built"), ["command.good", "command.later"]);
}

mod a_name_that_means_nothing {
    use super::*;

    #[test]
    fn is_a_wrong_argument_with_the_name_that_was_meant() {
        let place = Place::with_experiment("[command.first]\nrun = \"echo said\"\n[command.quiet]\nrun = \"true\"\n");
        place.built();
        for (arguments, words) in [
            (&["show", "command.frist"][..], "did you mean `command.first`?"),
            (&["log", "command.frist"], "did you mean `command.first`?"),
            (&["log", "nothing.like.it"], "no run has a stage `nothing.like.it`"),
            (&["log", "command.quiet"], "there is no log of `command.quiet`"),
            (&["log", "--run", "never"], "there is no run \"never\""),
            (&["why", "experiment.toml", "command.frist"], "did you mean `command.first`?"),
            (&["run", "experiment.toml", "--only", "frist"], "hint: "),
            (&["run", "experiment.toml", "--device", "gpu"], "there is no device `gpu`"),
            (&["run", "experiment.toml", "--device", "cuda:x"], "there is no device `cuda:x`"),
            (&["run", "experiment.toml", "--jobs", "0"], "--jobs"),
            (&["kinds", "comand"], "did you mean `command`?"),
            (&["worker", "."], "there is no work order"),
        ] {
            let ran = place.run(arguments);
            assert_eq!(ran.code, Some(64), "{arguments:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
        }
        assert!(
            !place.join("log").exists() && !place.join("result.json").exists(),
            "a worker without an order writes nothing"
        );
    }

    #[test]
    fn may_leave_out_the_kind_where_one_kind_has_it() {
        let place = Place::with_experiment("[command.first]\nrun = \"echo said\"\n");
        place.built();
        assert!(place.run(&["show", "first"]).stdout.starts_with("command.first\n"));
        assert!(place.run(&["log", "first"]).stdout.starts_with("said"));
    }
}

mod rust_log {
    use super::*;

    fn run(place: &Place, filter: &str) -> Ran {
        Ran::of(
            place.command(&["run", "experiment.toml", "--format", "json"]).env("RUST_LOG", filter).output().unwrap(),
        )
    }

    #[test]
    fn adds_words_to_standard_error_and_none_to_the_data() {
        let place = Place::with_experiment("[command.a]\nrun = \"true\"\n");
        let ran = run(&place, "info");
        assert!(ran.stderr.contains("stage-started") && !ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
        assert_eq!(ran.json_lines().last().unwrap()["event"], "run-finished");
        assert_eq!(run(&place, "").stderr, "");
    }

    #[test]
    fn that_cannot_be_read_is_said_and_passed_over() {
        let place = Place::with_experiment("[command.a]\nrun = \"true\"\n");
        let ran = run(&place, "stillhouse=[");
        assert_eq!(ran.code, Some(0));
        assert!(ran.stderr.starts_with("warning: RUST_LOG"), "{}", ran.stderr);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_can_not_be_written_is_a_failure() {
    let place = Place::with_experiment("[experiment]\nname = \"x\"\n[prompts.p]\nlist = [\"a\"]\n");
    for arguments in [&["schema"][..], &["plan", "experiment.toml"], &["run", "experiment.toml", "--format", "json"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ran = Ran::of(place.command(arguments).stdout(full).output().unwrap());
        assert_eq!(ran.code, Some(4), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("standard output can't be written"), "{}", ran.stderr);
    }
}
