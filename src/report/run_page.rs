//! A whole run: its tables, then its summary.

use crate::grid::Layout;
use crate::run_record::RunRecord;
use crate::scores::scores_table;
use crate::spend::{spend, spend_table};
use crate::students::students_table;
use crate::summary::run_summary;

/// What a run prints at its end, and `show` for a run of the past: students, scores, what teachers cost, summary; parts that are empty
/// are left out.
pub fn run_page(record: &RunRecord, layout: Layout) -> String {
    let summary = match layout {
        Layout::Text => run_summary(record),
        Layout::Markdown => format!("```text\n{}```\n", run_summary(record)),
    };
    let heading = match layout {
        Layout::Text => String::new(),
        Layout::Markdown => format!("# {}\n", record.experiment),
    };
    let parts =
        [heading, students_table(record, layout), scores_table(record, layout), spend_table(record, layout), summary];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

/// A run as JSON (API): its record, and in `spend` what it spent by stage, by teacher and in all.
pub fn run_json(record: &RunRecord) -> serde_json::Value {
    let mut value = serde_json::json!(record);
    value["spend"] = serde_json::json!(spend(record));
    value
}
