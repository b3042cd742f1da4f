//! Reading what users bring: files of lines, of JSON objects, of comma-separated values, of Parquet, and the templates
//! that turn a row into text.

mod csv;
mod json;
mod lines;
mod objects;
mod parquet;
mod plain_file;
mod printing;
mod template;

use std::path::Path;

pub use csv::CsvReader;
pub use json::Json;
pub use lines::{Line, LineReader, MAX_LINE};
pub use objects::{Object, ObjectReader};
pub use parquet::ParquetReader;
pub use plain_file::open_plain_file;
pub use template::RowTemplate;
pub(crate) use template::hint_for_missing;

use crate::error::DataResult;

/// A file of rows, whatever its format: read once, in order.
pub trait Rows {
    /// The next row.
    ///
    /// # Errors
    /// [`crate::error::DataError::Row`] for a row that is not what it should be: the next call goes on behind it. Any other error
    /// is the end.
    fn next_object(&mut self) -> DataResult<Option<Object>>;

    /// The file.
    fn path(&self) -> &Path;
}

#[cfg(test)]
pub(crate) fn conversations_in_parquet() -> Vec<u8> {
    parquet::written(::parquet::basic::Compression::SNAPPY)
}
