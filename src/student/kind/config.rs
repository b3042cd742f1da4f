//! What a student's table says.

use stillhouse_data::model::TokenizerSource;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Each, Execution, Node, OneOf, Origin, Ref, Target};
use stillhouse_stage::Family;

use super::initial::Initial;
use crate::loss::{Loss, Reads, Weight};
use crate::optimizer::Optimizer;
use crate::precision::Precision;
use crate::schedule::Schedule;
use crate::trainer::{EarlyStop, Keep, Lora, Misfit, OnPolicy, Spike, no_teacher};

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
    #[config(parts = "train,tokenizer,signals", part_from = early_stop)]
    pub data: Ref<Datasets>,
    /// A teacher that runs beside it while it trains: one with `provider = "local"` and, but for `uld`, the same tokenizer.
    /// Losses then compare with its whole distributions or its hidden states, and stored signals are not read.
    pub teacher: Option<Ref<Teachers>>,
    /// Lets it write some completions itself, which the teacher beside it then judges token by token.
    pub on_policy: Option<OnPolicy>,
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
    #[config(default = BatchConfig { rows: 16, length: None, pack: true, tokens: None })]
    pub batch: BatchConfig,
    /// Gradients are scaled down to this norm; 0 leaves them as they are.
    #[config(default = 1.0, min = 0)]
    pub clip: f64,
    /// In which numbers forward and backward are computed; a `teacher` beside it reads in the same. Weights, optimizer and
    /// losses are f32 in either. `bf16` needs a GPU that has it; the processor only imitates it, slowly.
    #[config(default = Precision::F32)]
    pub precision: Precision,
    /// Weights that stay as they are: `embed`, `head`, `norms`; `attention` or `mlp` of every layer; `layers.0-3`; or names
    /// as in the weights file, `*` standing for anything.
    #[config(default = Vec::new())]
    pub freeze: Vec<String>,
    /// Trains thin matrices beside frozen weights. Left out, the weights themselves are trained.
    pub lora: Option<Lora>,
    /// The student is a moving average of the weights that decays by this factor a step.
    #[config(min = 0, below = 1)]
    pub ema: Option<f64>,
    /// Ends the training when held-out loss gets no better, and takes the best weights.
    pub early_stop: Option<EarlyStop>,
    /// Stops with an error when the loss jumps; left out, only a loss that is no number stops.
    pub spike: Execution<Option<Spike>>,
    /// Rows that are on the device at once; a step's other rows follow one after the other. 0 chooses.
    #[config(default = Execution(0))]
    pub micro_batch: Execution<usize>,
    /// Steps between checkpoints for a crash; 0 keeps only what longer trainings can share.
    #[config(default = Execution(100))]
    pub checkpoint_every: Execution<u64>,
    /// Which checkpoints stay beside the final one and the one that longer trainings share.
    #[config(default = Execution(Keep::usual()))]
    pub keep: Execution<Keep>,
    /// Holds one layer's intermediate results at a time and computes the others again: less memory, a third more work,
    /// on the processor the same bits.
    #[config(default = Execution(false))]
    pub gradient_checkpointing: Execution<bool>,
    /// Steps between reports.
    #[config(default = Execution(10), min = 1)]
    pub log_every: Execution<u64>,
}

impl StudentConfig {
    /// Whether every loss that reads a teacher's distributions can do so over another vocabulary, and there is one.
    pub(super) fn compares_across_tokenizers(&self) -> bool {
        let reading = || self.loss.values.values().filter(|loss| loss.reads().teacher() && !loss.weight().is_zero());
        reading().next().is_some() && reading().all(|loss| matches!(loss.reads(), Reads::OtherTokens))
    }

    /// Whether early stopping goes by a loss that compares distributions over other vocabularies.
    pub(super) fn measures_across_tokenizers(&self) -> bool {
        let metric = self.early_stop.as_ref().map(|rule| rule.metric.as_str());
        let mut measured = self.loss.values.iter().filter(|(name, loss)| match metric {
            Some("loss") => !loss.weight().is_zero(),
            metric => metric == Some(**name),
        });
        measured.any(|(_, loss)| matches!(loss.reads(), Reads::OtherTokens))
    }

