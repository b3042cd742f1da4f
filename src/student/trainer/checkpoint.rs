//! A state on the host, and where it is kept.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use stillhouse_store::{CheckpointFile, CheckpointManifest, Key, Store, StoreError};

use super::on_policy::Rollout;
use super::validation::History;
use crate::error::{Result, StudentError};
use crate::optimizer::SavedState;
use crate::weights::{NamedValues, Values, encode_tensors};

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
    /// Only the training that made it needs it, in case it is interrupted.
    pub passing: bool,
}

impl Checkpoint {
    /// How much it takes, up to the files' heads.
    pub fn bytes(&self) -> u64 {
        self.parts().iter().flat_map(|(_, values)| values.values()).map(|values| 4 * values.data.len() as u64).sum()
    }

    /// A weight with a value that is no number.
    pub(super) fn not_finite(&self) -> Option<&str> {
        let broken = |values: &Values| values.data.iter().any(|value| !value.is_finite());
        self.weights.iter().chain(&self.projections).find(|(_, values)| broken(values)).map(|(name, _)| name.as_str())
    }

    /// Its files by role; those that are not always there come last.
    fn parts(&self) -> Vec<(&'static str, &NamedValues)> {
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
    /// Keeps a state. It is there completely or not at all.
    fn save(&self, key: &Key, checkpoint: &Checkpoint) -> Result<()>;
    /// The size in bytes of a state that is there and was saved as [`Checkpoint::passing`]; none of any other.
    fn passing(&self, key: &Key) -> Result<Option<u64>>;
    /// Forgets a state.
    fn remove(&self, key: &Key) -> Result<()>;
    /// Forgets a state if it was saved as [`Checkpoint::passing`], with all that only it held.
    fn discard(&self, key: &Key) -> Result<()> {
        match self.passing(key)? {
            Some(_) => self.remove(key),
            None => Ok(()),
        }
    }
}

/// Checkpoints in the store: one safetensors blob for the weights (the same bytes as the finished model's), one for the
/// optimizer, one manifest written last.
pub struct StoredCheckpoints<'a> {
    store: &'a Store,
}

const WEIGHTS: &str = "weights";
const PROJECTIONS: &str = "projections";
const FIRST: &str = "first-moments";
const SECOND: &str = "second-moments";
const AVERAGE: &str = "average";
const BEST: &str = "best";
/// JSON, one rollout a line; every other file holds tensors. A number in hexadecimal follows, and the files are read in the
/// order of their names.
const ROLLOUTS: &str = "rollouts";
/// Rollouts of a file. Later checkpoints begin with the same ones, so every full file is one blob for all of them, and
/// what a training stores grows with its steps, not with steps times checkpoints.
const ROLLOUTS_A_FILE: usize = 256;

/// What a manifest's `meta` holds beside the figures, which stand in it by their names.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Meta {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    measured: Vec<(u64, Option<f64>)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    passing: bool,
}

/// The key of [`Meta`] among the figures; no loss has a name like it.
const META: &str = "_";

impl<'a> StoredCheckpoints<'a> {
    /// The checkpoints of a store.
    pub fn new(store: &'a Store) -> Self {
        Self { store }
    }
}

