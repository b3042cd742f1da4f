//! Adaptive mixture of forward and reverse KL.

use burn::tensor::Tensor;
use stillhouse_spec::{Config, Diagnostics, Node};

use super::comparison::refuse_renormalised_teacher;
use super::{Compared, Comparison, Divergence, Positions, Tail, Weight};
use crate::kernels::Kernels;

/// Adaptive KL: forward and reverse KL weighted, at each position, by how much of the disagreement lies where the
/// teacher is sure and where it is not (Wu et al., 2024, "Rethinking Kullback–Leibler divergence in knowledge
/// distillation for large language models").
///
/// With the outcomes in ascending order of p, the tail is every outcome up to which the p sum to at most α, the head
/// the rest; `g = Σ |p − q|` over either. The loss is `g_head / g · KL(P ‖ Q) + g_tail / g · KL(Q ‖ P)`, and no gradient
/// goes through the weights. Where P = Q, and so g = 0, it is 0.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct AdaptiveKl {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// Probability that counts as the tail at most.
    #[config(default = 0.5, min = 0, max = 1)]
    pub alpha: f64,
    /// How the two distributions are made comparable.
    #[config(inline)]
    pub comparison: Comparison,
}

fn sound(config: &AdaptiveKl, node: &Node, report: &mut Diagnostics) {
    if config.comparison.tail == Tail::RenormaliseTeacher {
        refuse_renormalised_teacher("adaptive KL, which is partly reverse KL,", node, report);
    }
}

/// Far below any disagreement that f32 can tell from none.
const SMALLEST_GAP: f64 = 1e-20;

impl Divergence for AdaptiveKl {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn comparison(&self) -> Comparison {
        self.comparison
    }

    fn between<B: Kernels>(&self, compared: &Compared<'_, B>, _: &Positions<'_, B>) -> Tensor<B, 1> {
        let (p, log_p, log_q) = (compared.p(), compared.log_p(), compared.log_q.clone());
        let q = log_q.clone().exp();
        let gap = (p.clone() - q.clone()).abs().detach();
        let width = gap.dims()[1];
        let heads = compared.map_rows(|_, log_p| heads(log_p, self.alpha)).concat();
        // Both gaps are 0 where their sum is: 0 / tiny is the 0 that is wanted, where 0 / 0 would be no number.
        let all = gap.clone().sum_dim(1).clamp_min(SMALLEST_GAP);
        let heads = compared.matrix(heads, width);
        let of_head = (gap.clone() * heads.clone()).sum_dim(1) / all.clone();
        let of_tail = (gap * (heads.neg() + 1.0)).sum_dim(1) / all;
        let difference = log_p - log_q;
        let forward = (p * difference.clone()).sum_dim(1);
        let reverse = (q * difference.neg()).sum_dim(1);
        (forward * of_head + reverse * of_tail).sum()
    }
}

/// 1 for each outcome of a row that belongs to the head, else 0.
fn heads(log_p: &[f64], alpha: f64) -> Vec<f32> {
    let mut order: Vec<usize> = (0..log_p.len()).collect();
    // Stable, so that equally likely outcomes go by their ids.
    order.sort_by(|left, right| log_p[*left].total_cmp(&log_p[*right]));
    let mut heads = vec![1.0; log_p.len()];
    let mut mass = 0.0;
    for place in order {
        mass += log_p[place].exp();
        if mass > alpha {
            break;
        }
        heads[place] = 0.0;
    }
    heads
}
