//! Checkpoints in the store: how a state becomes blobs and a manifest, and comes back.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use stillhouse_store::{CheckpointFile, CheckpointManifest, Key, Store, StoreError};

use super::checkpoint::{
    AVERAGE, BEST, Checkpoint, CheckpointStore, FIRST, PROJECTIONS, SECOND, WEIGHTS, passing_for_both,
};
use super::on_policy::Rollout;
use super::validation::History;
use crate::error::{Result, StudentError};
use crate::optimizer::SavedState;
use crate::weights::{NamedValues, Values, encode_tensors};

/// Checkpoints in the store: one safetensors blob for the weights (the same bytes as the finished model's), one for the
/// optimizer, one manifest written last.
pub struct StoredCheckpoints<'a> {
    store: &'a Store,
}

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
    /// A `passing = true` of before, which did not say for whom, is not read: whoever may need such a checkpoint, it stays.
    #[serde(default, rename = "passing-for", skip_serializing_if = "BTreeSet::is_empty")]
    passing_for: BTreeSet<Key>,
}

/// The key of [`Meta`] among the figures; no loss has a name like it.
const META: &str = "_";

impl<'a> StoredCheckpoints<'a> {
    /// The checkpoints of a store.
    pub fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// What was measured up to the state with this key, without its weights; nothing where it is not there.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn measured(&self, key: &Key) -> Result<History> {
        let meta = self.store.checkpoint(key)?.map(|manifest| read_meta(&manifest.meta).0).unwrap_or_default();
        Ok(History { measured: numbers(meta.measured), best: None })
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
        Ok(Some(Checkpoint {
            step: manifest.step,
            weights,
            projections: parts.remove(PROJECTIONS).unwrap_or_default(),
            optimizer: SavedState { first, second },
            average: parts.remove(AVERAGE),
            history: History { measured: numbers(meta.measured), best: parts.remove(BEST) },
            rollouts,
            figures,
            passing_for: meta.passing_for,
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
        let measured = checkpoint.history.measured.iter();
        let measured = measured.map(|(step, value)| (*step, value.is_finite().then_some(*value))).collect();
        write_meta(&mut meta, &Meta { measured, passing_for: checkpoint.passing_for.clone() });
        let manifest = CheckpointManifest { step: checkpoint.step, files, meta };
        Ok(self.store.put_checkpoint_with(key, &manifest, merged)?)
    }

    fn passing(&self, key: &Key, owner: &Key) -> Result<Option<u64>> {
        let Some(manifest) = self.store.checkpoint(key)? else { return Ok(None) };
        let bytes = manifest.files.values().map(|file| file.length).sum();
        Ok(read_meta(&manifest.meta).0.passing_for.contains(owner).then_some(bytes))
    }

    fn remove(&self, key: &Key) -> Result<()> {
        self.store.remove_checkpoint(key)?;
        Ok(())
    }

    fn discard(&self, keys: &[Key], owner: &Key) -> Result<()> {
        self.store.discard_checkpoints(keys, |manifest| {
            let (mut meta, _) = read_meta(&manifest.meta);
            if !meta.passing_for.remove(owner) {
                return false;
            }
            write_meta(&mut manifest.meta, &meta);
            meta.passing_for.is_empty()
        })?;
        Ok(())
    }
}

/// [`Checkpoint::merged_with`] of manifests. What always stays is left as it is: its training may have measured more.
fn merged(there: CheckpointManifest, new: CheckpointManifest) -> CheckpointManifest {
    let (old, (mut meta, _)) = (read_meta(&there.meta).0, read_meta(&new.meta));
    if old.passing_for.is_empty() && !meta.passing_for.is_empty() {
        return there;
    }
    meta.passing_for = passing_for_both(&old.passing_for, &meta.passing_for);
    let mut merged = new;
    write_meta(&mut merged.meta, &meta);
    merged
}

impl From<StoreError> for StudentError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// JSON has no NaN: a measurement that was no number is written as null.
fn numbers(measured: Vec<(u64, Option<f64>)>) -> Vec<(u64, f64)> {
    measured.into_iter().map(|(step, value)| (step, value.unwrap_or(f64::NAN))).collect()
}

/// What a manifest holds beside its files.
fn read_meta(meta: &serde_json::Value) -> (Meta, BTreeMap<String, f64>) {
    let rest = meta.get(META).and_then(|rest| serde_json::from_value(rest.clone()).ok());
    let numbers = meta.as_object().into_iter().flatten();
    let figures = numbers.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect();
    (rest.unwrap_or_default(), figures)
}

/// Puts beside the figures what else there is to say.
fn write_meta(meta: &mut serde_json::Value, rest: &Meta) {
    let Some(members) = meta.as_object_mut() else { return };
    members.remove(META);
    if !rest.measured.is_empty() || !rest.passing_for.is_empty() {
        members.insert(META.into(), serde_json::json!(rest));
    }
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
            passing_for: [key(100)].into(),
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
        checkpoints.save(&key(2), &Checkpoint { passing_for: BTreeSet::new(), ..checkpoint(2, 0) }).unwrap();
        let (bytes, blobs) = stored(&store);
        checkpoints.discard(&[key(1), key(2), key(3)], &key(100)).unwrap();
        assert_eq!(stored(&store), (bytes / 2, blobs / 2));
        assert!(!checkpoints.has(&key(1)).unwrap() && checkpoints.load(&key(2)).unwrap().is_some());
    }

    #[test]
    fn a_state_that_is_passing_for_two_goes_with_the_second_and_what_always_stays_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let checkpoints = StoredCheckpoints::new(&store);
        let (short, long) = (key(100), key(200));
        let passing = |owner: Key| Checkpoint { passing_for: [owner].into(), ..checkpoint(1, 0) };
        let there = || checkpoints.load(&key(1)).unwrap().map(|found| found.passing_for.len());
        checkpoints.save(&key(1), &passing(short)).unwrap();
        checkpoints.save(&key(1), &passing(long)).unwrap();
        checkpoints.discard(&[key(1)], &key(300)).unwrap();
        assert_eq!(there(), Some(2));
        checkpoints.discard(&[key(1)], &long).unwrap();
        assert_eq!(there(), Some(1));
        assert!(checkpoints.passing(&key(1), &short).unwrap().is_some());
        assert!(checkpoints.passing(&key(1), &long).unwrap().is_none());
        checkpoints.discard(&[key(1)], &long).unwrap();
        checkpoints.discard(&[key(1)], &short).unwrap();
        assert_eq!(there(), None);

        let last = Checkpoint {
            history: History { measured: vec![(1, 0.5)], best: None },
            passing_for: BTreeSet::new(),
            ..checkpoint(1, 0)
        };
        checkpoints.save(&key(1), &passing(long)).unwrap();
        checkpoints.save(&key(1), &last).unwrap();
        checkpoints.save(&key(1), &passing(long)).unwrap();
        checkpoints.discard(&[key(1)], &long).unwrap();
        assert!(checkpoints.load(&key(1)).unwrap() == Some(last));
    }

    #[test]
    fn a_passing_checkpoint_that_does_not_say_for_whom_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let checkpoints = StoredCheckpoints::new(&store);
        checkpoints.save(&key(1), &checkpoint(1, 0)).unwrap();
        let mut manifest = store.checkpoint(&key(1)).unwrap().unwrap();
        manifest.meta[META] = serde_json::json!({ "passing": true });
        store.put_checkpoint(&key(1), &manifest).unwrap();
        checkpoints.discard(&[key(1)], &key(100)).unwrap();
        let found = checkpoints.load(&key(1)).unwrap().unwrap();
        assert!(found.passing_for.is_empty());
    }
}
