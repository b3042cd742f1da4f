//! Which tokens of a whole distribution are kept.

use super::{SequenceKey, TopK, draw};

/// What is kept of every position's distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Selection {
    /// All of it.
    Whole,
    /// The k most likely tokens.
    MostLikely(usize),
    /// The least number of most likely tokens that hold a mass, see [`top_p`].
    TopP {
        /// The mass.
        mass: f64,
        /// Least and greatest number of tokens.
        bounds: [usize; 2],
    },
    /// The shares of tokens among draws, see [`draw`].
    Drawn {
        /// Number of draws.
        samples: u32,
        /// Seed of the drawing.
        seed: u64,
    },
}

impl Selection {
    /// What is kept of a whole distribution, that of a position of a sequence.
    pub fn of(&self, log_probs: &[f32], key: &SequenceKey, position: u32, order: &mut Vec<u32>) -> TopK {
        match *self {
            Self::Whole => TopK { ids: Vec::new(), log_probs: log_probs.to_vec() },
            Self::MostLikely(k) => most_likely(log_probs, k, order),
            Self::TopP { mass, bounds } => top_p(log_probs, mass, bounds, order),
            Self::Drawn { samples, seed } => draw(log_probs, samples, seed, key, position).unwrap_or_default(),
        }
    }

    /// What is kept of a position that was kept before; `None` where it can't be had of that.
    pub fn of_kept(&self, kept: &TopK, key: &SequenceKey, position: u32, order: &mut Vec<u32>) -> Option<TopK> {
        if kept.ids.is_empty() && !kept.log_probs.is_empty() {
            return Some(self.of(&kept.log_probs, key, position, order));
        }
        match *self {
            Self::Whole => Some(kept.clone()),
            Self::MostLikely(k) => {
                let mut kept = kept.clone();
                kept.ids.truncate(k);
                kept.log_probs.truncate(k);
                Some(kept)
            }
            Self::TopP { mass, bounds: [min, max] } => {
                let mut kept = Self::MostLikely(max).of_kept(kept, key, position, order)?;
                shorten(&mut kept, mass, min);
                Some(kept)
            }
            Self::Drawn { .. } => None,
        }
    }

    /// Tokens a position, at most.
    pub fn width(&self, vocabulary: usize) -> usize {
        match *self {
            Self::Whole => vocabulary,
            Self::MostLikely(k) => k.min(vocabulary),
            Self::TopP { bounds: [_, max], .. } => max.min(vocabulary),
            Self::Drawn { samples, .. } => (samples as usize).min(vocabulary),
        }
    }
}

/// The k most likely tokens, most likely first, the lower id first among equals. `order` is a buffer that is used again.
pub fn most_likely(log_probs: &[f32], k: usize, order: &mut Vec<u32>) -> TopK {
    let by = |a: &u32, b: &u32| log_probs[*b as usize].total_cmp(&log_probs[*a as usize]).then(a.cmp(b));
    order.clear();
    order.extend(0..u32::try_from(log_probs.len()).unwrap_or(u32::MAX));
    if k < order.len() {
        order.select_nth_unstable_by(k, by);
        order.truncate(k);
    }
    order.sort_unstable_by(by);
    TopK { ids: order.clone(), log_probs: order.iter().map(|id| log_probs[*id as usize]).collect() }
}

/// The least number of most likely tokens that hold `mass` of the probability, but between `min` and `max` of them.
pub fn top_p(log_probs: &[f32], mass: f64, [min, max]: [usize; 2], order: &mut Vec<u32>) -> TopK {
    let mut kept = most_likely(log_probs, max, order);
    shorten(&mut kept, mass, min);
    kept
}

/// Cuts a list of most likely tokens to the least number, at least `min`, that holds `mass`.
fn shorten(kept: &mut TopK, mass: f64, min: usize) {
    let mut held = 0.0;
    let enough = kept.log_probs.iter().position(|log_prob| {
        held += f64::from(*log_prob).exp();
        held >= mass
    });
    let length = enough.map_or(kept.ids.len(), |place| place + 1).max(min).min(kept.ids.len());
    kept.ids.truncate(length);
    kept.log_probs.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_come_first_and_ties_go_to_the_lower_id() {
        let mut order = Vec::new();
        let top = most_likely(&[-3.0, -1.0, -2.0, -1.0, -9.0], 3, &mut order);
        assert_eq!(top, TopK { ids: vec![1, 3, 2], log_probs: vec![-1.0, -1.0, -2.0] });
        assert_eq!(most_likely(&[-1.0, -0.5], 7, &mut order).ids, [1, 0]);
    }

    #[test]
    fn as_many_tokens_as_hold_the_mass() {
        let log_probs: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        let kept = |mass, bounds| top_p(&log_probs, mass, bounds, &mut Vec::new()).ids.len();
        assert_eq!([kept(0.4, [1, 4]), kept(0.7, [1, 4]), kept(0.9, [1, 4]), kept(1.1, [1, 4])], [1, 2, 3, 4]);
        assert_eq!([kept(0.4, [3, 4]), kept(0.9, [1, 2])], [3, 2]);
    }
}
