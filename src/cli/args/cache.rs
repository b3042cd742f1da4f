//! Arguments of `cache`, which looks after the store.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `cache`
#[derive(Debug, Args)]
pub struct Cache {
    /// What to do with the store.
    #[command(subcommand)]
    pub action: CacheAction,
}

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub enum CacheAction {
    /// Say how much is in it.
    Stats,
    /// Read everything again and compare it with its digest.
    Verify,
    /// Remove what nothing needs.
    Gc(Gc),
    /// Keep a result whatever `gc` is told.
    Pin(Pin),
    /// Undo a pin.
    Unpin(Unpin),
    /// Take teachers' replies to another store.
    Replies(Replies),
}

/// `cache replies`
#[derive(Debug, Args)]
pub struct Replies {
    /// What to do with them.
    #[command(subcommand)]
    pub action: RepliesAction,
}

/// What to do with teachers' replies.
#[derive(Debug, Subcommand)]
pub enum RepliesAction {
    /// Write them as lines of JSON.
    Export(ExportReplies),
    /// Put exported replies into this store.
    Import(ImportReplies),
}

/// `cache replies export`
#[derive(Debug, Args)]
pub struct ExportReplies {
    /// The file to write; standard output if left out.
    pub file: Option<PathBuf>,
    /// Only this teacher's: the name of its folder in the store's `replies/`.
    #[arg(long, value_name = "FOLDER")]
    pub teacher: Option<String>,
}

/// `cache replies import`
#[derive(Debug, Args)]
pub struct ImportReplies {
    /// The exported file; `-` is standard input.
    pub file: PathBuf,
}

/// `cache gc`
#[derive(Debug, Args)]
pub struct Gc {
    /// Only say what would go. What is part of no result but younger than an hour stays in any case: a run may be about to use
    /// it.
    #[arg(long)]
    pub dry_run: bool,
    /// Also remove results not made or used for so many days.
    #[arg(long, value_name = "DAYS")]
    pub keep_days: Option<u64>,
}

/// `cache pin`
#[derive(Debug, Args)]
pub struct Pin {
    /// The pin's name.
    pub name: String,
    /// A stage (its newest result) or a key.
    pub what: String,
}

/// `cache unpin`
#[derive(Debug, Args)]
pub struct Unpin {
    /// The pin's name.
    pub name: String,
}
