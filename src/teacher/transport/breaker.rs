//! Notices that a teacher is down, whichever requests find it out, and stops asking before the whole queue has failed.
//!
//! ```text
//!          failures in a row                     pause over
//! closed ───────────────────▶ open: all wait ───────────────▶ one request tries
//!    ▲                            ▲                              │    │
//!    │          an answer         └──────── it fails ────────────┘    │ it failed often enough
//!    └────────────────────────────────────────────────────────────    ▼
//!                                                                    down
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::retry::longest;

/// One for all requests of a stage to one teacher.
#[derive(Debug)]
pub struct Breaker {
    /// Failures in a row that open it.
    after: u32,
    /// Tries before the teacher counts as down.
    tries: u32,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    circuit: Circuit,
    /// Failures since the last answer.
    failures: u32,
    what: String,
    /// Whether the last one was that there is no connection.
    away: bool,
}

#[derive(Clone, Copy, Debug)]
enum Circuit {
    Closed,
    Open { tried: u32, next: Instant, trying: bool },
    Down,
}

/// The teacher is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// Requests that failed in a row.
    pub failures: u32,
    /// How the last one did.
    pub what: String,
    /// Whether there was no connection: that cannot be the requests' fault.
    pub away: bool,
}

/// Whose fault a failure may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// The teacher's.
    Teacher,
    /// The request's: others were answered since it failed before.
    Request,
    /// The teacher's for certain: there is no connection.
    Connection,
}

/// The right to send one attempt. Dropped without a word it leaves everything as it was.
#[derive(Debug)]
pub struct Try {
    breaker: Arc<Breaker>,
    alone: bool,
}

impl Breaker {
    /// A breaker that opens after so many failures in a row, and then tries so many times, with growing pauses.
    #[must_use]
    pub fn new(after: u32, tries: u32) -> Arc<Self> {
        let state = State { circuit: Circuit::Closed, failures: 0, what: String::new(), away: false };
        Arc::new(Self { after: after.max(1), tries: tries.max(1), state: Mutex::new(state), changed: Notify::new() })
    }

    /// Waits until an attempt may be sent.
    ///
    /// # Errors
    /// [`Down`].
    pub async fn admit(self: &Arc<Self>) -> Result<Try, Down> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next = {
                let mut state = self.lock();
                match &mut state.circuit {
                    Circuit::Closed => return Ok(Try { breaker: Arc::clone(self), alone: false }),
                    Circuit::Down => {
                        return Err(Down { failures: state.failures, what: state.what.clone(), away: state.away });
                    }
                    Circuit::Open { trying: true, .. } => None,
                    Circuit::Open { next, trying, .. } if *next <= Instant::now() => {
                        *trying = true;
                        return Ok(Try { breaker: Arc::clone(self), alone: true });
                    }
                    Circuit::Open { next, .. } => Some(*next),
                }
            };
            match next {
                None => changed.await,
                Some(next) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(next) => {}
                },
            }
        }
    }

    /// Whether the teacher is in doubt: what fails now is the teacher's failure, and not a request's.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.lock().circuit, Circuit::Closed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Try {
    /// The teacher answered, be it with a refusal.
    pub fn answered(mut self) {
        self.alone = false;
        let mut state = self.breaker.lock();
        state.failures = 0;
        // What was found to be down stays so: those who were told have stopped.
        if matches!(state.circuit, Circuit::Open { .. }) {
            state.circuit = Circuit::Closed;
        }
        drop(state);
        self.breaker.changed.notify_waiters();
    }

    /// It did not. While the teacher is not in doubt, a request that fails where others do not puts it in none.
    pub fn failed(mut self, what: &str, suspect: Suspect) {
        let alone = std::mem::take(&mut self.alone);
        let mut state = self.breaker.lock();
        if matches!((state.circuit, suspect), (Circuit::Closed, Suspect::Request)) {
            return;
        }
        state.away = suspect == Suspect::Connection;
        state.failures = state.failures.saturating_add(1);
        what.clone_into(&mut state.what);
        state.circuit = match state.circuit {
            Circuit::Closed if state.failures >= self.breaker.after => {
                Circuit::Open { tried: 0, next: Instant::now() + longest(1), trying: false }
            }
            Circuit::Open { tried, .. } if alone && tried + 1 >= self.breaker.tries => Circuit::Down,
            Circuit::Open { tried, .. } if alone => {
                Circuit::Open { tried: tried + 1, next: Instant::now() + longest(tried + 2), trying: false }
            }
            // It was sent before the circuit opened.
            other => other,
        };
        drop(state);
        self.breaker.changed.notify_waiters();
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        if self.alone {
            if let Circuit::Open { trying, .. } = &mut self.breaker.lock().circuit {
                *trying = false;
            }
            self.breaker.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn fail(breaker: &Arc<Breaker>, times: u32) {
        for _ in 0..times {
            breaker.admit().await.unwrap().failed("no connection", Suspect::Connection);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_different_requests_add_up_and_an_answer_clears_them() {
        let breaker = Breaker::new(3, 2);
        fail(&breaker, 2).await;
        breaker.admit().await.unwrap().answered();
        fail(&breaker, 2).await;
        assert!(!breaker.is_open());
        fail(&breaker, 1).await;
        assert!(breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_where_others_are_answered_says_nothing_of_the_teacher_until_it_is_in_doubt() {
        let breaker = Breaker::new(3, 2);
        for _ in 0..9 {
            breaker.admit().await.unwrap().failed("500", Suspect::Request);
        }
        assert!(!breaker.is_open());
        for _ in 0..3 {
            breaker.admit().await.unwrap().failed("500", Suspect::Teacher);
        }
        assert!(breaker.is_open());
        for _ in 0..2 {
            breaker.admit().await.unwrap().failed("500", Suspect::Request);
        }
        assert_eq!(breaker.admit().await.unwrap_err(), Down { failures: 5, what: "500".to_owned(), away: false });
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_circuit_lets_one_at_a_time_through_and_closes_at_an_answer() {
        let breaker = Breaker::new(1, 8);
        fail(&breaker, 1).await;
        let start = Instant::now();
        let alone = breaker.admit().await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
        let second = tokio::time::timeout(Duration::from_secs(3600), breaker.admit()).await;
        assert!(second.is_err(), "while one tries, the others wait");
        alone.answered();
        assert!(!breaker.is_open());
        breaker.admit().await.unwrap().answered();
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_away_is_down_for_everybody() {
        let breaker = Breaker::new(2, 3);
        let early = breaker.admit().await.unwrap();
        fail(&breaker, 2).await;
        early.failed("reset", Suspect::Teacher);
        let waits = tokio::spawn({
            let breaker = Arc::clone(&breaker);
            async move {
                let mut tries = 0;
                loop {
                    match breaker.admit().await {
                        Ok(alone) => alone.failed("no connection", Suspect::Connection),
                        Err(down) => return (tries, down),
                    }
                    tries += 1;
                }
            }
        });
        let (tries, down) = waits.await.unwrap();
        assert_eq!((tries, down), (3, Down { failures: 6, what: "no connection".to_owned(), away: true }));
        assert!(breaker.admit().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_is_given_up_lets_the_next_one_try() {
        let breaker = Breaker::new(1, 8);
        fail(&breaker, 1).await;
        drop(breaker.admit().await.unwrap());
        drop(breaker.admit().await.unwrap());
        assert!(breaker.is_open());
    }
}
