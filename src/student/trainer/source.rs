//! Where steps get their data from: a dataset's examples, laid out by the batch plan, with the teacher's signals.

use std::borrow::Cow;

use stillhouse_data::batch::{Batch, BatchPlan};
use stillhouse_data::captured::is_server;
use stillhouse_data::example::{Example, ExampleReader};
use stillhouse_data::signals::{Says, Signal, SignalReader, TopK};

use super::batch::StepBatch;
use crate::error::{Result, StudentError};
use crate::loss::{StoredStates, Teacher};
use crate::trainer::Losses;

/// The data of any step, in any order.
pub trait BatchSource {
    /// Tokens and masks of a step (from 0): what trajectory keys are made from.
    fn batch(&mut self, step: u64) -> Result<Batch>;
    /// The teacher's side of it.
    fn teacher(&mut self, batch: &Batch) -> Result<Teacher>;

    /// Both.
    fn step(&mut self, step: u64) -> Result<StepBatch> {
        let batch = self.batch(step)?;
        let teacher = self.teacher(&batch)?.with_draws(draws(step, &batch));
        Ok(StepBatch { batch, teacher })
    }
}

/// Where the random numbers of a step's losses come from: its place and its data, nothing else, so that a training that
/// goes on draws the same.
fn draws(step: u64, batch: &Batch) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stillhouse/step-draws/1\0");
    hasher.update(&step.to_le_bytes());
    hasher.update(&batch.digest());
    *hasher.finalize().as_bytes()
}

/// A dataset.
pub struct DatasetSource {
    examples: ExampleReader,
    plan: BatchPlan,
    signals: Option<SignalReader>,
    /// Numbers of the hidden states that there is a head for.
    head: Option<usize>,
}

impl DatasetSource {
    /// Examples in the plan's order; `signals` where a loss needs them.
    pub fn new(examples: ExampleReader, plan: BatchPlan, signals: Option<SignalReader>) -> Self {
        Self { examples, plan, signals, head: None }
    }

    /// The same beside the head of a teacher whose hidden states, of this width, are its signals.
    #[must_use]
    pub fn with_head(self, width: Option<usize>) -> Self {
        Self { head: width, ..self }
    }

    /// Looks at every example once: token ids must fit the vocabulary, and where signals are needed there must be some that
    /// the losses can learn from. `tokenizer` is the digest of the data's.
    ///
    /// Signals over fewer tokens than the vocabulary are of use where the tokenizer is the same: the ids behind them are
    /// padding. Hidden states are of use over more tokens, too.
    ///
    /// # Errors
    /// An id beyond the vocabulary; signals of another width, or of no use to a loss; not one example with a signal.
    pub fn check(&self, vocabulary: usize, tokenizer: &str, losses: &Losses<'_>) -> Result<Coverage> {
        let (mut signalled, mut of_states) = (0, 0);
        let mut of_servers = OfServers::default();
        for place in 0..self.examples.len() {
            let example = self.examples.get(place)?;
            if let Some(token) = example.tokens.iter().find(|token| **token as usize >= vocabulary) {
                return Err(StudentError::training(
                    format!(
                        "example {place} holds token {token}, but the student's vocabulary has {vocabulary} tokens"
                    ),
                    "the dataset was tokenised with another tokenizer than the student's",
                ));
            }
            if let Some(signals) = &self.signals
                && let Some((teacher, signal)) = signals.find_with_teacher(&example.tokens)?
            {
                self.of_use(&signal, losses)?;
                of_states += usize::from(matches!(signal.says(), Says::Hidden { .. }));
                if is_server(teacher) {
                    of_servers.count(&example, &signal);
                }
                signalled += 1;
            }
        }
        let Some(signals) = &self.signals else { return Ok(Coverage { examples: 1.0, matched: None }) };
        let header = signals.header();
        let width = header.vocabulary as usize;
        if of_states > 0 && of_states < signalled {
            return Err(StudentError::training(
                format!("the teacher's signals are hidden states in {of_states} examples and distributions in others"),
                "a student learns from one or the other: capture the same in all answers of its data",
            ));
        }
        let padded = (width < vocabulary || of_states > 0) && header.tokenizer == tokenizer;
        if width != vocabulary && !padded {
            return Err(StudentError::training(
                format!("the teacher's signals are over {width} tokens, the student's vocabulary has {vocabulary}"),
                "teacher and student must share a tokenizer to compare distributions token by token",
            ));
        }
        if signalled == 0 {
            return Err(StudentError::training(
                "no training example has a teacher's signal, but a loss needs them",
                "capture them: `capture = { … }` in the answers that the dataset is made from",
            ));
        }
        Ok(Coverage { examples: signalled as f64 / self.examples.len() as f64, matched: of_servers.share() })
    }

