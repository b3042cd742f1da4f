//! A name outside the identity can be followed when a kind looks around, and does nothing else.

#![allow(clippy::unwrap_used, reason = "tests")]

use stillhouse_engine::{plan, resolve};
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Execution, Ref, Spec, Target};
use stillhouse_stage::{Ahead, Context, Failure, Forecast, Kind, Outcome, StageKind, View, kind};
use stillhouse_store::{Record, Store};

/// A book.
#[derive(Clone, Debug, Config)]
struct BookConfig {
    /// How many pages it has.
    pages: u32,
    /// What else there is to read.
    see: Execution<Option<Ref<Books>>>,
}

#[derive(Clone, Debug)]
struct Books;

impl Target for Books {
    const KINDS: &'static [&'static str] = &["book"];
}

struct Book;

impl Kind for Book {
    kind!("book", BookConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        if let Some(other) = view.follow("see") {
            report.push(Diagnostic::warning(view.at, format!("{} names {}", view.label, other.label)));
        }
    }
}

impl StageKind for Book {
    fn revision(&self) -> u32 {
        1
    }

    /// As many requests as the table is told of what it mentions: that it is there, and its result.
    fn forecast(&self, ahead: &Ahead<'_>) -> Option<Forecast> {
        let requests = u64::from(ahead.view.follow("see").is_some()) + ahead.mentioned.len() as u64;
        Some(Forecast { requests, ..Forecast::default() })
    }

    fn run(&self, _context: &Context) -> Result<Outcome, Failure> {
        Ok(Outcome::default())
    }
}

/// What is said, and how many inputs the stages have together.
fn resolved(text: &str) -> (Vec<String>, Option<usize>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("experiment.toml");
    fs_err::write(&file, text).unwrap();
    let mut report = Diagnostics::default();
    let spec = Spec::read(&file, &[], &mut report);
    let experiment = resolve(&spec, &[&Book], &mut report);
    let said = report.sorted().iter().map(|said| said.message.clone()).collect();
    let inputs =
        experiment.map(|experiment| experiment.order.iter().map(|id| experiment.graph[*id].inputs.len()).sum());
    (said, inputs)
}

#[test]
fn it_is_followed_and_makes_no_graph() {
    // Books that name each other would otherwise wait for each other.
    let (said, inputs) = resolved("[book.a]\npages = 1\nsee = \"b\"\n[book.b]\npages = 2\nsee = \"a\"\n");
    assert_eq!(said, ["book.a names book.b", "book.b names book.a"]);
    assert_eq!(inputs, Some(0));
}

#[test]
fn a_name_that_leads_nowhere_is_said() {
    let (said, inputs) = resolved("[book.a]\npages = 1\nsee = \"c\"\n[book.b]\npages = 2\n");
    assert_eq!(said, ["there is no `[book.c]`"]);
    assert_eq!(inputs, None);
}

#[test]
fn a_forecast_knows_what_is_mentioned_and_its_result_once_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("experiment.toml");
    fs_err::write(&file, "[book.a]\npages = 1\nsee = \"b\"\n[book.b]\npages = 2\n").unwrap();
    let mut report = Diagnostics::default();
    let experiment = resolve(&Spec::read(&file, &[], &mut report), &[&Book], &mut report).unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    let mut planned = || plan(&experiment, &store, &mut report).unwrap();
    let of = |plan: &stillhouse_engine::Plan, name: &str| {
        let stage = plan.stages.iter().find(|stage| stage.name == name).unwrap();
        (stage.forecast.map(|forecast| forecast.requests), stage.recipe.clone().unwrap())
    };
    let before = planned();
    assert_eq!((of(&before, "book.a").0, of(&before, "book.b").0), (Some(1), Some(0)));
    let made = folder.path().join("made");
    fs_err::create_dir(&made).unwrap();
    fs_err::write(made.join("text"), "words").unwrap();
    let recipe = of(&before, "book.b").1;
    let record = Record {
        format: stillhouse_store::RECORD_FORMAT,
        key: recipe.key(),
        kind: recipe.kind.clone(),
        revision: recipe.revision,
        stage: "book.b".into(),
        recipe: recipe.text(),
        output: store.put_tree(&made).unwrap().0,
        metrics: serde_json::Value::Null,
        provenance: serde_json::Value::Null,
        created: String::new(),
        seconds: 0.0,
        run: String::new(),
    };
    store.publish(record).unwrap();
    assert_eq!(of(&planned(), "book.a").0, Some(2));
}
