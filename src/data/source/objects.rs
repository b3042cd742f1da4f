//! Objects of a JSON Lines file: one at a time, with their line.

use std::path::Path;

use serde_json::{Map, Value};

use super::lines::LineReader;
use super::{Json, Rows};
use crate::error::{DataError, DataResult};

/// Reads a file of one JSON object a line; blank lines are skipped.
pub struct ObjectReader {
    lines: LineReader,
    read: u64,
}

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The line it stands in, counted from 1.
    pub line: u64,
    /// Its fields.
    pub fields: Map<String, Value>,
}

/// The members of an object, in order.
pub type Members = Vec<(String, Json)>;

impl ObjectReader {
    /// Opens a file.
    pub fn open(path: &Path) -> DataResult<Self> {
        Ok(Self { lines: LineReader::open(path)?, read: 0 })
    }

    /// The next object.
    ///
    /// # Errors
    /// A line that is no JSON object, or one in which a key stands twice, by line and column; a file without any.
    pub fn next_object(&mut self) -> DataResult<Option<Object>> {
        let members = self.next_members()?;
        Ok(members.map(|(line, members)| Object {
            line,
            fields: members.into_iter().map(|(name, value)| (name, value.into())).collect(),
        }))
    }

    /// The next object's line and its members, in the order in which they stand there.
    ///
    /// # Errors
    /// Those of [`Self::next_object`].
    pub fn next_members(&mut self) -> DataResult<Option<(u64, Members)>> {
        let path = self.lines.path().to_path_buf();
        while let Some(line) = self.lines.next_line()? {
            if line.text.trim().is_empty() {
                continue;
            }
            self.read += 1;
            let fault = |column: Option<usize>, message: String| DataError::Row {
                path: path.clone(),
                line: line.number,
                column,
                message,
                hint: Some("every line must be one JSON object: {\"question\": \"…\"}".into()),
            };
            let value: Json = serde_json::from_str(line.text).map_err(|error| {
                // serde_json says the place itself; here it is already in front of the message.
                let words = error.to_string();
                let words = words.rsplit_once(" at line ").map_or(words.as_str(), |(words, _)| words);
                // What is no fault of the grammar is a key that stands twice.
                let words = if error.is_data() { words.to_owned() } else { format!("not valid JSON: {words}") };
                fault(Some(error.column()), words)
            })?;
            return match value {
                Json::Object(members) => Ok(Some((line.number, members))),
                other => Err(fault(None, format!("expected a JSON object, found {}", type_name(&Value::from(other))))),
            };
        }
        if self.read == 0 {
            return Err(self.lines.only_blank("rows"));
        }
        Ok(None)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.lines.path()
    }
}

impl Rows for ObjectReader {
    fn next_object(&mut self) -> DataResult<Option<Object>> {
        ObjectReader::next_object(self)
    }

    fn path(&self) -> &Path {
        ObjectReader::path(self)
    }
}

pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(content: &str) -> DataResult<Vec<Object>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs_err::write(&path, content).unwrap();
        let mut reader = ObjectReader::open(&path)?;
        let mut all = Vec::new();
        while let Some(object) = reader.next_object()? {
            all.push(object);
        }
        Ok(all)
    }

    #[test]
    fn blank_lines_are_skipped_but_counted_as_lines() {
        let read = objects("{\"a\": 1}\n\n  \n{\"a\": 2}\n").unwrap();
        assert_eq!(read.iter().map(|object| object.line).collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn a_bad_row_is_named_by_line_and_column() {
        let error = objects("{\"a\": 1}\n{\"a\": 1,}\n").unwrap_err();
        assert!(error.to_string().ends_with("rows.jsonl:2:9: not valid JSON: trailing comma"), "{error}");
        let error = objects("[1]\n").unwrap_err();
        assert!(error.to_string().ends_with("rows.jsonl:1: expected a JSON object, found a list"), "{error}");
    }

    #[test]
    fn a_key_that_stands_twice_in_a_row_makes_it_a_bad_one() {
        let error = objects("{\"q\": \"one\", \"q\": \"two\"}\n").unwrap_err();
        assert!(error.to_string().contains("rows.jsonl:1:"), "{error}");
        assert!(error.to_string().ends_with(": the key `q` stands twice in one object"), "{error}");
        assert!(matches!(error, DataError::Row { .. }));
        assert_eq!(objects("{\"q\": {\"a\": 1}, \"a\": 2}\n").unwrap().len(), 1);
    }

    #[test]
    fn a_file_of_blank_lines_has_no_rows() {
        let error = objects("\n\n").unwrap_err();
        assert!(error.to_string().ends_with("rows.jsonl: the file has no rows, only blank lines"), "{error}");
    }
}
