//! Keeps the samples that agree with the majority of a prompt's samples.
//!
//! Self-consistency (Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning in Language Models"): the
//! answer that most of several sampled ways lead to is the most trustworthy.

use std::collections::BTreeMap;

use stillhouse_stage::Failure;
use stillhouse_stage::spec::Config;

use super::final_answer::Extractor;
use super::{Filter, FinalAnswer, Judged, Pass, Place, Verdict, samples};
use crate::error::DataResult;

/// Keeps the samples of a prompt whose final answer is the one that most of its samples give (self-consistency, Wang et
/// al. 2022). Rows that are no teacher's answers stay as they are.
#[derive(Clone, Debug, Config)]
pub struct Agreement {
    /// Which part of a completion is its answer.
    pub answer: FinalAnswer,
    /// The share of the prompt's samples that must give the answer; a sample without one counts as another answer.
    #[config(default = 0.5, above = 0.0, max = 1.0)]
    pub threshold: f64,
    /// Of fewer samples nothing can be told, and they go.
    #[config(default = 2, min = 1)]
    pub min_samples: usize,
}

impl Filter for Agreement {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let answers = Extractor::new(&self.answer).map_err(Failure::input)?;
        Ok(Box::new(Counting { filter: self.clone(), answers }))
    }
}

struct Counting {
    filter: Agreement,
    answers: Extractor,
}

impl Pass for Counting {
    fn judge(&mut self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>> {
        Ok(samples(rows).into_iter().flat_map(|range| self.prompt(&rows[range])).collect())
    }
}

impl Counting {
    fn prompt(&self, rows: &[Judged<'_>]) -> Vec<Verdict> {
        if rows.iter().all(|row| row.outcome.is_none()) {
            return vec![Verdict::Keep; rows.len()];
        }
        if rows.len() < self.filter.min_samples {
            let reason = format!("{} samples of its prompt, {} are needed", rows.len(), self.filter.min_samples);
            return vec![Verdict::Drop(reason); rows.len()];
        }
        let answers: Vec<Option<String>> = rows.iter().map(|row| self.answers.answer(row.completion)).collect();
        let (majority, votes) = match majority(&answers) {
            Ok(found) => found,
            Err(reason) => return vec![Verdict::Drop(reason.into()); rows.len()],
        };
        if (votes as f64) < self.filter.threshold * rows.len() as f64 {
            let reason = format!("the most frequent answer has {votes} of {} samples", rows.len());
            return vec![Verdict::Drop(reason); rows.len()];
        }
        let verdict = |answer: &Option<String>| match answer {
            Some(answer) if *answer == majority => Verdict::Keep,
            Some(answer) => Verdict::Drop(format!(
                "it answers `{}`, {votes} of {} `{}`",
                short(answer),
                rows.len(),
                short(&majority)
            )),
            None => Verdict::Drop("it has no final answer".into()),
        };
        answers.iter().map(verdict).collect()
    }
}

/// The one answer that is most frequent, with its votes.
pub(super) fn majority(answers: &[Option<String>]) -> Result<(String, usize), &'static str> {
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    answers.iter().flatten().for_each(|answer| *votes.entry(answer).or_default() += 1);
    let most = *votes.values().max().ok_or("no sample of its prompt has a final answer")?;
    let mut first = votes.iter().filter(|(_, count)| **count == most);
    match (first.next(), first.next()) {
        (Some((answer, _)), None) => Ok(((*answer).to_owned(), most)),
        _ => Err("no answer of its prompt has more votes than the others"),
    }
}

/// No more of an answer than a message can bear.
fn short(answer: &str) -> String {
    let cut: String = answer.chars().take(40).collect();
    if cut.len() < answer.len() { format!("{cut}…") } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::testing::{judged, reasons, sampled};

    fn filter(threshold: f64) -> Agreement {
        Agreement { answer: FinalAnswer::LastNumber, threshold, min_samples: 2 }
    }

    #[test]
    fn the_majority_stays_whatever_its_words() {
        let rows = [
            sampled("a", 0, "It is 4"),
            sampled("a", 1, "2 + 2 makes 4.0"),
            sampled("a", 2, "5"),
            sampled("b", 0, "1"),
            sampled("b", 1, "2"),
            sampled("c", 0, "7"),
            judged("9"),
        ];
        let tie = "no answer of its prompt has more votes than the others";
        let alone = "1 samples of its prompt, 2 are needed";
        assert_eq!(reasons(&filter(0.5), &rows), ["", "", "it answers `5`, 2 of 3 `4`", tie, tie, alone, ""]);
        let weak = "the most frequent answer has 2 of 3 samples";
        assert_eq!(reasons(&filter(0.7), &rows)[..3], [weak, weak, weak]);
    }

    #[test]
    fn a_sample_without_an_answer_counts_as_another() {
        let rows = [sampled("a", 0, "4"), sampled("a", 1, "none"), sampled("a", 2, "none")];
        assert_eq!(reasons(&filter(0.3), &rows), ["", "it has no final answer", "it has no final answer"]);
        assert_eq!(reasons(&filter(0.5), &rows)[0], "the most frequent answer has 1 of 3 samples");
        assert_eq!(reasons(&filter(0.5), &rows[1..])[0], "no sample of its prompt has a final answer");
    }
}