    /// How much of this a longer training begins with, and why not all of it.
    pub(super) fn shared(&self) -> String {
        let (schedule, steps) = (&self.schedule.value, self.steps);
        let why = schedule.why_not_shared().map(|why| format!(": {why}")).unwrap_or_default();
        format!("{} of {steps} steps{why}", schedule.shared_steps(steps))
    }

    /// The trainings that begin as this one does, where that is at least half of its steps: who shares less is faster beside
    /// the others than after them. With the shortest beginning first, each trains the steps that the one before did not:
    /// the state where two part is the last that the first of them shares, which stays.
    pub(super) fn family(&self) -> Option<Family> {
        let schedule = &self.schedule.value;
        let (name, order) = (schedule.beginning()?, schedule.shared_steps(self.steps));
        (order >= self.steps.div_ceil(2)).then_some(Family { apart_from: &["steps", "schedule"], name, order })
    }

    /// What can be done with the checkpoint of a step at which the training had to stop.
    pub(super) fn use_of_checkpoint(&self, step: u64) -> String {
        let schedule = &self.schedule.value;
        let measured = self.early_stop.as_ref().is_none_or(|rule| rule.every <= step);
        if schedule.complaint(step).is_none() && schedule.shared_steps(step) == step && measured {
            return format!("`steps = {step}` with these settings makes a student of the checkpoint");
        }
        format!(
            "with these settings no training of {step} steps ends with the checkpoint: only as many steps as now go on from \
             it (`spike` may change); under a `constant` schedule any step after the warm-up can be the last"
        )
    }
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

/// Which part of the dataset is read beside that which is trained on.
trait ReadsPart {
    /// A part's name, so that its content is in the student's key.
    fn part(&self) -> &'static str;
}

impl ReadsPart for Option<EarlyStop> {
    fn part(&self) -> &'static str {
        if self.is_some() { "holdout" } else { "train" }
    }
}

/// What a student sees in a step.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct BatchConfig {
    /// Rows.
    #[config(default = 16, min = 1, max = 65536)]
    pub rows: usize,
    /// Positions in a row; left out, as many as the longest example takes.
    #[config(min = 1, max = 1048576)]
    pub length: Option<usize>,
    /// Lay several examples into a row where they fit. They never see each other.
    #[config(default = true)]
    pub pack: bool,
    /// In place of rows: at most so many positions, examples of like length together, one a row.
    #[config(min = 1, max = 67108864)]
    pub tokens: Option<usize>,
}

fn sound(config: &StudentConfig, node: &Node, report: &mut Diagnostics) {
    let at = |key: &str| place(node, &[key]);
    if let Some(complaint) = config.schedule.value.complaint(config.steps) {
        report.push(Diagnostic::error(at("schedule"), complaint).hint("more `steps`, or shorter phases"));
    }
    if config.loss.values.values().all(|loss| loss.weight().is_zero()) {
        let error = Diagnostic::error(at("loss"), "every loss has the weight 0, so there is nothing to learn");
        report.push(error.hint("give one of them a `weight` above 0; left out, it is 1"));
    }
    for (name, loss) in &config.loss.values {
        if config.teacher.is_some() || loss.weight().is_zero() {
            continue;
        }
        let place = place(node, &["loss", name]);
        match loss.reads() {
            Reads::HiddenStates(_) => {
                let Misfit { message, hint, .. } = no_teacher(name);
                report.push(Diagnostic::error(place, message).hint(hint));
            }
            Reads::OtherTokens => {
                let message = format!("`{name}` compares with a teacher beside the student, and none is named");
                report.push(Diagnostic::error(place, message).hint(
                    "add `teacher = \"…\"`, a teacher with `provider = \"local\"`; its tokenizer may be another than the student's",
                ));
            }
            // Whether there are stored ones is seen where the data is known.
            Reads::Labels | Reads::Distributions => {}
        }
    }
    if config.lora.is_some() && !config.freeze.is_empty() {
        let error = Diagnostic::error(at("freeze"), "with `lora` everything but the adapters is frozen already");
        report.push(error.hint("leave `freeze` out; `lora.targets` says which weights get adapters"));
    }
    if config.on_policy.is_some() {
        on_policy(config, at("on-policy"), report);
    }
    match &config.early_stop {
        Some(rule) => early_stop(rule, config, node, report),
        None if config.keep.best > 0 => {
            let error = Diagnostic::error(
                place(node, &["keep", "best"]),
                "`keep.best` goes by the measurements of `early-stop`, and there is none",
            );
            report.push(error.hint("add `early-stop = { every = 100 }`; `patience = 0` never ends the training"));
        }
        None => {}
    }
    let batch = node.as_table().and_then(|table| table.get("batch")).and_then(Node::as_table);
    if let (Some(batch), Some(_)) = (batch, config.batch.tokens) {
        for key in ["rows", "length", "pack"] {
            if let Some(value) = batch.get(key) {
                let error = Diagnostic::error(value.at, format!("`batch.{key}` has no meaning beside `batch.tokens`"));
                report.push(error.hint("a step holds as many rows as fit, as long as its longest example"));
            }
        }
    }
}

