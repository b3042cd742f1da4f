//! The questions that are under way ahead of the one whose turn it is.

use std::collections::VecDeque;
use std::sync::Arc;

use stillhouse_stage::Failure;
use tokio::task::JoinHandle;

use super::{Landing, Question};
use crate::replies::{Location, RequestKey};

/// Questions that are looked at ahead of the one whose turn it is: enough that one which is tried again and again, half a
/// minute long, holds hardly anything up, few enough that memory stays flat. Replies wait on disk.
const AHEAD: usize = 8192;
/// And at most so many bytes of prompts, where they are long.
const AHEAD_BYTES: usize = 64 << 20;

/// A question under way.
pub(super) struct Flight {
    pub(super) question: Arc<Question>,
    pub(super) key: RequestKey,
    pub(super) state: State,
}

/// The questions under way, in their order.
#[derive(Default)]
pub(super) struct Ahead {
    pub(super) flights: VecDeque<Flight>,
    /// What their prompts take.
    bytes: usize,
}

impl Ahead {
    pub(super) fn has_room(&self) -> bool {
        self.flights.len() < AHEAD && self.bytes < AHEAD_BYTES
    }

    pub(super) fn push(&mut self, flight: Flight) {
        self.bytes += flight.question.bytes();
        self.flights.push_back(flight);
    }

    pub(super) fn push_front(&mut self, flight: Flight) {
        self.bytes += flight.question.bytes();
        self.flights.push_front(flight);
    }

    pub(super) fn pop(&mut self) -> Option<Flight> {
        let flight = self.flights.pop_front()?;
        self.bytes -= flight.question.bytes();
        Some(flight)
    }
}

/// How far a question has come.
pub(super) enum State {
    Landed(Location),
    Flying(JoinHandle<Result<Landing, Failure>>),
}

#[cfg(test)]
mod tests {
    use stillhouse_data::prompt::{Message, Prompt};

    use super::*;
    use crate::request::{Request, Sampling};

    fn flight(bytes: usize) -> Flight {
        let messages = vec![Message::user("x".repeat(bytes))];
        let prompt = Arc::new(Prompt::new(messages.clone(), None));
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: None, max_tokens: 1, stop: Vec::new() };
        let request = Request { messages, sampling, capture: None, sample: 0, attempt: 0, seed: None, given: None };
        let state = State::Flying(tokio::spawn(async { Err(Failure::interrupted()) }));
        Flight { question: Arc::new(Question { prompt, number: 1, request }), key: RequestKey([0; 32]), state }
    }

    #[tokio::test]
    async fn long_prompts_are_looked_at_fewer_at_a_time() {
        let fill = |bytes: usize| {
            let mut ahead = Ahead::default();
            while ahead.has_room() {
                ahead.push(flight(bytes));
            }
            ahead
        };
        assert_eq!(fill(100).flights.len(), AHEAD);
        let mut long = fill(8 << 20);
        assert_eq!(long.flights.len(), 4);
        assert!(long.pop().is_some() && long.has_room());
        assert_eq!(fill(80 << 20).flights.len(), 1, "one at least");
    }
}
