//! Reading what users bring: files of lines, files of JSON objects, and the templates that turn an object into text.

mod lines;
mod objects;
mod template;

pub use lines::{Line, LineReader, MAX_LINE};
pub use objects::{Object, ObjectReader};
pub use template::RowTemplate;
