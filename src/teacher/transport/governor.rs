//! How much may be under way to one teacher: requests at once, requests and tokens a minute, money.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::budget::{Budget, Estimate, Prices, UsedUp};
use super::rate::Rate;
use crate::reply::Usage;

/// The limits of a teacher, as its definition says them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Requests on their way at once.
    pub concurrency: usize,
    /// Requests a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, prompts and replies together.
    pub tokens_per_minute: Option<u64>,
    /// US dollars a run.
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

/// Keeps the limits of one teacher.
#[derive(Debug)]
pub struct Governor {
    permits: Arc<Semaphore>,
    requests: Option<Rate>,
    tokens: Option<Rate>,
    budget: Option<Budget>,
    paused_until: Mutex<Option<Instant>>,
}

impl Governor {
    /// A governor of its own.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let budget = limits.budget_usd.zip(limits.prices);
        Self {
            permits: Arc::new(Semaphore::new(limits.concurrency.clamp(1, Semaphore::MAX_PERMITS))),
            requests: limits.requests_per_minute.map(|amount| Rate::per_minute(f64::from(amount))),
            tokens: limits.tokens_per_minute.map(|amount| Rate::per_minute(amount as f64)),
            budget: budget.map(|(cap, prices)| Budget::new(cap, prices)),
            paused_until: Mutex::new(None),
        }
    }

    /// The governor of a teacher (`place` is its base URL and model), one for all stages that run at the same time.
    #[must_use]
    pub fn shared(place: &str, limits: &Limits) -> Arc<Self> {
        static GOVERNORS: Mutex<BTreeMap<String, Weak<Governor>>> = Mutex::new(BTreeMap::new());
        let name = format!("{place} {limits:?}");
        let mut governors = GOVERNORS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(governor) = governors.get(&name).and_then(Weak::upgrade) {
            return governor;
        }
        let governor = Arc::new(Self::new(limits));
        governors.retain(|_, governor| governor.strong_count() > 0);
        governors.insert(name, Arc::downgrade(&governor));
        governor
    }

    /// Waits until a request may be sent.
    ///
    /// # Errors
    /// [`UsedUp`] if the budget has no room for it.
    pub async fn enter(self: &Arc<Self>, estimate: Estimate) -> Result<Pass, UsedUp> {
        // The semaphore is never closed, so a failure to acquire it cannot happen; without a permit all else holds.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        if let Some(budget) = &self.budget {
            budget.reserve(estimate).await?;
        }
        let pass = Pass { governor: Arc::clone(self), estimate, settled: false, _permit: permit };
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

/// The right to send one request. Dropped without [`Pass::settle`], it gives back all that it held.
#[derive(Debug)]
pub struct Pass {
    governor: Arc<Governor>,
    estimate: Estimate,
    settled: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pass {
    /// Ends the request: what it used replaces what was set aside for it.
    pub fn settle(mut self, used: Usage) {
        // A server that does not count is believed to have used all of it.
        let all = Usage {
            prompt: u32::try_from(self.estimate.prompt).unwrap_or(u32::MAX),
            completion: u32::try_from(self.estimate.completion).unwrap_or(u32::MAX),
        };
        self.end(Some(if used == Usage::default() { all } else { used }));
    }

    fn end(&mut self, used: Option<Usage>) {
        self.settled = true;
        if let Some(budget) = &self.governor.budget {
            budget.settle(self.estimate, used);
        }
        if let Some(tokens) = &self.governor.tokens {
            let used = used.map_or(0, |used| u64::from(used.prompt) + u64::from(used.completion));
            tokens.give_back((self.estimate.prompt + self.estimate.completion) as f64 - used as f64);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.settled {
            self.end(None);
        }
    }
}
