//! What differs between servers: how a request is written down and what a reply means. Retries, limits, budget, keys
//! and the store know an API only through this.

use std::fmt;

use crate::reply::{Reply, Usage};
use crate::request::Request;

/// Bytes of a body that is no reply which are told: whoever shows them takes the key out and cuts them shorter.
const TOLD_BYTES: usize = 64 << 10;

/// One way of talking to a server. An implementation holds the model's name and what else is the same for all requests.
pub trait Api: fmt::Debug + Send + Sync {
    /// The path below the base URL.
    fn path(&self) -> &'static str;

    /// Whether its requests can show images.
    fn takes_images(&self) -> bool {
        false
    }

    /// The body of a request.
    ///
    /// # Errors
    /// What JSON cannot hold.
    fn body(&self, request: &Request) -> serde_json::Result<Vec<u8>>;

    /// What the body of a successful answer means.
    ///
    /// # Errors
    /// [`Unusable`].
    fn parse(&self, body: &[u8], request: &Request) -> Result<Reply, Unusable>;

    /// What a body says it took, though it may be no reply otherwise.
    fn usage(&self, body: &[u8]) -> Option<Usage>;

    /// Requests that go in one body at most.
    fn together(&self) -> usize {
        1
    }

    /// Whether it makes vectors: what is asked are then texts, and a request to the server is a body of them.
    fn makes_vectors(&self) -> bool {
        false
    }

    /// The body of several requests, no more than [`Api::together`].
    ///
    /// # Errors
    /// What JSON cannot hold.
    fn body_of_all(&self, requests: &[Request]) -> serde_json::Result<Vec<u8>> {
        requests.first().map_or(Ok(Vec::new()), |request| self.body(request))
    }

    /// What the body of a successful answer to several requests means: a reply for each, in their order.
    ///
    /// # Errors
    /// [`Unusable`].
    fn parse_all(&self, body: &[u8], requests: &[Request]) -> Result<Vec<Reply>, Unusable> {
        requests.iter().map(|request| self.parse(body, request)).collect()
    }
}

/// How a server is told who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer …`
    Bearer,
    /// A header of its own, and others that must stand beside it.
    Header {
        /// The header that carries the key.
        key: &'static str,
        /// Name and value of the others.
        also: &'static [(&'static str, &'static str)],
    },
}

/// Why a body with status 200 is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Broken or empty: the next attempt may bring a better one.
    Broken(String),
    /// Without the log-probabilities that were asked for.
    NoLogProbs,
}

impl Unusable {
    /// A body that does not parse. Written anew where it is JSON, so that no escape hides a key from whoever takes it
    /// out.
    #[must_use]
    pub fn not_valid(body: &[u8], error: &serde_json::Error) -> Self {
        let told = serde_json::from_slice::<serde_json::Value>(body).map_or_else(
            |_| String::from_utf8_lossy(&body[..body.len().min(TOLD_BYTES)]).into_owned(),
            |value| value.to_string(),
        );
        Self::Broken(format!("the reply is not valid: {error}: {told}"))
    }

    /// A failure that a gateway passes on with status 200.
    #[must_use]
    pub fn passed_on(error: &serde_json::Value) -> Self {
        let message = error.get("message").unwrap_or(error);
        let message = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
        Self::Broken(format!("the reply is an error: {message}"))
    }
}
