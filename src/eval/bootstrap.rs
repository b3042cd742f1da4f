//! The percentile bootstrap, clustered by example.
//!
//! Perplexity, bits per byte and mean KL are ratios over a corpus: a sum over scored tokens divided by a
//! count of tokens or bytes. They are not means of per-document values, and the tokens of one document are
//! not independent. So what is resampled is the example, with its numerator *and* its denominator, and the
//! ratio is formed anew from each resample.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use thiserror::Error;

/// What one example adds to a corpus-weighted ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// For example the summed negative log-likelihood of the example, in nats.
    pub numerator: f64,
    /// For example its number of scored tokens; never negative. An example with 0 over 0 holds nothing that
    /// was measured and is left out.
    pub denominator: f64,
}

/// How intervals are made. Part of an evaluation's identity: another seed gives other bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// How many times the examples are drawn anew.
    pub resamples: u32,
    /// The probability the interval claims, between 0 and 1, both excluded.
    pub confidence: f64,
    /// Two metrics of equal length under one seed see the same draws.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap { resamples: 1_000, confidence: 0.95, seed: 0 }
    }
}

/// A ratio over a corpus with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Sum of numerators over sum of denominators.
    pub value: f64,
    /// Lower and upper bound.
    pub interval: Interval,
    /// Examples that had something to measure: the number of clusters.
    pub examples: usize,
}

/// The interval of an [`Estimate`], or why it says less than it seems to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Interval {
    /// Percentile bounds.
    Bounds {
        /// The lower percentile.
        low: f64,
        /// The upper percentile.
        high: f64,
    },
    /// All examples have the same ratio, so every resample gives the value itself. The width of zero says
    /// that no spread was seen, not that there is none.
    NoSpread,
    /// A single example: nothing can be resampled.
    OneExample,
}

/// Why no estimate could be made.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum BootstrapError {
    /// No example, or none with a positive denominator.
    #[error("there is nothing to average: no example has anything to score")]
    Empty,
    /// NaN or infinity in the input.
    #[error("example {example} has a value that is not a finite number ({numerator} over {denominator})")]
    NotFinite {
        /// Index into the examples.
        example: usize,
        /// What it held.
        numerator: f64,
        /// What it held.
        denominator: f64,
    },
    /// The figure made from the ratio is too large for a number.
    #[error("the mean is {ratio}, from which no finite figure follows")]
    Overflow {
        /// The ratio.
        ratio: f64,
    },
    /// Settings that describe no interval.
    #[error("an interval needs at least 1 resample and a confidence between 0 and 1, not {resamples} and {confidence}")]
    Settings {
        /// As given.
        resamples: u32,
        /// As given.
        confidence: f64,
    },
}

impl Bootstrap {
    /// The corpus-weighted ratio of `examples` and its percentile interval.
    ///
    /// The result depends only on the arguments: each resample has a random stream of its own, so the
    /// number of threads does not matter.
    pub fn ratio(&self, examples: &[Share]) -> Result<Estimate, BootstrapError> {
        if self.resamples == 0 || !(self.confidence > 0.0 && self.confidence < 1.0) {
            return Err(BootstrapError::Settings { resamples: self.resamples, confidence: self.confidence });
        }
        check_finite(examples)?;
        let says_something = |share: &Share| share.denominator > 0.0 || share.numerator != 0.0;
        let measured: Vec<Share> = examples.iter().copied().filter(says_something).collect();
        let value = ratio_of(measured.iter());
        if !value.is_finite() {
            return Err(BootstrapError::Empty);
        }
        Ok(Estimate { value, interval: self.interval(&measured), examples: measured.len() })
    }

