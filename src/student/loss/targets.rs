//! What a teacher says of the positions of a batch: signals that were stored, or logits computed this moment.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use stillhouse_data::signals::TopK;

/// A teacher's stored distributions or hidden states for the counted positions of a batch, in their order.
#[derive(Debug, Clone, Default)]
pub struct Teacher {
    /// One a counted position; an empty one where the teacher said nothing.
    distributions: Vec<TopK>,
    /// What its head makes distributions of.
    states: StoredStates,
    /// Where random numbers of this step come from.
    draws: [u8; 32],
}

impl Teacher {
    /// Distributions in the order of the counted positions.
    pub fn new(distributions: Vec<TopK>) -> Self {
        Self { distributions, ..Self::default() }
    }

    /// The same with hidden states, of which its head makes distributions.
    #[must_use]
    pub fn with_states(self, states: StoredStates) -> Self {
        Self { states, ..self }
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
        Self { draws: self.draws, ..Self::default() }
    }

    /// Some of the positions.
    pub fn part(&self, positions: Range<usize>) -> TeacherPositions<'_> {
        let Self { distributions, states, draws } = self;
        TeacherPositions { distributions, states: states.all(), draws: *draws, first: 0 }.part(positions)
    }
}

/// Hidden states that were stored for some of a batch's counted positions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoredStates {
    /// Numbers of a state.
    width: usize,
    /// One state after the other.
    numbers: Vec<f32>,
    /// The places of their positions among the counted ones, ascending.
    places: Vec<u32>,
}

impl StoredStates {
    /// No states, of a width.
    pub fn new(width: usize) -> Self {
        Self { width, ..Self::default() }
    }

    /// Adds the state of a position behind those that were added. One of another width is left out.
    pub fn push(&mut self, place: u32, state: &[f32]) {
        if state.len() == self.width {
            self.numbers.extend_from_slice(state);
            self.places.push(place);
        }
    }

    fn all(&self) -> StatesPart<'_> {
        let Self { width, numbers, places } = self;
        StatesPart { width: *width, numbers, places, first: 0 }
    }
}

/// The states of some positions.
#[derive(Debug, Clone, Copy)]
pub struct StatesPart<'a> {
    /// Numbers of a state.
    pub width: usize,
    /// One state after the other.
    pub numbers: &'a [f32],
    places: &'a [u32],
    /// Where these positions begin among the step's counted ones.
    first: usize,
}

impl StatesPart<'_> {
    /// How many of the positions have one.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Which of the positions have one, ascending.
    pub fn places(&self) -> Vec<u32> {
        self.places.iter().map(|place| place - self.first as u32).collect()
    }

    fn part(self, positions: Range<usize>) -> Self {
        let Self { width, numbers, places, first } = self;
        let before = |end: usize| places.partition_point(|place| (*place as usize) < first + end);
        let rows = before(positions.start)..before(positions.end);
        let numbers = &numbers[rows.start * width..rows.end * width];
        Self { width, numbers, places: &places[rows], first: first + positions.start }
    }
}

/// The teacher's distributions for some positions.
#[derive(Debug, Clone, Copy)]
pub struct TeacherPositions<'a> {
    distributions: &'a [TopK],
    states: StatesPart<'a>,
    draws: [u8; 32],
    /// Number of the first of them among the step's counted positions.
    first: usize,
}

impl<'a> TeacherPositions<'a> {
    /// Nothing known.
    pub fn none() -> Self {
        let states = StatesPart { width: 0, numbers: &[], places: &[], first: 0 };
        Self { distributions: &[], states, draws: [0; 32], first: 0 }
    }

    /// Some of them.
    pub fn part(&self, positions: Range<usize>) -> Self {
        let first = self.first + positions.start;
        let states = self.states.part(positions.clone());
        // A batch without any signal has no distributions at all.
        Self { distributions: self.distributions.get(positions).unwrap_or_default(), states, draws: self.draws, first }
    }

    /// The hidden states that were stored of these positions.
    pub fn states(&self) -> StatesPart<'a> {
        self.states
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
    /// Which of the positions its rows belong to, ascending: for a teacher with other tokens those where a token of both begins at
    /// the same byte, for one whose hidden states were stored those that have one. None where there is a row for every
    /// position.
    pub places: Option<Vec<u32>>,
    /// Whether teacher and student have one tokenizer, so that they can be compared token by token.
    pub same_tokens: bool,
}
