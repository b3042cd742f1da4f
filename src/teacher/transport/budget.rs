//! Money: what is spent, what is on its way, and the cap on both.

use std::sync::{Arc, Mutex, PoisonError};

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

/// The tokens that one model of one server was asked for and is being asked for, whichever table asks.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    input: u64,
    output: u64,
    reserved: Estimate,
}

/// A cap that cannot be overrun: a request starts only if the most that it and all others on their way can cost
/// still fits. Without a cap it only keeps the ledger, for those that have one.
#[derive(Debug)]
pub struct Budget {
    cap: Option<(f64, Prices)>,
    ledger: Arc<Ledger>,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsedUp {
    /// The cap, in US dollars.
    pub cap: f64,
    /// What was spent of it, unanswered requests at the most that they can have cost.
    pub spent: f64,
}

impl Budget {
    /// A cap in US dollars, if there is one, on what `ledger` counts. Its prices are those of the cap: two tables that
    /// price the same tokens differently each reckon in their own.
    #[must_use]
    pub fn new(cap: Option<(f64, Prices)>, ledger: Arc<Ledger>) -> Self {
        Self { cap, ledger }
    }

    /// Sets the most that a request can cost aside; waits while the answer hangs on requests on their way.
    ///
    /// # Errors
    /// [`UsedUp`] if there is not enough left.
    pub async fn reserve(&self, estimate: Estimate) -> Result<(), UsedUp> {
        loop {
            let changed = self.ledger.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.ledger.state.lock().unwrap_or_else(PoisonError::into_inner);
                let with = |prices: Prices, reserved: Estimate| {
                    let input = state.input + reserved.prompt + estimate.prompt;
                    prices.of(input, state.output + reserved.completion + estimate.completion)
                };
                let Some((cap, prices)) = self.cap.filter(|(cap, prices)| with(*prices, state.reserved) > *cap) else {
                    state.reserved.prompt += estimate.prompt;
                    state.reserved.completion += estimate.completion;
                    return Ok(());
                };
                // Even if all on their way cost nothing, it would not fit.
                if with(prices, Estimate::default()) > cap || state.reserved == Estimate::default() {
                    return Err(UsedUp { cap, spent: prices.of(state.input, state.output) });
                }
            }
            changed.await;
        }
    }

    /// Replaces a reservation by what is charged.
    pub fn settle(&self, estimate: Estimate, charged: Estimate) {
        {
            let mut state = self.ledger.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.reserved.prompt -= estimate.prompt;
            state.reserved.completion -= estimate.completion;
            state.input += charged.prompt;
            state.output += charged.completion;
        }
        self.ledger.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICES: Prices = Prices { input: 1e6, output: 1e6 };
    const FIVE: Estimate = Estimate { prompt: 2, completion: 3 };

    #[tokio::test]
    async fn the_cap_is_never_overrun() {
        let budget = Budget::new(Some((12.0, PRICES)), Arc::default());
        budget.reserve(FIVE).await.unwrap();
        budget.settle(FIVE, FIVE);
        budget.reserve(FIVE).await.unwrap();
        budget.settle(FIVE, FIVE);
        assert_eq!(budget.reserve(FIVE).await, Err(UsedUp { cap: 12.0, spent: 10.0 }));
    }

    #[tokio::test]
    async fn a_request_waits_for_those_on_their_way_before_it_gives_up() {
        let budget = Budget::new(Some((8.0, PRICES)), Arc::default());
        budget.reserve(FIVE).await.unwrap();
        let (waited, ()) = tokio::join!(budget.reserve(FIVE), async {
            tokio::task::yield_now().await;
            budget.settle(FIVE, Estimate { prompt: 1, completion: 1 });
        });
        assert_eq!(waited, Ok(()), "the first cost two of its five");
        budget.settle(FIVE, Estimate::default());
        assert_eq!(budget.reserve(FIVE).await, Ok(()), "what was charged with nothing costs nothing");
    }

    #[tokio::test]
    async fn tables_with_one_ledger_each_stop_at_their_own_cap_on_the_same_sum() {
        let ledger = Arc::default();
        let table = |cap| Budget::new(cap, Arc::clone(&ledger));
        let (free, small, large) = (table(None), table(Some((12.0, PRICES))), table(Some((20.0, PRICES))));
        for budget in [&free, &small] {
            budget.reserve(FIVE).await.unwrap();
            budget.settle(FIVE, FIVE);
        }
        assert_eq!(small.reserve(FIVE).await, Err(UsedUp { cap: 12.0, spent: 10.0 }));
        assert_eq!(large.reserve(FIVE).await, Ok(()), "the same ten of twenty");
        let medium = table(Some((16.0, PRICES)));
        let (waited, ()) = tokio::join!(medium.reserve(FIVE), async {
            tokio::task::yield_now().await;
            large.settle(FIVE, Estimate { prompt: 1, completion: 0 });
        });
        assert_eq!(waited, Ok(()), "one waits for what the other has on its way");
        assert_eq!(free.reserve(FIVE).await, Ok(()), "without a cap there is always room");
    }

    #[test]
    fn what_nobody_counted_is_charged_in_full() {
        let used = Usage { prompt: 1, completion: 2 };
        assert_eq!(Cost::Counted(used).tokens(FIVE), Estimate { prompt: 1, completion: 2 });
        assert_eq!(Cost::Counted(Usage::default()).tokens(FIVE), FIVE);
        assert_eq!(Cost::Unknown.tokens(FIVE), FIVE);
        assert_eq!(Cost::Nothing.tokens(FIVE), Estimate::default());
    }
}
