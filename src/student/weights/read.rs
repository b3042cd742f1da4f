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
/// tied is left aside, as transformers does, where it is the embedding.
///
/// # Errors
/// A missing, surplus, misshapen, non-finite or non-float tensor, a damaged file, an unsupported architecture: each
/// names folder, file or tensor.
pub fn read_model<B: Backend>(folder: &ModelFolder, device: &B::Device) -> Result<LoadedModel<B>> {
    let (_, config) = read_config(&folder.label, &folder.read_text("config.json")?)?;
    let decoder = with_tensors(folder, |tensors| fill(folder, &config, tensors, device))?;
    let rotary = RotaryTable::new(&config);
    Ok(LoadedModel { decoder, config, rotary })
}

/// Holds the configuration of a model folder or a GGUF file against the names and shapes of its weights, which are not
/// read.
///
/// # Errors
/// As [`read_model`], but for what only the numbers can tell.
pub fn look_at(folder: &ModelFolder) -> Result<()> {
    let (_, config) = read_config(&folder.label, &folder.read_text("config.json")?)?;
    with_tensors(folder, |tensors| fits(folder, &config, tensors))
}

fn with_tensors<T>(folder: &ModelFolder, work: impl FnOnce(&dyn NamedTensors) -> Result<T>) -> Result<T> {
    match folder.gguf() {
        Some(file) => work(&GgufTensors::new(file.clone())?),
        None => {
            let files = SafetensorsFiles::open(folder)?;
            let tensors = files.tensors()?;
            work(&tensors)
        }
    }
}

/// The stored head of a model.
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Whether names and shapes are those of the configuration.
fn fits(folder: &ModelFolder, config: &DecoderConfig, tensors: &dyn NamedTensors) -> Result<()> {
    let weights_error = |message: String| StudentError::Weights { label: folder.label.clone(), message };
    let mut stored = tensors.shapes();
    for (name, shape) in config.tensors() {
        let found =
            stored.remove(name.as_str()).ok_or_else(|| weights_error(format!("there is no tensor `{name}`")))?;
        if found != shape {
            return Err(weights_error(format!("`{name}` is {found:?} where {shape:?} belongs")));
        }
    }
    // Files made by older tools carry these beside the weights; neither is a weight of the model.
    stored.retain(|name, _| {
        let tied_head = config.tied && *name == HEAD;
        !tied_head && !name.ends_with(".rotary_emb.inv_freq")
    });
    match stored.keys().next() {
        None => Ok(()),
        Some(name) => {
            let others = stored.len() - 1;
            let more = if others > 0 { format!(" (and {others} more)") } else { String::new() };
            Err(weights_error(format!("there is no place for tensor `{name}`{more}")))
        }
    }
}

/// Whether the stored head of a model whose head is the embedding is that embedding: another one would be left out without
/// a word, and another model read than the one that was trained.
fn tied_head_is_embedding(folder: &ModelFolder, tensors: &dyn NamedTensors) -> Result<()> {
    let shapes = tensors.shapes();
    let (Some(head), Some(embedding)) = (shapes.get(HEAD), shapes.get(EMBEDDING)) else { return Ok(()) };
    let same = head == embedding && {
        let (head, embedding) = (tensors.values(HEAD)?, tensors.values(EMBEDDING)?);
        // By bits, so that a NaN, which is reported elsewhere, equals itself.
        head.iter().zip(&embedding).all(|(one, other)| one.to_bits() == other.to_bits())
    };
    if same { Ok(()) } else { Err(StudentError::OtherHead { label: folder.label.clone() }) }
}

fn fill<B: Backend>(
    folder: &ModelFolder,
    config: &DecoderConfig,
    tensors: &dyn NamedTensors,
    device: &B::Device,
) -> Result<Decoder<B>> {
    fits(folder, config, tensors)?;
    if config.tied {
        tied_head_is_embedding(folder, tensors)?;
    }
    load_into(Decoder::empty(config, device), device, |name, _| {
        let values = tensors.values(name)?;
        all_finite(&folder.label, name, &values)?;
        Ok(values)
    })
}

fn all_finite(label: &str, name: &str, values: &[f32]) -> Result<()> {
    let Some(first) = values.iter().position(|value| !value.is_finite()) else {
        return Ok(());
    };
    let count = values.iter().filter(|value| !value.is_finite()).count();
    Err(StudentError::NotFinite { label: label.into(), tensor: name.into(), count, first })
}
