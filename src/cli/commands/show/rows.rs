//! `stillhouse show dataset.X --rows N | --sample N | --dropped | --why ROW`

use std::process::ExitCode;

use serde_json::Value;
use stillhouse_data::dataset::{DatasetArtifact, DroppedRow, Fate, HOLDOUT, RowName, ShownRow, TRAIN};
use stillhouse_data::error::DataError;
use stillhouse_stage::{Artifact, Failure};
use stillhouse_store::{Record, Store};

use crate::args::{Format, Global, Rows};
use crate::error::CliError;
use crate::render;

/// Dropped rows on a page.
const PAGE: usize = 50;

/// Whether rows are asked for, and not the record.
pub fn are_wanted(rows: &Rows) -> bool {
    rows.rows.is_some() || rows.sample.is_some() || rows.dropped || rows.why.is_some()
}

/// Shows rows of a dataset's result.
pub fn show(rows: &Rows, store: &Store, record: &Record, global: &Global) -> Result<ExitCode, CliError> {
    if record.kind != "dataset" {
        let message = format!("{} is a `{}`: only a dataset has rows to look at", record.stage, record.kind);
        return Err(CliError::arguments(message, "name a `dataset.…`"));
    }
    let tree = store.tree(&record.output)?.ok_or_else(|| {
        Failure::environment(format!("the output of {} is gone from the store", record.stage))
            .hint("run again: it will be made again")
    })?;
    let dataset = DatasetArtifact::new(Artifact::new(record.stage.clone(), record.output, tree, store.clone()));
    let print = Printer { record, global };
    let part = if rows.holdout { HOLDOUT } else { TRAIN };
    if let Some(name) = &rows.why {
        let name = RowName::parse(name).map_err(wrong_argument)?;
        let fates = dataset.fate(&name).map_err(Failure::from)?;
        if fates.is_empty() {
            return Err(CliError::arguments(
                format!("{} neither has nor lists {name}", record.stage),
                "a source with a weight gives up rows without a line each; `show` without options says how many it gave",
            ));
        }
        fates.iter().for_each(|fate| print.fate(fate));
    } else if rows.dropped {
        let dropped = dataset.dropped().map_err(Failure::from)?;
        for row in dropped.skip(rows.skip).take(rows.rows.unwrap_or(PAGE)) {
            print.dropped(&row.map_err(Failure::from)?);
        }
    } else {
        let shown = match rows.sample {
            Some(count) => dataset.sample(part, count),
            None => dataset.page(part, rows.skip, rows.rows.unwrap_or(PAGE)),
        };
        shown.map_err(Failure::from)?.iter().for_each(|row| print.row(row));
    }
    Ok(ExitCode::SUCCESS)
}

fn wrong_argument(error: DataError) -> CliError {
    CliError::arguments(error.to_string(), error.hint().unwrap_or_default())
}

struct Printer<'a> {
    record: &'a Record,
    global: &'a Global,
}

impl Printer<'_> {
    fn fate(&self, fate: &Fate) {
        match fate {
            Fate::Kept(row) => self.row(row),
            Fate::Dropped(row) => self.dropped(row),
        }
    }

    fn row(&self, shown: &ShownRow) {
        if self.json(serde_json::to_value(shown).unwrap_or_default()) {
            return;
        }
        let ShownRow { part, place, tokens, scored_tokens, row } = shown;
        let origin = self.origin(row.source, row.line, row.prompt.as_deref(), row.sample);
        render::data(&format!("{part} {place}: {origin}; {tokens} tokens, {scored_tokens} learned"));
        for message in &row.messages {
            render::data(&indented(&message.role, &message.content));
        }
        render::data(&format!("{}\n", indented("learns", &row.completion)));
    }

    fn dropped(&self, row: &DroppedRow) {
        if self.json(serde_json::to_value(row).unwrap_or_default()) {
            return;
        }
        let origin = self.origin(row.source, row.line, row.prompt.as_deref(), row.sample);
        let detail = row.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        render::data(&format!("dropped by {}: {origin}{detail}", row.why));
    }

    /// Prints the value where JSON is wanted.
    fn json(&self, value: Value) -> bool {
        let wanted = matches!(self.global.format, Format::Json);
        if wanted {
            render::data(&value.to_string());
        }
        wanted
    }

    /// `0:17 of answers.verse, prompt 5abf… sample 2`
    fn origin(&self, source: u32, line: u64, prompt: Option<&str>, sample: u32) -> String {
        let names = self.record.provenance.get("names");
        let named = names.and_then(|names| names.get(format!("mix.{source}.answers"))?.as_str());
        let kind = self.record.metrics.pointer(&format!("/sources/{source}/kind")).and_then(|kind| kind.as_str());
        let from = named.or(kind).map(|name| format!(" of {name}")).unwrap_or_default();
        let prompt = prompt.map(|prompt| format!(", prompt {prompt} sample {sample}")).unwrap_or_default();
        format!("{source}:{line}{from}{prompt}")
    }
}

/// A text under its heading, every line set in.
fn indented(heading: &str, text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    format!("  {heading}\n{}", lines.join("\n"))
}
