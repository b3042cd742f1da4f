//! The run's line of events, on disk: what `runs`, `show` and every later reader folds.

use std::io::Write;
use std::path::Path;

use stillhouse_engine::Subscriber;
use stillhouse_stage::Event;

/// Writes each event as one line, at once.
pub struct EventLog {
    file: fs_err::File,
    /// The last line may be torn: the next one begins on a line of its own.
    torn: bool,
}

impl EventLog {
    /// A new log at `path`.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: fs_err::File::create(path)?, torn: false })
    }
}

impl Subscriber for EventLog {
    fn on(&mut self, event: &Event) {
        let Ok(mut line) = serde_json::to_string(event) else { return };
        line.push('\n');
        if self.torn {
            line.insert(0, '\n');
        }
        // A log that cannot be written (disk full) must not take the run down with it.
        let written = self.file.write_all(line.as_bytes());
        self.torn = written.is_err();
        if let Err(error) = written {
            tracing::warn!(%error, "an event could not be logged");
        }
    }
}
