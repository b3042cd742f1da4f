//! The steps that most commands share: file → experiment → store → plan.

use std::path::Path;

use stillhouse_engine::{Experiment, Plan, files, plan, resolve};
use stillhouse_spec::{Diagnostics, SetArgument, Spec};
use stillhouse_store::Store;
use stillhouse_student::device::CudaStatus;

use crate::args;
use crate::error::CliError;
use crate::kinds::KINDS;

/// Reads and resolves a file; everything wrong with it ends the command at once. Warnings stay in the diagnostics.
pub fn experiment(arguments: &args::Experiment) -> Result<(Experiment, Diagnostics), CliError> {
    let (experiment, report) = try_experiment(&arguments.file, &arguments.set);
    match experiment {
        Some(experiment) => Ok((experiment, report)),
        None => Err(CliError::File(Box::new(report))),
    }
}

/// Reads and resolves a file, checking that the files it names are there. `None` if anything is wrong.
pub fn try_experiment(file: &Path, set: &[String]) -> (Option<Experiment>, Diagnostics) {
    let mut report = Diagnostics::default();
    let set: Vec<SetArgument> = set.iter().cloned().map(SetArgument).collect();
    let spec = Spec::read(file, &set, &mut report);
    let experiment = resolve(&spec, KINDS, &mut report);
    if let Some(experiment) = &experiment {
        files::check(experiment, &mut report);
    }
    let experiment = if report.has_errors() { None } else { experiment };
    (experiment, report)
}

/// Makes the plan of an experiment.
pub fn planned(
    experiment: &Experiment,
    store: &Store,
    mut report: Diagnostics,
) -> Result<(Plan, Diagnostics), CliError> {
    let plan = plan(experiment, store, &mut report)?;
    if report.has_errors() {
        return Err(CliError::File(Box::new(report)));
    }
    Ok((plan, report))
}

/// The GPUs there are by name, or why there are none.
pub fn gpus() -> Result<Vec<String>, String> {
    match stillhouse_student::device::cuda_status() {
        CudaStatus::Ready(count) => Ok((0..count).map(|number| format!("cuda:{number}")).collect()),
        CudaStatus::Missing(reason) => Err(reason),
    }
}
