//! Cross-entropy with targets drawn from the teacher.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use stillhouse_spec::Config;

use super::{Compared, Comparison, Divergence, Positions, Weight};
use crate::kernels::Kernels;

/// Cross-entropy with tokens drawn from the teacher: `−Σ w(x) log q(x)` over `samples` draws with replacement from a
/// proposal ∝ `p^proposal`, each with the weight `p(x) / (samples · proposal(x))` (Anshumann et al., 2025, "Sparse logit
/// sampling"). Its mean over draws is exactly `−Σ p log q`, which plain truncation to the most likely k is not.
///
/// P is whatever is known of the teacher: a whole distribution, or its top k with the `tail` chosen for the rest. So
/// stored top-k signals need no other form: they are what is drawn from. Draws depend on nothing but the step's batch,
/// the step and the position, so a training that goes on draws the same. With `proposal = 1` the weights are the
/// shares of the draws and sum to 1; flatter proposals look at rarer tokens, at the price of noise.
#[derive(Clone, Debug, Config)]
pub struct SampledCrossEntropy {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
    /// Draws a position.
    #[config(default = 64, min = 1, max = 65_536)]
    pub samples: usize,
    /// Exponent of the distribution that is drawn from: 1 is the teacher's own, 0 takes all tokens alike.
    #[config(default = 1.0, min = 0)]
    pub proposal: f64,
    /// How the two distributions are made comparable.
    #[config(inline)]
    pub comparison: Comparison,
}

impl Divergence for SampledCrossEntropy {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn comparison(&self) -> Comparison {
        self.comparison
    }

    fn refuses_draws(&self) -> Option<String> {
        self.comparison.refuses_draws()
    }

    fn between<B: Kernels>(&self, compared: &Compared<'_, B>, positions: &Positions<'_, B>) -> Tensor<B, 1> {
        let seeds: Vec<[u8; 32]> = compared.places.iter().map(|place| positions.teacher.draws(*place)).collect();
        let drawn = compared.map_rows(|row, log_p| draw(log_p, self.proposal, self.samples, seeds[row]));
        let width = drawn.iter().map(Vec::len).max().unwrap_or(1);
        let mut places = Vec::with_capacity(drawn.len() * width);
        let mut weights = Vec::with_capacity(drawn.len() * width);
        for row in drawn {
            let missing = width - row.len();
            for (place, weight) in row.into_iter().chain(std::iter::repeat_n((0, 0.0), missing)) {
                places.push(place);
                weights.push(weight);
            }
        }
        let log_q = compared.log_q.clone().gather(1, positions.ids(places, width));
        (compared.matrix(weights, width) * log_q).sum_dim(1).sum().neg()
    }
}

/// Outcomes drawn from a row, each once, with their weights.
fn draw(log_p: &[f64], proposal: f64, samples: usize, seed: [u8; 32]) -> Vec<(i32, f32)> {
    // Outcomes without probability are never drawn, whatever the proposal.
    let likely: Vec<usize> = (0..log_p.len()).filter(|place| log_p[*place] > f64::NEG_INFINITY).collect();
    let largest = likely.iter().map(|place| log_p[*place]).fold(f64::NEG_INFINITY, f64::max);
    let mut mass = 0.0;
    let masses: Vec<f64> = likely
        .iter()
        .map(|place| {
            mass += (proposal * (log_p[*place] - largest)).exp();
            mass
        })
        .collect();
    let mut stream = ChaCha8Rng::from_seed(seed);
    let mut counts: BTreeMap<usize, u32> = BTreeMap::new();
    for _ in 0..samples {
        let point = (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * mass;
        let drawn = masses.partition_point(|mass| *mass <= point).min(masses.len().saturating_sub(1));
        *counts.entry(drawn).or_default() += 1;
    }
    let weighted = counts.into_iter().map(|(drawn, count)| {
        let place = likely[drawn];
        let below = if drawn == 0 { 0.0 } else { masses[drawn - 1] };
        let chance = (masses[drawn] - below) / mass;
        (place as i32, (f64::from(count) / samples as f64 * log_p[place].exp() / chance) as f32)
    });
    weighted.collect()
}
