//! The engine's side of a worker process: start it, pass on what it says, read its result.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use stillhouse_stage::{Cancel, Class, EventSink, Failure, Outcome, StageEvent, process};

use crate::worker::{RESULT, WorkResult};

/// How worker processes are started: the program and the arguments before the attempt's folder.
#[derive(Clone, Debug)]
pub struct WorkerProgram {
    /// This program.
    pub program: PathBuf,
    /// `["worker", "--tied"]`
    pub arguments: Vec<String>,
}

/// The process that an attempt waits for, for those who want to stop it; 0 while there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChildSlot(Arc<AtomicU32>);

impl ChildSlot {
    pub(crate) fn signal(&self, signal: i32) {
        let pid = self.0.load(Ordering::SeqCst);
        if pid != 0 {
            process::signal_group(pid, signal);
        }
    }
}

/// Runs the order in `attempt` in a worker process and waits for it.
pub(crate) fn run(
    worker: &WorkerProgram,
    attempt: &Path,
    sink: &dyn EventSink,
    slot: &ChildSlot,
    cancel: &Cancel,
) -> Result<Outcome, Failure> {
    let log = attempt.join("log");
    // The worker opens it too: both append.
    let errors = fs_err::OpenOptions::new().create(true).append(true).open(&log);
    let errors = Failure::io(errors, "cannot write the log")?;
    let mut command = Command::new(&worker.program);
    command.args(&worker.arguments).arg(attempt);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors.into_parts().0);
    // Not killed when the engine dies: a worker that finds its standard input at its end takes along what it has started,
    // which the kernel would leave running.
    let child = process::spawn_tied(&mut command, libc::SIGTERM);
    let mut child = Failure::io(child, "cannot start a worker process")?;
    slot.0.store(child.id(), Ordering::SeqCst);
    if cancel.is_cancelled() {
        // Asked to stop before anybody knew whom to ask.
        slot.signal(libc::SIGTERM);
    }
    if let Some(output) = child.stdout.take() {
        pass_on(BufReader::new(output), sink);
    }
    let status = Failure::io(child.wait(), "cannot wait for the worker");
    slot.0.store(0, Ordering::SeqCst);
    let status = status?;
    match fs_err::read_to_string(attempt.join(RESULT)).ok().and_then(|text| serde_json::from_str(&text).ok()) {
        Some(WorkResult::Made(outcome)) => Ok(outcome),
        Some(WorkResult::Failed(failure)) => Err(failure),
        None if cancel.is_cancelled() => Err(Failure::interrupted()),
        None if status.code() == Some(i32::from(Class::Environment.exit_code())) => Err(Failure::environment(format!(
            "the worker process could not write its result below {}",
            attempt.display()
        ))
        .hint("is the disk full? Free some space (`stillhouse cache gc`), then run again: what is done is kept")),
        None => {
            let failure = Failure::new(
                Class::Environment,
                format!("the worker process ended early: {}", process::describe(status)),
            );
            Err(match process::last_line(&log) {
                Some(line) => failure.hint(format!("its last line was: {line}")),
                None => failure,
            })
        }
    }
}

/// Passes on every line that is an event. One that is none (a library that prints, bytes that are no text) is passed over:
/// the pipe must be read to its end, or the worker would stop at a full one.
fn pass_on(mut output: impl BufRead, sink: &dyn EventSink) {
    let mut line = Vec::new();
    while matches!(output.read_until(b'\n', &mut line), Ok(count) if count > 0) {
        if let Ok(event) = serde_json::from_slice::<StageEvent>(&line) {
            sink.send(event);
        }
        line.clear();
    }
}
