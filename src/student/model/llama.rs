//! Llama: RMS norms, rotary positions, grouped-query attention, SwiGLU, tied or untied head.
//!
//! What Hugging Face calls `LlamaForCausalLM`: Llama 1–3, TinyLlama, SmolLM2.

use serde_json::{Map, Value, json};

use super::Family;
use super::config::{Biases, DecoderConfig};
use super::fields::{Defaults, Fields};
use super::shape::{FreshShape, fresh_shape};
use super::written::written;

/// The family's entry.
pub static LLAMA: Family = Family {
    name: "llama",
    architecture: "LlamaForCausalLM",
    about: "RMS norms, rotary positions, grouped-query attention, SwiGLU (Llama, TinyLlama, SmolLM2)",
    heads_divide_hidden: true,
    read,
    write,
};

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, String> {
    let attention = fields.flag("attention_bias")?;
    let biases =
        Biases { attention_input: attention, attention_output: attention, feed_forward: fields.flag("mlp_bias")? };
    let shared = fields.decoder(&LLAMA, &Defaults { kv_heads: None, head_width: None, context: 2048 })?;
    Ok(DecoderConfig { biases, ..shared })
}

fn write(config: &DecoderConfig) -> Map<String, Value> {
    let Biases { attention_input, feed_forward, .. } = config.biases;
    written(config, &LLAMA, json!({ "attention_bias": attention_input, "mlp_bias": feed_forward }))
}

fresh_shape! {
    /// A fresh Llama.
    LlamaShape { rope_theta: 10_000.0, norm_epsilon: 1e-5 }
}

impl FreshShape for LlamaShape {
    fn config(&self, vocabulary: usize, length: usize) -> DecoderConfig {
        self.sizes().decoder(&LLAMA, vocabulary, length)
    }
}
