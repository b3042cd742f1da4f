//! What keeping a part of a distribution costs, measured where the whole one is at hand.

mod captured;

use serde::{Deserialize, Serialize};

use super::TopK;
pub use captured::Captured;

/// Least mass that tokens outside a kept part are taken to have together, as the losses take it.
const SMALLEST_REST: f64 = 1e-7;

/// A whole distribution, to which what was kept of it is compared.
#[derive(Debug, Clone, Copy)]
pub struct Exact<'a> {
    log_probs: &'a [f32],
    /// Distributions that are computed in f32 do not sum to 1 exactly.
    log_sum: f64,
    /// `Σ p log p`.
    negative_entropy: f64,
}

impl<'a> Exact<'a> {
    /// From natural-log probabilities by token id.
    pub fn new(log_probs: &'a [f32]) -> Self {
        let (mut sum, mut weighted) = (0.0, 0.0);
        for log_prob in log_probs {
            let p = f64::from(*log_prob).exp();
            sum += p;
            weighted += p * finite(f64::from(*log_prob));
        }
        let log_sum = sum.ln();
        Self { log_probs, log_sum, negative_entropy: weighted / sum - log_sum }
    }

    /// KL(P ‖ P̂) in nats between it and what was kept: over the whole vocabulary, where P̂ spreads the mass outside evenly
    /// over the tokens outside, and over the kept tokens and all others as one, which is what rounding alone costs.
    pub fn divergence(&self, kept: &TopK) -> Divergence {
        let all = if kept.ids.is_empty() { kept.log_probs.len() } else { 0 };
        let ids = (0..all).chain(kept.ids.iter().map(|id| *id as usize));
        let (mut inside, mut inside_kept, mut terms, mut kept_terms, mut count) = (0.0, 0.0, 0.0, 0.0, 0);
        for (id, log_q) in ids.zip(&kept.log_probs) {
            let log_p = self.log_probs.get(id).map_or(f64::NEG_INFINITY, |x| f64::from(*x)) - self.log_sum;
            let (p, log_q) = (log_p.exp(), f64::from(*log_q));
            inside += p;
            inside_kept += log_q.exp();
            terms += p * finite(log_p);
            kept_terms += if p > 0.0 { p * log_q } else { 0.0 };
            count += 1;
        }
        let outside = self.log_probs.len().saturating_sub(count);
        let (rest, rest_kept) = match outside {
            0 => (0.0, 0.0),
            _ => ((1.0 - inside).max(0.0), (1.0 - inside_kept).max(SMALLEST_REST)),
        };
        let log_kept_sum = (inside_kept + rest_kept).ln();
        let rounding = inside * log_kept_sum - kept_terms;
        let (mut whole, mut kept) = (self.negative_entropy + rounding, terms + rounding);
        if rest > 0.0 {
            whole -= rest * (rest_kept.ln() - log_kept_sum - (outside as f64).ln());
            kept += rest * (rest.ln() - rest_kept.ln() + log_kept_sum);
        }
        // Below zero there is only rounding.
        Divergence { whole: whole.max(0.0), kept: kept.max(0.0), outside: rest }
    }
}

fn finite(log: f64) -> f64 {
    if log == f64::NEG_INFINITY { 0.0 } else { log }
}

/// What [`Exact::divergence`] and [`Captured::divergence`] find.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// Over the whole vocabulary.
    pub whole: f64,
    /// Over the kept tokens and all others as one.
    pub kept: f64,
    /// The distribution's mass outside.
    pub outside: f64,
}

/// Figures over many positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Quality {
    /// Positions that were measured.
    pub measured: u64,
    /// Mean of KL(teacher ‖ reconstruction) over the whole vocabulary, nats a position.
    pub kl_mean: f64,
    /// The largest.
    pub kl_max: f64,
    /// Mean over the kept tokens and all others as one: what rounding alone costs.
    pub kept_kl_mean: f64,
    /// The largest.
    pub kept_kl_max: f64,
    /// Mean of the mass outside the kept tokens.
    pub outside_mean: f64,
}

impl Quality {
    /// Counts a position.
    pub fn count(&mut self, exact: &Exact<'_>, kept: &TopK) {
        self.count_divergence(exact.divergence(kept));
    }

    /// Counts a position whose divergence is known.
    pub fn count_divergence(&mut self, Divergence { whole, kept, outside }: Divergence) {
        self.measured += 1;
        let share = 1.0 / self.measured as f64;
        self.kl_mean += (whole - self.kl_mean) * share;
        self.kl_max = self.kl_max.max(whole);
        self.kept_kl_mean += (kept - self.kept_kl_mean) * share;
        self.kept_kl_max = self.kept_kl_max.max(kept);
        self.outside_mean += (outside - self.outside_mean) * share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divergence(exact: &[f32], kept: &TopK) -> Divergence {
        Exact::new(exact).divergence(kept)
    }

    fn logs(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn the_divergence_of_a_truncation_by_hand() {
        let exact = logs(&[0.5, 0.25, 0.125, 0.125]);
        let kept = TopK { ids: vec![0, 1], log_probs: logs(&[0.5, 0.25]) };
        let found = divergence(&exact, &kept);
        assert!(found.whole.abs() < 1e-7 && found.kept.abs() < 1e-7, "{found:?}: the rest is even");
        assert!((found.outside - 0.25).abs() < 1e-7);
        let rounded = TopK { ids: vec![0, 1], log_probs: logs(&[0.25, 0.5]) };
        assert!((divergence(&exact, &rounded).whole - 0.25 * 2f64.ln()).abs() < 1e-6);
        let uneven = divergence(&logs(&[0.5, 0.25, 0.25, 0.0]), &kept);
        assert!((uneven.whole - 0.25 * 2f64.ln()).abs() < 1e-6 && uneven.kept < 1e-6, "{uneven:?}");
    }

    #[test]
    fn a_whole_distribution_has_no_rest() {
        let exact = logs(&[0.5, 0.25, 0.25]);
        let found = divergence(&exact, &TopK { ids: vec![], log_probs: exact.clone() });
        assert!(found.whole < 1e-9 && found.outside == 0.0, "{found:?}");
    }
}
