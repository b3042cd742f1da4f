//! Runs that are killed or interrupted, and what becomes of the programs they started.

use super::*;

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
