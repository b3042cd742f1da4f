//! What one stage spends: the same sums as the ledger's, from the same places, so that a record cannot say anything else.

use std::sync::{Mutex, PoisonError};

use super::budget::{Cost, Estimate};
use crate::reply::Usage;

/// What requests cost that were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Requests, those that were tried again counted every time.
    pub requests: u64,
    /// Those of them that are paid, or may have to be: all but the ones that the server refused.
    pub billed: u64,
    /// Tokens: as the server counted them, and as much as can be where it did not.
    pub tokens: Estimate,
    /// Requests of which nobody said what they took, though they may have to be paid.
    pub not_reported: u64,
    /// Those of them that were answered all the same: the server does not count.
    pub uncounted_replies: u64,
    /// The part of `tokens` that is assumed for them.
    pub assumed: Estimate,
    /// The part of `assumed` for requests that were not answered.
    pub unanswered: Estimate,
}

/// Counts what a stage spends.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Spent>);

impl Meter {
    /// Counts a request that was sent; gives what is charged for it.
    pub fn charge(&self, cost: Cost, reserved: Estimate) -> Estimate {
        let charged = cost.tokens(reserved);
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spent.requests += 1;
        spent.billed += u64::from(cost != Cost::Nothing);
        spent.tokens = spent.tokens.plus(charged);
        let uncounted = cost == Cost::Counted(Usage::default());
        if uncounted || cost == Cost::Unknown {
            spent.not_reported += 1;
            spent.uncounted_replies += u64::from(uncounted);
            spent.assumed = spent.assumed.plus(charged);
            if !uncounted {
                spent.unanswered = spent.unanswered.plus(charged);
            }
        }
        charged
    }

    /// What was spent so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spent {
    /// Writes what was paid for into a record, and what of it is assumed.
    pub fn add_to(&self, metrics: &mut serde_json::Value, prices: Option<super::Prices>) {
        let tokens = |of: Estimate| serde_json::json!({ "prompt": of.prompt, "completion": of.completion });
        metrics["paid-tokens"] = tokens(self.tokens);
        if let Some(prices) = prices {
            metrics["spend-usd"] = serde_json::json!(prices.of(self.tokens.prompt, self.tokens.completion));
        }
        if self.not_reported > 0 {
            metrics["not-reported"] =
                serde_json::json!({ "requests": self.not_reported, "assumed-tokens": tokens(self.assumed) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_counted_is_assumed_and_flagged() {
        let (meter, reserved) = (Meter::default(), Estimate { prompt: 10, completion: 20 });
        meter.charge(Cost::Counted(Usage { prompt: 3, completion: 2 }), reserved);
        meter.charge(Cost::Nothing, reserved);
        assert_eq!((meter.spent().not_reported, meter.spent().requests), (0, 2));
        meter.charge(Cost::Counted(Usage::default()), reserved);
        meter.charge(Cost::Unknown, reserved);
        let spent = meter.spent();
        assert_eq!((spent.not_reported, spent.uncounted_replies, spent.requests, spent.billed), (2, 1, 4, 3));
        assert_eq!(spent.tokens, Estimate { prompt: 23, completion: 42 });
        assert_eq!(spent.assumed, Estimate { prompt: 20, completion: 40 });
        assert_eq!(spent.unanswered, Estimate { prompt: 10, completion: 20 });
    }
}
