//! The shape of a decoder, whatever family it comes from.

use serde::{Deserialize, Serialize};

/// Everything that fixes a decoder's computation beside its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DecoderConfig {
    /// Name of the family in [`MODELS`](super::MODELS).
    pub family: String,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward block.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Longest sequence.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched, if they are.
    pub rope_scaling: Option<RotaryScaling>,
    /// ε of the RMS norms.
    pub norm_epsilon: f64,
    /// The output head is the embedding.
    pub tied: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Begin-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens.
    pub eos: Vec<u32>,
    /// Padding token.
    pub pad: Option<u32>,
}

/// Frequency-dependent stretching, as Llama 3.1 introduced it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RotaryScaling {
    /// Long wavelengths are stretched by this.
    pub factor: f64,
    /// Wavelengths above `original_context / low_frequency_factor` are stretched fully.
    pub low_frequency_factor: f64,
    /// Wavelengths below `original_context / high_frequency_factor` are left alone.
    pub high_frequency_factor: f64,
    /// Context the model was first trained with.
    pub original_context: usize,
}

impl DecoderConfig {
    /// Number of weights.
    pub fn parameters(&self) -> usize {
        let attention = self.hidden * self.head_width * (2 * self.heads + 2 * self.kv_heads);
        let layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden;
        let embeddings = self.vocabulary * self.hidden * if self.tied { 1 } else { 2 };
        self.layers * layer + embeddings + self.hidden
    }

    /// Whether the numbers fit each other.
    ///
    /// # Errors
    /// A size of zero, heads that key-value heads do not divide, an odd head width.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocabulary", self.vocabulary),
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("intermediate", self.intermediate),
            ("heads", self.heads),
            ("kv-heads", self.kv_heads),
            ("head width", self.head_width),
            ("context", self.context),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("says that {name} is 0"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "has {} heads, which {} key-value heads do not divide",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_width.is_multiple_of(2) {
            return Err(format!(
                "has heads of width {}; rotary positions need an even width",
                self.head_width
            ));
        }
        Ok(())
    }
}
