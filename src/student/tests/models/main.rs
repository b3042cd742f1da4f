//! The crate as its users see it, held to transformers' values and to its own promises.
//!
//! One program for all of it: each test program would compile models and trainer anew, which takes longer than to run it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../support/mod.rs"]
mod support;

mod bf16;
mod damaged_folders;
mod distillation;
mod generation;
mod gguf;
mod hidden_states;
mod keeping;
mod methods;
mod on_policy;
mod other_tokens;
mod parity;
mod stories;
mod training;
mod windows;
