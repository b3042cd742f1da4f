//! The worker's side of a work order: one process, one stage, one `result.json`.
//!
//! Protocol: the engine writes `order.json` into the attempt's folder and starts `stillhouse worker FOLDER`. The worker writes
//! one JSON event a line to its standard output and, as the last thing, `result.json` (atomically). What goes to
//! standard error is the stage's log. SIGTERM, and SIGHUP, ask it to reach a good point and stop. With `--tied` it ends when its standard
//! input does: so it does not outlive the engine that started it, however that one ended.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stillhouse_stage::{Cancel, Context, EventSink, Failure, Kind, Outcome, StageEvent, WorkOrder, process};
use stillhouse_store::Store;
use tokio::signal::unix::{SignalKind, signal};

use crate::run::{hangups, next};

/// The file with the order.
pub const ORDER: &str = "order.json";
/// The file with the result.
pub const RESULT: &str = "result.json";

/// How a stage ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkResult {
    /// Its output is in the attempt's folder.
    Made(Outcome),
    /// It is not.
    Failed(Failure),
}

/// Does the order in an attempt's folder. The answer only says whether a result could be written.
///
/// # Errors
/// No order, or nowhere to write the result.
pub fn work(attempt: &Path, tied: bool, kinds: &[&'static dyn Kind]) -> Result<(), Failure> {
    let cancel = Cancel::default();
    stop_on_signals(&cancel)?;
    if tied {
        end_with_standard_input();
    }
    let result = match do_order(attempt, cancel, kinds) {
        Ok(outcome) => WorkResult::Made(outcome),
        Err(failure) => WorkResult::Failed(failure),
    };
    write_result(attempt, &result)
}

fn do_order(attempt: &Path, cancel: Cancel, kinds: &[&'static dyn Kind]) -> Result<Outcome, Failure> {
    let text = Failure::io(fs_err::read_to_string(attempt.join(ORDER)), "cannot read the work order")?;
    let order: WorkOrder = serde_json::from_str(&text)
        .map_err(|error| Failure::internal(format!("the work order in {} is damaged: {error}", attempt.display())))?;
    let store = Store::open(&order.store)?;
    execute(&Context::new(order, store, Arc::new(StandardOutput), cancel), kinds)
}

/// Runs the stage of a context; a panic becomes an internal failure.
pub(crate) fn execute(context: &Context, kinds: &[&'static dyn Kind]) -> Result<Outcome, Failure> {
    let name = &context.order().kind;
    let kind = kinds.iter().find(|kind| kind.name() == name).and_then(|kind| kind.as_stage());
    let kind = kind.ok_or_else(|| Failure::internal(format!("this program knows no stage kind `{name}`")))?;
    for folder in [context.out(), context.scratch()] {
        Failure::io(fs_err::create_dir_all(&folder), "cannot make the attempt's folders")?;
    }
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kind.run(context)));
    ran.unwrap_or_else(|panic| {
        let words =
            panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Failure::internal(format!("a fault of stillhouse: {}", words.unwrap_or("it panicked")))
            .hint("please report it with the stage's log; nothing half-made was kept"))
    })
}

/// Writes the order into its attempt's folder.
pub(crate) fn write_order(order: &WorkOrder) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(order).map_err(|error| Failure::internal(error.to_string()))?;
    Failure::io(fs_err::write(order.attempt.join(ORDER), text), "cannot write the work order")
}

fn write_result(attempt: &Path, result: &WorkResult) -> Result<(), Failure> {
    let text = serde_json::to_string(result).map_err(|error| Failure::internal(error.to_string()))?;
    let unfinished = attempt.join("result.json.part");
    Failure::io(fs_err::write(&unfinished, text), "cannot write the result")?;
    Failure::io(fs_err::rename(&unfinished, attempt.join(RESULT)), "cannot write the result")
}

struct StandardOutput;

impl EventSink for StandardOutput {
    fn send(&self, event: StageEvent) {
        if let Ok(mut line) = serde_json::to_string(&event) {
            line.push('\n');
            // An engine that is gone hears nothing; the end of standard input ends us.
            _ = std::io::stdout().lock().write_all(line.as_bytes());
        }
    }
}

fn stop_on_signals(cancel: &Cancel) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = Failure::io(runtime, "cannot listen for signals")?;
    let cancel = cancel.clone();
    // Listening begins here, not on the thread: a signal that comes early must not kill.
    let listening = runtime.block_on(async { (signal(SignalKind::terminate()), hangups()) });
    let mut terminate = Failure::io(listening.0, "cannot listen for signals")?;
    let mut hangups = listening.1?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => cancel.cancel(),
                    () = next(&mut hangups) => cancel.cancel(),
                }
            }
        });
    });
    Ok(())
}

fn end_with_standard_input() {
    std::thread::spawn(|| {
        let mut nothing = [0u8; 64];
        let mut input = std::io::stdin().lock();
        while matches!(input.read(&mut nothing), Ok(count) if count > 0) {}
        tracing::info!("the engine is gone: stopping");
        process::kill_groups();
        std::process::exit(70);
    });
}
