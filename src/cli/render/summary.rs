//! The end of a run: the table of scores on standard output, the count of stages on standard error.

use stillhouse_engine::Subscriber;
use stillhouse_report::{Layout, RunRecord, run_summary, scores_table, students_table};
use stillhouse_stage::Event;

/// Folds all events and shows the result when the last has come.
#[derive(Default)]
pub struct Summary {
    record: RunRecord,
}

impl Subscriber for Summary {
    fn on(&mut self, event: &Event) {
        self.record.apply(event);
        if !matches!(event, Event::RunFinished { .. }) {
            return;
        }
        for table in [students_table(&self.record, Layout::Text), scores_table(&self.record, Layout::Text)] {
            if !table.trim().is_empty() {
                super::data(&format!("\n{}", table.trim_end()));
            }
        }
        super::words(&format!("\n{}", run_summary(&self.record).trim_end()));
    }
}
