//! How close the model's distributions are to a teacher's.

use std::collections::BTreeMap;

use stillhouse_data::example::Example;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Ref, Target};
use stillhouse_stage::{Failure, View};

use crate::bench::{Bench, Split};
use crate::bootstrap::{Bootstrap, Share};
use crate::divergence::{among_first, kl_divergence, most_likely};
use crate::metrics::{Data, Item, Measurement, Metric};
use crate::score::{Better, Figure};
use crate::scoring::{BatchLimit, Scorer, for_each_batch};

/// How close the model is to a local teacher on the rows' completions: the mean of KL(teacher ‖ model) over scored
/// tokens in nats, over the whole vocabulary at temperature 1, and how often both find the same token most likely. Where
/// one of them has more ids than the other, with one tokenizer, those are padding and in neither distribution.
#[derive(Clone, Debug, Config)]
pub struct Agreement {
    /// The teacher: a local one, since it takes whole distributions.
    pub teacher: Ref<Teachers>,
    /// The dataset with the rows.
    #[config(parts = "tokenizer", part_from = split)]
    pub data: Data,
    /// Which of its rows.
    #[config(default = Split::Holdout)]
    pub split: Split,
}

/// What can be agreed with.
#[derive(Debug, Clone)]
pub struct Teachers;

impl Target for Teachers {
    const KINDS: &'static [&'static str] = &["teacher"];
}

const KL: Figure = Figure::ratio("nats/token", Better::Lower);
const TOP_1: Figure = Figure::ratio("fraction", Better::Higher);

impl Metric for Agreement {
    fn measure(&self, bench: &mut Bench<'_>) -> Result<Measurement, Failure> {
        let part = bench.part(self.split)?;
        // No more of the teacher is kept than the ids that the model has too.
        let limit = BatchLimit::keeping_distributions(bench.subject().model.vocabulary());
        let mut agreements = Vec::with_capacity(part.examples.len());
        for_each_batch(&part.examples, limit, |first, batch| {
            let (subject, teacher) = bench.subject_and_teacher()?;
            agreements.extend(agreements_of(&mut teacher.scorer(), &mut subject.scorer(), first, batch)?);
            bench.progress(first + batch.len(), part.examples.len())
        })?;
        measurement(&agreements, &bench.bootstrap)
    }

    /// Only a local teacher names a model of its own; a server gives the most likely few of its log-probabilities.
    fn check(&self, view: &View<'_>, path: &str, report: &mut Diagnostics) {
        let Some(teacher) = view.follow(&format!("{path}.teacher")) else { return };
        if teacher.follow("model").is_none() {
            let error = format!("`agreement` needs whole distributions, which {} does not give", teacher.label);
            report.push(
                Diagnostic::error(self.teacher.at, error)
                    .hint(
                        "name a teacher with `provider = \"local\"` and the same weights; or compare with its answers: \
                         `exact-match` with `against = \"answer\"`, or `perplexity` on rows it answered",
                    )
                    .related(teacher.at, "this teacher is a server"),
            );
        }
    }
}

/// How an example's scored tokens are seen by both.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Agreed {
    /// Summed KL(teacher ‖ model) in nats.
    kl: f64,
    /// Tokens for which both find the same token most likely.
    same: u64,
    /// Scored tokens.
    tokens: u64,
}

/// Both models see the same batch; only the teacher's distributions of one batch are kept.
fn agreements_of(
    teacher: &mut Scorer<'_>,
    subject: &mut Scorer<'_>,
    first: usize,
    batch: &[Example],
) -> Result<Vec<Agreed>, Failure> {
    // Rows may interleave, so each row has a list of its own; within a row tokens come in order.
    let width = teacher.model.vocabulary().min(subject.model.vocabulary());
    let mut kept: Vec<Vec<f32>> =
        batch.iter().map(|example| Vec::with_capacity(example.scored_tokens() * width)).collect();
    teacher.score(first, batch, &mut |example, _, log_probs| {
        kept[example].extend_from_slice(&among_first(log_probs, width))
    })?;
    let mut found = vec![Agreed { kl: 0.0, same: 0, tokens: 0 }; batch.len()];
    subject.score(first, batch, &mut |example, _, log_probs| {
        let agreed = &mut found[example];
        let start = agreed.tokens as usize * width;
        let theirs = &kept[example][start..start + width];
        let ours = among_first(log_probs, width);
        agreed.kl += kl_divergence(theirs, &ours);
        agreed.same += u64::from(most_likely(theirs) == most_likely(&ours));
        agreed.tokens += 1;
    })?;
    match found.iter().position(|agreed| !agreed.kl.is_finite()) {
        None => Ok(found),
        Some(broken) => Err(Failure::input(format!(
            "KL({} ‖ {}) is {} on example {}",
            teacher.label,
            subject.label,
            found[broken].kl,
            first + broken
        ))
        .hint("the weights of one of them hold NaN or values that overflow; look at its training")),
    }
}

