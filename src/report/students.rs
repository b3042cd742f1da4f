//! What each student cost: parameters, size, training tokens, time.

use serde::Deserialize;

use crate::format::{bytes, count, duration};
use crate::grid::{Grid, Layout};
use crate::run_record::{RunRecord, StageResult};
use crate::summary::how_word;

/// The metrics of a `student` stage's record, as far as this crate reads them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct StudentMetrics {
    /// Parameters of the model.
    parameters: Option<u64>,
    /// Size of the weights in bytes.
    bytes: Option<u64>,
    /// Tokens it was trained on, counting a token each time it was seen.
    tokens: Option<u64>,
    /// How long the training took, over all attempts.
    seconds: Option<f64>,
}

/// One row a student: what it is and what it cost. Empty when the run has no students whose result is there.
pub fn students_table(record: &RunRecord, layout: Layout) -> String {
    let mut grid = Grid::new(["student", "parameters", "size", "trained on", "time", ""]);
    for (stage, result) in record.of_kind("student") {
        let Some(how) = result.how() else { continue };
        let metrics: StudentMetrics = serde_json::from_value(result.metrics.clone()).unwrap_or_default();
        let unknown = || "–".to_owned();
        grid.row([
            stage.to_owned(),
            metrics.parameters.map_or_else(unknown, count),
            metrics.bytes.map_or_else(unknown, bytes),
            metrics.tokens.map_or_else(unknown, |tokens| format!("{} tokens", count(tokens))),
            duration(seconds(&metrics, result)),
            how_word(how).to_owned(),
        ]);
    }
    if grid.rows.is_empty() { String::new() } else { grid.render(layout) }
}

/// A student that was there worked no second in this run, but somebody once trained it.
fn seconds(metrics: &StudentMetrics, result: &StageResult) -> f64 {
    metrics.seconds.unwrap_or(result.seconds)
}
