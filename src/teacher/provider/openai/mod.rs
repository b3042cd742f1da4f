//! Any server with OpenAI's API: OpenAI itself, vLLM, llama.cpp, Ollama and whoever speaks like them.

pub mod chat;
mod completion;
pub mod completions;
pub mod embeddings;
pub mod log_probs;
mod message;
mod scoring;
mod settings;
mod stream;

#[cfg(test)]
mod tests;

pub use chat::{ChatApi, Dialect};
pub use completions::CompletionsApi;
pub use embeddings::EmbeddingsApi;
pub use scoring::ScoringApi;
pub use settings::{ApiConfig, OpenAi, ServedModel};
