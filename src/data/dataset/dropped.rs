//! The list of rows that were left out.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DataResult;
use crate::example::Row;
use crate::jsonl::JsonlWriter;

/// The artifact's list of rows that were left out.
pub const DROPPED_FILE: &str = "dropped.jsonl";

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedRow {
    /// Index into the dataset's list of sources.
    pub source: u32,
    /// Where in its source it was, as in [`Row::line`].
    pub line: u64,
    /// The reason: the name of a filter, or of a rule of the stage.
    pub why: String,
    /// The id of the prompt that it answers; rows of plain text have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Which sample of that prompt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sample: u32,
    /// What is to be said beyond the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl DroppedRow {
    pub(super) fn new(row: &Row, why: &str, detail: Option<String>) -> Self {
        let Row { source, line, prompt, sample, .. } = row;
        Self { source: *source, line: *line, why: why.to_owned(), prompt: prompt.clone(), sample: *sample, detail }
    }
}

/// The list while it is written, with the count of every reason.
pub(super) struct Dropped {
    list: JsonlWriter<DroppedRow>,
    /// Reason → rows.
    pub(super) counts: BTreeMap<String, u64>,
}

impl Dropped {
    /// Begins the list; `reasons` are counted even where no row has them.
    pub(super) fn create<'a>(out: &Path, reasons: impl Iterator<Item = &'a str>) -> DataResult<Self> {
        let list = JsonlWriter::create(&out.join(DROPPED_FILE))?;
        Ok(Self { list, counts: reasons.map(|reason| (reason.to_owned(), 0)).collect() })
    }

    pub(super) fn add(&mut self, row: DroppedRow) -> DataResult<()> {
        *self.counts.entry(row.why.clone()).or_default() += 1;
        self.list.write(&row)
    }

    pub(super) fn finish(self) -> DataResult<BTreeMap<String, u64>> {
        self.list.finish()?;
        Ok(self.counts)
    }
}
