//! What a run came to, in a few lines: counts, failures with what to do, warnings.

use stillhouse_stage::How;

use crate::format::duration;
use crate::run_record::{RunEnd, RunRecord, State};
use crate::spend::paid_before;

/// How a result came about, in one word.
pub fn how_word(how: How) -> &'static str {
    match how {
        How::Built => "built",
        How::Reused => "reused",
        How::Fetched => "fetched",
        How::Resumed => "resumed",
    }
}

/// Failures told in full; of more, each is one line.
const IN_FULL: usize = 5;
/// Failures told at all: a disk that fills up under a thousand stages is one story.
const TOLD: usize = 40;
/// Names in a list of stages.
const NAMED: usize = 8;

/// The end of a failed stage's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogTail {
    /// Its last lines.
    pub lines: Vec<String>,
    /// Whether there is more before them.
    pub cut: bool,
}

/// All that a run came to: warnings, failed stages with their reasons and hints, skipped ones, and the counts.
pub fn run_summary(record: &RunRecord) -> String {
    let mut lines = Vec::new();
    for (stage, result) in &record.stages {
        lines.extend(result.warnings.iter().map(|warning| format!("warning: {stage}: {warning}")));
    }
    lines.extend(failures(record, &|_| LogTail::default()));
    lines.extend(skipped(record));
    lines.extend(paid(record));
    lines.push(closing(record, ""));
    lines.join("\n") + "\n"
}

/// The lines that a run ends with when its warnings were said as they came: failed stages with the end of their logs,
/// skipped ones, and the counts.
pub fn run_ending(record: &RunRecord, log: &dyn Fn(&str) -> LogTail) -> String {
    let mut lines = failures(record, log);
    lines.extend(skipped(record));
    lines.extend(paid(record));
    let warnings: usize = record.stages.values().map(|stage| stage.warnings.len()).sum();
    let warnings = match warnings {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        count => format!(", {count} warnings"),
    };
    lines.push(closing(record, &warnings));
    lines.join("\n") + "\n"
}

/// Failed stages; those that failed alike are told once.
fn failures(record: &RunRecord, log: &dyn Fn(&str) -> LogTail) -> Vec<String> {
    let mut alike: indexmap::IndexMap<(&str, Option<&str>), Vec<&str>> = indexmap::IndexMap::new();
    for (stage, result) in &record.stages {
        if let State::Failed { failure } = &result.state {
            alike.entry((&failure.message, failure.hint.as_deref())).or_default().push(stage);
        }
    }
    let mut lines = Vec::new();
    for (index, ((message, hint), stages)) in alike.iter().take(TOLD).enumerate() {
        lines.push(format!("error: {}: {message}", names(stages)));
        if index >= IN_FULL {
            continue;
        }
        let tail = log(stages[0]);
        lines.extend(tail.lines.iter().map(|line| format!("  | {line}")));
        // A hint that repeats the last line of the log says nothing beside it.
        let repeated = |hint: &str| tail.lines.last().is_some_and(|line| hint.ends_with(line.trim()));
        lines.extend(hint.filter(|hint| !repeated(hint)).map(|hint| format!("hint: {hint}")));
        if tail.cut {
            lines.push(format!("hint: the whole log: stillhouse log '{}'", stages[0]));
        }
    }
    if alike.len() > TOLD {
        lines.push(format!("and {} more failures: stillhouse show {} --format json", alike.len() - TOLD, record.run));
    }
    lines
}

/// Skipped stages, those with one reason on one line.
fn skipped(record: &RunRecord) -> Vec<String> {
    let mut reasons: indexmap::IndexMap<&str, Vec<&str>> = indexmap::IndexMap::new();
    for (stage, result) in &record.stages {
        if let State::Skipped { because } = &result.state {
            reasons.entry(because).or_default().push(stage);
        }
    }
    reasons.iter().map(|(because, stages)| format!("skipped {} ({because})", names(stages))).collect()
}

