//! What the stage writes: new prompts in the order of their requests, where each is from, and what was left out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stillhouse_data::jsonl::JsonlWriter;
use stillhouse_data::prompt::{Message, PROMPTS_FILE, Prompt, write_prompts};
use stillhouse_stage::Failure;

use super::config::ExpandConfig;
use super::parse::{Reject, candidates};
use super::pool::{Planned, Pool};
use crate::reply::Reply;

/// Where each new prompt is from, one [`Written`] a line, in the order of the new prompts.
pub const ORIGINS_FILE: &str = "origins.jsonl";
/// What was left out, one [`LeftOut`] a line; only where there is any.
pub const LEFT_OUT_FILE: &str = "dropped.jsonl";

/// Where a new prompt is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its id.
    pub prompt: String,
    /// The round, from 1.
    pub round: u32,
    /// The request, counted over all rounds from 1.
    pub request: u64,
    /// The ids of the prompts that the request showed.
    pub from: Vec<String>,
}

/// Something that the teacher wrote and that is no new prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The round, from 1.
    pub round: u32,
    /// The request, counted over all rounds from 1.
    pub request: u64,
    /// Why.
    pub why: String,
    /// What is to be said beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What the teacher wrote.
    pub text: String,
}

/// Writes the artifact of an `expand` stage, and counts.
pub struct Output<'a> {
    config: &'a ExpandConfig,
    prompts: JsonlWriter<Prompt>,
    origins: JsonlWriter<Written>,
    /// Created with the first that is left out.
    left_out: Option<JsonlWriter<LeftOut>>,
    folder: PathBuf,
    seeds: usize,
    accepted: u64,
    dropped: BTreeMap<&'static str, u64>,
    rounds: Vec<Round>,
}

#[derive(Default, Serialize)]
struct Round {
    requests: u64,
    candidates: u64,
    accepted: u64,
}

impl<'a> Output<'a> {
    /// Creates the files in a folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path, config: &'a ExpandConfig, seeds: &[Prompt]) -> Result<Self, Failure> {
        let mut prompts = write_prompts(&folder.join(PROMPTS_FILE))?;
        for seed in seeds.iter().filter(|_| config.keep_seeds) {
            prompts.write(seed)?;
        }
        Ok(Self {
            config,
            prompts,
            origins: JsonlWriter::create(&folder.join(ORIGINS_FILE))?,
            left_out: None,
            folder: folder.to_owned(),
            seeds: seeds.len(),
            accepted: 0,
            dropped: BTreeMap::new(),
            rounds: Vec::new(),
        })
    }

    /// Whether there are as many new prompts as wanted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.config.limit.is_some_and(|limit| self.accepted >= limit as u64)
    }

    /// What follows belongs to the next round.
    pub fn begin_round(&mut self) {
        self.rounds.push(Round::default());
    }

    /// Takes the reply to a request.
    ///
    /// # Errors
    /// If what is in it cannot be written.
    pub fn take(&mut self, planned: &Planned, reply: &Reply, pool: &mut Pool) -> Result<(), Failure> {
        let (mut found, mut accepted) = (0, 0);
        for (text, fits) in candidates(reply, self.config) {
            found += 1;
            let rejected = match fits {
                Err(reject) => Some(reject),
                Ok(()) if self.is_full() => Some(Reject::Limit),
                Ok(()) => self.accept(planned, &text, pool)?,
            };
            match rejected {
                None => accepted += 1,
                Some(reject) => {
                    // Nobody said anything: what came instead is all that there is to tell.
                    let instead = (!reply.outcome.was_answered()).then_some(reply.finish.as_str());
                    self.leave_out(planned, &reject, text, instead)?;
                }
            }
        }
        if let Some(round) = self.rounds.last_mut() {
            round.requests += 1;
            round.candidates += found;
            round.accepted += accepted;
        }
        Ok(())
    }

    fn round(&self) -> u32 {
        self.rounds.len() as u32
    }

    fn accept(&mut self, planned: &Planned, text: &str, pool: &mut Pool) -> Result<Option<Reject>, Failure> {
        let system = self.config.system.as_deref().map(Message::system);
        let prompt = Prompt::new(system.into_iter().chain([Message::user(text)]).collect(), None);
        if let Some(known) = pool.take(&prompt.id, text, self.round())? {
            return Ok(Some(known.into()));
        }
        let (request, from) = (planned.question.number, planned.from.clone());
        self.origins.write(&Written { prompt: prompt.id.clone(), round: self.round(), request, from })?;
        self.prompts.write(&prompt)?;
        self.accepted += 1;
        Ok(None)
    }

    fn leave_out(
        &mut self,
        planned: &Planned,
        reject: &Reject,
        text: String,
        instead: Option<&str>,
    ) -> Result<(), Failure> {
        *self.dropped.entry(reject.name()).or_default() += 1;
        let left_out = LeftOut {
            round: self.round(),
            request: planned.question.number,
            why: reject.name().to_owned(),
            detail: reject.detail().or(instead).map(str::to_owned),
            text,
        };
        let file = match &mut self.left_out {
            Some(file) => file,
            none => none.insert(JsonlWriter::create(&self.folder.join(LEFT_OUT_FILE))?),
        };
        file.write(&left_out)?;
        Ok(())
    }

    /// Completes the files and gives the figures for the record.
    ///
    /// # Errors
    /// If they cannot be written; if there is not one new prompt.
    pub fn finish(self, teacher: &str) -> Result<Value, Failure> {
        let requests: u64 = self.rounds.iter().map(|round| round.requests).sum();
        if self.accepted == 0 {
            let kinds: Vec<String> = self.dropped.iter().map(|(why, count)| format!("{count} {why}")).collect();
            let message = format!("teacher {teacher} wrote no new prompt in {requests} replies ({})", kinds.join(", "));
            return Err(Failure::input(message).hint(
                "its replies are kept and stay what they are: raise `sampling.max-tokens` or the temperature, give more \
                 seeds, or ask a more able teacher",
            ));
        }
        self.origins.finish()?;
        if let Some(left_out) = self.left_out {
            left_out.finish()?;
        }
        let prompts = self.prompts.finish()?;
        Ok(json!({
            "prompts": prompts,
            "seeds": self.seeds,
            "new": self.accepted,
            "dropped": self.dropped,
            "rounds": self.rounds,
        }))
    }
}
