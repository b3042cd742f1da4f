//! Training examples: token sequences with a mark on every token that is to be learned, and their file.
//!
//! A part of a dataset (`train/`, `holdout/`) is a folder of two files:
//!
//! ```text
//! examples.bin   what a trainer reads; random access, memory-mapped
//! rows.jsonl     the same rows for a person and for evaluations: text, reference, origin
//! ```
//!
//! `examples.bin`, all numbers little-endian:
//!
//! ```text
//! "STHEXMP1"                                            8 bytes
//! per example: tokens u32 × n, scored bits ⌈n / 8⌉ bytes (bit i % 8 of byte i / 8, unused bits 0)
//! index, per example: offset u64, n u32, source u32, bytes u64
//! footer: index offset u64, examples u64, "STHEXEND"    24 bytes
//! ```

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use fs_err::File;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, DataResult};
use crate::jsonl::{JsonlReader, JsonlWriter};
use crate::mapped::{Cursor, Mapped};
use crate::prompt::Message;

/// The binary file of a part.
pub const EXAMPLES_FILE: &str = "examples.bin";
/// The readable file of a part.
pub const ROWS_FILE: &str = "rows.jsonl";

const HEAD: &[u8; 8] = b"STHEXMP1";
const TAIL: &[u8; 8] = b"STHEXEND";
const FOOTER: u64 = 24;
const INDEX_ENTRY: u64 = 24;

/// One tokenised row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The whole sequence, prompt first.
    pub tokens: Vec<u32>,
    /// As long as `tokens`: whether a model is to learn to predict this token. Never true for the first.
    pub scored: Vec<bool>,
    /// UTF-8 bytes of the text the scored tokens stand for (special tokens count none): the divisor of bits per byte.
    pub bytes: u64,
    /// Which source of the dataset's mix it came from: an index into its list of sources.
    pub source: u32,
}

impl Example {
    /// How many tokens are scored.
    pub fn scored_tokens(&self) -> usize {
        self.scored.iter().filter(|scored| **scored).count()
    }
}

/// A row as a person reads it: line i of `rows.jsonl` is example i of `examples.bin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Index into the dataset's list of sources.
    pub source: u32,
    /// Where in its source it was: the line of a file from 1, or the place in an answers artifact from 1.
    pub line: u64,
    /// The id of the prompt the row answers; rows of plain text have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Which sample of that prompt.
    #[serde(default)]
    pub sample: u32,
    /// The conversation before the completion; empty for plain text.
    pub messages: Vec<Message>,
    /// What is learned.
    pub completion: String,
    /// The source's own answer, where it has one: what exact match compares with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// How many of the example's tokens are the prompt's: `tokens[..prompt_tokens]` is what to generate from.
    pub prompt_tokens: u32,
}

/// Writes a part of a dataset.
pub struct ExampleWriter {
    path: PathBuf,
    output: BufWriter<File>,
    rows: JsonlWriter<Row>,
    offset: u64,
    index: Vec<u8>,
    count: u64,
}

impl ExampleWriter {
    /// Creates the folder and its files.
    pub fn create(folder: &Path) -> DataResult<Self> {
        fs_err::create_dir_all(folder).map_err(DataError::own_io(folder))?;
        let path = folder.join(EXAMPLES_FILE);
        let mut output = BufWriter::new(File::create(&path).map_err(DataError::own_io(&path))?);
        output.write_all(HEAD).map_err(DataError::own_io(&path))?;
        let rows = JsonlWriter::create(&folder.join(ROWS_FILE))?;
        Ok(Self { path, output, rows, offset: HEAD.len() as u64, index: Vec::new(), count: 0 })
    }

    /// Adds one example and its row. The example must have a mark per token, none on the first, at least one in all.
    pub fn add(&mut self, example: &Example, row: &Row) -> DataResult<()> {
        let Example { tokens, scored, bytes, source } = example;
        let well_formed = tokens.len() == scored.len() && scored.first() == Some(&false) && scored.contains(&true);
        if !well_formed {
            return Err(DataError::invalid(
                format!("row {} of source {source} has no token to learn", row.line),
                "its completion is empty; drop the row, or give it a text",
            ));
        }
        let mut record = Vec::with_capacity(tokens.len() * 5);
        tokens.iter().for_each(|token| record.extend_from_slice(&token.to_le_bytes()));
        for marks in scored.chunks(8) {
            record.push(marks.iter().enumerate().fold(0u8, |byte, (bit, on)| byte | (u8::from(*on) << bit)));
        }
        self.output.write_all(&record).map_err(DataError::own_io(&self.path))?;
        self.index.extend_from_slice(&self.offset.to_le_bytes());
        self.index.extend_from_slice(&(tokens.len() as u32).to_le_bytes());
        self.index.extend_from_slice(&source.to_le_bytes());
        self.index.extend_from_slice(&bytes.to_le_bytes());
        self.offset += record.len() as u64;
        self.count += 1;
        self.rows.write(row)
    }

    /// Writes the index; gives the number of examples.
    pub fn finish(mut self) -> DataResult<u64> {
        self.index.extend_from_slice(&self.offset.to_le_bytes());
        self.index.extend_from_slice(&self.count.to_le_bytes());
        self.index.extend_from_slice(TAIL);
        self.output.write_all(&self.index).and_then(|()| self.output.flush()).map_err(DataError::own_io(&self.path))?;
        self.rows.finish()?;
        Ok(self.count)
    }
}

