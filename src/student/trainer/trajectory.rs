//! Keys of all states a training will pass, computed before the first step.
//!
//! ```text
//! T₀ = blake3("stillhouse/trajectory/1\0" ‖ description)
//! Tₙ = blake3("stillhouse/step/1\0" ‖ Tₙ₋₁ ‖ bits of the learning rate ‖ bits of each loss weight ‖ digest of the batch)
//! ```
//!
//! Bits are of f64, little-endian; the description is canonical JSON of everything else that the weights depend on.

use stillhouse_store::Key;

/// What a step uses beyond the description.
#[derive(Debug, Clone, PartialEq)]
pub struct StepIdentity {
    /// Learning rate.
    pub lr: f64,
    /// Weight of each loss, in the order of their names.
    pub weights: Vec<f64>,
    /// Digest of the batch.
    pub batch: [u8; 32],
}

/// `keys[n]` stands for the state after n steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trajectory {
    keys: Vec<Key>,
}

impl Trajectory {
    /// The chain from a description (canonical JSON) and its steps.
    ///
    /// # Errors
    /// The first error of the steps.
    pub fn new<E>(description: &str, steps: impl IntoIterator<Item = Result<StepIdentity, E>>) -> Result<Self, E> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/trajectory/1\0");
        hasher.update(description.as_bytes());
        let mut state = *hasher.finalize().as_bytes();
        let mut keys = vec![Key::from_bytes(state)];
        for step in steps {
            let StepIdentity { lr, weights, batch } = step?;
            let mut hasher = blake3::Hasher::new();
            hasher.update(b"stillhouse/step/1\0");
            hasher.update(&state);
            hasher.update(&lr.to_bits().to_le_bytes());
            for weight in weights {
                hasher.update(&weight.to_bits().to_le_bytes());
            }
            hasher.update(&batch);
            state = *hasher.finalize().as_bytes();
            keys.push(Key::from_bytes(state));
        }
        Ok(Self { keys })
    }

    /// The key of the state after `step` steps.
    pub fn key(&self, step: u64) -> Option<&Key> {
        self.keys.get(usize::try_from(step).ok()?)
    }

    /// The key of the last state, by which trainings of one trajectory are told apart.
    pub fn last(&self) -> Key {
        // There is one before the first step at least.
        self.keys[self.keys.len() - 1]
    }

    /// The most steps, up to `limit`, for which `is_stored` holds; 0 if there are none.
    ///
    /// # Errors
    /// The first error of `is_stored`.
    pub fn longest_prefix_up_to<E>(
        &self,
        limit: u64,
        mut is_stored: impl FnMut(&Key) -> Result<bool, E>,
    ) -> Result<u64, E> {
        for step in (1..=limit).rev() {
            if let Some(key) = self.key(step)
                && is_stored(key)?
            {
                return Ok(step);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(description: &str, lrs: &[f64]) -> Trajectory {
        let step = |lr: &f64| Ok::<_, ()>(StepIdentity { lr: *lr, weights: vec![0.5, 0.5], batch: [7; 32] });
        Trajectory::new(description, lrs.iter().map(step)).unwrap()
    }

    #[test]
    fn a_longer_training_begins_with_the_shorter_ones_keys() {
        let (short, long) = (chain("{}", &[1e-3, 1e-3]), chain("{}", &[1e-3, 1e-3, 1e-3]));
        assert_eq!(short.keys, long.keys[..3]);
        let stored = short.key(2).unwrap();
        assert_eq!(long.longest_prefix_up_to(3, |key| Ok::<_, ()>(key == stored)), Ok(2));
        assert_eq!(long.longest_prefix_up_to(1, |key| Ok::<_, ()>(key == stored)), Ok(0));
    }

    #[test]
    fn every_difference_moves_the_keys_from_there_on() {
        let (base, later, other) =
            (chain("{}", &[1.0, 2.0]), chain("{}", &[1.0, 3.0]), chain("{\"seed\":1}", &[1.0, 2.0]));
        assert_eq!(base.keys[..2], later.keys[..2]);
        assert_ne!(base.keys[2], later.keys[2]);
        assert!(base.keys.iter().zip(&other.keys).all(|(left, right)| left != right));
    }

    #[test]
    fn the_keys_of_a_known_chain_never_change() {
        let key = chain("{}", &[1e-3]).key(1).unwrap().to_string();
        assert_eq!(key, "b662fed58267a7c9bc3b6c510d2fcd7b04f925a13180ee5d77dc102671ec3132");
    }
}
