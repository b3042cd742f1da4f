//! A model folder in Hugging Face's layout, as a map from file name to where the bytes lie: a folder on disk has
//! names, blobs of the store have none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{DataError, DataResult};

/// The files that make a model what it is: whole names, or `*` and an ending. Everything else in a folder (read-me
/// files, other frameworks' weights, licences) changes nothing, so it is neither hashed nor read.
pub const MODEL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The subset of [`MODEL_FILES`] that a tokenizer is made of.
pub const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// A model's or a tokenizer's files by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    /// File name → where its bytes lie.
    pub files: BTreeMap<String, PathBuf>,
    /// What messages call it: the folder, or the stage it came from.
    pub label: String,
}

impl ModelFolder {
    /// The files of a folder that matter, see [`MODEL_FILES`].
    pub fn open(folder: &Path) -> DataResult<Self> {
        let mut files = BTreeMap::new();
        for entry in fs_err::read_dir(folder).map_err(DataError::io(folder))? {
            let entry = entry.map_err(DataError::io(folder))?;
            if let Some(name) = entry.file_name().to_str().filter(|name| matches(MODEL_FILES, name)) {
                files.insert(name.to_owned(), entry.path());
            }
        }
        let label = folder.display().to_string();
        if files.is_empty() {
            return Err(DataError::invalid(
                format!("{label} holds no model and no tokenizer"),
                "a model folder in Hugging Face's layout has config.json, *.safetensors and tokenizer.json",
            ));
        }
        Ok(Self { files, label })
    }

    /// From names and places, for instance of an artifact's blobs. Names that do not matter are left out.
    pub fn from_files(
        label: impl Into<String>,
        files: impl IntoIterator<Item = (String, PathBuf)>,
    ) -> Self {
        let files = files.into_iter().filter(|(name, _)| matches(MODEL_FILES, name)).collect();
        Self { files, label: label.into() }
    }

    /// Where a file lies; an error that names folder and file when it is missing.
    pub fn require(&self, name: &str) -> DataResult<&Path> {
        self.get(name).ok_or_else(|| {
            let have: Vec<&str> = self.files.keys().map(String::as_str).collect();
            DataError::invalid(
                format!("{} has no {name}", self.label),
                format!("it has: {}", if have.is_empty() { "nothing".into() } else { have.join(", ") }),
            )
        })
    }

    /// Where a file lies, if there is one.
    pub fn get(&self, name: &str) -> Option<&Path> {
        self.files.get(name).map(PathBuf::as_path)
    }

    /// The weights: every `*.safetensors`, by name.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.files
            .iter()
            .filter(|(name, _)| name.ends_with(".safetensors"))
            .map(|(name, path)| (name.as_str(), path.as_path()))
    }

    /// The tokenizer's files only.
    pub fn tokenizer_files(&self) -> Self {
        let files = self.files.iter().filter(|(name, _)| matches(TOKENIZER_FILES, name));
        Self { files: files.map(|(n, p)| (n.clone(), p.clone())).collect(), label: self.label.clone() }
    }

    /// Reads a text file of the folder.
    pub fn read_text(&self, name: &str) -> DataResult<String> {
        let path = self.require(name)?;
        fs_err::read_to_string(path).map_err(DataError::io(path))
    }

    /// Reads a JSON file of the folder; an error names the file and the place in it.
    pub fn read_json<T: serde::de::DeserializeOwned>(&self, name: &str) -> DataResult<T> {
        let text = self.read_text(name)?;
        serde_json::from_str(&text).map_err(|error| DataError::File {
            path: PathBuf::from(&self.label).join(name),
            message: format!("not valid: {error}"),
            hint: Some("was it copied whole? a Git LFS pointer is a few lines of text instead of the file".into()),
        })
    }
}

/// Whether a file name is one of the patterns. What lies in a folder within is never one: `*` is part of a name.
pub fn matches(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_prefix('*') {
        Some(ending) => name.ends_with(ending) && name.len() > ending.len() && !name.contains('/'),
        None => name == *pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_matter_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "model-00001-of-00002.safetensors", "README.md", "pytorch_model.bin"] {
            fs_err::write(folder.path().join(name), name).unwrap();
        }
        let model = ModelFolder::open(folder.path()).unwrap();
        let names: Vec<&str> = model.files.keys().map(String::as_str).collect();
        assert_eq!(names, ["config.json", "model-00001-of-00002.safetensors"]);
        assert_eq!(model.weights().count(), 1);
        assert!(!matches(MODEL_FILES, "adapters/adapter_model.safetensors"));
    }

    #[test]
    fn a_missing_file_is_named_with_what_is_there() {
        let model = ModelFolder::from_files("student.small", [("config.json".into(), "/x".into())]);
        let error = model.require("tokenizer.json").unwrap_err();
        assert_eq!(error.to_string(), "student.small has no tokenizer.json");
        assert_eq!(error.hint().as_deref(), Some("it has: config.json"));
    }

    #[test]
    fn a_folder_without_a_model_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = ModelFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("holds no model and no tokenizer"), "{error}");
    }
}
