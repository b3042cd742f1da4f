//! The engine: it resolves, plans, explains and schedules. It never trains and never prints.
//!
//! ```text
//! Spec ─resolve→ Experiment ─plan→ Plan ─run→ Event*
//! ```
//!
//! Each arrow is one function from one immutable value to the next. The kinds of stages come in as a static slice; the
//! engine knows none of them but `command`, which is its own.

pub mod command;
pub mod experiment;
pub mod files;
pub mod logs;
pub mod plan;
pub mod remarks;
pub mod resolve;
pub mod run;
pub mod schema;
pub mod why;
pub mod worker;

pub use experiment::{Experiment, Stage, StageId};
pub use plan::{Decision, Plan, PlannedStage, plan};
pub use remarks::remarks;
pub use resolve::resolve;
pub use run::{RunOptions, RunSummary, Subscriber, run};
pub use why::{Comparison, Explainer, Reason};
