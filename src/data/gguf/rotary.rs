//! Rotary factors: a GGUF file keeps the divisor of every frequency where Hugging Face keeps the rule they come from.

use std::f64::consts::TAU;

use serde_json::{Value as Json, json};

/// The tensor that holds them, one for each pair of a head's dimensions.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// How far a factor may be from what the rule gives, relatively: factors are f32.
const TOLERANCE: f64 = 1e-4;

/// Llama 3.1's rule. With wavelength λ = 2π·θ^(2i/width), a frequency is divided by
///
/// ```text
/// 1 / ((1 − s) / factor + s),   s = (original / λ − low) / (high − low), clamped to 0 … 1
/// ```
///
/// Source: transformers' `_compute_llama3_parameters`.
struct Rule {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Rule {
    fn divisor(&self, wavelength: f64) -> f64 {
        let smooth = (self.original / wavelength - self.low) / (self.high - self.low);
        let smooth = smooth.clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / self.factor + smooth)
    }
}

/// `rope_scaling` of `config.json` for these factors; none where Llama 3's rule does not give them.
///
/// The file says neither `low` nor `high` nor `original`. The first two are 1 and 4 in every model that follows the rule,
/// the third is a power of two; where several give these factors, they compute the same.
pub(super) fn llama3_scaling(factors: &[f32], theta: f64, head_width: usize) -> Option<Json> {
    if factors.len() != head_width / 2 {
        return None;
    }
    let factors: Vec<f64> = factors.iter().copied().map(f64::from).collect();
    if factors.iter().all(|factor| (factor - 1.0).abs() < TOLERANCE) {
        return Some(Json::Null);
    }
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let wavelength = |i: usize| TAU * theta.powf(2.0 * i as f64 / head_width as f64);
    let gives = |rule: &Rule| {
        factors.iter().enumerate().all(|(i, divisor)| (rule.divisor(wavelength(i)) / divisor - 1.0).abs() < TOLERANCE)
    };
    let rules = (4..24).map(|power| Rule { factor, low: 1.0, high: 4.0, original: f64::from(1u32 << power) });
    let rule = rules.into_iter().find(gives)?;
    Some(json!({
        "rope_type": "llama3",
        "factor": rule.factor,
        "low_freq_factor": rule.low,
        "high_freq_factor": rule.high,
        "original_max_position_embeddings": rule.original as u64,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(rule: &Rule, theta: f64, width: usize) -> Vec<f32> {
        (0..width / 2).map(|i| rule.divisor(TAU * theta.powf(2.0 * i as f64 / width as f64)) as f32).collect()
    }

    #[test]
    fn the_rules_of_published_models_are_found() {
        for (factor, original, theta, width) in [(8.0, 8192.0, 5e5, 128), (32.0, 8192.0, 5e5, 64), (8.0, 32.0, 5e5, 12)]
        {
            let rule = Rule { factor, low: 1.0, high: 4.0, original };
            let found = llama3_scaling(&factors(&rule, theta, width), theta, width).unwrap();
            let expected = json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": original as u64,
            });
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn factors_of_one_change_nothing() {
        assert_eq!(llama3_scaling(&[1.0; 32], 1e4, 64), Some(Json::Null));
    }

    #[test]
    fn factors_of_another_rule_are_not_taken_for_llama3() {
        let grown: Vec<f32> = (0..32).map(|i| 1.0 + i as f32).collect();
        assert_eq!(llama3_scaling(&grown, 1e4, 64), None);
        assert_eq!(llama3_scaling(&[8.0; 31], 1e4, 64), None);
    }
}
