//! What a stage would ask of others, told before anything is asked.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::path::PathBuf;

use serde::Serialize;
use stillhouse_store::{Record, Store};

use crate::kind::View;
use crate::order::FileInput;

/// What a stage sees when it says what it would ask (see [`crate::StageKind::forecast`]).
pub struct Ahead<'a> {
    /// Its table, and the tables that this names.
    pub view: View<'a>,
    /// Path of a config field → the result of the stage that it names; only results that are there already.
    pub inputs: BTreeMap<&'a str, &'a Record>,
    /// Path of a config field → the result of the stage that it only mentions (`teacher.tokenizer`), where it is there already.
    pub mentioned: BTreeMap<&'a str, &'a Record>,
    /// Path of a config field → the file or folder that it names, the definitions' included (`teacher.model.path`).
    pub files: &'a BTreeMap<String, FileInput>,
    /// The store: what was asked before is in it.
    pub store: &'a Store,
    /// The seed that the stage would run with.
    pub seed: u64,
}

impl Ahead<'_> {
    /// Where a file of an input lies; nothing where the stage that makes it has not run yet, or its result has no such file.
    #[must_use]
    pub fn input_file(&self, port: &str, file: &str) -> Option<PathBuf> {
        let tree = self.store.tree(&self.inputs.get(port)?.output).ok()??;
        let entry = tree.entries().iter().find(|entry| entry.path == file)?;
        Some(self.store.blob_path(&entry.digest))
    }
}

/// What a stage would ask of teachers: requests that are not answered in the store yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Forecast {
    /// Requests.
    pub requests: u64,
    /// Texts in them, where a request carries several: those that get vectors. 0 where a request is a question of its own.
    #[serde(skip_serializing_if = "is_none")]
    pub texts: u64,
    /// Tokens of prompts and replies together, replies at their limit; nothing where none is known.
    pub tokens: Option<u64>,
    /// US dollars for so many tokens; nothing where no price is known.
    pub usd: Option<f64>,
    /// How the tokens of prompts were found.
    pub counted_by: CountedBy,
    /// Images that prompts show; their tokens are estimated from their sizes.
    pub images: u64,
}

/// How tokens were found that nobody has counted yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CountedBy {
    /// Estimated from bytes: the teacher's tokenizer is not at hand.
    #[default]
    Bytes,
    /// Counted with the tokenizer that the teacher names; of very many prompts a part of them.
    Tokenizer,
    /// The one for some requests, the other for others.
    Both,
}

impl AddAssign for Forecast {
    /// A sum with an unknown part is unknown.
    fn add_assign(&mut self, other: Self) {
        self.counted_by = match (self.requests, other.requests) {
            (_, 0) => self.counted_by,
            (0, _) => other.counted_by,
            _ if self.counted_by == other.counted_by => self.counted_by,
            _ => CountedBy::Both,
        };
        self.images += other.images;
        self.requests += other.requests;
        self.texts += other.texts;
        self.tokens = self.tokens.zip(other.tokens).map(|(a, b)| a + b);
        self.usd = self.usd.zip(other.usd).map(|(a, b)| a + b);
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_none(count: &u64) -> bool {
    *count == 0
}
