//! The definition `[model.X]`: a model folder in Hugging Face's layout or a GGUF file, known by its content.

use std::path::PathBuf;

use stillhouse_stage::spec::types::Selection;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, DirectoryPath, Select, Target};
use stillhouse_stage::{Context, Failure, Kind, View, kind};

use crate::model_folder::{MODEL_FILE_ENDING, MODEL_FILES, ModelFolder};
use crate::tokenizer::Tokenizer;

/// A model folder in Hugging Face's layout (`config.json`, `*.safetensors`, `tokenizer.json`), or a GGUF file. It is
/// known by the content of these files, so it may be moved and renamed.
#[derive(Clone, Debug, Config)]
pub struct ModelConfig {
    /// The folder, or the GGUF file.
    pub path: DirectoryPath<ModelFiles>,
}

/// The files of a model folder that count.
#[derive(Clone, Copy, Debug)]
pub struct ModelFiles;

impl Selection for ModelFiles {
    const SELECT: Select = Select::FolderOrFile { ending: MODEL_FILE_ENDING, patterns: MODEL_FILES };
}

/// The kind.
pub struct Model;

impl Kind for Model {
    kind!("model", ModelConfig);
}

/// What a `tokenizer` may name: a model folder, or a tokenizer trained in the graph.
#[derive(Clone, Copy, Debug)]
pub struct TokenizerSource;

impl Target for TokenizerSource {
    const KINDS: &'static [&'static str] = &["model", "tokenizer"];
}

/// The files of the tokenizer that the field at `field` (a `Ref<TokenizerSource>`) names.
///
/// # Errors
/// What [`Context::file`] and [`Context::input`] say; a folder without a tokenizer.
pub fn tokenizer_folder(context: &Context, field: &str) -> Result<ModelFolder, Failure> {
    if context.has_input(field) {
        let artifact = context.input(field)?;
        let files: Vec<(String, PathBuf)> = artifact.files("").collect();
        return Ok(ModelFolder::from_files(artifact.stage.clone(), files));
    }
    Ok(ModelFolder::open(&context.file(&format!("{field}.path"))?)?.tokenizer_files())
}

/// Reports a model folder without a tokenizer, where the table `reader` reads or writes text with it. What is no model folder at
/// all is reported elsewhere, and a GGUF file has its tokenizer in it.
pub fn check_tokenizer(model: &View<'_>, reader: &View<'_>, report: &mut Diagnostics) {
    let Some(ModelConfig { path }) = model.config_as::<ModelConfig>() else { return };
    if !path.path.is_dir() {
        return;
    }
    let Ok(folder) = ModelFolder::open(&path.path) else { return };
    let folder = ModelFolder { label: model.label.to_owned(), ..folder };
    if let Err(error) = folder.require("tokenizer.json") {
        let have: Vec<&str> = folder.files.keys().map(String::as_str).collect();
        report.push(
            Diagnostic::error(path.at, error.to_string())
                .hint(format!(
                    "the folder has {}; put the model's `tokenizer.json` beside them (a slow tokenizer writes one with \
                     `AutoTokenizer.from_pretrained(…).save_pretrained(…)`), or name a GGUF file",
                    have.join(", ")
                ))
                .related(reader.at, format!("{} needs its tokenizer", reader.label)),
        );
    }
}

/// The tokenizer that the field at `field` names.
///
/// # Errors
/// As [`tokenizer_folder`]; a damaged tokenizer.
pub fn tokenizer_of(context: &Context, field: &str) -> Result<Tokenizer, Failure> {
    Ok(Tokenizer::load(&tokenizer_folder(context, field)?)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::dataset::Dataset;
    use crate::testing::Bench;
    use crate::tokenizer_kind::TokenizerTraining;

    #[test]
    fn a_dataset_takes_the_tokenizer_of_a_model_folder() {
        let mut bench = Bench::new();
        let text = bench.file("text.txt", "one two three\nfour five six\n");
        let tokenizer =
            bench.run(&TokenizerTraining, json!({ "from": [{ "text": text }], "vocab-size": 260 })).unwrap();
        fs_err::write(tokenizer.out.join("model.safetensors"), "weights").unwrap();
        fs_err::write(tokenizer.out.join("README.md"), "words").unwrap();
        bench.definition("m", "model", json!({ "path": tokenizer.out }));
        let made = bench.run(&Dataset, json!({ "tokenizer": "m", "mix": [{ "text": text }], "holdout": 0 })).unwrap();
        let names = fs_err::read_dir(made.out.join("tokenizer")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, ["tokenizer.json", "tokenizer_config.json"]);
    }
}
