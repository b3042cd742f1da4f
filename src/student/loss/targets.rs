//! What a teacher says of the positions of a batch: signals that were stored, or logits computed this moment.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use stillhouse_data::signals::TopK;

/// A teacher's stored distributions for the counted positions of a batch, in their order.
#[derive(Debug, Clone, Default)]
pub struct Teacher {
    /// One a counted position; an empty one where the teacher said nothing.
    distributions: Vec<TopK>,
    /// Where random numbers of this step come from.
    draws: [u8; 32],
}

impl Teacher {
    /// Distributions in the order of the counted positions.
    pub fn new(distributions: Vec<TopK>) -> Self {
        Self { distributions, draws: [0; 32] }
    }

    /// The same with a seed for losses that draw from the distributions: a function of the step's place in its
    /// trajectory, so that a training that goes on draws what an undisturbed one would have drawn.
    #[must_use]
    pub fn with_draws(self, draws: [u8; 32]) -> Self {
        Self { draws, ..self }
    }

    /// Nothing said; what is drawn at random stays.
    #[must_use]
    pub fn without_distributions(self) -> Self {
        Self { distributions: Vec::new(), ..self }
    }

    /// Some of the positions.
    pub fn part(&self, positions: std::ops::Range<usize>) -> TeacherPositions<'_> {
        let first = positions.start;
        // A batch without any signal has no distributions at all.
        let distributions = self.distributions.get(positions).unwrap_or_default();
        TeacherPositions { distributions, draws: self.draws, first }
    }
}

/// The teacher's distributions for some positions.
#[derive(Debug, Clone, Copy)]
pub struct TeacherPositions<'a> {
    distributions: &'a [TopK],
    draws: [u8; 32],
    /// Number of the first of them among the step's counted positions.
    first: usize,
}

impl<'a> TeacherPositions<'a> {
    /// Nothing known.
    pub fn none() -> Self {
        Self { distributions: &[], draws: [0; 32], first: 0 }
    }

    /// Some of them.
    pub fn part(&self, positions: std::ops::Range<usize>) -> Self {
        let first = self.first + positions.start;
        Self { distributions: self.distributions.get(positions).unwrap_or_default(), draws: self.draws, first }
    }

    /// The positions the teacher spoke at, with what it said.
    pub fn known(&self) -> impl Iterator<Item = (usize, &'a TopK)> {
        let spoken = |(_, distribution): &(usize, &TopK)| !distribution.log_probs.is_empty();
        self.distributions.iter().enumerate().filter(spoken)
    }

    /// A seed of its own for one of these positions: the same however the step was cut into parts.
    pub fn draws(&self, place: usize) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/draws/1\0");
        hasher.update(&self.draws);
        hasher.update(&((self.first + place) as u64).to_le_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// A live teacher's logits for the positions that are looked at.
#[derive(Debug, Clone)]
pub struct LiveLogits<B: Backend> {
    /// `[positions, the teacher's vocabulary]`
    pub logits: Tensor<B, 2>,
    /// Which of the student's ids are tokens: the first so many. Whatever lies behind them is padding of its vocabulary
    /// and in no distribution.
    pub ours: usize,
    /// The same of the teacher's ids. As many as `ours` where both have one tokenizer: those that both have.
    pub theirs: usize,
    /// For a teacher with other tokens, which of the positions its rows belong to, ascending: those where a token of both begins
    /// at the same byte. None where both have one tokenizer, and a row for every position.
    pub places: Option<Vec<u32>>,
}
