//! Teachers: who is asked, how, and what was answered.
//!
//! A request goes through three layers, each of which knows nothing of the next one's business:
//!
//! ```text
//! answers (the stage) ─ prompts in order → requests ─ reply store? → transport ─ limits, retries → provider ─ wire
//!                       outputs in order ← replies  ← durable      ←
//! ```
//!
//! - [`replies`] keeps every reply under the key of its request, so that nothing is paid twice;

pub mod replies;
pub mod reply;
