//! What a dataset's table says.

use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, FilePath, Node, OneOf, Ref, Target, Value};

use super::artifact::{HOLDOUT, TRAIN};
use crate::bad_rows::OnBadRow;
use crate::embeddings::Embeddings;
use crate::filters::Filter;
use crate::model::TokenizerSource;
use crate::signals::{Encoding, Form, Precision, Selection};
use crate::string_or::StringOr;
use crate::tokenizer_kind::Answers;

/// Mixes sources into training rows, filters them, holds some out for evaluation and tokenises them.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct DatasetConfig {
    /// Where rows come from.
    pub mix: Vec<Source>,
    /// What rows must pass, in this order; samples of a prompt are judged together. Exact duplicates never stay.
    #[config(default)]
    pub filters: Vec<OneOf<dyn Filter>>,
    /// The share of prompts that are held out of training. Chosen by content: all samples of a prompt fall on one
    /// side, and rows that come later move none.
    #[config(default = 0.05, min = 0.0, max = 0.9)]
    pub holdout: f64,
    /// What training rows must not share with evaluation data.
    #[config(default = Decontamination::default())]
    pub decontaminate: Decontamination,
    /// A model folder's tokenizer, or one trained in the graph. Left out, it is that of the students that train on this.
    pub tokenizer: Option<Ref<TokenizerSource>>,
    /// How a conversation becomes text.
    #[config(default = ChatTemplateChoice::Auto)]
    pub chat_template: ChatTemplateChoice,
    /// What a student learns of a row that has a prompt. Of plain text it learns everything.
    #[config(default = LossOn::Completion)]
    pub loss_on: LossOn,
    /// The longest row in tokens. Plain text is cut into rows of this length.
    #[config(default = 512, min = 2)]
    pub max_length: usize,
    /// What becomes of longer rows.
    #[config(default = LongRows::Drop)]
    pub long_rows: LongRows,
    /// What is kept of the teachers' signals; all as it is if left out.
    pub signals: Option<SignalsConfig>,
    /// Vectors of the rows' texts, by which the record says how far they spread. Left out, they are those of the filter
    /// `semantic-duplicate`, where there is one.
    #[config(parts = "embeddings.bin")]
    pub embeddings: Option<Ref<Embeddings>>,
}

/// What a dataset keeps of the signals that its answers have: made of what is stored, so that another choice asks no
/// teacher again.
#[derive(Clone, Debug, Config)]
#[config(check = sound_signals)]
pub struct SignalsConfig {
    /// The k most likely tokens at each position.
    #[config(min = 1)]
    pub top_k: Option<u32>,
    /// As many of the most likely tokens at each position as hold this much probability, between `min-k` and `max-k`.
    #[config(above = 0, max = 1)]
    pub top_p: Option<f64>,
    /// With `top-p`: at least so many tokens.
    #[config(default = 1, min = 1)]
    pub min_k: u32,
    /// With `top-p`: at most so many tokens.
    #[config(default = 128, min = 1)]
    pub max_k: u32,
    /// How exactly plain log-probabilities are kept: two bytes each (`f16`) or four (`f32`).
    #[config(default = Precision::F16)]
    pub precision: Precision,
    /// How they are kept: `plain` if left out.
    pub encoding: Option<OneOf<dyn Encoding>>,
}

impl SignalsConfig {
    /// What is kept of a distribution.
    pub(super) fn selection(&self) -> Selection {
        match (self.top_k, self.top_p) {
            (Some(k), _) => Selection::MostLikely(k as usize),
            (_, Some(mass)) => Selection::TopP { mass, bounds: [self.min_k as usize, self.max_k as usize] },
            _ => Selection::Whole,
        }
    }

    /// How.
    pub(super) fn form(&self) -> Form {
        self.encoding.as_ref().map_or(Form::Plain(self.precision), |encoding| encoding.value.form(self.precision))
    }
}

