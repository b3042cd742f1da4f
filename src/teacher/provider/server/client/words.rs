//! Why a request has no reply, in words for the user.

use std::time::Duration;

use stillhouse_stage::{Class, Failure};

use super::Client;
use crate::transport::breaker::Down;
use crate::transport::budget::Claims;
use crate::transport::{Cap, Estimate};

impl Client {
    /// Why a request that can take so much is not sent: what the cap is, what is gone of it, and what the request could take.
    pub(crate) fn stop(&self, cap: Cap, wanted: Estimate) -> Failure {
        let Claims { spent, on_their_way, next, beyond_limit } = self.governor.budget().claims(cap, wanted);
        let (most, amount): (f64, fn(f64) -> String) = match cap {
            Cap::Usd(most, _) => (most, |usd| format!("${usd:.4}")),
            Cap::Tokens(most) | Cap::Requests(most) => (most as f64, |count| count.to_string()),
        };
        let (budget, key) = match cap {
            Cap::Usd(most, _) => (format!("${most}"), "budget-usd"),
            Cap::Tokens(most) => (format!("{most} tokens"), "budget-tokens"),
            Cap::Requests(most) => (format!("{most} requests"), "budget-requests"),
        };
        let going = if on_their_way > 0.0 { format!(", {} on their way", amount(on_their_way)) } else { String::new() };
        let like_before = if beyond_limit { ", as replies took more than `max-tokens` before" } else { "" };
        let (spent_words, next) = (amount(spent), amount(next));
        let what = match cap {
            Cap::Requests(_) => format!("is used up ({spent_words} sent{going})"),
            Cap::Usd(..) | Cap::Tokens(_) => format!(
                "has no room for the next request ({spent_words} spent{going}; one more can take {next}{like_before})"
            ),
        };
        let beyond = if spent > most { ": the server bills more than `max-tokens` allow" } else { "" };
        let label = self.endpoint.label();
        let failure = Failure::new(Class::Budget, format!("{label}: the budget of {budget} {what}{beyond}"));
        if spent > most {
            return failure.hint(format!(
                "what was paid for is kept; say with `limits.thinking-tokens` how much the model may think beyond \
                 `max-tokens`, and nothing is sent that `limits.{key}` could not bear"
            ));
        }
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

    pub(super) fn down(&self, Down { failures, what, .. }: Down) -> Failure {
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
