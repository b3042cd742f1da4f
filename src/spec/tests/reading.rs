//! Text to tree: files that cannot be read, `include`, `--set`.

#![allow(dead_code, clippy::unwrap_used, reason = "tests; not each needs all of the support")]

mod support;

use serde_json::json;
use stillhouse_spec::read::key_path;
use support::{Folder, json, places, read, read_text};

mod files {
    use super::*;

    #[test]
    fn an_empty_file_is_an_error_at_its_begin() {
        for text in ["", " \n\t\n"] {
            let (_, report) = read_text(text, &[]);
            assert_eq!(places(&report), ["1:1 the file is empty"]);
        }
    }

    #[test]
    fn a_file_of_comments_is_read_as_an_experiment_of_nothing() {
        let (spec, report) = read_text("# nothing yet\n", &[]);
        assert_eq!(places(&report), Vec::<String>::new());
        assert_eq!((spec.header.name.as_str(), spec.header.seed), ("experiment", 0));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_named_by_line() {
        let folder = Folder::with(&[]);
        folder.write("latin.toml", b"[experiment]\nname = \"caf\xe9\"\n");
        let (_, report) = folder.read("latin.toml", &[]);
        assert_eq!(report.error_count(), 1);
        let [error] = report.sorted()[..] else { panic!("one error") };
        assert!(error.message.ends_with("it is not UTF-8 (line 2, byte 24)"), "{}", error.message);
    }

    #[test]
    fn a_file_of_16_mib_is_read_and_a_larger_one_is_refused() {
        let folder = Folder::with(&[]);
        let mut text = b"[experiment]\nseed = 3\n#".to_vec();
        text.resize(16 << 20, b'-');
        folder.write("largest.toml", &text);
        let (spec, report) = folder.read("largest.toml", &[]);
        assert_eq!((spec.header.seed, places(&report)), (3, vec![]));

        text.push(b'-');
        folder.write("larger.toml", &text);
        let (_, report) = folder.read("larger.toml", &[]);
        let [error] = report.sorted()[..] else { panic!("one error") };
        assert!(error.message.contains("16 MiB"), "{}", error.message);
        assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("files of their own")));
    }

    #[test]
    fn a_missing_file_and_a_folder_are_said_to_be_that() {
        let folder = Folder::with(&[("below/x.toml", "a = 1")]);
        for (name, words) in [("missing.toml", "there is no such file"), ("below", "it is a folder")] {
            let (_, report) = folder.read(name, &[]);
            assert!(places(&report)[0].ends_with(words), "{:?}", places(&report));
        }
    }

    #[test]
    fn every_syntax_error_is_reported_and_the_rest_is_read() {
        let (spec, report) = read_text("[experiment]\nseed = \nname = \"n\"\n[a.b]\nc = = 1\n[d.e]\nf = 2\n", &[]);
        let lines: Vec<_> = places(&report).iter().map(|place| place.split(':').next().unwrap().to_owned()).collect();
        assert!(lines.contains(&"2".to_owned()) && lines.contains(&"5".to_owned()), "{:?}", places(&report));
        assert_eq!(json(&spec.tree, "d.e.f"), json!(2));
    }

    #[test]
    fn numbers_of_every_notation_are_read() {
        let (spec, report) =
            read_text("[a.b]\nc = [0xff, 0b11, 1_000, -4, +5, 1e3, 1_0.5, -0.0]\nd = 9223372036854775808\n", &[]);
        assert_eq!(json(&spec.tree, "a.b.c"), json!([255, 3, 1000, -4, 5, 1000.0, 10.5, -0.0]));
        assert_eq!(places(&report), ["3:5 the integer does not fit into 64 bits"]);
    }
}

mod header {
    use super::*;

    #[test]
    fn the_name_is_the_files_unless_it_has_one() {
        let (spec, _) = read_text("[experiment]\nseed = 7\n", &[]);
        assert_eq!((spec.header.name.as_str(), spec.header.seed), ("experiment", 7));
        let (spec, _) = read_text("[experiment]\nname = \"other\"\n", &[]);
        assert_eq!((spec.header.name.as_str(), spec.header.seed), ("other", 0));
    }

    #[test]
    fn set_gives_a_seed_with_and_without_a_table() {
        for text in ["[a.b]\nc = 1\n", "[experiment]\nname = \"n\"\n", "experiment = { seed = 2 }\n"] {
            let (spec, report) = read_text(text, &["experiment.seed=5"]);
            assert_eq!((spec.header.seed, places(&report)), (5, vec![]), "{text}");
        }
    }

    #[test]
    fn a_key_that_the_table_does_not_have_is_an_error_without_a_table_too() {
        let (_, report) = read_text("[a.b]\nc = 1\n", &["experiment.sead=5"]);
        assert_eq!(places(&report), ["1:1 unknown key `sead`"]);
    }
}

mod include {
    use super::*;

