//! What failed requests wait for, said once for all of them: a user must know why nothing moves, and not once a request.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A request that has failed for less than this is nobody's business: most are well again at the second attempt.
const PATIENCE: Duration = Duration::from_secs(2);
/// The least time between two messages. It doubles with every message up to [`SELDOM`], so that a server that is busy
/// all night does not fill a log.
const OFTEN: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(60);

/// The requests of one teacher that failed and will be tried again.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    requests: BTreeMap<u64, Wait>,
    next: u64,
    /// When the last message was made, and how long the next one is kept back.
    said: Option<(Instant, Duration)>,
}

#[derive(Debug)]
struct Wait {
    what: String,
    attempt: u32,
    /// How many there are at the most; none where a refusal is no attempt.
    attempts: Option<u32>,
    since: Instant,
    due: Instant,
}

impl Waiting {
    /// A place for a request, empty until it fails.
    #[must_use]
    pub fn place(self: &Arc<Self>) -> Place {
        Place { waiting: Arc::clone(self), number: None }
    }

    /// What is being waited for, if it is time to say so: the request that is nearest to being given up, and how many
    /// wait like it.
    #[must_use]
    pub fn news(&self) -> Option<String> {
        self.news_or(None)
    }

    /// [`Waiting::news`]; where no request has failed, why all of them are `held` back and until when.
    #[must_use]
    pub fn news_or(&self, held: Option<(Instant, String)>) -> Option<String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let worst = state.requests.values().max_by_key(|wait| (wait.attempt, Reverse(wait.due)));
        let text = match (worst, held) {
            (Some(worst), _) if worst.due.max(now) < worst.since + PATIENCE => return None,
            (Some(worst), _) => worst.line(now, state.requests.len()),
            (None, Some((until, why))) if until > now + PATIENCE => {
                format!("{why}: nothing is sent for {} s", (until - now).as_secs_f64().ceil())
            }
            (None, _) => return None,
        };
        let pause = match state.said {
            Some((said, pause)) if now < said + pause => return None,
            Some((said, pause)) if now < said + pause + SELDOM => (pause * 2).min(SELDOM),
            _ => OFTEN,
        };
        state.said = Some((now, pause));
        Some(text)
    }
}

impl Wait {
    /// `the server answered 503 (3 of 8 tries), next try in 12 s; 16 requests wait`
    fn line(&self, now: Instant, requests: usize) -> String {
        let left = self.due.saturating_duration_since(now);
        let next = match left.as_secs_f64().ceil() {
            0.0 => "trying again now".to_owned(),
            seconds => format!("next try in {seconds} s"),
        };
        let others = if requests > 1 { format!("; {requests} requests wait") } else { String::new() };
        let tries =
            self.attempts.map_or_else(String::new, |attempts| format!(" ({} of {attempts} tries)", self.attempt));
        format!("{}{tries}, {next}{others}", self.what)
    }
}

/// One request's place among those that wait; it is left when dropped.
#[derive(Debug)]
pub struct Place {
    waiting: Arc<Waiting>,
    number: Option<u64>,
}

impl Place {
    /// The attempt `attempt` of `attempts` failed because of `what`; the next one is `pause` away.
    pub fn failed(&mut self, what: &str, attempt: u32, attempts: u32, pause: Duration) {
        self.note(what, attempt, Some(attempts), pause);
    }

    /// The server was too busy for it, in these words; it goes again when its turn comes, in `pause` at the earliest.
    pub fn refused(&mut self, what: &str, pause: Duration) {
        self.note(what, 0, None, pause);
    }

    fn note(&mut self, what: &str, attempt: u32, attempts: Option<u32>, pause: Duration) {
        let mut state = self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let number = *self.number.get_or_insert(state.next);
        state.next = state.next.max(number + 1);
        let since = state.requests.get(&number).map_or(now, |wait| wait.since);
        let wait = Wait { what: what.to_owned(), attempt, attempts, since, due: now + pause };
        state.requests.insert(number, wait);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner).requests.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn many_requests_make_one_message_about_the_one_that_is_worst_off() {
        let waiting = Arc::new(Waiting::default());
        let mut places: Vec<Place> = (0..16).map(|_| waiting.place()).collect();
        assert_eq!(waiting.news(), None);
        places.iter_mut().for_each(|place| place.failed("the server answered 500", 1, 8, seconds(3)));
        places[7].failed("the server answered 503", 3, 8, seconds(12));
        assert_eq!(
            waiting.news().as_deref(),
            Some("the server answered 503 (3 of 8 tries), next try in 12 s; 16 requests wait")
        );
        assert_eq!(waiting.news(), None, "said a moment ago");
        tokio::time::advance(seconds(5)).await;
        places.truncate(8);
        assert!(waiting.news().unwrap().ends_with("next try in 7 s; 8 requests wait"));
        drop(places);
        tokio::time::advance(seconds(60)).await;
        assert_eq!(waiting.news(), None, "nobody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_well_again_at_once_is_not_worth_a_line() {
        let waiting = Arc::new(Waiting::default());
        let mut place = waiting.place();
        place.failed("the connection was reset", 1, 8, Duration::from_millis(500));
        assert_eq!(waiting.news(), None);
        tokio::time::advance(seconds(2)).await;
        assert_eq!(waiting.news().as_deref(), Some("the connection was reset (1 of 8 tries), trying again now"));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_become_seldom_and_are_soon_again_after_a_quiet_time() {
        let waiting = Arc::new(Waiting::default());
        let mut place = waiting.place();
        place.failed("busy", 1, 8, seconds(3600));
        let mut said = Vec::new();
        for second in 0..300 {
            if waiting.news().is_some() {
                said.push(second);
            }
            tokio::time::advance(seconds(1)).await;
        }
        assert_eq!(said, [0, 5, 15, 35, 75, 135, 195, 255]);
        drop(place);
        tokio::time::advance(seconds(200)).await;
        let mut place = waiting.place();
        place.failed("busy", 1, 8, seconds(30));
        assert!(waiting.news().is_some());
        tokio::time::advance(seconds(5)).await;
        assert!(waiting.news().is_some());
    }
}