/// What stages without a result had paid for: no table of results tells of it.
fn paid(record: &RunRecord) -> impl Iterator<Item = String> {
    record
        .stages
        .iter()
        .filter_map(|(stage, result)| paid_before(stage, result).map(|paid| format!("{stage} paid for {paid}")))
}

/// `a, b, c and 97 more`
fn names(stages: &[&str]) -> String {
    let shown = stages[..stages.len().min(NAMED)].join(", ");
    if stages.len() > NAMED { format!("{shown} and {} more", stages.len() - NAMED) } else { shown }
}

fn closing(record: &RunRecord, warnings: &str) -> String {
    let Some(end) = &record.end else {
        return format!("run {} has no end: it is still going on, or was killed", record.run);
    };
    let stopped = if end.interrupted { ", stopped by you" } else { "" };
    // A run that could not be recorded has no name.
    let run = if record.run.is_empty() { String::new() } else { format!(" (run {})", record.run) };
    format!("{}: {} in {}{warnings}{stopped}{run}", record.experiment, counts(end), duration(end.seconds))
}

/// `8 built, 1 reused`: what did not happen is not mentioned, so that what did stands out.
pub fn counts(end: &RunEnd) -> String {
    let RunEnd { built, reused, resumed, failed, skipped, seconds: _, interrupted: _ } = end;
    let counts = [(built, "built"), (resumed, "resumed"), (reused, "reused"), (failed, "failed"), (skipped, "skipped")];
    let told = counts.iter().filter(|(count, _)| **count > 0).map(|(count, word)| format!("{count} {word}"));
    let told: Vec<String> = told.collect();
    if told.is_empty() { "no stages".to_owned() } else { told.join(", ") }
}

#[cfg(test)]
mod tests {
    use stillhouse_stage::{Event, Failure};

    use super::*;
    use crate::fold;
    use crate::testing::{run_finished, run_started};

    fn failed(stage: &str, message: &str, hint: &str) -> Event {
        Event::StageFailed { stage: stage.into(), failure: Failure::input(message).hint(hint), seconds: 1.0 }
    }

    fn ending(events: Vec<Event>, log: &dyn Fn(&str) -> LogTail) -> String {
        let failures = events.len();
        let events: Vec<Event> =
            [run_started(failures)].into_iter().chain(events).chain([run_finished(0, 0, failures, 0, 2.0)]).collect();
        run_ending(&fold(&events), log)
    }

    #[test]
    fn the_end_of_the_log_stands_under_its_failure_and_is_not_said_twice() {
        let log = |_: &str| LogTail { lines: vec!["loading".into(), "no such layer".into()], cut: true };
        let text =
            ending(vec![failed("command.a", "`train` failed: exit code 7", "its last line was: no such layer")], &log);
        assert_eq!(
            text,
            "error: command.a: `train` failed: exit code 7\n  | loading\n  | no such layer\n\
             hint: the whole log: stillhouse log 'command.a'\n\
             quickstart: 1 failed in 2.0s (run 261122-152330)\n"
        );
    }

    #[test]
    fn stages_that_failed_alike_are_one_line() {
        let events =
            (0..100).map(|index| failed(&format!("eval.e{index}"), "no space left", "free some space")).collect();
        let text = ending(events, &|_| LogTail::default());
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with("error: eval.e0, eval.e1, eval.e2, eval.e3, eval.e4, eval.e5, eval.e6, eval.e7 and 92 more: no space left\n"), "{text}");
    }

    #[test]
    fn of_many_failures_the_first_are_told_in_full_and_the_others_by_a_line() {
        let events = (0..100)
            .map(|index| failed(&format!("eval.e{index}"), &format!("fault {index}"), "do something"))
            .collect();
        let text = ending(events, &|_| LogTail::default());
        assert_eq!(text.matches("hint: do something").count(), IN_FULL);
        assert_eq!(text.matches("error: ").count(), TOLD);
        assert!(text.contains("and 60 more failures: stillhouse show 261122-152330"), "{text}");
    }
}
