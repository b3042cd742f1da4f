//! How much may be under way to one teacher: requests at once, requests and tokens a minute, money.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::allowance::{Allowance, Allowed};
use super::budget::{Budget, Cap, Cost, Estimate, Ledger, Prices, Reservation, UsedUp};
use super::meter::Meter;
use super::pace::{Pace, Went};
use super::rate::Rate;

/// The limits of a teacher, as its definition says them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Requests on their way at once.
    pub concurrency: usize,
    /// Requests a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, prompts and replies together.
    pub tokens_per_minute: Option<u64>,
    /// Tokens of prompts a minute.
    pub input_tokens_per_minute: Option<u64>,
    /// Tokens of replies a minute.
    pub output_tokens_per_minute: Option<u64>,
    /// US dollars a run, which is the life of the process.
    pub budget_usd: Option<f64>,
    /// Tokens a run.
    pub budget_tokens: Option<u64>,
    /// Requests a run.
    pub budget_requests: Option<u64>,
    /// What tokens cost.
    pub prices: Option<Prices>,
    /// The longest that one attempt may take.
    pub timeout: Duration,
    /// Attempts at one request.
    pub attempts: u32,
    /// The longest that a server may ask to be left alone.
    pub max_wait: Duration,
    /// Failures in a row after which the server counts as down.
    pub failures_in_a_row: u32,
}

impl Default for Limits {
    /// What a definition without limits has.
    fn default() -> Self {
        Self {
            concurrency: 16,
            requests_per_minute: None,
            tokens_per_minute: None,
            input_tokens_per_minute: None,
            output_tokens_per_minute: None,
            budget_usd: None,
            budget_tokens: None,
            budget_requests: None,
            prices: None,
            timeout: Duration::from_secs(300),
            attempts: 8,
            max_wait: Duration::from_secs(600),
            failures_in_a_row: 20,
        }
    }
}

impl Limits {
    fn caps(&self) -> Vec<Cap> {
        let usd = self.budget_usd.zip(self.prices).map(|(cap, prices)| Cap::Usd(cap, prices));
        let others = [self.budget_tokens.map(Cap::Tokens), self.budget_requests.map(Cap::Requests)];
        [usd].into_iter().chain(others).flatten().collect()
    }

    fn token_rates(&self) -> Vec<TokenRate> {
        let of = |amount: Option<u64>, counts: fn(Estimate) -> u64| {
            amount.map(|amount| TokenRate { rate: Rate::per_minute(amount as f64), counts })
        };
        let rates = [
            of(self.tokens_per_minute, |tokens| tokens.prompt + tokens.completion),
            of(self.input_tokens_per_minute, |tokens| tokens.prompt),
            of(self.output_tokens_per_minute, |tokens| tokens.completion),
        ];
        rates.into_iter().flatten().collect()
    }
}

/// A rate of tokens, and which of them it counts.
#[derive(Debug)]
struct TokenRate {
    rate: Rate,
    counts: fn(Estimate) -> u64,
}

/// A model of a server: one ledger, and a governor for each set of limits.
#[derive(Debug, Default)]
struct Place {
    ledger: Arc<Ledger>,
    governors: BTreeMap<String, Arc<Governor>>,
}

/// Keeps the limits of one teacher.
#[derive(Debug)]
pub struct Governor {
    permits: Arc<Semaphore>,
    requests: Option<Rate>,
    tokens: Vec<TokenRate>,
    budget: Budget,
    /// Requests that were sent and have not ended.
    in_flight: AtomicUsize,
    pace: Pace,
}