/// A source of rows: exactly one of `answers`, `jsonl` and `text`.
#[derive(Clone, Debug, Config)]
#[config(check = one_source)]
pub struct Source {
    /// A teacher's answers.
    #[config(parts = "answers.jsonl,signals,captured.jsonl")]
    pub answers: Option<Ref<Answers>>,
    /// A file of prompts with their completions.
    pub jsonl: Option<StringOr<JsonlRows>>,
    /// A file of plain text.
    pub text: Option<StringOr<TextRows>>,
    /// Its share of the rows, relative to the other sources' weights; all sources have one or none has. Larger sources
    /// lose rows until the shares are right; no row is ever repeated.
    #[config(above = 0.0)]
    pub weight: Option<f64>,
}

/// What training rows must not share with evaluation data: a run of words (GPT-3's rule).
#[derive(Clone, Debug, Config)]
pub struct Decontamination {
    /// Rows that share so many words in a row with evaluation data are left out; 0 switches it off.
    #[config(default = 13)]
    pub words: usize,
    /// A run of words under more prompts than this, or under more than half of all, is boilerplate and no leak.
    #[config(default = 10)]
    pub common: usize,
    /// Evaluation data beside the dataset's own holdout, which always counts. Left out, it is every dataset that a suite
    /// of the experiment measures on and that no student trains on.
    pub against: Option<Vec<Evaluated>>,
}

impl Default for Decontamination {
    fn default() -> Self {
        Self { words: 13, common: 10, against: None }
    }
}

/// Evaluation data: exactly one of `dataset` and `file`.
#[derive(Clone, Debug, Config)]
#[config(check = one_evaluated)]
pub struct Evaluated {
    /// A dataset.
    #[config(part_from = split)]
    pub dataset: Option<Ref<Rows>>,
    /// Which of its rows.
    #[config(default = Split::Holdout)]
    pub split: Split,
    /// A file: of JSON lines (`.jsonl`) every line is a row with all its strings, in their order and each answer behind what is
    /// asked; of any other file every line.
    pub file: Option<FilePath>,
}

/// A dataset whose rows are read.
#[derive(Clone, Copy, Debug)]
pub struct Rows;

impl Target for Rows {
    const KINDS: &'static [&'static str] = &["dataset"];
}

/// A part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Split {
    /// The rows held out of training.
    Holdout,
    /// The rows trained on.
    Train,
}

impl Split {
    /// Its folder in the artifact.
    #[must_use]
    pub fn part(self) -> &'static str {
        match self {
            Self::Holdout => HOLDOUT,
            Self::Train => TRAIN,
        }
    }
}

/// A file of one JSON object a line, with a prompt and its completion.
#[derive(Clone, Debug, Config)]
pub struct JsonlRows {
    /// The file.
    pub path: FilePath,
    /// The prompt, in minijinja.
    #[config(default = "{{ prompt }}".to_owned())]
    pub prompt: String,
    /// What is learned, in minijinja.
    #[config(default = "{{ completion }}".to_owned())]
    pub completion: String,
    /// Instructions that stand before the prompt, in minijinja; nothing where it comes out empty.
    pub system: Option<String>,
    /// What becomes of a row that is not what it should be.
    #[config(default = OnBadRow::Stop)]
    pub on_bad_row: OnBadRow,
}

/// A file of plain text.
#[derive(Clone, Debug, Config)]
pub struct TextRows {
    /// The file.
    pub path: FilePath,
    /// What a document is: what begins and ends like one for the model.
    #[config(default = TextUnit::Whole)]
    pub document: TextUnit,
}

/// What a document of plain text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum TextUnit {
    /// The whole file.
    Whole,
    /// Every line that is not blank.
    Line,
}

/// How a conversation becomes text.
#[derive(Clone, Debug, Config)]
pub enum ChatTemplateChoice {
    /// The tokenizer's own template where it has one, plain text where it has none.
    Auto,
    /// Plain text: the turns as they are, a blank line between two, the completion right behind.
    None,
    /// A template in a file.
    File(StringOr<TemplateFile>),
}

