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
use crate::render::{event_log::EventLog, json_lines::JsonLines, live, stage_logs::StageLogs, summary::Summary};
use crate::{logging, render, session};

/// Runs an experiment.
pub fn run(command: &Run, global: &Global) -> Result<ExitCode, CliError> {
    let (experiment, report) = session::experiment(&command.experiment)?;
    let mut only = Vec::new();
    for name in &command.only {
        only.extend(why::find(&experiment, name)?);
    }
    let store = Store::open(&global.cache)?;
    store.sweep_attempts()?;
    // The run is claimed before the plan is made: what the plan finds, no garbage collection takes away.
    let run = store.create_run()?;
    let planned = session::planned(&experiment, &store, report).and_then(|(plan, report)| {
        let counts = plan.counts();
        let gpus = if counts.run + counts.maybe > 0 { devices(&command.device)? } else { Vec::new() };
        Ok((plan, report, gpus))
    });
    let (plan, report, gpus) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            // A run that never began leaves nothing behind.
            _ = fs_err::remove_dir_all(run.path());
            return Err(error);
        }
    };
    render::diagnostics::print(&report, global);
    logging::into(&run.entry().log_path())?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let options = RunOptions {
        kinds: KINDS,
        jobs: command.jobs.unwrap_or(processors).max(1),
        processors,
        keep_going: command.keep_going,
        only,
        device: if command.device == "cuda" { "cuda:0".to_owned() } else { command.device.clone() },
        gpus,
        offline: command.offline,
        worker: WorkerProgram {
            program: this_program()?,
            arguments: vec!["worker".into(), "--tied".into()],
        },
        host: host(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut subscribers: Vec<Box<dyn Subscriber>> =
        vec![Box::new(EventLog::create(&run.entry().events_path())?), Box::new(StageLogs::new(run.path()))];
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

/// This program, as it was started: a rebuild while it runs must not start workers of another version.
fn this_program() -> std::io::Result<std::path::PathBuf> {
    let running = std::path::Path::new("/proc/self/exe");
    if running.exists() { Ok(format!("/proc/{}/exe", std::process::id()).into()) } else { std::env::current_exe() }
}

fn host() -> String {
    let name = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}
