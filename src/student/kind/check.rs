//! What a student's table must find around it, checked before anything is paid or trained.

use stillhouse_data::dataset::DatasetConfig;
use stillhouse_data::model::ModelConfig;
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_spec::{Diagnostic, Diagnostics};
use stillhouse_stage::View;

use super::config::StudentConfig;
use super::initial::Beginning;
use super::stored;
use super::teacher::OTHER_TOKENIZER;
use crate::error::Result;
use crate::loss::Reads;
use crate::model::{DecoderConfig, read_config};
use crate::trainer::{ComparedLayers, Losses, Misfit, fits_some, has_target, targets, trained};

/// Students cut from students, at most: more is a ring, which the names' resolution reports.
const LONGEST_LINE: usize = 32;

/// A loss against a teacher needs one: beside the student, or its signals in the data, in the tokens that the student
/// reads.
pub(super) fn teacher(view: &View<'_>, report: &mut Diagnostics) {
    let Some(config) = view.config_as::<StudentConfig>() else { return };
    let losses = config.loss.values.iter().filter(|(_, loss)| !loss.weight().is_zero());
    let reading: Vec<Reading<'_>> = losses
        .filter(|(_, loss)| loss.reads().teacher())
        .map(|(name, loss)| Reading { name, reads: loss.reads(), refuses_draws: loss.refuses_draws() })
        .collect();
    // What only a teacher beside the student has is reported where the table is read: no data holds it.
    match view.follow("teacher") {
        Some(teacher) => live(view, config, &teacher, &reading, report),
        // A name that leads nowhere is reported where names are resolved.
        None if config.teacher.is_none() => {
            let stored = reading.into_iter().filter(|loss| matches!(loss.reads, Reads::Distributions));
            stored::signals(view, config, &stored.collect::<Vec<_>>(), report);
        }
        None => {}
    }
}

/// A loss that reads a teacher.
pub(super) struct Reading<'a> {
    pub(super) name: &'a str,
    /// What it reads of it.
    reads: Reads<'a>,
    /// Why it can't learn from draws.
    pub(super) refuses_draws: Option<String>,
}

/// A teacher beside the student: local, of some use, and with the same tokens where losses compare token by token.
fn live(
    view: &View<'_>,
    config: &StudentConfig,
    teacher: &View<'_>,
    reading: &[Reading<'_>],
    report: &mut Diagnostics,
) {
    let at = config.teacher.as_ref().map_or(view.at, |named| named.at);
    let Some(Reading { name, reads, .. }) = reading.first() else {
        let message = format!("no loss of {} compares with {}", view.label, teacher.label);
        report.push(Diagnostic::error(at, message).hint("leave `teacher` out, or add a loss such as `forward-kl`"));
        return;
    };
    let Some(model) = teacher.follow("model") else {
        let message = format!("{} is a server, which can't run beside a student", teacher.label);
        let what = if reads.hidden_states().is_some() { "hidden states" } else { "whole distributions" };
        let hint = format!("`{name}` needs {what}: name a teacher with `provider = \"local\"`");
        report.push(Diagnostic::error(at, message).hint(hint).related(teacher.at, "this teacher is a server"));
        return;
    };
    let Some(Reading { name, .. }) = reading.iter().find(|loss| !matches!(loss.reads, Reads::OtherTokens)) else {
        return;
    };
    let Some(data) = view.follow("data") else { return };
    let Some(tokenizer) = data.follow("tokenizer") else { return };
    if same_tokens(&tokenizer, &model) == Some(false) {
        let message = format!(
            "`{name}` compares token by token, but {} reads {}'s tokens and {} those of {}",
            view.label, tokenizer.label, teacher.label, model.label
        );
        report.push(Diagnostic::error(at, message).hint(OTHER_TOKENIZER));
    }
}

/// Whether two model folders have one tokenizer; none where that is not known before something ran.
pub(super) fn same_tokens(one: &View<'_>, other: &View<'_>) -> Option<bool> {
    if one.label == other.label {
        return Some(true);
    }
    let digest = |view: &View<'_>| {
        let folder = ModelFolder::open(&view.config_as::<ModelConfig>()?.path.path).ok()?;
        Some(Tokenizer::load(&folder).ok()?.digest().to_owned())
    };
    Some(digest(one)? == digest(other)?)
}

/// Layers whose hidden states are compared must be there on both sides, as far as both shapes are known.
pub(super) fn layers(view: &View<'_>, report: &mut Diagnostics) {
    let Some(config) = view.config_as::<StudentConfig>() else { return };
    if config.teacher.is_none() {
        return;
    }
    let teacher = view.follow("teacher").and_then(|teacher| teacher.follow("model"));
    let shapes = (known_shape(view, LONGEST_LINE), teacher.and_then(|model| known_shape(&model, LONGEST_LINE)));
    let (Some(student), Some(teacher)) = shapes else { return };
    let losses = Losses::new(config.loss.values.iter().map(|(name, loss)| (*name, loss.as_ref())));
    let misfits = ComparedLayers::of(&losses, &student, Some(&teacher)).err().unwrap_or_default();
    for Misfit { at, key, message, hint } in misfits {
        report.push(Diagnostic::error(at.unwrap_or_else(|| view.place(&key)), message).hint(hint));
    }
}

