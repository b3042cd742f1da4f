//! A state on the host, and what a place that keeps such states has to do.

use std::collections::{BTreeMap, BTreeSet};

use stillhouse_store::Key;

use super::on_policy::Rollout;
use super::validation::History;
use crate::error::Result;
use crate::optimizer::SavedState;
use crate::weights::{NamedValues, Values};

// Roles of a checkpoint's files of tensors.
pub(super) const WEIGHTS: &str = "weights";
pub(super) const PROJECTIONS: &str = "projections";
pub(super) const FIRST: &str = "first-moments";
pub(super) const SECOND: &str = "second-moments";
pub(super) const AVERAGE: &str = "average";
pub(super) const BEST: &str = "best";

/// All that a training goes on from.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Steps taken.
    pub step: u64,
    /// Weights by name.
    pub weights: NamedValues,
    /// Learned maps between hidden states, which are no part of the model; none where no loss compares those.
    pub projections: NamedValues,
    /// The optimizer's means.
    pub optimizer: SavedState,
    /// Moving average of the weights, where there is one.
    pub average: Option<NamedValues>,
    /// What was measured on held-out data, with the best weights so far.
    pub history: History,
    /// What the student wrote on the way, where it does.
    pub rollouts: Vec<Rollout>,
    /// Loss and losses of the last step, by name.
    pub figures: BTreeMap<String, f64>,
    /// The trainings that need it only in case they are interrupted, by the keys of their last states. None: it always stays.
    pub passing_for: BTreeSet<Key>,
}

impl Checkpoint {
    /// How much it takes, up to the files' heads.
    pub fn bytes(&self) -> u64 {
        self.parts().iter().flat_map(|(_, values)| values.values()).map(|values| 4 * values.data.len() as u64).sum()
    }

    /// What is kept when this is saved where `there` is already: a state that always stays for one training always stays, and
    /// one that is passing for several goes with the last of them.
    #[must_use]
    pub fn merged_with(self, there: &Self) -> Self {
        match there.passing_for.is_empty() {
            true => Self { passing_for: BTreeSet::new(), ..self },
            false => Self { passing_for: passing_for_both(&there.passing_for, &self.passing_for), ..self },
        }
    }

    /// A weight with a value that is no number.
    pub(super) fn not_finite(&self) -> Option<&str> {
        let broken = |values: &Values| values.data.iter().any(|value| !value.is_finite());
        self.weights.iter().chain(&self.projections).find(|(_, values)| broken(values)).map(|(name, _)| name.as_str())
    }

    /// Its files by role; those that are not always there come last.
    pub(super) fn parts(&self) -> Vec<(&'static str, &NamedValues)> {
        let always = [(WEIGHTS, &self.weights), (FIRST, &self.optimizer.first), (SECOND, &self.optimizer.second)];
        let average = self.average.iter().map(|values| (AVERAGE, values));
        let projections = Some((PROJECTIONS, &self.projections)).filter(|(_, values)| !values.is_empty());
        let best = self.history.best.iter().map(|values| (BEST, values));
        always.into_iter().chain(projections).chain(average).chain(best).collect()
    }
}

/// Where checkpoints are kept.
pub trait CheckpointStore {
    /// Whether the state with this key is there.
    fn has(&self, key: &Key) -> Result<bool>;
    /// The state with this key; none if it is not there or damaged.
    fn load(&self, key: &Key) -> Result<Option<Checkpoint>>;
    /// Keeps a state, [merged](Checkpoint::merged_with) with what is there. It is there completely or not at all.
    fn save(&self, key: &Key, checkpoint: &Checkpoint) -> Result<()>;
    /// The size in bytes of a state that is there and passing for the training with this last state; none of any other.
    fn passing(&self, key: &Key, owner: &Key) -> Result<Option<u64>>;
    /// Forgets a state, whoever needs it: a damaged one.
    fn remove(&self, key: &Key) -> Result<()>;
    /// `owner` no longer needs these states. Those that were passing for it and are for nobody else go, with all that only
    /// they held; every other state stays.
    fn discard(&self, keys: &[Key], owner: &Key) -> Result<()>;
}

/// For whom a state is passing that two have saved.
pub(super) fn passing_for_both(there: &BTreeSet<Key>, new: &BTreeSet<Key>) -> BTreeSet<Key> {
    match there.is_empty() || new.is_empty() {
        true => BTreeSet::new(),
        false => there | new,
    }
}
