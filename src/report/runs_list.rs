//! Past runs, a line each.

use crate::format::duration;
use crate::grid::{Grid, Layout};
use crate::run_record::RunRecord;
use crate::summary::counts;

/// A table of runs in the order they are given. `live` says for each whether its process is alive: a run without an
/// end and without a process was killed.
pub fn runs_list<'a>(runs: impl IntoIterator<Item = (&'a RunRecord, bool)>, layout: Layout) -> String {
    let mut grid = Grid { words: 4, ..Grid::new(["run", "started", "experiment", "result", "time"]) };
    for (record, live) in runs {
        let (result, time) = match &record.end {
            Some(end) => {
                let word = if end.interrupted {
                    "stopped"
                } else if end.failed > 0 {
                    "failed"
                } else {
                    "done"
                };
                (format!("{word}: {}", counts(end)), duration(end.seconds))
            }
            None => (if live { "running" } else { "killed" }.to_owned(), "–".to_owned()),
        };
        grid.row([record.run.clone(), record.started.clone(), record.experiment.clone(), result, time]);
    }
    if grid.rows.is_empty() { String::new() } else { grid.render(layout) }
}
