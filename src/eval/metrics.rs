//! The metrics: one file each, one line each in [`METRICS`].

mod agreement;
mod exact_match;
mod perplexity;

use std::collections::BTreeMap;

use serde::Serialize;
use stillhouse_spec::registry::Component;
use stillhouse_spec::{Diagnostics, Entry, Ref, Registry, Target, entry};
use stillhouse_stage::{Failure, View};

use crate::bench::Bench;
use crate::score::Score;

pub use agreement::Agreement;
pub use exact_match::{Against, ExactMatch};
pub use perplexity::Perplexity;

/// Every metric.
pub static METRICS: &[Entry<dyn Metric>] = &[
    entry!("agreement", Agreement as dyn Metric),
    entry!("exact-match", ExactMatch as dyn Metric),
    entry!("perplexity", Perplexity as dyn Metric),
];

/// Measures a model. The implementation is the config struct of the metric's table.
pub trait Metric: Component + Send + Sync {
    /// Measures the bench's model on the data that the table names.
    ///
    /// # Errors
    /// As the user shall read it.
    fn measure(&self, bench: &mut Bench<'_>) -> Result<Measurement, Failure>;

    /// Checks that need the tables it names; `path` is where the metric's table stands in the view's.
    fn check(&self, view: &View<'_>, path: &str, report: &mut Diagnostics) {
        let _ = (view, path, report);
    }
}

impl Registry for dyn Metric {
    const WHAT: &'static str = "metric";

    fn entries() -> &'static [Entry<Self>] {
        METRICS
    }
}

/// What a metric found.
#[derive(Debug, Default, PartialEq)]
pub struct Measurement {
    /// Name → figure. The names are unique over all metrics, so that a table needs no other heading.
    pub scores: BTreeMap<&'static str, Score>,
    /// What each example contributed: enough to form the scores again, or to compare two models example by example.
    pub items: Vec<Item>,
}

/// What one example contributed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Item {
    /// Its place in the part of the dataset, from 0.
    pub example: usize,
    /// Sums and counts by name.
    pub values: BTreeMap<&'static str, f64>,
    /// Texts by name, where the metric made some.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub texts: BTreeMap<&'static str, String>,
}

/// Where a metric's rows come from.
#[derive(Debug, Clone)]
pub struct Rows;

impl Target for Rows {
    const KINDS: &'static [&'static str] = &["dataset"];
}

/// The dataset that a metric measures on. [`Bench::part`] reads the rows of one split and the tokenizer, so a field of
/// this type is described with these two parts: the metric is measured again when they change, and only then.
pub type Data = Ref<Rows>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slice_is_sorted_and_every_metric_says_what_it_is() {
        assert!(METRICS.is_sorted_by_key(|entry| entry.name));
        for entry in METRICS {
            assert!(!entry.about().is_empty(), "{}", entry.name);
            let required = &(entry.schema)()["required"];
            assert!(required.as_array().unwrap().contains(&"data".into()), "{}: {required}", entry.name);
        }
    }
}
