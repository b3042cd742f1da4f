//! The shape of a decoder, whatever family it comes from.

use serde::{Deserialize, Serialize};

use crate::trainer::training_bytes;

/// Most weights of a model: 2³⁶, whose training takes a tebibyte in f32 (see [`training_bytes`]).
const MOST_PARAMETERS: usize = 1 << 36;
/// Most layers of a model: more than anybody trains, and few enough to be listed.
const MOST_LAYERS: usize = 1 << 16;

/// Everything that fixes a decoder's computation beside its weights.
///
/// It is part of every training's key: a field that most models leave at its default is left out there.
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
    /// Which projections have a bias.
    #[serde(default, skip_serializing_if = "Biases::is_none")]
    pub biases: Biases,
    /// Queries and keys go through an RMS norm, head by head, before they are rotated.
    #[serde(default, skip_serializing_if = "is_false")]
    pub head_norms: bool,
    /// Layers that look back only so far, if some do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<SlidingWindow>,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Begin-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens.
    pub eos: Vec<u32>,
    /// Padding token.
    pub pad: Option<u32>,
}

/// Which projections add a bias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Biases {
    /// Those of queries, keys and values.
    pub attention_input: bool,
    /// That of attention's output.
    pub attention_output: bool,
    /// The three of the feed-forward block.
    pub feed_forward: bool,
}

/// Layers whose positions see the latest ones only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SlidingWindow {
    /// How many positions one sees, itself among them.
    pub width: usize,
    /// The layers, counted from 0, in ascending order; the others see everything.
    pub layers: Vec<usize>,
}

/// How rotary frequencies are stretched for longer sequences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RotaryScaling {
    /// By wavelength, as Llama 3.1 introduced it.
    Llama3(Llama3Scaling),
    /// All by one factor.
    Linear(LinearScaling),
}

/// Frequency-dependent stretching.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Llama3Scaling {
    /// Long wavelengths are stretched by this.
    pub factor: f64,
    /// Wavelengths above `original_context / low_frequency_factor` are stretched fully.
    pub low_frequency_factor: f64,
    /// Wavelengths below `original_context / high_frequency_factor` are left alone.
    pub high_frequency_factor: f64,
    /// Context the model was first trained with.
    pub original_context: usize,
}

/// Stretching by one factor (position interpolation).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinearScaling {
    /// Every wavelength is stretched by this.
    pub linear_factor: f64,
}

impl Biases {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

impl DecoderConfig {
    /// Number of weights; the largest number there is where they are more.
    pub fn parameters(&self) -> usize {
        let size = |factors: &[usize]| factors.iter().fold(1usize, |product, factor| product.saturating_mul(*factor));
        let total = |sizes: &[usize]| sizes.iter().fold(0usize, |sum, size| sum.saturating_add(*size));
        let (queries, keys) = (size(&[self.heads, self.head_width]), size(&[self.kv_heads, self.head_width]));
        let only_if = |is_there: bool, size: usize| if is_there { size } else { 0 };
        let layer = total(&[
            size(&[2, self.hidden, total(&[queries, keys])]),
            size(&[3, self.hidden, self.intermediate]),
            size(&[2, self.hidden]),
            only_if(self.biases.attention_input, total(&[queries, keys, keys])),
            only_if(self.biases.attention_output, self.hidden),
            only_if(self.biases.feed_forward, total(&[self.intermediate, self.intermediate, self.hidden])),
            only_if(self.head_norms, size(&[2, self.head_width])),
        ]);
        let embeddings = size(&[self.vocabulary, self.hidden, if self.tied { 1 } else { 2 }]);
        total(&[size(&[self.layers, layer]), embeddings, self.hidden])
    }

    /// Whether the numbers fit each other.
    ///
    /// # Errors
    /// A size of zero or beyond all memory, heads that key-value heads do not divide, an odd head width,
    /// a width that the family does not allow.
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
            return Err(format!("has {} heads, which {} key-value heads do not divide", self.heads, self.kv_heads));
        }
        if !self.head_width.is_multiple_of(2) {
            return Err(format!("has heads of width {}; rotary positions need an even width", self.head_width));
        }
        let strict = super::family(&self.family).is_some_and(|family| family.heads_divide_hidden);
        if strict && !self.hidden.is_multiple_of(self.heads) {
            return Err(format!(
                "has a width of {} that {} heads do not divide, which transformers takes for a fault in {}",
                self.hidden, self.heads, self.family
            ));
        }
        if self.parameters() > MOST_PARAMETERS {
            return Err(format!(
                "describes a model of {} parameters, whose training takes {} and more",
                in_words(self.parameters(), 1000.0, &["", " thousand", " million", " billion", " trillion"]),
                bytes_in_words(training_bytes(self.parameters())),
            ));
        }
        if self.layers > MOST_LAYERS {
            return Err(format!("describes a model of {} layers; at most {MOST_LAYERS} can be", self.layers));
        }
        Ok(())
    }
}

/// A number of bytes as people say it: `1.5 TiB`.
pub(crate) fn bytes_in_words(bytes: usize) -> String {
    in_words(bytes, 1024.0, &[" bytes", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

fn in_words(number: usize, step: f64, units: &[&str]) -> String {
    let (mut scaled, mut unit) = (number as f64, 0);
    while scaled >= step && unit + 1 < units.len() {
        scaled /= step;
        unit += 1;
    }
    if unit == 0 { format!("{number}{}", units[0]) } else { format!("{scaled:.1}{}", units[unit]) }
}