/// A student can only be cut from a model that has what it keeps.
pub(super) fn cut(view: &View<'_>, report: &mut Diagnostics) {
    let Some(config) = view.config_as::<StudentConfig>() else { return };
    let Beginning::Cut(field, cut) = config.init.value.beginning() else { return };
    let Some(source) = view.follow(field) else { return };
    // That no layer at all stays is reported where the table is read.
    if cut.layers.as_ref().is_some_and(Vec::is_empty) {
        return;
    }
    if let Some(shape) = known_shape(&source, LONGEST_LINE)
        && let Err(unfit) = cut.shape(&shape)
    {
        let message = format!("{} can't be cut from {}: {}", view.label, source.label, unfit.message);
        report.push(Diagnostic::error(view.place(&format!("init.cut.{}", unfit.field)), message).hint(unfit.hint));
    }
}

/// What is frozen, and what gets adapters, must be there.
pub(super) fn trained_weights(view: &View<'_>, report: &mut Diagnostics) {
    let Some(config) = view.config_as::<StudentConfig>() else { return };
    if config.freeze.is_empty() && config.lora.is_none() {
        return;
    }
    let Some(shape) = known_shape(view, LONGEST_LINE).filter(|shape| shape.check().is_ok()) else { return };
    let tensors = shape.tensors();
    let mut refuse = |key: &str, looked: Result<()>| {
        let Err(error) = looked else { return false };
        let said = Diagnostic::error(view.place(key), error.to_string());
        report.push(said.hint(error.hint().unwrap_or_default()));
        true
    };
    let mut refused = false;
    for (number, pattern) in config.freeze.iter().enumerate() {
        refused |= refuse(&format!("freeze.{number}"), fits_some(&tensors, pattern));
    }
    let wanted = config.lora.iter().flat_map(|lora| lora.targets.iter().enumerate());
    for (number, target) in wanted {
        refused |= refuse(&format!("lora.targets.{number}"), has_target(&tensors, target));
    }
    match &config.lora {
        _ if refused => {}
        None => _ = refuse("freeze", trained(&tensors, &config.freeze).map(drop)),
        Some(lora) => {
            let key = if lora.targets.is_empty() { "lora.targets" } else { "lora.rank" };
            refuse(key, targets(&tensors, lora).map(drop));
        }
    }
}

/// Rows must have room for an example, and models for the rows.
pub(super) fn rows(view: &View<'_>, report: &mut Diagnostics) {
    let Some(config) = view.config_as::<StudentConfig>() else { return };
    let Some(length) = config.batch.length else { return };
    let at = view.place("batch.length");
    let data = view.follow("data");
    let longest = data.as_ref().and_then(|data| Some((data.label, data.config_as::<DatasetConfig>()?.max_length)));
    if let Some((label, longest)) = longest.filter(|(_, longest)| length == 1 && *longest > 2) {
        let message =
            format!("rows of one position hold examples of two tokens, and those of {label} have up to {longest}");
        report.push(
            Diagnostic::error(at, message)
                .hint("leave `batch.length` out: rows are then as long as the longest example"),
        );
    }
    let mut refuse = |label: &str, context: Option<usize>, hint: &str| {
        if let Some(context) = context.filter(|context| *context < length) {
            let message = format!("rows of {length} positions do not fit {label}, whose longest sequence is {context}");
            report.push(Diagnostic::error(at, message).hint(hint));
        }
    };
    let shorter = "a smaller `batch.length` (and dataset `max-length`), or a model with a longer context";
    refuse(view.label, known_context(view, LONGEST_LINE), shorter);
    let model = view.follow("teacher").and_then(|teacher| teacher.follow("model"));
    let tokenizer = data.and_then(|data| data.follow("tokenizer"));
    // A teacher with other tokens reads as much of a row as it has room for.
    if let (Some(model), Some(tokenizer)) = (model, tokenizer)
        && same_tokens(&tokenizer, &model) == Some(true)
    {
        refuse(model.label, known_context(&model, LONGEST_LINE), "a smaller `batch.length` (and dataset `max-length`)");
    }
}

/// The longest sequence of a model before anything runs; none where it is not known, or goes by the rows.
fn known_context(view: &View<'_>, line: usize) -> Option<usize> {
    let Some(student) = view.config_as::<StudentConfig>() else {
        return known_shape(view, line).map(|shape| shape.context);
    };
    match student.init.value.beginning() {
        Beginning::Fresh(shape) => {
            let context = shape.config(1, 1).context;
            (shape.config(1, context + 1).context == context).then_some(context)
        }
        Beginning::Weights(field) | Beginning::Cut(field, _) => {
            known_context(&view.follow(field)?, line.checked_sub(1)?)
        }
    }
}

/// The shape of a model before anything runs, but for its vocabulary; none where that can't be known, so that a fault
/// is said by the stage that finds it.
fn known_shape(view: &View<'_>, line: usize) -> Option<DecoderConfig> {
    if let Some(model) = view.config_as::<ModelConfig>() {
        let folder = ModelFolder::open(&model.path.path).ok()?;
        return Some(read_config(&folder.label, &folder.read_text("config.json").ok()?).ok()?.1);
    }
    let student = view.config_as::<StudentConfig>()?;
    let source = |field| known_shape(&view.follow(field)?, line.checked_sub(1)?);
    match student.init.value.beginning() {
        Beginning::Fresh(shape) => Some(shape.config(1, 1)),
        Beginning::Weights(field) => source(field),
        Beginning::Cut(field, cut) => cut.shape(&source(field)?).ok(),
    }
}
