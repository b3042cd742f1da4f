//! What a stage says, on its way to the dispatcher.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stillhouse_stage::{EventSink, StageEvent};
use tokio::sync::mpsc::UnboundedSender;

use crate::experiment::StageId;
use crate::run::dispatcher::Message;

/// Progress is passed on at most this often for a stage.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Passes on what a stage says, progress not too often.
pub(super) struct Voice {
    id: StageId,
    sender: UnboundedSender<Message>,
    born: Instant,
    /// Milliseconds since `born` of the last progress; 0 for none.
    last_progress: AtomicU64,
    pub(super) resumed: AtomicBool,
}

impl Voice {
    pub(super) fn new(id: StageId, sender: UnboundedSender<Message>) -> Self {
        let (last_progress, resumed) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { id, sender, born: Instant::now(), last_progress, resumed }
    }
}

impl EventSink for Voice {
    fn send(&self, event: StageEvent) {
        match &event {
            StageEvent::Progress { done, total, .. } if *total != Some(*done) => {
                let now = self.born.elapsed().as_millis() as u64 + 1;
                let last = self.last_progress.load(Ordering::Relaxed);
                if last != 0 && now.saturating_sub(last) < PROGRESS_EVERY.as_millis() as u64 {
                    return;
                }
                self.last_progress.store(now, Ordering::Relaxed);
            }
            StageEvent::Resumed { .. } => self.resumed.store(true, Ordering::Relaxed),
            _ => {}
        }
        _ = self.sender.send(Message::Said { id: self.id, event });
    }
}
