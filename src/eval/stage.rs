//! The stage `[eval.X]`: measures a model on suites.

mod unseen;

use stillhouse_data::lm::ModelLoader;
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Node, Ref, Target};
use stillhouse_stage::{Context, Failure, Kind, Needs, Outcome, Placement, StageKind, View, kind};

use crate::artifact::{ArtifactWriter, Scores};
use crate::bench::{Bench, Models};
use crate::bootstrap::Bootstrap;
use crate::suite::Suite;

/// Measures a model on suites; every figure comes with a bootstrap interval.
#[derive(Clone, Debug, Config)]
#[config(check = check)]
pub struct EvalConfig {
    /// The model to measure: a student, or a model folder.
    pub model: Ref<Measured>,
    /// The suites to measure it on.
    pub suites: Vec<Ref<Suites>>,
    /// How often the examples are drawn anew for an interval.
    #[config(default = 1_000, min = 100, max = 1_000_000)]
    pub resamples: u32,
    /// The probability an interval claims.
    #[config(default = 0.95, above = 0.0)]
    pub confidence: f64,
}

/// What can be measured.
#[derive(Clone, Debug)]
pub struct Measured;

impl Target for Measured {
    const KINDS: &'static [&'static str] = &["student", "model"];
}

/// Definitions of what to measure.
#[derive(Clone, Debug)]
pub struct Suites;

impl Target for Suites {
    const KINDS: &'static [&'static str] = &["suite"];
}

fn check(config: &EvalConfig, node: &Node, report: &mut Diagnostics) {
    let at = |key: &str| node.as_table().and_then(|table| table.get(key)).map_or(node.at, |value| value.at);
    if config.suites.is_empty() {
        report.push(
            Diagnostic::error(at("suites"), "there is no suite to measure on").hint("name at least one `[suite.…]`"),
        );
    }
    for (index, suite) in config.suites.iter().enumerate() {
        if config.suites[..index].iter().any(|earlier| earlier.name == suite.name) {
            report.push(Diagnostic::error(suite.at, format!("the suite `{}` is named twice", suite.name)));
        }
    }
    if config.confidence >= 1.0 {
        report
            .push(Diagnostic::error(at("confidence"), "`confidence` must be less than 1").hint("95 % is written 0.95"));
    }
}

/// The kind `eval`; how models are loaded comes from outside, since this crate cannot run any.
pub struct EvalKind {
    /// Opens model folders.
    pub loader: &'static dyn ModelLoader,
}

impl Kind for EvalKind {
    kind!("eval", EvalConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        if let Some(config) = view.config_as::<EvalConfig>() {
            unseen::check(view, config.suites.len(), report);
        }
    }
}

impl StageKind for EvalKind {
    // 1: the first.
    // 2: figures and items name a suite by its place (`suites.0`), no table by its name, since names are in no key;
    //    generation ends at every stop token that the model's folder names, not only at the tokenizer's.
    fn revision(&self) -> u32 {
        2
    }

    fn needs(&self, _: &View<'_>) -> Needs {
        Needs { placement: Placement::Worker, compute: true, device: true, ..Needs::default() }
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let config: EvalConfig = context.config()?;
        let folder = measured_folder(context)?;
        let mut models = Models::load(self.loader, &folder, &context.order().device)?;
        let scores = measure(context, &config, &mut models)?;
        let device = models.subject().model.device();
        Ok(Outcome {
            metrics: serde_json::json!({ "scores": scores.scores, "intervals": scores.intervals }),
            provenance: serde_json::json!({ "device": device }),
            resumed: false,
        })
    }
}

fn measure(context: &Context, config: &EvalConfig, models: &mut Models) -> Result<Scores, Failure> {
    let bootstrap = Bootstrap { resamples: config.resamples, confidence: config.confidence, seed: context.seed() };
    fs_err::create_dir_all(context.out())?;
    let mut artifact = ArtifactWriter::create(&context.out(), bootstrap)?;
    for index in 0..config.suites.len() {
        let path = format!("suites.{index}");
        let suite: Suite = context.definition(&path)?;
        // For messages only: what is kept must not hold a name that the next run may give to another table.
        let suite_name = &context.definition_order(&path)?.name;
        for (name, metric) in &suite.metrics.values {
            let mut bench = Bench::new(context, models, format!("{path}.{name}"), bootstrap);
            let found =
                metric.measure(&mut bench).map_err(|failure| failure.context(&format!("{suite_name}.{name}")))?;
            artifact.add(&path, name, found)?;
        }
    }
    artifact.finish()
}

/// The model folder that `model` names: a student's output, or a folder of the user's.
fn measured_folder(context: &Context) -> Result<ModelFolder, Failure> {
    if context.has_input("model") {
        let artifact = context.input("model")?;
        return Ok(ModelFolder::from_files(artifact.stage.clone(), artifact.files("")));
    }
    let label = format!("model.{}", context.definition_order("model")?.name);
    let folder = ModelFolder::open(&context.file("model.path")?)?;
    Ok(ModelFolder { label, ..folder })
}

#[cfg(test)]
mod tests;
