//! What the body of an answer says, and what it tells of the server.

use std::sync::atomic::Ordering;

use stillhouse_stage::{Class, Failure};

use super::{Client, WITHOUT, cost_of};
use crate::provider::api::Unusable;
use crate::reply::Reply;
use crate::request::Request;
use crate::transport::{Cost, Fault};

impl Client {
    /// What the body of a successful answer says, without the key if it repeats that.
    ///
    /// # Errors
    /// If it is no reply, with what it cost all the same.
    pub fn read(&self, body: &[u8], request: &Request) -> Result<Reply, (Fault, Cost)> {
        let replies = self.read_all(body, std::slice::from_ref(request))?;
        let nothing = || (Fault::Garbled { what: "the reply is empty".to_owned() }, Cost::Unknown);
        replies.into_iter().next().ok_or_else(nothing)
    }

    pub(super) fn read_all(&self, body: &[u8], requests: &[Request]) -> Result<Vec<Reply>, (Fault, Cost)> {
        let mut replies = self.api.parse_all(body, requests).map_err(|unusable| {
            let used = self.api.usage(body).map_or(Cost::Unknown, Cost::Counted);
            (self.unusable(unusable), used)
        })?;
        if self.api.together() == 1 && !replies.iter().all(|reply| self.says_why(reply)) {
            let what = "the reply does not say why it ended (`finish_reason`): it may have broken off".to_owned();
            return Err((Fault::Garbled { what }, cost_of(&replies)));
        }
        replies.iter_mut().for_each(|reply| self.look_at(reply));
        Ok(replies)
    }

    /// Notes what a reply says of the server, and takes the key out of it.
    fn look_at(&self, reply: &mut Reply) {
        if reply.tokens.as_ref().is_some_and(|tokens| !tokens.is_empty()) {
            self.gave_log_probs.store(true, Ordering::Relaxed);
        }
        if self.endpoint.mask(reply) {
            self.masked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a reply says why it ended. A server that never does, several replies long, is believed to have no word for it.
    fn says_why(&self, reply: &Reply) -> bool {
        if !reply.finish.is_empty() {
            self.gave_reasons.store(true, Ordering::Relaxed);
            return true;
        }
        let without = self.without_reasons.fetch_add(1, Ordering::Relaxed) + 1;
        !self.gave_reasons.load(Ordering::Relaxed) && without >= WITHOUT
    }

    fn unusable(&self, unusable: Unusable) -> Fault {
        match unusable {
            Unusable::Broken(what) => Fault::Garbled { what: self.endpoint.quote(&what) },
            Unusable::NoLogProbs => {
                let without = self.without_log_probs.fetch_add(1, Ordering::Relaxed) + 1;
                if self.gave_log_probs.load(Ordering::Relaxed) || without < WITHOUT {
                    return Fault::Garbled { what: "the reply has no log-probabilities".to_owned() };
                }
                let message = format!("{} gives no log-probabilities", self.endpoint.label());
                Fault::Permanent(
                    Failure::new(Class::Teacher, message)
                        .hint("remove `capture`, or ask a server that has them (llama.cpp, vLLM, OpenAI)"),
                )
            }
        }
    }
}
