//! Plan → events: runs what the plan says, as far as resources allow.
//!
//! One dispatcher owns all state and is the only one to change it; attempts work on threads of their own and send
//! messages. Every event goes, in order, through the same subscribers: log, live display, JSON lines, fold.

mod attempt;
mod dispatcher;
mod families;
mod resources;
mod worker_process;

use stillhouse_stage::{Class, Event, Failure, Kind, process};
use stillhouse_store::Store;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::experiment::{Experiment, StageId};
use crate::plan::Plan;
use dispatcher::{Dispatcher, Work};
pub use worker_process::WorkerProgram;

/// Takes events; one subscriber a file.
pub trait Subscriber {
    /// Takes one event.
    fn on(&mut self, event: &Event);
}

/// How to run: nothing here changes a result.
#[derive(Clone)]
pub struct RunOptions {
    /// The kinds there are.
    pub kinds: &'static [&'static dyn Kind],
    /// Stages that compute at the same time.
    pub jobs: usize,
    /// Processors that they share.
    pub processors: usize,
    /// Go on with what does not depend on a failed stage.
    pub keep_going: bool,
    /// Only these stages and what they need; all when empty.
    pub only: Vec<StageId>,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// GPUs that stages may use, one stage each.
    pub gpus: Vec<String>,
    /// Never use the network.
    pub offline: bool,
    /// How worker processes are started.
    pub worker: WorkerProgram,
    /// The name of this machine, for leases and provenance.
    pub host: String,
    /// This program's version.
    pub version: String,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunSummary {
    /// Stages made.
    pub built: usize,
    /// Stages that were there.
    pub reused: usize,
    /// Stages continued.
    pub resumed: usize,
    /// Stages that failed.
    pub failed: usize,
    /// Stages not tried.
    pub skipped: usize,
    /// Wall time.
    pub seconds: f64,
    /// Whether the user stopped it.
    pub interrupted: bool,
    /// The class of the failure with the highest exit code.
    pub worst: Option<Class>,
}

impl RunSummary {
    /// The exit code (documented API).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.interrupted, self.worst) {
            (true, _) => Class::Interrupted.exit_code(),
            (false, Some(class)) => class.exit_code(),
            (false, None) => 0,
        }
    }
}

/// Runs a plan to its end, or to where it cannot go on. `run_id` names the run in events, records and leases.
///
/// # Errors
/// Only what prevents any run: no threads, no signals. A stage that fails is part of the summary.
pub fn run(
    experiment: Experiment,
    plan: Plan,
    store: &Store,
    run_id: &str,
    options: RunOptions,
    subscribers: &mut [Box<dyn Subscriber>],
) -> Result<RunSummary, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1024).build();
    let runtime = Failure::io(runtime, "cannot start")?;
    let history = store.histories()?;
    let summary = runtime.block_on(async move {
        let mut interrupts = Failure::io(signal(SignalKind::interrupt()), "cannot listen for ctrl-c")?;
        let mut terminations = Failure::io(signal(SignalKind::terminate()), "cannot listen for signals")?;
        let mut hangups = hangups()?;
        let (sender, mut messages) = tokio::sync::mpsc::unbounded_channel();
        let work = Work { experiment, plan, history };
        let mut dispatcher = Dispatcher::new(work, store.clone(), run_id, options, sender, subscribers);
        dispatcher.begin();
        loop {
            dispatcher.start_ready();
            if dispatcher.is_done() {
                return Ok(dispatcher.finish());
            }
            tokio::select! {
                Some(message) = messages.recv() => dispatcher.on_message(message),
                _ = interrupts.recv() => dispatcher.interrupt(),
                _ = terminations.recv() => dispatcher.interrupt(),
                () = next(&mut hangups) => dispatcher.hang_up(),
            }
        }
    });
    // Attempts that were given up are not waited for: the process is about to end.
    runtime.shutdown_background();
    summary
}

/// Tells when the terminal is closed; nothing where the run is meant to outlive it.
pub(crate) fn hangups() -> Result<Option<Signal>, Failure> {
    if process::ignores_hangup() {
        return Ok(None);
    }
    Failure::io(signal(SignalKind::hangup()), "cannot listen for signals").map(Some)
}

/// The next signal; never where nobody listens.
pub(crate) async fn next(signals: &mut Option<Signal>) {
    match signals {
        Some(signals) => _ = signals.recv().await,
        None => std::future::pending().await,
    }
}

/// Now, to the second: RFC 3339, UTC.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
