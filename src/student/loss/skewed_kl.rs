//! Skewed forward KL.

use burn::tensor::Tensor;
use stillhouse_spec::Config;

use super::{Compared, Comparison, Divergence, Positions, Weight, log_mixture};
use crate::kernels::Kernels;

/// Skewed KL: `KL(P ‖ α P + (1 − α) Q)`, forward KL against a mixture, which bounds its gradient (Ko et al., DistiLLM,
/// 2024). α = 0 is forward KL. The value is the true divergence, `Σ p log p` included.
#[derive(Clone, Debug, Config)]
pub struct SkewedKl {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// Share of the teacher in the mixture.
    #[config(default = 0.1, min = 0, below = 1)]
    pub alpha: f64,
    /// How the two distributions are made comparable.
    #[config(inline)]
    pub comparison: Comparison,
}

impl Divergence for SkewedKl {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn comparison(&self) -> Comparison {
        self.comparison
    }

    fn between<B: Kernels>(&self, compared: &Compared<'_, B>, _: &Positions<'_, B>) -> Tensor<B, 1> {
        compared.forward_kl(log_mixture(self.alpha, compared.log_p(), compared.log_q.clone()))
    }
}
