//! One sequence's signal.

use super::compact::Decoded;
use super::{HiddenPrecision, Precision, TopK, hidden, plain};

/// One sequence's signal, read position by position.
#[derive(Debug, Clone)]
pub struct Signal<'a> {
    pub(super) first_position: u32,
    pub(super) positions: usize,
    pub(super) body: Body<'a>,
}

/// What an entry is.
#[derive(Debug, Clone)]
pub(super) enum Body<'a> {
    Plain(plain::Entry<'a>),
    Decoded(Decoded),
    Hidden(hidden::Entry<'a>),
}

/// What a signal's positions say, which decides what a loss may do with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// The whole distribution, by token id.
    Whole,
    /// The probabilities of some tokens, the likeliest ones; what is missing to 1 is the mass of all others.
    MostLikely,
    /// The shares of tokens among so many draws from the whole distribution. Their mean over draws is the distribution
    /// (Anshumann et al., 2025), so only a loss that is linear in it (cross-entropy, forward KL) at temperature 1 may take
    /// them for one.
    Drawn {
        /// Number of draws.
        samples: u32,
    },
    /// The last hidden state; a position has no distribution before the teacher's head.
    Hidden {
        /// Numbers a position.
        width: usize,
        /// How they are kept.
        precision: HiddenPrecision,
    },
}

impl Signal<'_> {
    /// Index in the sequence of the token that the first position predicts.
    pub fn first_position(&self) -> u32 {
        self.first_position
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.positions
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.positions == 0
    }

    /// What its positions say.
    pub fn says(&self) -> Says {
        match &self.body {
            Body::Plain(entry) if entry.is_dense() => Says::Whole,
            Body::Plain(_) | Body::Decoded(Decoded::Levels(_)) => Says::MostLikely,
            Body::Decoded(Decoded::Drawn(samples, _)) => Says::Drawn { samples: *samples },
            Body::Hidden(entry) => Says::Hidden { width: entry.width, precision: entry.precision },
        }
    }

    /// How plain log-probabilities are kept; none where they are not.
    pub fn precision(&self) -> Option<Precision> {
        match &self.body {
            Body::Plain(entry) => Some(entry.precision),
            _ => None,
        }
    }

    /// Whether every position holds the whole vocabulary.
    pub fn is_dense(&self) -> bool {
        self.says() == Says::Whole
    }

    /// The distribution for the token at `first_position + place`.
    ///
    /// # Panics
    /// When `place` is not below [`Signal::len`].
    pub fn position(&self, place: usize) -> TopK {
        let mut out = TopK::default();
        self.read(place, &mut out);
        out
    }

    /// As [`Signal::position`], into buffers that are used again. Hidden states give an empty one.
    ///
    /// # Panics
    /// When `place` is not below [`Signal::len`].
    pub fn read(&self, place: usize, out: &mut TopK) {
        assert!(place < self.positions, "position {place} of a signal with {}", self.positions);
        match &self.body {
            Body::Plain(entry) => entry.read(place, out),
            Body::Decoded(decoded) => decoded.read(place, out),
            Body::Hidden(_) => {
                out.ids.clear();
                out.log_probs.clear();
            }
        }
    }

    /// The hidden state before the token at `first_position + place`; empty where distributions are kept.
    ///
    /// # Panics
    /// When `place` is not below [`Signal::len`].
    pub fn hidden(&self, place: usize, out: &mut Vec<f32>) {
        assert!(place < self.positions, "position {place} of a signal with {}", self.positions);
        match &self.body {
            Body::Hidden(entry) => entry.read(place, out),
            _ => out.clear(),
        }
    }
}