impl Governor {
    /// A governor of its own.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self::with(limits, Arc::default())
    }

    fn with(limits: &Limits, ledger: Arc<Ledger>) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.concurrency.clamp(1, Semaphore::MAX_PERMITS))),
            requests: limits.requests_per_minute.map(|amount| Rate::per_minute(f64::from(amount))),
            tokens: limits.token_rates(),
            budget: Budget::new(limits.caps(), ledger),
            in_flight: AtomicUsize::new(0),
            pace: Pace::default(),
        }
    }

    /// The governor of a teacher. `place` is its base URL and model.
    ///
    /// Both the governor and what was spent outlive the stages: a process is one run, and the budget, the rates and a
    /// server's wish to be left alone hold for the whole of it. Tables with the same place and limits share a governor.
    /// Tables with the same place and other limits have their own rates and their own cap, but the caps look at one
    /// ledger: what one table spends there, the others see as spent.
    #[must_use]
    pub fn shared(place: &str, limits: &Limits) -> Arc<Self> {
        static PLACES: Mutex<BTreeMap<String, Place>> = Mutex::new(BTreeMap::new());
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let Place { ledger, governors } = places.entry(place.to_owned()).or_default();
        let governor = governors.entry(format!("{limits:?}"));
        Arc::clone(governor.or_insert_with(|| Arc::new(Self::with(limits, Arc::clone(ledger)))))
    }

    /// Waits until a request may be sent.
    ///
    /// # Errors
    /// [`UsedUp`] if the budget has no room for it.
    pub async fn enter(self: &Arc<Self>, estimate: Estimate) -> Result<Pass, UsedUp> {
        // The semaphore is never closed, so a failure to acquire it cannot happen; without a permit all else holds.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let reservation = self.budget.reserve(estimate).await?;
        let estimate = reservation.estimate();
        let mut pass = Pass {
            governor: Arc::clone(self),
            reservation: Some(reservation),
            taken: Taken::default(),
            sent: None,
            meter: None,
            _permit: permit,
        };
        if let Some(requests) = &self.requests {
            requests.take(1.0).await;
            pass.taken.request = true;
        }
        for TokenRate { rate, counts } in &self.tokens {
            rate.take(counts(estimate) as f64).await;
            pass.taken.token_rates += 1;
        }
        // The last of all: others may have been told to wait while this one stood in line for its rate.
        self.pace.take().await;
        Ok(pass)
    }

    /// The budget alone, for requests that are handed in together: the other limits are about single ones.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Holds all requests back for a while: the server asked for it, in these words.
    pub fn pause(&self, duration: Duration, why: &str) {
        self.pace.hold(duration, why);
    }

    /// Holds requests back before the server refuses them: its answer said how much it would still take, and when it
    /// takes more. `used` is what a request like those on their way costs; no pause is longer than `most`.
    ///
    /// # Errors
    /// [`LeftAlone`] if it takes none for longer than that.
    pub fn heed(&self, allowances: &[Allowance], used: Estimate, most: Duration) -> Result<(), LeftAlone> {
        let on_their_way = self.in_flight.load(Ordering::Relaxed).max(1) as f64;
        for allowance in allowances {
            let each = match allowance.what {
                Allowed::Requests => 1,
                Allowed::Tokens => used.prompt + used.completion,
                Allowed::InputTokens => used.prompt,
                Allowed::OutputTokens => used.completion,
            } as f64;
            let alone = allowance.wait(each);
            if alone > most {
                return Err(LeftAlone { wait: alone, why: allowance.words() });
            }
            let wait = allowance.wait(each * on_their_way).min(most);
            if wait.is_zero() {
                continue;
            }
            self.pace.hold(wait, &allowance.words());
            if let Some(refill) = allowance.refill().filter(|_| each > 0.0) {
                self.pace.at_most(refill / each);
            }
        }
        Ok(())
    }

    /// How many requests a second go, if the server takes only so many.
    #[must_use]
    pub fn pace(&self) -> Option<f64> {
        self.pace.rate()
    }

    /// Until when nothing is sent, and why.
    #[must_use]
    pub fn held(&self) -> Option<(Instant, String)> {
        self.pace.held()
    }

    /// When the last request was answered, whichever it was.
    #[must_use]
    pub fn last_answer(&self) -> Option<Instant> {
        self.pace.last_answer()
    }
}

/// The server takes nothing for longer than is waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftAlone {
    /// How long.
    pub wait: Duration,
    /// By which of its words.
    pub why: String,
}

/// What was taken of the rates: whoever is called off while it waits for one gives back no more than that.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    /// Of the rate of requests.
    request: bool,
    /// Of how many of the rates of tokens, in their order.
    token_rates: usize,
}

/// The right to send one request. Dropped without [`Pass::settle`], it gives back all that it held if the request was not
/// sent yet, and is charged with all of it otherwise: the server may be at work, and be paid for it.
#[derive(Debug)]
pub struct Pass {
    governor: Arc<Governor>,
    /// What is set aside; nothing once it has ended.
    reservation: Option<Reservation>,
    taken: Taken,
    sent: Option<Went>,
    /// Counts for the stage what the ledger counts for all.
    meter: Option<Arc<Meter>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pass {
    /// What the request costs is counted there, too.
    #[must_use]
    pub fn counted_by(mut self, meter: &Arc<Meter>) -> Self {
        self.meter = Some(Arc::clone(meter));
        self
    }

    /// The request is being sent: from now on it may cost something.
    pub fn send(&mut self) {
        self.sent = Some(self.governor.pace.sent());
        self.governor.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the request: what it cost replaces what was set aside for it.
    pub fn settle(mut self, cost: Cost) {
        if let (Some(_), Cost::Counted(_)) = (self.sent, cost) {
            self.governor.pace.answered();
        }
        self.end(cost);
    }

    /// Ends a request that the server refused because there are too many; `asked` is how long it wants to be left alone,
    /// `again` whether this request was refused before, and no other one answered since.
    pub fn refuse(mut self, asked: Option<Duration>, again: bool, why: &str) {
        if let Some(went) = self.sent {
            self.governor.pace.refused(went, asked, again, why);
        }
        self.end(Cost::Nothing);
    }

    fn end(&mut self, cost: Cost) {
        let Some(reservation) = self.reservation.take() else { return };
        let reserved = reservation.estimate();
        let charged = match self.sent {
            Some(_) => reservation.settle(cost, self.meter.as_deref()),
            None => Estimate::default(),
        };
        if self.sent.is_some() {
            self.governor.in_flight.fetch_sub(1, Ordering::Relaxed);
        } else if let Some(requests) = self.governor.requests.as_ref().filter(|_| self.taken.request) {
            requests.give_back(1.0);
        }
        for TokenRate { rate, counts } in self.governor.tokens.iter().take(self.taken.token_rates) {
            rate.give_back(counts(reserved) as f64 - counts(charged) as f64);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.end(if self.sent.is_some() { Cost::Unknown } else { Cost::Nothing });
    }
}

#[cfg(test)]
mod tests;
