//! The prompts that there are, and which of them a request shows.
//!
//! A draw depends on the experiment's seed, the round, the request's number in it and the prompts that earlier rounds
//! brought: on nothing that a kill or the order of replies could change.

use std::collections::BTreeMap;
use std::sync::Arc;

use stillhouse_data::novelty::{Known, Novelty};
use stillhouse_data::prompt::{Message, Prompt};
use stillhouse_data::random::Stream;
use stillhouse_stage::Failure;

use super::config::{ExpandConfig, StyleConfig};
use super::styles::Style;
use crate::asking::Question;
use crate::request::{Request, seed_of};

/// One prompt.
pub struct Member {
    /// Its id.
    pub id: String,
    /// Its last turn: what is shown of it.
    pub text: String,
    /// The round that brought it; 0 for seeds.
    pub round: u32,
}

/// The prompts that there are.
pub struct Pool {
    members: Vec<Member>,
    seeds: usize,
    novelty: Novelty,
    /// Request → how often it was made: equal ones are samples of one another.
    made: BTreeMap<String, u32>,
}

/// A request and the prompts that it shows.
pub struct Planned {
    /// What is asked.
    pub question: Question,
    /// Ids of the prompts shown.
    pub from: Vec<String>,
}

impl Pool {
    /// A pool of seeds. Seeds stay, whatever they are like.
    ///
    /// # Errors
    /// If there are none.
    pub fn new(seeds: &[Prompt], near_duplicate: f64) -> Result<Self, Failure> {
        let mut novelty = Novelty::new(near_duplicate)?;
        let mut members = Vec::with_capacity(seeds.len());
        for prompt in seeds {
            let Some(text) = prompt.messages.last().map(|message| message.content.clone()) else { continue };
            novelty.take(&text)?;
            members.push(Member { id: prompt.id.clone(), text, round: 0 });
        }
        Ok(Self { seeds: members.len(), members, novelty, made: BTreeMap::new() })
    }

    /// Takes a prompt that a round brought, if it is new.
    ///
    /// # Errors
    /// None that is known of.
    pub fn take(&mut self, id: &str, text: &str, round: u32) -> Result<Option<Known>, Failure> {
        let known = self.novelty.take(text)?;
        if known.is_none() {
            self.members.push(Member { id: id.to_owned(), text: text.to_owned(), round });
        }
        Ok(known)
    }

    /// The requests of a round.
    ///
    /// # Errors
    /// Whatever a template of the user's cannot do.
    pub fn plan(
        &mut self,
        config: &ExpandConfig,
        style: &Style,
        round: u32,
        seed: u64,
    ) -> Result<Vec<Planned>, Failure> {
        let order = matches!(config.style, StyleConfig::Evolve).then(|| self.youngest_first(round, seed));
        let mut planned = Vec::with_capacity(config.per_round as usize);
        for index in 0..config.per_round {
            let mut stream = Stream::new("expand", seed, (u64::from(round) << 32) | u64::from(index));
            let shown = match &order {
                Some(order) => vec![order[index as usize % order.len()]],
                None => self.examples(config.examples as usize, &mut stream),
            };
            let texts: Vec<&str> = shown.iter().map(|place| self.members[*place].text.as_str()).collect();
            let text = style.request(&texts, config.wanted, &mut stream)?;
            let from = shown.iter().map(|place| self.members[*place].id.clone()).collect();
            let number = u64::from(round - 1) * u64::from(config.per_round) + u64::from(index) + 1;
            planned.push(Planned { question: self.question(config, text, number, seed), from });
        }
        Ok(planned)
    }

    /// A quarter of new prompts where there are so many, the rest seeds, in a drawn order.
    fn examples(&self, count: usize, stream: &mut Stream) -> Vec<usize> {
        let (seeds, new) = (self.seeds, self.members.len() - self.seeds);
        let wanted_new = (count / 4).max(count.saturating_sub(seeds)).min(new);
        let mut shown = stream.pick((count - wanted_new).min(seeds), seeds);
        shown.extend(stream.pick(wanted_new, new).into_iter().map(|place| seeds + place));
        stream.shuffle(&mut shown);
        shown
    }

    /// All prompts, those of the round before first, each round's in a drawn order.
    fn youngest_first(&self, round: u32, seed: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        Stream::new("expand-order", seed, round.into()).shuffle(&mut order);
        order.sort_by_key(|place| std::cmp::Reverse(self.members[*place].round));
        order
    }

    fn question(&mut self, config: &ExpandConfig, text: String, number: u64, seed: u64) -> Question {
        let prompt = Prompt::new(vec![Message::user(text)], None);
        let made = self.made.entry(prompt.id.clone()).or_default();
        let sample = *made;
        *made += 1;
        let drawn = config.sampling.temperature > 0.0;
        let seed = config.sampling.drawing.seed.unwrap_or(seed);
        let request = Request {
            messages: prompt.messages.clone(),
            sampling: config.sampling.request(),
            capture: None,
            sample,
            attempt: 0,
            seed: drawn.then(|| seed_of(seed, &prompt.id, sample)),
            given: None,
        };
        Question { prompt: Arc::new(prompt), number, request }
    }
}
