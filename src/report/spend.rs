//! What a run spent on teachers: by stage, by teacher, in all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stillhouse_stage::{How, InVain, Spent};

use crate::format::{self, count};
use crate::grid::{Grid, Layout};
use crate::run_record::{RunRecord, StageResult};

/// The metrics of an `answers` stage's record, as far as this crate reads them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct AnswersMetrics {
    /// Requests that were not answered before; where a request carries several texts, those.
    asked: u64,
    /// The requests that carried them.
    requests: Option<u64>,
    /// What they took.
    paid_tokens: PaidTokens,
    /// US dollars; only where the teacher has prices.
    spend_usd: Option<f64>,
    /// Requests of which the server did not say what they took; their share of the figures is the most that it can be.
    not_reported: NotReported,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
struct NotReported {
    requests: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
struct PaidTokens {
    prompt: u64,
    completion: u64,
}

/// What was asked and answered, and what it cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sum {
    /// Requests.
    pub requests: u64,
    /// Texts in them, of teachers whose requests carry several: those that make vectors.
    #[serde(skip_serializing_if = "is_none")]
    pub texts: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of replies.
    pub completion_tokens: u64,
    /// US dollars, of the teachers that have prices; none where none has.
    pub usd: Option<f64>,
    /// Requests of which the server did not say what they took: the figures are the most that it can be.
    pub not_reported: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.texts += other.texts;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.not_reported += other.not_reported;
        self.usd = self.usd.into_iter().chain(other.usd).reduce(|sum, more| sum + more);
    }
}

impl From<&Spent> for Sum {
    fn from(spent: &Spent) -> Self {
        let Spent { teacher: _, requests, texts, prompt_tokens, completion_tokens, usd, not_reported, in_vain: _ } =
            spent;
        Self {
            requests: *requests,
            texts: *texts,
            prompt_tokens: *prompt_tokens,
            completion_tokens: *completion_tokens,
            usd: *usd,
            not_reported: *not_reported,
        }
    }
}

/// What a run spent on teachers, whatever became of its stages.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Spend {
    /// `kind.name` of each stage that asked → its part.
    pub stages: BTreeMap<String, Sum>,
    /// `teacher.name` → its part.
    pub teachers: BTreeMap<String, Sum>,
    /// All of it.
    pub all: Sum,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// The kinds that ask teachers; their records have these figures under the same names.
const ASKING: [&str; 4] = ["expand", "answers", "judge", "embeddings"];

/// What a run spent on servers that it asked, those without prices included, and on whatever else has prices. Of a stage that has its
/// result the record says it, of one that failed or was stopped the events do.
#[must_use]
pub fn spend(record: &RunRecord) -> Spend {
    let mut spend = Spend::default();
    for (stage, result) in ASKING.iter().flat_map(|kind| record.of_kind(kind)) {
        for (teacher, sum) in parts(stage, result) {
            spend.stages.entry(stage.to_owned()).or_default().add(sum);
            spend.teachers.entry(teacher).or_default().add(sum);
            spend.all.add(sum);
        }
    }
    spend
}

/// What a stage spent on each of its teachers.
fn parts(stage: &str, result: &StageResult) -> Vec<(String, Sum)> {
    if matches!(result.how(), Some(How::Built | How::Resumed)) {
        let AnswersMetrics { asked, requests, paid_tokens, spend_usd, not_reported } =
            serde_json::from_value(result.metrics.clone()).unwrap_or_default();
        if asked > 0 && spend_usd.is_some() {
            let teacher = result.names.get("teacher").map_or(stage, String::as_str);
            let PaidTokens { prompt, completion } = paid_tokens;
            let sum = Sum {
                requests: requests.unwrap_or(asked),
                texts: requests.map_or(0, |_| asked),
                prompt_tokens: prompt,
                completion_tokens: completion,
                usd: spend_usd,
                not_reported: not_reported.requests,
            };
            return vec![(teacher.to_owned(), sum)];
        }
    }
    result.spent.values().map(|spent| (spent.teacher.clone(), Sum::from(spent))).collect()
}

/// What a run spent, a row a teacher, and in all. Empty where nothing was spent.
pub fn spend_table(record: &RunRecord, layout: Layout) -> String {
    let spend = spend(record);
    let mut grid = Grid::new(["teacher", "requests", "input tokens", "output tokens", "US$"]);
    for (teacher, sum) in &spend.teachers {
        grid.row(cells(teacher, *sum));
    }
    if spend.teachers.len() > 1 {
        grid.row(cells("all", spend.all));
    }
    if grid.rows.is_empty() { String::new() } else { grid.render(layout) }
}

fn cells(name: &str, sum: Sum) -> [String; 5] {
    let Sum { requests, texts, prompt_tokens, completion_tokens, usd, not_reported } = sum;
    let usd = usd.map_or_else(|| "–".to_owned(), |usd| format!("{usd:.4}"));
    let usd = match not_reported {
        0 => usd,
        some => format!("at most {usd} ({} not reported)", count(some)),
    };
    let requests = format!("{}{}", count(requests), format::in_brackets(texts));
    [name.to_owned(), requests, count(prompt_tokens), count(completion_tokens), usd]
}

