#![doc = "Measures models: metrics, the suites that name them, and an interval on every figure. Models come in through \
[`stillhouse_data::lm`]; nothing here knows what runs them."]
//!
//! ```text
//! [suite.X] ─ metrics, each with its data     [eval.X] ─ a model on suites
//!     └ METRICS: one file each                    └ Bench: models, data, settings of intervals
//!         └ Share an example ─Bootstrap→ Score        └ scores.json, items.jsonl, metrics of the record
//! ```

pub mod artifact;
pub mod bench;
pub mod bootstrap;
pub mod divergence;
mod failure;
pub mod metrics;
pub mod normalise;
pub mod score;
pub mod scoring;
pub mod stage;
pub mod suite;
#[cfg(test)]
mod testing;

pub use metrics::METRICS;
pub use score::{Better, Score};
pub use stage::EvalKind;
pub use suite::SuiteKind;
