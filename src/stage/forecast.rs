//! What a stage would ask of others, told before anything is asked.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::Serialize;
use stillhouse_store::{Record, Store};

use crate::kind::View;

/// What a stage sees when it says what it would ask (see [`crate::StageKind::forecast`]).
pub struct Ahead<'a> {
    /// Its table, and the tables that this names.
    pub view: View<'a>,
    /// Path of a config field → the result of the stage that it names; only results that are there already.
    pub inputs: BTreeMap<&'a str, &'a Record>,
    /// The store: what was asked before is in it.
    pub store: &'a Store,
    /// The seed that the stage would run with.
    pub seed: u64,
}

/// What a stage would ask of teachers: requests that are not answered in the store yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Forecast {
    /// Requests.
    pub requests: u64,
    /// Tokens of prompts and replies together, replies at their limit; nothing where none is known. Prompts are estimated
    /// from their bytes where the teacher's tokenizer is not at hand.
    pub tokens: Option<u64>,
    /// US dollars for so many tokens; nothing where no price is known.
    pub usd: Option<f64>,
}

impl AddAssign for Forecast {
    /// A sum with an unknown part is unknown.
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.tokens = self.tokens.zip(other.tokens).map(|(a, b)| a + b);
        self.usd = self.usd.zip(other.usd).map(|(a, b)| a + b);
    }
}
