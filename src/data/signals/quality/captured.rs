//! What keeping a part costs where a server told no more than its most likely tokens: measured against those, with all that it
//! did not tell as one.

use super::{Divergence, SMALLEST_REST, finite};
use crate::signals::TopK;

/// A server's most likely tokens at a position. What its other tokens hold is known only as a sum.
#[derive(Debug, Clone, Copy)]
pub struct Captured<'a> {
    said: &'a TopK,
    vocabulary: usize,
}

impl<'a> Captured<'a> {
    /// From what was captured, with ids.
    pub fn new(said: &'a TopK, vocabulary: u32) -> Self {
        Self { said, vocabulary: vocabulary as usize }
    }

    /// KL(P ‖ P̂) in nats between it and what was kept of it. `whole` is over the captured tokens and one bucket of all that
    /// were not captured, where P̂ spreads the mass outside evenly over the tokens outside: of the true divergence it is a
    /// lower bound, since a bucket hides what happens inside. `kept` is over the kept tokens and all others as one.
    pub fn divergence(&self, kept: &TopK) -> Divergence {
        let told: f64 = self.said.log_probs.iter().map(|log_prob| f64::from(*log_prob).exp()).sum();
        // Rounded log-probabilities of a server may sum to a little more than 1.
        let log_sum = told.max(1.0).ln();
        let untold = (1.0 - told / told.max(1.0)).max(0.0);
        let outside = self.vocabulary.saturating_sub(kept.ids.len());
        let kept_sum: f64 = kept.log_probs.iter().map(|log_prob| f64::from(*log_prob).exp()).sum();
        let rest_kept = if outside == 0 { 0.0 } else { (1.0 - kept_sum).max(SMALLEST_REST) };
        let log_kept_sum = (kept_sum + rest_kept).ln();
        // What the reconstruction gives each token outside.
        let log_even = rest_kept.ln() - log_kept_sum - (outside.max(1) as f64).ln();
        let (mut inside, mut terms, mut beside) = (0.0, 0.0, 0.0);
        for (id, log_prob) in self.said.ids.iter().zip(&self.said.log_probs) {
            let log_p = f64::from(*log_prob) - log_sum;
            let p = log_p.exp();
            match kept.ids.iter().position(|kept| kept == id) {
                Some(place) => {
                    inside += p;
                    terms += p * (finite(log_p) - f64::from(kept.log_probs[place]) + log_kept_sum);
                }
                None => beside += p * (finite(log_p) - log_even),
            }
        }
        let bucket = self.vocabulary.saturating_sub(self.said.ids.len()) as f64;
        let tail = if untold > 0.0 && bucket > 0.0 { untold * (untold.ln() - log_even - bucket.ln()) } else { 0.0 };
        let rest = (1.0 - inside).max(0.0);
        let lumped = if rest > 0.0 && outside > 0 { rest * (rest.ln() - rest_kept.ln() + log_kept_sum) } else { 0.0 };
        // Below zero there is only rounding.
        Divergence {
            whole: (terms + beside + tail).max(0.0),
            kept: (terms + lumped).max(0.0),
            outside: if outside == 0 { 0.0 } else { rest },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[u32], probabilities: &[f32]) -> TopK {
        TopK { ids: ids.to_vec(), log_probs: probabilities.iter().map(|p| p.ln()).collect() }
    }

    #[test]
    fn the_divergence_from_what_a_server_told_by_hand() {
        // Of 10 tokens the server told three, with 0.1 left for the seven others.
        let said = of(&[4, 7, 1], &[0.5, 0.25, 0.15]);
        let captured = Captured::new(&said, 10);
        let all = captured.divergence(&said);
        assert!(all.whole < 1e-6 && all.kept < 1e-6 && (all.outside - 0.1).abs() < 1e-6, "{all:?}");
        // Of the two that are kept nothing is lost; outside, 0.25 is spread over eight tokens.
        let cut = captured.divergence(&of(&[4, 7], &[0.5, 0.25]));
        let even: f64 = 0.25 / 8.0;
        let expected = 0.15 * (0.15 / even).ln() + 0.1 * (0.1 / (7.0 * even)).ln();
        assert!((cut.whole - expected).abs() < 1e-6 && cut.kept < 1e-6 && (cut.outside - 0.25).abs() < 1e-6, "{cut:?}");
        // Rounding alone: the two probabilities changed places.
        let rounded = captured.divergence(&of(&[4, 7, 1], &[0.25, 0.5, 0.15]));
        assert!(
            (rounded.kept - 0.25 * 2f64.ln()).abs() < 1e-6 && (rounded.whole - rounded.kept).abs() < 1e-6,
            "{rounded:?}"
        );
    }

    #[test]
    fn what_sums_to_more_than_one_has_no_tail() {
        let said = of(&[0, 1], &[0.7, 0.305]);
        let found = Captured::new(&said, 10).divergence(&said);
        assert!(found.whole < 1e-4 && found.outside < 1e-6, "{found:?}");
    }
}
