//! The angles of rotary position embedding.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use super::config::{DecoderConfig, Llama3Scaling, RotaryScaling};

/// Inverse wavelengths of a model's rotations.
///
/// Computed as transformers does it, in f32 steps, so that far positions agree as well as near ones.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    frequencies: Vec<f32>,
}

impl RotaryTable {
    /// Frequencies for a shape, stretched as its configuration says.
    pub fn new(config: &DecoderConfig) -> Self {
        let width = config.head_width;
        let base = config.rope_theta as f32;
        let frequencies = (0..width / 2).map(|pair| {
            let exponent = (2 * pair) as f32 / width as f32;
            1.0 / libm::pow(f64::from(base), f64::from(exponent)) as f32
        });
        let frequencies = match &config.rope_scaling {
            None => frequencies.collect(),
            Some(RotaryScaling::Linear(scaling)) => {
                frequencies.map(|frequency| frequency / scaling.linear_factor as f32).collect()
            }
            Some(RotaryScaling::Llama3(scaling)) => {
                frequencies.map(|frequency| stretch_by_wavelength(frequency, scaling)).collect()
            }
        };
        Self { frequencies }
    }

    /// Cosine and sine of every rotation at the given positions.
    ///
    /// # Shapes
    /// - positions: `[batch × time]`, row by row
    /// - cosine, sine: `[batch, time, 1, head width / 2]`
    pub fn angles<B: Backend>(
        &self,
        positions: &[u32],
        batch: usize,
        device: &B::Device,
    ) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let half = self.frequencies.len();
        let time = positions.len() / batch.max(1);
        let last = positions.iter().copied().max().unwrap_or(0);
        // Positions repeat in every row of a batch: each angle is computed once.
        let mut cosines = Vec::with_capacity((last as usize + 1) * half);
        let mut sines = Vec::with_capacity((last as usize + 1) * half);
        for position in 0..=last {
            for frequency in &self.frequencies {
                let angle = f64::from(position as f32 * frequency);
                cosines.push(libm::cos(angle) as f32);
                sines.push(libm::sin(angle) as f32);
            }
        }
        let gather = |table: &[f32]| {
            let mut values = Vec::with_capacity(positions.len() * half);
            for &position in positions {
                let from = position as usize * half;
                values.extend_from_slice(&table[from..from + half]);
            }
            Tensor::from_data(TensorData::new(values, [batch, time, 1, half]), device)
        };
        (gather(&cosines), gather(&sines))
    }
}

/// Long wavelengths are stretched, short ones left alone, those between mixed.
fn stretch_by_wavelength(frequency: f32, scaling: &Llama3Scaling) -> f32 {
    let original = scaling.original_context as f32;
    let (low, high) = (scaling.low_frequency_factor as f32, scaling.high_frequency_factor as f32);
    let wavelength = 2.0 * std::f32::consts::PI / frequency;
    if wavelength > original / low {
        frequency / scaling.factor as f32
    } else if wavelength < original / high {
        frequency
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / scaling.factor as f32 + smooth * frequency
    }
}
