//! What a stage sees of itself when it explains how its work is shared.

use crate::context::Context;
use crate::kind::View;

/// What a stage sees when it says how much of its work is there or could be (see [`crate::StageKind::remarks`]).
pub struct Explained<'a> {
    /// Its table, and the definitions that this names.
    pub view: View<'a>,
    /// The stage as it would run, to read its inputs, files and definitions with: there is no folder to write into, and what
    /// it says is heard by nobody. None where its result is there, or something that it reads is not.
    pub context: Option<Context>,
    /// The nearest earlier result that the stage differs from, if there is one.
    pub against: Option<Against>,
}

/// An earlier result, as it differs from what a stage would make now.
#[derive(Clone, Debug, PartialEq)]
pub struct Against {
    /// The fields of the recipe that differ: `optimizer.adamw.lr`, `inputs.data`, `seed`.
    pub fields: Vec<String>,
    /// The settings of then, as in the recipe: definitions in their place, defaults left out.
    pub identity: serde_json::Value,
}
