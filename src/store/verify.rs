//! Verifying: every blob is read again and compared with its name.

use rayon::prelude::*;
use serde::Serialize;

use crate::digest::{Digest, Key};
use crate::error::StoreError;
use crate::index::list;
use crate::record::Lookup;
use crate::store::Store;

/// A record that is no proof any more. The next run makes its output again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokenRecord {
    /// The record's key.
    pub key: Key,
    /// What is gone or damaged.
    pub reason: String,
}

/// What verifying found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Blobs read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that no longer matched their name; now in `quarantine/`.
    pub corrupt: Vec<Digest>,
    /// Records looked up.
    pub records: u64,
    /// Those whose output is not whole, also because of the blobs above.
    pub broken: Vec<BrokenRecord>,
}

impl VerifyReport {
    /// Whether nothing was wrong.
    pub fn is_sound(&self) -> bool {
        self.corrupt.is_empty() && self.broken.is_empty()
    }
}

impl Store {
    /// Re-hashes all blobs on all cores, sets damaged ones aside, then looks every record up and
    /// makes the index of records anew.
    ///
    /// # Errors
    /// A disk that cannot be read, or a damaged blob in a store that may not be written.
    pub fn verify(&self) -> Result<VerifyReport, StoreError> {
        let mut report = VerifyReport::default();
        let digests = self.stored_digests()?;
        let checked: Vec<(Digest, u64, bool)> = digests
            .into_par_iter()
            .map(|digest| {
                let length = self.blob_length(&digest);
                let sound = self.check_blob(&digest)?;
                // Collected between the listing and the look: neither read nor damaged.
                Ok(length.map(|length| (digest, length, sound)))
            })
            .filter_map(Result::transpose)
            .collect::<Result<_, StoreError>>()?;
        for (digest, length, sound) in checked {
            report.blobs += 1;
            report.bytes += length;
            if !sound {
                report.corrupt.push(digest);
            }
        }
        for key in self.recorded_keys()? {
            report.records += 1;
            if let Lookup::Broken { reason } = self.lookup(&key)? {
                report.broken.push(BrokenRecord { key, reason });
            }
        }
        let _alone = self.lock_for_removing()?;
        self.rebuild_index()?;
        Ok(report)
    }

    /// The digests of all blob files, sorted. Files with other names are not blobs.
    pub(crate) fn stored_digests(&self) -> Result<Vec<Digest>, StoreError> {
        let mut digests = Vec::new();
        for folder in list(&self.layout().area("blobs"))? {
            if !folder.path().is_dir() {
                continue;
            }
            for entry in list(&folder.path())? {
                let (folder, rest) = (folder.file_name(), entry.file_name());
                let hex = folder.to_str().zip(rest.to_str()).map(|(a, b)| format!("{a}{b}"));
                digests.extend(hex.and_then(|hex| hex.parse::<Digest>().ok()));
            }
        }
        digests.sort();
        Ok(digests)
    }
}
