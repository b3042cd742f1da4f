//! Writes prompts as they come, each once; only a shuffle holds them all.

use std::collections::BTreeSet;

use stillhouse_stage::Context;

use super::PromptsSettings;
use crate::error::DataResult;
use crate::jsonl::JsonlWriter;
use crate::prompt::{PROMPTS_FILE, Prompt, write_prompts};
use crate::random::Stream;

/// See the module.
pub(super) struct Keeper {
    writer: JsonlWriter<Prompt>,
    held: Option<Vec<Prompt>>,
    limit: Option<usize>,
    // 64 bits a prompt, as in its id: a hundred thousand of them take a megabyte or two.
    seen: BTreeSet<u64>,
    counts: Counts,
}

/// What was taken, what was left out and what was written.
#[derive(Default)]
pub(super) struct Counts {
    pub rows: u64,
    pub duplicates: u64,
    pub written: u64,
}

impl Keeper {
    pub(super) fn new(settings: &PromptsSettings, context: &Context) -> DataResult<Self> {
        Ok(Self {
            writer: write_prompts(&context.out().join(PROMPTS_FILE))?,
            held: settings.shuffle.then(Vec::new),
            limit: settings.limit,
            seen: BTreeSet::new(),
            counts: Counts::default(),
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.held.is_none() && self.limit.is_some_and(|limit| self.counts.written >= limit as u64)
    }

    pub(super) fn rows(&self) -> u64 {
        self.counts.rows
    }

    pub(super) fn take(&mut self, prompt: Prompt) -> DataResult<()> {
        self.counts.rows += 1;
        if !self.seen.insert(prompt.id_bits()) {
            self.counts.duplicates += 1;
            return Ok(());
        }
        match &mut self.held {
            Some(held) => held.push(prompt),
            None => {
                self.writer.write(&prompt)?;
                self.counts.written += 1;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self, seed: u64) -> DataResult<Counts> {
        if let Some(mut held) = self.held {
            Stream::new("prompts", seed, 0).shuffle(&mut held);
            held.truncate(self.limit.unwrap_or(usize::MAX));
            for prompt in &held {
                self.writer.write(prompt)?;
            }
            self.counts.written = held.len() as u64;
        }
        self.writer.finish()?;
        Ok(self.counts)
    }
}
