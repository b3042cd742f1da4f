//! Universal logit distillation: distributions over different vocabularies.

use burn::tensor::Tensor;
use rayon::prelude::*;
use stillhouse_spec::Config;

use super::compared::select_rows;
use super::{Formula, LossSum, Positions, Reads, Weight};
use crate::kernels::Kernels;

/// Universal logit distillation: `Σᵢ |p₍ᵢ₎ − q₍ᵢ₎|`, both distributions sorted in descending order and the shorter padded with
/// zeros, between 0 and 2 (Boizard et al., 2024, "Towards cross-tokenizer distillation", arXiv 2402.12030). It is
/// twice the Wasserstein distance of the two sorted distributions where the way from any rank to any other costs 1: nothing is
/// known of which token of one vocabulary means what in the other.
///
/// Needs a live teacher, whose tokenizer may be another: it reads the same text in its own tokens, and positions are compared
/// where a token of both begins at the same byte (`stillhouse_data::align`). Its gradient moves each of the student's
/// probabilities towards the teacher's of the same rank; the order itself counts as given.
#[derive(Clone, Debug, Config)]
pub struct Uld {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// Softens both distributions before they are compared. Nothing makes up for the smaller gradient.
    #[config(default = 1.0, above = 0)]
    pub temperature: f64,
}

impl Formula for Uld {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn reads(&self) -> Reads<'_> {
        Reads::OtherTokens
    }

    fn sum<B: Kernels>(&self, positions: &Positions<'_, B>) -> LossSum<B> {
        let (Some(live), Some(log_p)) = (&positions.live, positions.live_log_probs(self.temperature)) else {
            return LossSum { sum: None, positions: 0 };
        };
        let log_q = positions.log_probs_of_first(live.ours, self.temperature);
        let log_q = match &live.places {
            None => log_q,
            Some(places) => select_rows(log_q, &places.iter().map(|place| *place as usize).collect::<Vec<_>>()),
        };
        let [rows, width] = log_q.dims();
        let q = log_q.exp();
        let partners = Partners::of(&host(&q), width, &host(&log_p.exp()), live.theirs);
        let inside = (q - positions.numbers(partners.of_each, width)).abs().sum_dim(1).sum();
        LossSum { sum: Some(inside + partners.beyond), positions: rows }
    }
}

/// The teacher's probability of the same rank for each of the student's.
struct Partners {
    /// `[rows, the student's tokens]`, row by row; 0 where the teacher has fewer tokens.
    of_each: Vec<f32>,
    /// The teacher's probabilities behind the student's last, summed over the rows.
    beyond: f64,
}

impl Partners {
    /// From probabilities row by row. Of equally likely tokens the one with the smaller id comes first, so that nothing depends
    /// on how the work is shared out.
    fn of(q: &[f32], q_width: usize, p: &[f32], p_width: usize) -> Self {
        let row = |(q, p): (&[f32], &[f32])| {
            let mut likely: Vec<u32> = p.iter().map(|p| descending(*p)).collect();
            likely.sort_unstable();
            let mut order: Vec<u64> = (0u64..).zip(q).map(|(id, q)| u64::from(descending(*q)) << 32 | id).collect();
            order.sort_unstable();
            let mut of_each = vec![0.0; q.len()];
            for (key, bits) in order.iter().zip(&likely) {
                of_each[(key & u64::from(u32::MAX)) as usize] = f32::from_bits(!bits);
            }
            let beyond = likely.iter().skip(q.len()).map(|bits| f64::from(f32::from_bits(!bits))).sum::<f64>();
            (of_each, beyond)
        };
        let rows: Vec<(Vec<f32>, f64)> =
            q.par_chunks(q_width.max(1)).zip(p.par_chunks(p_width.max(1))).map(row).collect();
        // Added up in order, whoever was done first.
        let beyond = rows.iter().map(|(_, beyond)| beyond).sum();
        Self { of_each: rows.into_iter().flat_map(|(of_each, _)| of_each).collect(), beyond }
    }
}

/// A key that is smaller for larger numbers. Bits of numbers that are not negative have their order.
fn descending(probability: f32) -> u32 {
    !probability.to_bits()
}

/// Numbers of a matrix on the host, row by row.
fn host<B: Kernels>(matrix: &Tensor<B, 2>) -> Vec<f32> {
    // f32 by the conversion, so the fallback is never taken.
    matrix.to_data().convert::<f32>().into_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_gets_the_others_probability_of_its_rank() {
        let partners = Partners::of(&[0.2, 0.5, 0.3], 3, &[0.1, 0.9], 2);
        assert_eq!((partners.of_each, partners.beyond), (vec![0.0, 0.9, 0.1], 0.0));
        let partners = Partners::of(&[0.4, 0.6], 2, &[0.125, 0.5, 0.25, 0.125], 4);
        assert_eq!((partners.of_each, partners.beyond), (vec![0.25, 0.5], 0.25));
    }

    #[test]
    fn equally_likely_tokens_go_by_their_ids() {
        let partners = Partners::of(&[0.25; 4], 4, &[0.1, 0.2, 0.3, 0.4], 4);
        assert_eq!(partners.of_each, [0.4, 0.3, 0.2, 0.1]);
    }
}
