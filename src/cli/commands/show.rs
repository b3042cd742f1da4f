//! `stillhouse show RUN|STAGE|KEY`, and a look at the rows of a dataset.

mod rows;

use std::collections::BTreeSet;
use std::process::ExitCode;

use stillhouse_data::dataset::Measured;
use stillhouse_report::{Encodings, Layout, run_json, run_page, stage_json, stage_page};
use stillhouse_spec::suggest;
use stillhouse_store::{Key, Lookup, Record, Store};

use crate::args::{Format, Global, Show};
use crate::commands::runs;
use crate::error::CliError;
use crate::render;

/// Shows a run, or the newest result of a stage.
pub fn run(command: &Show, global: &Global) -> Result<ExitCode, CliError> {
    let store = Store::open_existing(&global.cache)?;
    if rows::are_wanted(&command.rows) {
        let Some(record) = result_of(&store, &command.what)? else {
            let message = format!("there is no stage or key `{}` in {}", command.what, global.cache.display());
            return Err(CliError::arguments(message, hint(&store, &command.what)?));
        };
        return rows::show(&command.rows, &store, &record, global);
    }
    if let Some(record) = result_of(&store, &command.what)? {
        let files = store.tree(&record.output)?.unwrap_or_default();
        let measured = Measured::of(&store, &record, &files)?;
        let tried = match &measured {
            None => Encodings::Own,
            Some(Measured::By { stage, encodings }) => Encodings::Of(stage, encodings),
            Some(Measured::Nowhere) => Encodings::Unknown,
        };
        match global.format {
            Format::Json => render::data(&stage_json(&record, &files, tried).to_string()),
            Format::Text => render::data(&stage_page(&record, &files, tried, Layout::Text)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Ok(entry) = store.find_run(&command.what) else {
        let message = format!("there is no run, stage or key `{}` in {}", command.what, global.cache.display());
        return Err(CliError::arguments(message, hint(&store, &command.what)?));
    };
    let record = runs::record(&entry);
    match global.format {
        Format::Json => render::data(&run_json(&record).to_string()),
        Format::Text => render::data(&run_page(&record, Layout::Text)),
    }
    Ok(ExitCode::SUCCESS)
}

/// What to do about a name that stands for no result: the nearest that does.
pub fn hint(store: &Store, what: &str) -> Result<String, CliError> {
    let names: BTreeSet<String> = store.records()?.into_iter().map(|entry| entry.stage).collect();
    Ok(match suggest::did_you_mean(what, names.iter().map(String::as_str)) {
        Some(close) => format!("did you mean `{close}`?"),
        None => "`stillhouse runs` lists runs; a stage is named `kind.name` and must have a result".to_owned(),
    })
}

/// The newest result of a stage name, or the result of a key (or of a beginning of one that is unique).
pub fn result_of(store: &Store, what: &str) -> Result<Option<Record>, CliError> {
    let key_like = what.len() >= 6 && what.chars().all(|c| c.is_ascii_hexdigit());
    let entries = store.records()?;
    let stage = whole_name(what, entries.iter().map(|entry| entry.stage.as_str()));
    let named = |name: &str| stage.as_deref() == Some(name);
    let matching = entries
        .iter()
        .rev()
        .filter(|entry| named(&entry.stage) || (key_like && entry.key.to_string().starts_with(what)));
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

/// The one stage that a name means: written whole, or without its kind where only one kind has it.
pub fn whole_name<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: BTreeSet<&str> = names.collect();
    let plain = |name: &&&str| name.split_once('.').is_some_and(|(_, plain)| plain == what);
    match (names.get(what), names.iter().filter(plain).collect::<Vec<_>>().as_slice()) {
        (Some(whole), _) => Some((*whole).to_owned()),
        (None, [one]) => Some((**one).to_owned()),
        _ => None,
    }
}