    #[test]
    fn later_files_and_the_including_one_override_member_by_member() {
        let folder = Folder::with(&[
            ("experiment.toml", "include = [\"one.toml\", \"two.toml\"]\n[a.x]\nlast = \"here\"\n"),
            ("one.toml", "[a.x]\nfirst = 1\nboth = 1\nlast = 1\n[a.y]\nz = 1\n"),
            ("two.toml", "[a.x]\nboth = 2\nlast = 2\n"),
        ]);
        let (spec, report) = folder.read("experiment.toml", &[]);
        assert_eq!(places(&report), Vec::<String>::new());
        assert_eq!(
            spec.tree.to_json(),
            json!({ "a": { "x": { "first": 1, "both": 2, "last": "here" }, "y": { "z": 1 } } })
        );
    }

    #[test]
    fn an_inline_table_is_replaced_whole() {
        let folder = Folder::with(&[
            (
                "experiment.toml",
                "include = \"base.toml\"\n[a.x]\ninit = { deep = { layers = 2 } }\n[a.x.open]\nnew = 2\n",
            ),
            ("base.toml", "[a.x]\ninit = { wide = { layers = 8 } }\n[a.x.open]\nold = 1\n"),
        ]);
        let (spec, _) = folder.read("experiment.toml", &[]);
        assert_eq!(json(&spec.tree, "a.x.init"), json!({ "deep": { "layers": 2 } }));
        assert_eq!(json(&spec.tree, "a.x.open"), json!({ "old": 1, "new": 2 }));
    }

    #[test]
    fn a_cycle_is_named_with_the_way_round() {
        let folder = Folder::with(&[
            ("experiment.toml", "include = \"below/one.toml\"\n"),
            ("below/one.toml", "[a.x]\ny = 1\n"),
            ("below/two.toml", "include = \"../experiment.toml\"\n"),
        ]);
        folder.write("below/one.toml", b"include = \"two.toml\"\n[a.x]\ny = 1\n");
        let (spec, report) = folder.read("experiment.toml", &[]);
        assert_eq!(places(&report), ["1:11 a file includes itself"]);
        let hint = report.sorted()[0].hint.clone().unwrap();
        let named: Vec<_> = hint.split(" → ").map(|file| file.rsplit('/').next().unwrap()).collect();
        assert_eq!(named, ["experiment.toml", "one.toml", "two.toml", "experiment.toml"]);
        assert_eq!(json(&spec.tree, "a.x.y"), json!(1), "the rest is read");
    }

    #[test]
    fn a_path_is_relative_to_the_file_that_names_it() {
        let folder = Folder::with(&[
            ("experiment.toml", "include = \"below/one.toml\"\n"),
            ("below/one.toml", "include = \"deeper/two.toml\"\n"),
            ("below/deeper/two.toml", "[a.x]\ndata = \"rows.jsonl\"\n"),
        ]);
        let (spec, report) = folder.read("experiment.toml", &[]);
        assert_eq!(places(&report), Vec::<String>::new());
        let node = spec.tree.at_path(&["a", "x", "data"].map(str::to_owned)).unwrap();
        assert_eq!(report.sources.resolve(node.at, "rows.jsonl"), folder.path("below/deeper/rows.jsonl"));
    }

    #[test]
    fn the_same_file_twice_is_no_cycle() {
        let folder = Folder::with(&[
            ("experiment.toml", "include = [\"one.toml\", \"two.toml\"]\n"),
            ("one.toml", "include = \"shared.toml\"\n"),
            ("two.toml", "include = \"shared.toml\"\n"),
            ("shared.toml", "[a.x]\ny = 1\n"),
        ]);
        let (spec, report) = folder.read("experiment.toml", &[]);
        assert_eq!((json(&spec.tree, "a.x.y"), places(&report)), (json!(1), vec![]));
    }

    #[test]
    fn what_cannot_be_included_is_an_error_where_it_is_named() {
        let folder = Folder::with(&[("experiment.toml", "include = [\"missing.toml\", 3]\n")]);
        let (_, report) = folder.read("experiment.toml", &[]);
        let places = places(&report);
        assert!(
            places[0].starts_with("1:12 cannot read") && places[0].ends_with("there is no such file"),
            "{places:?}"
        );
        assert_eq!(places[1], "1:28 expected a path or a list of paths, found an integer");
    }

    #[test]
    fn an_error_in_an_included_file_is_shown_there() {
        let folder = Folder::with(&[
            ("experiment.toml", "include = \"base.toml\"\n\n\n\n"),
            ("base.toml", "[experiment]\nname = \"n\"\nseed = \"x\"\n"),
        ]);
        let (_, report) = folder.read("experiment.toml", &[]);
        assert_eq!(places(&report), ["3:8 expected an integer, found a string"]);
        let at = report.sorted()[0].at.unwrap();
        assert!(report.sources.get(at).unwrap().name.ends_with("base.toml"));
    }
}

