//! A model folder in Hugging Face's layout, as a map from file name to where the content comes from: a folder on disk
//! has names, blobs of the store have none, and a GGUF file stands for several files at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{DataError, DataResult};
use crate::gguf::{self, GgufFile};

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

/// The ending of a model that is one file and not a folder.
pub const MODEL_FILE_ENDING: &str = ".gguf";

/// A model's or a tokenizer's files by name.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    /// File name → where its content comes from.
    pub files: BTreeMap<String, Content>,
    /// What messages call it: the folder, or the stage it came from.
    pub label: String,
}

/// Where the content of a file of a model folder comes from.
#[derive(Debug, Clone)]
pub enum Content {
    /// A file of its own.
    File(PathBuf),
    /// An artifact's file.
    Blob(PathBuf),
    /// Made from a GGUF file when it is read.
    Gguf(Arc<GgufFile>),
}

impl ModelFolder {
    /// The files of a folder that matter, see [`MODEL_FILES`]; or those that a GGUF file stands for.
    ///
    /// # Errors
    /// Nothing is there, nothing in the folder matters, or the file is not GGUF or is damaged.
    pub fn open(folder: &Path) -> DataResult<Self> {
        if folder.is_file() {
            return Self::open_gguf(folder);
        }
        let mut files = BTreeMap::new();
        for entry in fs_err::read_dir(folder).map_err(DataError::io(folder))? {
            let entry = entry.map_err(DataError::io(folder))?;
            if let Some(name) = entry.file_name().to_str().filter(|name| matches(MODEL_FILES, name)) {
                files.insert(name.to_owned(), Content::File(entry.path()));
            }
        }
        let label = folder.display().to_string();
        if files.is_empty() {
            return Err(DataError::invalid(
                format!("{label} holds no model and no tokenizer"),
                "a model folder in Hugging Face's layout has config.json, *.safetensors and tokenizer.json; \
                 of a GGUF model, name the file itself",
            ));
        }
        Ok(Self { files, label })
    }

    fn open_gguf(path: &Path) -> DataResult<Self> {
        let file = Arc::new(GgufFile::open(path)?);
        let names = gguf::rebuilt_files(&file).iter();
        let files = names.map(|name| ((*name).to_owned(), Content::Gguf(Arc::clone(&file)))).collect();
        Ok(Self { files, label: path.display().to_string() })
    }

    /// From names and places of an artifact's files. Names that do not matter are left out.
    pub fn from_files(label: impl Into<String>, files: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        let files = files.into_iter().filter(|(name, _)| matches(MODEL_FILES, name));
        Self { files: files.map(|(name, path)| (name, Content::Blob(path))).collect(), label: label.into() }
    }

    /// A file; an error that names folder and file when it is missing.
    pub fn require(&self, name: &str) -> DataResult<&Content> {
        self.get(name).ok_or_else(|| {
            let have: Vec<&str> = self.files.keys().map(String::as_str).collect();
            DataError::invalid(
                format!("{} has no {name}", self.label),
                format!("it has: {}", if have.is_empty() { "nothing".into() } else { have.join(", ") }),
            )
        })
    }

    /// A file, if it is there.
    pub fn get(&self, name: &str) -> Option<&Content> {
        self.files.get(name)
    }

    /// Where a file lies that has a place of its own, as weights have.
    pub fn path(&self, name: &str) -> DataResult<&Path> {
        match self.require(name)? {
            Content::File(path) | Content::Blob(path) => Ok(path),
            Content::Gguf(file) => Err(DataError::invalid(
                format!("{name} of {} is not a file", self.label),
                format!("it is made from {}", file.path().display()),
            )),
        }
    }

    /// The GGUF file that this model is, if it is one.
    pub fn gguf(&self) -> Option<&Arc<GgufFile>> {
        self.files.values().find_map(|content| match content {
            Content::Gguf(file) => Some(file),
            Content::File(_) | Content::Blob(_) => None,
        })
    }

    /// The weights of a folder: every `*.safetensors`, by name. A GGUF file has none, see [`Self::gguf`].
    pub fn weights(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str).filter(|name| name.ends_with(".safetensors"))
    }

    /// The tokenizer's files only.
    pub fn tokenizer_files(&self) -> Self {
        let files = self.files.iter().filter(|(name, _)| matches(TOKENIZER_FILES, name));
        Self { files: files.map(|(n, p)| (n.clone(), p.clone())).collect(), label: self.label.clone() }
    }

    /// Reads a text file of the folder.
    pub fn read_text(&self, name: &str) -> DataResult<String> {
        match self.require(name)? {
            Content::File(path) => fs_err::read_to_string(path).map_err(DataError::io(path)),
            Content::Blob(path) => fs_err::read_to_string(path).map_err(DataError::own_io(path)),
            Content::Gguf(file) => gguf::rebuild(file, name),
        }
    }

    /// Writes a copy of every file into a folder that exists.
    pub fn copy_to(&self, folder: &Path) -> DataResult<()> {
        for (name, content) in &self.files {
            // Read and written, not copied: a blob of the store is read-only, and a copy would be too.
            let bytes = match content {
                Content::File(path) => fs_err::read(path).map_err(DataError::io(path))?,
                Content::Blob(path) => fs_err::read(path).map_err(DataError::own_io(path))?,
                Content::Gguf(file) => gguf::rebuild(file, name)?.into_bytes(),
            };
            fs_err::write(folder.join(name), bytes).map_err(DataError::own_io(folder))?;
        }
        Ok(())
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
        assert_eq!(model.weights().collect::<Vec<_>>(), ["model-00001-of-00002.safetensors"]);
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
