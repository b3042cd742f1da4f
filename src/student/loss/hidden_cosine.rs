//! Cosine distance between hidden states.

use burn::tensor::Tensor;
use stillhouse_spec::Config;

use super::hidden::mean_over_pairs;
use super::{Formula, HiddenLayers, HiddenPair, LossSum, Positions, Reads, Weight};
use crate::kernels::Kernels;

/// Cosine distance between hidden states: `1 − cos(W h_S, h_T)`, the mean over the pairs of layers (DistilBERT, Sanh et al.,
/// 2019, without a map; DistillKit's `hs_cosine`). It sees directions only: how long the vectors are is free. Needs a
/// teacher that runs beside the student.
#[derive(Clone, Debug, Config)]
pub struct HiddenCosine {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// What is compared.
    #[config(inline)]
    pub layers: HiddenLayers,
}

/// Vectors shorter than this count as so long, as in PyTorch's `cosine_similarity`: a vector of zeros has the distance 1.
const SHORTEST: f64 = 1e-8;

impl Formula for HiddenCosine {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn reads(&self) -> Reads<'_> {
        Reads::HiddenStates(&self.layers)
    }

    fn sum<B: Kernels>(&self, positions: &Positions<'_, B>) -> LossSum<B> {
        mean_over_pairs(positions, |HiddenPair { student, teacher }| {
            let product = (student.clone() * teacher.clone()).sum_dim(1);
            let cosine = product / length(student.clone()) / length(teacher.clone());
            (cosine.neg() + 1.0).sum()
        })
    }
}

/// Length of every row.
///
/// # Shapes
/// - rows: `[positions, width]`
/// - output: `[positions, 1]`
fn length<B: Kernels>(rows: Tensor<B, 2>) -> Tensor<B, 2> {
    // Below the root, so that no gradient is infinite at a vector of zeros.
    rows.square().sum_dim(1).clamp_min(SHORTEST * SHORTEST).sqrt()
}
