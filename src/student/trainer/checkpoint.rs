//! A state on the host, and where it is kept.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use stillhouse_store::{CheckpointFile, CheckpointManifest, Key, Store, StoreError};

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
    /// The optimizer's means.
    pub optimizer: SavedState,
    /// Loss and losses of the last step, by name.
    pub figures: BTreeMap<String, f64>,
}

/// Where checkpoints are kept.
pub trait CheckpointStore {
    /// Whether the state with this key is there.
    fn has(&self, key: &Key) -> Result<bool>;
    /// The state with this key; none if it is not there or damaged.
    fn load(&self, key: &Key) -> Result<Option<Checkpoint>>;
    /// Keeps a state. It is there completely or not at all.
    fn save(&self, key: &Key, checkpoint: &Checkpoint) -> Result<()>;
    /// Forgets a state.
    fn remove(&self, key: &Key) -> Result<()>;
}

/// Checkpoints in the store: one safetensors blob for the weights (the same bytes as the finished model's), one for the
/// optimizer, one manifest written last.
pub struct StoredCheckpoints<'a> {
    store: &'a Store,
}

const WEIGHTS: &str = "weights";
const FIRST: &str = "first-moments";
const SECOND: &str = "second-moments";

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
        let Some(manifest) = self.store.checkpoint(key)? else { return Ok(None) };
        let mut parts = BTreeMap::new();
        for role in [WEIGHTS, FIRST, SECOND] {
            let Some(file) = manifest.files.get(role) else { return Ok(None) };
            let Some(bytes) = self.store.checked_read(&file.digest)? else { return Ok(None) };
            let Some(values) = decode_tensors(&bytes) else { return Ok(None) };
            parts.insert(role, values);
        }
        let mut part = |role| parts.remove(role).unwrap_or_default();
        let weights = part(WEIGHTS);
        let optimizer = SavedState { first: part(FIRST), second: part(SECOND) };
        let figures = serde_json::from_value(manifest.meta).unwrap_or_default();
        Ok(Some(Checkpoint { step: manifest.step, weights, optimizer, figures }))
    }

    fn save(&self, key: &Key, checkpoint: &Checkpoint) -> Result<()> {
        let mut files = BTreeMap::new();
        let parts =
            [(WEIGHTS, &checkpoint.weights), (FIRST, &checkpoint.optimizer.first), (SECOND, &checkpoint.optimizer.second)];
        for (role, values) in parts {
            let bytes = encode_tensors(values)?;
            let digest = self.store.put_bytes(&bytes)?;
            files.insert(role.to_owned(), CheckpointFile { digest, length: bytes.len() as u64 });
        }
        let manifest = CheckpointManifest { step: checkpoint.step, files, meta: serde_json::json!(checkpoint.figures) };
        Ok(self.store.put_checkpoint(key, &manifest)?)
    }

    fn remove(&self, key: &Key) -> Result<()> {
        self.store.remove_checkpoint(key)?;
        Ok(())
    }
}

impl From<StoreError> for StudentError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// f32 tensors of a safetensors file; none if it is not one of ours.
fn decode_tensors(bytes: &[u8]) -> Option<NamedValues> {
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let mut values = NamedValues::new();
    for (name, tensor) in tensors.iter() {
        if tensor.dtype() != safetensors::Dtype::F32 {
            return None;
        }
        let numbers = tensor.data().chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        values.insert(name.to_owned(), Values::new(tensor.shape().to_vec(), numbers.collect()));
    }
    Some(values)
}
