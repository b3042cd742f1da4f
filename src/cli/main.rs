//! The command line: arguments in, words out. The only crate that prints, and the one place that knows every kind.

mod args;
mod commands;
mod error;
mod kinds;
mod logging;
mod render;
mod session;

use std::process::ExitCode;

/// As it comes, the system's allocator costs training a good part of its speed (see `docs/performance.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match args::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match commands::run(&arguments) {
        Ok(code) => code,
        Err(error) => error.print(&arguments.global),
    }
}
