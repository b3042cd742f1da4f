//! Reads a model folder: `config.json` and one or several safetensors files.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::backend::Backend;
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use stillhouse_data::model_folder::ModelFolder;

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

/// Reads configuration and weights of a model folder.
///
/// With a `model.safetensors.index.json` the files it lists are read, without one every `*.safetensors`. f32, f16 and
/// bf16 are widened to f32. A stored head of a model whose head is tied is left aside, as transformers does.
///
/// # Errors
/// A missing, surplus, misshapen, non-finite or non-float tensor, a damaged file, an unsupported architecture: each
/// names folder, file or tensor.
pub fn read_model<B: Backend>(folder: &ModelFolder, device: &B::Device) -> Result<LoadedModel<B>> {
    let (_, config) = read_config(&folder.label, &folder.read_text("config.json")?)?;
    let files = open_weights(folder)?;
    let decoder = fill(folder, &config, &files, device)?;
    let rotary = RotaryTable::new(&config);
    Ok(LoadedModel { decoder, config, rotary })
}

/// A mapped weights file and its name.
struct WeightsFile {
    name: String,
    bytes: Mmap,
}

fn open_weights(folder: &ModelFolder) -> Result<Vec<WeightsFile>> {
    let names: BTreeSet<String> = match index_of(folder)? {
        Some(listed) => listed,
        None => folder.weights().map(|(name, _)| name.to_owned()).collect(),
    };
    if names.is_empty() {
        folder.require("model.safetensors")?;
    }
    names.into_iter().map(|name| map_file(folder, name)).collect()
}

#[expect(unsafe_code, reason = "mapping a file is unsafe because another process could change it meanwhile")]
fn map_file(folder: &ModelFolder, name: String) -> Result<WeightsFile> {
    let path = folder.require(&name)?;
    let file = fs_err::File::open(path).map_err(StudentError::io(path))?;
    // SAFETY: model folders are inputs that nobody writes during a run, and blobs of the store are immutable. Should
    // somebody do it all the same, wrong weights are read: they are plain numbers, no memory is at risk.
    let bytes = unsafe { Mmap::map(file.file()) }.map_err(StudentError::io(path))?;
    Ok(WeightsFile { name, bytes })
}

/// The shard names of `model.safetensors.index.json`, if there is one.
fn index_of(folder: &ModelFolder) -> Result<Option<BTreeSet<String>>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Some(name) = folder.files.keys().find(|name| name.ends_with(".safetensors.index.json")).cloned() else {
        return Ok(None);
    };
    let index: Index = folder.read_json(&name)?;
    Ok(Some(index.weight_map.into_values().collect()))
}

fn fill<B: Backend>(
    folder: &ModelFolder,
    config: &DecoderConfig,
    files: &[WeightsFile],
    device: &B::Device,
) -> Result<Decoder<B>> {
    let weights_error = |message: String| StudentError::Weights { label: folder.label.clone(), message };
    let mut parsed = Vec::new();
    for file in files {
        let tensors = SafeTensors::deserialize(&file.bytes).map_err(|error| StudentError::Damaged {
            label: folder.label.clone(),
            file: file.name.clone(),
            reason: error.to_string(),
        })?;
        parsed.push(tensors);
    }
    let mut stored: BTreeMap<&str, _> = BTreeMap::new();
    for tensors in &parsed {
        stored.extend(tensors.iter());
    }
    let decoder = load_into(Decoder::empty(config, device), device, |name, shape| {
        let tensor = stored.remove(name).ok_or_else(|| weights_error(format!("there is no tensor `{name}`")))?;
        if tensor.shape() != shape {
            let found = tensor.shape();
            return Err(weights_error(format!("`{name}` is {found:?} where {shape:?} belongs")));
        }
        let values = widen(tensor.dtype(), tensor.data())
            .ok_or_else(|| weights_error(format!("`{name}` is {:?}; F32, F16 and BF16 can be read", tensor.dtype())))?;
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

/// Little-endian floats as f32.
fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    Some(match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect(),
        Dtype::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        _ => return None,
    })
}

fn all_finite(label: &str, name: &str, values: &[f32]) -> Result<()> {
    let Some(first) = values.iter().position(|value| !value.is_finite()) else {
        return Ok(());
    };
    let count = values.iter().filter(|value| !value.is_finite()).count();
    Err(StudentError::NotFinite { label: label.into(), tensor: name.into(), count, first })
}
