//! `stillhouse run FILE`

use std::num::NonZeroUsize;
use std::process::ExitCode;

use stillhouse_engine::run::WorkerProgram;
use stillhouse_engine::{RunOptions, Subscriber};
use stillhouse_stage::Failure;
use stillhouse_store::{Run, Store, StoreError};

use crate::args::{self, Format, Global};
use crate::commands::why;
use crate::error::CliError;
use crate::kinds::KINDS;
use crate::render::{event_log::EventLog, json_lines::JsonLines, live, stage_logs::StageLogs, summary::Summary};
use crate::{logging, render, session};

/// Runs an experiment.
pub fn run(command: &args::Run, global: &Global) -> Result<ExitCode, CliError> {
    let device = device_name(&command.device)?;
    let (experiment, report) = session::experiment(&command.experiment)?;
    let mut only = Vec::new();
    for name in &command.only {
        only.extend(why::find(&experiment, name)?);
    }
    let store = Store::open(&global.cache)?;
    // The run is claimed before the plan is made: what the plan finds, no garbage collection takes away.
    let run = match store.sweep_attempts().and_then(|_| store.create_run()) {
        Ok(run) => Ok(run),
        Err(error @ StoreError::ReadOnly { .. }) => Err(error),
        Err(error) => return Err(error.into()),
    };
    let planned = session::planned(&experiment, &store, report).and_then(|(plan, report)| {
        let work = plan.work(&experiment.wanted(&only));
        match &run {
            Err(error) if work > 0 => Err(cannot_work(error, work)),
            _ if work > 0 => Ok((plan, report, devices(&device)?)),
            _ => Ok((plan, report, Vec::new())),
        }
    });
    let (plan, report, gpus) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            // A run that never began leaves nothing behind.
            _ = run.map(|run| fs_err::remove_dir_all(run.path()));
            return Err(error);
        }
    };
    render::diagnostics::print(&report, global);
    let run = match run {
        Ok(run) => {
            logging::into(&run.entry().log_path())?;
            Some(run)
        }
        Err(_) => {
            let place = store.root().display();
            let text =
                format!("the store at {place} cannot be written: nothing is to do, but this run is not recorded");
            render::remark("note", &text, global);
            None
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let options = RunOptions {
        kinds: KINDS,
        jobs: command.jobs.map_or(processors, NonZeroUsize::get),
        processors,
        keep_going: command.keep_going,
        only,
        device,
        gpus,
        offline: command.offline,
        worker: WorkerProgram { program: this_program()?, arguments: vec!["worker".into(), "--tied".into()] },
        host: host(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut subscribers: Vec<Box<dyn Subscriber>> = Vec::new();
    if let Some(run) = &run {
        subscribers.push(Box::new(EventLog::create(&run.entry().events_path())?));
        subscribers.push(Box::new(StageLogs::new(run.path())));
    }
    match global.format {
        Format::Json => subscribers.push(Box::new(JsonLines)),
        Format::Text => {
            subscribers.push(live::display(global));
            subscribers.push(Box::new(Summary::new(run.as_ref().map(Run::path))));
        }
    }
    let run_id = run.as_ref().map_or("", Run::id);
    let summary = stillhouse_engine::run(experiment, plan, &store, run_id, options, &mut subscribers)?;
    Ok(ExitCode::from(summary.exit_code()))
}

/// A store that cannot be written has no place for what is to be made.
fn cannot_work(error: &StoreError, work: usize) -> CliError {
    let stages = if work == 1 { "1 stage is".to_owned() } else { format!("{work} stages are") };
    let failure = Failure::environment(format!("{stages} to be made, and the store cannot be written: {error}"));
    match error.hint() {
        Some(hint) => failure.hint(hint).into(),
        None => failure.into(),
    }
}

/// A device as stages know it.
fn device_name(written: &str) -> Result<String, CliError> {
    match written {
        "auto" | "cpu" => Ok(written.to_owned()),
        "cuda" => Ok("cuda:0".to_owned()),
        _ if written.strip_prefix("cuda:").is_some_and(|number| number.parse::<u32>().is_ok()) => {
            Ok(written.to_owned())
        }
        _ => Err(CliError::arguments(format!("there is no device `{written}`"), "one of `auto`, `cpu`, `cuda:0`")),
    }
}

/// The GPUs that stages may use; a device that is not there is said before anything runs.
fn devices(wanted: &str) -> Result<Vec<String>, CliError> {
    let found = session::gpus();
    match wanted {
        "cpu" => Ok(Vec::new()),
        "auto" => Ok(found.unwrap_or_default()),
        _ => {
            let found = found.map_err(|reason| {
                CliError::from(
                    Failure::environment(format!("{wanted} cannot be used: {reason}"))
                        .hint("`--device cpu`, or `stillhouse doctor`"),
                )
            })?;
            if !found.iter().any(|gpu| gpu == wanted) {
                let message = format!("{wanted} is not there");
                return Err(Failure::environment(message).hint(format!("found: {}", found.join(", "))).into());
            }
            Ok(vec![wanted.to_owned()])
        }
    }
}

/// This program, as it was started: a rebuild while it runs must not start workers of another version.
fn this_program() -> std::io::Result<std::path::PathBuf> {
    let running = std::path::Path::new("/proc/self/exe");
    if running.exists() { Ok(format!("/proc/{}/exe", std::process::id()).into()) } else { std::env::current_exe() }
}

fn host() -> String {
    let name = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}
