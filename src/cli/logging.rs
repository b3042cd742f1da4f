//! tracing: to standard error as RUST_LOG says, and into the run's own log once there is a run.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

static RUN_LOG: OnceLock<Mutex<File>> = OnceLock::new();

struct RunLog;

impl Write for RunLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match RUN_LOG.get().map(Mutex::lock) {
            Some(Ok(mut file)) => file.write(bytes),
            _ => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for RunLog {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

/// Starts logging. `RUST_LOG` rules what reaches standard error (nothing when it is not set); the run's log takes all
/// that stillhouse says at `info` and above.
pub fn start() {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let words = match EnvFilter::try_new(&wanted) {
        Ok(words) if !wanted.trim().is_empty() => words,
        Ok(_) => EnvFilter::new("off"),
        Err(error) => {
            crate::render::words(&format!("warning: RUST_LOG is not understood and passed over: {error}"));
            EnvFilter::new("off")
        }
    };
    let terminal = tracing_subscriber::fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    let terminal = terminal.with_filter(words);
    let file = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(RunLog)
        .with_filter(EnvFilter::new("warn,stillhouse=info"));
    // Only a second start could fail, and there is none.
    _ = tracing_subscriber::registry().with(terminal).with(file).try_init();
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(target: "stillhouse", "{panic}\n{}", std::backtrace::Backtrace::force_capture());
    }));
}

/// Sends the log of this process to a file from now on.
pub fn into(path: &Path) -> io::Result<()> {
    let file = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
    _ = RUN_LOG.set(Mutex::new(file.into_parts().0));
    Ok(())
}
