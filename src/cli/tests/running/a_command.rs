//! `[command.X]`: what a program sees, leaves and may not do.

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
