//! Records of comma-separated values (RFC 4180), with the place of every fault.
//!
//! A reader of our own, because a bad row is told by line *and column*, and because a quote that is never closed is an
//! error and not one endless field: what is known of the common readers says neither.

use std::io::Read;
use std::path::{Path, PathBuf};

use fs_err::File;
use serde_json::{Map, Value};

use super::lines::MAX_LINE;
use super::plain_file::open_plain_file;
use super::{Object, Rows};
use crate::error::{DataError, DataResult};

/// Reads a UTF-8 file of records whose first one names the fields. Line ends are `\n` or `\r\n`, or `\r` in a file that begins
/// without a `\n`; a field in quotes may hold delimiters, line ends and doubled quotes; blank lines are skipped, and so is a
/// byte-order mark.
pub struct CsvReader {
    bytes: Bytes,
    delimiter: u8,
    header: Vec<String>,
    read: u64,
}

/// A record as it was read.
struct Record {
    /// Each field, with the place of its first character.
    fields: Vec<(Vec<u8>, Place)>,
    start: Place,
    end: Place,
}

/// Line and column, counted from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    line: u64,
    column: usize,
}

impl Place {
    /// The place behind some bytes that begin here.
    fn behind(mut self, bytes: &[u8], line_end: u8) -> Self {
        bytes.iter().for_each(|byte| self.step(*byte, line_end));
        self
    }

    fn step(&mut self, byte: u8, line_end: u8) {
        if byte == line_end {
            *self = Self { line: self.line + 1, column: 1 };
        } else if byte & 0xC0 != 0x80 {
            // Every byte of a character but the first begins with the bits 10.
            self.column += 1;
        }
    }
}

impl CsvReader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// When it cannot be opened or is empty, or two fields have one name.
    pub fn open(path: &Path, delimiter: u8) -> DataResult<Self> {
        let mut bytes = Bytes::open(path)?;
        let Some(record) = bytes.record(delimiter)? else {
            return Err(DataError::File {
                path: path.to_path_buf(),
                message: "the file is empty".into(),
                hint: Some("it must have a row that names the fields, and at least one more".into()),
            });
        };
        let mut header: Vec<String> = Vec::with_capacity(record.fields.len());
        for (field, place) in bytes.texts(record)? {
            if let Some(first) = header.iter().position(|name| *name == field && !name.is_empty()) {
                return Err(bytes.broken(
                    place,
                    format!("two fields have the name `{field}`: the fields {} and {}", first + 1, header.len() + 1),
                    "the first row names the fields; give each a name of its own",
                ));
            }
            header.push(field);
        }
        Ok(Self { bytes, delimiter, header, read: 0 })
    }

    fn object(&self, record: Record) -> DataResult<Object> {
        let (found, wanted) = (record.fields.len(), self.header.len());
        if found != wanted {
            let place = record.fields.get(wanted).map_or(record.end, |(_, place)| *place);
            let delimiter = self.delimiter.escape_ascii();
            let hint = format!("a field that holds `{delimiter}`, a quote or a line end stands in quotes: \"…\"");
            let one = self.header.first().filter(|_| wanted == 1);
            let hint = match one.and_then(|one| Some((one, delimiter_in(one)?))) {
                Some((one, fitting)) => {
                    format!("the header has one field, `{one}`: is `{}` the `delimiter`?", fitting.escape_default())
                }
                _ if found == 1 => format!("is `{delimiter}` the `delimiter`? {hint}"),
                _ => hint,
            };
            return Err(self.bytes.fault(
                place,
                format!("the row has {found} fields, the header {wanted}"),
                Some(hint),
            ));
        }
        let line = record.start.line;
        let texts = self.bytes.texts(record)?;
        let fields: Map<String, Value> =
            self.header.iter().cloned().zip(texts.into_iter().map(|(text, _)| Value::String(text))).collect();
        Ok(Object { line, fields })
    }
}

impl Rows for CsvReader {
    fn next_object(&mut self) -> DataResult<Option<Object>> {
        match self.bytes.record(self.delimiter)? {
            Some(record) => {
                self.read += 1;
                self.object(record).map(Some)
            }
            None if self.read == 0 => Err(DataError::File {
                path: self.bytes.path.clone(),
                message: "the file has no rows, only the names of the fields".into(),
                hint: Some("the first row names the fields; it must have at least one more".into()),
            }),
            None => Ok(None),
        }
    }

    fn path(&self) -> &Path {
        &self.bytes.path
    }
}

/// What else may stand between the fields that a header names, where it has only one: the delimiters in use, the most likely
/// first.
pub(super) fn delimiter_in(header: &str) -> Option<char> {
    [';', '\t', '|', ','].into_iter().find(|delimiter| header.contains(*delimiter))
}

/// The bytes of the file, with the place of the next one.
struct Bytes {
    path: PathBuf,
    file: File,
    chunk: Vec<u8>,
    filled: usize,
    at: usize,
    place: Place,
    /// `\n`, whether or not a `\r` stands before it, or `\r` alone.
    line_end: u8,
    /// The bytes of the record that is being read.
    raw: Vec<u8>,
}

