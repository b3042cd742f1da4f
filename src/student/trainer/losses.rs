//! The losses of a step: which there are, with which weights, and what they came to.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::head::PartSum;
use crate::loss::{Loss, Weight};

/// The losses of a step with their weights, by name.
pub struct Losses<'a>(Vec<WeightedLoss<'a>>);

/// One of them.
pub struct WeightedLoss<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Its factor at this step.
    pub weight: f64,
    /// Its factor at any step.
    pub weights: Weight,
    /// What it computes.
    pub value: &'a dyn Loss,
}

impl<'a> Losses<'a> {
    /// Losses with the weights that they have themselves, at the first step.
    pub fn new(losses: impl IntoIterator<Item = (&'a str, &'a dyn Loss)>) -> Self {
        let weighted = |(name, value): (&'a str, &'a dyn Loss)| {
            let weights = value.weight();
            WeightedLoss { name, weight: weights.at(0), weights, value }
        };
        Self(losses.into_iter().map(weighted).collect())
    }

    /// The same losses with the weights of a step, counted from 0.
    #[must_use]
    pub fn at(&self, step: u64) -> Self {
        Self(self.iter().map(|loss| WeightedLoss { weight: loss.weights.at(step), ..*loss }).collect())
    }

    /// In the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = &WeightedLoss<'a>> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them needs a teacher at some step.
    pub fn need_teacher(&self) -> bool {
        self.iter().any(|loss| loss.value.reads().teacher() && !loss.weights.is_zero())
    }

    /// Whether any of them needs a teacher's distributions at some step.
    pub fn need_distributions(&self) -> bool {
        self.iter().any(|loss| loss.value.reads().distributions() && !loss.weights.is_zero())
    }

    /// The first of them that would read draws from a teacher's distribution and can't learn from them, with the reason.
    pub fn refuse_draws(&self) -> Option<(&'a str, String)> {
        let mut read = self.iter().filter(|loss| loss.value.reads().distributions());
        read.find_map(|loss| Some((loss.name, loss.value.refuses_draws()?)))
    }

    /// Whether any of them looks at a teacher's distributions, be it only to report itself.
    pub(super) fn read_distributions(&self) -> bool {
        self.iter().any(|loss| loss.value.reads().distributions())
    }

    /// Whether any of them has a weight at this step and positions that it applies to.
    pub(super) fn any_counted(&self, parts: &[LossPart]) -> bool {
        self.iter().zip(parts).any(|(loss, part)| loss.weight > 0.0 && part.positions > 0)
    }

    /// Whether any of them looks at the student's logits.
    pub(super) fn read_logits(&self) -> bool {
        self.iter().any(|loss| loss.value.reads().hidden_states().is_none())
    }
}

/// One loss in a report.
#[derive(Debug, Clone, PartialEq)]
pub struct LossPart {
    /// Its name.
    pub name: String,
    /// Mean over the positions that it applies to, without its weight; none where there is no such position, which is no
    /// loss of 0.
    pub mean: Option<f64>,
    /// How many those are.
    pub positions: usize,
}

/// Mean of every loss from its sum and number of positions.
pub(super) fn loss_parts(losses: &Losses<'_>, sums: &[(f64, usize)]) -> Vec<LossPart> {
    let part = |(loss, (sum, positions)): (&WeightedLoss<'_>, &(f64, usize))| LossPart {
        name: loss.name.to_owned(),
        mean: (*positions > 0).then(|| sum / *positions as f64),
        positions: *positions,
    };
    losses.iter().zip(sums).map(part).collect()
}

/// All sums in one read: each read waits for the device.
pub(super) fn read_sums<B: Backend>(sums: Vec<Option<PartSum<B>>>) -> Vec<(f64, usize)> {
    let tensors: Vec<Tensor<B, 1>> = sums.iter().flatten().map(|(sum, _)| sum.clone()).collect();
    let values: Vec<f32> = match tensors.is_empty() {
        true => Vec::new(),
        false => Tensor::cat(tensors, 0).into_data().convert::<f32>().into_vec().unwrap_or_default(),
    };
    let mut values = values.into_iter();
    let mut next = |positions| (values.next().map_or(0.0, f64::from), positions);
    sums.into_iter().map(|sum| sum.map_or((0.0, 0), |(_, positions)| next(positions))).collect()
}
