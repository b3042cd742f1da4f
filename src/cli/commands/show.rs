//! `stillhouse show RUN|STAGE|KEY`

use std::process::ExitCode;

use stillhouse_report::{Layout, run_page, stage_json, stage_page};
use stillhouse_store::{Key, Lookup, Record, Store};

use crate::args::{Format, Global, Show};
use crate::commands::runs;
use crate::error::CliError;
use crate::render;

/// Shows a run, or the newest result of a stage.
pub fn run(command: &Show, global: &Global) -> Result<ExitCode, CliError> {
    let store = Store::open_existing(&global.cache)?;
    if let Some(record) = result_of(&store, &command.what)? {
        let files = store.tree(&record.output)?.unwrap_or_default();
        match global.format {
            Format::Json => render::data(&stage_json(&record, &files).to_string()),
            Format::Text => render::data(&stage_page(&record, &files, Layout::Text)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Ok(entry) = store.find_run(&command.what) else {
        return Err(CliError::arguments(
            format!("there is no run, stage or key `{}` in {}", command.what, global.cache.display()),
            "`stillhouse runs` lists runs; a stage is named `kind.name` and must have a result",
        ));
    };
    let record = runs::record(&entry);
    match global.format {
        Format::Json => render::data(&serde_json::to_value(&record).unwrap_or_default().to_string()),
        Format::Text => render::data(&run_page(&record, Layout::Text)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The newest result of a stage name, or the result of a key (or of a beginning of one that is unique).
pub fn result_of(store: &Store, what: &str) -> Result<Option<Record>, CliError> {
    let key_like = what.len() >= 6 && what.chars().all(|c| c.is_ascii_hexdigit());
    let entries = store.records()?;
    let matching = entries.iter().rev().filter(|entry| entry.stage == what || (key_like && entry.key.to_string().starts_with(what)));
    let keys: Vec<Key> = matching.map(|entry| entry.key).collect();
    if key_like && keys.len() > 1 {
        return Err(CliError::arguments(format!("several keys begin with `{what}`"), "give more of it"));
    }
    for key in keys {
        if let Lookup::Found(record) = store.lookup(&key)? {
            return Ok(Some(record));
        }
    }
    Ok(None)
}
