//! `stillhouse run FILE`

use std::process::ExitCode;

use stillhouse_engine::run::WorkerProgram;
use stillhouse_engine::{RunOptions, Subscriber};
use stillhouse_stage::Failure;
use stillhouse_store::Store;

use crate::args::{Format, Global, Run};
use crate::commands::why;
use crate::error::CliError;
use crate::kinds::KINDS;
use crate::render::{event_log::EventLog, json_lines::JsonLines, live, summary::Summary};
use crate::{logging, render, session};

/// Runs an experiment.
pub fn run(command: &Run, global: &Global) -> Result<ExitCode, CliError> {
    let (experiment, report) = session::experiment(&command.experiment)?;
    let gpus = devices(&command.device)?;
    let only = command.only.iter().map(|name| why::find(&experiment, name)).collect::<Result<Vec<_>, _>>()?;
    let store = Store::open(&global.cache)?;
    store.sweep_attempts()?;
    let (plan, report) = session::planned(&experiment, &store, report)?;
    render::diagnostics::print(&report, global);
    let run = store.create_run()?;
    logging::into(&run.entry().log_path())?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let options = RunOptions {
        kinds: KINDS,
        jobs: command.jobs.unwrap_or(processors).max(1),
        processors,
        keep_going: command.keep_going,
        only,
        device: command.device.clone(),
        gpus,
        offline: command.offline,
        worker: WorkerProgram {
            program: std::env::current_exe()?,
            arguments: vec!["worker".into(), "--tied".into()],
        },
        host: host(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut subscribers: Vec<Box<dyn Subscriber>> = vec![Box::new(EventLog::create(&run.entry().events_path())?)];
    match global.format {
        Format::Json => subscribers.push(Box::new(JsonLines)),
        Format::Text => {
            subscribers.push(live::display(global));
            subscribers.push(Box::new(Summary::default()));
        }
    }
    let summary = stillhouse_engine::run(experiment, plan, &store, &run, options, &mut subscribers)?;
    Ok(ExitCode::from(summary.exit_code()))
}

/// The GPUs that stages may use; a device that is not there is said before anything runs.
fn devices(wanted: &str) -> Result<Vec<String>, CliError> {
    let found = session::gpus();
    match wanted {
        "cpu" => Ok(Vec::new()),
        "auto" => Ok(found.unwrap_or_default()),
        _ => {
            let wanted = if wanted == "cuda" { "cuda:0" } else { wanted };
            if !wanted.starts_with("cuda:") {
                return Err(CliError::arguments(format!("there is no device `{wanted}`"), "one of `auto`, `cpu`, `cuda:0`"));
            }
            let found = found.map_err(|reason| {
                CliError::from(Failure::environment(format!("{wanted} cannot be used: {reason}")).hint("`--device cpu`, or `stillhouse doctor`"))
            })?;
            if !found.iter().any(|gpu| gpu == wanted) {
                let message = format!("{wanted} is not there");
                return Err(Failure::environment(message).hint(format!("found: {}", found.join(", "))).into());
            }
            Ok(vec![wanted.to_owned()])
        }
    }
}

fn host() -> String {
    let name = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}