/// A chat template in Hugging Face's dialect of Jinja.
#[derive(Clone, Debug, Config)]
pub struct TemplateFile {
    /// The file.
    pub path: FilePath,
}

/// What a student learns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum LossOn {
    /// The completion, its end-of-sequence token included.
    Completion,
    /// Everything but the first token.
    All,
}

/// What becomes of rows longer than `max-length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum LongRows {
    /// They are left out, and counted.
    Drop,
    /// Their end is cut off; those whose prompt alone is too long are left out, and counted.
    Cut,
}

impl Source {
    /// The word for what it is.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self { answers: Some(_), .. } => "answers",
            Self { jsonl: Some(_), .. } => "jsonl",
            _ => "text",
        }
    }
}

fn sound(config: &DatasetConfig, node: &Node, report: &mut Diagnostics) {
    if config.mix.is_empty() {
        report
            .push(Diagnostic::error(node.at, "`mix` is empty").hint("name a source: `mix = [ { answers = \"…\" } ]`"));
    }
    let weighted = config.mix.iter().filter(|source| source.weight.is_some()).count();
    if weighted != 0 && weighted != config.mix.len() {
        report.push(
            Diagnostic::error(node.at, "some sources of `mix` have a weight and some have none")
                .hint("give each a `weight`, or none: then every row is taken"),
        );
    }
    changed_before_found(config, node, report);
}

/// Rows are known to a later filter by their text, as it was when something was made of it: one that was changed since is not.
fn changed_before_found(config: &DatasetConfig, node: &Node, report: &mut Diagnostics) {
    let written = node.as_table().and_then(|table| table.get("filters")).map(|filters| &filters.value);
    for (place, later) in config.filters.iter().enumerate() {
        let Some(what) = later.value.of_changed_texts() else { continue };
        for (number, earlier) in config.filters[..place].iter().enumerate().filter(|(_, one)| one.value.changes_texts())
        {
            let at = match written {
                Some(Value::Array(filters)) => filters.get(number).map_or(node.at, |filter| filter.at),
                _ => node.at,
            };
            let (earlier, later) = (earlier.name, later.name);
            let message = format!(
                "`{earlier}` stands before `{later}`: a row whose text it covers is not the one that a vector was made of, and {what}"
            );
            report.push(Diagnostic::warning(at, message).hint(format!(
                "put `{later}` before it; or `{earlier} = {{ action = \"drop\" }}`, which changes no text"
            )));
        }
    }
}

fn sound_signals(config: &SignalsConfig, node: &Node, report: &mut Diagnostics) {
    if config.top_k.is_some() && config.top_p.is_some() {
        report
            .push(Diagnostic::error(node.at, "`signals` is cut by `top-k` or by `top-p`, not both").hint("remove one"));
    }
    if config.min_k > config.max_k {
        report.push(Diagnostic::error(node.at, "`min-k` is more than `max-k`").hint("`max-k` is 128 if left out"));
    }
}

fn one_evaluated(config: &Evaluated, node: &Node, report: &mut Diagnostics) {
    if config.dataset.is_some() == config.file.is_some() {
        report.push(
            Diagnostic::error(node.at, "evaluation data is exactly one of `dataset` and `file`")
                .hint("list several: `against = [ { dataset = \"bench\" }, { file = \"test.jsonl\" } ]`"),
        );
    }
}

fn one_source(config: &Source, node: &Node, report: &mut Diagnostics) {
    let given = [config.answers.is_some(), config.jsonl.is_some(), config.text.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        report.push(
            Diagnostic::error(node.at, "a source is exactly one of `answers`, `jsonl` and `text`")
                .hint("list several: `mix = [ { answers = \"a\" }, { jsonl = \"b.jsonl\" } ]`"),
        );
    }
}
