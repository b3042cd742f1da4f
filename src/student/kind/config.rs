//! What a student's table says.

use stillhouse_data::model::TokenizerSource;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Each, Execution, Node, OneOf, Ref, Target};

use super::initial::Initial;
use crate::loss::Loss;
use crate::optimizer::AdamW;
use crate::schedule::Schedule;

/// Trains a student on a dataset, from scratch or from a model's weights, on labels, on a teacher's distributions, or on
/// both. Makes a model folder that transformers loads.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct StudentConfig {
    /// Where it begins: the shape of a fresh model, or a model's weights.
    pub init: OneOf<dyn Initial>,
    /// Its tokenizer, which the dataset takes over where it names none itself.
    pub tokenizer: Option<Ref<TokenizerSource>>,
    /// What it learns from.
    #[config(parts = "train,tokenizer,signals")]
    pub data: Ref<Datasets>,
    /// A teacher that runs beside it while it trains: one with `provider = "local"` and the same tokenizer. Losses then
    /// compare with its whole distributions, and stored signals are not read.
    pub teacher: Option<Ref<Teachers>>,
    /// What it makes small: a weighted sum of losses.
    pub loss: Each<dyn Loss>,
    /// How its weights follow the gradient.
    pub optimizer: Optimizer,
    /// How the learning rate moves.
    pub schedule: OneOf<dyn Schedule>,
    /// How many steps it trains.
    #[config(min = 1)]
    pub steps: u64,
    /// What it sees in a step.
    #[config(default = BatchConfig { rows: 16, length: None, pack: true })]
    pub batch: BatchConfig,
    /// Gradients are scaled down to this norm; 0 leaves them as they are.
    #[config(default = 1.0, min = 0)]
    pub clip: f64,
    /// Rows that are on the device at once; a step's other rows follow one after the other. 0 chooses.
    #[config(default = Execution(0))]
    pub micro_batch: Execution<usize>,
    /// Steps between checkpoints for a crash; 0 keeps only what longer trainings can share.
    #[config(default = Execution(100))]
    pub checkpoint_every: Execution<u64>,
    /// Steps between reports.
    #[config(default = Execution(10), min = 1)]
    pub log_every: Execution<u64>,
}

/// The stages a student can learn from.
#[derive(Clone, Copy, Debug)]
pub struct Datasets;

impl Target for Datasets {
    const KINDS: &'static [&'static str] = &["dataset"];
}

/// The teachers that may run beside a student.
#[derive(Clone, Copy, Debug)]
pub struct Teachers;

impl Target for Teachers {
    const KINDS: &'static [&'static str] = &["teacher"];
}

/// How weights follow gradients.
#[derive(Clone, Debug, Config)]
pub enum Optimizer {
    /// Adam with decoupled weight decay.
    Adamw(AdamW),
}

/// What a student sees in a step.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct BatchConfig {
    /// Rows.
    #[config(default = 16, min = 1)]
    pub rows: usize,
    /// Positions in a row; left out, as many as the longest example takes.
    #[config(min = 1)]
    pub length: Option<usize>,
    /// Lay several examples into a row where they fit. They never see each other.
    #[config(default = true)]
    pub pack: bool,
}

fn sound(config: &StudentConfig, node: &Node, report: &mut Diagnostics) {
    let at = |key: &str| node.as_table().and_then(|table| table.get(key)).map_or(node.at, |value| value.at);
    if let Some(complaint) = config.schedule.value.complaint(config.steps) {
        report.push(Diagnostic::error(at("schedule"), complaint).hint("more `steps`, or shorter phases"));
    }
    if config.loss.values.values().all(|loss| loss.weight().is_zero()) {
        report.push(Diagnostic::error(at("loss"), "every loss has the weight 0, so there is nothing to learn"));
    }
}