/// Reads a part of a dataset. Cheap to open, shareable between threads.
pub struct ExampleReader {
    rows: PathBuf,
    data: Mapped,
    index: u64,
    count: u64,
}

impl ExampleReader {
    /// Opens a part's folder.
    pub fn open(folder: &Path) -> DataResult<Self> {
        Self::open_files(&folder.join(EXAMPLES_FILE), &folder.join(ROWS_FILE))
    }

    /// Opens a part by its two files: in a store they have no names and no folder.
    pub fn open_files(examples: &Path, rows: &Path) -> DataResult<Self> {
        let path = examples;
        let data = Mapped::open_own(path)?;
        let length = data.all().len() as u64;
        if !data.all().starts_with(HEAD) {
            return Err(DataError::corrupt(path, "not a file of training examples, or of another version"));
        }
        let cut_short = || DataError::corrupt(path, "the file of training examples is cut short");
        let mut footer = Cursor::new(data.part(length.saturating_sub(FOOTER), FOOTER)?);
        let (index, count) = footer.u64().zip(footer.u64()).ok_or_else(cut_short)?;
        let whole = count
            .checked_mul(INDEX_ENTRY)
            .and_then(|index_length| index.checked_add(index_length)?.checked_add(FOOTER));
        if footer.take(8) != Some(TAIL) || whole != Some(length) {
            return Err(cut_short());
        }
        Ok(Self { rows: rows.to_path_buf(), data, index, count })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Example `place`, counted from 0.
    pub fn get(&self, place: usize) -> DataResult<Example> {
        let (offset, length, source, bytes) = self.entry(place)?;
        let record = self.data.part(offset, u64::from(length) * 4 + u64::from(length).div_ceil(8))?;
        let (tokens, marks) = record.split_at(length as usize * 4);
        let tokens = tokens.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        let scored = (0..length as usize).map(|i| marks[i / 8] >> (i % 8) & 1 == 1).collect();
        Ok(Example { tokens, scored, bytes, source })
    }

    /// The length of every example in tokens: what a [`crate::batch::BatchPlan`] is made from.
    pub fn lengths(&self) -> DataResult<Vec<u32>> {
        (0..self.len()).map(|place| Ok(self.entry(place)?.1)).collect()
    }

    /// The readable rows, in the same order.
    pub fn rows(&self) -> DataResult<JsonlReader<Row>> {
        JsonlReader::open(&self.rows)
    }

    fn entry(&self, place: usize) -> DataResult<(u64, u32, u32, u64)> {
        if place >= self.len() {
            return Err(DataError::corrupt(
                self.data.path(),
                format!("there is no example {place}, only {}", self.count),
            ));
        }
        let mut entry = Cursor::new(self.data.part(self.index + place as u64 * INDEX_ENTRY, INDEX_ENTRY)?);
        let mut fields = || Some((entry.u64()?, entry.u32()?, entry.u32()?, entry.u64()?));
        fields().ok_or_else(|| DataError::corrupt(self.data.path(), "the index is cut short"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: u64) -> Row {
        Row {
            source: 0,
            line,
            prompt: None,
            sample: 0,
            messages: vec![],
            completion: "x".into(),
            reference: None,
            prompt_tokens: 0,
        }
    }

    fn example(length: usize) -> Example {
        Example {
            tokens: (0..length as u32).map(|i| i * 70_001).collect(),
            scored: (0..length).map(|i| i % 3 == 1).collect(),
            bytes: length as u64,
            source: 2,
        }
    }

    #[test]
    fn examples_of_every_length_survive_and_the_bytes_are_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let part = folder.path().join(name);
            let mut writer = ExampleWriter::create(&part).unwrap();
            for length in 2..40 {
                writer.add(&example(length), &row(length as u64)).unwrap();
            }
            assert_eq!(writer.finish().unwrap(), 38);
            (fs_err::read(part.join(EXAMPLES_FILE)).unwrap(), part)
        };
        let (first, part) = write("a");
        assert_eq!(first, write("b").0);
        let reader = ExampleReader::open(&part).unwrap();
        assert_eq!(reader.len(), 38);
        assert_eq!(reader.lengths().unwrap(), (2..40).collect::<Vec<u32>>());
        for place in 0..38 {
            assert_eq!(reader.get(place).unwrap(), example(place + 2));
        }
        assert!(reader.get(38).is_err());
        assert_eq!(reader.rows().unwrap().nth(3).unwrap().unwrap().line, 5);
    }

    #[test]
    fn an_example_with_nothing_to_learn_is_an_error_that_names_the_row() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = ExampleWriter::create(folder.path()).unwrap();
        let silent = Example { tokens: vec![1, 2], scored: vec![false, false], bytes: 0, source: 1 };
        let error = writer.add(&silent, &row(7)).unwrap_err();
        assert_eq!(error.to_string(), "row 7 of source 1 has no token to learn");
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_cut_file_is_an_error_whatever_the_place_of_the_cut() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = ExampleWriter::create(folder.path()).unwrap();
        writer.add(&example(9), &row(1)).unwrap();
        writer.add(&example(4), &row(2)).unwrap();
        writer.finish().unwrap();
        let path = folder.path().join(EXAMPLES_FILE);
        let whole = fs_err::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs_err::write(&path, &whole[..cut]).unwrap();
            assert!(ExampleReader::open(folder.path()).is_err(), "cut at {cut}");
        }
    }
}
