//! Writes a model folder that transformers loads.

use std::borrow::Cow;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::values::NamedValues;
use crate::error::{Result, StudentError};
use crate::model::{DecoderConfig, family};

/// Writes `config.json`, `generation_config.json` and `model.safetensors` (f32) into a folder that exists.
pub fn write_model(folder: &Path, config: &DecoderConfig, weights: &NamedValues) -> Result<()> {
    let family = family(&config.family).ok_or_else(|| {
        StudentError::training(format!("there is no model family `{}`", config.family), "see `stillhouse kinds`")
    })?;
    let fields = serde_json::Value::Object((family.write)(config));
    write_json(&folder.join("config.json"), &fields)?;
    let mut generation = serde_json::Map::new();
    let eos = match config.eos.as_slice() {
        [] => None,
        [one] => Some(json!(one)),
        several => Some(json!(several)),
    };
    let ids = [
        ("bos_token_id", config.bos.map(|id| json!(id))),
        ("eos_token_id", eos),
        ("pad_token_id", config.pad.map(|id| json!(id))),
    ];
    generation.extend(ids.into_iter().filter_map(|(name, id)| Some((name.to_owned(), id?))));
    write_json(&folder.join("generation_config.json"), &generation.into())?;
    let path = folder.join("model.safetensors");
    fs_err::write(&path, encode_tensors(weights)?).map_err(StudentError::io(&path))
}

/// Bytes of a safetensors file with these tensors in f32. Equal values give equal bytes.
pub fn encode_tensors(tensors: &NamedValues) -> Result<Vec<u8>> {
    let unfit = |error: safetensors::SafeTensorError| StudentError::Weights {
        label: "the model".into(),
        message: error.to_string(),
    };
    let bytes: Vec<Cow<'_, [u8]>> = tensors.values().map(|values| little_endian(&values.data)).collect();
    let mut views = Vec::with_capacity(bytes.len());
    for ((name, values), bytes) in tensors.iter().zip(&bytes) {
        views.push((name.as_str(), TensorView::new(Dtype::F32, values.shape.clone(), bytes).map_err(unfit)?));
    }
    // Loaders of PyTorch's world look for this field.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).map_err(unfit)
}

fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        bytemuck::cast_slice(values).into()
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = format!("{value:#}\n");
    fs_err::write(path, text).map_err(StudentError::io(path))
}
