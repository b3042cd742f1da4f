//! `stillhouse check FILE…`

use std::process::ExitCode;

use serde_json::json;

use crate::args::{Check, Format, Global};
use crate::error::WRONG_FILE;
use crate::{render, session};

/// Checks files and says everything that is wrong; the exit code says whether anything is.
pub fn run(command: &Check, global: &Global) -> ExitCode {
    let mut wrong = 0;
    let mut reports = Vec::new();
    for file in &command.files {
        let (experiment, report) = session::try_experiment(file, &command.set);
        wrong += usize::from(experiment.is_none());
        match global.format {
            Format::Json => reports.push(json!({
                "file": file.display().to_string(),
                "ok": experiment.is_some(),
                "stages": experiment.as_ref().map_or(0, |experiment| experiment.order.len()),
                "diagnostics": render::diagnostics::to_json(&report),
            })),
            Format::Text => {
                render::diagnostics::print(&report, global);
                if let Some(experiment) = experiment {
                    let stages = experiment.order.len();
                    render::words(&format!(
                        "{}: fine, {stages} stage{}",
                        file.display(),
                        if stages == 1 { "" } else { "s" }
                    ));
                }
            }
        }
    }
    if global.format == Format::Json {
        render::data(&serde_json::Value::from(reports).to_string());
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(WRONG_FILE) }
}
