//! Perplexity, bits per byte and mean negative log-likelihood.

use std::collections::BTreeMap;

use stillhouse_data::example::Example;
use stillhouse_spec::Config;
use stillhouse_stage::Failure;

use crate::bench::{Bench, Split};
use crate::bootstrap::{Bootstrap, Share};
use crate::metrics::{Data, Item, Measurement, Metric};
use crate::score::{Better, Figure};
use crate::scoring::{BatchLimit, Scorer, for_each_batch};

/// How surprised the model is by the rows' completions: perplexity per scored token, and bits per byte, which
/// can be compared between models with different tokenizers.
///
/// Both are weighted by the corpus, not means over rows: exp(Σ nll / Σ tokens) and Σ nll / (ln 2 · Σ bytes), the
/// bytes being those of the scored text.
#[derive(Clone, Debug, Config)]
pub struct Perplexity {
    /// The dataset with the rows.
    #[config(parts = "tokenizer", part_from = split)]
    pub data: Data,
    /// Which of its rows.
    #[config(default = Split::Holdout)]
    pub split: Split,
}

const PERPLEXITY: Figure = Figure { unit: "", better: Better::Lower, transform: f64::exp };
const NLL: Figure = Figure::ratio("nats/token", Better::Lower);
const BITS_PER_BYTE: Figure =
    Figure { unit: "bits/byte", better: Better::Lower, transform: |nats| nats / std::f64::consts::LN_2 };

impl Metric for Perplexity {
    fn measure(&self, bench: &mut Bench<'_>) -> Result<Measurement, Failure> {
        let part = bench.part(self.split)?;
        let mut likelihoods = Vec::with_capacity(part.examples.len());
        for_each_batch(&part.examples, BatchLimit::STREAMED, |first, batch| {
            likelihoods.extend(likelihoods_of(&mut bench.subject().scorer(), first, batch)?);
            bench.progress(first + batch.len(), part.examples.len())
        })?;
        measurement(&likelihoods, &bench.bootstrap)
    }
}

/// How likely an example's scored tokens are.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Likelihood {
    /// Summed negative log-likelihood in nats.
    nll: f64,
    /// Scored tokens.
    tokens: u64,
    /// UTF-8 bytes of the scored text.
    bytes: u64,
}

fn likelihoods_of(model: &mut Scorer<'_>, first: usize, batch: &[Example]) -> Result<Vec<Likelihood>, Failure> {
    let mut found: Vec<Likelihood> =
        batch.iter().map(|example| Likelihood { nll: 0.0, tokens: 0, bytes: example.bytes }).collect();
    model.score(first, batch, &mut |example, target, log_probs| {
        found[example].nll -= f64::from(log_probs[target as usize]);
        found[example].tokens += 1;
    })?;
    match found.iter().position(|likelihood| !likelihood.nll.is_finite()) {
        None => Ok(found),
        Some(broken) => Err(Failure::input(format!(
            "{} gives a token of example {} the log-probability {}",
            model.label,
            first + broken,
            -found[broken].nll
        ))
        .hint("the model's weights hold NaN or values that overflow; look at its training")),
    }
}

fn measurement(likelihoods: &[Likelihood], bootstrap: &Bootstrap) -> Result<Measurement, Failure> {
    let over = |denominator: fn(&Likelihood) -> u64| {
        let share = |one: &Likelihood| Share { numerator: one.nll, denominator: denominator(one) as f64 };
        bootstrap.ratio(&likelihoods.iter().map(share).collect::<Vec<_>>())
    };
    let per_token = over(|one| one.tokens)?;
    let mut scores = BTreeMap::from([("nll", NLL.score(&per_token)?), ("perplexity", PERPLEXITY.score(&per_token)?)]);
    // Rows of special tokens only stand for no text, so there may be no byte to divide by.
    if likelihoods.iter().any(|one| one.bytes > 0) {
        scores.insert("bits-per-byte", BITS_PER_BYTE.score(&over(|one| one.bytes)?)?);
    }
    let items = likelihoods.iter().enumerate().map(|(example, one)| Item {
        example,
        values: BTreeMap::from([("nll", one.nll), ("tokens", one.tokens as f64), ("bytes", one.bytes as f64)]),
        texts: BTreeMap::new(),
    });
    Ok(Measurement { items: items.collect(), scores })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scripted, example, fixture};

    fn measure(model: &mut Scripted, examples: &[Example]) -> Measurement {
        let mut scorer = Scorer { model, label: "student.a" };
        measurement(&likelihoods_of(&mut scorer, 0, examples).unwrap(), &Bootstrap::default()).unwrap()
    }

    #[test]
    fn the_cross_entropy_of_the_shared_fixture_is_met() {
        let mut model = Scripted::from_logits(&fixture::STUDENT_LOGITS.map(Vec::from));
        let found = measure(&mut model, &[fixture::example()]);
        // torch, f64: the mean over the 8 positions.
        assert!((found.scores["nll"].value - 1.475_597_838_9).abs() < 1e-6);
        assert!((found.scores["perplexity"].value - 4.373_649_5).abs() < 1e-5);
        // The 8 scored tokens stand for 32 bytes.
        assert!((found.scores["bits-per-byte"].value - 1.475_597_838_9 / 4.0 / std::f64::consts::LN_2).abs() < 1e-6);
        assert_eq!(found.scores["perplexity"].low, None);
    }

    #[test]
    fn a_uniform_model_is_as_perplexed_as_it_has_tokens() {
        let examples = [example(&[0, 1, 2]), example(&[3, 1, 0, 0, 2])];
        let found = measure(&mut Scripted::uniform(4), &examples);
        let perplexity = &found.scores["perplexity"];
        assert!((perplexity.value - 4.0).abs() < 1e-6);
        assert_eq!((perplexity.n, perplexity.better), (2, Better::Lower));
        // Two bits a token, four bytes a token.
        assert!((found.scores["bits-per-byte"].value - 0.5).abs() < 1e-6);
        assert_eq!(found.items[1].values["tokens"], 4.0);
    }

    #[test]
    fn long_rows_count_by_their_tokens() {
        // ln 2 for the first position, ln 8 for the second: rows of 1 and 2 scored tokens.
        let mut model = Scripted::from_logits(&[vec![0.0, 0.0], vec![0.0, 7.0_f64.ln()]]);
        let found = measure(&mut model, &[example(&[0, 0]), example(&[0, 0, 0])]);
        let expected = (2.0 * 2.0_f64.ln() + 8.0_f64.ln()) / 3.0;
        assert!((found.scores["nll"].value - expected).abs() < 1e-6);
    }

    #[test]
    fn a_model_that_gives_nan_is_an_error_that_names_the_example() {
        let mut model = Scripted { by_position: vec![vec![f32::NAN; 2]], ..Scripted::uniform(2) };
        let mut scorer = Scorer { model: &mut model, label: "student.a" };
        let error = likelihoods_of(&mut scorer, 10, &[example(&[0, 1])]).unwrap_err();
        assert_eq!(error.message, "student.a gives a token of example 10 the log-probability NaN");
    }
}
