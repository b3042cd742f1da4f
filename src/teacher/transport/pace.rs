//! How fast requests go to a server that takes only so many: one gate for all of them, which closes when one is refused and
//! then lets them through one after the other, at a rate that follows what the server takes.
//!
//! ```text
//!                   a refusal                      the wait is over
//! any rate ───────────────────────▶ nobody goes ────────────────────▶ the rate that was taken, less a tenth
//!    ▲                                                                      │
//!    └──────────────────── answers raise it, slowly near the last limit ────┘
//! ```
//!
//! Additive increase and multiplicative decrease, as TCP has it (Chiu and Jain 1989), with what was taken before the refusal as
//! the first guess. Requests that were on their way together are refused together: that is one sign, not many.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::retry::longest;

/// Sleeps are cut into pieces, because the gate may open earlier than it seemed.
const LONGEST_NAP: Duration = Duration::from_millis(250);
/// The rate is never lower than one request in so many seconds.
const SLOWEST: f64 = 60.0;
/// A rate that nobody needs: the gate is open again.
const OPEN: f64 = 10_000.0;
/// A refusal among so many requests that were taken is no crowd's: the gate closes for a moment only.
const MILD: u64 = 10;
/// So many may be an accident.
const FEW: u64 = 2;
const MOMENT: Duration = Duration::from_millis(10);
/// What was taken is reckoned over so long a time at least: limits let a second's worth through at once.
const WINDOW: Duration = Duration::from_secs(1);
/// Requests that were late may follow each other closer, up to so much.
const CATCH_UP: Duration = Duration::from_millis(20);

/// The gate.
#[derive(Debug)]
pub struct Pace {
    state: Mutex<State>,
    // Held while waiting: first come, first served, and one at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// Requests a second; nothing as long as none was refused.
    rate: Option<f64>,
    /// The rate at which one was refused.
    ceiling: f64,
    /// When the next one may go.
    next: Instant,
    /// Until when nobody goes, and why.
    held: Option<(Instant, String)>,
    /// When a refusal closed the gate; nothing while it is open.
    closed: Option<Closed>,
    /// Counts the times that it was closed.
    times: u64,
    /// Times in a row without an answer between them.
    in_a_row: u32,
    /// Since it was opened: when that was, what went, what was refused.
    since: Instant,
    sent: u64,
    refused: u64,
    last_answer: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Closed {
    at: Instant,
    /// How long the server asks to be left alone.
    asked: Option<Duration>,
}

/// Which time between two closings a request went in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Went(u64);

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        let state = State {
            rate: None,
            ceiling: 0.0,
            next: now,
            held: None,
            closed: None,
            times: 0,
            in_a_row: 0,
            since: now,
            sent: 0,
            refused: 0,
            last_answer: None,
        };
        Self { state: Mutex::new(state), turn: tokio::sync::Mutex::new(()) }
    }
}

impl Pace {
    /// Waits until a request may go.
    pub async fn take(&self) {
        let _turn = self.turn.lock().await;
        loop {
            let wait = self.lock().try_take(Instant::now());
            let Some(until) = wait else { return };
            tokio::time::sleep_until(until.min(Instant::now() + LONGEST_NAP)).await;
        }
    }

    /// A request goes.
    pub fn sent(&self) -> Went {
        let mut state = self.lock();
        state.sent += 1;
        Went(state.times)
    }

    /// One was answered.
    pub fn answered(&self) {
        self.lock().answered(Instant::now());
    }

    /// One was refused, because there are too many: for how long the server asks to be left alone, and its words.
    pub fn refused(&self, went: Went, asked: Option<Duration>, why: &str) {
        self.lock().refused(went, asked, why, Instant::now());
    }

    /// Holds all requests back for a while.
    pub fn hold(&self, duration: Duration, why: &str) {
        self.lock().hold(Instant::now() + duration, why);
    }

    /// The server says that so many requests a second are what it can take.
    pub fn at_most(&self, rate: f64) {
        let mut state = self.lock();
        let rate = rate.max(1.0 / SLOWEST);
        if state.rate.is_none_or(|now| now > rate) {
            (state.rate, state.ceiling) = (Some(rate), rate);
        }
    }

