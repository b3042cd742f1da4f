//! Keeps the best samples of each prompt.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::Config;

use super::final_answer::Extractor;
use super::{Filter, FinalAnswer, Judged, Pass, Place, Verdict, samples};
use crate::error::{DataError, DataResult};

/// Keeps the best samples of each prompt; of equals, those sampled first. Rows that are no teacher's answers stay.
#[derive(Clone, Debug, Config)]
pub struct BestOf {
    /// So many stay of each prompt.
    #[config(default = 1, min = 1)]
    pub keep: usize,
    /// What makes one better.
    pub by: By,
}

/// What makes a sample better.
#[derive(Clone, Debug, Config)]
pub enum By {
    /// What an earlier filter gave it: `score` or `verifier`.
    Score,
    /// Fewer tokens.
    Shortest,
    /// More tokens.
    Longest,
    /// More samples of the prompt give the same final answer.
    Agreement(AgreementBy),
}

/// What samples agree in.
#[derive(Clone, Debug, Config)]
pub struct AgreementBy {
    /// Which part of a completion is its answer.
    pub answer: FinalAnswer,
}

impl Filter for BestOf {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let answers = match &self.by {
            By::Agreement(agreement) => Some(Extractor::new(&agreement.answer).map_err(Failure::input)?),
            By::Score | By::Shortest | By::Longest => None,
        };
        Ok(Box::new(Choosing { filter: self.clone(), answers }))
    }
}

struct Choosing {
    filter: BestOf,
    answers: Option<Extractor>,
}

impl Pass for Choosing {
    fn judge(&mut self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>> {
        let mut verdicts = Vec::with_capacity(rows.len());
        for range in samples(rows) {
            verdicts.extend(self.prompt(&rows[range])?);
        }
        Ok(verdicts)
    }
}

impl Choosing {
    fn prompt(&self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>> {
        if rows.iter().all(|row| row.outcome.is_none()) {
            return Ok(vec![Verdict::Keep; rows.len()]);
        }
        let scores = self.scores(rows)?;
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        let mut verdicts = vec![Verdict::Keep; rows.len()];
        for (rank, place) in order.iter().enumerate().skip(self.filter.keep) {
            verdicts[*place] =
                Verdict::Drop(format!("{} better samples of its prompt stay", rank.min(self.filter.keep)));
        }
        Ok(verdicts)
    }

    fn scores(&self, rows: &[Judged<'_>]) -> DataResult<Vec<f64>> {
        match (&self.filter.by, &self.answers) {
            (By::Shortest, _) => Ok(rows.iter().map(|row| -(row.tokens as f64)).collect()),
            (By::Longest, _) => Ok(rows.iter().map(|row| row.tokens as f64).collect()),
            (By::Agreement(_), Some(extractor)) => {
                let answers: Vec<Option<String>> = rows.iter().map(|row| extractor.answer(row.completion)).collect();
                let votes = |answer: &Option<String>| match answer {
                    Some(_) => answers.iter().filter(|other| *other == answer).count() as f64,
                    None => 0.0,
                };
                Ok(answers.iter().map(votes).collect())
            }
            (By::Score | By::Agreement(_), _) => rows
                .iter()
                .map(|row| {
                    row.score.ok_or_else(|| {
                        DataError::invalid(
                            format!("`best-of` by score: row {} of source {} has no score", row.line, row.source),
                            "put `score` or a `verifier` that answers with a score before it in `filters`",
                        )
                    })
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::testing::{judged, kept, reasons, sampled};

    #[test]
    fn the_best_stay_and_of_equals_the_first() {
        let rows = [
            sampled("a", 0, "long one 4"),
            sampled("a", 1, "is 4"),
            sampled("a", 2, "is 5"),
            sampled("b", 0, "x"),
            judged("y"),
        ];
        let by = |by, keep| kept(&BestOf { keep, by }, &rows);
        assert_eq!(by(By::Shortest, 1), [false, true, false, true, true]);
        assert_eq!(by(By::Longest, 1), [true, false, false, true, true]);
        assert_eq!(by(By::Longest, 2), [true, true, false, true, true]);
        let agreement = By::Agreement(AgreementBy { answer: FinalAnswer::LastNumber });
        assert_eq!(by(agreement, 1), [true, false, false, true, true]);
        let why = reasons(&BestOf { keep: 1, by: By::Shortest }, &rows);
        assert_eq!(why[0], "1 better samples of its prompt stay");
    }

    #[test]
    fn scores_of_earlier_filters_decide_and_a_missing_one_is_said() {
        let scored = |sample, score| Judged { score, ..sampled("a", sample, "x") };
        let filter = BestOf { keep: 1, by: By::Score };
        assert_eq!(kept(&filter, &[scored(0, Some(0.1)), scored(1, Some(0.9))]), [false, true]);
        let error = filter.start(&Place::nowhere()).unwrap().judge(&[scored(0, None), scored(1, None)]).unwrap_err();
        assert_eq!(error.to_string(), "`best-of` by score: row 1 of source 0 has no score");
    }
}
