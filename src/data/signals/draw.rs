//! Targets drawn from a teacher's distribution: "Sparse logit sampling" (Anshumann et al., 2025, arXiv 2503.16870).

use super::{SequenceKey, TopK};

/// Draws `samples` tokens with replacement from a whole distribution. What comes back holds each token that was drawn once,
/// with the log of its share of the draws; the shares' mean over seeds is the distribution itself, which no truncation has.
/// The same seed, sequence and position draw the same. `None` where the distribution holds nothing.
pub fn draw(log_probs: &[f32], samples: u32, seed: u64, key: &SequenceKey, position: u32) -> Option<TopK> {
    let mut mass = 0.0;
    let masses: Vec<f64> = log_probs
        .iter()
        .map(|log_prob| {
            mass += libm::exp(f64::from(*log_prob));
            mass
        })
        .collect();
    if !(mass.is_finite() && mass > 0.0) {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stillhouse/drawn-targets/1\0");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&key.0);
    hasher.update(&position.to_le_bytes());
    let mut stream = hasher.finalize_xof();
    let mut drawn: Vec<u32> = (0..samples)
        .map(|_| {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            let point = (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64 * mass;
            masses.partition_point(|mass| *mass <= point).min(masses.len() - 1) as u32
        })
        .collect();
    drawn.sort_unstable();
    let mut counts: Vec<(u32, u32)> = drawn.chunk_by(|a, b| a == b).map(|run| (run.len() as u32, run[0])).collect();
    counts.sort_unstable_by_key(|(count, id)| (std::cmp::Reverse(*count), *id));
    let share = |count: u32| libm::log(f64::from(count) / f64::from(samples)) as f32;
    Some(TopK {
        ids: counts.iter().map(|(_, id)| *id).collect(),
        log_probs: counts.iter().map(|(count, _)| share(*count)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_sequence_and_position_only_and_their_mean_is_the_distribution() {
        let log_probs: Vec<f32> = [0.5f32, 0.25, 0.125, 0.125, 0.0].iter().map(|p| p.ln()).collect();
        let key = SequenceKey::of("t", &[1, 2]);
        let one = draw(&log_probs, 16, 3, &key, 7).unwrap();
        assert_eq!(one, draw(&log_probs, 16, 3, &key, 7).unwrap());
        let others = [
            draw(&log_probs, 16, 4, &key, 7).unwrap(),
            draw(&log_probs, 16, 3, &SequenceKey::of("t", &[1]), 7).unwrap(),
            draw(&log_probs, 16, 3, &key, 8).unwrap(),
        ];
        assert!(others.iter().any(|other| *other != one));
        let mut mean = [0.0; 5];
        for position in 0..2_000 {
            let drawn = draw(&log_probs, 16, 3, &key, position).unwrap();
            let sum: f64 = drawn.log_probs.iter().map(|share| f64::from(*share).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-6);
            drawn
                .ids
                .iter()
                .zip(&drawn.log_probs)
                .for_each(|(id, share)| mean[*id as usize] += f64::from(*share).exp() / 2e3);
        }
        for (mean, exact) in mean.iter().zip([0.5, 0.25, 0.125, 0.125, 0.0]) {
            assert!((mean - exact).abs() < 0.01, "{mean} {exact}");
        }
        assert_eq!(draw(&[f32::NEG_INFINITY], 4, 1, &key, 0), None);
    }
}
