//! The contract between the engine, which schedules, and the stage kinds, which work.
//!
//! A kind of table is one value in a static slice that the command line puts together ([`Kind`]). A *definition*
//! (`[teacher.X]`, `[model.X]`, `[suite.X]`) only decodes and describes itself. A *stage* also runs ([`StageKind`]):
//!
//! ```
//! use stillhouse_spec::{Config, FilePath};
//! use stillhouse_stage::{Context, Failure, Kind, Needs, Outcome, StageKind, View, kind};
//!
//! /// Counts the bytes of a file.
//! #[derive(Clone, Debug, Config)]
//! pub struct CountConfig {
//!     /// The file to count.
//!     pub path: FilePath,
//! }
//!
//! pub struct Count;
//!
//! impl Kind for Count {
//!     kind!("count", CountConfig);
//!     fn as_stage(&self) -> Option<&dyn StageKind> { Some(self) }
//! }
//!
//! impl StageKind for Count {
//!     fn revision(&self) -> u32 { 1 }
//!     fn run(&self, context: &Context) -> Result<Outcome, Failure> {
//!         let _config: CountConfig = context.config()?;
//!         let bytes = Failure::io(std::fs::read(context.file("path")?), "cannot read the file")?;
//!         Failure::io(std::fs::write(context.out().join("count.txt"), bytes.len().to_string()), "cannot write")?;
//!         Ok(Outcome::with_metrics(serde_json::json!({ "bytes": bytes.len() })))
//!     }
//! }
//! ```
//!
//! Names of inputs, files and definitions are the dotted paths of the config fields that name them: `prompts`,
//! `mix.0.answers`, `teacher` (a definition), `teacher.model` (a definition that the teacher names), and
//! `teacher.model.path` (its folder).

pub mod context;
pub mod event;
pub mod explained;
pub mod failure;
pub mod forecast;
pub mod kind;
pub mod order;
pub mod process;
pub mod recipe;
pub mod risk;

pub use context::{Artifact, Cancel, Context, EventSink};
pub use event::{Event, How, InVain, Spent, StageEvent};
pub use explained::{Against, Explained};
pub use failure::{Class, Failure};
pub use forecast::{Ahead, CountedBy, Forecast};
pub use kind::{AnyConfig, Family, Inherited, Kind, Needs, Outcome, Placement, StageKind, Surroundings, View};
pub use order::{Definition, FileInput, Input, WorkOrder};
pub use recipe::Recipe;
pub use risk::AtRisk;
pub use stillhouse_spec as spec;
pub use stillhouse_store as store;
