//! Models in GGUF files, the format of llama.cpp: one file with settings, tokenizer and quantised weights.
//!
//! | module | answers |
//! |---|---|
//! | `container`, [`Value`] | what lies where in the file |
//! | `quant` | what a block of bytes means as numbers |
//! | `architecture`, `rotary` | which `config.json` the settings amount to |
//! | [`GgufTensors`] | the weights under Hugging Face's names |
//! | `tokenizer` and its parts | which `tokenizer.json` the vocabulary amounts to |
//!
//! Nothing after this module knows about GGUF: a [`ModelFolder`](crate::model_folder::ModelFolder) shows the rebuilt
//! texts as if they were files.

mod architecture;
mod container;
mod pre_tokenizer;
mod quant;
mod rotary;
mod sentence_piece;
mod tensors;
mod tokenizer;
mod tokenizer_json;
mod value;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use container::{GgufFile, TensorInfo};
pub use tensors::GgufTensors;
pub use value::{Array, Value};

use crate::error::DataResult;

/// The files of a model folder that a GGUF file stands for: the tokenizer's only where it has one.
pub(crate) fn rebuilt_files(file: &GgufFile) -> &'static [&'static str] {
    let names: &[&str] = &["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
    if tokenizer::is_there(file) { names } else { &names[..2] }
}

/// The text of one of [`rebuilt_files`]; equal files give equal texts.
///
/// # Errors
/// Settings that are missing, contradictory or not supported; each names the file and the key.
pub(crate) fn rebuild(file: &GgufFile, name: &str) -> DataResult<String> {
    match name {
        "config.json" => architecture::config(file),
        "generation_config.json" => architecture::generation_config(file),
        "tokenizer.json" => tokenizer::tokenizer(file),
        "tokenizer_config.json" => tokenizer::tokenizer_config(file),
        other => Err(file.fault(format!("a GGUF file holds no {other}"), None)),
    }
}
