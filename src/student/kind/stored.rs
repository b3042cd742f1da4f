//! A teacher's signals in the data, held against the losses that would read them before anything runs.

use stillhouse_data::dataset::DatasetConfig;
use stillhouse_data::model::ModelConfig;
use stillhouse_spec::{Described, Diagnostic, Diagnostics};
use stillhouse_stage::View;

use super::check::{Reading, same_tokens};
use super::config::StudentConfig;

/// What answers hold of a teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Distributions,
    /// Tokens drawn from them.
    Draws,
    Hidden,
}

/// Answers of which signals are kept.
struct Captured<'a> {
    answers: View<'a>,
    teacher: View<'a>,
    /// The model folder of a teacher that runs here; none of a server.
    model: Option<View<'a>>,
    kept: Kept,
}

impl Captured<'_> {
    /// Whether its tokens are those of a tokenizer; none where that is not known before it is tried.
    fn fits(&self, tokenizer: &View<'_>) -> Option<bool> {
        match &self.model {
            Some(model) => same_tokens(tokenizer, model),
            None => same_tokens(tokenizer, &self.teacher.follow("tokenizer")?),
        }
    }
}

/// Signals that fit must be in the data, and be what the losses can learn from.
pub(super) fn signals(view: &View<'_>, config: &StudentConfig, reading: &[Reading<'_>], report: &mut Diagnostics) {
    let Some(Reading { name, .. }) = reading.first() else { return };
    let Some(data) = view.follow("data") else { return };
    let Some(dataset) = data.config_as::<DatasetConfig>() else { return };
    let answers = (0..dataset.mix.len()).filter_map(|index| data.follow(&format!("mix.{index}.answers")));
    let captured: Vec<Captured<'_>> = answers.filter_map(captured).collect();
    let error = |message: String| Diagnostic::error(config.data.at, message);
    if captured.is_empty() {
        let message = format!("`{name}` needs a teacher's distributions, and {} has none", data.label);
        report.push(error(message).hint(
            "add `capture = { top-k = 64 }` to the `[answers.…]` of a teacher that gives log-probabilities, or name a \
             local teacher here: `teacher = \"…\"`",
        ));
        return;
    }
    hidden(view, config, &captured, report);
    draws(view, reading, &captured, report);
    let Some(tokenizer) = data.follow("tokenizer") else { return };
    let fits: Vec<Option<bool>> = captured.iter().map(|captured| captured.fits(&tokenizer)).collect();
    if fits.contains(&Some(true)) {
        return;
    }
    let unnamed =
        captured.iter().find(|captured| captured.model.is_none() && captured.teacher.follow("tokenizer").is_none());
    if let Some(server) = unnamed {
        let teacher = server.teacher.label;
        let message = format!(
            "`{name}` compares token by token, and nobody says which tokenizer {teacher} has: its log-probabilities are \
             matched by bytes with {}'s tokens, and too few in common fail the training",
            tokenizer.label
        );
        let hint = format!(
            "name it in the teacher's table: `tokenizer = \"{}\"`, if it is this one",
            name_of(tokenizer.label)
        );
        report.push(Diagnostic::warning(config.data.at, message).hint(hint).related(server.teacher.at, "this teacher"));
        return;
    }
    // A tokenizer that is trained first is no local teacher's; a server may have it.
    let servers = captured.iter().filter(|captured| captured.model.is_none());
    if fits.contains(&None) && servers.count() > 0 {
        return;
    }
    let Captured { teacher, model, .. } = &captured[0];
    let named = model.as_ref().map(|model| model.label).or_else(|| Some(teacher.follow("tokenizer")?.label));
    let Some(theirs) = named else { return };
    let message = format!("`{name}` compares token by token, but {} reads {}'s tokens", view.label, tokenizer.label);
    report.push(error(format!("{message} and {} those of {theirs}", teacher.label)).hint(format!(
        "give {} and its student the teacher's tokenizer: `tokenizer = \"{}\"`; over different tokenizers `cross-entropy` \
         learns from its answers, and `uld` compares with a teacher beside the student, one with `provider = \"local\"`",
        data.label,
        name_of(theirs)
    )));
}

/// `model.smollm2` as the file writes it.
fn name_of(label: &str) -> &str {
    label.split_once('.').map_or(label, |(_, name)| name)
}

/// Hidden states are of one teacher, whose head is then in the data, and of nothing else.
fn hidden(view: &View<'_>, config: &StudentConfig, captured: &[Captured<'_>], report: &mut Diagnostics) {
    let is_hidden = |captured: &&Captured<'_>| captured.kept == Kept::Hidden;
    let Some(first) = captured.iter().find(is_hidden) else { return };
    let error = |message: String| Diagnostic::error(config.data.at, message);
    if let Some(other) = captured.iter().find(|captured| !is_hidden(captured)) {
        let message = format!(
            "{} can't learn from the hidden states that {} keeps and from the distributions that {} keeps at once",
            view.label, first.answers.label, other.answers.label
        );
        report.push(error(message).hint("give both answers the same `capture`, or make a dataset of each"));
        return;
    }
    let folder = |captured: &Captured<'_>| {
        let model = captured.model.as_ref()?;
        Some(model.config_as::<ModelConfig>().map_or_else(|| model.label.into(), |config| config.path.path.clone()))
    };
    if let Some(other) = captured.iter().find(|captured| folder(captured) != folder(first)) {
        let message = format!(
            "{} can't learn from the hidden states of {} and of {} at once: each has a head of its own",
            view.label, first.teacher.label, other.teacher.label
        );
        report.push(error(message).hint(
            "make a dataset of each teacher's answers, or capture distributions: \
             `capture = { top-k = 128, encoding = \"compact\" }`",
        ));
    }
}

/// Draws stand for a distribution only in losses that are linear in it.
fn draws(view: &View<'_>, reading: &[Reading<'_>], captured: &[Captured<'_>], report: &mut Diagnostics) {
    let Some(drawn) = captured.iter().find(|captured| captured.kept == Kept::Draws) else { return };
    for (name, why) in reading.iter().filter_map(|loss| Some((loss.name, loss.refuses_draws.as_deref()?))) {
        let message = format!("`{name}` can't learn from the draws that {} keeps: {why}", drawn.answers.label);
        report.push(Diagnostic::error(view.place(&format!("loss.{name}")), message).hint(
            "`forward-kl` and `sampled-cross-entropy` can, at temperature 1; or capture distributions: \
             `capture = { top-k = 64 }`",
        ));
    }
}

fn captured(answers: View<'_>) -> Option<Captured<'_>> {
    let Described::Table(members) = answers.config.described() else { return None };
    let kept = match members.get("capture")? {
        Described::Table(capture) if capture.contains_key("samples") => Kept::Draws,
        Described::Table(capture) if capture.contains_key("hidden") => Kept::Hidden,
        _ => Kept::Distributions,
    };
    let teacher = answers.follow("teacher")?;
    Some(Captured { model: teacher.follow("model"), answers, teacher, kept })
}
