//! A kind that looks around finds where each of its keys was written, so that what is wrong is said there.

#![allow(clippy::unwrap_used, reason = "tests")]

use stillhouse_engine::resolve;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Spec};
use stillhouse_stage::{Context, Failure, Kind, Outcome, StageKind, View, kind};

/// Nested.
#[derive(Clone, Debug, Config)]
struct InnerConfig {
    /// A key.
    depth: u32,
    /// A list.
    list: Vec<u32>,
}

/// A table with a table in it.
#[derive(Clone, Debug, Config)]
struct OuterConfig {
    /// The table in it.
    inner: InnerConfig,
}

struct Outer;

impl Kind for Outer {
    kind!("outer", OuterConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        for path in ["inner.depth", "inner.list.1", "inner.list.7", "inner.nowhere.at-all", "nowhere"] {
            report.push(Diagnostic::error(view.place(path), path));
        }
    }
}

impl StageKind for Outer {
    fn revision(&self) -> u32 {
        1
    }

    fn run(&self, _context: &Context) -> Result<Outcome, Failure> {
        Ok(Outcome::default())
    }
}

#[test]
fn the_key_itself_or_the_nearest_table_around_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("experiment.toml");
    let text = "[outer.o]\ninner = { depth = 77, list = [5, 6] }\n";
    fs_err::write(&file, text).unwrap();
    let mut report = Diagnostics::default();
    let spec = Spec::read(&file, &[], &mut report);
    resolve(&spec, &[&Outer], &mut report);
    let mut places: Vec<(String, &str)> =
        report.sorted().iter().map(|said| (said.message.clone(), said.at.map_or("", |at| &text[at.range()]))).collect();
    places.sort();
    let of = |path: &str, at| (path.to_owned(), at);
    assert_eq!(
        places,
        [
            of("inner.depth", "77"),
            of("inner.list.1", "6"),
            of("inner.list.7", "[5, 6]"),
            of("inner.nowhere.at-all", "{ depth = 77, list = [5, 6] }"),
            of("nowhere", "o"),
        ]
    );
}
