//! A name outside the identity can be followed when a kind looks around, and does nothing else.

#![allow(clippy::unwrap_used, reason = "tests")]

use stillhouse_engine::resolve;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Execution, Ref, Spec, Target};
use stillhouse_stage::{Context, Failure, Kind, Outcome, StageKind, View, kind};

/// A book.
#[derive(Clone, Debug, Config)]
struct BookConfig {
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
    let (said, inputs) = resolved("[book.a]\nsee = \"b\"\n[book.b]\nsee = \"a\"\n");
    assert_eq!(said, ["book.a names book.b", "book.b names book.a"]);
    assert_eq!(inputs, Some(0));
}

#[test]
fn a_name_that_leads_nowhere_is_said() {
    let (said, inputs) = resolved("[book.a]\nsee = \"c\"\n[book.b]\n");
    assert_eq!(said, ["there is no `[book.c]`"]);
    assert_eq!(inputs, None);
}
