//! What requests can take at the most, and what they took.

use stillhouse_data::prompt::Message;

use crate::reply::{Reply, Usage};
use crate::request::Request;
use crate::transport::{Cost, Estimate};

/// What an image is reckoned at, in tokens. No API says it beforehand; most models scale images to fewer.
const IMAGE_TOKENS: usize = 4096;

/// The most tokens that a request can take: a token is at least a byte of the prompt, and a chat template adds a few
/// around every message. Of images it can only be guessed.
#[must_use]
pub fn estimate(request: &Request) -> Estimate {
    let of =
        |message: &Message| message.role.len() + message.content.len() + 16 + IMAGE_TOKENS * message.images().count();
    let tokens: usize = request.conversation().iter().map(of).sum();
    Estimate { prompt: tokens as u64 + 16, completion: request.sampling.max_tokens.into() }
}

/// The same of several requests in one body.
pub(super) fn estimate_all(requests: &[Request]) -> Estimate {
    requests.iter().map(estimate).fold(Estimate::default(), |sum, one| Estimate {
        prompt: sum.prompt + one.prompt,
        completion: sum.completion + one.completion,
    })
}

/// What replies to one body took together.
pub(super) fn cost_of(replies: &[Reply]) -> Cost {
    Cost::Counted(replies.iter().map(|reply| reply.usage).fold(Usage::default(), |sum, one| Usage {
        prompt: sum.prompt.saturating_add(one.prompt),
        completion: sum.completion.saturating_add(one.completion),
    }))
}
