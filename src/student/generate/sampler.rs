//! Choosing the next token.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use stillhouse_data::lm::Sampling;

/// Chooses the tokens of one sequence. The n-th choice uses the n-th random number of the sequence's own stream: ChaCha8
/// under `blake3("stillhouse/sample/1\0" ‖ seed u64 little-endian)`.
pub(super) struct Sampler<'a> {
    sampling: &'a Sampling,
    stream: ChaCha8Rng,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(sampling: &'a Sampling, seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/sample/1\0");
        hasher.update(&seed.to_le_bytes());
        Self { sampling, stream: ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()) }
    }

    /// The next token from the logits of the whole vocabulary.
    pub(super) fn next(&mut self, logits: &[f32]) -> u32 {
        let logits = &logits[..self.sampling.allowed.map_or(logits.len(), |allowed| allowed.min(logits.len()))];
        if self.sampling.temperature <= 0.0 {
            return most_likely(logits);
        }
        let candidates = self.candidates(logits);
        let mass: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        let uniform = (self.stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = uniform * mass;
        for (token, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return *token;
            }
        }
        // Rounding can leave a trace of mass behind the last candidate.
        candidates.last().map_or(0, |(token, _)| *token)
    }

    /// What may be chosen, with its unscaled probability.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: &f32| (f64::from(logit - largest) / f64::from(*temperature)).exp();
        let mut candidates: Vec<(u32, f64)> = (0..).zip(logits.iter().map(weight)).collect();
        let keep = top_k.filter(|k| *k > 0 && *k < candidates.len());
        // The most likely token has the weight 1.
        let least = f64::from(*min_p);
        if keep.is_none() && *top_p >= 1.0 {
            candidates.retain(|(_, weight)| *weight >= least);
            return candidates;
        }
        candidates.sort_by(|(left, left_weight), (right, right_weight)| {
            right_weight.total_cmp(left_weight).then(left.cmp(right))
        });
        candidates.truncate(keep.unwrap_or(candidates.len()));
        if *top_p < 1.0 {
            let mass: f64 = candidates.iter().map(|(_, weight)| weight).sum();
            let wanted = mass * f64::from(*top_p);
            let mut reached = 0.0;
            let enough = candidates.iter().position(|(_, weight)| {
                reached += weight;
                reached >= wanted
            });
            candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
        }
        candidates.retain(|(_, weight)| *weight >= least);
        candidates
    }
}

/// The lowest id among the most likely.
fn most_likely(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, 2.0];

    fn sampling(temperature: f32, top_k: Option<usize>, top_p: f32) -> Sampling {
        Sampling { temperature, top_k, top_p, min_p: 0.0, max_tokens: 1, stop_ids: vec![], allowed: None }
    }

    fn drawn(sampling: &Sampling, count: usize) -> [usize; 4] {
        let mut sampler = Sampler::new(sampling, 5);
        let mut seen = [0; 4];
        (0..count).for_each(|_| seen[sampler.next(&LOGITS) as usize] += 1);
        seen
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_most_likely() {
        assert_eq!(drawn(&sampling(0.0, None, 1.0), 10), [0, 10, 0, 0]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let seen = drawn(&sampling(1.0, None, 1.0), 20_000);
        let mass: f64 = LOGITS.iter().map(|logit| f64::from(*logit).exp()).sum();
        for (logit, seen) in LOGITS.iter().zip(seen) {
            let expected = f64::from(*logit).exp() / mass;
            assert!((seen as f64 / 20_000.0 - expected).abs() < 0.01, "{seen} for {expected}");
        }
    }

    #[test]
    fn top_k_and_top_p_leave_the_tail_out() {
        assert_eq!(drawn(&sampling(1.0, Some(1), 1.0), 50), [0, 50, 0, 0]);
        let two = drawn(&sampling(1.0, Some(2), 1.0), 400);
        assert!(two[0] + two[2] == 0 && two[1] > 120 && two[3] > 120, "{two:?}");
        // The two most likely have 0.84 of the mass together: 0.8 needs both, 0.3 only one.
        assert_eq!(drawn(&sampling(1.0, None, 0.3), 50), [0, 50, 0, 0]);
        assert_eq!(drawn(&sampling(1.0, None, 0.8), 50)[0], 0);
    }

    #[test]
    fn only_the_first_ids_are_chosen_where_there_is_a_limit() {
        let with = |temperature, allowed| drawn(&Sampling { allowed, ..sampling(temperature, None, 1.0) }, 400);
        let seen = with(1.0, Some(3));
        assert!(seen[3] == 0 && seen[..3].iter().all(|seen| *seen > 0), "{seen:?}");
        assert_eq!(with(0.0, Some(1)), [400, 0, 0, 0]);
        assert_eq!(with(1.0, Some(9)), with(1.0, None));
    }

    #[test]
    fn min_p_leaves_out_what_is_far_less_likely_than_the_most_likely() {
        // e⁻¹ = 0.37 for token 2, e⁻² = 0.14 for token 0.
        let with = |min_p| drawn(&Sampling { min_p, ..sampling(1.0, None, 1.0) }, 400);
        assert!(with(0.1).iter().all(|seen| *seen > 0));
        assert!(with(0.2)[0] == 0 && with(0.2)[2] > 0);
        assert!(with(0.5)[0] + with(0.5)[2] == 0 && with(0.5)[1] > 120);
        let both = drawn(&Sampling { min_p: 0.2, ..sampling(1.0, Some(3), 1.0) }, 400);
        assert!(both[0] == 0 && both[2] > 0);
    }

    #[test]
    fn a_seed_gives_the_same_text() {
        let sampling = sampling(1.0, None, 1.0);
        let draw = |seed| {
            let mut sampler = Sampler::new(&sampling, seed);
            (0..20).map(|_| sampler.next(&LOGITS)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