    fn interval(&self, measured: &[Share]) -> Interval {
        let [first, rest @ ..] = measured else { return Interval::OneExample };
        if rest.is_empty() {
            return Interval::OneExample;
        }
        // Cross-multiplied, so that equal ratios of different lengths are seen as equal.
        let same = |other: &Share| first.numerator * other.denominator == other.numerator * first.denominator;
        if rest.iter().all(same) {
            return Interval::NoSpread;
        }
        let mut ratios: Vec<f64> =
            (0..self.resamples).into_par_iter().map(|resample| self.resampled_ratio(measured, resample)).collect();
        // Only examples with a denominator of 0 were drawn: such a resample has no ratio.
        ratios.retain(|ratio| ratio.is_finite());
        if ratios.is_empty() {
            return Interval::OneExample;
        }
        ratios.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.confidence) / 2.0;
        Interval::Bounds { low: quantile(&ratios, tail), high: quantile(&ratios, 1.0 - tail) }
    }

    fn resampled_ratio(&self, measured: &[Share], resample: u32) -> f64 {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(key);
        random.set_stream(u64::from(resample));
        let count = measured.len() as u64;
        // Multiply and shift: the bias is at most count / 2³², far below the noise of 1,000 resamples.
        // 2³² shares would be 64 GiB, so the product cannot overflow.
        ratio_of(measured.iter().map(|_| &measured[((u64::from(random.next_u32()) * count) >> 32) as usize]))
    }
}

fn check_finite(examples: &[Share]) -> Result<(), BootstrapError> {
    let broken = |share: &Share| !(share.numerator.is_finite() && share.denominator.is_finite());
    match examples.iter().position(broken) {
        None => Ok(()),
        Some(example) => {
            let Share { numerator, denominator } = examples[example];
            Err(BootstrapError::NotFinite { example, numerator, denominator })
        }
    }
}

fn ratio_of<'a>(shares: impl Iterator<Item = &'a Share>) -> f64 {
    let (mut numerator, mut denominator) = (0.0, 0.0);
    for share in shares {
        numerator += share.numerator;
        denominator += share.denominator;
    }
    numerator / denominator
}

