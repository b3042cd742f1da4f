//! temporary
use stillhouse_data::tokenizer_kind::TokenizerTraining;
use stillhouse_data::{model::Model, prompts::Prompts};
use stillhouse_engine::command::Command;
use stillhouse_stage::Kind;

/// The kinds, in the order in which a reader meets them.
pub static KINDS: &[&dyn Kind] = &[&Model, &Prompts, &TokenizerTraining, &Command];
