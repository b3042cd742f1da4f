//! How much is in a store.

use serde::Serialize;

use crate::error::StoreError;
use crate::index::list;
use crate::layout::AREAS;
use crate::store::Store;

/// What one folder of the store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AreaStats {
    /// The folder.
    pub name: &'static str,
    /// Plain files in it, at any depth.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a store holds, area by area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// One entry for each folder, in the order of the crate's picture.
    pub areas: Vec<AreaStats>,
}

impl Stats {
    /// Files in the whole store.
    pub fn files(&self) -> u64 {
        self.areas.iter().map(|area| area.files).sum()
    }

    /// Bytes in the whole store. A file that is linked into an attempt counts twice.
    pub fn bytes(&self) -> u64 {
        self.areas.iter().map(|area| area.bytes).sum()
    }
}

impl Store {
    /// Counts files and bytes in each area.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        let area = |name: &&'static str| {
            let mut stats = AreaStats { name, files: 0, bytes: 0 };
            count(&self.layout().area(name), &mut stats)?;
            Ok(stats)
        };
        Ok(Stats { areas: AREAS.iter().map(area).collect::<Result<_, StoreError>>()? })
    }
}

/// Files that vanish while they are counted are not counted.
fn count(folder: &std::path::Path, stats: &mut AreaStats) -> Result<(), StoreError> {
    for entry in list(folder)? {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => count(&entry.path(), stats)?,
            Ok(meta) if meta.is_file() => {
                stats.files += 1;
                stats.bytes += meta.len();
            }
            _ => {}
        }
    }
    Ok(())
}
