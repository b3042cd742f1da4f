//! Teachers: who is asked, how, and what was answered.
//!
//! A request goes through layers, each of which knows nothing of the next one's business:
//!
//! ```text
//! answers (the stage) ─ prompts in order → requests ─ reply store? → limits, retries → one exchange ─ server
//!                       outputs in order ← replies  ← durable      ←
//! ```
//!
//! - [`replies`] keeps every reply under the key of its request, so that nothing is paid twice;
//! - [`transport`] is one exchange with a server, what to try again, and how much may be under way;
//! - [`provider`] knows what goes over the wire, one folder a provider ([`PROVIDERS`]), and what each can give;
//! - [`asking`] keeps many questions under way and brings the replies back in order;
//! - [`batch`] is what is handed in together instead: files of requests, at a lower price and with a day's patience;
//! - [`session`] is a teacher that stages ask questions of their own: [`expand`] for new prompts, [`judge`] for scores,
//!   [`embeddings`] for vectors;
//! - [`Teacher`], [`Answers`], [`Expand`], [`Judge`] and [`Embeddings`] are the kinds of table that a user writes.

pub mod answers;
pub mod asking;
pub mod batch;
pub mod definition;
pub mod embeddings;
pub mod expand;
pub mod judge;
pub mod provider;
pub mod replies;
pub mod reply;
pub mod request;
pub mod secret;
pub mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;

pub use answers::Answers;
pub use definition::{Teacher, TeacherConfig};
pub use embeddings::Embeddings;
pub use expand::Expand;
pub use judge::Judge;
pub use provider::{PROVIDERS, Provider};
