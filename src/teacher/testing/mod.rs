//! A teacher that lives in the test's process: an OpenAI-compatible server that does as it is told, faults included.

mod batches;
mod fake;
mod faults;
mod http;

pub use batches::{BatchServer, Line};
pub use fake::{Asked, FakeTeacher, answer_with};
pub use faults::Faults;
pub use http::Act;
