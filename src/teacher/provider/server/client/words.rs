//! Why a request has no reply, in words for the user.

use std::time::Duration;

use stillhouse_stage::{Class, Failure};

use super::Client;
use crate::transport::Cap;
use crate::transport::breaker::Down;
use crate::transport::budget::UsedUp;

impl Client {
    pub(crate) fn stop(&self, UsedUp { cap, spent }: UsedUp) -> Failure {
        let (what, key) = match cap {
            Cap::Usd(cap, _) => {
                (format!("the budget of ${cap} has no room for the next request (${spent:.4} spent)"), "budget-usd")
            }
            Cap::Tokens(cap) => {
                (format!("the budget of {cap} tokens has no room for the next request ({spent} used)"), "budget-tokens")
            }
            Cap::Requests(cap) => (format!("the budget of {cap} requests is used up"), "budget-requests"),
        };
        let most = match cap {
            Cap::Usd(most, _) => most,
            Cap::Tokens(most) | Cap::Requests(most) => most as f64,
        };
        let beyond = if spent > most { ": the server bills more than `max-tokens` allow" } else { "" };
        let failure = Failure::new(Class::Budget, format!("{}: {what}{beyond}", self.endpoint.label()));
        if spent == 0.0 {
            return failure.hint(format!(
                "one request alone can take more than that (a token a byte of the prompt, and `sampling.max-tokens`): lower \
                 `max-tokens`, or raise `limits.{key}`"
            ));
        }
        failure.hint(format!(
            "what was paid for is kept: run again to go on, with a larger `limits.{key}` if one run shall do it all"
        ))
    }

    pub(super) fn down(&self, Down { failures, what }: Down) -> Failure {
        let label = self.endpoint.label();
        Failure::new(Class::Teacher, format!("{label} is down: {failures} requests in a row failed, the last: {what}"))
            .hint("what was answered is kept: run again when the server is well")
    }

    pub(crate) fn asked_too_much(&self, what: &str, asked: Duration) -> Failure {
        let (label, asked, most) = (self.endpoint.label(), asked.as_secs(), self.limits.max_wait.as_secs_f64());
        Failure::new(
            Class::Teacher,
            format!("{label} asks to be left alone for {asked} s, more than the {most} s that are waited: {what}"),
        )
        .hint("what was answered is kept: run again when that time is over, or raise `limits.max-wait-seconds`")
    }

    pub(super) fn always_busy(&self, lasted: Duration, what: &str) -> Failure {
        let (label, lasted) = (self.endpoint.label(), lasted.as_secs());
        Failure::new(Class::Teacher, format!("{label} was too busy for a request for {lasted} s: {what}")).hint(
            "what was answered is kept: run again later, or raise `limits.max-wait-seconds`; is the request larger than a \
             minute's tokens?",
        )
    }

    pub(crate) fn give_up(&self, attempts: u32, what: &str, garbled: bool) -> Failure {
        let hint = if garbled {
            "is `base-url` the address of an API like OpenAI's (it usually ends in `/v1`), with no proxy that breaks replies? what \
             was answered is kept"
        } else {
            "what was answered is kept: run again when the server is well, or raise `limits.attempts`"
        };
        Failure::new(Class::Teacher, format!("{} gave no reply in {attempts} attempts: {what}", self.endpoint.label()))
            .hint(hint)
    }
}
