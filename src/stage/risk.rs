//! What a stage was doing when memory ran out: a process that is ended for it can say nothing afterwards.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// What a stage is about to do that may take more memory than there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AtRisk {
    /// In words that follow "out of memory": "with 4 rows of 128 positions at once".
    pub doing: String,
    /// What takes less.
    pub hint: String,
    /// Whether a second try would do less at once, see [`WorkOrder::less_at_once`](crate::WorkOrder::less_at_once).
    pub less_is_possible: bool,
}

/// The file in an attempt's folder that holds it.
const FILE: &str = "at-risk.json";

impl AtRisk {
    /// Writes it into an attempt's folder, whole or not at all. That it can't be written is no reason not to work: only
    /// words would be missing.
    pub fn note(&self, attempt: &Path) {
        let unfinished = attempt.join("at-risk.json.part");
        let written = serde_json::to_vec(self).map_err(std::io::Error::from);
        let written = written.and_then(|bytes| fs_err::write(&unfinished, bytes));
        _ = written.and_then(|()| fs_err::rename(&unfinished, attempt.join(FILE)));
    }

    /// What was noted last in an attempt's folder.
    #[must_use]
    pub fn noted(attempt: &Path) -> Option<Self> {
        serde_json::from_slice(&fs_err::read(attempt.join(FILE)).ok()?).ok()
    }

    /// Forgets what was noted.
    pub fn forget(attempt: &Path) {
        // There may be none.
        _ = fs_err::remove_file(attempt.join(FILE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_last_is_found_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(AtRisk::noted(folder.path()), None);
        let risk = |rows: usize| AtRisk {
            doing: format!("with {rows} rows at once"),
            hint: "fewer rows".into(),
            less_is_possible: rows > 1,
        };
        risk(4).note(folder.path());
        risk(1).note(folder.path());
        assert_eq!(AtRisk::noted(folder.path()), Some(risk(1)));
        AtRisk::forget(folder.path());
        assert_eq!(AtRisk::noted(folder.path()), None);
        risk(1).note(&folder.path().join("nowhere"));
    }
}
