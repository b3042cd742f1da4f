//! Secrets in a file or an argument: always an error, never shown.

#![allow(dead_code, clippy::unwrap_used, reason = "tests; not each needs all of the support")]

mod support;

use support::{Folder, everything_shown, places, read_text};

const KEY: &str = "sk-abcdefghijklmnop1234";

#[test]
fn a_secret_anywhere_in_a_file_is_an_error_and_is_not_shown() {
    for (line, secret) in [
        ("env = { OPENAI_API_KEY = \"correct horse\" }", "correct horse"),
        ("headers = { \"x-api-key\" = \"abcdefgh\" }", "abcdefgh"),
        ("hf-token = \"abcdefgh\"", "abcdefgh"),
        ("db_password = 'abcdefgh'", "abcdefgh"),
        ("passwords = [{ the-password = \"abcdefgh\" }]", "abcdefgh"),
        ("anything = \"sk-abcdefghijklmnop1234\"", KEY),
        ("run = [\"curl\", \"-H\", \"Authorization: Bearer sk-abcdefghijklmnop1234\"]", KEY),
        ("base-url = \"https://user:pw-of-mine@host/v1\"", "pw-of-mine"),
        ("base-url = \"https://host/v1?api_key=abcdefgh\"", "abcdefgh"),
        ("api-key-env = \"abcdef0123456789abcdef\"", "abcdef0123456789abcdef"),
    ] {
        let (spec, report) = read_text(&format!("[a.b]\n{line}\n"), &[]);
        let secrets = report.sorted().into_iter().filter(|error| error.message.starts_with("a secret must not stand"));
        assert_eq!(secrets.count(), 1, "{line}: {:?}", places(&report));
        assert!(places(&report)[0].starts_with("2:"), "{line}: {:?}", places(&report));
        let shown = everything_shown(&report);
        assert!(!shown.contains(secret), "{line}: {shown}");
        assert!(
            !spec.tree.to_json().to_string().contains(secret),
            "{line}: later messages may repeat what the tree holds"
        );
    }
}

#[test]
fn what_only_resembles_a_secret_is_left_alone() {
    let text = r#"
[model.a]
path = "hf_models/SmolLM2-135M"
other = "sk-learn-models/a-forest-of-2024"
[teacher.b]
base-url = "http://127.0.0.1:8080/v1"
api-key-env = "TEACHER_API_KEY"
sampling = { max-tokens = 256 }
[tokenizer.c]
special-tokens = ["<|im_start|>", "<|im_end|>"]
eos-token = "<|im_end|>"
pad-token = "a padding token"
[command.d]
run = ["sh", "-c", "curl -H \"Authorization: Bearer $TEACHER_API_KEY\" http://host"]
pass-env = ["OPENAI_API_KEY"]
env = { PASSWORD = "", SECRET = "$OTHER", API_KEY = 123456789 }
"#;
    let (spec, report) = read_text(text, &[]);
    assert_eq!(places(&report), Vec::<String>::new());
    assert!(spec.tree.to_json().to_string().contains("hf_models/SmolLM2-135M"));
}

#[test]
fn an_argument_with_a_secret_is_not_shown_wherever_its_path_leads() {
    for argument in [
        "teacher.typo.api-key=sk-abcdefghijklmnop1234",
        "teacher.t.api-key=sk-abcdefghijklmnop1234",
        "teacher.t.settings={ api-key = \"sk-abcdefghijklmnop1234\" }",
        "not a path.api-key=sk-abcdefghijklmnop1234",
        "sk-abcdefghijklmnop1234",
        "teacher.t.api-key-env=sk-abcdefghijklmnop1234",
        "teacher.typo.run=curl -H 'Authorization: Bearer sk-abcdefghijklmnop1234'",
    ] {
        let (spec, report) = read_text("[teacher.t]\nmodel = \"m\"\n", &[argument]);
        assert!(report.has_errors(), "{argument}");
        let shown = everything_shown(&report);
        assert!(!shown.contains("abcdefghijklmnop"), "{argument}: {shown}");
        assert!(!spec.tree.to_json().to_string().contains("abcdefghijklmnop"), "{argument}");
    }
    let (_, report) = read_text("[teacher.t]\nmodel = \"m\"\n", &["teacher.typo.db-password=abcdefgh"]);
    assert!(!everything_shown(&report).contains("abcdefgh"));
    assert_eq!(places(&report).len(), 2, "the path and the secret: {:?}", places(&report));
}

#[test]
fn a_secret_of_several_lines_does_not_move_later_lines() {
    let text = "[a.b]\nclient-secret = \"\"\"\nline one\nline two\n\"\"\"\n[experiment]\nseed = \"x\"\n";
    let (_, report) = read_text(text, &[]);
    assert_eq!(
        places(&report),
        ["2:17 a secret must not stand in an experiment file", "7:8 expected an integer, found a string"]
    );
    assert!(!everything_shown(&report).contains("line"));
}

#[test]
fn secrets_in_comments_and_broken_lines_are_not_shown() {
    let text = format!("# {KEY}\n[a.b]\nx = \"{KEY}\napi-key = \"abcdefgh12\n[experiment]\nseed = true\n");
    let (_, report) = read_text(&text, &[]);
    assert!(report.has_errors());
    let shown = everything_shown(&report);
    assert!(!shown.contains("abcdefgh"), "{shown}");
}

#[test]
fn a_secret_of_an_included_file_is_an_error_there() {
    let folder = Folder::with(&[
        ("experiment.toml", "include = \"base.toml\"\n"),
        ("base.toml", "[a.b]\nx-api-key = \"abcdefgh\"\n"),
    ]);
    let (_, report) = folder.read("experiment.toml", &[]);
    let [error] = report.sorted()[..] else { panic!("one error") };
    assert!(report.sources.get(error.at.unwrap()).unwrap().name.ends_with("base.toml"));
    assert!(!everything_shown(&report).contains("abcdefgh"));
}

#[test]
fn a_value_of_a_sweep_is_looked_at_too() {
    let (spec, mut report) =
        read_text(&format!("[a.b]\nc = 1\n[sweep]\ngrid = {{ \"a.b.c\" = [\"{KEY}\", \"other\"] }}\n"), &[]);
    assert!(report.has_errors());
    let cells = spec.cells(&mut report);
    assert!(cells.iter().all(|cell| !cell.values[0].1.contains("abcdefgh")));
}

#[test]
fn under_a_name_that_leaves_no_doubt_a_short_value_is_a_secret_too() {
    for line in
        ["api-key = \"hunter2\"", "api_key = \"abc\"", "password = \"SECRET3\"", "env = { API_KEY = \"hunter2\" }"]
    {
        let (_, report) = read_text(&format!("[a.b]\n{line}\n"), &[]);
        assert!(report.has_errors(), "{line}");
        let shown = everything_shown(&report);
        assert!(!["hunter2", "abc", "SECRET3"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
}
