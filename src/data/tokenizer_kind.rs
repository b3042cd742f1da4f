//! The kind `[tokenizer.X]`: a byte-level BPE tokenizer trained in the graph.
//!
//! The artifact is what transformers' `PreTrainedTokenizerFast` loads:
//!
//! ```text
//! tokenizer.json
//! tokenizer_config.json
//! ```

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;
use serde_json::json;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, FilePath, Node, Ref, Target};
use stillhouse_stage::{Context, Failure, Kind, Needs, Outcome, StageKind, View, kind};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, TokenizerBuilder};

use crate::answer::{ANSWERS_FILE, read_answers};
use crate::error::{DataError, DataResult};
use crate::source::{LineReader, ObjectReader, RowTemplate};
use crate::string_or::StringOr;
use crate::tokenizer::Tokenizer;

/// Trains a byte-level BPE tokenizer: any text can be written in it, nothing is unknown. The first of its special
/// tokens begins every text and ends every completion.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct TokenizerConfig {
    /// The texts it learns from, all of them.
    pub from: Vec<TrainingText>,
    /// Tokens in all, the special ones and the 256 bytes included. Fewer come out where the texts are small.
    #[config(default = 4096)]
    pub vocab_size: usize,
    /// A pair of tokens is joined when it comes at least this often.
    #[config(default = 2, min = 1)]
    pub min_frequency: u64,
    /// Tokens that no text makes. The first marks the beginning and the end of a sequence.
    #[config(default = vec!["<|endoftext|>".to_owned()])]
    pub special_tokens: Vec<String>,
}

/// A source of texts.
#[derive(Clone, Debug, Config)]
pub enum TrainingText {
    /// A file of plain text.
    Text(StringOr<TextFile>),
    /// A file of JSON objects, each filled into a template.
    Jsonl(JsonlTexts),
    /// A teacher's answers with their prompts.
    Answers(Ref<Answers>),
}

/// A file of plain text.
#[derive(Clone, Debug, Config)]
pub struct TextFile {
    /// The file.
    pub path: FilePath,
}

/// A file of JSON objects.
#[derive(Clone, Debug, Config)]
pub struct JsonlTexts {
    /// The file.
    pub path: FilePath,
    /// The text of a row, in minijinja: `"{{ question }}\n{{ answer }}"`.
    pub template: String,
}

/// The stages that hold a teacher's answers.
#[derive(Clone, Copy, Debug)]
pub struct Answers;

impl Target for Answers {
    const KINDS: &'static [&'static str] = &["answers"];
}

fn sound(config: &TokenizerConfig, node: &Node, report: &mut Diagnostics) {
    let TokenizerConfig { from, vocab_size, min_frequency: _, special_tokens } = config;
    if from.is_empty() {
        report
            .push(Diagnostic::error(node.at, "`from` is empty").hint("name a text: `from = [ { text = \"a.txt\" } ]`"));
    }
    if special_tokens.is_empty() {
        report.push(
            Diagnostic::error(node.at, "`special-tokens` is empty")
                .hint("the first one marks the end of a sequence: `special-tokens = [\"<|endoftext|>\"]`"),
        );
    }
    if special_tokens.iter().any(String::is_empty) {
        report.push(Diagnostic::error(node.at, "a token of `special-tokens` has no letters"));
    }
    let least = 256 + special_tokens.len();
    if *vocab_size < least {
        report.push(Diagnostic::error(
            node.at,
            format!("`vocab-size` must be at least {least}: 256 bytes and the special tokens"),
        ));
    }
}

/// The kind.
pub struct TokenizerTraining;

impl Kind for TokenizerTraining {
    kind!("tokenizer", TokenizerConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }
}

impl StageKind for TokenizerTraining {
    // 1: the first.
    fn revision(&self) -> u32 {
        1
    }

    fn needs(&self, _view: &View<'_>) -> Needs {
        Needs { compute: true, ..Needs::default() }
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let config: TokenizerConfig = context.config()?;
        let mut texts = Vec::new();
        for (place, source) in config.from.iter().enumerate() {
            read_texts(context, source, &format!("from.{place}"), &mut texts)?;
        }
        let characters: usize = texts.iter().map(|text| text.chars().count()).sum();
        let bytes: usize = texts.iter().map(String::len).sum();
        train(&config, &texts, &context.out())?;
        let tokenizer = Tokenizer::open(&context.out())?;
        let tokens: usize =
            texts.par_iter().map(|text| Ok(tokenizer.encode(text, false)?.len())).sum::<DataResult<usize>>()?;
        if tokenizer.vocabulary() < config.vocab_size {
            context.warn(format!(
                "the texts are too small for {} tokens: the vocabulary has {}",
                config.vocab_size,
                tokenizer.vocabulary()
            ));
        }
        Ok(Outcome::with_metrics(json!({
            "vocabulary": tokenizer.vocabulary(),
            "texts": texts.len(),
            "characters": characters,
            "tokens": tokens,
            "bytes-per-token": bytes as f64 / tokens.max(1) as f64,
        })))
    }
}

