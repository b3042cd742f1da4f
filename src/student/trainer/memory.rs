//! Too little memory: told from other faults, and met once with smaller parts.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use stillhouse_data::batch::Batch;

use crate::error::{Result, StudentError};

/// Positions on a device at once where the user chooses nothing.
const POSITIONS: usize = 8192;

/// How many rows are on the device at once. The rounding of a step depends on it, and so do a result's last bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct MicroRows {
    /// What the user chose; 0 chooses.
    chosen: usize,
    halved: bool,
}

impl MicroRows {
    /// `halved` where a worker process before this one ran out of memory.
    pub(super) fn new(chosen: usize, halved: bool) -> Self {
        Self { chosen, halved }
    }

    /// Rows of this batch at once.
    pub(super) fn of(&self, batch: &Batch) -> usize {
        let rows = self.before(batch);
        if self.halved { rows.div_ceil(2) } else { rows }
    }

    /// Rows of this batch at once if memory never ran out.
    pub(super) fn before(&self, batch: &Batch) -> usize {
        let rows = if self.chosen > 0 { self.chosen } else { POSITIONS.div_ceil(batch.length.max(1)) };
        rows.min(batch.rows).max(1)
    }

    /// Whether they can be halved: once, where there are several.
    pub(super) fn can_halve(&self, batch: &Batch) -> bool {
        !self.halved && self.of(batch) > 1
    }

    /// Whether they can be halved, whatever the batch.
    pub(super) fn may_halve(&self) -> bool {
        !self.halved && self.chosen != 1
    }

    /// Halves the rows; false where that was done before or changes nothing.
    pub(super) fn halve(&mut self, batch: &Batch) -> bool {
        let can = self.can_halve(batch);
        self.halved |= can;
        can
    }
}

/// What takes less memory in forward and backward, wherever the training runs.
pub(super) const FEWER_AT_ONCE: &str =
    "a smaller `micro-batch`, `gradient-checkpointing = true`, shorter rows, or a machine with more memory";

/// Bytes of memory that this process holds; none where the system does not say.
pub fn resident() -> Option<u64> {
    let text = fs_err::read_to_string("/proc/self/status").ok()?;
    kilobytes(&text, "VmRSS:")
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|number| number * 1024)
}

/// Words by which allocators and drivers say that there is no room.
const WORDS: &[&str] =
    &["out of memory", "outofmemory", "out_of_memory", "memory allocation", "can't allocate", "failed to allocate"];

/// Runs `work`; a panic for want of memory becomes an error with what was said. Backends have no other way to say so.
/// Every other panic goes on.
///
/// On the processor an allocation that fails ends the process, and so does the system where it takes too much: nothing can be
/// caught there. What is done then is noted beforehand ([`Observer::at_risk`](super::run::Observer::at_risk)), and the engine
/// starts another process that takes half as much at once.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // What `work` changes is dropped with it, or changed only when all is done, so nothing half done is seen afterwards.
    catch_unwind(AssertUnwindSafe(work)).or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or_default()
            .to_owned();
        match says_no_room(&said) {
            true => Err(said.lines().next().unwrap_or_default().to_owned()),
            false => resume_unwind(panic),
        }
    })
}

/// [`caught`] with an error that tells what was being done, and what takes less.
pub(crate) fn with_room<T>(doing: impl Into<String>, hint: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(work)
        .unwrap_or_else(|reason| Err(StudentError::OutOfMemory { doing: doing.into(), reason, hint: hint.to_owned() }))
}

fn says_no_room(said: &str) -> bool {
    let said = said.to_lowercase();
    WORDS.iter().any(|word| said.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_halved_once() {
        let batch = Batch {
            rows: 6,
            length: 2048,
            inputs: vec![],
            targets: vec![],
            scored: vec![],
            segments: vec![],
            positions: vec![],
            placements: vec![],
        };
        let mut rows = MicroRows::new(0, false);
        assert_eq!(rows.of(&batch), 4, "8192 positions");
        assert!(rows.may_halve() && rows.halve(&batch) && rows.of(&batch) == 2);
        assert!(!rows.may_halve() && !rows.halve(&batch) && rows.of(&batch) == 2);
        assert_eq!(MicroRows::new(9, false).of(&batch), 6);
        assert!(!MicroRows::new(1, false).halve(&batch));
        // A second worker begins where the first one would have gone on.
        let second = MicroRows::new(0, true);
        assert_eq!((second.of(&batch), second.before(&batch), second.can_halve(&batch)), (2, 4, false));
    }

    #[test]
    fn the_system_says_what_there_is() {
        assert_eq!(kilobytes("MemTotal: 9 kB\nMemAvailable:    12 kB\n", "MemAvailable:"), Some(12 * 1024));
        assert_eq!(kilobytes("MemTotal: 9 kB\n", "MemAvailable:"), None);
    }

    #[test]
    fn want_of_memory_is_an_error_and_other_panics_go_on() {
        assert_eq!(caught(|| 7), Ok(7));
        let said = caught(|| panic!("CUDA_ERROR_OUT_OF_MEMORY: {} bytes\nmore words", 9)).unwrap_err();
        assert_eq!(said, "CUDA_ERROR_OUT_OF_MEMORY: 9 bytes");
        let other = catch_unwind(|| caught(|| panic!("index out of bounds")));
        assert!(other.is_err());
    }
}
