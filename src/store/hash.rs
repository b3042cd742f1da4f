//! Hashing files on all cores.
//!
//! BLAKE3 is a binary tree over 1 KiB chunks, so parts of a file can be hashed apart and merged. Each
//! task reads its own part with a positioned read into a small buffer that stays in the core's cache.
//! Against mapping the file this costs one copy inside the cache, and it cannot be killed by a signal
//! when somebody truncates the file meanwhile: that is an ordinary error here.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::digest::Digest;

/// Bytes one task reads and hashes at a time; a power of two, so every part is a whole subtree.
/// Measured: parts from 128 KiB on take twice as long, most of it inside the kernel's copy.
const PART: usize = 64 * 1024;

/// Below this a thread pool costs more than it saves.
const PARALLEL_FROM: u64 = 8 * PART as u64;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The digest of the first `length` bytes of `file`.
///
/// # Errors
/// `UnexpectedEof` when the file is shorter than `length`, or whatever reading it returns.
pub(crate) fn of_open_file(file: &File, length: u64) -> io::Result<Digest> {
    if length < PARALLEL_FROM {
        return of_small_file(file, length);
    }
    let left = left_subtree_len(length);
    let (left, right) = rayon::join(|| subtree(file, 0, left), || subtree(file, left, length - left));
    Ok(Digest::from_bytes(*merge_subtrees_root(&left?, &right?, Mode::Hash).as_bytes()))
}

fn of_small_file(file: &File, length: u64) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut offset = 0;
    while offset < length {
        let count = (length - offset).min(PART as u64) as usize;
        with_part(file, offset, count, |part| {
            hasher.update(part);
        })?;
        offset += count as u64;
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// The chaining value of the subtree that covers `length` bytes from `offset`, which is not the root.
fn subtree(file: &File, offset: u64, length: u64) -> io::Result<ChainingValue> {
    if length <= PART as u64 {
        return with_part(file, offset, length as usize, |part| {
            let mut hasher = Hasher::new();
            hasher.set_input_offset(offset).update(part);
            hasher.finalize_non_root()
        });
    }
    let left = left_subtree_len(length);
    let (left, right) = rayon::join(|| subtree(file, offset, left), || subtree(file, offset + left, length - left));
    Ok(merge_subtrees_non_root(&left?, &right?, Mode::Hash))
}

/// Reads `count` bytes at `offset` into this thread's buffer and hands them to `use_part`.
fn with_part<T>(file: &File, offset: u64, count: usize, use_part: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < count {
            buffer.resize(count, 0);
        }
        file.read_exact_at(&mut buffer[..count], offset)?;
        Ok(use_part(&buffer[..count]))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_size_agrees_with_blake3_in_memory() {
        let part = PART;
        let from = PARALLEL_FROM as usize;
        let sizes = [
            0,
            1,
            1023,
            1024,
            1025,
            part - 1,
            part,
            part + 1,
            from - 1,
            from,
            from + 1,
            9 * part + 7,
            16 * part,
            17 * part - 1023,
            21 * part + 1025,
        ];
        let bytes: Vec<u8> = (0..22 * part).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect();
        for size in sizes {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes[..size]).unwrap();
            assert_eq!(of_open_file(&file, size as u64).unwrap(), Digest::of(&bytes[..size]), "{size} bytes");
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 10 * PART]).unwrap();
        let error = of_open_file(&file, 11 * PART as u64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
