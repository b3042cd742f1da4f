//! Llama: RMS norms, rotary positions, grouped-query attention, SwiGLU, tied or untied head.
//!
//! Covers what Hugging Face calls `LlamaForCausalLM` without biases: Llama 1–3, TinyLlama, SmolLM2 and students
//! made here.

use serde_json::{Map, Value, json};
use stillhouse_spec::Config;

use super::Family;
use super::config::{DecoderConfig, RotaryScaling};

/// The family's entry.
pub static LLAMA: Family = Family {
    name: "llama",
    architecture: "LlamaForCausalLM",
    about: "RMS norms, rotary positions, grouped-query attention, SwiGLU (Llama, TinyLlama, SmolLM2)",
    read,
    write,
};

/// A fresh Llama.
#[derive(Clone, Debug, Config)]
pub struct LlamaShape {
    /// Decoder layers.
    #[config(min = 1)]
    pub layers: usize,
    /// Width of the residual stream.
    #[config(min = 1)]
    pub hidden: usize,
    /// Query heads; `hidden / heads` is a head's width, and even.
    #[config(min = 1)]
    pub heads: usize,
    /// Key and value heads; left out, as many as query heads.
    #[config(min = 1)]
    pub kv_heads: Option<usize>,
    /// Width inside the feed-forward block; left out, 8/3 of `hidden`, rounded up to a multiple of 16.
    #[config(min = 1)]
    pub intermediate: Option<usize>,
    /// Longest sequence; left out, 512 or what a row takes, whichever is more.
    #[config(min = 2)]
    pub context: Option<usize>,
    /// Whether the output head is the embedding.
    #[config(default = true)]
    pub tied: bool,
    /// Base of the rotary frequencies.
    #[config(default = 10_000.0, above = 0)]
    pub rope_theta: f64,
    /// Added to the mean square in the norms.
    #[config(default = 1e-5, above = 0)]
    pub norm_epsilon: f64,
}

impl LlamaShape {
    /// The whole shape, for a vocabulary and rows of so many tokens.
    pub fn config(&self, vocabulary: usize, length: usize) -> DecoderConfig {
        DecoderConfig {
            family: LLAMA.name.into(),
            vocabulary,
            layers: self.layers,
            hidden: self.hidden,
            intermediate: self.intermediate.unwrap_or((self.hidden * 8).div_ceil(3).next_multiple_of(16)),
            heads: self.heads,
            kv_heads: self.kv_heads.unwrap_or(self.heads),
            head_width: self.hidden / self.heads,
            context: self.context.unwrap_or(length.max(512)),
            rope_theta: self.rope_theta,
            rope_scaling: None,
            norm_epsilon: self.norm_epsilon,
            tied: self.tied,
            initializer_range: 0.02,
            bos: None,
            eos: Vec::new(),
            pad: None,
        }
    }
}

fn read(fields: &Map<String, Value>) -> Result<DecoderConfig, String> {
    let fields = Fields(fields);
    fields.must_be("hidden_act", &json!("silu"))?;
    fields.must_be("attention_bias", &json!(false))?;
    fields.must_be("mlp_bias", &json!(false))?;
    let hidden = fields.size("hidden_size")?;
    let heads = fields.size("num_attention_heads")?;
    let rope = fields.rope()?;
    Ok(DecoderConfig {
        family: LLAMA.name.into(),
        vocabulary: fields.size("vocab_size")?,
        layers: fields.size("num_hidden_layers")?,
        hidden,
        intermediate: fields.size("intermediate_size")?,
        heads,
        kv_heads: fields.size_or("num_key_value_heads", heads)?,
        head_width: fields.size_or("head_dim", hidden.checked_div(heads).unwrap_or(0))?,
        context: fields.size_or("max_position_embeddings", 2048)?,
        rope_theta: rope.0,
        rope_scaling: rope.1,
        norm_epsilon: fields.number_or("rms_norm_eps", 1e-6)?,
        tied: fields.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
        initializer_range: fields.number_or("initializer_range", 0.02)?,
        bos: fields.tokens("bos_token_id").first().copied(),
        eos: fields.tokens("eos_token_id"),
        pad: fields.tokens("pad_token_id").first().copied(),
    })
}

