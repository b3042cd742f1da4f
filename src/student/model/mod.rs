//! Decoder language models: one module, and one file a family that says how `config.json` describes it.

mod cache;
pub mod config;
pub mod decoder;
mod fields;
mod layers;
pub mod llama;
pub mod mistral;
pub mod qwen2;
pub mod qwen3;
mod rotary;
mod shape;
mod tensors;
mod written;

pub use cache::KeyValueCache;
pub(crate) use config::bytes_in_words;
pub use config::{Biases, DecoderConfig, LinearScaling, Llama3Scaling, RotaryScaling, SlidingWindow};
pub use decoder::{Decoder, ModelInput, logits};
pub use fields::Fields;
pub use rotary::RotaryTable;
pub use shape::FreshShape;

use serde_json::{Map, Value};

use crate::error::{Result, StudentError};

/// A family of models: how it reads and writes its configuration.
pub struct Family {
    /// Name in experiment files, and `model_type` in `config.json`.
    pub name: &'static str,
    /// What `config.json` calls it in `architectures`.
    pub architecture: &'static str,
    /// What it is, for `kinds` and the docs.
    pub about: &'static str,
    /// transformers refuses a model of this family whose heads do not divide its width, also where a head has another
    /// width anyway.
    pub heads_divide_hidden: bool,
    /// `config.json` → shape; an error is one line that follows the file's name.
    pub read: fn(&Fields<'_>) -> Result<DecoderConfig, String>,
    /// Shape → `config.json`, such that transformers loads it.
    pub write: fn(&DecoderConfig) -> Map<String, Value>,
}

/// The families known here. A new one is a file of its own and a line here.
pub static MODELS: &[&Family] = &[&llama::LLAMA, &mistral::MISTRAL, &qwen2::QWEN2, &qwen3::QWEN3];

/// Reads the text of a `config.json`, whatever family it belongs to. `label` is what messages call the folder.
///
/// # Errors
/// Not JSON, an unknown architecture, or a field that is missing or unsupported.
pub fn read_config(label: &str, text: &str) -> Result<(&'static Family, DecoderConfig)> {
    let config_error = |message: String| StudentError::Config { label: label.into(), message };
    let value: Value = serde_json::from_str(text).map_err(|error| config_error(format!("is not valid: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(config_error("is not a JSON object".into()));
    };
    let named =
        fields.get("architectures").and_then(Value::as_array).and_then(|names| names.first()).and_then(Value::as_str);
    let kind = fields.get("model_type").and_then(Value::as_str);
    let family = MODELS.iter().find(|family| match named {
        Some(name) => family.architecture == name,
        None => kind == Some(family.name),
    });
    let Some(family) = family else {
        let found = named.or(kind).unwrap_or("(none)").to_owned();
        return Err(StudentError::UnsupportedArchitecture { label: label.into(), found });
    };
    let config = (family.read)(&Fields::new(&fields)).and_then(|config| config.check().map(|()| config));
    Ok((family, config.map_err(config_error)?))
}

/// The family with this name.
pub fn family(name: &str) -> Option<&'static Family> {
    MODELS.iter().copied().find(|family| family.name == name)
}

#[cfg(test)]
mod tests;
