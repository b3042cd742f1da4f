//! Lines of a text file: one at a time, checked, with their number.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use fs_err::File;

use super::plain_file::open_plain_file;
use crate::error::{DataError, DataResult};

/// The longest line in bytes. A longer one is no row but a file of another format, and would only fill the memory.
pub const MAX_LINE: usize = 16 << 20;

/// Reads a UTF-8 text file line by line, whatever its line ends; a byte-order mark is skipped.
pub struct LineReader {
    path: PathBuf,
    input: BufReader<File>,
    buffer: Vec<u8>,
    number: u64,
    /// Whether the last line was too long, and its rest is still to be passed over.
    in_long_line: bool,
}

/// A line without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Counted from 1.
    pub number: u64,
    /// The text.
    pub text: &'a str,
}

impl LineReader {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be opened or is empty.
    pub fn open(path: &Path) -> DataResult<Self> {
        let file = open_plain_file(path)?;
        let mut input = BufReader::with_capacity(1 << 16, file);
        if input.fill_buf().map_err(DataError::io(path))?.is_empty() {
            return Err(DataError::File {
                path: path.to_path_buf(),
                message: "the file is empty".into(),
                hint: Some("it must have at least one row".into()),
            });
        }
        Ok(Self { path: path.to_path_buf(), input, buffer: Vec::new(), number: 0, in_long_line: false })
    }

    /// The next line.
    ///
    /// # Errors
    /// A line that is too long or not UTF-8, by number.
    pub fn next_line(&mut self) -> DataResult<Option<Line<'_>>> {
        if std::mem::take(&mut self.in_long_line) {
            self.pass_over_line()?;
        }
        self.buffer.clear();
        if !self.fill()? {
            return Ok(None);
        }
        self.number += 1;
        let mut bytes = self.buffer.as_slice();
        bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if self.number == 1 {
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(Line { number: self.number, text })),
            Err(error) => {
                let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                Err(DataError::Row {
                    path: self.path.clone(),
                    line: self.number,
                    column: Some(valid.chars().count() + 1),
                    message: "not valid UTF-8".into(),
                    hint: Some("save the file as UTF-8, for instance with iconv".into()),
                })
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error of a file that ended without one of `what`, though it is not empty.
    pub fn only_blank(&self, what: &str) -> DataError {
        DataError::File {
            path: self.path.clone(),
            message: format!("the file has no {what}, only blank lines"),
            hint: Some("it must have at least one row".into()),
        }
    }

    fn pass_over_line(&mut self) -> DataResult<()> {
        loop {
            let available = self.input.fill_buf().map_err(DataError::io(&self.path))?;
            let end = available.iter().position(|byte| *byte == b'\n').map(|place| place + 1);
            let (taken, over) = (end.unwrap_or(available.len()), end.is_some() || available.is_empty());
            self.input.consume(taken);
            if over {
                return Ok(());
            }
        }
    }

    /// Reads up to the end of a line; false at the end of the file.
    fn fill(&mut self) -> DataResult<bool> {
        loop {
            let available = self.input.fill_buf().map_err(DataError::io(&self.path))?;
            if available.is_empty() {
                return Ok(!self.buffer.is_empty());
            }
            let end = available.iter().position(|byte| *byte == b'\n').map(|place| place + 1);
            let taken = end.unwrap_or(available.len());
            self.buffer.extend_from_slice(&available[..taken]);
            self.input.consume(taken);
            if self.buffer.len() > MAX_LINE + 2 {
                self.number += 1;
                self.in_long_line = end.is_none();
                return Err(DataError::Row {
                    path: self.path.clone(),
                    line: self.number,
                    column: None,
                    message: format!("the line is longer than {} MiB", MAX_LINE >> 20),
                    hint: Some("is it a file of one row a line? a JSON array becomes one with `jq -c '.[]'`".into()),
                });
            }
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(content: &[u8]) -> DataResult<Vec<(u64, String)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.txt");
        fs_err::write(&path, content).unwrap();
        let mut reader = LineReader::open(&path)?;
        let mut all = Vec::new();
        while let Some(line) = reader.next_line()? {
            all.push((line.number, line.text.to_owned()));
        }
        Ok(all)
    }

    #[test]
    fn every_kind_of_line_end_and_a_mark_are_taken_off() {
        let read = lines(b"\xef\xbb\xbfa\r\n\nb\rc\nlast").unwrap();
        let expected = [(1, "a"), (2, ""), (3, "b\rc"), (4, "last")];
        assert_eq!(read, expected.map(|(number, text)| (number, text.to_owned())));
    }

    #[test]
    fn invalid_utf_8_is_named_by_line_and_column() {
        let error =
            lines("good\nh\u{e9}llo ".as_bytes().iter().chain(b"\xff\n").copied().collect::<Vec<_>>().as_slice());
        let error = error.unwrap_err();
        assert!(error.to_string().ends_with("rows.txt:2:7: not valid UTF-8"), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn an_empty_file_is_an_error() {
        let error = lines(b"").unwrap_err();
        assert!(error.to_string().ends_with("rows.txt: the file is empty"), "{error}");
    }

    #[test]
    fn a_line_of_fifty_megabytes_is_refused_without_being_read_whole() {
        let mut content = b"{}\n".to_vec();
        content.resize(50 << 20, b'x');
        let error = lines(&content).unwrap_err();
        assert!(error.to_string().ends_with("rows.txt:2: the line is longer than 16 MiB"), "{error}");
    }

    #[test]
    fn behind_a_line_that_is_too_long_reading_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.txt");
        let mut content = vec![b'x'; 20 << 20];
        content.extend_from_slice(b"\nnext\n");
        fs_err::write(&path, content).unwrap();
        let mut reader = LineReader::open(&path).unwrap();
        assert!(reader.next_line().is_err());
        assert_eq!(reader.next_line().unwrap(), Some(Line { number: 2, text: "next" }));
        assert_eq!(reader.next_line().unwrap(), None);
    }
}