/// The `fraction` quantile of ascending values, linear between neighbours (type 7 of Hyndman and Fan, the
/// default of NumPy and R). `sorted` must not be empty.
fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let position = fraction * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(pairs: &[(f64, f64)]) -> Vec<Share> {
        pairs.iter().map(|&(numerator, denominator)| Share { numerator, denominator }).collect()
    }

    fn bounds(estimate: Estimate) -> (f64, f64) {
        match estimate.interval {
            Interval::Bounds { low, high } => (low, high),
            other => panic!("expected bounds, got {other:?}"),
        }
    }

    #[test]
    fn the_value_weights_examples_by_their_length_and_is_not_the_mean_of_ratios() {
        let estimate = Bootstrap::default().ratio(&shares(&[(10.0, 10.0), (6.0, 2.0)])).unwrap();
        // The mean of 1 and 3 would be 2.
        assert_eq!(estimate.value, 16.0 / 12.0);
        assert_eq!(estimate.examples, 2);
    }

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([1, 2, 4, 8, 16], [0, .025, .5, .9, 1])
        let sorted = [1.0, 2.0, 4.0, 8.0, 16.0];
        let close = |fraction: f64, expected: f64| assert!((quantile(&sorted, fraction) - expected).abs() < 1e-12);
        close(0.0, 1.0);
        close(0.025, 1.1);
        close(0.5, 4.0);
        close(0.9, 12.8);
        close(1.0, 16.0);
        assert_eq!(quantile(&[7.0], 0.3), 7.0);
    }

    #[test]
    fn the_interval_of_a_proportion_has_the_binomials_quantiles() {
        // Resampling 100 zeros and ones with 30 ones draws from Binomial(100, 0.3) / 100, whose 2.5 % and
        // 97.5 % quantiles are 21 and 39.
        let examples: Vec<Share> =
            (0..100).map(|i| Share { numerator: f64::from(u8::from(i < 30)), denominator: 1.0 }).collect();
        let (low, high) = bounds(Bootstrap { resamples: 20_000, ..Bootstrap::default() }.ratio(&examples).unwrap());
        assert!((low - 0.21).abs() <= 0.0101, "{low}");
        assert!((high - 0.39).abs() <= 0.0101, "{high}");
    }

    #[test]
    fn two_examples_can_only_give_their_three_mixtures() {
        // Drawn twice from {1/1, 9/3}: 1, 10/4 or 3; each tail holds a quarter, far over 2.5 %.
        let (low, high) = bounds(Bootstrap::default().ratio(&shares(&[(1.0, 1.0), (9.0, 3.0)])).unwrap());
        assert_eq!((low, high), (1.0, 3.0));
    }

    #[test]
    fn equal_arguments_give_equal_bits_whatever_the_number_of_threads() {
        let examples: Vec<Share> =
            (1..200).map(|i| Share { numerator: f64::from(i).sqrt(), denominator: f64::from(i % 7 + 1) }).collect();
        let many = Bootstrap::default().ratio(&examples).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| Bootstrap::default().ratio(&examples)).unwrap(), many);
        let other_seed = Bootstrap { seed: 1, ..Bootstrap::default() }.ratio(&examples).unwrap();
        assert_eq!(other_seed.value, many.value);
        assert_ne!(other_seed.interval, many.interval);
    }

    #[test]
    fn the_draws_of_a_seed_are_pinned() {
        let examples = shares(&[(1.0, 2.0), (5.0, 4.0), (2.0, 3.0), (9.0, 5.0), (4.0, 6.0)]);
        let (low, high) = bounds(Bootstrap { seed: 17, ..Bootstrap::default() }.ratio(&examples).unwrap());
        assert_eq!((low, high), PINNED);
    }
    const PINNED: (f64, f64) = (0.631578947368421, 1.5454545454545454);

    #[test]
    fn an_interval_holds_the_truth_about_as_often_as_it_claims() {
        // 400 corpora of 60 examples; lengths 1 to 8, losses that depend on the length, so that the ratio
        // differs from the mean of ratios. True ratio: E[length · (1 + length / 8)] / E[length].
        let truth = (4.5 + 25.5 / 8.0) / 4.5;
        let mut random = ChaCha8Rng::from_seed([3; 32]);
        let mut uniform = || f64::from(random.next_u32()) / 4_294_967_296.0;
        let held = (0..400)
            .filter(|&corpus| {
                let examples: Vec<Share> = (0..60)
                    .map(|_| {
                        let length = (uniform() * 8.0).floor() + 1.0;
                        let noise = 2.0 * uniform();
                        Share { numerator: noise * length * (1.0 + length / 8.0), denominator: length }
                    })
                    .collect();
                let bootstrap = Bootstrap { resamples: 300, seed: corpus, ..Bootstrap::default() };
                let (low, high) = bounds(bootstrap.ratio(&examples).unwrap());
                low <= truth && truth <= high
            })
            .count();
        // 95 % of 400 is 380; three standard deviations are 13, and the percentile form is a little narrow.
        assert!((362..=393).contains(&held), "{held} of 400");
    }

    #[test]
    fn one_example_has_a_value_and_no_interval() {
        let estimate = Bootstrap::default().ratio(&shares(&[(3.0, 2.0), (0.0, 0.0)])).unwrap();
        assert_eq!(estimate, Estimate { value: 1.5, interval: Interval::OneExample, examples: 1 });
    }

    #[test]
    fn examples_that_all_agree_are_said_to_show_no_spread() {
        let estimate = Bootstrap::default().ratio(&shares(&[(1.0, 1.0), (3.0, 3.0)])).unwrap();
        assert_eq!(estimate.interval, Interval::NoSpread);
    }

    #[test]
    fn an_example_that_only_adds_to_the_numerator_counts_and_no_bound_is_infinite() {
        let estimate = Bootstrap::default().ratio(&shares(&[(1.0, 0.0), (2.0, 2.0), (3.0, 2.0)])).unwrap();
        assert_eq!(estimate.value, 1.5);
        let (low, high) = bounds(estimate);
        assert!(low >= 1.0 && high <= 2.5, "{low} {high}");
    }

    #[test]
    fn nothing_to_score_is_an_error() {
        assert_eq!(Bootstrap::default().ratio(&[]), Err(BootstrapError::Empty));
        assert_eq!(Bootstrap::default().ratio(&shares(&[(0.0, 0.0)])), Err(BootstrapError::Empty));
    }

    #[test]
    fn a_value_that_is_not_finite_is_an_error_that_names_the_example() {
        let error = Bootstrap::default().ratio(&shares(&[(1.0, 1.0), (f64::NAN, 1.0)])).unwrap_err();
        assert!(error.to_string().starts_with("example 1 has a value that is not a finite number"), "{error}");
    }

    #[test]
    fn settings_that_describe_no_interval_are_an_error() {
        for (resamples, confidence) in [(0, 0.95), (10, 0.0), (10, 1.0), (10, f64::NAN)] {
            let bootstrap = Bootstrap { resamples, confidence, seed: 0 };
            assert!(matches!(bootstrap.ratio(&shares(&[(1.0, 1.0)])), Err(BootstrapError::Settings { .. })));
        }
    }
}
