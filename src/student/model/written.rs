//! What every family writes into `config.json` alike.

use serde_json::{Map, Value, json};

use super::Family;
use super::config::{DecoderConfig, RotaryScaling, SlidingWindow};

/// The fields that all families share, for transformers 4 and 5, and those of the family in `own`.
pub(super) fn written(config: &DecoderConfig, family: &Family, own: Value) -> Map<String, Value> {
    let eos = match config.eos.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let scaling = match &config.rope_scaling {
        None => Value::Null,
        Some(RotaryScaling::Linear(scaling)) => json!({ "rope_type": "linear", "factor": scaling.linear_factor }),
        Some(RotaryScaling::Llama3(scaling)) => json!({
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_context,
        }),
    };
    let mut rope = if scaling.is_null() { json!({ "rope_type": "default" }) } else { scaling.clone() };
    rope["rope_theta"] = json!(config.rope_theta);
    let shared = json!({
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": config.vocabulary,
        "num_hidden_layers": config.layers,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "max_position_embeddings": config.context,
        // transformers 5 reads `rope_parameters`, version 4 the two older fields.
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.initializer_range,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "bos_token_id": config.bos,
        "eos_token_id": eos,
        "pad_token_id": config.pad,
        "torch_dtype": "float32",
        "use_cache": true,
    });
    [shared, own]
        .into_iter()
        .filter_map(|part| if let Value::Object(part) = part { Some(part) } else { None })
        .flatten()
        .collect()
}

/// The window's fields of families in which each layer has it or not.
pub(super) fn window_by_layer(config: &DecoderConfig) -> Value {
    let window = config.sliding_window.as_ref();
    let slides = |layer| window.is_some_and(|SlidingWindow { layers, .. }| layers.contains(&layer));
    let kind = |layer| if slides(layer) { "sliding_attention" } else { "full_attention" };
    json!({
        "use_sliding_window": window.is_some(),
        "sliding_window": window.map(|window| window.width),
        // Where the list below is not known, the layers from this one on have a window.
        "max_window_layers": window.and_then(|window| window.layers.first().copied()).unwrap_or(config.layers),
        "layer_types": (0..config.layers).map(kind).collect::<Vec<_>>(),
    })
}
