//! `stillhouse plan FILE`

use std::process::ExitCode;

use stillhouse_store::Store;

use crate::args::{Format, Global, Plan};
use crate::error::CliError;
use crate::{render, session};

/// The exit code that says there is work.
const WORK: u8 = 2;

/// Shows what a run would do.
pub fn run(command: &Plan, global: &Global) -> Result<ExitCode, CliError> {
    let (experiment, report) = session::experiment(&command.experiment)?;
    let store = Store::open(&global.cache)?;
    let (plan, report) = session::planned(&experiment, &store, report)?;
    render::diagnostics::print(&report, global);
    match global.format {
        Format::Json => render::data(&plan.to_json(&experiment, &store)?.to_string()),
        Format::Text => render::data(&render::plan::text(&plan, &experiment, &store, command.all)?),
    }
    let counts = plan.counts();
    let work = counts.run + counts.maybe > 0;
    Ok(if command.exit_code && work { ExitCode::from(WORK) } else { ExitCode::SUCCESS })
}
