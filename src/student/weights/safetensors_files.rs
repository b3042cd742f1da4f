//! The tensors of a folder's safetensors files, whole or in shards.

use std::collections::{BTreeMap, BTreeSet};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use stillhouse_data::model_folder::ModelFolder;

use super::read::NamedTensors;
use crate::error::{Result, StudentError};

/// The weights files of a folder, mapped.
pub(super) struct SafetensorsFiles<'a> {
    folder: &'a ModelFolder,
    files: Vec<(String, Mmap)>,
}

impl<'a> SafetensorsFiles<'a> {
    /// Maps the files that the folder's index lists, or all of them.
    pub(super) fn open(folder: &'a ModelFolder) -> Result<Self> {
        let names: BTreeSet<String> = match index_of(folder)? {
            Some(listed) => listed,
            None => folder.weights().map(str::to_owned).collect(),
        };
        if names.is_empty() {
            folder.require("model.safetensors")?;
        }
        let files = names.into_iter().map(|name| Ok((name.clone(), map_file(folder, &name)?)));
        Ok(Self { folder, files: files.collect::<Result<_>>()? })
    }

    /// What they hold.
    pub(super) fn tensors(&self) -> Result<Tensors<'_>> {
        let mut views = BTreeMap::new();
        for (name, bytes) in &self.files {
            let parsed = SafeTensors::deserialize(bytes).map_err(|error| StudentError::Damaged {
                label: self.folder.label.clone(),
                file: name.clone(),
                reason: error.to_string(),
            })?;
            views.extend(parsed.tensors());
        }
        Ok(Tensors { label: &self.folder.label, views })
    }
}

/// Views of the tensors by name.
pub(super) struct Tensors<'a> {
    label: &'a str,
    views: BTreeMap<String, TensorView<'a>>,
}

impl NamedTensors for Tensors<'_> {
    fn shapes(&self) -> BTreeMap<&str, &[usize]> {
        self.views.iter().map(|(name, view)| (name.as_str(), view.shape())).collect()
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        let weights_error = |message: String| StudentError::Weights { label: self.label.to_owned(), message };
        let view = self.views.get(name).ok_or_else(|| weights_error(format!("there is no tensor `{name}`")))?;
        widen(view.dtype(), view.data())
            .ok_or_else(|| weights_error(format!("`{name}` is {:?}; F32, F16 and BF16 can be read", view.dtype())))
    }
}

#[expect(unsafe_code, reason = "mapping a file is unsafe because another process could change it meanwhile")]
fn map_file(folder: &ModelFolder, name: &str) -> Result<Mmap> {
    let path = folder.path(name)?;
    let file = fs_err::File::open(path).map_err(StudentError::io(path))?;
    // SAFETY: model folders are inputs that nobody writes during a run, and blobs of the store are immutable. Should
    // somebody do it all the same, wrong weights are read: they are plain numbers, no memory is at risk.
    unsafe { Mmap::map(file.file()) }.map_err(StudentError::io(path))
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

/// Little-endian floats as f32.
fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    Some(match dtype {
        Dtype::F32 => {
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
        }
        Dtype::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        _ => return None,
    })
}
