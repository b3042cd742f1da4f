//! How fast requests go to a server that takes only so many: one gate for all of them, which closes when more are refused than
//! chance explains, and then lets them through one after the other, at a rate that follows what the server takes.
//!
//! ```text
//!            refused beyond chance                 the wait is over
//! any rate ───────────────────────▶ nobody goes ────────────────────▶ what was taken, less a part
//!    ▲                                                                      │
//!    └──────────────────── answers raise it, slowly near the last limit ────┘
//! ```
//!
//! Additive increase and multiplicative decrease, as TCP has it (Chiu and Jain 1989), with what was taken before the refusals as
//! the first guess. Some servers refuse a few requests however slowly they come: that is no limit, and to slow down is no help.
//! The two are told apart by where refusals happen. Those at a rate that the server has shown to take, or while none is known,
//! are by chance, and their share is what is expected elsewhere; only what exceeds it counts, in a running sum (Page 1954) that
//! answers take from. Requests that were on their way together are refused together: that is one sign, not many.

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
/// Requests a second where nothing is known.
const FIRST_GUESS: f64 = 1.0;
/// What was taken is reckoned over so long a time at least: limits let a second's worth through at once.
const WINDOW: Duration = Duration::from_secs(1);
/// Requests that were late may follow each other closer, up to so much.
const CATCH_UP: Duration = Duration::from_millis(20);
/// A server that is a little too fast asked, and does not say for how long it wants to be left alone.
const MOMENT: Duration = Duration::from_millis(10);
/// The refusals of so long a time, were all refused, make no difference at any rate: the faster, the more there is to go by.
const EVIDENCE: Duration = Duration::from_millis(20);
/// Who asks for as long a pause means it.
const PAUSE: Duration = Duration::from_millis(500);

/// What is allowed for at one rate, and how it grows.
#[derive(Clone, Copy)]
struct Reach {
    /// The share of requests that may be refused, on top of twice what is by chance: the sum then falls while all is well.
    share: f64,
    /// How many more than that are too many.
    most: f64,
    growth: Growth,
    /// Whether refusals here are by chance.
    chance: bool,
}

/// How much faster it goes after an answer.
#[derive(Clone, Copy)]
enum Growth {
    /// There is no rate that could grow.
    None,
    /// By `part` of the rate, and all answers of a second together by `a_second`: what a server saves up lets a rate
    /// seem right that is not.
    By { part: f64, a_second: f64 },
    /// As `By`, and by `least` requests a second: where the rate is only a guess, a low one is soon left.
    From { least: f64, part: f64, a_second: f64 },
    /// By `part`, or `a_second` of a rate that is so low that an answer is rare.
    Careful { part: f64, slow: f64, a_second: f64 },
}

impl Growth {
    /// What one answer adds to a rate.
    fn after(self, rate: f64) -> f64 {
        match self {
            Self::None => 0.0,
            Self::By { part, a_second } => (rate * part).min(a_second),
            Self::From { least, part, a_second } => (rate * part).max(least).min(a_second),
            Self::Careful { part, slow, a_second } => (rate * part).max(slow.min(rate / 10.0)).min(a_second),
        }
    }
}

/// No limit was met: it takes a good deal to believe in one.
const FREE: Reach = Reach { share: 0.2, most: 5.0, growth: Growth::None, chance: true };
/// A limit was met, and where it is is not known.
const GUESSED: Reach =
    Reach { share: 0.05, most: 2.0, growth: Growth::From { least: 0.5, part: 0.1, a_second: 0.7 }, chance: false };
/// Well below the limit.
const BELOW: Reach = Reach { share: 0.2, most: 5.0, growth: Growth::By { part: 0.015, a_second: 0.7 }, chance: true };
/// Where the limit was.
const NEAR: Reach =
    Reach { share: 0.05, most: 2.0, growth: Growth::Careful { part: 0.004, slow: 0.02, a_second: 0.1 }, chance: false };
/// So far above that the limit is another one by now.
const BEYOND: Reach = Reach { share: 0.05, most: 2.0, growth: Growth::By { part: 0.1, a_second: 0.7 }, chance: false };

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
    /// The rate at which too many were refused; zero while it is not known.
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
    /// Refusals beyond those that are expected, less what answers took from them.
    excess: f64,
    /// Refusals while there is an excess: by chance, if it comes to nothing.
    doubtful: f64,
    by_chance: Chance,
    /// Since it was opened: when that was, what went, what was refused.
    since: Instant,
    sent: u64,
    refused: u64,
    last_answer: Option<Instant>,
}

/// How many of the requests that no limit kept from being answered were refused all the same.
#[derive(Clone, Copy, Debug, Default)]
struct Chance {
    answered: f64,
    refused: f64,
}

impl Chance {
    /// What is older than so many requests counts half.
    const MEMORY: f64 = 2_000.0;
    /// Before anything is known, so many answers are taken for granted.
    const ANSWERS: f64 = 20.0;
    /// A server that refuses more than every third is busy whatever the rate.
    const MOST: f64 = 0.3;

