//! Money, tokens, requests: what is spent, what is on its way, and the caps on both.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::meter::Meter;
use crate::reply::Usage;

/// What tokens cost, in US dollars a million.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Tokens of the prompt.
    pub input: f64,
    /// Tokens of the reply.
    pub output: f64,
}

impl Prices {
    /// The price of so many tokens, in US dollars.
    #[must_use]
    pub fn of(&self, input: u64, output: u64) -> f64 {
        (input as f64 * self.input + output as f64 * self.output) / 1e6
    }
}

/// The most tokens that a request can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the reply.
    pub completion: u64,
}

impl Estimate {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { prompt: self.prompt + other.prompt, completion: self.completion + other.completion }
    }
}

/// What a request cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Nothing: it never arrived, or the server refused it.
    Nothing,
    /// So much, as the server counted it.
    Counted(Usage),
    /// It arrived, and nobody said what it took: as much as it can have taken.
    Unknown,
}

impl Cost {
    /// The tokens to charge for a request that could take `estimate`.
    #[must_use]
    pub fn tokens(self, estimate: Estimate) -> Estimate {
        match self {
            Self::Nothing => Estimate::default(),
            // A server that does not count is believed to have used all of it.
            Self::Unknown => estimate,
            Self::Counted(used) if used == Usage::default() => estimate,
            Self::Counted(used) => Estimate { prompt: used.prompt.into(), completion: used.completion.into() },
        }
    }
}

/// What one model of one server was asked for and is being asked for, whichever table asks.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
    changed: Notify,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens and requests together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    tokens: Estimate,
    requests: u64,
}

impl Sum {
    fn one(tokens: Estimate) -> Self {
        Self { tokens, requests: 1 }
    }

    fn plus(self, other: Self) -> Self {
        Self { tokens: self.tokens.plus(other.tokens), requests: self.requests + other.requests }
    }

    fn minus(self, other: Self) -> Self {
        let tokens = Estimate {
            prompt: self.tokens.prompt - other.tokens.prompt,
            completion: self.tokens.completion - other.tokens.completion,
        };
        Self { tokens, requests: self.requests - other.requests }
    }
}

#[derive(Debug, Default)]
struct State {
    spent: Sum,
    reserved: Sum,
    /// The most tokens that a reply took beyond its limit: a model that thinks may think beyond it, and is paid for it. What it thinks
    /// hangs on what it is asked, not on the limit, so they are added whatever that is.
    beyond: u64,
}

impl State {
    fn expected(&self, estimate: Estimate) -> Estimate {
        Estimate { completion: estimate.completion.saturating_add(self.beyond), ..estimate }
    }
}

/// A cap on what is spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cap {
    /// US dollars, at these prices.
    Usd(f64, Prices),
    /// Tokens, prompts and replies together.
    Tokens(u64),
    /// Requests that are sent, those that are tried again counted every time.
    Requests(u64),
}

impl Cap {
    /// How much of it a sum takes.
    fn of(self, sum: Sum) -> f64 {
        let Estimate { prompt, completion } = sum.tokens;
        match self {
            Self::Usd(_, prices) => prices.of(prompt, completion),
            Self::Tokens(_) => (prompt + completion) as f64,
            Self::Requests(_) => sum.requests as f64,
        }
    }

    fn most(self) -> f64 {
        match self {
            Self::Usd(most, _) => most,
            Self::Tokens(most) | Self::Requests(most) => most as f64,
        }
    }
}

/// Caps on what is spent: a request starts only if the most that it and all others on their way can cost, as far as that is
/// known, still fits. A cap can be overrun where a server bills more beyond the limit of a reply than it did before, and only by
/// what is on its way by then. Without a cap it only keeps the ledger, for those that have one.
#[derive(Debug)]
pub struct Budget {
    caps: Vec<Cap>,
    ledger: Arc<Ledger>,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsedUp {
    /// The cap.
    pub cap: Cap,
    /// What was spent of it, unanswered requests at the most that they can have cost.
    pub spent: f64,
}

/// What lays claim to a cap, all in its measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Claims {
    /// What was spent, unanswered requests at the most that they can have cost.
    pub spent: f64,
    /// The most that requests on their way can cost.
    pub on_their_way: f64,
    /// The most that one more can cost.
    pub next: f64,
    /// Whether that is more than its own limit, because replies took more than theirs.
    pub beyond_limit: bool,
}

