//! Everything that prints: data to standard output, words to standard error.

pub mod diagnostics;
pub mod event_log;
pub mod json_lines;
pub mod kinds;
pub mod live;
pub mod plan;
pub mod stage_logs;
pub mod summary;

use std::io::{IsTerminal, Write};

use serde_json::json;
use stillhouse_stage::Failure;

use crate::args::{Color, Format, Global};

/// Data, to standard output.
pub fn data(text: &str) {
    match writeln!(std::io::stdout().lock(), "{text}") {
        // A reader that went away (`| head`) is no fault of the command; a full disk is one of the machine.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            _ = LOST.set(error);
        }
        _ => {}
    }
}

/// Why data could not be written, if it could not.
static LOST: std::sync::OnceLock<std::io::Error> = std::sync::OnceLock::new();

/// The failure of a command whose data was lost on the way out.
pub fn lost() -> Option<Failure> {
    let error = LOST.get()?;
    let failure = Failure::environment(format!("standard output can't be written: {error}"));
    Some(failure.hint("what was printed is not whole; what was made is kept"))
}

/// Words, to standard error.
pub fn words(text: &str) {
    _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A question that waits for a line, to standard error.
pub fn ask(text: &str) {
    let mut out = std::io::stderr().lock();
    _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// Whether standard error shall be coloured.
pub fn colours(global: &Global) -> bool {
    match global.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    }
}

/// Something worth knowing though the command goes on: `warning` or `note`. With `--format json` an object on a line.
pub fn remark(what: &str, text: &str, global: &Global) {
    match global.format {
        Format::Json => words(&json!({ (what): text }).to_string()),
        Format::Text => words(&format!("{what}: {text}")),
    }
}

/// A failure: one line, and what to do on a line of its own.
pub fn failure(failure: &Failure, global: &Global) {
    let label = if colours(global) { "\u{1b}[1;31merror\u{1b}[0m" } else { "error" };
    words(&format!("{label}: {}", failure.message));
    if let Some(hint) = &failure.hint {
        words(&format!("hint: {hint}"));
    }
}
