//! What is generated and what is shipped is true to the program: the schema, the experiments, the example of `init`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not inside a test function")]

mod support;

use std::path::{Path, PathBuf};

use support::Place;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

#[test]
fn the_schema_in_the_repository_is_what_the_program_prints() {
    let printed = Place::new().run(&["schema"]).stdout;
    let path = repository().join("schemas/experiment.schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &printed).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == printed,
        "{} is stale: run `UPDATE_SCHEMA=1 cargo test -p stillhouse --test published`",
        path.display()
    );
}

#[test]
fn every_experiment_in_the_repository_passes_check() {
    let place = Place::new();
    copy(&repository().join("experiments"), &place.join("experiments"));
    // Texts that are not the project's to give stand in for themselves.
    for name in ["tinyshakespeare.txt", "instructions.jsonl", "smollm2.gguf"] {
        let missing = &format!("experiments/data/{name}");
        if !place.join(missing).exists() {
            place.write(missing, "{\"instruction\": \"Say hello.\", \"input\": \"\", \"output\": \"Hello.\"}\n");
        }
    }
    let mut checked = 0;
    for entry in std::fs::read_dir(place.join("experiments")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let ran = place.run(&["check", path.to_str().unwrap()]);
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            checked += 1;
        }
    }
    assert!(checked >= 3, "only {checked} experiments found");
}

#[test]
fn the_example_of_init_passes_check() {
    let place = Place::new();
    assert_eq!(place.run(&["init", "mine.toml"]).code, Some(0));
    let ran = place.run(&["check", "mine.toml"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(place.run(&["init", "mine.toml"]).code, Some(64), "it never overwrites a file");
}

#[test]
fn kinds_lists_every_kind_with_its_keys() {
    let place = Place::new();
    let all = place.run(&["kinds"]).stdout;
    for kind in [
        "teacher",
        "model",
        "prompts",
        "expand",
        "answers",
        "judge",
        "embeddings",
        "tokenizer",
        "dataset",
        "student",
        "suite",
        "eval",
        "command",
    ] {
        assert!(all.contains(&format!("[{kind}.…]")), "{all}");
        assert_eq!(place.run(&["kinds", kind]).code, Some(0));
    }
    assert_eq!(place.run(&["kinds", "studnt"]).code, Some(64));
}

#[test]
fn kinds_lists_every_key_with_type_default_role_and_docs() {
    let place = Place::new();
    let teacher = place.run(&["kinds", "teacher"]).stdout;
    let line =
        |name: &str| teacher.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default().to_owned();
    for (name, parts) in [
        ("· provider = \"openai\"", &["OpenAI's API"][..]),
        ("· provider = \"local\"", &["runs on this machine"]),
        ("base-url ", &["string", "required", "execution", "Where it is"]),
        ("revision ", &["string", "optional", "identity"]),
        ("concurrency ", &["integer ≥ 1", "default 16", "execution"]),
        ("· allowed", &["They may."]),
    ] {
        assert!(parts.iter().all(|part| line(name).contains(part)), "{name}: {teacher}");
    }
    for (kind, choices) in [
        ("student", &["· llama", "cross-entropy", "forward-kl", "· wsd", "temperature", "seed"][..]),
        ("dataset", &["· length", "· refusal", "max-tokens"]),
        ("suite", &["perplexity", "agreement"]),
    ] {
        let text = place.run(&["kinds", kind]).stdout;
        assert!(choices.iter().all(|choice| text.contains(choice)), "{text}");
    }
}

#[test]
fn kinds_as_json_says_the_same_of_every_key() {
    let ran = Place::new().run(&["kinds", "--format", "json"]);
    let kinds: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    for kind in kinds.as_array().unwrap() {
        let keys = kind["keys"].as_array().unwrap();
        assert!(!keys.is_empty(), "{}", kind["name"]);
        for key in keys {
            let key_like = key["what"] == "choice" || !key["type"].as_str().unwrap().is_empty();
            assert!(key_like && !key["about"].as_str().unwrap().is_empty(), "{}: {key}", kind["name"]);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { _ = std::fs::copy(&path, &target).unwrap() }
    }
}
