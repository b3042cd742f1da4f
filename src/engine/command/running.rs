//! A program while it runs: waiting for it, stopping it, keeping what it writes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command as Process;
use std::time::{Duration, Instant};

use stillhouse_stage::{Class, Context, Failure, process};

use super::{CommandConfig, CommandLine};

pub(super) fn wait(
    mut command: Process,
    config: &CommandConfig,
    context: &Context,
) -> Result<std::process::ExitStatus, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut group = process::Group::start(&mut command).map_err(|error| {
        let failure = Failure::new(Class::Command, format!("cannot start `{program}`: {error}"));
        match error.kind() {
            std::io::ErrorKind::NotFound => failure.hint("is it installed, and in PATH? A script goes into `files`"),
            _ => failure,
        }
    })?;
    // Its ends of the pipes go with it: the log ends when the program's do.
    drop(command);
    let started = Instant::now();
    let mut nap = Duration::from_micros(200);
    loop {
        if let Some(status) = Failure::io(group.ended(), "cannot wait for the program")? {
            return Ok(status);
        }
        if context.is_cancelled() {
            group.stop();
            return Err(Failure::interrupted());
        }
        if let Some(limit) = *config.timeout
            && started.elapsed().as_secs_f64() > limit
        {
            group.stop();
            return Err(Failure::new(Class::Command, format!("`{program}` ran longer than its timeout of {limit} s"))
                .hint("raise `timeout`: it is in no key"));
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(20));
    }
}

pub(super) fn failed(config: &CommandConfig, status: std::process::ExitStatus, log: &Path) -> Failure {
    let whole = match &config.run {
        CommandLine::Shell(line) => line.clone(),
        CommandLine::Arguments(items) => items.join(" "),
    };
    let shown = one_line(&whole);
    let failure = Failure::new(Class::Command, format!("`{shown}` failed: {}", process::describe(status)));
    match process::last_line(log) {
        Some(line) => failure.hint(format!("its last line was: {line}")),
        None => failure.hint("it wrote nothing to its output"),
    }
}

/// The first line of a script, and no more of it than a message can bear.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 120;
    let line = text.trim().lines().next().unwrap_or_default();
    let cut: String = line.chars().take(LONGEST).collect();
    if cut.len() < text.trim().len() { format!("{cut}…") } else { cut }
}

/// Copies a program's output into the log, line by line. Variables that were passed on may be credentials: their values
/// are left out before anything is written.
pub(super) struct Logging {
    thread: std::thread::JoinHandle<()>,
}

impl Logging {
    pub(super) fn start(output: std::io::PipeReader, log: &Path, config: &CommandConfig) -> Result<Self, Failure> {
        let file = fs_err::OpenOptions::new().create(true).append(true).open(log);
        let mut file = Failure::io(file, "cannot write the log")?;
        let passed = config.pass_env.iter().filter_map(|name| std::env::var(name).ok());
        let secrets: Vec<String> = passed.filter(|value| value.len() >= 6).collect();
        let thread = std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while matches!(output.read_until(b'\n', &mut line), Ok(count) if count > 0) {
                let written = if secrets.is_empty() {
                    file.write_all(&line)
                } else {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    let text = secrets.iter().fold(text, |text, secret| text.replace(secret, "***"));
                    file.write_all(text.as_bytes())
                };
                // The pipe is read on even where the disk is full, or the program would hang.
                if let Err(error) = written {
                    tracing::warn!(%error, "a line of the program's output was lost");
                }
                line.clear();
            }
        });
        Ok(Self { thread })
    }

    /// Waits for the last line.
    pub(super) fn finish(self) {
        _ = self.thread.join();
    }
}
