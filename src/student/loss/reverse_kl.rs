//! Reverse Kullback–Leibler divergence.

use burn::tensor::Tensor;
use stillhouse_spec::{Config, Diagnostics, Node};

use super::comparison::refuse_renormalised_teacher;
use super::{Compared, Comparison, Divergence, Positions, Tail, Weight};
use crate::kernels::Kernels;

/// Reverse KL: `KL(Q ‖ P) = Σ q (log q − log p)`. Takes the student's mass away from wherever the teacher has none, so
/// the student settles on the teacher's main modes (Gu et al., MiniLLM, 2023).
///
/// A token that the teacher rules out altogether (log 0) counts as having the log-probability −100, so that the loss
/// stays a number. With `tail = "renormalise-teacher"` every token outside the k would be one: refused.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct ReverseKl {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// How the two distributions are made comparable.
    #[config(inline)]
    pub comparison: Comparison,
}

fn sound(config: &ReverseKl, node: &Node, report: &mut Diagnostics) {
    if config.comparison.tail == Tail::RenormaliseTeacher {
        refuse_renormalised_teacher("reverse KL", node, report);
    }
}

impl Divergence for ReverseKl {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn comparison(&self) -> Comparison {
        self.comparison
    }

    fn between<B: Kernels>(&self, compared: &Compared<'_, B>, _: &Positions<'_, B>) -> Tensor<B, 1> {
        compared.reverse_kl(compared.log_p())
    }
}
