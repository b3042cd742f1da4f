//! Probabilities as whole numbers, with a bound on what the rounding costs.
//!
//! KL(P ‖ P̂) is to second order `Σ (p − p̂)² / 2p`, which is `2 Σ (√p − √p̂)²`: rounding `√p` to a grid of step Δ costs
//! every token the same, so that grid is the cheapest one for a divergence. Below `√p = 4Δ` a step of `√p` is more than
//! half a nat of `log p`; from there down the grid is that of `log p` in half nats, so that no log-probability that is kept
//! is off by more than a quarter (before the kept ones and the rest are made to sum to 1).

use std::sync::LazyLock;

/// Steps that a position may be kept in: Δ = 2^(−(4 + step) / 2).
pub(super) const STEPS: usize = 28;
/// Half nats below the border of the two grids, at most; what is less likely counts as this likely.
const LOWEST: i32 = 127;
/// Grid of `log p`.
const LOG_STEP: f64 = 0.5;
/// Least probability that the rest of a vocabulary is taken to have: in f32, what is left of 1 says no more.
pub(super) const SMALLEST_REST: f64 = 1e-7;

/// One of the grids.
#[derive(Debug)]
pub(super) struct Grid {
    delta: f64,
    /// `√p` at the border.
    border: f64,
    /// `log p` at the border.
    log_border: f64,
    /// Steps of √p from the border to 1.
    highest: i32,
    /// Probabilities from the border down.
    below: Vec<f64>,
}

static GRIDS: LazyLock<Vec<Grid>> = LazyLock::new(|| (0..STEPS as u32).map(Grid::new).collect());

impl Grid {
    /// The grid number `step`; the finest where there is none.
    pub(super) fn of(step: u8) -> &'static Self {
        &GRIDS[(step as usize).min(STEPS - 1)]
    }

    fn new(step: u32) -> Self {
        // Powers of √2 by division, so that they are the same everywhere.
        let half = if step.is_multiple_of(2) { 1.0 } else { std::f64::consts::FRAC_1_SQRT_2 };
        let delta = half / f64::from(1u32 << (2 + step / 2));
        let border = 2.0 * delta / LOG_STEP;
        let highest = if border < 1.0 { libm::ceil((1.0 - border) / delta) as i32 } else { 0 };
        let below = (0..=LOWEST).map(|level| border * border * libm::exp(-LOG_STEP * f64::from(level))).collect();
        Self { delta, border, log_border: 2.0 * libm::log(border), highest, below }
    }

    /// The level of a probability above 0, given its root and its logarithm: negative above the border, from 0 on below it.
    fn level(&self, root: f64, log: f64) -> i32 {
        if root > self.border {
            return -((((root - self.border) / self.delta) + 0.5) as i32).min(self.highest);
        }
        ((((self.log_border - log) / LOG_STEP) + 0.5) as i32).clamp(0, LOWEST)
    }

    /// A level's probability.
    fn probability(&self, level: i32) -> f64 {
        match self.below.get(level as usize) {
            Some(probability) => *probability,
            None => {
                let root = self.root(level);
                root * root
            }
        }
    }

    /// Its logarithm.
    fn log_probability(&self, level: i32) -> f64 {
        if level >= 0 { self.log_border - LOG_STEP * f64::from(level) } else { 2.0 * libm::log(self.root(level)) }
    }

    /// `√p` of a level above the border.
    fn root(&self, level: i32) -> f64 {
        self.border + self.delta * f64::from(level.saturating_neg().min(self.highest))
    }

    /// Whether the level is one of this grid's.
    pub(super) fn has(&self, level: i32) -> bool {
        (-self.highest..=LOWEST).contains(&level)
    }
}

/// One position: which tokens, and how likely in steps of a grid.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::signals) struct Quantised {
    /// The grid.
    pub(in crate::signals) step: u8,
    /// Level of what is outside; none where the tokens are the whole distribution.
    pub(in crate::signals) rest: Option<i32>,
    /// Token and level, by token.
    pub(in crate::signals) tokens: Vec<(u32, i32)>,
}

impl Quantised {
    /// Quantises a distribution in the coarsest grid whose divergence from it, over the tokens and the rest as one more,
    /// is at most `kl`; in the finest where none is. Tokens without probability are left out.
    pub(super) fn of(ids: &[u32], log_probs: &[f32], whole: bool, kl: f64) -> Self {
        let mut kept: Vec<(u32, f64)> = ids
            .iter()
            .zip(log_probs)
            .map(|(id, log_prob)| (*id, libm::exp(f64::from(*log_prob))))
            .filter(|(_, probability)| *probability > 0.0)
            .collect();
        kept.sort_by_key(|(id, _)| *id);
        kept.dedup_by_key(|(id, _)| *id);
        if kept.is_empty() {
            return Self::default();
        }
        let inside: f64 = kept.iter().map(|(_, probability)| probability).sum();
        let rest = (!whole).then(|| (1.0 - inside).max(SMALLEST_REST));
        let sum = inside + rest.unwrap_or(0.0);
        let exact: Vec<Probability> = kept.iter().map(|(_, p)| Probability::new(p / sum)).collect();
        let rest = rest.map(|rest| Probability::new(rest / sum));
        let mut made = Self::default();
        for step in coarsest(kept.len(), kl)..STEPS as u8 {
            let grid = Grid::of(step);
            made.step = step;
            made.rest = rest.map(|rest| grid.level(rest.root, rest.log));
            made.tokens.clear();
            made.tokens.extend(kept.iter().zip(&exact).map(|((id, _), p)| (*id, grid.level(p.root, p.log))));
            if made.divergence(&exact, rest, grid) <= kl {
                break;
            }
        }
        made
    }

