//! The command line: arguments in, words out. The only crate that prints, and the one place that knows every kind.

mod args;
mod commands;
mod error;
mod kinds;
mod logging;
mod render;
mod session;

use std::process::ExitCode;

use error::CliError;
use stillhouse_stage::Failure;

/// As it comes, the system's allocator costs training a good part of its speed (see `docs/performance.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match args::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match std::panic::catch_unwind(|| commands::run(&arguments)) {
        Ok(Ok(code)) => match render::lost() {
            Some(failure) => CliError::from(failure).print(&arguments.global),
            None => code,
        },
        Ok(Err(error)) => error.print(&arguments.global),
        Err(_) => {
            let failure = Failure::internal("a fault of stillhouse: it panicked");
            let hint = "run again with RUST_LOG=error to see where, and please report it; what was made is kept";
            CliError::from(failure.hint(hint)).print(&arguments.global)
        }
    }
}