impl Budget {
    /// Caps on what `ledger` counts. Prices are those of the cap: two tables that price the same tokens differently
    /// each reckon in their own.
    #[must_use]
    pub fn new(caps: Vec<Cap>, ledger: Arc<Ledger>) -> Self {
        Self { caps, ledger }
    }

    /// Sets the most that a request can cost aside, or what one like it did cost where that was more; waits while the answer hangs
    /// on requests on their way.
    ///
    /// # Errors
    /// [`UsedUp`] if there is not enough left.
    pub async fn reserve(&self, estimate: Estimate) -> Result<Reservation, UsedUp> {
        loop {
            let changed = self.ledger.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(reserved) = self.try_reserve(estimate)? {
                return Ok(reserved);
            }
            changed.await;
        }
    }

    /// As [`Budget::reserve`], but instead of waiting it is nothing where the answer hangs on requests on their way.
    ///
    /// # Errors
    /// [`UsedUp`] if there is not enough left.
    pub fn try_reserve(&self, estimate: Estimate) -> Result<Option<Reservation>, UsedUp> {
        let mut state = self.ledger.lock();
        let limit = estimate.completion;
        let estimate = state.expected(estimate);
        let next = state.spent.plus(Sum::one(estimate));
        let full = |cap: &&Cap| cap.of(next.plus(state.reserved)) > cap.most();
        let Some(cap) = self.caps.iter().find(full) else {
            return Ok(Some(self.set_aside(&mut state, estimate, limit)));
        };
        // Even if all on their way cost nothing, it would not fit. (Another cap may be the one that never does.)
        let never = self.caps.iter().find(|cap| cap.of(next) > cap.most());
        match never.or((state.reserved == Sum::default()).then_some(cap)) {
            Some(cap) => Err(UsedUp { cap: *cap, spent: cap.of(state.spent) }),
            None => Ok(None),
        }
    }

    /// Sets aside what a request can cost that left already, in an earlier run: no cap can hold it back any more.
    pub fn reserve_sent(&self, estimate: Estimate) -> Reservation {
        self.set_aside(&mut self.ledger.lock(), estimate, estimate.completion)
    }

    fn set_aside(&self, state: &mut State, estimate: Estimate, limit: u64) -> Reservation {
        state.reserved = state.reserved.plus(Sum::one(estimate));
        Reservation { ledger: Arc::clone(&self.ledger), estimate, limit, beyond: 0, spent: Sum::default() }
    }

    /// What a cap has to bear, with one more request that can take so much by its own limit.
    #[must_use]
    pub fn claims(&self, cap: Cap, estimate: Estimate) -> Claims {
        let state = self.ledger.lock();
        let expected = state.expected(estimate);
        Claims {
            spent: cap.of(state.spent),
            on_their_way: cap.of(state.reserved),
            next: cap.of(Sum::one(expected)),
            beyond_limit: expected != estimate,
        }
    }
}

/// What is set aside for one request. Dropped without [`Reservation::settle`] it is free again, and nothing was spent.
#[derive(Debug)]
#[must_use = "what is set aside is free again as soon as this is dropped"]
pub struct Reservation {
    ledger: Arc<Ledger>,
    estimate: Estimate,
    /// The tokens that the reply is limited to.
    limit: u64,
    /// Those that it took beyond them.
    beyond: u64,
    /// What takes its place in the end.
    spent: Sum,
}

impl Reservation {
    /// The most that the request can cost.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        self.estimate
    }

    /// The request was sent: what it cost replaces what was set aside for it, and is counted by `meter` as well. Where the reply took
    /// more than its limit the next ones are expected to. Gives what is charged.
    pub fn settle(mut self, cost: Cost, meter: Option<&Meter>) -> Estimate {
        let charged = meter.map_or_else(|| cost.tokens(self.estimate), |meter| meter.charge(cost, self.estimate));
        if let Cost::Counted(used) = cost {
            self.beyond = u64::from(used.completion).saturating_sub(self.limit);
        }
        self.spent = Sum::one(charged);
        charged
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        {
            let mut state = self.ledger.lock();
            state.reserved = state.reserved.minus(Sum::one(self.estimate));
            state.spent = state.spent.plus(self.spent);
            state.beyond = state.beyond.max(self.beyond);
        }
        self.ledger.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
