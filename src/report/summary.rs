//! What a run came to, in a few lines: counts, failures with what to do, warnings.

use stillhouse_stage::How;

use crate::format::duration;
use crate::run_record::{RunEnd, RunRecord, State};

/// How a result came about, in one word.
pub fn how_word(how: How) -> &'static str {
    match how {
        How::Built => "built",
        How::Reused => "reused",
        How::Fetched => "fetched",
        How::Resumed => "resumed",
    }
}

/// The lines a run ends with: failed stages with their reasons and hints, skipped ones, warnings, and the counts.
pub fn run_summary(record: &RunRecord) -> String {
    let mut lines = Vec::new();
    for (stage, result) in &record.stages {
        lines.extend(result.warnings.iter().map(|warning| format!("warning: {stage}: {warning}")));
    }
    for (stage, result) in &record.stages {
        if let State::Failed { failure } = &result.state {
            lines.push(format!("error: {stage}: {}", failure.message));
            lines.extend(failure.hint.iter().map(|hint| format!("hint: {hint}")));
        }
    }
    lines.extend(skipped(record));
    lines.push(match &record.end {
        Some(end) => closing(record, end),
        None => format!("run {} has no end: it is still going on, or was killed", record.run),
    });
    lines.join("\n") + "\n"
}

/// Skipped stages, those with one reason on one line.
fn skipped(record: &RunRecord) -> Vec<String> {
    let mut reasons: indexmap::IndexMap<&str, Vec<&str>> = indexmap::IndexMap::new();
    for (stage, result) in &record.stages {
        if let State::Skipped { because } = &result.state {
            reasons.entry(because).or_default().push(stage);
        }
    }
    reasons.iter().map(|(because, stages)| format!("skipped because of {because}: {}", stages.join(", "))).collect()
}

fn closing(record: &RunRecord, end: &RunEnd) -> String {
    let stopped = if end.interrupted { ", stopped by you" } else { "" };
    format!("{}: {} in {}{stopped} (run {})", record.experiment, counts(end), duration(end.seconds), record.run)
}

/// `8 built, 1 reused`: what did not happen is not mentioned, so that what did stands out.
pub fn counts(end: &RunEnd) -> String {
    let RunEnd { built, reused, resumed, failed, skipped, seconds: _, interrupted: _ } = end;
    let counts = [(built, "built"), (resumed, "resumed"), (reused, "reused"), (failed, "failed"), (skipped, "skipped")];
    let told = counts.iter().filter(|(count, _)| **count > 0).map(|(count, word)| format!("{count} {word}"));
    let told: Vec<String> = told.collect();
    if told.is_empty() { "no stages".to_owned() } else { told.join(", ") }
}
