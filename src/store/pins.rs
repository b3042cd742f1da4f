//! Pins: named results that garbage collection keeps.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Key};
use crate::durable;
use crate::error::StoreError;
use crate::index::list;
use crate::layout::check_name;
use crate::store::Store;

/// What a pin keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinTarget {
    /// A key's record with its whole output.
    Record(Key),
    /// A blob; with all its files if it is a tree.
    Output(Digest),
}

impl Store {
    /// Keeps `target` until [`Store::unpin`]. An earlier pin of that name is replaced.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the target is not in the store.
    pub fn pin(&self, name: &str, target: PinTarget) -> Result<(), StoreError> {
        check_name("pin", name)?;
        let _shared = self.lock_for_publishing()?;
        let there = match &target {
            PinTarget::Record(key) => self.record(key)?.is_some(),
            PinTarget::Output(digest) => self.has(digest),
        };
        if !there {
            let reason = match target {
                PinTarget::Record(key) => format!("there is no whole record of {}", key.short()),
                PinTarget::Output(digest) => format!("there is no output {}", digest.short()),
            };
            return Err(StoreError::NotFound { reason });
        }
        let path = self.layout().area("pins").join(name);
        let text = serde_json::to_string(&target)
            .map_err(|error| StoreError::Invalid { what: "a pin", reason: error.to_string() })?;
        let file = durable::temporary_with(&self.layout().tmp(), 0o644, (text + "\n").as_bytes(), &path)?;
        durable::name_replacing(file, &path)
    }

    /// Removes a pin. `false` if there was none.
    pub fn unpin(&self, name: &str) -> Result<bool, StoreError> {
        check_name("pin", name)?;
        let path = self.layout().area("pins").join(name);
        match fs_err::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", &path)(error)),
        }
    }

    /// All pins by name.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a pin that cannot be read: what it kept is unknown, so nothing may
    /// be collected until it is removed.
    pub fn pins(&self) -> Result<BTreeMap<String, PinTarget>, StoreError> {
        let mut pins = BTreeMap::new();
        for entry in list(&self.layout().area("pins"))? {
            let path = entry.path();
            let bytes = fs_err::read(&path).map_err(StoreError::io("read", &path))?;
            let target = serde_json::from_slice(&bytes)
                .map_err(|error| StoreError::Corrupt { path, reason: error.to_string() })?;
            pins.insert(entry.file_name().to_string_lossy().into_owned(), target);
        }
        Ok(pins)
    }
}
