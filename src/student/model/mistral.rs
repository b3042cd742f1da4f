//! Mistral: Llama's parts, and in its first version a window that every layer looks back through.
//!
//! What Hugging Face calls `MistralForCausalLM`: Mistral 7B, Mistral Nemo.

use serde_json::{Map, Value, json};

use super::Family;
use super::config::{DecoderConfig, SlidingWindow};
use super::fields::{Defaults, Fields};
use super::shape::{FreshShape, fresh_shape};
use super::written::written;

/// The family's entry.
pub static MISTRAL: Family = Family {
    name: "mistral",
    architecture: "MistralForCausalLM",
    about: "Llama's parts, with or without a sliding window in every layer",
    heads_divide_hidden: false,
    read,
    write,
};

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, String> {
    let shared = fields.decoder(&MISTRAL, &Defaults { kv_heads: Some(8), head_width: None, context: 131_072 })?;
    let everywhere = |width| SlidingWindow { width, layers: (0..shared.layers).collect() };
    Ok(DecoderConfig { sliding_window: fields.window_width()?.map(everywhere), ..shared })
}

fn write(config: &DecoderConfig) -> Map<String, Value> {
    written(config, &MISTRAL, json!({ "sliding_window": config.sliding_window.as_ref().map(|window| window.width) }))
}

fresh_shape! {
    /// A fresh Mistral, without a sliding window.
    MistralShape { rope_theta: 10_000.0, norm_epsilon: 1e-5 }
}

impl FreshShape for MistralShape {
    fn config(&self, vocabulary: usize, length: usize) -> DecoderConfig {
        self.sizes().decoder(&MISTRAL, vocabulary, length)
    }
}
