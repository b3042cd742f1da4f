//! Every kind of table there is. A new kind is one file in its crate and one line here: parser, schema, suggestions,
//! `stillhouse kinds` and the docs follow.

use stillhouse_data::dataset::Dataset;
use stillhouse_data::model::Model;
use stillhouse_data::prompts::Prompts;
use stillhouse_data::tokenizer_kind::TokenizerTraining;
use stillhouse_engine::command::Command;
use stillhouse_eval::{EvalKind, SuiteKind};
use stillhouse_stage::Kind;
use stillhouse_student::kind::Student;
use stillhouse_student::language_model::BurnLoader;
use stillhouse_teacher::{Answers, Embeddings, Expand, Judge, Teacher};

/// The kinds, in the order in which a reader meets them.
pub static KINDS: &[&dyn Kind] = &[
    &Teacher,
    &Model,
    &Prompts,
    &Expand { loader: &BurnLoader },
    &Answers { loader: &BurnLoader },
    &Judge { loader: &BurnLoader },
    &Embeddings { loader: &BurnLoader },
    &TokenizerTraining,
    &Dataset,
    &Student,
    &SuiteKind,
    &EvalKind { loader: &BurnLoader },
    &Command,
];
