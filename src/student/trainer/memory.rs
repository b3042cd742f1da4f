//! Too little memory: told from other faults, and met once with smaller parts.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use stillhouse_data::batch::Batch;

use super::head::CHUNK_ELEMENTS;
use super::state::Method;
use crate::error::{Result, StudentError};
use crate::model::DecoderConfig;

/// Positions on a device at once where the user chooses nothing.
const POSITIONS: usize = 8192;

/// How many rows are on the device at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct MicroRows {
    /// What the user chose; 0 chooses.
    chosen: usize,
    halved: bool,
}

impl MicroRows {
    pub(super) fn new(chosen: usize) -> Self {
        Self { chosen, halved: false }
    }

    /// Rows of this batch at once.
    pub(super) fn of(&self, batch: &Batch) -> usize {
        let rows = if self.chosen > 0 { self.chosen } else { POSITIONS.div_ceil(batch.length.max(1)) };
        let rows = rows.min(batch.rows).max(1);
        if self.halved { rows.div_ceil(2) } else { rows }
    }

    /// Halves the rows; false where that was done before or changes nothing.
    pub(super) fn halve(&mut self, batch: &Batch) -> bool {
        let can = !self.halved && self.of(batch) > 1;
        self.halved |= can;
        can
    }
}

/// Bytes that a step needs beyond the weights, roughly: gradients and moments in f32, what every layer holds for its
/// backward pass in the training's precision, and a chunk of logits three times in f32. So it is with the logits of a
/// teacher beside it over `teacher` tokens, 0 where none are computed.
pub(super) fn estimate(config: &DecoderConfig, rows: usize, length: usize, method: &Method<'_>, teacher: usize) -> u64 {
    let (queries, keys) = (config.heads * config.head_width, config.kv_heads * config.head_width);
    let layer = 4 * config.hidden + 2 * queries + 2 * keys + 3 * config.intermediate;
    let held = match method.gradient_checkpointing {
        true => config.layers * config.hidden + 3 * layer,
        false => (config.layers + 2) * layer,
    };
    // A chunk has so many positions that the wider of both fits.
    let widest = config.vocabulary.max(teacher).max(1);
    let chunk = |width: usize| (rows * length * width).min(CHUNK_ELEMENTS * width / widest);
    let logits = (chunk(config.vocabulary) + chunk(teacher)) * 3;
    (4 * (3 * config.parameters() + logits) + method.precision.bytes() * rows * length * held) as u64
}

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
/// On the processor the system ends a process that takes too much without a word: nothing can be caught there.
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
        let mut rows = MicroRows::new(0);
        assert_eq!(rows.of(&batch), 4, "8192 positions");
        assert!(rows.halve(&batch) && rows.of(&batch) == 2);
        assert!(!rows.halve(&batch) && rows.of(&batch) == 2);
        assert_eq!(MicroRows::new(9).of(&batch), 6);
        assert!(!MicroRows::new(1).halve(&batch));
    }

    #[test]
    fn a_teacher_with_more_tokens_takes_the_memory_of_a_chunk_and_the_student_less() {
        let text = include_str!("../tests/golden/llama-gqa-tied/config.json");
        let config = crate::model::read_config("m", text).unwrap().1;
        let needed = |vocabulary: usize, teacher: usize| {
            let config = DecoderConfig { vocabulary, ..config.clone() };
            let beyond_logits = 4 * 3 * config.parameters() as u64;
            estimate(&config, 64, 4096, &Method::default(), teacher) - beyond_logits
        };
        let chunk = 4 * 3 * CHUNK_ELEMENTS as u64;
        // 4,096 positions of 4,096 tokens fill a chunk; beside 64 times as many tokens only 64 positions do.
        let held = needed(4096, 0) - chunk;
        assert_eq!(needed(4096, 4096), held + 2 * chunk);
        assert_eq!(needed(4096, 64 * 4096), held + chunk + chunk / 64);
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
