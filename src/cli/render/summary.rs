//! The end of a run: the table of scores on standard output; failures and the count of stages on standard error.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use stillhouse_engine::{Subscriber, logs};
use stillhouse_report::{Layout, LogTail, RunRecord, State, run_ending, scores_table, spend_table, students_table};
use stillhouse_stage::{Class, Event, Failure};

/// Lines of a failed stage's log.
const TAIL: usize = 8;
/// Characters of a line of it.
const WIDEST: usize = 200;

/// Folds all events and shows the result when the last has come.
pub struct Summary {
    record: RunRecord,
    /// The folder of the run, where the logs of its stages are; none for a run that is not recorded.
    run: Option<PathBuf>,
}

impl Summary {
    /// The summary of the run in a folder.
    pub fn new(run: Option<&Path>) -> Self {
        Self { record: RunRecord::default(), run: run.map(Path::to_owned) }
    }

    fn log_tail(&self, stage: &str) -> LogTail {
        let Some(State::Failed { failure }) = self.record.stages.get(stage).map(|result| &result.state) else {
            return LogTail::default();
        };
        // What a program said is in its log; where the message says all, a log adds nothing.
        if !matches!(failure.class, Class::Command | Class::Environment | Class::Internal) {
            return LogTail::default();
        }
        self.run.as_ref().and_then(|run| tail(&logs::path(run, stage), failure).ok()).unwrap_or_default()
    }
}

impl Subscriber for Summary {
    fn on(&mut self, event: &Event) {
        self.record.apply(event);
        if !matches!(event, Event::RunFinished { .. }) {
            return;
        }
        let tables = [students_table, scores_table, spend_table].map(|table| table(&self.record, Layout::Text));
        for table in tables {
            if !table.trim().is_empty() {
                super::data(&format!("\n{}", table.trim_end()));
            }
        }
        super::words(&format!("\n{}", run_ending(&self.record, &|stage| self.log_tail(stage)).trim_end()));
    }
}

/// The last lines of a log, without the failure itself, which ends every log of a failed stage.
fn tail(path: &Path, failure: &Failure) -> std::io::Result<LogTail> {
    const READ: u64 = 16 << 10;
    let mut file = fs_err::File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(READ);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let said = super::stage_logs::failed(failure);
    let text = text.strip_suffix(&said).unwrap_or(&text);
    let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(TAIL);
    Ok(LogTail { lines: lines[first..].to_vec(), cut: first > 0 || start > 0 })
}

/// A line as a terminal would leave it: what was overwritten is gone, and nothing moves the cursor.
fn plain(line: &str) -> String {
    let line = line.trim_end().rsplit('\r').next().unwrap_or_default();
    line.chars().filter(|c| *c == '\t' || !c.is_control()).take(WIDEST).collect()
}
