//! Files of one JSON value a line that this project writes itself: streamed in both directions.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use fs_err::File;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{DataError, DataResult};

/// Reads one value a line; a damaged line is an error that names it.
pub struct JsonlReader<T> {
    path: PathBuf,
    input: BufReader<File>,
    line: u64,
    buffer: Vec<u8>,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonlReader<T> {
    /// Opens the file.
    pub fn open(path: &Path) -> DataResult<Self> {
        let file = File::open(path).map_err(DataError::own_io(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            input: BufReader::with_capacity(1 << 16, file),
            line: 0,
            buffer: Vec::new(),
            value: PhantomData,
        })
    }

    fn next_value(&mut self) -> DataResult<Option<T>> {
        self.buffer.clear();
        let read = self.input.read_until(b'\n', &mut self.buffer).map_err(DataError::own_io(&self.path))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        serde_json::from_slice(&self.buffer)
            .map(Some)
            .map_err(|error| DataError::corrupt(&self.path, format!("line {} cannot be read: {error}", self.line)))
    }
}

impl<T: DeserializeOwned> Iterator for JsonlReader<T> {
    type Item = DataResult<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_value().transpose()
    }
}

/// Writes one value a line. [`JsonlWriter::finish`] must be called: dropping it may lose buffered lines.
pub struct JsonlWriter<T> {
    path: PathBuf,
    output: BufWriter<File>,
    lines: u64,
    value: PhantomData<fn(T)>,
}

impl<T: Serialize> JsonlWriter<T> {
    /// Creates the file, or empties it.
    pub fn create(path: &Path) -> DataResult<Self> {
        let file = File::create(path).map_err(DataError::own_io(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            output: BufWriter::with_capacity(1 << 16, file),
            lines: 0,
            value: PhantomData,
        })
    }

    /// Writes one line.
    pub fn write(&mut self, value: &T) -> DataResult<()> {
        serde_json::to_writer(&mut self.output, value).map_err(|error| DataError::own_io(&self.path)(error.into()))?;
        self.output.write_all(b"\n").map_err(DataError::own_io(&self.path))?;
        self.lines += 1;
        Ok(())
    }

    /// Writes out what is buffered; gives the number of lines.
    pub fn finish(mut self) -> DataResult<u64> {
        self.output.flush().map_err(DataError::own_io(&self.path))?;
        Ok(self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        fs_err::write(&path, "1\n2\n{\n").unwrap();
        let read: DataResult<Vec<u32>> = JsonlReader::open(&path).unwrap().collect();
        let message = read.unwrap_err().to_string();
        assert!(message.contains("x.jsonl: line 3 cannot be read"), "{message}");
    }
}
