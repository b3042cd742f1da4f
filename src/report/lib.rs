#![doc = "What people read of runs and results: pure functions from records to text, Markdown and JSON. Nothing here reads \
a file or prints."]
//!
//! ```text
//! Event* ─fold→ RunRecord ─┬ scores_table, students_table, spend_table, run_summary → run_page
//!                          └ runs_list
//! Record, Tree ─ stage_page, stage_json
//! ```

pub mod format;
pub mod grid;
pub mod run_page;
pub mod run_record;
pub mod runs_list;
pub mod scores;
#[cfg(test)]
mod snapshots;
pub mod spend;
pub mod stage_page;
pub mod students;
pub mod summary;
#[cfg(test)]
mod testing;

pub use grid::Layout;
pub use run_page::{run_json, run_page};
pub use run_record::{RunEnd, RunRecord, StageResult, State, fold};
pub use runs_list::runs_list;
pub use scores::{SuiteScores, scores, scores_table};
pub use spend::{Spend, Sum, spend, spend_table};
pub use stage_page::{Encodings, stage_json, stage_page};
pub use students::students_table;
pub use summary::{LogTail, run_ending, run_summary};
