//! Money: what is spent, what is on its way, and the cap on both.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

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

/// A cap that cannot be overrun: a request starts only if the most that it and all others on their way can cost
/// still fits.
#[derive(Debug)]
pub struct Budget {
    cap: f64,
    prices: Prices,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    input: u64,
    output: u64,
    reserved: Estimate,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsedUp {
    /// The cap, in US dollars.
    pub cap: f64,
    /// What was spent of it.
    pub spent: f64,
}

impl Budget {
    /// A cap in US dollars.
    #[must_use]
    pub fn new(cap: f64, prices: Prices) -> Self {
        Self { cap, prices, state: Mutex::default(), changed: Notify::new() }
    }

    /// Sets the most that a request can cost aside; waits while the answer hangs on requests on their way.
    ///
    /// # Errors
    /// [`UsedUp`] if there is not enough left.
    pub async fn reserve(&self, estimate: Estimate) -> Result<(), UsedUp> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let with = |reserved: Estimate| {
                    let input = state.input + reserved.prompt + estimate.prompt;
                    self.prices.of(input, state.output + reserved.completion + estimate.completion)
                };
                if with(state.reserved) <= self.cap {
                    state.reserved.prompt += estimate.prompt;
                    state.reserved.completion += estimate.completion;
                    return Ok(());
                }
                // Even if all on their way cost nothing, it would not fit.
                if with(Estimate::default()) > self.cap || state.reserved == Estimate::default() {
                    return Err(UsedUp { cap: self.cap, spent: self.prices.of(state.input, state.output) });
                }
            }
            changed.await;
        }
    }

    /// Replaces a reservation by what was used; `None` if nothing came of it.
    pub fn settle(&self, estimate: Estimate, used: Option<Usage>) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.reserved.prompt -= estimate.prompt;
            state.reserved.completion -= estimate.completion;
            if let Some(used) = used {
                state.input += u64::from(used.prompt);
                state.output += u64::from(used.completion);
            }
        }
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICES: Prices = Prices { input: 1e6, output: 1e6 };
    const FIVE: Estimate = Estimate { prompt: 2, completion: 3 };

    #[tokio::test]
    async fn the_cap_is_never_overrun() {
        let budget = Budget::new(12.0, PRICES);
        budget.reserve(FIVE).await.unwrap();
        budget.settle(FIVE, Some(Usage { prompt: 2, completion: 3 }));
        budget.reserve(FIVE).await.unwrap();
        budget.settle(FIVE, Some(Usage { prompt: 2, completion: 3 }));
        assert_eq!(budget.reserve(FIVE).await, Err(UsedUp { cap: 12.0, spent: 10.0 }));
    }

    #[tokio::test]
    async fn a_request_waits_for_those_on_their_way_before_it_gives_up() {
        let budget = Budget::new(8.0, PRICES);
        budget.reserve(FIVE).await.unwrap();
        let (waited, ()) = tokio::join!(budget.reserve(FIVE), async {
            tokio::task::yield_now().await;
            budget.settle(FIVE, Some(Usage { prompt: 1, completion: 1 }));
        });
        assert_eq!(waited, Ok(()), "the first cost two of its five");
        budget.settle(FIVE, None);
        assert_eq!(budget.reserve(FIVE).await, Ok(()), "what failed costs nothing");
    }
}
