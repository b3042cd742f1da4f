//! Every fault that a file can have: one fixture a fault, its name the fault, the whole message as a snapshot.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not inside a test function")]

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
        write_models(&place);
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

/// A model, and some that can't be read.
fn write_models(place: &Place) {
    let whole = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/quickstart-teacher");
    let config = std::fs::read_to_string(whole.join("config.json")).unwrap();
    let tokenizer = std::fs::read_to_string(whole.join("tokenizer.json")).unwrap();
    for (name, config) in [
        ("tiny", config.clone()),
        ("bare", config.clone()),
        ("mamba", config.replace("LlamaForCausalLM", "MambaForCausalLM")),
        ("broken", config[..config.len() / 2].to_owned()),
        ("capped", config.replacen('{', "{ \"final_logit_softcapping\": 30.0,", 1)),
    ] {
        place.write(&format!("models/{name}/config.json"), &config);
        place.write(&format!("models/{name}/tokenizer.json"), &tokenizer);
    }
    std::fs::copy(whole.join("model.safetensors"), place.join("models/tiny/model.safetensors")).unwrap();
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
fn windows_line_ends_and_a_byte_order_mark_mean_nothing() {
    let text = "[command.a]\nrun = \"echo 1 > {out}/x\"\n[command.b]\nrun = \"\"\"\ncat {inputs.a}/x\n\"\"\"\ninputs = { a = \"a\" }\n";
    let place = Place::with_experiment(text);
    assert_eq!(place.built(), ["command.a", "command.b"]);
    place.write("experiment.toml", &format!("\u{feff}{}", text.replace('\n', "\r\n")));
    assert_eq!(place.built(), Vec::<String>::new());
    place.write("experiment.toml", &text.replace("\"a\"", "\"aa\"").replace('\n', "\r\n"));
    let ran = place.run(&["check", "experiment.toml"]);
    assert!(ran.stderr.contains("experiment.toml:7:16"), "{}", ran.stderr);
}

#[test]
fn a_set_argument_is_at_fault_under_its_own_characters() {
    let place = Place::with_experiment("[command.a]\nrun = \"true\"\n");
    for (set, words) in [
        ("command.a=", "`command.a` must be a table"),
        ("=1", "not a path of keys"),
        ("command.a", "expected `path=value`"),
        ("command", "expected `path=value`"),
        ("command=1", "the path is too short"),
        ("command..a=1", "not a path of keys"),
        ("comand.a.run=x", "did you mean `command`?"),
        ("command.a.rum=x", "did you mean `run`?"),
        ("command.a.run.x=1", "`command.a.run` is not a table"),
        ("command.a.timeout=nan", "not a finite number"),
        ("command.a.env.TOKEN=sk-abcdefghijklmnop1234", "a secret must not stand"),
    ] {
        let ran = place.run(&["check", "experiment.toml", "--set", set]);
        assert_eq!(ran.code, Some(1), "{set}: {}", ran.stderr);
        assert!(ran.stderr.contains("--> --set #1:1:") && ran.stderr.contains(words), "{set}: {}", ran.stderr);
        assert!(!ran.stderr.contains("sk-abc"), "{}", ran.stderr);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_clear_line() {
    let place = Place::new();
    place.write("empty.toml", "\n");
    std::fs::File::create(place.join("sparse.toml")).unwrap().set_len(1 << 40).unwrap();
    place.write("long-line.toml", &format!("[command.a]\nrun = \"{}\"\n", "x".repeat(17 << 20)));
    std::fs::write(place.join("latin.toml"), b"[experiment]\nname = \"caf\xe9\"\n").unwrap();
    for (file, words) in [
        ("missing.toml", "there is no such file"),
        ("empty.toml", "the file is empty"),
        ("latin.toml", "line 2"),
        (".", "it is a folder"),
        ("sparse.toml", "larger than the 16 MiB"),
        ("long-line.toml", "larger than the 16 MiB"),
        ("/dev/zero", "larger than the 16 MiB"),
    ] {
        let ran = place.run(&["check", file]);
        assert_eq!(ran.code, Some(1), "{file}");
        assert!(ran.stderr.contains(words), "{file}: {}", ran.stderr);
    }
}

#[test]
fn every_command_says_its_errors_in_one_form_of_json() {
    let place = Place::with_experiment("[command.a]\nrum = \"true\"\n");
    place.write("sound.toml", "[command.a]\nrun = \"true\"\n");
    let (file, arguments) = ((1, "input"), (64, "input"));
    for (line, (code, class)) in [
        ("plan experiment.toml", file),
        ("run experiment.toml", file),
        ("why experiment.toml command.a", file),
        ("plan missing.toml", file),
        ("why sound.toml command.b", arguments),
        ("run sound.toml --only command.b", arguments),
        ("run sound.toml --device cuda:99", (4, "environment")),
        ("show command.b", arguments),
        ("show command.b --rows 3", arguments),
        ("log command.b", arguments),
        ("kinds nothing", arguments),
        ("generate nothing hello", arguments),
        ("cache unpin nothing", arguments),
        ("show 261122-1 --rows 3", arguments),
        ("cache replies import missing.jsonl", (3, "input")),
        ("cache stats --cache elsewhere", (4, "environment")),
        ("init sound.toml", arguments),
        ("plna sound.toml", arguments),
        ("plan sound.toml --al", arguments),
        ("plan", arguments),
    ] {
        let parts: Vec<&str> = line.split(' ').chain(["--format", "json"]).collect();
        let ran = place.run(&parts);
        let last = ran.stderr.lines().last().unwrap_or_default();
        let said: serde_json::Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{line}: {}", ran.stderr));
        assert_eq!((ran.code, said["class"].as_str()), (Some(code), Some(class)), "{line}: {said}");
        assert_eq!(said["exit-code"], code, "{line}");
        assert!(said["error"].as_str().is_some_and(|error| !error.is_empty()), "{line}: {said}");
        let keys: Vec<&String> = said.as_object().unwrap().keys().collect();
        let known = ["class", "diagnostics", "error", "exit-code", "hint"];
        assert!(keys.iter().all(|key| known.contains(&key.as_str())), "{line}: {keys:?}");
        assert_eq!(said["diagnostics"].is_array(), code == 1, "{line}: {said}");
        assert!(ran.stdout.is_empty(), "{line}: {}", ran.stdout);
    }
}
