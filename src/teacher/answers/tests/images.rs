//! Images in prompts for teachers that see none: said before anything is asked.

use serde_json::{Value, json};
use stillhouse_data::prompts::{Prompts, PromptsConfig};
use stillhouse_spec::{Config as _, Diagnostics, Node, Origin};
use stillhouse_stage::{AnyConfig, Class, Kind as _, Surroundings, View};

use super::bench::{Bench, NoModels};
use super::server::Server;
use crate::answers::{Answers, AnswersConfig};
use crate::definition::{Teacher, TeacherConfig};

static ANSWERS: Answers = Answers { loader: &NoModels };

struct Around {
    teacher: TeacherConfig,
    prompts: PromptsConfig,
}

impl Surroundings for Around {
    fn follow(&self, _: &str, path: &str) -> Option<View<'_>> {
        match path {
            "teacher" => Some(View::new("teacher.t", &Teacher, &self.teacher as &dyn AnyConfig, Origin::NOWHERE, self)),
            "prompts" => Some(View::new("prompts.p", &Prompts, &self.prompts as &dyn AnyConfig, Origin::NOWHERE, self)),
            _ => None,
        }
    }
}

/// What `check` says of answers to these prompts by this teacher.
fn said(prompts: &Value, teacher: &Value) -> Vec<String> {
    let mut report = Diagnostics::default();
    let around = Around {
        teacher: TeacherConfig::decode(&Node::from_json(teacher), &mut report).unwrap(),
        prompts: PromptsConfig::decode(&Node::from_json(prompts), &mut report).unwrap(),
    };
    let answers = json!({ "prompts": "p", "teacher": "t" });
    let config = AnswersConfig::decode(&Node::from_json(&answers), &mut report).unwrap();
    ANSWERS.check(&View::new("answers.a", &ANSWERS, &config, Origin::NOWHERE, &around), &mut report);
    report.sorted().iter().map(|said| said.message.clone()).collect()
}

#[test]
fn a_source_whose_first_rows_show_an_image_is_an_error_of_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talks.jsonl");
    let text = r#"{ "talk": [{ "role": "user", "content": "hi" }] }"#;
    let image =
        r#"{ "talk": [{ "from": "human", "value": [{ "type": "image_url", "image_url": "https://x/a.png" }] }] }"#;
    fs_err::write(&path, format!("{text}\n\nnot json\n{image}\n")).unwrap();
    let prompts = json!({ "jsonl": { "path": path, "messages": "talk" } });
    let chat = json!({ "provider": "openai", "base-url": "http://127.0.0.1:1/v1", "model": "m" });
    let mut completions = chat.clone();
    completions["api"] = json!("completions");
    let place = format!("prompts.p shows an image ({}:4), and", path.display());
    assert_eq!(said(&prompts, &chat), [""; 0]);
    assert_eq!(said(&prompts, &completions), [format!("{place} `api = \"completions\"` sends text only")]);
    let local = json!({ "provider": "local", "model": "m" });
    assert_eq!(said(&prompts, &local), [format!("{place} a local teacher reads text only")]);
    // Rows that are not used are no matter, and of a random sample nobody knows.
    for settings in [json!({ "limit": 1 }), json!({ "limit": 1, "shuffle": true })] {
        let mut some = prompts.clone();
        some.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        assert_eq!(said(&some, &local), [""; 0]);
    }
    // A file that is not there is reported by others.
    let gone = json!({ "jsonl": { "path": "nowhere.jsonl", "messages": "talk" } });
    assert_eq!(said(&gone, &local), [""; 0]);
    assert_eq!(said(&json!({ "list": ["a"] }), &local), [""; 0]);
    // Formats without lists hold a conversation as JSON.
    let csv = folder.path().join("talks.csv");
    fs_err::write(&csv, "talk\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": [{\"\"type\"\": \"\"image\"\", \"\"url\"\": \"\"x\"\"}]}]\"\n").unwrap();
    let found = said(&json!({ "csv": { "path": csv, "messages": "talk" } }), &local);
    assert_eq!(found, [format!("prompts.p shows an image ({}:2), and a local teacher reads text only", csv.display())]);
}

#[test]
fn prompts_that_turn_out_to_show_an_image_stop_the_stage_before_anything_is_asked() {
    let (server, bench) = (Server::echo(), Bench::new());
    let mut teacher = server.definition(json!({}));
    teacher["api"] = json!("completions");
    let prompts = ["the text \"image_url\"", "two", "data:image/png;base64,AAAA"].map(str::to_owned);
    let failure = bench.run(&prompts, teacher, json!({})).err().unwrap();
    assert_eq!((failure.class, server.teacher.asked()), (Class::Input, 0));
    assert!(failure.message.starts_with("prompts.p, prompts.jsonl:3 (prompt "), "{failure}");
    assert!(failure.message.ends_with(" shows an image, and `api = \"completions\"` sends text only"), "{failure}");
    assert!(failure.hint.unwrap().contains("`anthropic`"));
}