    /// Whether the losses can learn from what a signal says.
    fn of_use(&self, signal: &Signal<'_>, losses: &Losses<'_>) -> Result<()> {
        match (signal.says(), self.head) {
            (Says::Whole | Says::MostLikely, _) => Ok(()),
            (Says::Drawn { .. }, _) => match losses.refuse_draws() {
                None => Ok(()),
                Some((name, why)) => Err(StudentError::training(
                    format!("`{name}` can't learn from draws of the teacher's distribution: {why}"),
                    "`forward-kl` and `sampled-cross-entropy` can, at temperature 1; or capture distributions: \
                     `capture = { top-k = 64 }`",
                )),
            },
            (Says::Hidden { width, .. }, Some(head)) if width == head => Ok(()),
            (Says::Hidden { width, .. }, Some(head)) => Err(StudentError::training(
                format!("the teacher's signals are hidden states of {width} numbers, its head takes {head}"),
                "were they kept by another teacher? make a dataset of each teacher's answers",
            )),
            (Says::Hidden { .. }, None) => Err(StudentError::training(
                "the teacher's signals are hidden states, and its head, which makes distributions of them, is not there",
                "keep them in another way, such as `capture = { hidden = \"f16\" }` in place of `\"bf16\"`: the head is then \
                 kept beside them",
            )),
        }
    }
}

/// How much of the data has signals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coverage {
    /// The share of examples with one; 1 where none is needed.
    pub examples: f64,
    /// Of the examples with a server's signal the share of scored tokens that have a distribution; none where there are no
    /// such examples.
    pub matched: Option<f64>,
}

/// Scored tokens of examples with a server's signal.
#[derive(Default)]
struct OfServers {
    scored: u64,
    matched: u64,
    said: TopK,
}

impl OfServers {
    fn count(&mut self, example: &Example, signal: &Signal<'_>) {
        let first = signal.first_position() as usize;
        let mut matched = 0;
        let mut silent_end = true;
        for place in (0..signal.len()).filter(|place| example.scored.get(first + place) == Some(&true)) {
            signal.read(place, &mut self.said);
            silent_end = self.said.log_probs.is_empty();
            matched += u64::from(!silent_end);
        }
        // Many servers say nothing of the end, which shows nothing of their tokens.
        self.scored += (example.scored_tokens() as u64).saturating_sub(u64::from(silent_end));
        self.matched += matched;
    }

    fn share(&self) -> Option<f64> {
        (self.scored > 0).then(|| self.matched as f64 / self.scored as f64)
    }
}

impl BatchSource for DatasetSource {
    fn batch(&mut self, step: u64) -> Result<Batch> {
        let placements = self.plan.placements(step);
        let (rows, length) = self.plan.shape(step);
        let get = |place| Ok(Cow::Owned(self.examples.get(place)?));
        Ok(Batch::build(rows, length, &placements, get)?)
    }

    fn teacher(&mut self, batch: &Batch) -> Result<Teacher> {
        let Some(signals) = &self.signals else { return Ok(Teacher::default()) };
        // Where each counted position stands among the counted ones.
        let mut ranks = vec![usize::MAX; batch.scored.len()];
        let mut counted = 0;
        for (rank, _) in ranks.iter_mut().zip(&batch.scored).filter(|(_, scored)| **scored) {
            *rank = counted;
            counted += 1;
        }
        // Hidden states stand here until all are known.
        let mut states: Vec<(usize, Vec<f32>)> = Vec::new();
        let mut said = vec![TopK::default(); counted];
        for placement in &batch.placements {
            let example = self.examples.get(placement.example)?;
            let Some(signal) = signals.find(&example.tokens)? else { continue };
            let of_states = matches!(signal.says(), Says::Hidden { .. });
            // Position `offset + i` predicts token i + 1; the signal's first position predicts `first_position`.
            let start = placement.row * batch.length + placement.offset;
            for place in 0..signal.len() {
                let token = signal.first_position() as usize + place;
                if token == 0 || token >= example.tokens.len() {
                    continue;
                }
                let rank = ranks[start + token - 1];
                if of_states && rank < counted {
                    let mut state = Vec::new();
                    signal.hidden(place, &mut state);
                    states.push((rank, state));
                } else if let Some(slot) = said.get_mut(rank) {
                    signal.read(place, slot);
                }
            }
        }
        states.sort_unstable_by_key(|(rank, _)| *rank);
        let mut stored = StoredStates::new(self.head.unwrap_or_default());
        states.iter().for_each(|(rank, state)| stored.push(*rank as u32, state));
        Ok(Teacher::new(said).with_states(stored))
    }
}