mod set {
    use super::*;

    const TEXT: &str =
        "[student.small]\nsteps = 1\n[student.small.optimizer.adamw]\nlr = 0.1\n[student.\"odd name\"]\nsteps = 1\n";

    #[test]
    fn values_are_toml_and_what_is_not_is_a_string() {
        for (written, value) in [
            ("200", json!(200)),
            (" 2.5 ", json!(2.5)),
            ("true", json!(true)),
            ("\"quoted\"", json!("quoted")),
            ("bare words", json!("bare words")),
            ("a/path.toml", json!("a/path.toml")),
            ("", json!("")),
            ("a=b", json!("a=b")),
            ("[1, \"two\"]", json!([1, "two"])),
            (" { adamw = { lr = 1e-3 } }", json!({ "adamw": { "lr": 1e-3 } })),
        ] {
            let (spec, report) = read_text(TEXT, &[&format!("student.small.new={written}")]);
            assert_eq!((json(&spec.tree, "student.small.new"), places(&report)), (value, vec![]), "{written}");
        }
    }

    #[test]
    fn parts_of_a_path_may_be_quoted() {
        let (spec, report) = read_text(TEXT, &["student.\"odd name\".steps=3", "'student' . small.steps = 4"]);
        assert_eq!(places(&report), Vec::<String>::new());
        assert_eq!(
            (json(&spec.tree, "student.odd name.steps"), json(&spec.tree, "student.small.steps")),
            (json!(3), json!(4))
        );
        assert_eq!(key_path("a.\"b.c\".d"), Some(vec!["a".into(), "b.c".into(), "d".into()]));
    }

    #[test]
    fn the_last_argument_wins_and_tables_on_the_way_are_made() {
        let set = ["student.small.steps=2", "student.small.steps=3", "student.small.schedule.wsd.warmup=4"];
        let (spec, report) = read_text(TEXT, &set);
        assert_eq!(places(&report), Vec::<String>::new());
        assert_eq!(json(&spec.tree, "student.small.steps"), json!(3));
        assert_eq!(json(&spec.tree, "student.small.schedule"), json!({ "wsd": { "warmup": 4 } }));
    }

    #[test]
    fn a_path_that_names_nothing_is_an_error_with_the_nearest_name() {
        for (argument, place, hint) in [
            (
                "student.smal.steps=1",
                "1:1 the path names nothing: there is no `[student.smal]`",
                "did you mean `small`?",
            ),
            ("studnet.small.steps=1", "1:1 the path names nothing: there is no `[studnet]`", "did you mean `student`?"),
            ("student.small.steps.x=1", "1:1 the path names nothing: `student.small.steps` is not a table", ""),
            ("student=1", "1:1 the path is too short", "name a key"),
            ("experiment=1", "1:1 the path is too short", "name a key"),
            ("steps", "1:1 expected `path=value`", "for example"),
            ("a b=1", "1:1 not a path of keys", "for example"),
            ("=1", "1:1 not a path of keys", "for example"),
            ("a]\n[b=1", "1:1 not a path of keys", "for example"),
        ] {
            let (_, report) = read_text(TEXT, &[argument]);
            let said = places(&report);
            assert!(said.len() == 1 && said[0].starts_with(place), "{argument}: {said:?}");
            assert!(report.sorted()[0].hint.clone().unwrap_or_default().contains(hint), "{argument}");
        }
    }

    #[test]
    fn an_error_in_a_value_stands_under_the_value() {
        let (_, report) = read_text(TEXT, &["experiment.seed=true"]);
        assert_eq!(places(&report), ["1:17 expected an integer, found a boolean"]);
        let (_, report) = read_text(TEXT, &["student.small.steps= 9223372036854775808"]);
        assert_eq!(places(&report), ["1:22 the integer does not fit into 64 bits"]);
        let at = report.sorted()[0].at.unwrap();
        assert_eq!(report.sources.get(at).unwrap().name, "--set #1");
    }

    #[test]
    fn an_argument_on_a_file_that_is_not_there_does_not_panic() {
        let (_, report) = read(std::path::Path::new("/no/such/file.toml"), &["a.b.c=1", ""]);
        assert_eq!(report.error_count(), 3);
    }
}

#[test]
fn a_number_with_a_letter_in_it_is_told_and_what_is_no_number_is_not_repeated() {
    let hint = |value: &str| {
        let (_, report) = read_text(&format!("[a.b]\nmax-tokens = {value}\n"), &[]);
        report.sorted()[0].hint.clone()
    };
    assert_eq!(hint("4OO").as_deref(), Some("a number has digits alone: is `4OO` meant to be 400?"));
    assert_eq!(hint("1.l").as_deref(), Some("a number has digits alone: is `1.l` meant to be 1.1?"));
    for other in ["four", "4abc", "4OOOOOOOOOOOOOOOOOOO"] {
        assert_eq!(hint(other), None, "{other}");
    }
}
