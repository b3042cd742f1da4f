//! Total variation.

use burn::tensor::Tensor;
use stillhouse_spec::Config;

use super::{Compared, Comparison, Divergence, Positions, Weight};
use crate::kernels::Kernels;

/// Total variation distance: `½ Σ |p − q|`, between 0 and 1. Its gradient is bounded, and 0 where both agree.
#[derive(Clone, Debug, Config)]
pub struct TotalVariation {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// How the two distributions are made comparable.
    #[config(inline)]
    pub comparison: Comparison,
}

impl Divergence for TotalVariation {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn comparison(&self) -> Comparison {
        self.comparison
    }

    fn between<B: Kernels>(&self, compared: &Compared<'_, B>, _: &Positions<'_, B>) -> Tensor<B, 1> {
        let inside = (compared.p() - compared.log_q.clone().exp()).abs().sum_dim(1).sum();
        let sum = match compared.outside() {
            // Where p = 0, |p − q| is q.
            Some(outside) => inside + outside,
            None => inside,
        };
        sum * 0.5
    }
}
