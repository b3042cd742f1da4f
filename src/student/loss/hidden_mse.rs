//! Mean squared error between hidden states.

use stillhouse_spec::Config;

use super::hidden::mean_over_pairs;
use super::{Formula, HiddenLayers, HiddenPair, LossSum, Positions, Reads, Weight};
use crate::kernels::Kernels;

/// Mean squared error between hidden states: `1/d · ‖W h_S − h_T‖²`, the mean over the teacher's width d and over the pairs
/// of layers (TinyBERT's formula, Jiao et al., 2020, which sums over the pairs; DistillKit's `hs_mse` takes these means).
/// Needs a teacher that runs beside the student.
#[derive(Clone, Debug, Config)]
pub struct HiddenMse {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// What is compared.
    #[config(inline)]
    pub layers: HiddenLayers,
}

impl Formula for HiddenMse {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn reads(&self) -> Reads<'_> {
        Reads::HiddenStates(&self.layers)
    }

    fn sum<B: Kernels>(&self, positions: &Positions<'_, B>) -> LossSum<B> {
        mean_over_pairs(positions, |HiddenPair { student, teacher }| {
            let [_, width] = teacher.dims();
            (student.clone() - teacher.clone()).square().sum_dim(1).sum() / width as f64
        })
    }
}
