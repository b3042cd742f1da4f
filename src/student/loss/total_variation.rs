//! Total variation.

use burn::tensor::Tensor;
use stillhouse_spec::Config;

use super::{Compared, Comparison, Divergence, Positions, Tail, Weight};
use crate::kernels::Kernels;

/// Total variation distance: `½ Σ |p − q|`, between 0 and 1. Its gradient is bounded, and 0 where both agree.
#[derive(Clone, Debug, Config)]
pub struct TotalVariation {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// Softens both distributions before they are compared.
    #[config(default = 1.0, above = 0)]
    pub temperature: f64,
    /// Multiply by T², which keeps the gradient's size when T changes (Hinton et al., 2015).
    #[config(default = true)]
    pub t_squared: bool,
    /// What to do about the probability outside the teacher's top k. Without effect where distributions are whole.
    #[config(default = Tail::Bucket)]
    pub tail: Tail,
}

impl Divergence for TotalVariation {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn comparison(&self) -> Comparison {
        Comparison { temperature: self.temperature, t_squared: self.t_squared, tail: self.tail }
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
