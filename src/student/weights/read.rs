//! Reads a model folder or a GGUF file: `config.json` and the tensors that belong to it.

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use stillhouse_data::gguf::GgufTensors;
use stillhouse_data::model_folder::ModelFolder;

use super::safetensors_files::SafetensorsFiles;
use super::values::load_into;
use crate::error::{Result, StudentError};
use crate::model::{Decoder, DecoderConfig, RotaryTable, read_config};

/// A decoder with what belongs to it.
#[derive(Debug, Clone)]
pub struct LoadedModel<B: Backend> {
    /// The weights.
    pub decoder: Decoder<B>,
    /// Its shape.
    pub config: DecoderConfig,
    /// Its rotations.
    pub rotary: RotaryTable,
}

/// Tensors by name, however they are stored.
pub(super) trait NamedTensors {
    /// Every tensor's name and shape.
    fn shapes(&self) -> BTreeMap<&str, &[usize]>;

    /// A tensor's values as f32, row-major.
    fn values(&self, name: &str) -> Result<Vec<f32>>;
}

impl NamedTensors for GgufTensors {
    fn shapes(&self) -> BTreeMap<&str, &[usize]> {
        GgufTensors::shapes(self).collect()
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(GgufTensors::values(self, name)?)
    }
}

/// Reads configuration and weights of a model folder or a GGUF file.
///
/// With a `model.safetensors.index.json` the files it lists are read, without one every `*.safetensors`. f32, f16 and
/// bf16 are widened to f32, quantised tensors of a GGUF file are dequantised. A stored head of a model whose head is
/// tied is left aside, as transformers does.
///
/// # Errors
/// A missing, surplus, misshapen, non-finite or non-float tensor, a damaged file, an unsupported architecture: each
/// names folder, file or tensor.
pub fn read_model<B: Backend>(folder: &ModelFolder, device: &B::Device) -> Result<LoadedModel<B>> {
    let (_, config) = read_config(&folder.label, &folder.read_text("config.json")?)?;
    let decoder = match folder.gguf() {
        Some(file) => fill(folder, &config, &GgufTensors::new(file.clone())?, device)?,
        None => {
            let files = SafetensorsFiles::open(folder)?;
            fill(folder, &config, &files.tensors()?, device)?
        }
    };
    let rotary = RotaryTable::new(&config);
    Ok(LoadedModel { decoder, config, rotary })
}

fn fill<B: Backend>(
    folder: &ModelFolder,
    config: &DecoderConfig,
    tensors: &dyn NamedTensors,
    device: &B::Device,
) -> Result<Decoder<B>> {
    let weights_error = |message: String| StudentError::Weights { label: folder.label.clone(), message };
    let mut stored = tensors.shapes();
    let decoder = load_into(Decoder::empty(config, device), device, |name, shape| {
        let found = stored.remove(name).ok_or_else(|| weights_error(format!("there is no tensor `{name}`")))?;
        if found != shape {
            return Err(weights_error(format!("`{name}` is {found:?} where {shape:?} belongs")));
        }
        let values = tensors.values(name)?;
        all_finite(&folder.label, name, &values)?;
        Ok(values)
    })?;
    // Files made by older tools carry these beside the weights; neither is a weight of the model.
    stored.retain(|name, _| {
        let tied_head = config.tied && *name == "lm_head.weight";
        !tied_head && !name.ends_with(".rotary_emb.inv_freq")
    });
    match stored.keys().next() {
        None => Ok(decoder),
        Some(name) => {
            let others = stored.len() - 1;
            let more = if others > 0 { format!(" (and {others} more)") } else { String::new() };
            Err(weights_error(format!("there is no place for tensor `{name}`{more}")))
        }
    }
}

fn all_finite(label: &str, name: &str, values: &[f32]) -> Result<()> {
    let Some(first) = values.iter().position(|value| !value.is_finite()) else {
        return Ok(());
    };
    let count = values.iter().filter(|value| !value.is_finite()).count();
    Err(StudentError::NotFinite { label: label.into(), tensor: name.into(), count, first })
}
