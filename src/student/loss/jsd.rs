//! Generalised Jensen–Shannon divergence.

use burn::tensor::Tensor;
use stillhouse_spec::{Config, Diagnostics, Node};

use super::comparison::refuse_renormalised_teacher;
use super::{Compared, Comparison, Divergence, Positions, Tail, Weight, log_mixture};
use crate::kernels::Kernels;

/// Generalised Jensen–Shannon divergence: `β · KL(P ‖ M) + (1 − β) · KL(Q ‖ M)` with `M = β P + (1 − β) Q` (Agarwal et
/// al., GKD, 2024; the convention of TRL since 0.16). DistiLLM's λ is 1 − β.
///
/// The ends are special: β = 0 is forward KL and β = 1 is reverse KL, which the formula does *not* approach (its limit
/// at both ends is 0). The mixture is taken in log-space.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct Jsd {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// Share of the teacher in the mixture.
    #[config(default = 0.5, min = 0, max = 1)]
    pub beta: f64,
    /// How the two distributions are made comparable.
    #[config(inline)]
    pub comparison: Comparison,
}

fn sound(config: &Jsd, node: &Node, report: &mut Diagnostics) {
    if config.beta == 1.0 && config.comparison.tail == Tail::RenormaliseTeacher {
        refuse_renormalised_teacher("`jsd` with `beta = 1`, which is reverse KL,", node, report);
    }
}

impl Divergence for Jsd {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn comparison(&self) -> Comparison {
        self.comparison
    }

    fn between<B: Kernels>(&self, compared: &Compared<'_, B>, _: &Positions<'_, B>) -> Tensor<B, 1> {
        let Self { beta, .. } = *self;
        if beta == 0.0 {
            return compared.forward_kl(compared.log_q.clone());
        }
        if beta == 1.0 {
            return compared.reverse_kl(compared.log_p());
        }
        let log_m = log_mixture(beta, compared.log_p(), compared.log_q.clone());
        let sum = compared.forward_kl(log_m.clone()) * beta + compared.reverse_kl(log_m) * (1.0 - beta);
        match compared.outside() {
            // Where p = 0, m = (1 − β) q, and q log(q / m) is q · −log(1 − β).
            Some(outside) => sum + outside * (-(1.0 - beta) * libm::log1p(-beta)),
            None => sum,
        }
    }
}
