//! A server of which a share of the answers is broken in one way or another; which ones depends on nothing but the
//! prompts, so that two runs see the same faults.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::{Act, Asked};

/// A slow answer is this slow.
const SLOW: Duration = Duration::from_millis(40);

/// One way to break an answer; `good` is the body that would have been right.
type Break = fn(good: serde_json::Value) -> Act;

/// Every way, by its name. Log-probabilities that are missing or no numbers are only broken where they were asked for.
static KINDS: &[(&str, Break)] = &[
    ("429 with Retry-After", |_| {
        Act::status(429, r#"{"error":{"message":"slow down"}}"#).with_header("retry-after", "0")
    }),
    ("429", |_| Act::status(429, "{}")),
    ("500", |_| Act::status(500, "oops")),
    ("503", |_| Act::status(503, r#"{"error":"overloaded"}"#)),
    ("slow", |good| Act::ok(good.to_string()).after(SLOW)),
    ("cut body", |good| Act::HalfBody(good.to_string().into_bytes())),
    ("wrong JSON", |_| Act::ok("<html>busy</html>")),
    ("no log-probabilities", |mut good| {
        good["choices"][0]["logprobs"] = json!(null);
        Act::ok(good.to_string())
    }),
    ("NaN log-probabilities", |good| Act::ok(good.to_string().replace("-0.25", "NaN"))),
    ("no choices", |mut good| {
        good["choices"] = json!([]);
        Act::ok(good.to_string())
    }),
    ("reset", |_| Act::Reset),
];

/// The script of such a server: answers every prompt with `answer to: ` and the prompt, with log-probabilities.
#[derive(Debug)]
pub struct Faults {
    share: f64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Prompt → how often it was asked.
    asked: BTreeMap<u64, u32>,
    good: u64,
    broken: BTreeMap<&'static str, u64>,
}

impl Faults {
    /// A share from 0 to 1 of the answers is broken.
    #[must_use]
    pub fn new(share: f64) -> Self {
        Self { share, state: Mutex::default() }
    }

    /// What to do with a request.
    #[must_use]
    pub fn act(&self, asked: &Asked) -> Act {
        let prompt = asked.last_message();
        let hash = |salt: u32| {
            let hash = blake3::Hasher::new().update(prompt.as_bytes()).update(&salt.to_le_bytes()).finalize();
            let bytes = hash.as_bytes();
            u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
        };
        let text = format!("answer to: {prompt}");
        let token = json!({ "token": text, "logprob": -0.25 });
        let good = json!({
            // The same for all, as careless servers have it: no reply is known by it.
            "id": "chatcmpl-0", "model": "fake-1",
            "choices": [{
                "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": text },
                "logprobs": { "content": [{ "token": text, "logprob": -0.25, "top_logprobs": [token] }] },
            }],
            "usage": { "prompt_tokens": 7, "completion_tokens": 4 },
        });
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let times = state.asked.entry(hash(0)).or_default();
        *times += 1;
        let drawn = hash(*times);
        if (drawn >> 32) as f64 / f64::from(u32::MAX) >= self.share {
            state.good += 1;
            return Act::ok(good.to_string());
        }
        let (name, break_it) = KINDS[drawn as usize % KINDS.len()];
        *state.broken.entry(name).or_default() += 1;
        state.good += u64::from(name == "slow");
        drop(state);
        break_it(good)
    }

    /// Good answers that were sent.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).good
    }

    /// Answers that were broken, by the way they were; slow ones are among them.
    #[must_use]
    pub fn broken(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).broken.clone()
    }
}