    /// When the last request was answered.
    #[must_use]
    pub fn last_answer(&self) -> Option<Instant> {
        self.lock().last_answer
    }

    /// Until when nobody goes, and why.
    #[must_use]
    pub fn held(&self) -> Option<(Instant, String)> {
        self.lock().held.clone().filter(|(until, _)| *until > Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When to ask again, if nobody may go yet.
    fn try_take(&mut self, now: Instant) -> Option<Instant> {
        if let Some((until, _)) = self.held.as_ref().filter(|(until, _)| *until > now) {
            return Some(*until);
        }
        if let Some(closed) = self.closed.take() {
            self.open(closed, now);
        }
        let rate = self.rate?;
        if self.next > now {
            return Some(self.next);
        }
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.next = self.next.max(earliest) + Duration::from_secs_f64(1.0 / rate);
        None
    }

    fn hold(&mut self, until: Instant, why: &str) {
        if self.held.as_ref().is_none_or(|(earlier, _)| *earlier < until) {
            self.held = Some((until, why.to_owned()));
        }
    }

    fn answered(&mut self, now: Instant) {
        (self.in_a_row, self.last_answer) = (0, Some(now));
        if let Some(rate) = &mut self.rate {
            // Far below the limit there is no danger; near it there is; far above it the limit is another one by now.
            let near = (0.8..1.2).contains(&(*rate / self.ceiling.max(f64::MIN_POSITIVE)));
            *rate *= if near { 1.004 } else { 1.03 };
            if *rate > OPEN {
                self.rate = None;
            }
        }
    }

    /// Whether hardly any request was refused, and others were answered.
    fn is_mild(&self) -> bool {
        let once = self.in_a_row < 2;
        self.refused * MILD < self.sent
            || (once && self.refused <= FEW)
            // Before a rate was ever found it takes more to believe in one.
            || (once && self.rate.is_none() && self.refused * 5 < self.sent)
    }

    fn refused(&mut self, went: Went, asked: Option<Duration>, why: &str, now: Instant) {
        let first = self.closed.is_none() && went == Went(self.times);
        if first {
            self.times += 1;
            self.in_a_row += 1;
            self.closed = Some(Closed { at: now, asked });
        }
        let Some(closed) = &mut self.closed else {
            // It went before the gate was closed and opened: no new sign, but a wish all the same.
            if let Some(asked) = asked {
                self.hold(now + asked, why);
            }
            return;
        };
        closed.asked = closed.asked.max(asked);
        let at = closed.at;
        self.refused += 1;
        let until = match asked {
            Some(asked) => now + asked,
            None if self.is_mild() => at + MOMENT,
            None => at + longest(self.in_a_row),
        };
        self.hold(until, why);
    }

    /// The wait is over: the rate is a little less than what was taken before.
    fn open(&mut self, closed: Closed, now: Instant) {
        let asked = closed.asked.unwrap_or_default();
        let lasted = closed.at.saturating_duration_since(self.since).max(asked).max(WINDOW).as_secs_f64();
        let taken = self.sent.saturating_sub(self.refused) as f64 / lasted;
        let (mild, slowest) = (self.is_mild(), 1.0 / SLOWEST);
        // A refusal by chance, far above the limit that was believed, says nothing of where the limit is.
        let by_chance = mild && self.rate.is_some_and(|rate| rate > 1.2 * self.ceiling);
        if !by_chance {
            self.ceiling = self.rate.unwrap_or(taken.max(1.0 / lasted));
        }
        self.rate = match self.rate {
            // One of many, and the server is content with a moment.
            None if mild && asked < WINDOW / 2 => None,
            None => Some((taken * 0.9).max(1.0 / lasted)),
            Some(rate) if mild => Some(rate * 0.9),
            Some(rate) => Some((taken * 0.9).clamp(rate / 4.0, rate * 0.9)),
        };
        self.rate = self.rate.map(|rate| rate.max(slowest));
        (self.next, self.since, self.sent, self.refused) = (now, now, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A server that takes `rate` requests a second and `burst` at once; says when to come again if `asks`.
    struct Bucket {
        rate: f64,
        burst: f64,
        asks: Option<Duration>,
        /// One request of so many is refused whatever the rate; none with 0.
        by_chance: u64,
        seen: std::sync::atomic::AtomicU64,
        level: Mutex<(f64, Instant, u64)>,
    }

    impl Bucket {
        fn new(rate: f64, burst: f64, asks: Option<Duration>) -> Arc<Self> {
            Self::by_chance(rate, burst, asks, 0)
        }

        fn by_chance(rate: f64, burst: f64, asks: Option<Duration>, by_chance: u64) -> Arc<Self> {
            let level = Mutex::new((burst, Instant::now(), 0));
            Arc::new(Self { rate, burst, asks, by_chance, seen: Default::default(), level })
        }

        fn takes(&self) -> bool {
            let mut level = self.level.lock().unwrap();
            let now = Instant::now();
            level.0 = (level.0 + (now - level.1).as_secs_f64() * self.rate).min(self.burst);
            level.1 = now;
            // Numbers as if by chance: refusals come in groups, too.
            let seen = self.seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let drawn = (seen.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33).wrapping_mul(0xBF58_476D) >> 16;
            let chance = self.by_chance > 0 && drawn.is_multiple_of(self.by_chance);
            let takes = level.0 >= 1.0 && !chance;
            if takes {
                level.0 -= 1.0;
            } else {
                level.2 += 1;
            }
            takes
        }
    }

    /// Sends until `wanted` are answered; seconds that it took, and refusals.
    async fn send(bucket: Arc<Bucket>, at_once: usize, wanted: usize) -> (f64, u64) {
        let (pace, permits) = (Arc::new(Pace::default()), Arc::new(tokio::sync::Semaphore::new(at_once)));
        let start = Instant::now();
        let tasks: Vec<_> = (0..wanted)
            .map(|_| {
                let (pace, permits, bucket) = (Arc::clone(&pace), Arc::clone(&permits), Arc::clone(&bucket));
                tokio::spawn(async move {
                    loop {
                        let permit = permits.acquire().await.unwrap();
                        pace.take().await;
                        let went = pace.sent();
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        if bucket.takes() {
                            return pace.answered();
                        }
                        pace.refused(went, bucket.asks, "429");
                        drop(permit);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        (start.elapsed().as_secs_f64(), bucket.level.lock().unwrap().2)
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_of_a_server_is_found_with_a_handful_of_refusals() {
        let second = Some(Duration::from_secs(1));
        // Rate, burst, wait, at once, wanted; seconds at the most, refusals at the most.
        let cases = [
            (1.0, 1.0, second, 16, 40, 60.0, 24),
            (5.0, 5.0, second, 64, 120, 40.0, 80),
            (5.0, 5.0, None, 64, 120, 40.0, 80),
            (1.0, 60.0, Some(Duration::from_secs(30)), 16, 120, 130.0, 40),
            (50.0, 50.0, None, 64, 3000, 90.0, 192),
        ];
        for (rate, burst, asks, at_once, wanted, most_seconds, most_refused) in cases {
            let (seconds, refused) = send(Bucket::new(rate, burst, asks), at_once, wanted).await;
            assert!(seconds <= most_seconds && refused <= most_refused, "{rate}/s: {seconds} s, {refused} refused");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_by_nobody_waits_for_nobody() {
        let (seconds, refused) = send(Bucket::new(1e6, 1e6, None), 64, 640).await;
        assert!(seconds < 0.3 && refused == 0, "{seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_by_chance_are_no_limit() {
        for asks in [None, Some(Duration::ZERO)] {
            let (seconds, refused) = send(Bucket::by_chance(1e6, 1e6, asks, 43), 128, 20_000).await;
            assert!((300..700).contains(&refused), "{refused} refused");
            assert!(seconds < 60.0, "{seconds} s with {asks:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_gone_is_forgotten() {
        let pace = Pace::default();
        pace.refused(pace.sent(), Some(Duration::from_secs(1)), "429");
        let start = Instant::now();
        for _ in 0..600 {
            pace.take().await;
            pace.sent();
            pace.answered();
        }
        assert!(start.elapsed().as_secs_f64() < 200.0, "{:?}", start.elapsed());
        let before = start.elapsed();
        for _ in 0..100 {
            pace.take().await;
            pace.answered();
        }
        assert!((start.elapsed() - before).as_secs_f64() < 1.0, "{:?}", start.elapsed());
    }
}
