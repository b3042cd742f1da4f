//! What a run spent on teachers, one row a teacher.

use std::collections::BTreeMap;

use serde::Deserialize;
use stillhouse_stage::How;

use crate::format::count;
use crate::grid::{Grid, Layout};
use crate::run_record::RunRecord;

/// The metrics of an `answers` stage's record, as far as this crate reads them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct AnswersMetrics {
    /// Requests that were not answered before.
    asked: u64,
    /// What they took.
    paid_tokens: PaidTokens,
    /// US dollars; only where the teacher has prices.
    spend_usd: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
struct PaidTokens {
    prompt: u64,
    completion: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    requests: u64,
    tokens: PaidTokens,
    usd: f64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.tokens.prompt += other.tokens.prompt;
        self.tokens.completion += other.tokens.completion;
        self.usd += other.usd;
    }
}

/// The kinds that ask teachers; their records have these figures under the same names.
const ASKING: [&str; 4] = ["expand", "answers", "judge", "embeddings"];

/// What the stages that ran spent on each teacher that has prices, and in all. Empty where nothing was spent. A stage
/// that failed has no metrics: what it paid for is not in the table, and is not paid again.
pub fn spend_table(record: &RunRecord, layout: Layout) -> String {
    let mut teachers: BTreeMap<&str, Sum> = BTreeMap::new();
    for (stage, result) in ASKING.iter().flat_map(|kind| record.of_kind(kind)) {
        if !matches!(result.how(), Some(How::Built | How::Resumed)) {
            continue;
        }
        let metrics: AnswersMetrics = serde_json::from_value(result.metrics.clone()).unwrap_or_default();
        let Some(usd) = metrics.spend_usd.filter(|_| metrics.asked > 0) else { continue };
        let teacher = result.names.get("teacher").map_or(stage, String::as_str);
        teachers.entry(teacher).or_default().add(Sum { requests: metrics.asked, tokens: metrics.paid_tokens, usd });
    }
    let mut grid = Grid::new(["teacher", "requests", "input tokens", "output tokens", "US$"]);
    let mut all = Sum::default();
    for (teacher, sum) in &teachers {
        grid.row(cells(teacher, *sum));
        all.add(*sum);
    }
    if teachers.len() > 1 {
        grid.row(cells("all", all));
    }
    if grid.rows.is_empty() { String::new() } else { grid.render(layout) }
}

fn cells(name: &str, sum: Sum) -> [String; 5] {
    let Sum { requests, tokens, usd } = sum;
    [name.to_owned(), count(requests), count(tokens.prompt), count(tokens.completion), format!("{usd:.4}")]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
}
