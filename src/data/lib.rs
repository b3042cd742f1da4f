#![doc = "Data of an experiment: prompts, answers, teacher signals, tokenizers, datasets and batches. No arithmetic \
on models and no network here; a model comes in through [`lm::LanguageModel`]."]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod align;
pub mod answer;
pub mod bad_rows;
pub mod batch;
pub mod captured;
pub mod chat_template;
pub mod dataset;
pub mod embeddings;
pub mod error;
pub mod example;
mod failure;
pub mod filters;
pub mod gguf;
pub mod image_size;
pub mod jsonl;
pub mod lm;
mod mapped;
pub mod model;
pub mod model_folder;
pub mod novelty;
pub mod prompt;
pub mod prompts;
pub mod random;
pub mod retokenise;
pub mod server_tokens;
pub mod signals;
pub mod source;
mod string_or;
#[cfg(test)]
mod testing;
pub mod text_stream;
pub mod tokenizer;
pub mod tokenizer_kind;
