//! Qwen2 and Qwen2.5: Llama's parts with biases on queries, keys and values.
//!
//! What Hugging Face calls `Qwen2ForCausalLM`.

use serde_json::{Map, Value};

use super::Family;
use super::config::{Biases, DecoderConfig};
use super::fields::{Defaults, Fields};
use super::shape::{FreshShape, fresh_shape};
use super::written::{window_by_layer, written};

/// The family's entry.
pub static QWEN2: Family = Family {
    name: "qwen2",
    architecture: "Qwen2ForCausalLM",
    about: "Llama's parts with biases on queries, keys and values (Qwen2, Qwen2.5)",
    heads_divide_hidden: false,
    read,
    write,
};

const BIASES: Biases = Biases { attention_input: true, attention_output: false, feed_forward: false };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, String> {
    let shared = fields.decoder(&QWEN2, &Defaults { kv_heads: Some(32), head_width: None, context: 32_768 })?;
    Ok(DecoderConfig { biases: BIASES, sliding_window: fields.window_by_layer(shared.layers)?, ..shared })
}

fn write(config: &DecoderConfig) -> Map<String, Value> {
    written(config, &QWEN2, window_by_layer(config))
}

fresh_shape! {
    /// A fresh Qwen2, without a sliding window.
    Qwen2Shape { rope_theta: 1_000_000.0, norm_epsilon: 1e-6 }
}

impl FreshShape for Qwen2Shape {
    fn config(&self, vocabulary: usize, length: usize) -> DecoderConfig {
        DecoderConfig { biases: BIASES, ..self.sizes().decoder(&QWEN2, vocabulary, length) }
    }
}
