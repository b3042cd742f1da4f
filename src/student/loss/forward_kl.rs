//! Forward Kullback–Leibler divergence from the teacher's distribution.

use burn::tensor::Tensor;
use stillhouse_spec::Config;

use super::{Compared, Comparison, Divergence, Positions, Tail, Weight};
use crate::kernels::Kernels;

/// Forward KL: `KL(P ‖ Q) = Σ p (log p − log q)` with the teacher's P and the student's Q, natural logarithm, over the
/// counted positions that carry a teacher's signal. Pulls the student's mass to wherever the teacher has some.
///
/// With a temperature T both distributions are `softmax(logits / T)`; a teacher's log-probabilities stand for its
/// logits, from which they differ by a constant. This is the true divergence; some libraries give its name to the
/// cross-entropy `−Σ p log q`, which has the same gradient.
#[derive(Clone, Debug, Config)]
pub struct ForwardKl {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    // The fields of `Comparison`, of which the tail has another default.
    /// Softens both distributions before they are compared.
    #[config(default = 1.0, above = 0)]
    pub temperature: f64,
    /// Multiply by T², which keeps the gradient's size when T changes (Hinton et al., 2015).
    #[config(default = true)]
    pub t_squared: bool,
    /// What to do about the probability outside the teacher's top k. Without effect where distributions are whole.
    #[config(default = Tail::RenormaliseTeacher)]
    pub tail: Tail,
}

impl Divergence for ForwardKl {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn comparison(&self) -> Comparison {
        Comparison { temperature: self.temperature, t_squared: self.t_squared, tail: self.tail }
    }

    fn refuses_draws(&self) -> Option<String> {
        self.comparison().refuses_draws()
    }

    fn between<B: Kernels>(&self, compared: &Compared<'_, B>, _: &Positions<'_, B>) -> Tensor<B, 1> {
        compared.forward_kl(compared.log_q.clone())
    }
}
