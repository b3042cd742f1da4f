//! `run --format json`: one event a line on standard output (API).

use stillhouse_engine::Subscriber;
use stillhouse_stage::Event;

/// Prints each event as JSON.
pub struct JsonLines;

impl Subscriber for JsonLines {
    fn on(&mut self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            super::data(&line);
        }
    }
}