    /// Log-probabilities of the tokens in their order, natural.
    pub(super) fn log_probs(&self) -> impl Iterator<Item = f32> {
        let grid = Grid::of(self.step);
        let log_sum = libm::log(self.sum(grid));
        self.tokens.iter().map(move |(_, level)| (grid.log_probability(*level) - log_sum) as f32)
    }

    fn sum(&self, grid: &Grid) -> f64 {
        let levels = self.tokens.iter().map(|(_, level)| *level).chain(self.rest);
        levels.map(|level| grid.probability(level)).sum()
    }

    fn divergence(&self, exact: &[Probability], rest: Option<Probability>, grid: &Grid) -> f64 {
        let term = |exact: &Probability, level: i32| exact.probability * (exact.log - grid.log_probability(level));
        let tokens: f64 = exact.iter().zip(&self.tokens).map(|(exact, (_, level))| term(exact, *level)).sum();
        // The exact ones sum to 1, so the logarithm of the others' sum counts once.
        tokens + rest.zip(self.rest).map_or(0.0, |(rest, level)| term(&rest, level)) + libm::log(self.sum(grid))
    }
}

/// A probability with what the grids are made of.
#[derive(Debug, Clone, Copy)]
struct Probability {
    probability: f64,
    root: f64,
    log: f64,
}

impl Probability {
    fn new(probability: f64) -> Self {
        Self { probability, root: probability.sqrt(), log: libm::log(probability) }
    }
}

/// A step that is surely too coarse or just right: rounding costs about `(tokens + 1) Δ² / 6`, and in the luckiest case an
/// eighth of it.
fn coarsest(tokens: usize, kl: f64) -> u8 {
    let delta = (8.0 * 6.0 * kl / (tokens + 1) as f64).sqrt();
    (0..STEPS as u8 - 1).find(|step| Grid::of(*step).delta <= delta).unwrap_or(STEPS as u8 - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_grid_meets_itself() {
        for step in 0..STEPS as u8 {
            let grid = Grid::of(step);
            for level in -grid.highest..=LOWEST {
                let (probability, log) = (grid.probability(level), grid.log_probability(level));
                assert_eq!(grid.level(probability.sqrt(), log), level, "step {step}");
                assert!((probability.ln() - log).abs() < 1e-9);
            }
        }
    }

    proptest! {
        #[test]
        fn no_probability_is_off_by_more_than_half_a_step(step in 0..STEPS as u8, log_prob in -40.0f64..0.0) {
            let grid = Grid::of(step);
            let exact = log_prob.exp();
            let read = grid.probability(grid.level(exact.sqrt(), log_prob));
            let root_off = (exact.sqrt() - read.sqrt()).abs();
            prop_assert!(root_off <= grid.delta / 2.0 * 1.000_001 || (exact.ln() - read.ln()).abs() <= LOG_STEP / 2.0 * 1.000_001);
            prop_assert!(exact < 1e-20 || (exact.ln() - read.ln()).abs() <= LOG_STEP);
        }

        #[test]
        fn the_divergence_is_within_its_bound(
            log_weights in prop::collection::vec(-20.0f64..0.0, 1..80),
            outside in 0.0f64..0.9,
            kl in prop::sample::select(vec![1e-4, 1e-3, 1e-2]),
        ) {
            let sum: f64 = log_weights.iter().map(|x| x.exp()).sum::<f64>() / (1.0 - outside);
            let log_probs: Vec<f32> = log_weights.iter().map(|x| (x.exp() / sum).ln() as f32).collect();
            let ids: Vec<u32> = (0..log_probs.len() as u32).collect();
            let made = Quantised::of(&ids, &log_probs, false, kl);
            let read: Vec<f64> = made.log_probs().map(f64::from).collect();
            let inside: f64 = read.iter().map(|x| x.exp()).sum();
            let exact: f64 = log_probs.iter().map(|x| f64::from(*x).exp()).sum();
            let rest = (1.0 - exact).max(SMALLEST_REST);
            let found: f64 = log_probs.iter().zip(&read).map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - q)).sum::<f64>()
                + rest * (rest / (1.0 - inside).max(1e-12)).ln();
            prop_assert!(found <= kl + 2e-5, "{found} > {kl}");
        }
    }
}
