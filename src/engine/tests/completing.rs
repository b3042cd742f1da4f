//! A kind may fill keys of its own tables from the other tables of the file.

#![allow(clippy::unwrap_used, reason = "tests")]

use stillhouse_engine::resolve;
use stillhouse_spec::{Config, Diagnostics, Node, Ref, Spec, Target, Value};
use stillhouse_stage::{Context, Failure, Kind, Outcome, StageKind, kind};

/// A test.
#[derive(Clone, Debug, Config)]
struct ExamConfig {}

struct Exam;

impl Kind for Exam {
    kind!("exam", ExamConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }
}

impl StageKind for Exam {
    fn revision(&self) -> u32 {
        1
    }

    fn run(&self, _context: &Context) -> Result<Outcome, Failure> {
        Ok(Outcome::default())
    }
}

#[derive(Clone, Debug)]
struct Exams;

impl Target for Exams {
    const KINDS: &'static [&'static str] = &["exam"];
}

/// What is learned, but for what is asked in tests.
#[derive(Clone, Debug, Config)]
struct LessonConfig {
    /// The tests.
    without: Option<Vec<Ref<Exams>>>,
}

struct Lesson;

impl Kind for Lesson {
    kind!("lesson", LessonConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn complete(&self, _name: &str, body: &mut Node, tree: &Node) {
        let exams = tree.as_table().and_then(|root| root.get("exam")).and_then(Node::as_table);
        let names = exams.into_iter().flat_map(|exams| exams.entries.keys());
        let at = body.at;
        let names = names.map(|name| Node { value: Value::String(name.clone()), at }).collect();
        if let Value::Table(table) = &mut body.value
            && table.get("without").is_none()
        {
            table.set("without", at, Node { value: Value::Array(names), at });
        }
    }
}

impl StageKind for Lesson {
    fn revision(&self) -> u32 {
        1
    }

    fn run(&self, _context: &Context) -> Result<Outcome, Failure> {
        Ok(Outcome::default())
    }
}

static KINDS: &[&dyn Kind] = &[&Exam, &Lesson];

/// The inputs of the lesson: field → stage.
fn inputs(text: &str) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("experiment.toml");
    fs_err::write(&file, text).unwrap();
    let mut report = Diagnostics::default();
    let spec = Spec::read(&file, &[], &mut report);
    let experiment = resolve(&spec, KINDS, &mut report).unwrap();
    let lesson = experiment.order.iter().find(|id| experiment.graph[**id].name.starts_with("lesson")).unwrap();
    let inputs = experiment.graph[*lesson].inputs.iter();
    inputs.map(|(path, (from, _))| (path.clone(), experiment.graph[*from].name.clone())).collect()
}

#[test]
fn what_a_kind_fills_in_is_an_input_like_any_other() {
    let found = inputs("[lesson.l]\n[exam.a]\n[exam.b]\n");
    let expected = [("without.0", "exam.a"), ("without.1", "exam.b")];
    assert_eq!(found, expected.map(|(path, stage)| (path.to_owned(), stage.to_owned())));
}

#[test]
fn what_the_file_says_itself_stands() {
    assert_eq!(
        inputs("[lesson.l]\nwithout = [\"b\"]\n[exam.a]\n[exam.b]\n"),
        [("without.0".to_owned(), "exam.b".to_owned())]
    );
}
