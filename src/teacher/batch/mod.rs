//! Requests that are handed in together, as OpenAI's Batch API takes them: a file of requests goes up, the server works it off
//! within a day at a lower price, files of replies come down.
//!
//! - [`config`] is what a user writes, [`line`] a line of each of the files, [`remote`] the API itself;
//! - [`journal`] keeps on disk what was handed in, so that a killed run pays nothing twice;
//! - what is handed in, when, and what becomes of the replies is in `asking/batched.rs`.

pub mod config;
pub mod journal;
pub mod line;
pub mod remote;

#[cfg(test)]
mod tests;

pub use config::{BatchConfig, BatchOptions};
pub use journal::{Entry, Journal};
pub use line::Wanted;
