//! The engine's side of a worker process: start it, pass on what it says, read its result. One that runs out of memory is
//! started once more where it had noted that it can do less at once.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use stillhouse_stage::{AtRisk, Cancel, Class, EventSink, Failure, Outcome, StageEvent, WorkOrder, process};

use crate::worker::{self, RESULT, WorkResult};

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

/// Why there is no outcome.
enum Ended {
    /// It failed and said so, or nothing is known that would help.
    Failed(Failure),
    /// It ran out of memory, as far as can be told from outside: how it ended.
    OutOfMemory(String),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Runs an order that lies in its attempt's folder in a worker process and waits for it. Should the process run out of
/// memory while less at once is possible, it is started once more and told so; what it kept in the store is not done again.
pub(crate) fn run(
    worker: &WorkerProgram,
    order: WorkOrder,
    sink: &dyn EventSink,
    slot: &ChildSlot,
    cancel: &Cancel,
) -> Result<Outcome, Failure> {
    let attempt = order.attempt.clone();
    let how = match once(worker, &attempt, sink, slot, cancel) {
        Ok(outcome) => return Ok(outcome),
        Err(Ended::Failed(failure)) => return Err(failure),
        Err(Ended::OutOfMemory(how)) => how,
    };
    let risk = AtRisk::noted(&attempt);
    let Some(risk) = risk.as_ref().filter(|risk| risk.less_is_possible && !order.less_at_once) else {
        return Err(out_of_memory(&attempt, risk.as_ref(), &how));
    };
    let message = format!("out of memory {}: {how}; it is tried once more with less at once", risk.doing);
    sink.send(StageEvent::Warning { message });
    clear(&attempt)?;
    worker::write_order(&WorkOrder { less_at_once: true, ..order })?;
    once(worker, &attempt, sink, slot, cancel).map_err(|ended| match ended {
        Ended::Failed(failure) => failure,
        Ended::OutOfMemory(how) => out_of_memory(&attempt, AtRisk::noted(&attempt).as_ref(), &how),
    })
}

/// The failure of a stage whose worker had no room.
fn out_of_memory(attempt: &Path, risk: Option<&AtRisk>, how: &str) -> Failure {
    let Some(AtRisk { doing, hint, .. }) = risk else {
        let failure = Failure::environment(format!("the worker process ended early: {how}"));
        return with_last_line(failure, &attempt.join("log"));
    };
    Failure::environment(format!("out of memory {doing}: {how}")).hint(hint)
}

fn with_last_line(failure: Failure, log: &Path) -> Failure {
    match process::last_line(log) {
        Some(line) => failure.hint(format!("its last line was: {line}")),
        None => failure,
    }
}

/// Removes what a worker left half-made, but for its log.
fn clear(attempt: &Path) -> Result<(), Failure> {
    AtRisk::forget(attempt);
    for folder in ["out", "scratch"].map(|name| attempt.join(name)) {
        if folder.exists() {
            Failure::io(fs_err::remove_dir_all(&folder), "cannot clear the attempt's folder")?;
        }
    }
    Ok(())
}

/// Starts the process and waits for it.
fn once(
    worker: &WorkerProgram,
    attempt: &Path,
    sink: &dyn EventSink,
    slot: &ChildSlot,
    cancel: &Cancel,
) -> Result<Outcome, Ended> {
    if cancel.is_cancelled() {
        return Err(Failure::interrupted().into());
    }
    let log = attempt.join("log");
    let logged = fs_err::metadata(&log).map_or(0, |meta| meta.len());
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
        Some(WorkResult::Failed(failure)) => Err(failure.into()),
        None if cancel.is_cancelled() => Err(Failure::interrupted().into()),
        None if status.code() == Some(i32::from(Class::Environment.exit_code())) => Err(Failure::environment(format!(
            "the worker process could not write its result below {}",
            attempt.display()
        ))
        .hint("is the disk full? Free some space (`stillhouse cache gc`), then run again: what is done is kept")
        .into()),
        None => Err(match for_want_of_memory(status, &log, logged) {
            Some(how) => Ended::OutOfMemory(how),
            None => {
                let message = format!("the worker process ended early: {}", process::describe(status));
                with_last_line(Failure::environment(message), &log).into()
            }
        }),
    }
}

/// What programs write before they abort because no memory was given to them: Rust's own words, then C++'s.
const NO_ROOM: &[&str] = &["memory allocation of", "bad_alloc", "out of memory", "cannot allocate memory"];
/// What is read of a log to find them.
const LOG_TAIL: u64 = 64 << 10;

/// How a process ended that most likely ran out of memory; none where it ended otherwise. Nobody here sends SIGKILL without
/// having asked to stop before, and it is how the system ends a process that takes too much. An allocation that fails aborts
/// the process, after a word about it in its log, which began at `logged` bytes.
fn for_want_of_memory(status: ExitStatus, log: &Path, logged: u64) -> Option<String> {
    match status.signal()? {
        libc::SIGKILL => Some(process::describe(status)),
        libc::SIGABRT => {
            let mut file = fs_err::File::open(log).ok()?;
            let length = file.metadata().ok()?.len();
            file.seek(SeekFrom::Start(logged.max(length.saturating_sub(LOG_TAIL)))).ok()?;
            let mut said = Vec::new();
            file.read_to_end(&mut said).ok()?;
            let said = String::from_utf8_lossy(&said);
            let line = said.lines().rev().find(|line| {
                let line = line.to_lowercase();
                NO_ROOM.iter().any(|words| line.contains(words))
            });
            line.map(|line| line.trim().chars().take(300).collect())
        }
        _ => None,
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

#[cfg(test)]
mod tests;