fn read_texts(context: &Context, source: &TrainingText, field: &str, texts: &mut Vec<String>) -> Result<(), Failure> {
    match source {
        TrainingText::Text(_) => {
            let mut lines = LineReader::open(&context.file(&format!("{field}.text.path"))?)?;
            let mut all_blank = true;
            while let Some(line) = lines.next_line()? {
                all_blank &= line.text.trim().is_empty();
                // The pieces a tokenizer learns from never span a line, so lines may be learned from one by one.
                texts.push(format!("{}\n", line.text));
            }
            if all_blank {
                return Err(lines.only_blank("text").into());
            }
        }
        TrainingText::Jsonl(JsonlTexts { path: _, template }) => {
            let template = RowTemplate::new(template, "template")?;
            let mut objects = ObjectReader::open(&context.file(&format!("{field}.jsonl.path"))?)?;
            while let Some(object) = objects.next_object()? {
                texts.push(template.render(objects.path(), &object)?);
            }
        }
        TrainingText::Answers(_) => {
            let answers = context.input(&format!("{field}.answers"))?;
            for answer in read_answers(&answers.path(ANSWERS_FILE)?)? {
                let answer = answer?;
                texts.extend(answer.messages.into_iter().map(|message| message.content));
                texts.push(answer.text);
            }
        }
    }
    Ok(())
}

/// Trains on the texts and writes the folder.
fn train(config: &TokenizerConfig, texts: &[String], folder: &Path) -> DataResult<()> {
    let fault = |error: tokenizers::Error| {
        DataError::invalid(format!("the tokenizer cannot be trained: {error}"), "are the texts what they should be?")
    };
    let special: Vec<AddedToken> =
        config.special_tokens.iter().map(|token| AddedToken::from(token.clone(), true)).collect();
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(config.vocab_size)
        .min_frequency(config.min_frequency)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = TokenizerBuilder::default()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(None::<TemplateProcessing>)
        .with_decoder(Some(ByteLevel::default()))
        .build()
        .map_err(fault)?;
    tokenizer.train(&mut trainer, texts.iter().map(String::as_str)).map_err(fault)?;
    let end = &config.special_tokens[0];
    let id = tokenizer.token_to_id(end).unwrap_or_default();
    let begin = begin_with(end, id).map_err(|error| fault(error.into()))?;
    tokenizer.with_post_processor(Some(begin));
    let json = tokenizer.to_string(true).map_err(fault)?;
    write(&folder.join("tokenizer.json"), &json)?;
    let settings = Settings {
        tokenizer_class: "PreTrainedTokenizerFast",
        bos_token: end,
        eos_token: end,
        pad_token: end,
        additional_special_tokens: &config.special_tokens[1..],
        clean_up_tokenization_spaces: false,
    };
    let settings = serde_json::to_string_pretty(&settings).map_err(|error| fault(error.into()))?;
    write(&folder.join("tokenizer_config.json"), &format!("{settings}\n"))
}

/// What puts a token in front of every text. Given in pieces, as it stands in the file: the short form (`"A $A"`) has a meaning for spaces, colons
/// and dollars, which a token may have, too.
fn begin_with(token: &str, id: u32) -> serde_json::Result<TemplateProcessing> {
    let special = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |sequence: &str, type_id: u32| json!({ "Sequence": { "id": sequence, "type_id": type_id } });
    let mut tokens = serde_json::Map::new();
    tokens.insert(token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
    serde_json::from_value(json!({
        "type": "TemplateProcessing",
        "single": [special, text("A", 0)],
        "pair": [special, text("A", 0), special, text("B", 1)],
        "special_tokens": tokens,
    }))
}

/// `tokenizer_config.json`. A struct, because the order of a JSON map depends on other crates' features.
#[derive(Serialize)]
struct Settings<'a> {
    tokenizer_class: &'static str,
    bos_token: &'a str,
    eos_token: &'a str,
    pad_token: &'a str,
    additional_special_tokens: &'a [String],
    clean_up_tokenization_spaces: bool,
}

fn write(path: &Path, text: &str) -> DataResult<()> {
    fs_err::write(path, text).map_err(DataError::own_io(path))
}

#[cfg(test)]
mod tests;