/// What a stage without a result had paid for, and that it is kept: `12 requests, 3.4 k tokens, $0.0123: kept, and not paid again`.
/// What went to requests that brought no reply stands apart. Nothing where nothing is kept.
pub fn paid_before(stage: &str, result: &StageResult) -> Option<String> {
    if result.how().is_some() {
        return None;
    }
    let (mut all, mut lost) = (Sum::default(), Sum::default());
    parts(stage, result).into_iter().for_each(|(_, sum)| all.add(sum));
    for InVain { prompt_tokens, completion_tokens, usd, not_reported } in
        result.spent.values().filter_map(|spent| spent.in_vain)
    {
        lost.add(Sum { prompt_tokens, completion_tokens, usd, not_reported, ..Sum::default() });
    }
    let Sum { requests, texts, prompt_tokens, completion_tokens, usd, .. } = all;
    if requests == 0 {
        return None;
    }
    let dollars = |usd: Option<f64>| usd.map(|usd| format!(", ${usd:.4}")).unwrap_or_default();
    let in_vain = lost.prompt_tokens + lost.completion_tokens;
    let tokens = (prompt_tokens + completion_tokens).saturating_sub(in_vain);
    let usd = dollars(usd.map(|usd| (usd - lost.usd.unwrap_or_default()).max(0.0)));
    // Where a request carries several texts, those that brought nothing are among the requests.
    let requests = if texts > 0 { requests.saturating_sub(lost.not_reported) } else { requests };
    let kept =
        format!("{}, {} tokens{usd}: kept, and not paid again", format::requests(requests, texts), count(tokens));
    if in_vain == 0 {
        return Some(kept);
    }
    let assumed = match lost.not_reported {
        0 => String::new(),
        some => format!(", at most: {} not reported", count(some)),
    };
    Some(format!("{kept}; requests that brought no reply took {} tokens{}{assumed}", count(in_vain), dollars(lost.usd)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stillhouse_stage::{Event, Failure, StageEvent};

    use super::*;
    use crate::run_record::fold;
    use crate::testing::{finished, run_started, with_names};

    #[test]
    fn stages_of_one_teacher_are_one_row_and_what_was_there_cost_nothing() {
        let asked = |stage: &str, how, teacher: &str, asked: u64, usd: Option<f64>| {
            let metrics = json!({
                "asked": asked, "paid-tokens": { "prompt": 10 * asked, "completion": asked }, "spend-usd": usd,
            });
            with_names(finished(stage, how, 1.0, metrics), &[("teacher", teacher)])
        };
        let events = [
            run_started(5),
            asked("answers.a", How::Built, "teacher.big", 100, Some(0.5)),
            asked("judge.b", How::Built, "teacher.big", 20, Some(0.25)),
            asked("answers.c", How::Reused, "teacher.big", 900, Some(9.0)),
            asked("answers.d", How::Built, "teacher.here", 900, None),
            asked("answers.e", How::Resumed, "teacher.other", 1, Some(0.125)),
        ];
        let table = spend_table(&fold(&events), Layout::Text);
        let rows: Vec<Vec<&str>> = table
            .lines()
            .skip(2)
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(
            rows,
            [
                ["teacher.big", "120", "1.2 k", "120", "0.7500"],
                ["teacher.other", "1", "10", "1", "0.1250"],
                ["all", "121", "1.2 k", "121", "0.8750"],
            ]
        );
        assert_eq!(spend_table(&fold(&events[3..5]), Layout::Text), "");
    }

    /// What a stage has said of its spending so far.
    fn said(stage: &str, requests: u64, usd: Option<f64>) -> Event {
        let spent = Spent {
            teacher: "teacher.big".into(),
            requests,
            texts: 0,
            prompt_tokens: 10 * requests,
            completion_tokens: requests,
            usd,
            not_reported: 0,
            in_vain: None,
        };
        Event::Stage { stage: stage.into(), said: StageEvent::Spent(spent) }
    }

    #[test]
    fn what_a_stage_paid_before_it_failed_or_was_stopped_is_in_the_totals() {
        let metrics = json!({ "asked": 8, "paid-tokens": { "prompt": 80, "completion": 8 }, "spend-usd": 0.5 });
        let events = [
            run_started(3),
            said("answers.failed", 3, Some(0.125)),
            said("answers.failed", 4, Some(0.25)),
            Event::StageFailed { stage: "answers.failed".into(), failure: Failure::input("no"), seconds: 1.0 },
            said("answers.stopped", 2, Some(0.125)),
            Event::StageSkipped { stage: "answers.stopped".into(), because: "stopped".into() },
            // The record of a stage that was made says the same again.
            said("judge.made", 8, Some(0.5)),
            with_names(finished("judge.made", How::Built, 1.0, metrics), &[("teacher", "teacher.big")]),
        ];
        let record = fold(&events);
        let found = spend(&record);
        let sum = |requests, usd| Sum {
            requests,
            texts: 0,
            prompt_tokens: 10 * requests,
            completion_tokens: requests,
            usd: Some(usd),
            not_reported: 0,
        };
        assert_eq!(found.all, sum(14, 0.875));
        assert_eq!(found.teachers, BTreeMap::from([("teacher.big".to_owned(), sum(14, 0.875))]));
        assert_eq!(found.stages["answers.failed"], sum(4, 0.25));
        assert_eq!(found.stages["answers.stopped"], sum(2, 0.125));
        assert_eq!(found.stages["judge.made"], sum(8, 0.5));
        let summary = crate::run_summary(&record);
        assert!(summary.contains("answers.failed paid for 4 requests, 44 tokens, $0.2500: kept, "), "{summary}");
        assert!(!summary.contains("judge.made paid"), "{summary}");
    }

    #[test]
    fn what_a_failed_stage_is_only_assumed_to_have_paid_is_told_as_such() {
        let Event::Stage { stage, said: StageEvent::Spent(spent) } = said("answers.failed", 3, Some(0.125)) else {
            panic!("it says what it spent")
        };
        let said = StageEvent::Spent(Spent { not_reported: 2, ..spent });
        let failed = Event::StageFailed { stage: stage.clone(), failure: Failure::input("no"), seconds: 1.0 };
        let record = fold(&[run_started(1), Event::Stage { stage, said }, failed]);
        assert_eq!(spend(&record).all.not_reported, 2);
        let table = spend_table(&record, Layout::Text);
        assert!(table.contains("at most 0.1250 (2 not reported)"), "{table}");
    }

    #[test]
    fn what_brought_no_reply_is_not_told_as_kept() {
        let Event::Stage { stage, said: StageEvent::Spent(spent) } = said("judge.failed", 3, Some(0.125)) else {
            panic!("it says what it spent")
        };
        let in_vain = InVain { prompt_tokens: 20, completion_tokens: 2, usd: Some(0.0625), not_reported: 2 };
        let summary = |in_vain: InVain| {
            let said = StageEvent::Spent(Spent { not_reported: 2, in_vain: Some(in_vain), ..spent.clone() });
            let failed = Event::StageFailed { stage: stage.clone(), failure: Failure::input("no"), seconds: 1.0 };
            crate::run_summary(&fold(&[run_started(1), Event::Stage { stage: stage.clone(), said }, failed]))
        };
        let kept = "judge.failed paid for 3 requests, 11 tokens, $0.0625: kept, and not paid again; requests that brought no \
                    reply took 22 tokens, $0.0625";
        let told = summary(in_vain);
        assert!(told.contains(&format!("{kept}, at most: 2 not reported\n")), "{told}");
        let told = summary(InVain { not_reported: 0, ..in_vain });
        assert!(told.contains(&format!("{kept}\n")), "{told}");
    }

    #[test]
    fn texts_that_go_several_in_a_request_are_told_beside_the_requests() {
        let metrics = json!({
            "asked": 100, "requests": 2, "paid-tokens": { "prompt": 300, "completion": 0 }, "spend-usd": 0.5,
        });
        let made = with_names(finished("embeddings.e", How::Built, 1.0, metrics), &[("teacher", "teacher.big")]);
        let table = spend_table(&fold(&[run_started(1), made]), Layout::Text);
        assert!(table.lines().last().unwrap().contains("  2 (100 texts)  "), "{table}");
        let Event::Stage { stage, said: StageEvent::Spent(spent) } = said("embeddings.e", 2, Some(0.5)) else {
            panic!("it says what it spent")
        };
        let said = Event::Stage { stage: stage.clone(), said: StageEvent::Spent(Spent { texts: 100, ..spent }) };
        let failed = Event::StageFailed { stage, failure: Failure::input("no"), seconds: 1.0 };
        let record = fold(&[run_started(1), said, failed]);
        assert_eq!((spend(&record).all.requests, spend(&record).all.texts), (2, 100));
        let summary = crate::run_summary(&record);
        assert!(summary.contains("embeddings.e paid for 2 requests (100 texts), 22 tokens, $0.5000"), "{summary}");
    }

    #[test]
    fn a_server_without_prices_has_its_requests_and_tokens_told() {
        let table = spend_table(&fold(&[run_started(1), said("answers.a", 7, None)]), Layout::Text);
        let last: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["teacher.big", "7", "70", "7", "–"]);
    }

    #[test]
    fn what_a_server_did_not_count_is_told_as_what_it_is() {
        let metrics = json!({
            "asked": 5, "paid-tokens": { "prompt": 230, "completion": 40 }, "spend-usd": 2.5,
            "not-reported": { "requests": 5, "assumed-tokens": { "prompt": 230, "completion": 40 } },
        });
        let stage = with_names(finished("answers.a", How::Built, 1.0, metrics), &[("teacher", "teacher.big")]);
        let table = spend_table(&fold(&[run_started(1), stage]), Layout::Text);
        assert!(table.contains("at most 2.5000 (5 not reported)"), "{table}");
    }
}
