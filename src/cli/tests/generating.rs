//! `stillhouse generate`: a shipped model talks, the same seed says the same, and what can't be done is said.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not inside a test function")]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Place, Ran};

fn teacher() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/quickstart-teacher");
    folder.canonicalize().unwrap().to_str().unwrap().to_owned()
}

fn generate(arguments: &[&str]) -> Ran {
    let teacher = teacher();
    Place::new().run(&[&["generate", &teacher, "--max-tokens", "24", "--device", "cpu"], arguments].concat())
}

#[test]
fn text_is_streamed_to_standard_output_and_figures_to_standard_error() {
    let greedy = generate(&["ROMEO:\n", "--temperature", "0"]);
    assert_eq!(greedy.code, Some(0), "{}", greedy.stderr);
    assert!(greedy.stdout.len() > 20 && greedy.stdout.ends_with('\n'), "{:?}", greedy.stdout);
    assert!(greedy.stderr.contains("24 tokens") && greedy.stderr.contains("cut by length"), "{}", greedy.stderr);
}

#[test]
fn a_seed_says_the_same_again_and_another_seed_something_else() {
    let said = |seed| generate(&["ROMEO:\n", "--temperature", "1", "--seed", seed]).stdout;
    assert_eq!(said("3"), said("3"));
    assert_ne!(said("3"), said("4"));
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let whole = generate(&["ROMEO:\n", "--temperature", "0"]).stdout;
    let word = whole.split_whitespace().nth(2).unwrap();
    let ran = generate(&["ROMEO:\n", "--temperature", "0", "--stop", word, "--format", "json"]);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    let before = &whole[..whole.find(word).unwrap()];
    assert_eq!((answer["text"].as_str(), answer["finish"].as_str()), (Some(before), Some("stop")));
}

#[test]
fn what_can_not_be_done_is_said_with_what_to_do() {
    let long = "word ".repeat(2_000);
    for (arguments, code, word, hint) in [
        (vec![long.as_str()], 64, "reads at most", "room for one more"),
        (vec!["x", "--system", "Be brief."], 64, "no chat template", "into the prompt"),
        (vec!["x", "--temperature=-1"], 64, "must be a number from 0", ""),
        (vec!["x", "--temperature", "-1"], 64, "invalid value '-1'", "must be a number from 0"),
        (vec!["x", "--top-p", "-0.5"], 64, "invalid value '-0.5'", "must be a number from 0 to 1"),
        (vec!["x", "--min-p", "-1"], 64, "invalid value '-1'", "must be a number from 0 to 1"),
        (vec!["x", "--top-p", "1.5"], 64, "from 0 to 1", ""),
    ] {
        let ran = generate(&arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(word) && ran.stderr.contains(hint), "{}", ran.stderr);
    }
    let place = Place::with_experiment("[experiment]\nname = \"x\"\n[prompts.p]\nlist = [\"a\"]\n");
    assert_eq!(place.run(&["run", "experiment.toml"]).code, Some(0));
    let ran = place.run(&["generate", "prompts.p", "x"]);
    assert_eq!(ran.code, Some(64));
    assert!(ran.stderr.contains("prompts.p is no language model"), "{}", ran.stderr);
    let ran = place.run(&["generate", "student.none", "x"]);
    assert!(ran.stderr.contains("there is no model `student.none`"), "{}", ran.stderr);
}
