//! Fresh weights: every matrix normal with the configuration's standard deviation, every norm one, every bias zero (the
//! scheme of Hugging Face's decoders).
//!
//! A tensor's numbers depend on seed and name only, so they are the same on every backend and platform, and adding a
//! layer leaves the others' numbers alone.

use burn::tensor::backend::Backend;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::error::Result;
use crate::model::{Decoder, DecoderConfig};
use crate::weights::load_into;

/// A decoder with fresh weights.
///
/// The stream of a tensor is ChaCha8 under `blake3("stillhouse/init/1\0" ‖ seed u64 little-endian ‖ name)`.
pub fn fresh<B: Backend>(config: &DecoderConfig, seed: u64, device: &B::Device) -> Result<Decoder<B>> {
    load_into(Decoder::empty(config, device), device, |name, shape| {
        let count = shape.iter().product();
        // Norms and biases are the only tensors of one dimension.
        if shape.len() == 1 {
            return Ok(vec![if name.ends_with(".bias") { 0.0 } else { 1.0 }; count]);
        }
        Ok(normal(seed, name, count, config.initializer_range))
    })
}

/// Normal numbers of a standard deviation, from the stream of a tensor's name.
pub(crate) fn normal(seed: u64, name: &str, count: usize, deviation: f64) -> Vec<f32> {
    let mut stream = stream(seed, name);
    let mut values: Vec<f32> = Vec::with_capacity(count + 1);
    while values.len() < count {
        let (one, other) = normal_pair(&mut stream);
        values.push((one * deviation) as f32);
        values.push((other * deviation) as f32);
    }
    values.truncate(count);
    values
}

fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stillhouse/init/1\0");
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Two independent standard normal numbers, by Box and Muller.
fn normal_pair(stream: &mut ChaCha8Rng) -> (f64, f64) {
    // In (0, 1]: the logarithm below must not see zero.
    let uniform = |bits: u64| ((bits >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let radius = libm::sqrt(-2.0 * libm::log(uniform(stream.next_u64())));
    let angle = 2.0 * std::f64::consts::PI * uniform(stream.next_u64());
    (radius * libm::cos(angle), radius * libm::sin(angle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::read_config;
    use crate::weights::take_values;
    use burn::backend::Flex;

    #[test]
    fn a_seed_gives_the_same_weights_for_ever() {
        let text = include_str!("tests/golden/llama-gqa-tied/config.json");
        let config = read_config("m", text).unwrap().1;
        let weights = |seed| take_values(&fresh::<Flex>(&config, seed, &Default::default()).unwrap());
        let seven = weights(7);
        assert_eq!(seven, weights(7));
        assert_ne!(seven, weights(8));
        let embedding = &seven["model.embed_tokens.weight"];
        assert_eq!(embedding.shape, [128, 48]);
        assert_eq!(embedding.data[..3], [-0.018430617, -0.022811504, -0.01080184]);
        let count = embedding.data.len() as f64;
        let mean = embedding.data.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let spread = (embedding.data.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / count).sqrt();
        assert!(mean.abs() < 1e-3 && (spread - 0.02).abs() < 1e-3, "{mean} {spread}");
        assert!(seven["model.norm.weight"].data.iter().all(|value| *value == 1.0));
    }

    #[test]
    fn every_family_begins_with_norms_of_one_and_biases_of_zero() {
        for text in [
            include_str!("tests/golden/mistral/config.json"),
            include_str!("tests/golden/qwen2/config.json"),
            include_str!("tests/golden/qwen3/config.json"),
        ] {
            let config = read_config("m", text).unwrap().1;
            let weights = take_values(&fresh::<Flex>(&config, 1, &Default::default()).unwrap());
            let count: usize = weights.values().map(|values| values.data.len()).sum();
            assert_eq!(count, config.parameters(), "{}", config.family);
            for (name, values) in weights.iter().filter(|(_, values)| values.shape.len() == 1) {
                let all = |expected: f32| values.data.iter().all(|value| *value == expected);
                assert!(all(if name.ends_with(".bias") { 0.0 } else { 1.0 }), "{name}");
            }
        }
    }
}