impl CheckpointStore for StoredCheckpoints<'_> {
    fn has(&self, key: &Key) -> Result<bool> {
        Ok(self.store.has_checkpoint(key)?)
    }

    fn load(&self, key: &Key) -> Result<Option<Checkpoint>> {
        // Another training may forget it meanwhile.
        let _held = self.store.hold_blobs()?;
        let Some(manifest) = self.store.checkpoint(key)? else { return Ok(None) };
        let (mut parts, mut rollouts) = (BTreeMap::new(), Vec::new());
        for (role, file) in &manifest.files {
            let Some(bytes) = self.store.checked_read(&file.digest)? else { return Ok(None) };
            if role.starts_with(ROLLOUTS) {
                let Some(lines) = decode_rollouts(&bytes) else { return Ok(None) };
                rollouts.extend(lines);
                continue;
            }
            let Some(values) = decode_tensors(&bytes) else { return Ok(None) };
            parts.insert(role.as_str(), values);
        }
        let (meta, figures) = read_meta(&manifest.meta);
        let (Some(weights), Some(first), Some(second)) =
            (parts.remove(WEIGHTS), parts.remove(FIRST), parts.remove(SECOND))
        else {
            return Ok(None);
        };
        // JSON has no NaN: a measurement that was no number is written as null.
        let measured = meta.measured.iter().map(|(step, value)| (*step, value.unwrap_or(f64::NAN))).collect();
        Ok(Some(Checkpoint {
            step: manifest.step,
            weights,
            projections: parts.remove(PROJECTIONS).unwrap_or_default(),
            optimizer: SavedState { first, second },
            average: parts.remove(AVERAGE),
            history: History { measured, best: parts.remove(BEST) },
            rollouts,
            figures,
            passing: meta.passing,
        }))
    }

    fn save(&self, key: &Key, checkpoint: &Checkpoint) -> Result<()> {
        let _held = self.store.hold_blobs()?;
        let mut files = BTreeMap::new();
        for (role, values) in checkpoint.parts() {
            let bytes = encode_tensors(values)?;
            let digest = self.store.put_bytes(&bytes)?;
            files.insert(role.to_owned(), CheckpointFile { digest, length: bytes.len() as u64 });
        }
        for (number, rollouts) in checkpoint.rollouts.chunks(ROLLOUTS_A_FILE).enumerate() {
            let bytes = encode_rollouts(rollouts);
            let digest = self.store.put_bytes(&bytes)?;
            files.insert(format!("{ROLLOUTS}-{number:08x}"), CheckpointFile { digest, length: bytes.len() as u64 });
        }
        let mut meta = serde_json::json!(checkpoint.figures);
        let Checkpoint { history, passing, .. } = checkpoint;
        if let Some(members) = meta.as_object_mut().filter(|_| *passing || !history.measured.is_empty()) {
            let measured = history.measured.iter().map(|(step, value)| (*step, value.is_finite().then_some(*value)));
            let rest = Meta { measured: measured.collect(), passing: *passing };
            members.insert(META.into(), serde_json::json!(rest));
        }
        let manifest = CheckpointManifest { step: checkpoint.step, files, meta };
        Ok(self.store.put_checkpoint(key, &manifest)?)
    }

    fn passing(&self, key: &Key) -> Result<Option<u64>> {
        let Some(manifest) = self.store.checkpoint(key)? else { return Ok(None) };
        let bytes = manifest.files.values().map(|file| file.length).sum();
        Ok(read_meta(&manifest.meta).0.passing.then_some(bytes))
    }

    fn remove(&self, key: &Key) -> Result<()> {
        self.store.remove_checkpoint(key)?;
        Ok(())
    }

    fn discard(&self, key: &Key) -> Result<()> {
        self.store.discard_checkpoint(key, |manifest| read_meta(&manifest.meta).0.passing)?;
        Ok(())
    }
}

impl From<StoreError> for StudentError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// What a manifest holds beside its files.
fn read_meta(meta: &serde_json::Value) -> (Meta, BTreeMap<String, f64>) {
    let rest = meta.get(META).and_then(|rest| serde_json::from_value(rest.clone()).ok());
    let numbers = meta.as_object().into_iter().flatten();
    let figures = numbers.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect();
    (rest.unwrap_or_default(), figures)
}

fn encode_rollouts(rollouts: &[Rollout]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for rollout in rollouts {
        bytes.extend(serde_json::json!(rollout).to_string().into_bytes());
        bytes.push(b'\n');
    }
    bytes
}

fn decode_rollouts(bytes: &[u8]) -> Option<Vec<Rollout>> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).ok()).collect()
}

