//! How fast a training is against what the machine can do.
//!
//! Model FLOPs utilisation (Chowdhery et al., 2022, appendix B) is the share of the machine's peak that goes into
//! operations which the model needs: for a token
//!
//! ```text
//! 6·N + 12·L·H·W·T
//! ```
//!
//! with N the weights in matrix products (all but embedding and norms; the head counts, tied or not), L layers, H heads
//! of width W, T positions in a row. What is computed twice (gradient checkpointing) counts once, positions that hide from
//! each other count as seen.

use std::sync::OnceLock;
use std::time::Instant;

use burn::tensor::{Distribution, Tensor};

use crate::backend::Cpu;
use crate::device::DeviceChoice;
use crate::model::DecoderConfig;
use crate::precision::Precision;

/// Floating-point operations that a trained token needs, forward and backward, in rows of `length` positions.
pub fn operations_per_token(config: &DecoderConfig, length: usize) -> f64 {
    let attention = config.hidden * config.head_width * (2 * config.heads + 2 * config.kv_heads);
    let layer = attention + 3 * config.hidden * config.intermediate;
    let weights = config.layers * layer + config.vocabulary * config.hidden;
    let scores = 12 * config.layers * config.heads * config.head_width * length;
    (6 * weights + scores) as f64
}

/// Operations a second that a device can do at most in matrix products of a precision: measured on the processor (in f32,
/// which is how it computes bf16 too), the maker's figure of a known GPU, none of any other.
pub fn peak(device: DeviceChoice, precision: Precision) -> Option<f64> {
    match device {
        DeviceChoice::Cpu => Some(processor_peak()),
        DeviceChoice::Cuda(_) => gpu_peak(&gpu_name()?, precision),
    }
}

/// The best of a few products of large matrices, measured once a process.
fn processor_peak() -> f64 {
    const SIZE: usize = 768;
    static PEAK: OnceLock<f64> = OnceLock::new();
    *PEAK.get_or_init(|| {
        let device = Default::default();
        let matrix = Tensor::<Cpu, 2>::random([SIZE, SIZE], Distribution::Uniform(-1.0, 1.0), &device);
        let seconds = (0..5).map(|_| {
            let started = Instant::now();
            drop(matrix.clone().matmul(matrix.clone()).into_data());
            started.elapsed().as_secs_f64()
        });
        let fastest = seconds.fold(f64::INFINITY, f64::min);
        2.0 * (SIZE as f64).powi(3) / fastest.max(1e-9)
    })
}

/// Dense tensor-core peaks, in operations a second, with sums in f32: TF32, where f32 products run, and bf16. From NVIDIA's
/// data sheets of each product, which give H100's and H200's with sparsity, twice as much, and those of the RTX cards from
/// the white papers of the Ada (AD102) and Ampere (GA102) architectures.
const GPUS: &[(&str, f64, f64)] = &[
    ("H200", 494.5e12, 989e12),
    ("H100 PCIe", 378e12, 756e12),
    ("H100 80GB HBM3", 494.5e12, 989e12),
    ("A100", 156e12, 312e12),
    ("L40S", 183e12, 362e12),
    ("L4", 60e12, 121e12),
    ("RTX 4090", 82.6e12, 165.2e12),
    ("RTX 3090", 35.6e12, 71e12),
];

/// The peak of a GPU by the name that its driver gives it.
pub fn gpu_peak(name: &str, precision: Precision) -> Option<f64> {
    let is = |known: &str| {
        name.split_once(known).is_some_and(|(_, rest)| !rest.starts_with(|next: char| next.is_alphanumeric()))
    };
    let (_, in_tf32, in_bf16) = GPUS.iter().find(|(known, _, _)| is(known))?;
    Some(match precision {
        Precision::F32 => *in_tf32,
        Precision::Bf16 => *in_bf16,
    })
}

/// The name of the machine's GPUs as the driver tells it, if they are all the same.
fn gpu_name() -> Option<String> {
    let mut names = Vec::new();
    for gpu in fs_err::read_dir("/proc/driver/nvidia/gpus").ok()? {
        let text = fs_err::read_to_string(gpu.ok()?.path().join("information")).ok()?;
        names.push(text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_owned());
    }
    names.dedup();
    if names.len() == 1 { names.pop() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FreshShape;
    use crate::model::llama::LlamaShape;

    #[test]
    fn operations_are_six_a_weight_and_the_scores() {
        let shape = LlamaShape {
            layers: 2,
            hidden: 8,
            heads: 2,
            head_width: None,
            kv_heads: Some(1),
            intermediate: Some(16),
            context: None,
            tied: true,
            rope_theta: 1e4,
            norm_epsilon: 1e-5,
        };
        let config = shape.config(10, 4);
        // Queries and output 8×8, keys and values 4×8, three of 8×16; the tied head 10×8.
        let layer = 2 * 64 + 2 * 32 + 3 * 128;
        assert_eq!(operations_per_token(&config, 4), f64::from(6 * (2 * layer + 80) + 12 * 2 * 2 * 4 * 4));
    }

    #[test]
    fn a_processor_is_measured_and_an_unknown_gpu_is_not_guessed() {
        assert!(peak(DeviceChoice::Cpu, Precision::F32).is_some_and(|peak| peak > 1e8));
        let gpu_peak = |name: &str| gpu_peak(name, Precision::F32);
        assert_eq!(gpu_peak("NVIDIA L4"), Some(60e12));
        assert_eq!(gpu_peak("NVIDIA L40S"), Some(183e12));
        assert_eq!(gpu_peak("NVIDIA A100-SXM4-80GB"), Some(156e12));
        assert_eq!(gpu_peak("NVIDIA H100 80GB HBM3"), Some(494.5e12));
        assert_eq!(gpu_peak("NVIDIA L400"), None);
        assert_eq!(gpu_peak("GeForce 256"), None);
        assert_eq!(super::gpu_peak("NVIDIA A100-SXM4-80GB", Precision::Bf16), Some(312e12));
    }
}