impl Bytes {
    fn open(path: &Path) -> DataResult<Self> {
        let file = open_plain_file(path)?;
        let place = Place { line: 1, column: 1 };
        let mut bytes = Self {
            path: path.to_path_buf(),
            file,
            chunk: vec![0; 1 << 16],
            filled: 0,
            at: 0,
            place,
            line_end: b'\n',
            raw: Vec::new(),
        };
        bytes.peek()?;
        let begin = &bytes.chunk[..bytes.filled];
        if begin.contains(&b'\r') && !begin.contains(&b'\n') {
            bytes.line_end = b'\r';
        }
        if bytes.chunk[..bytes.filled].starts_with(b"\xef\xbb\xbf") {
            bytes.at = 3;
        }
        Ok(bytes)
    }

    fn peek(&mut self) -> DataResult<Option<u8>> {
        if self.at == self.filled {
            self.at = 0;
            self.filled = self.file.read(&mut self.chunk).map_err(DataError::io(&self.path))?;
        }
        Ok((self.at < self.filled).then(|| self.chunk[self.at]))
    }

    /// Takes the byte that was peeked at.
    fn take(&mut self, byte: u8) {
        self.at += 1;
        self.place.step(byte, self.line_end);
        self.raw.push(byte);
    }

    /// The next record that is not a blank line.
    fn record(&mut self, delimiter: u8) -> DataResult<Option<Record>> {
        while let Some(byte @ (b'\n' | b'\r')) = self.peek()? {
            self.take(byte);
        }
        self.raw.clear();
        let start = self.place;
        if self.peek()?.is_none() {
            return Ok(None);
        }
        let mut fields = Vec::new();
        loop {
            let place = self.place;
            let mut field = Vec::new();
            if self.peek()? == Some(b'"') {
                self.quoted(&mut field, place, delimiter)?;
            }
            let (mut end, mut carriage) = (self.place, false);
            let last = loop {
                match self.peek()? {
                    None => break true,
                    Some(byte) if byte == self.line_end => {
                        // Of `\r\n` both are the line's end.
                        if carriage {
                            field.pop();
                        } else {
                            end = self.place;
                        }
                        self.take(byte);
                        break true;
                    }
                    Some(byte) if byte == delimiter => {
                        self.take(byte);
                        break false;
                    }
                    Some(byte) => {
                        (end, carriage) = (self.place, byte == b'\r');
                        self.take(byte);
                        field.push(byte);
                        self.not_endless(start)?;
                    }
                }
            };
            fields.push((field, place));
            if last {
                let end = if self.raw.ends_with(&[self.line_end]) { end } else { self.place };
                return Ok(Some(Record { fields, start, end }));
            }
        }
    }

    /// A field in quotes, up to its closing quote.
    fn quoted(&mut self, field: &mut Vec<u8>, opened: Place, delimiter: u8) -> DataResult<()> {
        self.take(b'"');
        loop {
            let Some(byte) = self.peek()? else {
                let hint = "close it, or double it where it is part of the text: \"\"";
                return Err(self.broken(opened, "a quote opens here and is never closed".into(), hint));
            };
            if byte != b'"' {
                self.take(byte);
                field.push(byte);
                self.not_endless(opened)?;
                continue;
            }
            let place = self.place;
            self.take(b'"');
            match self.peek()? {
                Some(b'"') => {
                    self.take(b'"');
                    field.push(b'"');
                }
                None | Some(b'\n' | b'\r') => return Ok(()),
                Some(byte) if byte == delimiter => return Ok(()),
                Some(_) => {
                    // Where the field was meant to end nobody knows: reading goes on with the next line.
                    while let Some(byte) = self.peek()?.filter(|byte| *byte != self.line_end) {
                        self.take(byte);
                        self.not_endless(opened)?;
                    }
                    let hint = "a quote within a field in quotes is doubled: \"\"";
                    return Err(self.fault(place, "text follows the closing quote".into(), Some(hint.into())));
                }
            }
        }
    }

    fn not_endless(&self, start: Place) -> DataResult<()> {
        if self.raw.len() <= MAX_LINE {
            return Ok(());
        }
        let message = format!("the row that begins here is longer than {} MiB", MAX_LINE >> 20);
        Err(self.broken(start, message, "is a quote not closed? is it a file of comma-separated values?"))
    }

    /// The fields as text.
    fn texts(&self, record: Record) -> DataResult<Vec<(String, Place)>> {
        if let Err(error) = std::str::from_utf8(&self.raw) {
            let place = record.start.behind(&self.raw[..error.valid_up_to()], self.line_end);
            let hint = "save the file as UTF-8, for instance with iconv";
            return Err(self.fault(place, "not valid UTF-8".into(), Some(hint.into())));
        }
        // Fields are cut at ASCII characters, so each is UTF-8 where the whole is.
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(record.fields.into_iter().map(|(field, place)| (text(field), place)).collect())
    }

    /// A fault of one row.
    fn fault(&self, place: Place, message: String, hint: Option<String>) -> DataError {
        DataError::Row { path: self.path.clone(), line: place.line, column: Some(place.column), message, hint }
    }

    /// A fault behind which no row can be found.
    fn broken(&self, place: Place, message: String, hint: &str) -> DataError {
        let Place { line, column } = place;
        DataError::invalid(format!("{}:{line}:{column}: {message}", self.path.display()), hint)
    }
}

#[cfg(test)]
mod tests;