fn write(config: &DecoderConfig) -> Map<String, Value> {
    let eos = match config.eos.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let mut rope = json!({ "rope_type": "default", "rope_theta": config.rope_theta });
    let mut legacy_scaling = Value::Null;
    if let Some(scaling) = &config.rope_scaling {
        legacy_scaling = json!({
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_context,
        });
        rope = legacy_scaling.clone();
        rope["rope_theta"] = json!(config.rope_theta);
    }
    let value = json!({
        "architectures": [LLAMA.architecture],
        "model_type": LLAMA.name,
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
        "rope_scaling": legacy_scaling,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.initializer_range,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos,
        "eos_token_id": eos,
        "pad_token_id": config.pad,
        "torch_dtype": "float32",
        "use_cache": true,
    });
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The fields of `config.json`, with messages that name the field.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn size(&self, name: &str) -> Result<usize, String> {
        let value = self.get(name).ok_or_else(|| format!("has no `{name}`"))?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| format!("has `{name}` = {value}, not a positive whole number"))
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize, String> {
        if self.get(name).is_some() { self.size(name) } else { Ok(default) }
    }

    fn number_or(&self, name: &str, default: f64) -> Result<f64, String> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| format!("has `{name}` = {value}, not a number")),
        }
    }

    /// One id or a list of ids.
    fn tokens(&self, name: &str) -> Vec<u32> {
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.get(name) {
            Some(Value::Array(ids)) => ids.iter().filter_map(one).collect(),
            Some(value) => one(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn must_be(&self, name: &str, supported: &Value) -> Result<(), String> {
        match self.get(name) {
            Some(value) if value != supported => Err(format!("has `{name}` = {value}; only {supported} is supported")),
            _ => Ok(()),
        }
    }

    /// Rotary base and stretching, from transformers 5's `rope_parameters` or the two older fields.
    fn rope(&self) -> Result<(f64, Option<RotaryScaling>), String> {
        let nested = self.get("rope_parameters").or_else(|| self.get("rope_scaling"));
        let empty = Map::new();
        let nested = Fields(nested.and_then(Value::as_object).unwrap_or(&empty));
        let theta = nested.number_or("rope_theta", self.number_or("rope_theta", 10_000.0)?)?;
        let kind = nested.get("rope_type").or_else(|| nested.get("type")).and_then(Value::as_str);
        match kind {
            None | Some("default") => Ok((theta, None)),
            Some("llama3") => Ok((
                theta,
                Some(RotaryScaling {
                    factor: nested.number_or("factor", 8.0)?,
                    low_frequency_factor: nested.number_or("low_freq_factor", 1.0)?,
                    high_frequency_factor: nested.number_or("high_freq_factor", 4.0)?,
                    original_context: nested.size("original_max_position_embeddings")?,
                }),
            )),
            Some(other) => Err(format!("asks for rotary scaling `{other}`; only `default` and `llama3` are supported")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_config;
    use super::*;

    const GOLDEN: &str = include_str!("../tests/golden/llama3-rope-scaling/config.json");

    #[test]
    fn what_is_written_reads_back_the_same() {
        let (family, config) = read_config("m", GOLDEN).unwrap();
        let text = serde_json::to_string(&(family.write)(&config)).unwrap();
        assert_eq!(read_config("m", &text).unwrap().1, config);
        assert_eq!(config.rope_scaling.unwrap().original_context, 32);
    }

    #[test]
    fn an_unknown_architecture_is_named_with_those_that_are_known() {
        let error = read_config("m", r#"{"architectures": ["MambaForCausalLM"]}"#).err().unwrap();
        assert!(error.to_string().contains("MambaForCausalLM"), "{error}");
        assert!(error.hint().unwrap().contains("LlamaForCausalLM"));
    }

    #[test]
    fn a_field_that_changes_the_model_is_not_ignored() {
        for (field, value, word) in [
            ("hidden_act", json!("gelu"), "hidden_act"),
            ("attention_bias", json!(true), "attention_bias"),
            ("num_key_value_heads", json!(3), "key-value heads"),
            ("num_hidden_layers", json!(0), "layers is 0"),
            ("hidden_size", json!("wide"), "hidden_size"),
            ("rope_parameters", json!({ "rope_type": "yarn" }), "yarn"),
        ] {
            let mut fields: Map<String, Value> = serde_json::from_str(GOLDEN).unwrap();
            fields.insert(field.into(), value);
            let error = read_config("m", &serde_json::to_string(&fields).unwrap()).err().unwrap().to_string();
            assert!(error.contains(word), "{field}: {error}");
        }
    }
}
