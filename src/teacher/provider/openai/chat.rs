//! Asks a server for a chat completion until there is one, within the teacher's limits.

use std::sync::Arc;

use stillhouse_stage::{Class, Failure};
use tokio_util::sync::CancellationToken;

use super::wire::{self, Body, Unusable};
use crate::reply::Reply;
use crate::request::Request;
use crate::transport::budget::UsedUp;
use crate::transport::{Endpoint, Fault, Governor, retry};

/// A teacher behind a server.
#[derive(Debug)]
pub struct Chat {
    /// The server.
    pub endpoint: Endpoint,
    /// Its limits, shared with other stages that ask it.
    pub governor: Arc<Governor>,
    /// The model's name as the server knows it.
    pub model: String,
    /// Send only what OpenAI's own API has.
    pub strict: bool,
    /// Attempts at one request.
    pub attempts: u32,
}

impl Chat {
    /// Asks, and tries again what is worth it. Once `closing` is cancelled nothing more is sent; what is on its way is
    /// brought home.
    ///
    /// # Errors
    /// A [`Failure`] that names the teacher: of class [`Class::Budget`] where the budget has no room, of class
    /// [`Class::Interrupted`] where it was not sent because of `closing`.
    pub async fn ask(&self, request: &Request, closing: &CancellationToken) -> Result<Reply, Failure> {
        let body = serde_json::to_vec(&Body::of(request, &self.model, self.strict))
            .map_err(|error| Failure::internal(format!("a request cannot be written: {error}")))?;
        let estimate = wire::estimate(request);
        let mut attempt = 1;
        loop {
            let pass = tokio::select! {
                biased;
                () = closing.cancelled() => return Err(Failure::interrupted()),
                pass = self.governor.enter(estimate) => pass.map_err(|used_up| self.stop(used_up))?,
            };
            let (what, asked) = match self.exchange(body.clone(), request).await {
                Ok(reply) => {
                    pass.settle(reply.usage);
                    return Ok(reply);
                }
                Err(Fault::Permanent(failure)) => return Err(failure),
                Err(Fault::Transient { what, retry_after }) => (what, retry_after),
            };
            drop(pass);
            if attempt >= self.attempts {
                return Err(self.give_up(attempt, &what));
            }
            if let Some(asked) = asked {
                self.governor.pause(asked);
            }
            let pause = retry::wait(attempt, asked, spread(&body, attempt));
            tracing::debug!(teacher = self.endpoint.label(), attempt, %what, ?pause, "asking again");
            tokio::select! {
                () = closing.cancelled() => return Err(Failure::interrupted()),
                () = tokio::time::sleep(pause) => {}
            }
            attempt += 1;
        }
    }

    async fn exchange(&self, body: Vec<u8>, request: &Request) -> Result<Reply, Fault> {
        let answer = self.endpoint.post("chat/completions", body).await?;
        wire::parse(&answer, request).map_err(|unusable| match unusable {
            Unusable::Broken(what) => Fault::transient(what),
            Unusable::NoLogProbs => Fault::Permanent(
                Failure::new(Class::Teacher, format!("{} gives no log-probabilities", self.endpoint.label()))
                    .hint("remove `capture`, or ask a server that has them (llama.cpp, vLLM, OpenAI)"),
            ),
        })
    }

    fn stop(&self, UsedUp { cap, spent }: UsedUp) -> Failure {
        Failure::new(
            Class::Budget,
            format!("{}: the budget of ${cap} has no room for the next request (${spent:.4} spent)", self.endpoint.label()),
        )
        .hint("what was paid for is kept: run again to go on, with a larger `limits.budget-usd` if one run shall do it all")
    }

    fn give_up(&self, attempts: u32, what: &str) -> Failure {
        let what = self.endpoint.quote(what);
        Failure::new(Class::Teacher, format!("{} gave no reply in {attempts} attempts: {what}", self.endpoint.label()))
            .hint("what was answered is kept: run again when the server is well, or raise `limits.attempts`")
    }
}

/// A number from 0 to 1 that differs from request to request and from attempt to attempt.
fn spread(body: &[u8], attempt: u32) -> f64 {
    let hash = blake3::Hasher::new().update(body).update(&attempt.to_le_bytes()).finalize();
    f64::from(hash.as_bytes()[0]) / 255.0
}
