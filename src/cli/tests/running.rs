//! What a run does when stages fail, are killed, are stopped, or run twice at once.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not inside a test function")]

mod support;

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

#[test]
fn a_program_dies_with_the_engine_and_the_next_run_goes_on() {
    let place = Place::with_experiment(
        "[command.quick]\nrun = \"echo 1 > {out}/x\"\n[command.slow]\nrun = \"echo $$ > $PIDFILE; test -e $GO || sleep 60; echo 2 > {out}/x\"\npass-env = [\"PIDFILE\", \"GO\"]\ninputs = { x = \"quick\" }\n",
    );
    let (pid_file, go) = (place.join("pid"), place.join("go"));
    let with_env = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.env("PIDFILE", &pid_file).env("GO", &go);
        command
    };
    let mut engine = with_env(&["run", "experiment.toml"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the program to start", || std::fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')));
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    engine.kill().unwrap();
    engine.wait().unwrap();
    wait_for("the program to die", || {
        !std::path::Path::new(&format!("/proc/{pid}/cmdline")).exists()
            || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    });
    std::fs::write(&go, "").unwrap();
    let ran = Ran::of(with_env(&["run", "experiment.toml", "--format", "json"]).output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(finished(&ran.json_lines(), "built"), ["command.slow"]);
    assert_eq!(finished(&ran.json_lines(), "reused"), ["command.quick"]);
}

/// Whether a process is there and not merely waiting to be collected.
fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A stage whose program starts another one that heeds no signal, and its process id once it runs.
fn stubborn(place: &Place) -> (std::process::Child, i32) {
    let pid_file = place.join("pid");
    let mut command = place.command(&["run", "experiment.toml"]);
    let engine = command.env("PIDFILE", &pid_file).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the program to start", || std::fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')));
    let pid = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    assert!(lives(pid));
    (engine, pid)
}

const STUBBORN: &str = "[command.slow]\nrun = \"trap '' TERM INT; (trap '' TERM INT; sleep 60 & echo $! > $PIDFILE; wait); true\"\npass-env = [\"PIDFILE\"]\n";

#[test]
fn what_a_program_started_dies_with_the_engine_too() {
    let place = Place::with_experiment(STUBBORN);
    let (mut engine, pid) = stubborn(&place);
    engine.kill().unwrap();
    engine.wait().unwrap();
    wait_for("the grandchild to die", || !lives(pid));
}

#[test]
fn the_second_ctrl_c_gives_up_at_once_and_leaves_nothing_running() {
    let place = Place::with_experiment(STUBBORN);
    let (engine, pid) = stubborn(&place);
    let interrupt = || {
        assert!(std::process::Command::new("kill").args(["-INT", &engine.id().to_string()]).status().unwrap().success())
    };
    let started = Instant::now();
    interrupt();
    std::thread::sleep(Duration::from_millis(300));
    assert!(lives(pid), "the first one lets stages reach a good point");
    interrupt();
    let ran = Ran::of(engine.wait_with_output().unwrap());
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert_eq!(times(&ran.stderr, "ctrl-c again gives up at once"), 1, "{}", ran.stderr);
    wait_for("the grandchild to die", || !lives(pid));
}

/// A run of a slow stage with a program that starts another one; `env` sets what a hangup means to it.
#[cfg(target_os = "linux")]
fn hung_up(place: &Place, hangup: &str) -> (std::process::Child, i32) {
    let pid_file = place.join("pid");
    let mut command = std::process::Command::new("env");
    command.args([hangup, env!("CARGO_BIN_EXE_stillhouse"), "run", "experiment.toml"]).current_dir(place.path());
    command.env_remove("STILLHOUSE_CACHE").env("PIDFILE", &pid_file).stdin(Stdio::null()).stderr(Stdio::piped());
    let engine = command.spawn().unwrap();
    wait_for("the program to start", || std::fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')));
    let pid = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    for _ in 0..2 {
        // A closing terminal and its shell may both say it.
        let told = std::process::Command::new("kill").args(["-HUP", &engine.id().to_string()]).status().unwrap();
        assert!(told.success());
        std::thread::sleep(Duration::from_millis(100));
    }
    (engine, pid)
}

#[test]
#[cfg(target_os = "linux")]
fn a_closed_terminal_stops_stages_at_a_good_point_and_leaves_nothing_running() {
    let place = Place::with_experiment(
        "[command.slow]\nrun = \"sleep 60 & echo $! > $PIDFILE; wait\"\npass-env = [\"PIDFILE\"]\n",
    );
    let (engine, pid) = hung_up(&place, "--default-signal=HUP");
    let ran = Ran::of(engine.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert!(ran.stderr.contains("stopped by you"), "the run came to its end: {}", ran.stderr);
    wait_for("the grandchild to die", || !lives(pid));
}

#[test]
#[cfg(target_os = "linux")]
fn a_run_under_nohup_goes_on_when_its_terminal_is_closed() {
    let place = Place::with_experiment(
        "[command.slow]\nrun = \"echo $$ > $PIDFILE; sleep 0.5; echo 1 > {out}/x\"\npass-env = [\"PIDFILE\"]\n",
    );
    let (engine, _) = hung_up(&place, "--ignore-signal=HUP");
    let ran = Ran::of(engine.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn ctrl_c_stops_stages_and_says_so() {
    let place = Place::with_experiment(
        "[command.slow]\nrun = \"sleep 60\"\n[command.next]\nrun = \"true\"\ninputs = { x = \"slow\" }\n",
    );
    let engine = place.command(&["run", "experiment.toml", "--format", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the stage to start", || {
        let runs = std::fs::read_dir(place.join("cache/runs")).into_iter().flatten().flatten();
        runs.map(|run| std::fs::read_to_string(run.path().join("events.jsonl")).unwrap_or_default())
            .any(|text| text.contains("stage-started"))
    });
    let started = Instant::now();
    assert!(std::process::Command::new("kill").args(["-INT", &engine.id().to_string()]).status().unwrap().success());
    let ran = Ran::of(engine.wait_with_output().unwrap());
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(ran.code, Some(130));
    let last = ran.json_lines().pop().unwrap();
    assert_eq!(
        (last["event"].as_str(), last["interrupted"].as_bool(), last["skipped"].as_u64()),
        (Some("run-finished"), Some(true), Some(2))
    );
}

mod a_command {
    use super::*;

    #[test]
    fn sees_only_what_it_declares() {
        let place = Place::with_experiment("[command.a]\nrun = \"cat here.txt > {out}/x\"\n");
        place.write("here.txt", "not declared\n");
        let ran = place.run(&["run", "experiment.toml"]);
        assert_eq!(ran.code, Some(3));
        assert!(ran.stderr.contains("here.txt"), "{}", ran.stderr);
    }

    #[test]
    fn that_leaves_no_declared_output_fails() {
        let place = Place::with_experiment("[command.a]\nrun = \"true\"\noutputs = [\"model/weights\"]\n");
        let ran = place.run(&["run", "experiment.toml"]);
        assert_eq!(ran.code, Some(3));
        assert!(ran.stderr.contains("left no `model/weights`"), "{}", ran.stderr);
    }

    #[test]
    fn that_is_not_installed_is_said_so() {
        let place = Place::with_experiment("[command.a]\nrun = [\"no-such-program\"]\n");
        let ran = place.run(&["run", "experiment.toml"]);
        assert_eq!(ran.code, Some(3));
        assert!(ran.stderr.contains("cannot start `no-such-program`"), "{}", ran.stderr);
    }

    #[test]
    fn that_takes_too_long_is_stopped() {
        let place = Place::with_experiment("[command.a]\nrun = \"sleep 60\"\ntimeout = 0.2\n");
        let ran = place.run(&["run", "experiment.toml"]);
        assert_eq!(ran.code, Some(3));
        assert!(ran.stderr.contains("longer than its timeout of 0.2 s"), "{}", ran.stderr);
    }

    #[test]
    fn cannot_reach_the_store_through_its_inputs() {
        let place = Place::with_experiment(
            "[command.a]\nrun = \"echo precious > {out}/x\"\n[command.b]\nrun = \"chmod u+w {inputs.a}/x; echo spoiled > {inputs.a}/x; cp {inputs.a}/x {out}/x\"\ninputs = { a = \"a\" }\n",
        );
        place.built();
        assert_eq!(place.run(&["cache", "verify"]).code, Some(0));
    }

    #[test]
    fn may_report_metrics() {
        let place =
            Place::with_experiment("[command.a]\nrun = \"echo '{ \\\"accuracy\\\": 0.5 }' > {out}/metrics.json\"\n");
        let events = place.run_events();
        let done = events.iter().find(|event| event["event"] == "stage-finished").unwrap();
        assert_eq!(done["metrics"]["accuracy"], 0.5);
    }
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

mod a_store_that_cannot_be_written {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    use std::path::Path;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Takes the right to write away from a folder and all folders in it, or gives it back.
    fn writable(folder: &Path, yes: bool) {
        set_mode(folder, if yes { 0o755 } else { 0o555 });
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                writable(&path, yes);
            }
        }
    }

    /// Runs as somebody who may not write the store: for root, permissions are no bar, so then as nobody.
    fn run(place: &Place, arguments: &[&str]) -> Ran {
        let store = place.join("cache");
        writable(&store, false);
        set_mode(place.path(), 0o755);
        let mut command = place.command(arguments);
        if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            // The program may lie where nobody but root may look.
            let program = place.join("stillhouse");
            if !program.exists() && std::fs::hard_link(env!("CARGO_BIN_EXE_stillhouse"), &program).is_err() {
                std::fs::copy(env!("CARGO_BIN_EXE_stillhouse"), &program).unwrap();
            }
            let mut other = std::process::Command::new(&program);
            other
                .args(arguments)
                .current_dir(place.path())
                .stdin(Stdio::null())
                .env_remove("STILLHOUSE_CACHE")
                .env("NO_COLOR", "1");
            other.uid(65534).gid(65534);
            command = other;
        }
        let ran = Ran::of(command.output().unwrap());
        writable(&store, true);
        ran
    }

    #[test]
    fn gives_what_is_there_and_says_that_the_run_is_not_recorded() {
        let place = Place::with_experiment(
            "[command.a]\nrun = \"echo 1 > {out}/x\"\n[command.b]\nrun = \"echo 2 > {out}/x\"\n",
        );
        assert_eq!(place.run(&["run", "experiment.toml", "--only", "command.a"]).code, Some(0));
        let ran = run(&place, &["run", "experiment.toml", "--only", "command.a"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stderr.contains("1 reused"), "{}", ran.stderr);
        assert_eq!(times(&ran.stderr, "this run is not recorded"), 1, "{}", ran.stderr);
        let ran = run(&place, &["run", "experiment.toml", "--only", "command.a", "--format", "json"]);
        assert_eq!(finished(&ran.json_lines(), "reused"), ["command.a"], "{}", ran.stderr);
        assert_eq!(place.run(&["runs", "--format", "json"]).json_lines()[0].as_array().unwrap().len(), 1);
        for arguments in [
            &["plan", "experiment.toml"][..],
            &["why", "experiment.toml", "command.b"],
            &["show", "command.a"],
            &["runs"],
        ] {
            assert_eq!(run(&place, arguments).code, Some(0), "{arguments:?}");
        }
    }

    #[test]
    fn is_one_clear_error_where_there_is_work() {
        let place = Place::with_experiment(
            "[command.a]\nrun = \"echo 1 > {out}/x\"\n[command.b]\nrun = \"echo 2 > {out}/x\"\n",
        );
        assert_eq!(place.run(&["run", "experiment.toml", "--only", "command.a"]).code, Some(0));
        let ran = run(&place, &["run", "experiment.toml"]);
        assert_eq!(ran.code, Some(4), "{}", ran.stderr);
        assert!(
            ran.stderr.starts_with("error: 1 stage is to be made, and the store cannot be written: "),
            "{}",
            ran.stderr
        );
        assert_eq!((times(&ran.stderr, "error: "), times(&ran.stderr, "hint: ")), (1, 1), "{}", ran.stderr);
    }
}

mod the_store {
    use super::*;

    #[test]
    fn of_a_newer_format_is_refused() {
        let place = Place::with_experiment("[command.a]\nrun = \"true\"\n");
        place.built();
        place.write("cache/FORMAT", "999\n");
        let ran = place.run(&["run", "experiment.toml"]);
        assert_eq!(ran.code, Some(4));
        assert!(ran.stderr.contains("newer") && ran.stderr.contains("hint:"), "{}", ran.stderr);
    }

    #[test]
    fn that_cannot_be_made_is_one_clear_error() {
        let place = Place::with_experiment("[command.a]\nrun = \"true\"\n");
        place.write("occupied", "a file where the store should be\n");
        let ran = place.run(&["run", "experiment.toml", "--cache", "occupied/cache"]);
        assert_eq!(ran.code, Some(4));
        assert!(ran.stderr.starts_with("error: ") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
    }

    #[test]
    fn is_listed_shown_and_cleaned() {
        let place = Place::with_experiment("[command.a]\nrun = \"echo 1 > {out}/x\"\n");
        place.built();
        for arguments in [
            &["runs"][..],
            &["show", "last"],
            &["show", "command.a"],
            &["log"],
            &["cache", "stats"],
            &["cache", "gc", "--dry-run"],
        ] {
            let ran = place.run(arguments);
            assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
            assert!(!ran.stderr.contains("panicked"));
        }
        // Blobs of a run that was a moment ago are named, so none was kept for its youth.
        let gc = place.run(&["cache", "gc"]);
        assert!(
            gc.stdout.ends_with("nothing was kept for being younger than the grace period of 1h 00m\n"),
            "{}",
            gc.stdout
        );
        for arguments in [
            &["runs", "--format", "json"][..],
            &["show", "command.a", "--format", "json"],
            &["cache", "stats", "--format", "json"],
        ] {
            let ran = place.run(arguments);
            serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap();
        }
        assert_eq!(place.run(&["show", "command.nothing"]).code, Some(64));
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
