//! A measured figure: a value with its interval, unit and direction.

use serde::{Deserialize, Serialize};

use crate::bootstrap::{BootstrapError, Estimate, Interval};

/// One figure of an evaluation, as it stands in the record and in `scores.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The figure.
    pub value: f64,
    /// Lower bound of the bootstrap interval; none where nothing could be resampled.
    pub low: Option<f64>,
    /// Upper bound.
    pub high: Option<f64>,
    /// How many examples it was measured on.
    pub n: usize,
    /// What it is counted in: `nats/token`, `bits/byte`, `fraction`; empty for a bare number.
    pub unit: String,
    /// Which direction is good.
    pub better: Better,
    /// What a reader of the interval must know, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Less is better.
    Lower,
    /// More is better.
    Higher,
}

/// What a figure is, apart from its value.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// See [`Score::unit`].
    pub unit: &'static str,
    /// See [`Score::better`].
    pub better: Better,
    /// Turns the corpus-weighted ratio into the figure (mean nats into perplexity). Must be increasing, so that
    /// it turns bounds of the ratio into bounds of the figure.
    pub transform: fn(f64) -> f64,
}

impl Figure {
    /// A figure that is the ratio itself.
    pub const fn ratio(unit: &'static str, better: Better) -> Self {
        Self { unit, better, transform: |ratio| ratio }
    }

    /// The figure that follows from an estimate of the ratio.
    ///
    /// # Errors
    /// A value that no number can hold.
    pub fn score(&self, estimate: &Estimate) -> Result<Score, BootstrapError> {
        let value = (self.transform)(estimate.value);
        if !value.is_finite() {
            return Err(BootstrapError::Overflow { ratio: estimate.value });
        }
        let bound = |ratio| Some((self.transform)(ratio)).filter(|bound: &f64| bound.is_finite());
        let (low, high, note) = match estimate.interval {
            Interval::Bounds { low, high } => (bound(low), bound(high), None),
            Interval::NoSpread => (Some(value), Some(value), Some("every example scored the same")),
            Interval::OneExample => (None, None, Some("one example: no interval")),
        };
        Ok(Score {
            value,
            low,
            high,
            n: estimate.examples,
            unit: self.unit.to_owned(),
            better: self.better,
            note: note.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::{Bootstrap, Share};

    const PERPLEXITY: Figure = Figure { unit: "", better: Better::Lower, transform: f64::exp };

    fn estimate(pairs: &[(f64, f64)]) -> Estimate {
        let shares: Vec<Share> =
            pairs.iter().map(|&(numerator, denominator)| Share { numerator, denominator }).collect();
        Bootstrap::default().ratio(&shares).unwrap()
    }

    #[test]
    fn value_and_bounds_go_through_the_same_transform() {
        let score = PERPLEXITY.score(&estimate(&[(1.0, 1.0), (9.0, 3.0)])).unwrap();
        assert_eq!(score.value, 2.5_f64.exp());
        assert_eq!((score.low, score.high), (Some(1.0_f64.exp()), Some(3.0_f64.exp())));
        assert_eq!((score.n, score.note), (2, None));
    }

    #[test]
    fn one_example_has_no_interval_and_says_so() {
        let score = PERPLEXITY.score(&estimate(&[(0.0, 1.0)])).unwrap();
        assert_eq!((score.value, score.low, score.high), (1.0, None, None));
        assert_eq!(score.note.as_deref(), Some("one example: no interval"));
    }

    #[test]
    fn a_value_no_number_can_hold_is_an_error() {
        let error = PERPLEXITY.score(&estimate(&[(1_000.0, 1.0)])).unwrap_err();
        assert_eq!(error, BootstrapError::Overflow { ratio: 1_000.0 });
    }

    #[test]
    fn a_score_survives_json() {
        let score =
            Figure::ratio("fraction", Better::Higher).score(&estimate(&[(1.0, 1.0), (0.0, 1.0), (1.0, 1.0)])).unwrap();
        let json = serde_json::to_string(&score).unwrap();
        assert!(json.contains(r#""better":"higher""#), "{json}");
        assert_eq!(serde_json::from_str::<Score>(&json).unwrap(), score);
    }
}
