//! Any server with OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp, Ollama and whoever speaks like them.

mod chat;
mod run;
mod settings;
pub mod wire;

#[cfg(test)]
mod tests;

pub use chat::{Chat, Unanswered};
pub use settings::OpenAi;
