//! What the user wrote: one TOML file read into a tree that remembers where each value stands.
//!
//! Reading goes in passes, each a function from one value to the next:
//!
//! ```text
//! text ─Spec::read→ Spec (tree with places, includes merged, --set applied)
//!      ─Spec::cells→ one tree a point of the sweep
//!      ─Config::decode→ typed configs, one a table (called by whoever knows the kinds)
//! ```
//!
//! Nothing here knows a stage kind; the only I/O is reading the file and what it includes. Errors are
//! collected, never thrown: [`Diagnostics`] holds all that is wrong with a file, each under its characters.

extern crate self as stillhouse_spec;

mod basic;
pub mod canonical;
pub mod config;
pub mod diagnostic;
pub mod listing;
pub mod node;
pub mod read;
pub mod registry;
mod secrets;
pub mod suggest;
pub mod sweep;
pub mod types;

pub use canonical::Canonical;
pub use config::{Config, Described};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use node::{Node, Origin, Sources, Table, Value};
pub use read::{SetArgument, Spec};
pub use registry::{Each, Entry, OneOf, Registry};
pub use secrets::find as find_secrets;
pub use stillhouse_spec_derive::Config;
pub use sweep::Cell;
pub use types::{DirectoryPath, Execution, FilePath, FileTree, FileUse, Globs, Ref, Reference, Select, Target};
