//! What a student's table must find around it, checked before anything is paid or trained.

use stillhouse_data::dataset::DatasetConfig;
use stillhouse_spec::{Described, Diagnostic, Diagnostics};
use stillhouse_stage::View;

use super::config::StudentConfig;

/// A loss against a teacher needs the teacher's signals, in the tokens that the student reads.
pub(super) fn signals(view: &View<'_>, report: &mut Diagnostics) {
    let Some(config) = view.config_as::<StudentConfig>() else { return };
    let Some((name, _)) = config.loss.values.iter().find(|(_, loss)| loss.needs_teacher() && loss.weight() != 0.0) else {
        return;
    };
    let Some(data) = view.follow("data") else { return };
    let Some(dataset) = data.config_as::<DatasetConfig>() else { return };
    let answers: Vec<View<'_>> =
        (0..dataset.mix.len()).filter_map(|index| data.follow(&format!("mix.{index}.answers"))).collect();
    let captured = answers.iter().filter(|answers| captures(answers));
    let local: Vec<_> = captured.filter_map(|answers| answers.follow("teacher")?.follow("model")).collect();
    let error = |message: String| Diagnostic::error(config.data.at, message);
    if local.is_empty() {
        let message = format!("`{name}` needs a teacher's distributions, and {} has none", data.label);
        let hint = match answers.iter().find(|answers| captures(answers)) {
            Some(server) => format!(
                "{} comes from a server, whose log-probabilities are not training signals: use a teacher with `provider = \"local\"`",
                server.label
            ),
            None => "add `capture = { top-k = 64 }` to the `[answers.…]` of a teacher with `provider = \"local\"`".to_owned(),
        };
        report.push(error(message).hint(hint));
        return;
    }
    let tokenizer = data.follow("tokenizer");
    let same = tokenizer.as_ref().is_some_and(|tokenizer| local.iter().any(|model| model.label == tokenizer.label));
    if let (false, Some(tokenizer)) = (same, tokenizer) {
        let message = format!("`{name}` compares token by token, but {} reads {}'s tokens", view.label, tokenizer.label);
        report.push(error(message).hint(format!(
            "give {} and its student the teacher's tokenizer: `tokenizer = \"{}\"`",
            data.label, local[0].label
        )));
    }
}

fn captures(answers: &View<'_>) -> bool {
    matches!(answers.config.described(), Described::Table(members) if members.contains_key("capture"))
}
