//! What an evaluation leaves behind:
//!
//! ```text
//! scores.json    every figure with its interval, and how the intervals were made
//! items.jsonl    one line an example and metric: what the figures were formed from
//! ```
//!
//! A suite is known by the path of the field that names it, `suites.0`. The names of tables are in no key, so the same
//! artifact may be reused after they changed; it must not hold any.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use stillhouse_stage::Failure;

use crate::bootstrap::Bootstrap;
use crate::metrics::{Item, Measurement};
use crate::score::Score;

/// The figures.
pub const SCORES_FILE: &str = "scores.json";
/// What they were formed from.
pub const ITEMS_FILE: &str = "items.jsonl";

/// The figures of one evaluation: `scores.json`, and the `metrics` of its record.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// How the intervals were made.
    pub intervals: Intervals,
    /// Path of the field that names the suite (`suites.0`) → name of the figure → figure.
    pub scores: BTreeMap<String, BTreeMap<&'static str, Score>>,
}

/// See [`Bootstrap`].
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Intervals {
    /// `percentile bootstrap over examples`
    pub method: &'static str,
    /// How often the examples were drawn anew.
    pub resamples: u32,
    /// What the intervals claim.
    pub confidence: f64,
    /// The seed of the draws.
    pub seed: u64,
}

impl From<Bootstrap> for Intervals {
    fn from(Bootstrap { resamples, confidence, seed }: Bootstrap) -> Self {
        Self { method: "percentile bootstrap over examples", resamples, confidence, seed }
    }
}

/// A line of `items.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    suite: &'a str,
    metric: &'a str,
    #[serde(flatten)]
    item: &'a Item,
}

/// Writes the artifact, measurement by measurement.
pub struct ArtifactWriter {
    folder: std::path::PathBuf,
    items: BufWriter<fs_err::File>,
    scores: Scores,
}

impl ArtifactWriter {
    /// Starts the artifact in a folder, which must exist.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create(folder: &Path, bootstrap: Bootstrap) -> Result<Self, Failure> {
        let items = BufWriter::new(fs_err::File::create(folder.join(ITEMS_FILE))?);
        let scores = Scores { intervals: bootstrap.into(), scores: BTreeMap::new() };
        Ok(Self { folder: folder.to_owned(), items, scores })
    }

    /// Adds what a metric of a suite found; `suite` is the path of the field that names the suite.
    ///
    /// # Errors
    /// What the disk says.
    pub fn add(&mut self, suite: &str, metric: &str, found: Measurement) -> Result<(), Failure> {
        for item in &found.items {
            let line = serde_json::to_string(&Line { suite, metric, item });
            let line = line.map_err(|error| Failure::internal(format!("an item cannot be written: {error}")))?;
            writeln!(self.items, "{line}")?;
        }
        self.scores.scores.entry(suite.to_owned()).or_default().extend(found.scores);
        Ok(())
    }

    /// Ends the artifact; gives the figures for the record.
    ///
    /// # Errors
    /// What the disk says.
    pub fn finish(mut self) -> Result<Scores, Failure> {
        self.items.flush()?;
        let text = serde_json::to_string_pretty(&self.scores);
        let text = text.map_err(|error| Failure::internal(format!("the scores cannot be written: {error}")))?;
        fs_err::write(self.folder.join(SCORES_FILE), text + "\n")?;
        Ok(self.scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Share;
    use crate::score::{Better, Figure};

    #[test]
    fn the_files_hold_every_figure_and_every_item() {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = Bootstrap { seed: 17, ..Bootstrap::default() };
        let shares = [1.0, 0.0].map(|numerator| Share { numerator, denominator: 1.0 });
        let score = Figure::ratio("fraction", Better::Higher).score(&bootstrap.ratio(&shares).unwrap()).unwrap();
        let item = |example, matches| Item {
            example,
            values: BTreeMap::from([("matches", matches)]),
            texts: BTreeMap::from([("answer", "a \"b\"\n".to_owned())]),
        };
        let found =
            Measurement { scores: BTreeMap::from([("exact-match", score)]), items: vec![item(0, 1.0), item(4, 0.0)] };
        let mut writer = ArtifactWriter::create(folder.path(), bootstrap).unwrap();
        writer.add("suites.0", "exact-match", found).unwrap();
        writer.finish().unwrap();
        let items = fs_err::read_to_string(folder.path().join(ITEMS_FILE)).unwrap();
        assert_eq!(
            items.lines().nth(1).unwrap(),
            r#"{"suite":"suites.0","metric":"exact-match","example":4,"values":{"matches":0.0},"texts":{"answer":"a \"b\"\n"}}"#
        );
        let scores: serde_json::Value =
            serde_json::from_str(&fs_err::read_to_string(folder.path().join(SCORES_FILE)).unwrap()).unwrap();
        assert_eq!(scores["intervals"]["seed"], 17);
        assert_eq!(scores["scores"]["suites.0"]["exact-match"]["value"], 0.5);
    }
}