    fn add(&mut self, answered: f64, refused: f64) {
        self.answered += answered;
        self.refused += refused;
        if self.answered + self.refused > Self::MEMORY {
            self.answered /= 2.0;
            self.refused /= 2.0;
        }
    }

    fn share(self) -> f64 {
        (self.refused / (Self::ANSWERS + self.answered + self.refused)).min(Self::MOST)
    }
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
            excess: 0.0,
            doubtful: 0.0,
            by_chance: Chance::default(),
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

    /// One was refused, because there are too many: for how long the server asks to be left alone, whether it was refused
    /// `again`, with no answer to any other between, and the server's words.
    pub fn refused(&self, went: Went, asked: Option<Duration>, again: bool, why: &str) {
        self.lock().refused(went, asked.filter(|asked| !asked.is_zero()), again, why, Instant::now());
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

    /// Requests a second; nothing where no limit is known.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.lock().rate
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

    /// Where the rate is.
    fn reach(&self) -> Reach {
        let Some(rate) = self.rate else { return FREE };
        if self.ceiling == 0.0 {
            return GUESSED;
        }
        match rate / self.ceiling {
            share if share < 0.8 => BELOW,
            share if share < 1.2 => NEAR,
            _ => BEYOND,
        }
    }

    fn answered(&mut self, now: Instant) {
        (self.in_a_row, self.last_answer) = (0, Some(now));
        let reach = self.reach();
        if reach.chance {
            self.by_chance.add(1.0, 0.0);
        }
        let allowed = (reach.share + 2.0 * self.by_chance.share()).min(2.0 * Chance::MOST);
        self.excess -= allowed / (1.0 - allowed);
        if self.excess <= 0.0 {
            self.by_chance.add(0.0, std::mem::take(&mut self.doubtful));
            self.excess = 0.0;
            // Nothing is amiss: what was taken long ago says little of now.
            let lasted = now.saturating_duration_since(self.since);
            if self.rate.is_none() && lasted > 2 * WINDOW {
                (self.since, self.sent, self.refused) = (now - lasted / 2, self.sent / 2, self.refused / 2);
            }
        }
        let Some(rate) = &mut self.rate else { return };
        *rate += reach.growth.after(*rate);
        if *rate > OPEN {
            self.rate = None;
            (self.since, self.sent, self.refused) = (now, 0, 0);
        }
    }

    fn refused(&mut self, went: Went, asked: Option<Duration>, again: bool, why: &str, now: Instant) {
        if let Some(closed) = self.closed.as_mut().filter(|_| went != Went(self.times)) {
            // It went before the gate was closed: the same sign.
            closed.asked = closed.asked.max(asked);
            self.refused += 1;
        }
        if let Some(asked) = asked {
            self.hold(now + asked, why);
        }
        if went != Went(self.times) {
            return;
        }
        let reach = self.reach();
        self.refused += 1;
        self.excess += 1.0;
        if reach.chance {
            self.doubtful += 1.0;
        }
        // Who waits as asked has lost more by it than a slower rate costs.
        let meant = self.rate.is_some() && asked.is_some_and(|asked| asked >= PAUSE);
        let most = reach.most + self.rate.map_or(0.0, |rate| rate * EVIDENCE.as_secs_f64());
        if meant || again || self.excess >= most {
            self.times += 1;
            self.in_a_row += 1;
            self.closed = Some(Closed { at: now, asked });
            if asked.is_none() {
                let wait = if self.is_heavy() { longest(self.in_a_row) } else { MOMENT };
                self.hold(now + wait, why);
            }
        }
    }

    /// Whether far more was asked than is taken.
    fn is_heavy(&self) -> bool {
        self.in_a_row > 1 || self.refused * 3 > self.sent
    }

    /// The wait is over: the rate is a little less than what was taken before.
    fn open(&mut self, closed: Closed, now: Instant) {
        // Where nobody was answered since the last time, it is not the rate that is at fault.
        if self.in_a_row < 2 || self.rate.is_none() {
            self.slow_down(closed);
        }
        (self.excess, self.doubtful) = (0.0, 0.0);
        (self.next, self.since, self.sent, self.refused) = (now, now, 0, 0);
    }

    fn slow_down(&mut self, closed: Closed) {
        let asked = closed.asked.unwrap_or_default();
        let lasted = closed.at.saturating_duration_since(self.since).max(asked).max(WINDOW).as_secs_f64();
        let taken = self.sent.saturating_sub(self.refused) as f64;
        let believed = match self.rate {
            // Who never answered has not said what it takes either.
            None if self.last_answer.is_none() => FIRST_GUESS,
            None => taken.max(1.0) / lasted,
            Some(rate) if self.is_heavy() => (rate * taken / self.sent.max(1) as f64).clamp(rate / 4.0, rate),
            Some(rate) => rate,
        };
        // The first one is a guess, and no limit that one should be careful near.
        self.ceiling = if self.rate.is_none() { 0.0 } else { believed };
        self.rate = Some((believed * 0.75).max(1.0 / SLOWEST));
    }
}

#[cfg(test)]
mod tests;
