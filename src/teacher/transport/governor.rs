//! How much may be under way to one teacher: requests at once, requests and tokens a minute, money.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::budget::{Budget, Cost, Estimate, Ledger, Prices, UsedUp};
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
    /// US dollars a run, which is the life of the process.
    pub budget_usd: Option<f64>,
    /// What tokens cost.
    pub prices: Option<Prices>,
    /// The longest that one attempt may take.
    pub timeout: Duration,
    /// Attempts at one request.
    pub attempts: u32,
    /// The longest that a server may ask to be left alone.
    pub max_wait: Duration,
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
    tokens: Option<Rate>,
    budget: Budget,
    paused_until: Mutex<Option<Instant>>,
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
            tokens: limits.tokens_per_minute.map(|amount| Rate::per_minute(amount as f64)),
            budget: Budget::new(limits.budget_usd.zip(limits.prices), ledger),
            paused_until: Mutex::new(None),
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
        self.budget.reserve(estimate).await?;
        let pass = Pass { governor: Arc::clone(self), estimate, sent: false, settled: false, _permit: permit };
        while let Some(until) = self.paused() {
            tokio::time::sleep_until(until).await;
        }
        if let Some(requests) = &self.requests {
            requests.take(1.0).await;
        }
        if let Some(tokens) = &self.tokens {
            tokens.take((estimate.prompt + estimate.completion) as f64).await;
        }
        Ok(pass)
    }

    /// Holds all requests back for a while: the server asked for it.
    pub fn pause(&self, duration: Duration) {
        let until = Instant::now() + duration;
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |earlier| earlier.max(until)));
    }

    fn paused(&self) -> Option<Instant> {
        let paused = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        paused.filter(|until| *until > Instant::now())
    }
}

/// The right to send one request. Dropped without [`Pass::settle`], it gives back all that it held if the request was not
/// sent yet, and is charged with all of it otherwise: the server may be at work, and be paid for it.
#[derive(Debug)]
pub struct Pass {
    governor: Arc<Governor>,
    estimate: Estimate,
    sent: bool,
    settled: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pass {
    /// The request is being sent: from now on it may cost something.
    pub fn send(&mut self) {
        self.sent = true;
    }

    /// Ends the request: what it cost replaces what was set aside for it.
    pub fn settle(mut self, cost: Cost) {
        self.end(cost);
    }

    fn end(&mut self, cost: Cost) {
        self.settled = true;
        let charged = cost.tokens(self.estimate);
        self.governor.budget.settle(self.estimate, charged);
        if let Some(tokens) = &self.governor.tokens {
            let sum = |tokens: Estimate| (tokens.prompt + tokens.completion) as f64;
            tokens.give_back(sum(self.estimate) - sum(charged));
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.settled {
            self.end(if self.sent { Cost::Unknown } else { Cost::Nothing });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Usage;

    const ONE: Estimate = Estimate { prompt: 1, completion: 1 };

    fn limits(budget_usd: f64) -> Limits {
        Limits {
            concurrency: 4,
            requests_per_minute: None,
            tokens_per_minute: None,
            budget_usd: Some(budget_usd),
            prices: Some(Prices { input: 1e6, output: 1e6 }),
            timeout: Duration::from_secs(1),
            attempts: 1,
            max_wait: Duration::ZERO,
        }
    }

    async fn spend(limits: &Limits) -> Result<(), UsedUp> {
        // Gotten anew every time, as every stage does, and dropped in between.
        let governor = Governor::shared("http://here/v1 spends", limits);
        governor.enter(ONE).await.map(|pass| pass.settle(Cost::Counted(Usage { prompt: 1, completion: 1 })))
    }

    #[tokio::test]
    async fn one_stage_after_another_spends_of_one_budget_whatever_the_other_limits() {
        let (four, eight) = (limits(4.0), Limits { concurrency: 1, ..limits(8.0) });
        spend(&four).await.unwrap();
        spend(&four).await.unwrap();
        assert_eq!(spend(&four).await, Err(UsedUp { cap: 4.0, spent: 4.0 }));
        spend(&eight).await.unwrap();
        spend(&eight).await.unwrap();
        assert_eq!(spend(&eight).await, Err(UsedUp { cap: 8.0, spent: 8.0 }));
        assert!(Governor::shared("http://here/v1 other", &four).enter(ONE).await.is_ok(), "another model");
    }

    #[tokio::test]
    async fn a_pass_that_is_dropped_costs_nothing_before_it_is_sent_and_everything_after() {
        let governor = Arc::new(Governor::new(&limits(2.0)));
        drop(governor.enter(ONE).await.unwrap());
        let mut pass = governor.enter(ONE).await.unwrap();
        pass.send();
        drop(pass);
        assert_eq!(governor.enter(ONE).await.unwrap_err(), UsedUp { cap: 2.0, spent: 2.0 });
    }
}
