//! The teacher's side of the losses, on the host.

use stillhouse_data::signals::TopK;

/// A teacher's distributions for the counted positions of a batch, in their order.
#[derive(Debug, Clone, Default)]
pub struct Teacher {
    /// One a counted position; an empty one where the teacher said nothing.
    distributions: Vec<TopK>,
}

impl Teacher {
    /// Distributions in the order of the counted positions.
    pub fn new(distributions: Vec<TopK>) -> Self {
        Self { distributions }
    }

    /// Some of the positions.
    pub fn part(&self, positions: std::ops::Range<usize>) -> TeacherPositions<'_> {
        // A batch without any signal has no distributions at all.
        TeacherPositions { distributions: self.distributions.get(positions).unwrap_or_default() }
    }
}

/// The teacher's distributions for some positions.
#[derive(Debug, Clone, Copy)]
pub struct TeacherPositions<'a> {
    distributions: &'a [TopK],
}

impl<'a> TeacherPositions<'a> {
    /// Nothing known.
    pub fn none() -> Self {
        Self { distributions: &[] }
    }

    /// Some of them.
    pub fn part(&self, positions: std::ops::Range<usize>) -> Self {
        Self { distributions: self.distributions.get(positions).unwrap_or_default() }
    }

    /// The positions the teacher spoke at, with what it said.
    pub fn known(&self) -> impl Iterator<Item = (usize, &'a TopK)> {
        let spoken = |(_, distribution): &(usize, &TopK)| !distribution.log_probs.is_empty();
        self.distributions.iter().enumerate().filter(spoken)
    }
}