/// f32 tensors of a safetensors file; none if it is not one of ours.
fn decode_tensors(bytes: &[u8]) -> Option<NamedValues> {
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let mut values = NamedValues::new();
    for (name, tensor) in tensors.iter() {
        if tensor.dtype() != safetensors::Dtype::F32 {
            return None;
        }
        let numbers =
            tensor.data().chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        values.insert(name.to_owned(), Values::new(tensor.shape().to_vec(), numbers.collect()));
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64, rollouts: usize) -> Checkpoint {
        let rollout = |number: usize| Rollout {
            step: number as u64 / 4 + 1,
            example: number,
            prompt: vec![1; 20],
            completion: (0..30).map(|place| (place * number) as u32 % 1000).collect(),
            finish: "stop".into(),
        };
        let values = |first: f32| {
            NamedValues::from_iter([("w".to_owned(), Values::new(vec![2, 100], vec![first + step as f32; 200]))])
        };
        Checkpoint {
            projections: NamedValues::default(),
            step,
            weights: values(0.5),
            optimizer: SavedState { first: values(0.25), second: values(0.125) },
            average: None,
            history: History::default(),
            rollouts: (0..rollouts).map(rollout).collect(),
            figures: BTreeMap::new(),
            passing: true,
        }
    }

    fn key(step: u64) -> Key {
        Key::of("test", &step.to_le_bytes())
    }

    /// Bytes of all blobs, and how many there are.
    fn stored(store: &Store) -> (u64, u64) {
        let report = store.gc(&stillhouse_store::GcOptions { dry_run: true, ..Default::default() }).unwrap();
        assert_eq!(report.blobs, 0, "nothing is old enough to go");
        (report.kept_bytes, report.kept_blobs)
    }

    #[test]
    fn rollouts_are_stored_once_however_many_checkpoints_hold_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let checkpoints = StoredCheckpoints::new(&store);
        let written = |count: usize| encode_rollouts(&checkpoint(1, count).rollouts).len() as u64;
        let tensors = 3 * encode_tensors(&checkpoint(1, 0).weights).unwrap().len() as u64;
        let (count, every) = (20 * ROLLOUTS_A_FILE, 2 * ROLLOUTS_A_FILE + 3);
        let mut saved = 0;
        for rollouts in (every..=count).step_by(every) {
            saved += 1;
            checkpoints.save(&key(saved), &checkpoint(saved, rollouts)).unwrap();
        }
        // What every checkpoint adds to the texts is no more than the last, unfilled file.
        let most = written(count) + saved * (tensors + 2 * written(ROLLOUTS_A_FILE));
        let (bytes, _) = stored(&store);
        assert!(bytes <= most, "{bytes} of at most {most}");
        let whole: u64 = (1..=saved).map(|number| written(number as usize * every)).sum();
        assert!(bytes * 3 < whole, "{bytes} of {whole}");
        let last = checkpoints.load(&key(saved)).unwrap().unwrap();
        assert!(last == checkpoint(saved, saved as usize * every), "in the order in which they were written");
    }

    #[test]
    fn rollouts_of_a_checkpoint_that_holds_them_in_one_file_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let checkpoints = StoredCheckpoints::new(&store);
        let whole = checkpoint(1, 5);
        checkpoints.save(&key(1), &whole).unwrap();
        let mut manifest = store.checkpoint(&key(1)).unwrap().unwrap();
        let file = manifest.files.remove("rollouts-00000000").unwrap();
        manifest.files.insert("rollouts".into(), file);
        store.put_checkpoint(&key(1), &manifest).unwrap();
        assert!(checkpoints.load(&key(1)).unwrap() == Some(whole));
    }

    #[test]
    fn a_passing_checkpoint_takes_its_blobs_with_it_and_any_other_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let checkpoints = StoredCheckpoints::new(&store);
        checkpoints.save(&key(1), &checkpoint(1, 0)).unwrap();
        checkpoints.save(&key(2), &Checkpoint { passing: false, ..checkpoint(2, 0) }).unwrap();
        let (bytes, blobs) = stored(&store);
        for step in [1, 2, 3] {
            checkpoints.discard(&key(step)).unwrap();
        }
        assert_eq!(stored(&store), (bytes / 2, blobs / 2));
        assert!(!checkpoints.has(&key(1)).unwrap() && checkpoints.load(&key(2)).unwrap().is_some());
    }
}
