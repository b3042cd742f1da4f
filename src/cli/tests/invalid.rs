//! Every fault that a file can have: one fixture a fault, its name the fault, the whole message as a snapshot.

mod support;

use support::Place;

/// `UPDATE_EXPECTED=1` writes what is said now beside the fixtures.
#[test]
fn each_fault_is_said_under_its_characters_with_a_hint() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invalid");
    let mut seen = 0;
    for entry in std::fs::read_dir(&fixtures).unwrap() {
        let fixture = entry.unwrap().path();
        if fixture.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let place = Place::new();
        std::fs::write(place.join("experiment.toml"), std::fs::read(&fixture).unwrap()).unwrap();
        place.write("prompts.txt", "one\ntwo\n");
        place.write("other.toml", "include = \"experiment.toml\"\n");
        let ran = place.run(&["check", "experiment.toml"]);
        assert_eq!(ran.code, Some(1), "{}: {}", fixture.display(), ran.stderr);
        assert!(ran.stdout.is_empty(), "words go to standard error");
        let said = ran.stderr.replace(&place.path().canonicalize().unwrap().display().to_string(), "[folder]");
        let expected = fixture.with_extension("stderr");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&expected, &said).unwrap();
        }
        assert_eq!(said, std::fs::read_to_string(&expected).unwrap_or_default(), "{}", fixture.display());
        seen += 1;
    }
    assert!(seen >= 20, "only {seen} fixtures");
}

#[test]
fn a_key_in_the_file_is_never_repeated() {
    let place = Place::with_experiment(
        "[teacher.t]\nprovider = \"openai\"\nbase-url = \"http://x/v1\"\nmodel = \"m\"\napi-key = \"sk-abcdefghijklmnop1234\"\n",
    );
    for arguments in [&["check", "experiment.toml"][..], &["check", "experiment.toml", "--format", "json"]] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, Some(1));
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("sk-abc"), "{}", ran.stderr);
        assert!(ran.stderr.contains("api-key-env") || ran.stdout.contains("api-key-env"), "{}", ran.stderr);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_clear_line() {
    let place = Place::new();
    place.write("empty.toml", "\n");
    std::fs::write(place.join("latin.toml"), b"[experiment]\nname = \"caf\xe9\"\n").unwrap();
    for (file, words) in
        [("missing.toml", "there is no such file"), ("empty.toml", "the file is empty"), ("latin.toml", "line 2"), (".", "it is a folder")]
    {
        let ran = place.run(&["check", file]);
        assert_eq!(ran.code, Some(1), "{file}");
        assert!(ran.stderr.contains(words), "{file}: {}", ran.stderr);
    }
}