fn measurement(agreements: &[Agreed], bootstrap: &Bootstrap) -> Result<Measurement, Failure> {
    let over_tokens = |numerator: fn(&Agreed) -> f64| {
        let share = |one: &Agreed| Share { numerator: numerator(one), denominator: one.tokens as f64 };
        bootstrap.ratio(&agreements.iter().map(share).collect::<Vec<_>>())
    };
    let scores = BTreeMap::from([
        ("kl", KL.score(&over_tokens(|one| one.kl)?)?),
        ("top-1", TOP_1.score(&over_tokens(|one| one.same as f64)?)?),
    ]);
    let items = agreements.iter().enumerate().map(|(example, one)| Item {
        example,
        values: BTreeMap::from([("kl", one.kl), ("same", one.same as f64), ("tokens", one.tokens as f64)]),
        texts: BTreeMap::new(),
    });
    Ok(Measurement { items: items.collect(), scores })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scripted, example, fixture};

    fn agree(teacher: &mut Scripted, student: &mut Scripted, batch: &[Example]) -> Vec<Agreed> {
        let mut teacher = Scorer { model: teacher, label: "model.t" };
        let mut student = Scorer { model: student, label: "student.a" };
        agreements_of(&mut teacher, &mut student, 0, batch).unwrap()
    }

    #[test]
    fn the_kl_of_the_shared_fixture_is_met_in_the_direction_of_the_teacher() {
        let mut teacher = Scripted::from_logits(&fixture::TEACHER_LOGITS.map(Vec::from));
        let mut student = Scripted::from_logits(&fixture::STUDENT_LOGITS.map(Vec::from));
        let found = measurement(&agree(&mut teacher, &mut student, &[fixture::example()]), &Bootstrap::default());
        let scores = found.unwrap().scores;
        // torch, f64: KL(T‖S) as a mean over the 8 positions; KL(S‖T) would be 0.677491.
        assert!((scores["kl"].value - 0.629_286_369).abs() < 1e-6, "{}", scores["kl"].value);
        // Row by row the largest logits are (3,0) (2,2) (0,1) (2,0) (2,2) (3,1) (2,1) (2,1).
        assert_eq!(scores["top-1"].value, 2.0 / 8.0);
        assert_eq!(scores["top-1"].better, Better::Higher);
    }

    #[test]
    fn a_model_agrees_with_itself() {
        let mut teacher = Scripted::from_logits(&fixture::TEACHER_LOGITS.map(Vec::from));
        let mut same = Scripted::from_logits(&fixture::TEACHER_LOGITS.map(Vec::from));
        let found = agree(&mut teacher, &mut same, &[example(&[0, 1, 2, 3]), example(&[3, 2])]);
        assert_eq!(found, [Agreed { kl: 0.0, same: 3, tokens: 3 }, Agreed { kl: 0.0, same: 1, tokens: 1 }]);
    }

    #[test]
    fn ids_that_only_pad_a_vocabulary_are_in_neither_distribution() {
        let rows = [vec![0.3, -1.0, 2.0], vec![1.0, 0.0, -2.0]];
        let padded =
            |rows: &[Vec<f64>]| rows.iter().map(|row| [row.as_slice(), &[9.0, 4.0]].concat()).collect::<Vec<_>>();
        let other = [vec![1.0, 0.5, 0.0], vec![-1.0, 0.0, 1.0]];
        let batch = [example(&[0, 1, 2])];
        let scripted = Scripted::from_logits;
        let expected = agree(&mut scripted(&rows), &mut scripted(&other), &batch);
        for (mut teacher, mut student) in
            [(scripted(&padded(&rows)), scripted(&other)), (scripted(&rows), scripted(&padded(&other)))]
        {
            let found = agree(&mut teacher, &mut student, &batch);
            assert!(expected[0].kl > 0.1 && (found[0].kl - expected[0].kl).abs() < 1e-5, "{found:?} {expected:?}");
            assert_eq!((found[0].same, found[0].tokens), (expected[0].same, 2));
        }
    }

    #[test]
    fn only_scored_tokens_are_compared_and_each_with_its_own_distribution() {
        // Both agree on position 1 only.
        let mut teacher = Scripted::from_logits(&[vec![0.0, 5.0], vec![1.0, 0.0], vec![0.0, 5.0]]);
        let mut student = Scripted::from_logits(&[vec![5.0, 0.0], vec![1.0, 0.0], vec![5.0, 0.0]]);
        let mut masked = example(&[0, 0, 0, 0]);
        masked.scored = vec![false, false, true, false];
        let found = agree(&mut teacher, &mut student, &[masked, example(&[0, 0])]);
        assert_eq!(found[0], Agreed { kl: 0.0, same: 1, tokens: 1 });
        assert_eq!((found[1].same, found[1].tokens), (0, 1));
        assert!(found[1].kl > 4.0);
    }

    #[test]
    fn a_student_that_rules_out_what_the_teacher_says_is_an_error() {
        let mut teacher = Scripted::uniform(2);
        let mut student = Scripted { by_position: vec![vec![0.0, f32::NEG_INFINITY]], ..Scripted::uniform(2) };
        let mut teacher = Scorer { model: &mut teacher, label: "model.t" };
        let mut student = Scorer { model: &mut student, label: "student.a" };
        let error = agreements_of(&mut teacher, &mut student, 4, &[example(&[0, 1])]).unwrap_err();
        assert_eq!(error.message, "KL(model.t ‖ student.a) is inf on example 4");
    }
}
