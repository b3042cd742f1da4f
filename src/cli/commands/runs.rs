//! `stillhouse runs`

use std::process::ExitCode;

use serde_json::{Value, json};
use stillhouse_report::{Layout, RunRecord, runs_list};
use stillhouse_stage::Event;
use stillhouse_store::{RunEntry, Store};

use crate::args::{Format, Global, Runs};
use crate::error::CliError;
use crate::render;

/// Lists past runs, newest first.
pub fn run(command: &Runs, global: &Global) -> Result<ExitCode, CliError> {
    let store = Store::open_existing(&global.cache)?;
    let runs: Vec<(RunRecord, bool)> =
        store.runs()?.into_iter().take(command.limit).map(|entry| (record(&entry), entry.live)).collect();
    match global.format {
        Format::Json => {
            let list: Vec<Value> = runs
                .iter()
                .map(|(record, live)| json!({ "live": live, "run": serde_json::to_value(record).unwrap_or_default() }))
                .collect();
            render::data(&Value::from(list).to_string());
        }
        Format::Text if runs.is_empty() => render::words("no runs yet"),
        Format::Text => {
            render::data(&runs_list(runs.iter().map(|(record, live)| (record, *live)), Layout::Text));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A run's record, folded from its line of events; a line torn by a crash or a full disk is passed over.
pub fn record(entry: &RunEntry) -> RunRecord {
    let text = fs_err::read(entry.events_path()).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    let events: Vec<Event> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    stillhouse_report::fold(&events)
}
