//! The store as commands show it, and what it may refuse.

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

mod that_cannot_be_written {
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
