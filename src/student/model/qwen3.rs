//! Qwen3: Llama's parts with an RMS norm over every head of queries and keys, and heads of a width of their own.
//!
//! What Hugging Face calls `Qwen3ForCausalLM`: the dense models.

use serde_json::{Map, Value, json};

use super::Family;
use super::config::{Biases, DecoderConfig};
use super::fields::{Defaults, Fields};
use super::shape::{FreshShape, fresh_shape};
use super::written::{window_by_layer, written};

/// The family's entry.
pub static QWEN3: Family = Family {
    name: "qwen3",
    architecture: "Qwen3ForCausalLM",
    about: "Llama's parts with norms on the heads of queries and keys (Qwen3, dense)",
    heads_divide_hidden: false,
    read,
    write,
};

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, String> {
    let attention = fields.flag("attention_bias")?;
    let biases = Biases { attention_input: attention, attention_output: attention, feed_forward: false };
    let shared = fields.decoder(&QWEN3, &Defaults { kv_heads: Some(32), head_width: Some(128), context: 32_768 })?;
    let sliding_window = fields.window_by_layer(shared.layers)?;
    Ok(DecoderConfig { biases, head_norms: true, sliding_window, ..shared })
}

fn write(config: &DecoderConfig) -> Map<String, Value> {
    let mut fields = written(config, &QWEN3, window_by_layer(config));
    fields.insert("attention_bias".into(), json!(config.biases.attention_input));
    fields
}

fresh_shape! {
    /// A fresh Qwen3, without a sliding window.
    Qwen3Shape { rope_theta: 1_000_000.0, norm_epsilon: 1e-6 }
}

impl FreshShape for Qwen3Shape {
    fn config(&self, vocabulary: usize, length: usize) -> DecoderConfig {
        DecoderConfig { head_norms: true, ..self.sizes().decoder(&QWEN3, vocabulary, length) }
    }
}
