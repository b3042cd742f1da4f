//! Plans and explanations in words.

use stillhouse_engine::plan::PlannedStage;
use stillhouse_engine::{Comparison, Decision, Experiment, Explainer, Plan};
use stillhouse_report::format;
use stillhouse_stage::{CountedBy, Forecast};
use stillhouse_store::{Store, StoreError};

/// Reasons shown a stage in a plan; `why` shows all.
const REASONS: usize = 4;

/// A plan: a line a stage that may run, with its reasons; reused stages only if `all`.
pub fn text(plan: &Plan, experiment: &Experiment, store: &Store, all: bool) -> Result<String, StoreError> {
    let mut lines = Vec::new();
    let width = plan.stages.iter().map(|stage| stage.name.chars().count()).max().unwrap_or(0).min(48);
    let explainer = Explainer::new(plan, experiment, store, store.histories()?);
    for stage in &plan.stages {
        if matches!(stage.decision, Decision::Reuse(_)) && !all {
            continue;
        }
        let why = explainer.why(stage)?;
        let reasons = why.lines();
        let mut first = reasons.first().cloned().unwrap_or_default();
        if let (Some(earlier), false) = (&why.against, why.reasons.is_empty()) {
            first.push_str(&format!("  (since run {})", earlier.run));
        }
        lines.push(format!("{:<6} {:<width$}  {first}", stage.decision.word(), stage.name).trim_end().to_owned());
        let more = reasons.iter().skip(1);
        lines.extend(more.clone().take(REASONS - 1).map(|reason| format!("{:<6} {:<width$}  {reason}", "", "")));
        if let Some(forecast) = &stage.forecast {
            lines.push(format!("{:<6} {:<width$}  asks {}", "", "", asks(forecast)));
        }
        if reasons.len() > REASONS {
            let left = reasons.len() - REASONS;
            lines.push(format!(
                "{:<6} {:<width$}  and {left} more: stillhouse why {} {}",
                "",
                "",
                experiment.file.display(),
                stage.name
            ));
        }
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    if experiment.cells > 1 {
        lines.push(format!(
            "sweep: {} cells, {}; {} would be needed if cells shared nothing ({} saved)",
            experiment.cells,
            if plan.stages.len() == 1 { "1 stage".to_owned() } else { format!("{} stages", plan.stages.len()) },
            experiment.stages_unshared,
            experiment.stages_unshared - plan.stages.len(),
        ));
    }
    if let Some(forecast) = plan.forecast() {
        lines.push(format!("to ask of teachers: {}", asks(&forecast)));
    }
    let counts = plan.counts();
    lines.push(format!("{} to run, {} maybe, {} reused", counts.run, counts.maybe, counts.reuse));
    Ok(lines.join("\n"))
}

/// `230 requests, up to about 58.9 k tokens, up to about $0.04 (prompts by the teacher's tokenizer)`: replies at their limit.
fn asks(forecast: &Forecast) -> String {
    let mut notes = match forecast.counted_by {
        CountedBy::Bytes => vec!["prompts estimated from their bytes".to_owned()],
        CountedBy::Tokenizer => vec!["prompts counted with the teacher's tokenizer".to_owned()],
        CountedBy::Both => vec!["prompts counted with a tokenizer where a teacher names one".to_owned()],
    };
    match forecast.images {
        0 => {}
        1 => notes.push("1 image estimated from its size".to_owned()),
        images => notes.push(format!("{} images estimated from their sizes", format::count(images))),
    }
    let mut parts = vec![format::requests(forecast.requests, forecast.texts)];
    parts.extend(forecast.tokens.map(|tokens| format!("up to about {} tokens", format::count(tokens))));
    parts.extend(forecast.usd.map(|usd| format!("up to about ${usd:.2}")));
    let parts = parts.join(", ");
    if forecast.requests > 0 && forecast.tokens.is_some() { format!("{parts} ({})", notes.join("; ")) } else { parts }
}

/// One stage, explained.
pub fn why(stage: &PlannedStage, why: &Comparison, remarks: &[String]) -> String {
    let mut lines = vec![format!("{}: {}", stage.name, stage.decision.word())];
    lines.push(format!("  {}", why.summary));
    lines.extend(why.reasons.iter().map(|reason| format!("    {}", reason.line())));
    if let Some(earlier) = &why.against
        && !matches!(stage.decision, Decision::Reuse(_))
    {
        lines.push(format!(
            "  compared with {} of run {} ({}, key {})",
            earlier.stage,
            earlier.run,
            earlier.created,
            earlier.key.short()
        ));
    }
    lines.extend(remarks.iter().map(|remark| format!("  {remark}")));
    if let Some(key) = &stage.key {
        lines.push(format!("  key {key}"));
    }
    lines.join("\n")
}