fn on_policy(config: &StudentConfig, at: Origin, report: &mut Diagnostics) {
    if config.teacher.is_none() {
        let error =
            Diagnostic::error(at, "what the student writes is judged by a teacher beside it, and none is named");
        report.push(error.hint("add `teacher = \"…\"`, a teacher with `provider = \"local\"`"));
    }
    let of_labels = config.loss.values.iter().find(|(_, loss)| !loss.reads().teacher() && !loss.weight().is_zero());
    if let Some((name, _)) = of_labels {
        let error = Diagnostic::error(at, format!("`{name}` would teach the student its own text as if it were right"));
        report.push(error.hint(
            "with `on-policy` take losses that compare with the teacher: `reverse-kl` or `jsd`, \
                                beside a teacher with another tokenizer `uld`",
        ));
    }
}

fn early_stop(rule: &EarlyStop, config: &StudentConfig, node: &Node, report: &mut Diagnostics) {
    let (metric, at) = (rule.metric.as_str(), place(node, &["early-stop", "metric"]));
    if rule.every > config.steps {
        let message =
            format!("nothing is ever measured: `every` is {}, but there are {} steps", rule.every, config.steps);
        let error = Diagnostic::error(place(node, &["early-stop", "every"]), message);
        report.push(error.hint(format!("take at most `every = {}`, or more `steps`", config.steps)));
    }
    if metric == "loss" && config.loss.values.values().any(|loss| matches!(loss.weight(), Weight::Line(_))) {
        let error = Diagnostic::error(at, "sums of losses whose weights move can't be compared with each other");
        let one = config.loss.values.keys().next().copied().unwrap_or_default();
        report.push(error.hint(format!("name one loss: `metric = \"{one}\"`")));
    }
    let names = || std::iter::once("loss").chain(config.loss.values.keys().copied());
    if !names().any(|name| name == metric) {
        let error = Diagnostic::error(at, format!("there is no loss `{metric}` to measure"));
        report.push(error.suggest(metric, names()));
    }
    if let Some((name, loss)) =
        config.loss.values.iter().find(|(name, loss)| **name == metric && loss.weight().is_zero())
    {
        let missing = match loss.reads() {
            Reads::HiddenStates(_) => Some("no hidden states are read for it"),
            Reads::Distributions | Reads::OtherTokens if config.teacher.is_none() => {
                Some("no teacher's distributions are read for it")
            }
            _ => None,
        };
        if let Some(missing) = missing {
            let error =
                Diagnostic::error(at, format!("`{name}` has the weight 0, so {missing} and nothing is measured"));
            report.push(error.hint(format!("give `{name}` a weight, however small, or name another loss as `metric`")));
        }
    }
}

/// The value at a path of keys, or the nearest thing around it that is written.
fn place(node: &Node, path: &[&str]) -> Origin {
    let Some((key, rest)) = path.split_first() else { return node.at };
    node.as_table().and_then(|table| table.get(key)).map_or(node.at, |value| place(value, rest))
}
