//! What stages say, in each stage's log: also those that run inside the engine have one.

use std::path::{Path, PathBuf};

use stillhouse_engine::{Subscriber, logs};
use stillhouse_stage::{Event, Failure, StageEvent};

/// Adds warnings, notes and failures to the logs of a run.
pub struct StageLogs {
    run: PathBuf,
}

impl StageLogs {
    /// The logs of the run in a folder.
    pub fn new(run: &Path) -> Self {
        Self { run: run.to_owned() }
    }
}

impl Subscriber for StageLogs {
    fn on(&mut self, event: &Event) {
        let (stage, line) = match event {
            Event::Stage { stage, said: StageEvent::Warning { message } } => (stage, format!("warning: {message}\n")),
            Event::Stage { stage, said: StageEvent::Note { message } } => (stage, format!("note: {message}\n")),
            Event::StageFailed { stage, failure, .. } => (stage, failed(failure)),
            _ => return,
        };
        if let Err(error) = logs::append(&logs::path(&self.run, stage), line.as_bytes()) {
            tracing::warn!(stage, %error, "a line of the stage's log was lost");
        }
    }
}

/// How the log of a failed stage ends.
pub fn failed(failure: &Failure) -> String {
    let hint = failure.hint.as_ref().map_or_else(String::new, |hint| format!("hint: {hint}\n"));
    format!("error: {failure}\n{hint}")
}
