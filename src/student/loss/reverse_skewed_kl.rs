//! Skewed reverse KL.

use burn::tensor::Tensor;
use stillhouse_spec::{Config, Diagnostics, Node};

use super::comparison::refuse_renormalised_teacher;
use super::{Compared, Comparison, Divergence, Positions, Tail, Weight, log_mixture};
use crate::kernels::Kernels;

/// Skewed reverse KL: `KL(Q ‖ (1 − α) P + α Q)`, reverse KL against a mixture, which is finite whatever the teacher
/// rules out (Ko et al., DistiLLM, 2024). α = 0 is reverse KL. The gradient goes through both places of Q.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct ReverseSkewedKl {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// Share of the student in the mixture.
    #[config(default = 0.1, min = 0, below = 1)]
    pub alpha: f64,
    /// How the two distributions are made comparable.
    #[config(inline)]
    pub comparison: Comparison,
}

fn sound(config: &ReverseSkewedKl, node: &Node, report: &mut Diagnostics) {
    if config.alpha == 0.0 && config.comparison.tail == Tail::RenormaliseTeacher {
        refuse_renormalised_teacher("`reverse-skewed-kl` with `alpha = 0`, which is reverse KL,", node, report);
    }
}

impl Divergence for ReverseSkewedKl {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn comparison(&self) -> Comparison {
        self.comparison
    }

    fn between<B: Kernels>(&self, compared: &Compared<'_, B>, _: &Positions<'_, B>) -> Tensor<B, 1> {
        let log_m = log_mixture(1.0 - self.alpha, compared.log_p(), compared.log_q.clone());
        let sum = compared.reverse_kl(log_m);
        match compared.outside() {
            // Where p = 0, m = α q, and q log(q / m) is q · −log α.
            Some(outside) => sum + outside * -libm::log(self.alpha),
            None => sum,
        }
    }
}
